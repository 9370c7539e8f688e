"""Locks as those who read and change items have them: held, or being lost (spec 05 §4)."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

import trio

from format.payloads import LockMode
from scoutfs.client.item_cache import ItemCache
from scoutfs.client.lock_client import Holder, Lower
from scoutfs.errors import ScoutfsError
from scoutfs.files.change import Change
from scoutfs.files.extent_map import Piece, read_pieces
from scoutfs.files.store import LockRequest
from scoutfs.network.locks import serves
from scoutfs.storage.volume import Volume

P = ParamSpec("P")
Result = TypeVar("Result")


class ItemAccess(Protocol):
    """What a lock needs of the client that has it."""

    volume: Volume

    async def read(self, starts: Sequence[bytes], question: Callable[[ItemCache], Result]) -> Result:
        """Return what `question` makes of the items under locks that are held."""

    async def perform_under(
        self, holder: Holder, losing: LosingLock | None, operation: Callable[[Change], Result]
    ) -> Result:
        """Run an operation under locks that are held or being lost, and others that it asks for."""


class KernelSide(Protocol):
    """What is told of locks before others may change what they cover."""

    async def give_up(self, lock: LosingLock) -> None:
        """Have the kernel forget what it knows of the inodes under a lock that is lost, dirty pages written."""


class NoKernel:
    """No kernel knows anything."""

    async def give_up(self, lock: LosingLock) -> None:
        """There is nobody who knows anything."""


class HeldLock:
    """Items under a lock that is held."""

    def __init__(self, client: ItemAccess, start: bytes) -> None:
        self._client, self._start = client, start

    async def ask(self, question: Callable[..., Result], *arguments: Any) -> Result:
        """Return what `question` makes of items under the lock; it may be called more than once.

        Its first argument are the items.  Raises what it raises.
        """
        return await self._client.read((self._start,), lambda items: question(items, *arguments))

    async def read_blocks(self, pieces: Sequence[Piece], buffer: memoryview) -> None:
        """Fill `buffer`, which must have their size, with neighbouring pieces of a file, as they were written last."""
        await trio.to_thread.run_sync(read_pieces, self._client.volume.data, pieces, buffer)


class LosingLock:
    """A lock whose mode has fallen here, while the server does not know of that: until it does the old one counts.

    `start` and `end` are the sort forms of the keys that it covers.
    """

    def __init__(self, client: ItemAccess, lower: Lower) -> None:
        self._client = client
        self.start, self.end, self.old_mode, self.new_mode = lower

    def serves(self, request: LockRequest) -> bool:
        """Whether it is the lock that is asked for, and was held in a mode that serves."""
        return request.start == self.start and serves(self.old_mode, request.mode)

    @asynccontextmanager
    async def held(self, mode: LockMode) -> AsyncIterator[HeldLock]:
        """Hold it all the same: for requests that have to end before it can be given up.  `old_mode` must serve."""
        if not serves(self.old_mode, mode):
            raise ScoutfsError(f"a lock that was held for {self.old_mode.name} is asked for {mode.name}", errno.EINVAL)
        yield HeldLock(self._client, self.start)

    async def perform(self, operation: Callable[Concatenate[Change, P], Result], *a: P.args, **k: P.kwargs) -> Result:
        """Run an operation on items under it, as `VolumeClient.perform` does; what it changes is committed in time."""
        return await self._client.perform_under(Holder(), self, lambda change: operation(change, *a, **k))


class OperationLocks:
    """The locks that an operation runs under: those of its task, and perhaps one that is being lost."""

    def __init__(self, holder: Holder, losing: LosingLock | None) -> None:
        self._holder, self._losing = holder, losing

    @property
    def starts(self) -> list[bytes]:
        """The names of the locks."""
        starts = [request.start for request in self._holder.held]
        return starts if self._losing is None else [*starts, self._losing.start]

    def holds(self, request: LockRequest) -> bool:
        """Whether the lock is held, in a mode that serves."""
        return self._holder.holds(request) or (self._losing is not None and self._losing.serves(request))
