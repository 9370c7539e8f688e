"""What mounts ask of the volume: each command's payload, its changes, its answer (spec 03 §4, §8)."""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeVar

import trio

from format.logs import LogMergeComplete, LogTrees
from format.net import Command
from format.payloads import NetCount, NetResizeDevices, NetSeq
from format.srch import SrchCompact
from format.superblock import VolumeOptions
from scoutfs.metadata.commit import ServerVolume
from scoutfs.network.session import SessionError
from scoutfs.server import compaction, inode_numbers, log_merge, merge_splicing, volume_options
from scoutfs.server.committed_volume import CommittedVolume
from scoutfs.server.items import Refused
from scoutfs.server.log_trees import commit_transaction, drain_freed_data
from scoutfs.server.merge_requests import AGAIN, get_log_merge
from scoutfs.server.mounted_clients import RecordedMount, is_recorded, record
from scoutfs.server.reclaim import reclaim
from scoutfs.server.stable_seq import stable_seq
from scoutfs.server.transactions import Next, Opened, get_log_trees

MERGE_WAIT_DEFAULT_MS = 500
"""How long a mount waits for its next transaction so that all others can commit theirs, and a merge begin."""

_FIRST_WAIT, _LONGEST_WAIT = 0.005, 0.1
_CLOSES = frozenset({Command.GET_LOG_MERGE, Command.COMMIT_LOG_MERGE})
"""Commands whose payload, if it has the wrong length, breaks the connection."""

Handler = Callable[[int, Any], Awaitable[bytes]]

_Result = TypeVar("_Result")


class Requests:
    """The commands that read or change the volume.

    `clients` tells how many mounts are served, `sync` asks a mount to commit, `data_size` is the size of the data
    device in bytes.  `merge_wait_ms` tells how long a mount waits for the others when a merge is to begin.
    """

    def __init__(
        self,
        volume: CommittedVolume,
        clients: Callable[[], int],
        sync: Callable[[int], None],
        data_size: int,
        merge_wait_ms: Callable[[], int] = lambda: MERGE_WAIT_DEFAULT_MS,
    ) -> None:
        self._merge_wait_ms = merge_wait_ms
        self.recovered = trio.Event()
        """No mount can have a lock that this server has not heard of: transactions get greater seqs than all had."""
        self._volume = volume
        self._clients, self._sync = clients, sync
        self._data_size = data_size
        self._synced_seq = 0
        self._merged = trio.Event()
        self._merged.set()
        self._handlers: dict[Command, tuple[Any, Handler]] = {
            Command.ALLOC_INODES: (NetCount, self._alloc_inodes),
            Command.GET_LOG_TREES: (None, self._get_log_trees),
            Command.COMMIT_LOG_TREES: (LogTrees, self._commit_log_trees),
            Command.GET_LAST_SEQ: (None, self._get_last_seq),
            Command.SRCH_GET_COMPACT: (None, self._get_compaction),
            Command.SRCH_COMMIT_COMPACT: (SrchCompact, self._commit_compaction),
            Command.GET_LOG_MERGE: (None, self._get_log_merge),
            Command.COMMIT_LOG_MERGE: (LogMergeComplete, self._commit_log_merge),
            Command.GET_VOLOPT: (None, self._get_options),
            Command.SET_VOLOPT: (VolumeOptions, self._set_options),
            Command.CLEAR_VOLOPT: (VolumeOptions, self._clear_options),
            Command.RESIZE_DEVICES: (NetResizeDevices, self._resize),
        }

    def serves(self, command: Command) -> bool:
        """Whether `answer` knows the command."""
        return command in self._handlers

    async def answer(self, rid: int, command: Command, payload: bytes) -> bytes:
        """Return the payload of the answer; what it tells of is on stable storage.

        Raises ScoutfsError with the errno of an answer that is an error, SessionError if the connection is to be
        closed.
        """
        declaration, handler = self._handlers[command]
        size = 0 if declaration is None else declaration.sizeof()
        if len(payload) != size:
            text = f"{command.name} with {len(payload)} bytes of payload, expected {size}"
            if command in _CLOSES:
                raise SessionError(text)
            raise Refused(text, errno.EINVAL)
        return await handler(rid, None if declaration is None else declaration.parse(payload))

    async def record(self, mount: RecordedMount) -> None:
        """Record a mount that greets for the first time."""
        await self._volume.change(partial(record, mount=mount))

    async def is_recorded(self, rid: int) -> bool:
        """Whether the volume records the mount."""
        return await self._volume.change(partial(is_recorded, rid=rid))

    async def reclaim(self, rid: int) -> None:
        """Take everything back that a mount had which cannot write any more."""
        while not await self._volume.change(partial(reclaim, rid=rid)):
            pass

    async def free_merged_trees(self) -> None:
        """Free the trees that merges leave behind, until cancelled.  Raises ScoutfsError."""
        while True:
            await self._merged.wait()
            self._merged = trio.Event()
            while not await self._volume.change(merge_splicing.free_merged):
                pass

    async def _change(self, rid: int, make: Callable[[ServerVolume], _Result]) -> _Result:
        """Make a change that gives something to a mount: one that has left meanwhile, or is fenced, gets nothing."""

        def checked(volume: ServerVolume) -> _Result:
            if not is_recorded(volume, rid):
                raise Refused(f"mount {rid:016x} is not mounted any more", errno.EIO)
            return make(volume)

        return await self._volume.change(checked)

    # -- commands ----------------------------------------------------------------------------------------------------

    async def _alloc_inodes(self, rid: int, wanted: Any) -> bytes:
        return await self._change(rid, partial(inode_numbers.allocate_inodes, count=wanted.count))

    async def _get_log_trees(self, rid: int, payload: None) -> bytes:
        await self.recovered.wait()
        deadline = trio.current_time() + self._merge_wait_ms() / 1000
        pause = _FIRST_WAIT
        while True:
            patient = trio.current_time() < deadline
            opened = await self._change(rid, partial(self._step, rid, patient))
            if opened.active:
                self._ask_to_commit(opened)
            if opened.next is Next.ANSWER:
                break
            if opened.next is Next.WAIT:
                await trio.sleep(pause)
                pause = min(pause * 1.5, _LONGEST_WAIT)
        item, done = opened.item, False
        while not done:
            item, done = await self._change(rid, partial(drain_freed_data, opened=item))
        return item

    def _step(self, rid: int, patient: bool, volume: ServerVolume) -> Opened:
        return get_log_trees(volume, rid, self._clients(), patient=patient)

    def _ask_to_commit(self, opened: Opened) -> None:
        for rid, seq in opened.active:
            if seq > self._synced_seq:
                self._sync(rid)
        self._synced_seq = self._volume.seqs.last

    async def _commit_log_trees(self, rid: int, trees: Any) -> bytes:
        # What was read is changed: each time that it is made, the change needs one of its own.
        await self._volume.change(lambda volume: commit_transaction(volume, rid, LogTrees.parse(LogTrees.build(trees))))
        return b""

    async def _get_last_seq(self, rid: int, payload: None) -> bytes:
        return NetSeq.build({"seq": await self._volume.change(stable_seq)})

    async def _get_compaction(self, rid: int, payload: None) -> bytes:
        return await self._change(rid, partial(compaction.get_compaction, rid=rid))

    async def _commit_compaction(self, rid: int, result: Any) -> bytes:
        build, parse = SrchCompact.build, SrchCompact.parse
        await self._volume.change(lambda volume: compaction.commit_compaction(volume, rid, parse(build(result))))
        return b""

    async def _get_log_merge(self, rid: int, payload: None) -> bytes:
        while (request := await self._change(rid, partial(get_log_merge, rid=rid))) is AGAIN:
            self._merged.set()
        if request is None:
            raise Refused("all parts of the merge are given out", errno.ENOENT)
        return request

    async def _commit_log_merge(self, rid: int, completed: Any) -> bytes:
        await self._volume.change(partial(log_merge.complete, rid=rid, completed=completed))
        return b""

    async def _get_options(self, rid: int, payload: None) -> bytes:
        return await self._volume.change(volume_options.get_options)

    async def _set_options(self, rid: int, wanted: Any) -> bytes:
        await self._volume.change(partial(volume_options.set_options, wanted=wanted))
        return b""

    async def _clear_options(self, rid: int, wanted: Any) -> bytes:
        await self._volume.change(partial(volume_options.clear_options, wanted=wanted))
        return b""

    async def _resize(self, rid: int, wanted: Any) -> bytes:
        meta_blocks, data_blocks = wanted.new_total_meta_blocks, wanted.new_total_data_blocks
        await self._volume.change(
            lambda volume: volume_options.resize(volume, meta_blocks, data_blocks, self._data_size)
        )
        return b""
