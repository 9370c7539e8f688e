"""A client whose volume is in memory, and whose locks nobody else wants unless a test says so."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import trio

from format.payloads import LockMode
from scoutfs.files.change import Change, Surroundings
from scoutfs.files.deletion import delete_some
from scoutfs.files.errors import NoSpace
from scoutfs.files.extent_map import Piece
from scoutfs.files.links import parent
from scoutfs.files.rename import Names, find_kinship, rename
from scoutfs.files.store import CommitNeeded, LocksNeeded
from scoutfs.metadata.lock_ranges import LOCK_GROUP, inode_lock
from scoutfs.network.locks import serves
from tests.files.world import BLOCK, World


class MemoryClient:
    """Implements `mount.volume_client.VolumeClient` over a `World`.

    `commits` counts syncs.  `hold_back` makes all requests for locks wait until it is unset.
    """

    fmt_vers = 2

    def __init__(self, world: World | None = None) -> None:
        self.world = world or World()
        self.world.strict = False
        self.total_data_blocks = self.world.space.total_blocks
        self.waiting_for = ""
        self.commits = 0
        self.kept: set[int] = set()
        self.deleted: list[int] = []
        self.kernel: Any = None
        self.modes: dict[int, LockMode] = {}
        self.generations: dict[int, int] = {}
        self.users: dict[int, int] = {}
        self.changed = trio.Event()
        self.held_back = False
        self._last_generation = 0

    # -- locks: what a test has not taken away is granted at once ----------------------------------------------------

    def is_free(self, request) -> bool:
        """Whether it can be held now."""
        mode = self.modes.get(_group(request), request.mode)
        return not self.held_back and serves(mode, request.mode)

    def generation(self, ino: int) -> int:
        """Return the generation."""
        group = ino // LOCK_GROUP
        if self.held_back or not serves(self.modes.get(group, LockMode.WRITE), LockMode.READ):
            return 0
        return self.generations.get(group, 1)

    @asynccontextmanager
    async def locked(self, request):
        """Hold a lock."""
        await self._available(request)
        group = _group(request)
        self.users[group] = self.users.get(group, 0) + 1
        try:
            yield Held(self)
        finally:
            self.users[group] -= 1
            self._wake()

    async def lose(self, ino: int, new_mode: LockMode = LockMode.NULL) -> None:
        """Have the lock of an inode lost, and the kernel told; it stays lost until it is granted again."""
        group = ino // LOCK_GROUP
        old_mode = self.modes.get(group, LockMode.WRITE)
        self.modes[group] = new_mode
        while self.users.get(group):
            await self.changed.wait()
        await self.kernel.give_up(Losing(self, group, old_mode, new_mode))

    def grant(self, ino: int, mode: LockMode = LockMode.WRITE) -> None:
        """Have a lock granted again."""
        self._last_generation += 1
        self.generations[ino // LOCK_GROUP] = self._last_generation + 1
        self.modes[ino // LOCK_GROUP] = mode
        self._wake()

    def release_all(self) -> None:
        """Let those go on who are held back."""
        self.held_back = False
        self._wake()

    async def _available(self, request) -> None:
        while not self.is_free(request):
            await self.changed.wait()

    def _wake(self) -> None:
        self.changed.set()
        self.changed = trio.Event()

    # -- operations --------------------------------------------------------------------------------------------------

    async def perform(self, operation, *arguments, **keywords):
        """Run an operation."""
        return await self.run(operation, arguments, keywords, wait=True)

    async def run(self, operation, arguments, keywords, *, wait: bool):
        """Run an operation as `World.perform` does."""
        world, wanted, committed = self.world, (), False
        world.now = time.time_ns()
        while True:
            if wait:
                for request in wanted:
                    await self._available(request)
            world.held.modes = {request.start: request.mode for request in wanted}
            try:
                with Change(
                    Surroundings(world.store, world.held, world, world.space, world, world.fmt_vers), now=world.now
                ) as change:
                    return operation(change, *arguments, **keywords)
            except LocksNeeded as needed:
                wanted = needed.locks
            except CommitNeeded:
                if committed:
                    raise NoSpace("the data device is full") from None
                committed = True
                world.commit()
            finally:
                world.held.modes = {}

    async def rename(self, names: Names, flags: int) -> None:
        """Rename."""
        kinship = None
        if names.old_dir != names.new_dir:
            finding, answer = find_kinship(names.old_dir, names.new_dir), None
            try:
                while True:
                    answer = parent(self.world.reader(), finding.send(answer))
            except StopIteration as found:
                kinship = found.value
        await self.perform(rename, names, flags, kinship)

    async def new_ino(self, *, directory: bool) -> int:
        """Return a number."""
        return self.world.new_ino()

    async def sync(self) -> None:
        """Commit."""
        await trio.lowlevel.checkpoint()
        self.commits += 1
        self.world.commit()

    def keep_inode(self, ino: int) -> None:
        """Keep an inode."""
        assert ino not in self.kept
        self.kept.add(ino)

    def drop_inode(self, ino: int, *, unlinked: bool) -> None:
        """Delete an inode without a name at once."""
        self.kept.discard(ino)
        if unlinked and self.world.exists(ino) and not self.world.inode(ino).nlink:
            self.world.steps(delete_some, ino)
            self.deleted.append(ino)

    def serve_kernel(self, kernel) -> None:
        """Tell `kernel` of losses."""
        self.kernel = kernel

    # -- what mounts need beside it ----------------------------------------------------------------------------------

    async def statfs(self) -> Any:
        """Count what is free."""
        free = sum(length for _, length in [*self.world.space.available, *self.world.space.freed])
        return SimpleNamespace(
            free_meta_blocks=1000,
            total_meta_blocks=2000,
            free_data_blocks=free,
            total_data_blocks=self.total_data_blocks,
            inode_count=self.world.inode_count,
        )


class Held:
    """Items that anybody may read."""

    def __init__(self, client: MemoryClient) -> None:
        self._client = client

    async def ask(self, question, *arguments):
        """Ask."""
        return question(self._client.world.reader(), *arguments)

    async def read_blocks(self, pieces: Sequence[Piece], buffer: memoryview) -> None:
        """Read, in another thread as from a device."""
        await trio.lowlevel.checkpoint()
        at = 0
        for blkno, length in pieces:
            size = length * BLOCK
            buffer[at : at + size] = self._client.world.space.read(blkno, length) if blkno else bytes(size)
            at += size


class Losing:
    """A lock that is being lost."""

    def __init__(self, client: MemoryClient, group: int, old_mode: LockMode, new_mode: LockMode) -> None:
        lock = inode_lock(group * LOCK_GROUP)
        self.start, self.end = lock.start.sort_bytes, lock.end.sort_bytes
        self.old_mode, self.new_mode, self._client = old_mode, new_mode, client
        self.admitted = 0

    @asynccontextmanager
    async def held(self, mode: LockMode):
        """Hold it all the same."""
        assert serves(self.old_mode, mode)
        self.admitted += 1
        yield Held(self._client)

    async def perform(self, operation, *arguments, **keywords):
        """Run an operation all the same."""
        assert self.old_mode == LockMode.WRITE
        self.admitted += 1
        return await self._client.run(operation, arguments, keywords, wait=False)


def _group(request) -> int:
    """Return the number of an inode lock, -1 for any other."""
    zone, first = request.start[0], int.from_bytes(request.start[1:9], "big")
    return first // LOCK_GROUP if zone == inode_lock(0).start.zone else -1
