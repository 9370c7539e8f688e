"""A running service whose connections are streams in memory, made by the test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
from trio.testing import memory_stream_pair, wait_all_tasks_blocked

from format.block import Ref
from format.net import GreetingFlag
from format.quorum import SlotAddress
from scoutfs.counters import Counters
from scoutfs.errors import ScoutfsError
from scoutfs.metadata.btree import Root
from scoutfs.metadata.snapshot import Roots
from scoutfs.network.connection import Connection, Dialled
from scoutfs.network.framing import Side
from scoutfs.network.statfs import Statfs
from scoutfs.quorum.fencing import FenceRequests
from scoutfs.server.clients import Clients
from scoutfs.server.committed_volume import CommittedVolume, Transactions
from scoutfs.server.mounted_clients import RecordedMount, record, recorded_mounts
from scoutfs.server.service import Service
from scoutfs.storage.volume import Volume
from tests.network.peer import Peer
from tests.server.fakes import RecordedLog, memory_volume

FSID, TERM = 0x62F572033142D14C, 7
ROOTS = Roots(Root(Ref(2, 1), 1))
FREE = Statfs(bytes(range(16)), 10, 20, 30, 40, 5)
MEMBER, OTHER, FAREWELL = GreetingFlag.QUORUM, GreetingFlag.NONE, GreetingFlag.FAREWELL
ADDRESS = SlotAddress("127.0.0.1", 23450)


async def run_here(function, *arguments):
    """Stands in for a thread: its time would not be the test's."""
    await trio.lowlevel.checkpoint()
    return function(*arguments)


class Door:
    """Stands in for the listener: connections come from the test."""

    def __init__(self) -> None:
        self._send, self._receive = trio.open_memory_channel[Connection](10)
        self.greeted_connections: list[Connection] = []

    async def serve(self, handle):
        async with trio.open_nursery() as nursery:
            async for connection in self._receive:
                nursery.start_soon(handle, connection)

    def greeted(self, connection):
        self.greeted_connections.append(connection)

    def let_in(self, connection):
        self._send.send_nowait(connection)

    def close(self):
        self._send.close()


class World:
    """A running service of three slots and its clients."""

    def __init__(
        self, votes_needed: int, expected: dict[int, int], fsid: int, term: int, volume: Volume | None = None
    ) -> None:
        self.log, self.counters, self.door = RecordedLog(), Counters(), Door()
        self.fsid = fsid
        self.device_volume = volume or memory_volume()
        transactions = Transactions(self.device_volume)
        self.volume = CommittedVolume(transactions, run_here)
        recorded = {mount.rid: mount for mount in recorded_mounts(transactions.current)}
        self.clients = Clients(fsid, 2, term, votes_needed, trio.current_time(), expected, recorded=recorded)
        self.stopped = trio.Event()
        self.ended = trio.Event()
        self.failure: ScoutfsError | None = None
        self.statfs_reads = 0
        self.statfs_time = 0.01
        self.roots_reads = 0
        self.statfs_error: ScoutfsError | None = None
        self.ports = 50000
        self.running: dict[int, int] | None = dict(expected)
        self.fences: FenceRequests
        self.service: Service

    async def run(self, nursery: trio.Nursery) -> None:
        self.fences = FenceRequests(nursery, self.log)
        self.service = Service(
            self.clients,
            self.door,
            self.fences,
            self.volume,
            self.device_volume.data.size,
            self.statfs,
            self.roots,
            self.read_running,
            self.log,
            self.counters,
            lambda: None,
        )
        try:
            await self.service.run(self.stopped)
        except ScoutfsError as error:
            self.failure = error
        self.ended.set()

    async def read_running(self) -> dict[int, int] | None:
        await trio.lowlevel.checkpoint()
        return self.running

    async def statfs(self) -> Statfs:
        self.statfs_reads += 1
        await trio.sleep(self.statfs_time)
        if self.statfs_error is not None:
            raise self.statfs_error
        return FREE

    async def roots(self) -> Roots:
        self.roots_reads += 1
        await trio.sleep(0.01)
        return ROOTS

    def dialled(self) -> Dialled:
        """The client's end of a new connection."""
        self.ports += 1
        ours, theirs = memory_stream_pair()
        peer = SlotAddress("10.0.0.9", self.ports)
        self.door.let_in(Connection(theirs, Side.SERVER, self.counters, ADDRESS, peer))
        return Dialled(ours, peer, ADDRESS)

    def connect(self, rid: int, flags: GreetingFlag = MEMBER, session=None, fsid: int | None = None) -> Peer:
        return Peer(self.dialled().stream, rid, fsid=fsid or self.fsid, flags=flags, session=session)

    async def mounted(self, rid: int, flags: GreetingFlag = MEMBER, term: int = 0) -> Peer:
        if term:
            mount = RecordedMount(rid, bool(flags & MEMBER), ADDRESS)
            await self.volume.change(lambda current: record(current, mount))
        peer = self.connect(rid, flags)
        peer.session.server_term = term
        await peer.greet()
        return peer

    async def back(self, peer: Peer, flags: GreetingFlag = OTHER) -> Peer:
        """The next connection of the same mount."""
        again = self.connect(peer.rid, peer.flags, peer.session)
        await again.greet(flags)
        return again

    def count(self, name: str) -> int:
        return self.counters.snapshot()[name]


@asynccontextmanager
async def serving(
    votes_needed: int = 2,
    expected: dict[int, int] | None = None,
    fsid: int = FSID,
    term: int = TERM,
    volume: Volume | None = None,
) -> AsyncIterator[World]:
    with trio.fail_after(1000):
        async with trio.open_nursery() as nursery:
            world = World(votes_needed, expected or {}, fsid, term, volume)
            nursery.start_soon(world.run, nursery)
            await wait_all_tasks_blocked()
            yield world
            nursery.cancel_scope.cancel()
