"""What a mount that may write has beside its connection: locks and transactions, work in the background, the kernel's
side of it."""

from __future__ import annotations

from collections.abc import Callable

import trio

from mount.control import RunningOptions
from mount.files import Report
from mount.kernel_cache import KernelCache
from mount.notifications import Notifications
from mount.preparation import RootDirectory
from mount.writable_files import WritableFiles
from scoutfs.client.background import Background
from scoutfs.client.client import Client
from scoutfs.client.volume_client import VolumeClient
from scoutfs.files.allocation import Preallocation
from scoutfs.files.ino_pools import InoPools
from scoutfs.storage.volume import Volume

Log = Callable[[int, str], None]


class Writing:
    """Changing `volume` through `client`, for the kernel behind the descriptor `fuse`.

    To be made before `client` runs.
    """

    def __init__(self, volume: Volume, client: Client, fuse: int, options: RunningOptions, log: Log) -> None:
        self._options, self._log = options, log
        self._client = VolumeClient(volume, client, log)
        self._background = Background(self._client, log)
        self._cache = KernelCache(self._client, Notifications(fuse))
        self._client.ino_pools = InoPools(options["ino_alloc_per_lock"])
        self.option_changed("lock_idle_count")
        self.option_changed("orphan_scan_delay_ms")

    @property
    def waiting_for(self) -> str:
        """What keeps requests waiting that have no answer; empty if nothing does."""
        return self._client.waiting_for

    def files(self, root: RootDirectory, report: Report, *, acl: bool) -> WritableFiles:
        """Return what answers requests for files."""
        return WritableFiles(
            self._client, self._cache, root, report, self._log, acl=acl, preallocation=self._preallocation
        )

    def option_changed(self, name: str) -> None:
        """Go by the present value of an option from now on."""
        if name == "lock_idle_count":
            self._client.locks.idle_count = self._options[name]
        elif name == "orphan_scan_delay_ms":
            self._background.orphan_scan_delay_ms = self._options[name]
        elif name == "ino_alloc_per_lock":
            self._client.ino_pools = InoPools(self._options[name])

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Work until cancelled, while the client runs too."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self._client.run)
            nursery.start_soon(self._background.run)
            nursery.start_soon(self._cache.run)
            task_status.started()

    async def leave(self, hold_back: Callable[[str], None]) -> None:
        """Commit what is left and say farewell, once the kernel asks for nothing any more."""
        self._cache.forget_all()
        await self._client.leave(hold_back)

    def _preallocation(self) -> Preallocation:
        options = self._options
        return Preallocation(options["data_prealloc_blocks"], bool(options["data_prealloc_contig_only"]))
