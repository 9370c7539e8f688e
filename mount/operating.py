"""Operations that a request needs one after the other, and what they have to wait for."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from mount.kernel_cache import KernelCache
from mount.volume_client import VolumeClient
from scoutfs.files.caller import Caller
from scoutfs.files.change import Change
from scoutfs.files.errors import OfflineError, TruncatePending
from scoutfs.files.truncate import finish_truncate, set_size

LOOK_AGAIN = 1.0
"""Seconds after which contents that are in the archive are looked at again."""

P = ParamSpec("P")
Result = TypeVar("Result")


class Performing(Protocol):
    """What can run operations: a client, or a lock that it is losing."""

    async def perform(self, operation: Callable[Concatenate[Change, P], Result], *a: P.args, **k: P.kwargs) -> Result:
        """Run an operation."""


class Operating:
    """Runs operations with what has to come before and after them."""

    def __init__(self, client: VolumeClient, cache: KernelCache, log: Callable[[int, str], None]) -> None:
        self.client, self.cache, self._log = client, cache, log

    async def perform(self, operation: Callable[Concatenate[Change, P], Result], *a: P.args, **k: P.kwargs) -> Result:
        """Run an operation; truncations that it finds are finished before, and contents in the archive waited for."""
        return await self.perform_through(self.client, operation, *a, **k)

    async def perform_through(
        self,
        through: Performing,
        operation: Callable[Concatenate[Change, P], Result],
        *a: P.args,
        **k: P.kwargs,
    ) -> Result:
        """Run an operation as `perform` does, by other means."""
        told = False
        while True:
            try:
                return await through.perform(operation, *a, **k)
            except TruncatePending as pending:
                await self._finish(through, pending.ino)
            except OfflineError as error:
                told = await self.wait_for_staging(error, told=told)

    async def truncate(self, ino: int, size: int, caller: Caller) -> None:
        """Give a file another size, and free what is behind its end."""
        await self.perform(set_size, ino, size, caller)
        await self._finish(self.client, ino)

    async def wait_for_staging(self, error: OfflineError, *, told: bool) -> bool:
        """Wait until it is worth looking again; it is logged unless it was `told`.  Returns True."""
        if not told:
            self._log(logging.WARNING, f"{error}; somebody waits until that is done")
        await self.cache.wait_for_loss(LOOK_AGAIN)
        return True

    @staticmethod
    async def _finish(through: Performing, ino: int) -> None:
        while not await through.perform(finish_truncate, ino):
            pass
