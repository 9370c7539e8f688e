"""The one writer of a volume's shared trees: changes that come at the same time share a commit (spec 03 §7).

Every change is a transaction.  One that is refused has changed nothing; one that fails in the middle is undone, and
those it would have shared the commit with are made again without it.  So no change needs to undo anything itself, and
no super block ever refers to half of one.
"""

from __future__ import annotations

import errno
import secrets
import traceback
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Generic, TypeVar

import trio

from format.superblock import SuperBlock
from scoutfs.errors import ScoutfsError
from scoutfs.metadata.blocks import BlockReader
from scoutfs.metadata.commit import SequenceNumbers, ServerVolume
from scoutfs.metadata.fill_targets import FillTargets
from scoutfs.server.items import Refused
from scoutfs.storage.volume import Volume

CHANGES_OF_COMMIT = 256
"""Changes that share one commit at most."""

_Result = TypeVar("_Result")
RunInThread = Callable[..., Awaitable[Any]]
"""Calls a function with arguments in a thread, and waits for its end even if cancelled."""


class VolumeLost(ScoutfsError):
    """It is not known what the super block on the device refers to: nothing may be written any more."""


class Change(Generic[_Result]):
    """A function of the volume, and what came of it: `error`, or `result` that is committed.

    It may be called more than once, on a volume without its earlier effects, and must not do anything else.
    """

    def __init__(self, make: Callable[[ServerVolume], _Result]) -> None:
        self.make = make
        self.result: _Result | None = None
        self.error: ScoutfsError | None = None


class Transactions:
    """A `ServerVolume` of which changes are made whole or not at all.  Blocks; for one thread at a time.

    `clients` tells how many mounts are served, `new_seq` returns random numbers of 64 bits.  Raises VolumeError,
    DeviceError and DamagedBlock if the volume cannot be read.
    """

    def __init__(
        self,
        volume: Volume,
        clients: Callable[[], int] = lambda: 1,
        new_seq: Callable[[], int] = lambda: secrets.randbits(64),
    ) -> None:
        self._volume, self._clients, self._new_seq = volume, clients, new_seq
        self.reader = BlockReader(volume.meta, volume.fsid)
        self.seqs = SequenceNumbers()
        self.current = self._opened(volume.read_super())

    @property
    def stable(self) -> SuperBlock:
        """The super block that was written last: what readers are told of.  Any thread may ask."""
        return self.current.stable

    def run(self, changes: Iterable[Change[Any]]) -> None:
        """Make changes and commit them, in as few commits as there is room for.  Raises VolumeLost."""
        waiting = deque(changes)
        while waiting:
            made: list[Change[Any]] = []
            self._make_room()
            while waiting and (not made or self._has_room()) and len(made) < CHANGES_OF_COMMIT:
                change = waiting.popleft()
                try:
                    change.result = change.make(self.current)
                except Refused as error:
                    change.error = error
                except ScoutfsError as error:
                    change.error = error
                    self._reopen(self.stable)
                    waiting.extendleft(reversed(made))
                    made = []
                else:
                    made.append(change)
            try:
                self._commit()
            except VolumeLost:
                raise
            except ScoutfsError as error:
                for change in made:
                    change.error = error

    def _has_room(self) -> bool:
        allocator = self.current.allocator
        return min(allocator.remaining_avail, allocator.remaining_freed) >= self.current.targets.of_change

    def _make_room(self) -> None:
        """Commit without a change, if that is needed to have the other lists of blocks, which are full."""
        if self._has_room():
            return
        try:
            self._commit(wanted=True)
        except VolumeLost:
            raise
        except ScoutfsError:
            return  # the change shows whether what there is will do, or fails with a better reason

    def _commit(self, *, wanted: bool = False) -> None:
        """Commit what has changed; raises ScoutfsError if all of that is undone, VolumeLost if it is not known."""
        if not wanted and not self.current.is_changed:
            return
        before = self.current.stable.raw.hdr.seq
        try:
            self.current.commit(self._clients())
        except ScoutfsError as failure:
            found = self._found(failure)
            self._reopen(found)
            if found.raw.hdr.seq == before:
                raise

    def _found(self, failure: ScoutfsError) -> SuperBlock:
        """Return the super block that the device has after a commit has failed: the old one or the new one."""
        try:
            self._volume.meta.flush()
            found = self._volume.read_super()
        except ScoutfsError as error:
            text = f"a commit failed, and the super block cannot be read: {failure}; {error}"
            raise VolumeLost(text, failure.errno) from error
        if found.raw.hdr.seq not in (self.stable.raw.hdr.seq, self.stable.raw.hdr.seq + 1):
            text = f"a commit failed, and another server has written the super block: {failure}"
            raise VolumeLost(text, failure.errno) from failure
        return found

    def _reopen(self, super_block: SuperBlock) -> None:
        """Undo what is not in `super_block`; numbers that were given out are not given out again."""
        self.current = self._opened(super_block)

    def _opened(self, super_block: SuperBlock) -> ServerVolume:
        targets = FillTargets.of_volume(super_block.total_meta_blocks, super_block.total_data_blocks)
        return ServerVolume(self.reader, super_block, self._new_seq, targets, self.seqs)


class CommittedVolume:
    """`Transactions` for the tasks of one loop: the work is done in a thread, and one commit serves all who wait."""

    def __init__(self, transactions: Transactions, run_in_thread: RunInThread = trio.to_thread.run_sync) -> None:
        self._transactions = transactions
        self._run_in_thread = run_in_thread
        self._waiting: list[tuple[Change[Any], trio.Event]] = []
        self._wanted = trio.Event()

    @property
    def stable(self) -> SuperBlock:
        """The super block that was written last."""
        return self._transactions.stable

    @property
    def seqs(self) -> SequenceNumbers:
        """The counter of sequence numbers."""
        return self._transactions.seqs

    @property
    def reader(self) -> BlockReader:
        """For changes only: what reads the blocks."""
        return self._transactions.reader

    async def change(self, make: Callable[[ServerVolume], _Result]) -> _Result:
        """Return what `make` returns once everything that it has changed is on stable storage; see `Change`.

        Raises what `make` raises, and what a failing commit does: then nothing has changed.  Cancelled, it may or may
        not have.
        """
        change, done = Change(make), trio.Event()
        self._waiting.append((change, done))
        self._wanted.set()
        await done.wait()
        if change.error is not None:
            raise change.error
        return change.result  # type: ignore[return-value]

    async def run(self) -> None:
        """Serve `change` until cancelled: a commit that has begun ends first.

        Raises VolumeLost, also for a mistake in the program: what has been changed then must not be committed.
        """
        while True:
            await self._wanted.wait()
            self._wanted = trio.Event()
            waiting, self._waiting = self._waiting, []
            if waiting:
                try:
                    await self._run_in_thread(self._transactions.run, [change for change, _ in waiting])
                except Exception as error:
                    if isinstance(error, ScoutfsError):
                        raise
                    frame = traceback.extract_tb(error.__traceback__)[-1]
                    place = f"{frame.filename}:{frame.lineno} {frame.name}"
                    text = f"internal error: {type(error).__name__}: {error}, in {place}"
                    raise VolumeLost(text, errno.EIO) from error
            for _, done in waiting:
                done.set()
