"""What the kernel knows of inodes, how long it may, and how it is made to forget (spec 05 §10.5 to §10.9).

While a lock is held for reading the kernel may keep attributes, names and pages of what it covers.  They end by
notifications, not by time.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from itertools import islice
from typing import TypeVar

import trio

from format.keys import Zone
from format.payloads import LockMode
from format.superblock import ROOT_INO
from mount.notifications import Notifications
from mount.volume_client import Held, LosingLock, VolumeClient
from scoutfs.files.items import key_fields
from scoutfs.files.store import LockRequest, inode_request
from scoutfs.metadata.lock_ranges import LOCK_GROUP
from scoutfs.network.locks import may_read, serves

KEPT = 300.0
"""Seconds that the kernel may keep what is true as long as a lock is held: it is told when that ends."""
CONTENDED = 10.0
"""Seconds after the loss of a lock for which it counts as contended: rules are stricter, and cost requests."""
CONSUMED = 1.0
"""Seconds in which a caller has taken an answer that is written."""
FOLLOW_UPS = (0.005, 0.05, 0.5)
"""Seconds after a loss at which the kernel is told again of what it may not have known yet."""
KNOWN_MAX, DROPPED_AT_ONCE = 300_000, 20_000
"""Inodes that the kernel should know at most, for the memory that each takes here, and how many it drops then."""
THREADS = 64
"""Notifications at most that wait at the same time."""
PATIENCE = 0.002
"""Seconds that dropping pages may take before requests that wait for the lock are let through."""

_Result = TypeVar("_Result")


class KnownInode:
    """An inode that the kernel knows, or that is open.

    `unlinked`: it had no name when it was seen last.  `writers` are openings for reading and writing.  `reading` and
    `writing` are bytes, from start to end, that requests wait with.
    """

    __slots__ = (
        "kept",
        "lookups",
        "opens",
        "page_end",
        "page_start",
        "proved",
        "reading",
        "unlinked",
        "writers",
        "writing",
    )

    def __init__(self) -> None:
        self.lookups = self.opens = self.writers = 0
        self.unlinked = self.kept = self.proved = False
        self.page_start = self.page_end = 0
        self.reading: tuple[tuple[int, int], ...] = ()
        self.writing: tuple[tuple[int, int], ...] = ()

    def add_pages(self, start: int, end: int) -> None:
        """Note that the kernel may have these bytes."""
        if self.page_start == self.page_end:
            self.page_start, self.page_end = start, end
        else:
            self.page_start, self.page_end = min(self.page_start, start), max(self.page_end, end)

    def take_pages(self, *, written: bool) -> list[tuple[int, int]]:
        """Return (start, length) of the bytes that the kernel may have, but for pages that requests wait with.

        `written`: requests that write can be let through.  Then their pages are not left out: those of a mapping that
        was written to are in the kernel.
        """
        at, end = self.page_start, self.page_end
        self.page_start = self.page_end = 0
        pieces = []
        for start, stop in sorted(self.reading if written else self.reading + self.writing):
            if at < min(start, end):
                pieces.append((at, min(start, end) - at))
            at = max(at, stop)
        if at < end:
            pieces.append((at, end - at))
        return pieces


class _Group:
    """What was answered of inodes that have a lock in common."""

    __slots__ = ("admitted", "early_at", "losing", "lost_at", "names")

    def __init__(self) -> None:
        self.lost_at = self.early_at = float("-inf")
        self.names = False
        self.losing: LosingLock | None = None
        self.admitted = 0


class KernelCache:
    """The inodes that the kernel knows.  To be used in one event loop."""

    def __init__(self, client: VolumeClient, notifications: Notifications) -> None:
        self._client, self._notifications = client, notifications
        self._inodes: dict[int, KnownInode] = {}
        self._groups: dict[int, _Group] = {}
        self._follow_ups: list[tuple[float, frozenset[int]]] = []
        self._unused: list[int] = []
        self._outdated: list[tuple[int, int, int]] = []
        self._drop_above = KNOWN_MAX
        # a notification that waits must not keep those of other locks from being sent
        self._threads = trio.CapacityLimiter(THREADS)
        self._changed = trio.Event()
        self._woken = trio.Event()
        client.serve_kernel(self)
        self.remember(ROOT_INO)

    # -- what the kernel knows -----------------------------------------------------------------------------------------

    def known(self, ino: int) -> KnownInode:
        """Return what is known of an inode that the kernel knows."""
        found = self._inodes.get(ino)
        if found is None:
            found = self._inodes[ino] = KnownInode()
            self._client.keep_inode(ino)
            if len(self._inodes) > self._drop_above:
                self._drop_oldest()
        return found

    def remember(self, ino: int) -> KnownInode:
        """Note that an answer tells the kernel of an inode: no mount may delete it.  Called under its lock."""
        found = self.known(ino)
        found.lookups += 1
        return found

    def forget(self, ino: int, count: int) -> None:
        """Note that the kernel forgets `count` answers."""
        found = self._inodes.get(ino)
        if found is not None and ino != ROOT_INO:
            found.lookups -= count
            self._drop_if_unused(ino, found)

    def forget_all(self) -> None:
        """Note that the kernel has ended the connection: it says nothing of what it knew."""
        for ino, found in list(self._inodes.items()):
            found.lookups = found.opens = 0
            self._drop_if_unused(ino, found)

    def lost_a_name(self, ino: int) -> None:
        """Note that an inode may have lost its last name."""
        found = self._inodes.get(ino)
        if found is None:
            self._client.drop_inode(ino, unlinked=True)
        else:
            found.unlinked = True

    def opened(self, ino: int, *, writes: bool) -> bool:
        """Note that a file is open; return whether pages that the kernel has of it may stay."""
        found = self.known(ino)
        found.proved = True
        found.opens += 1
        found.writers += writes
        # pages that were read under a lock for reading must not be written to through a mapping
        return not (writes and found.writers == 1) and self._client.generation(ino) != 0

    def closed(self, ino: int, *, writes: bool) -> None:
        """Note that a file is open no more."""
        found = self._inodes[ino]
        found.opens -= 1
        found.writers -= writes
        self._drop_if_unused(ino, found)

    def _drop_oldest(self) -> None:
        """Have the kernel drop the inodes that it has known for longest, as far as nobody uses them."""
        # if it does not do that there is no use in asking for each further inode
        self._drop_above = len(self._inodes) + DROPPED_AT_ONCE
        oldest = islice(self._inodes.items(), DROPPED_AT_ONCE)
        self._unused += [ino for ino, found in oldest if not found.opens and ino != ROOT_INO]
        self._woken.set()

    def _drop_if_unused(self, ino: int, found: KnownInode) -> None:
        if found.lookups <= 0 and not found.opens:
            del self._inodes[ino]
            self._drop_above = max(KNOWN_MAX, min(self._drop_above, len(self._inodes) + DROPPED_AT_ONCE))
            self._client.drop_inode(ino, unlinked=found.unlinked)

    # -- how long it may -----------------------------------------------------------------------------------------------

    def attribute_timeout(self, ino: int, generation: int, *, named: bool) -> float:
        """Return how long the kernel may keep attributes that were read in `generation` of their lock.

        `named`: the request has named the inode, so that the kernel certainly knows it.  Called as the last thing
        before an answer is written.
        """
        found = self._inodes.get(ino)
        if found is None or not generation or generation != self._client.generation(ino):
            return 0.0
        found.proved |= named
        if not found.proved:
            group = self._group(ino)
            if self._is_contended(group):
                return 0.0
            group.early_at = trio.current_time()
        found.kept = True
        return KEPT

    def name_timeout(self, dir_ino: int, generation: int, *, listed: bool = False) -> float:
        """Return how long the kernel may keep a name, or know that there is none; `listed`: in a listing."""
        if not generation or generation != self._client.generation(dir_ino) or not self._notifications.knows_epochs:
            return 0.0
        group = self._group(dir_ino)
        if self._is_contended(group):
            return 0.0
        if listed:
            group.early_at = trio.current_time()
        group.names = True
        return KEPT

    def _group(self, ino: int) -> _Group:
        number = ino // LOCK_GROUP
        group = self._groups.get(number)
        if group is None:
            group = self._groups[number] = _Group()
        return group

    def _is_contended(self, group: _Group) -> bool:
        return trio.current_time() - group.lost_at < CONTENDED

    # -- pages ---------------------------------------------------------------------------------------------------------

    def reading(self, ino: int) -> AbstractAsyncContextManager[Held]:
        """Hold the lock of a file for reading by somebody who has no pages locked."""
        return self._client.locked(self._request(ino))

    @asynccontextmanager
    async def page_lock(self, ino: int, start: int, end: int) -> AsyncIterator[Held]:
        """Hold the lock of a file whose bytes the kernel waits for, their pages locked."""
        found = self.known(ino)
        request = self._request(ino)
        if self._client.is_free(request):
            async with self._client.locked(request) as held:
                yield held
            return
        with _reading(found, start, end):
            normally = self._client.locked(request)
            taken = await self._unless_losing(ino, request.mode, normally.__aenter__)
        if isinstance(taken, _Losing):
            async with self._admitted(ino, taken.lock.held(request.mode)) as held:
                yield held
            return
        try:
            yield taken
        finally:
            await normally.__aexit__(None, None, None)

    async def write_pages(
        self, ino: int, start: int, end: int, write: Callable[[VolumeClient | LosingLock], Awaitable[_Result]]
    ) -> _Result:
        """Return what `write` returns, whose pages the kernel keeps locked; it may be cancelled and called again."""
        with self._writing(ino, start, end):
            if self._client.is_free(inode_request(ino // LOCK_GROUP, LockMode.WRITE)):
                return await write(self._client)
            done = await self._unless_losing(ino, LockMode.WRITE, lambda: write(self._client))
        if not isinstance(done, _Losing):
            return done
        try:
            return await write(done.lock)
        finally:
            self._leave(self._group(ino))

    def _request(self, ino: int) -> LockRequest:
        # what is read may be written to through a mapping, without a request
        found = self._inodes.get(ino)
        return inode_request(ino // LOCK_GROUP, LockMode.WRITE if found and found.writers else LockMode.READ)

    @contextmanager
    def _writing(self, ino: int, start: int, end: int) -> Iterator[None]:
        """Have bytes left out of what is dropped if the lock is only held for reading: their pages may be locked.

        If it is lost meanwhile, pages that were in the kernel before are outdated but for what is written to them.
        They can be dropped only when the request is answered.
        """
        found, group = self.known(ino), self._group(ino)
        lost_at = group.lost_at
        found.writing += ((start, end),)
        try:
            yield
        finally:
            found.writing = _without(found.writing, (start, end))
            if group.lost_at != lost_at:
                self._outdated.append((ino, start, end - start))
                self._woken.set()

    async def _unless_losing(
        self, ino: int, mode: LockMode, normally: Callable[[], Awaitable[_Result]]
    ) -> _Result | _Losing:
        """Return what `normally` returns; or, as soon as that has to end before the lock can be given up, the lock."""
        results: list[_Result] = []
        errors: list[Exception] = []
        group = self._group(ino)
        losing: LosingLock | None = None

        async def run(scope: trio.CancelScope) -> None:
            try:
                results.append(await normally())
            except Exception as error:  # noqa: BLE001 (raised again by the caller, without a group around it)
                errors.append(error)
            scope.cancel()

        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(run, nursery.cancel_scope)
                while group.losing is None or not serves(group.losing.old_mode, mode):
                    await self._changed.wait()
                losing = group.losing
                # from now on the lock cannot be given up, until this request has left
                group.admitted += 1
                nursery.cancel_scope.cancel()
        except BaseException:
            if losing is not None:
                self._leave(group)
            # what has been done counts, even if nobody wants to wait for it any more
            if not results:
                raise
            return results[0]
        if losing is not None and not (errors or results):
            return _Losing(losing)
        if losing is not None:
            self._leave(group)
        if errors:
            raise errors[0]
        return results[0]

    @asynccontextmanager
    async def _admitted(self, ino: int, holding: AbstractAsyncContextManager[Held]) -> AsyncIterator[Held]:
        try:
            async with holding as held:
                yield held
        finally:
            self._leave(self._group(ino))

    def _leave(self, group: _Group) -> None:
        group.admitted -= 1
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    # -- losing locks --------------------------------------------------------------------------------------------------

    async def give_up(self, lock: LosingLock) -> None:
        """Have the kernel forget what it knows of the inodes under a lock that is lost, dirty pages written."""
        zone, first, *_ = key_fields(lock.start)
        if zone != Zone.FS or not may_read(lock.old_mode):
            return
        lost = not may_read(lock.new_mode)
        inodes = [
            (ino, found)
            for ino in range(first, first + LOCK_GROUP)
            if (found := self._inodes.get(ino)) is not None and (lost or found.writers)
        ]
        group = self._group(first)
        await self._drop_pages(group, lock, inodes)
        if lost:
            self._forget(group, inodes)
            self._unused += [ino for ino, found in inodes if not found.opens and ino != ROOT_INO]
            self._woken.set()
        self._wake()

    async def wait_for_loss(self, seconds: float) -> None:
        """Wait until a lock has been lost, or for some time."""
        with trio.move_on_after(seconds):
            await self._changed.wait()

    async def run(self) -> None:
        """Tell the kernel again of what it may not have known yet, for as long as the mount lives."""
        while True:
            with trio.move_on_at(min((time for time, _ in self._follow_ups), default=float("inf"))):
                await self._woken.wait()
                self._woken = trio.Event()
            if self._outdated:
                outdated, self._outdated = self._outdated, []
                await self._in_thread(self._drop_pieces, outdated)
            if self._unused:
                unused, self._unused = self._unused, []
                await self._in_thread(self._notifications.forget_unused, unused)
            now = trio.current_time()
            for time, inos in [one for one in self._follow_ups if one[0] <= now]:
                self._follow_ups.remove((time, inos))
                self._notifications.forget_names()
                for ino in inos:
                    self._notifications.forget_attributes(ino)

    async def _drop_pages(self, group: _Group, lock: LosingLock, inodes: list[tuple[int, KnownInode]]) -> None:
        # a mapping that has been written to comes back as requests, which have to be let through at once
        patience = 0.0 if any(found.writers for _, found in inodes) else PATIENCE
        written = lock.old_mode == LockMode.WRITE
        while pages := [(ino, *piece) for ino, found in inodes for piece in found.take_pages(written=written)]:
            dropped = trio.Event()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._drop, pages, dropped)
                with trio.move_on_after(patience):
                    await dropped.wait()
                if not dropped.is_set():
                    group.losing = lock
                    self._wake()
                    await dropped.wait()
            group.losing = None
            while group.admitted:
                await self._changed.wait()

    async def _drop(self, pages: list[tuple[int, int, int]], dropped: trio.Event) -> None:
        try:
            await self._in_thread(self._drop_pieces, pages)
        finally:
            dropped.set()

    def _drop_pieces(self, pages: list[tuple[int, int, int]]) -> None:
        for ino, start, length in pages:
            self._notifications.forget_pages(ino, start, length)

    def _forget(self, group: _Group, inodes: list[tuple[int, KnownInode]]) -> None:
        now = trio.current_time()
        missed = set()
        for ino, found in inodes:
            if found.kept:
                found.kept = False
                if not self._notifications.forget_attributes(ino) and found.lookups:
                    missed.add(ino)
        if group.names or missed:
            self._notifications.forget_names()
        if missed or now - group.early_at < CONSUMED:
            early = frozenset(missed | {ino for ino, _ in inodes})
            self._follow_ups += [(now + delay, early) for delay in FOLLOW_UPS]
            self._woken.set()
        group.names, group.lost_at = False, now

    async def _in_thread(self, function: Callable[[_Result], None], argument: _Result) -> None:
        await trio.to_thread.run_sync(function, argument, abandon_on_cancel=True, limiter=self._threads)


class _Losing:
    def __init__(self, lock: LosingLock) -> None:
        self.lock = lock


@contextmanager
def _reading(found: KnownInode, start: int, end: int) -> Iterator[None]:
    """Have bytes left out of what is dropped: their pages are locked, and have nothing yet that could be outdated."""
    found.reading += ((start, end),)
    try:
        yield
    finally:
        found.reading = _without(found.reading, (start, end))


def _without(ranges: tuple[tuple[int, int], ...], one: tuple[int, int]) -> tuple[tuple[int, int], ...]:
    at = ranges.index(one)
    return ranges[:at] + ranges[at + 1 :]
