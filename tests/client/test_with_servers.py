"""Clients and servers together: real threads, real sockets of 127.0.1.x, quorum blocks in memory."""

from __future__ import annotations

import queue
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import trio

from format.quorum import Event
from scoutfs.client.client import Client
from scoutfs.counters import Counters
from scoutfs.quorum.election import ServerStatus
from scoutfs.quorum.fencing import FenceRequests
from scoutfs.server.lifecycle import ServerThread
from scoutfs.server.statfs import read_statfs
from tests.server.fakes import FakeVolume, RecordedLog, quorum_config

DEADLINE = 15.0
RIDS = (0xA000, 0xB000, 0xC000)


class Cluster:
    """Three members of one volume; the test is their election."""

    def __init__(self) -> None:
        self.config = quorum_config(3)
        self.volume = FakeVolume(self.config)
        self.logs = [RecordedLog() for _ in RIDS]
        self.statuses: list[queue.Queue[ServerStatus]] = [queue.Queue() for _ in RIDS]
        self.fences: dict[int, FenceRequests] = {}
        self.servers = [self._server(slot) for slot in range(3)]
        self.clients = [
            Client(self.volume, rid, member=True, keepalive_ms=24000, log=self.logs[slot], counters=Counters())
            for slot, rid in enumerate(RIDS)
        ]
        for slot, rid in enumerate(RIDS):
            self.volume.record(slot, Event.BEGIN, rid, 0)

    def _server(self, slot: int) -> ServerThread:
        def fences(nursery: trio.Nursery) -> FenceRequests:
            self.fences[slot] = FenceRequests(nursery, self.logs[slot])
            return self.fences[slot]

        return ServerThread(
            self.volume,
            self.config,
            slot,
            RIDS[slot],
            2,
            fences_factory=fences,
            log=self.logs[slot],
            counters=Counters(),
            on_status=self.statuses[slot].put,
        )

    async def elect(self, slot: int, term: int) -> None:
        self.volume.record(slot, Event.TERM, RIDS[slot], term)
        self.volume.record(slot, Event.ELECT, RIDS[slot], term)
        self.servers[slot].start(term)
        await self.reaches(slot, ServerStatus.UP)
        self.volume.record(slot, Event.FENCE, RIDS[slot], term)

    async def resign(self, slot: int, term: int) -> None:
        self.servers[slot].stop()
        await self.reaches(slot, ServerStatus.DOWN)
        self.volume.record(slot, Event.STOP, RIDS[slot], term)

    async def reaches(self, slot: int, status: ServerStatus) -> None:
        await until(lambda: self.servers[slot].status is status)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition; the cluster has the deadline."""
    while not condition():
        await trio.sleep(0.005)


@asynccontextmanager
async def mounted() -> AsyncIterator[Cluster]:
    async with AsyncExitStack() as stack:
        cluster = Cluster()
        stack.callback(lambda: [server.stop() for server in cluster.servers])
        with trio.fail_after(DEADLINE):
            async with trio.open_nursery() as nursery:
                for client in cluster.clients:
                    await nursery.start(client.run)
                yield cluster
                nursery.cancel_scope.cancel()
            for slot, server in enumerate(cluster.servers):
                server.stop()
                await cluster.reaches(slot, ServerStatus.DOWN)


async def test_all_follow_the_leader_from_slot_to_slot() -> None:
    async with mounted() as cluster:
        for slot, term in ((0, 1), (2, 2), (1, 3), (0, 4)):
            await cluster.elect(slot, term)
            for client in cluster.clients:
                await until(lambda client=client, term=term: client.server is not None and client.server[1] == term)
                assert client.server == (cluster.config.slots[slot], term)
                free = await client.statfs()
                assert free == read_statfs(cluster.volume.volume)
                assert free.inode_count == 1
            assert [client.rid for client in cluster.servers[slot].info().clients] == list(RIDS)
            await cluster.resign(slot, term)
        assert all(not log.errors for log in cluster.logs)


async def test_the_last_majority_leaves_together_and_everybody_gets_an_answer() -> None:
    async with mounted() as cluster:
        await cluster.elect(0, 1)
        for client in cluster.clients:
            await client.wait_usable()
        held_back: list[str] = []
        left: list[int] = []

        async def leave(slot: int) -> None:
            await cluster.clients[slot].farewell(held_back.append)
            left.append(slot)

        await leave(2)
        assert left == [2], "the first of three leaves at once"
        cluster.volume.record(2, Event.END, RIDS[2], 1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(leave, 1)
            await until(lambda: bool(held_back))
            assert left == [2]
            (waiting,) = [client for client in cluster.servers[0].info().clients if client.farewell]
            assert waiting.rid == RIDS[1]
            nursery.start_soon(leave, 0)
        assert sorted(left) == [0, 1, 2]
        await cluster.resign(0, 1)
        assert "unmount slot 0 at" in held_back[0]
        assert cluster.fences[0].pending() == ()


async def test_after_a_failover_a_member_that_is_not_back_holds_the_others() -> None:
    async with mounted() as cluster:
        await cluster.elect(0, 1)
        for client in cluster.clients:
            await client.wait_usable()
        cluster.clients[2].abandon()  # dead, but its block says BEGIN
        await cluster.resign(0, 1)
        await cluster.elect(1, 2)
        await until(lambda: all(client.server is not None and client.server[1] == 2 for client in cluster.clients[:2]))
        async with trio.open_nursery() as nursery:
            for client in cluster.clients[:2]:
                nursery.start_soon(client.farewell, lambda text: None)
            await until(lambda: len([c for c in cluster.servers[1].info().clients if c.farewell]) == 2)
            info = cluster.servers[1].info()
            assert info.awaited_slots == (2,)
            assert {client.farewell for client in info.clients} == {
                "members of slots 2 may be mounted and have not come back yet"
            }
            nursery.cancel_scope.cancel()
