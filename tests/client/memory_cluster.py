"""A server and clients of a volume in memory, in one loop and without sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio

from format.quorum import Event, SlotAddress
from scoutfs.client.background import Background
from scoutfs.client.client import Client
from scoutfs.client.volume_client import VolumeClient
from scoutfs.counters import Counters
from scoutfs.metadata.blocks import BlockReader
from scoutfs.metadata.btree import Root
from scoutfs.metadata.snapshot import Roots, Snapshot
from scoutfs.network.connection import Dialled
from scoutfs.network.statfs import Statfs
from scoutfs.server.statfs import count_free
from scoutfs.storage import Device
from scoutfs.storage.creation import NewVolume, write_volume
from scoutfs.storage.volume import Volume
from tests.memory import Image, MemoryIO
from tests.server.fakes import RecordedLog
from tests.server.world import World

META_BYTES, DATA_BYTES = 1 << 30, 4 << 30
LEADER = 0xFFFF
"""The rid of the mount that leads; it does nothing else."""


def new_images() -> dict[str, Image]:
    """Return both devices of a new volume with one slot."""
    images = {"meta": Image(META_BYTES), "data": Image(DATA_BYTES)}
    io = MemoryIO(images)
    slots = {0: SlotAddress("127.0.0.1", 23450)}
    with Device.open("meta", writable=True, io=io) as meta, Device.open("data", writable=True, io=io) as data:
        write_volume(meta, data, NewVolume(0x5C0FF5, bytes(16), 0, 2, META_BYTES >> 16, DATA_BYTES >> 12, slots))
    return images


class MemoryServer(World):
    """A server of the volume."""

    def __init__(self, volume: Volume, term: int) -> None:
        super().__init__(1, {}, volume.fsid, term, volume)

    async def statfs(self) -> Statfs:
        return await self.volume.change(lambda current: count_free(self.volume.reader, current.stable))

    async def roots(self) -> Roots:
        raw = self.volume.stable.raw
        return Roots(*(Root.of(raw[name]) for name in Roots._fields))


class MemoryMount:
    """A client."""

    def __init__(self, cluster: MemoryCluster, rid: int) -> None:
        self.rid, self.log = rid, RecordedLog()
        self.volume = Volume.open("data", "meta", io=cluster.io)
        self.client = Client(
            self.volume, rid, member=False, keepalive_ms=24000, log=self.log, counters=Counters(), dial=cluster.dial
        )
        self.files = VolumeClient(self.volume, self.client, self.log)
        self.background = Background(self.files, self.log)
        self._life = trio.CancelScope()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Live until killed."""
        with self._life:
            async with trio.open_nursery() as nursery:
                await nursery.start(self.files.run)
                await nursery.start(self.client.run)
                nursery.start_soon(self.background.run)
                task_status.started()

    def kill(self) -> None:
        """It is gone, whatever it was doing."""
        self._life.cancel()


class MemoryCluster:
    """The volume on `io`; its server changes with `serve`."""

    def __init__(self, io: MemoryIO) -> None:
        self.io = io
        self.server: MemoryServer
        self.mounts: list[MemoryMount] = []
        self._nursery: trio.Nursery

    async def dial(self, address: SlotAddress, keepalive_ms: int) -> Dialled:
        """Connect to the server that there is now.  Raises OSError."""
        if self.server.ended.is_set():
            raise ConnectionRefusedError(111, "Connection refused")
        return self.server.dialled()

    async def serve(self) -> None:
        """Have another server."""
        volume = Volume.open("data", "meta", io=self.io)
        term = 1 + volume.read_quorum_block(0).event(Event.ELECT).term
        for event in (Event.BEGIN, Event.TERM, Event.ELECT, Event.FENCE):
            block = volume.read_quorum_block(0)
            volume.write_quorum_block(block.updated(event, LEADER, term, 0))
        self.server = MemoryServer(volume, term)
        self._nursery.start_soon(self.server.run, self._nursery)
        await trio.lowlevel.checkpoint()

    async def kill_server(self) -> None:
        """Have the server end in the middle of whatever it does, except for a commit that has begun."""
        while not hasattr(self.server, "service") or not hasattr(self.server.service, "_nursery"):
            await trio.sleep(0)
        self.server.service._nursery.cancel_scope.cancel()
        await self.server.ended.wait()

    async def mount(self, rid: int) -> MemoryMount:
        """Return a new mount that runs."""
        mount = MemoryMount(self, rid)
        self.mounts.append(mount)
        await self._nursery.start(mount.run)
        return mount

    def errors(self) -> list[str]:
        """Return what was logged as an error."""
        return [text for mount in self.mounts for text in mount.log.errors]


@asynccontextmanager
async def cluster_on(io: MemoryIO, deadline: float = 60.0) -> AsyncIterator[MemoryCluster]:
    """A cluster on a volume, with a server."""
    cluster = MemoryCluster(io)
    with trio.fail_after(deadline):
        async with trio.open_nursery() as nursery:
            cluster._nursery = nursery
            await cluster.serve()
            yield cluster
            nursery.cancel_scope.cancel()


def snapshot(volume: Volume) -> Snapshot:
    """Return all items as the volume has them now."""
    raw: Any = volume.read_super().raw
    roots = Roots(*(Root.of(raw[name]) for name in Roots._fields))
    return Snapshot(BlockReader(volume.meta, volume.fsid), roots)
