"""Roots of the trees that are as new as the locks under which items are read (spec 04 §7.6, 05 §4.2)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from scoutfs.client.exclusive import Exclusive
from scoutfs.client.item_cache import ItemCache, RootsNeeded
from scoutfs.client.lock_client import LockClient
from scoutfs.errors import ScoutfsError
from scoutfs.metadata.blocks import DamagedBlock, StaleBlockError
from scoutfs.metadata.snapshot import Roots


class RenewedRoots:
    """Has `cache` read from roots that `fetch` gets from the server after every grant of a lock in `locks`."""

    def __init__(
        self, cache: ItemCache, locks: LockClient, exclusive: Exclusive, fetch: Callable[[], Awaitable[Roots]]
    ) -> None:
        self._cache, self._locks, self._exclusive, self._fetch = cache, locks, exclusive, fetch
        self._stale: Roots | None = None

    def check(self, starts: Sequence[bytes]) -> None:
        """Raise RootsNeeded unless roots were fetched since all of the locks were granted."""
        known = self._cache.known_gen
        if self._cache.roots is None or any(self._locks.granted_gen(start) > known for start in starts):
            raise RootsNeeded

    async def renew(self, error: ScoutfsError) -> None:
        """Fetch roots because of an error: there were none, or blocks below them are in use for something else.

        Raises DamagedBlock if the server has no others than those, and what fetching raises.
        """
        failed = self._cache.roots if isinstance(error, StaleBlockError) else None
        gen, barrier = self._locks.last_gen, self._cache.barrier
        roots = await self._fetch()
        if failed is not None and failed == self._stale == roots:
            raise DamagedBlock(str(error)) from error
        self._stale = failed or self._stale
        async with self._exclusive.alone():
            if failed is not None and failed == self._cache.roots:
                self._cache.outdated()
            if gen >= self._cache.known_gen:
                self._cache.install(roots, gen, barrier)
