"""Who uses what only one may use at a time: the item cache, the blocks that it reads, the open transaction."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from typing import TypeVar

import trio

from scoutfs.client.data_space import MountSpace
from scoutfs.metadata.blocks import BlockReader, NotCached

_Result = TypeVar("_Result")


class Exclusive:
    """Runs functions one at a time: in the loop what finds all it needs in memory, in a thread what reads or writes.

    `space` is where functions read and write data blocks now.
    """

    def __init__(self, reader: BlockReader) -> None:
        self.space: MountSpace | None = None
        self._reader = reader
        self._lock = trio.Lock()

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Be the only one for the time of a `with`.  No checkpoint if nobody else is; none at the end."""
        try:
            self._lock.acquire_nowait()
        except trio.WouldBlock:
            await self._lock.acquire()
        try:
            yield
        finally:
            self._lock.release()

    async def run(self, function: Callable[[], _Result]) -> _Result:
        """Return what `function` returns; called by whoever is alone.

        It must have changed nothing when it raises NotCached: it is called again then, in a thread.  A function that
        has begun there ends, even if the caller is cancelled.
        """
        try:
            with ExitStack() as stack:
                stack.enter_context(self._reader.only_cached())
                if self.space is not None:
                    stack.enter_context(self.space.only_memory())
                return function()
        except NotCached:
            return await self.in_thread(function)

    async def in_thread(self, function: Callable[..., _Result], *arguments: object) -> _Result:
        """Return what a function returns that blocks; it ends even if the caller is cancelled."""
        return await trio.to_thread.run_sync(function, *arguments)
