"""What stands for a client in a mount without a cluster (`norecovery`): the super block instead of a server."""

from __future__ import annotations

from collections.abc import Callable

import trio

from scoutfs.metadata.forest import super_roots
from scoutfs.metadata.snapshot import Roots
from scoutfs.network.statfs import Statfs
from scoutfs.offload import Offload
from scoutfs.server.statfs import read_statfs
from scoutfs.storage.volume import Volume


class Standalone:
    """A client that has no server and needs none: everything is read from the devices, nothing is written to them."""

    unchanging = True
    connected = True
    server = None
    waiting_since = None
    waiting_for = ""

    def __init__(self, volume: Volume, offload: Offload | None = None) -> None:
        self._volume, self._offload = volume, offload or Offload()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Do nothing: there is no connection to keep."""
        task_status.started()

    async def roots(self) -> Roots:
        """Read the roots from the super block.  Raises VolumeError or DeviceError."""
        return await self._offload(super_roots, self._volume)

    async def statfs(self) -> Statfs:
        """Count what is free.  Raises VolumeError, DeviceError or DamagedBlock."""
        return await self._offload(read_statfs, self._volume)

    async def wait_usable(self) -> None:
        """Return: the volume could be opened."""

    async def farewell(self, hold_back: Callable[[str], None], /) -> None:
        """Return: nobody knows of this mount."""

    def abandon(self) -> None:
        """Do nothing: there is nobody who would wait."""
