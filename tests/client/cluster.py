"""Mounts and servers of one volume on sparse files: real threads and sockets; the test is the election."""

from __future__ import annotations

import itertools
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import trio

from format.payloads import LockMode
from format.quorum import Event
from scoutfs.client.background import Background
from scoutfs.client.client import Client
from scoutfs.client.volume_client import VolumeClient
from scoutfs.counters import Counters
from scoutfs.files.caller import ROOT
from scoutfs.files.create import create
from scoutfs.files.data import read_data
from scoutfs.files.directory import find_entry, list_directory
from scoutfs.files.inode import Inode, read_inode
from scoutfs.files.linking import unlink
from scoutfs.files.store import inode_request
from scoutfs.files.writing import write
from scoutfs.fsck.check import check_volume
from scoutfs.fsck.kinds import Severity
from scoutfs.quorum.election import ServerStatus
from scoutfs.quorum.fencing import FenceRequests
from scoutfs.server.lifecycle import ServerThread
from scoutfs.storage import Device
from scoutfs.storage.creation import NewVolume, write_volume
from scoutfs.storage.volume import Volume
from tests.server.fakes import RecordedLog, quorum_config

DEADLINE = 60.0
META_BLOCKS, DATA_BLOCKS = 4096, 1 << 18
ROOT_INO = 1


class Mount:
    """A member: its server when it leads, and what it does as a client."""

    def __init__(self, cluster: Cluster, slot: int) -> None:
        self.slot, self.rid = slot, 0xA000 + 0x1000 * slot
        self.log = RecordedLog()
        self.volume = Volume.open(cluster.data, cluster.meta)
        self.fences: FenceRequests | None = None
        self.server = ServerThread(
            self.volume,
            cluster.config,
            slot,
            self.rid,
            self.volume.fmt_vers,
            fences_factory=self._fences,
            log=self.log,
            counters=Counters(),
            on_status=lambda status: None,
        )
        self.client = Client(self.volume, self.rid, member=True, keepalive_ms=24000, log=self.log, counters=Counters())
        self.files = VolumeClient(self.volume, self.client, self.log)
        self.background = Background(self.files, self.log)
        self.background.orphan_scan_delay_ms = 100

    def _fences(self, nursery: trio.Nursery) -> FenceRequests:
        self.fences = FenceRequests(nursery, self.log)
        return self.fences

    def server_fences(self) -> list[int]:
        """Return the rids that its server wants to have fenced."""
        return [] if self.fences is None else [view.rid for view in self.fences.pending()]

    # Operations

    async def make(self, name: bytes, contents: bytes = b"", at: int = ROOT_INO, mode: int = 0) -> int:
        """Create a file, or what `mode` says, and write its contents; return its number."""
        mode = mode or stat.S_IFREG | 0o644
        ino = await self.files.new_ino(directory=stat.S_ISDIR(mode))
        await self.files.perform(create, at, name, ino, mode, ROOT)
        await self.write(ino, 0, contents)
        return ino

    async def write(self, ino: int, offset: int | None, contents: bytes) -> None:
        """Write all of `contents`."""
        while contents:
            written = await self.files.perform(write, ino, offset, contents, ROOT)
            contents = contents[written.length :]
            offset = written.offset + written.length

    async def remove(self, name: bytes, at: int = ROOT_INO) -> Inode:
        """Unlink a file, and have it deleted if nobody uses it."""
        inode = await self.files.perform(unlink, at, name)
        if not inode.nlink and inode.ino not in self.files.open_inodes:
            self.files.drop_inode(inode.ino, unlinked=True)
        return inode

    async def ask(self, ino: int, question: Callable[..., Any], *arguments: Any) -> Any:
        """Ask something of an inode under its lock."""
        async with self.files.locked(inode_request(ino >> 10, LockMode.READ)) as held:
            return await held.ask(question, *arguments)

    async def lookup(self, name: bytes, at: int = ROOT_INO) -> int | None:
        """Return the number that a name has."""
        entry = await self.ask(at, find_entry, at, name)
        return None if entry is None else entry.ino

    async def inode(self, ino: int) -> Inode | None:
        """Return an inode."""
        return await self.ask(ino, read_inode, ino, self.volume.fmt_vers)

    async def names(self, at: int = ROOT_INO) -> list[bytes]:
        """Return the names in a directory in the order of their creation."""
        entries = await self.ask(at, lambda items: list(list_directory(items, at, 2)))
        return [entry.name for entry in entries]

    async def contents(self, ino: int) -> bytes:
        """Return what a file holds."""
        return await self.ask(ino, partial(_read, self.volume, ino))


def _read(volume: Volume, ino: int, items: Any) -> bytes:
    inode = read_inode(items, ino, volume.fmt_vers)
    assert inode is not None
    return read_data(volume, items, inode, 0, inode.size)


class Cluster:
    """Members of a new volume in `directory`; `leader` is the slot of the one that serves."""

    def __init__(self, directory: Path, members: int) -> None:
        self.meta, self.data = directory / "meta", directory / "data"
        for path, size in ((self.meta, META_BLOCKS << 16), (self.data, DATA_BLOCKS << 12)):
            with path.open("wb") as file:
                file.truncate(size)
        self.config = quorum_config(members)
        new = NewVolume(0x5C0FF5, bytes(range(16)), 0, 2, META_BLOCKS, DATA_BLOCKS, self.config.slots)
        with Device.open(self.meta, writable=True) as meta, Device.open(self.data, writable=True) as data:
            write_volume(meta, data, new)
        self.mounts = [Mount(self, slot) for slot in range(members)]
        self.leader: int | None = None
        self._terms = itertools.count(1)
        self._term = 0
        for mount in self.mounts:
            self._record(mount, Event.BEGIN, 0)

    def _record(self, mount: Mount, event: Event, term: int) -> None:
        block = mount.volume.read_quorum_block(mount.slot)
        mount.volume.write_quorum_block(block.updated(event, mount.rid, term, 0))

    async def elect(self, slot: int) -> None:
        """Have a member serve."""
        mount, self._term = self.mounts[slot], next(self._terms)
        for event in (Event.TERM, Event.ELECT):
            self._record(mount, event, self._term)
        mount.server.start(self._term)
        while mount.server.status is not ServerStatus.UP:
            await trio.sleep(0.005)
        self._record(mount, Event.FENCE, self._term)
        self.leader = slot

    async def stop(self) -> None:
        """Have the server stop."""
        mount = self._leading()
        mount.server.stop()
        await self._down(mount)
        self._record(mount, Event.STOP, self._term)

    async def kill(self, *, record: bool = True) -> Mount:
        """Have the server end in the middle of whatever it does, except for a commit that has begun.

        With `record` its member, which lives on, records that; otherwise it counts as the leader.
        """
        mount = self._leading()
        run = mount.server._run
        assert run is not None
        assert run._token is not None
        assert run._service is not None
        run._token.run_sync_soon(run._service._nursery.cancel_scope.cancel)
        await self._down(mount)
        if record:
            self._record(mount, Event.STOP, self._term)
        return mount

    def _leading(self) -> Mount:
        assert self.leader is not None
        mount, self.leader = self.mounts[self.leader], None
        return mount

    @staticmethod
    async def _down(mount: Mount) -> None:
        while mount.server.status is not ServerStatus.DOWN:
            await trio.sleep(0.005)

    async def leave(self) -> None:
        """Have all mounts leave."""
        async with trio.open_nursery() as nursery:
            for mount in self.mounts:
                nursery.start_soon(mount.files.leave, lambda text: None)

    def problems(self) -> list[str]:
        """Return what a check of the volume finds."""
        with Device.open(self.meta) as meta, Device.open(self.data) as data:
            findings = check_volume(meta, data).report.findings()
        return [finding.text for finding in findings if finding.kind.severity is Severity.ERROR]

    def errors(self) -> list[str]:
        """Return what was logged as an error."""
        return [text for mount in self.mounts for text in mount.log.errors]


@asynccontextmanager
async def mounted(directory: Path, members: int = 2) -> AsyncIterator[Cluster]:
    """Members of a new volume that run; the first one serves."""
    cluster = Cluster(directory, members)
    try:
        with trio.fail_after(DEADLINE):
            await cluster.elect(0)
            async with trio.open_nursery() as nursery:
                for mount in cluster.mounts:
                    await nursery.start(mount.files.run)
                    await nursery.start(mount.client.run)
                    nursery.start_soon(mount.background.run)
                yield cluster
                nursery.cancel_scope.cancel()
    finally:
        for mount in cluster.mounts:
            mount.server.stop()
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 10):
            while any(mount.server.status is not ServerStatus.DOWN for mount in cluster.mounts):
                await trio.sleep(0.005)
        for mount in cluster.mounts:
            mount.volume.close()
