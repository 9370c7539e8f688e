"""The client of a mount, against services in memory and in virtual time."""

from __future__ import annotations

import errno
import math
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from format.net import Command, Greeting
from format.payloads import LockMode
from format.quorum import Event, QuorumConfig, SlotAddress
from scoutfs.client.answers import answer
from scoutfs.client.client import Client
from scoutfs.counters import Counters
from scoutfs.errors import ScoutfsError
from scoutfs.network.connection import Connection, Dialled
from scoutfs.network.framing import Side, greeting_response
from scoutfs.network.locks import LockMessage
from scoutfs.network.session import Request, Response, ServerSession
from scoutfs.offload import Offload
from scoutfs.server.mounted_clients import forget
from tests.server.fakes import FakeVolume, RecordedLog, record_mount
from tests.server.world import FREE, ROOTS, World, serving

US, B, C = 0xA1, 0xB2, 0xC3
SLOTS = {slot: SlotAddress(f"127.0.0.{slot + 1}", 23450) for slot in range(3)}


class Inline(Offload):
    """Runs at once: virtual time must not pass meanwhile."""

    async def __call__(self, function, *arguments):
        await trio.lowlevel.checkpoint()
        return function(*arguments)


class Cluster:
    """A volume of three slots, the services that run in them, and one client."""

    def __init__(self, member: bool) -> None:
        self.volume = FakeVolume(QuorumConfig(1, SLOTS))
        self.log, self.counters = RecordedLog(), Counters()
        self.worlds: dict[SlotAddress, World | None] = {}
        self.dials: list[float] = []
        self.client = Client(
            self.volume,
            US,
            member=member,
            keepalive_ms=24000,
            log=self.log,
            counters=self.counters,
            dial=self.dial,
            offload=Inline(),
        )
        self.held_back: list[str] = []
        self.left = trio.Event()

    async def dial(self, address: SlotAddress, keepalive_ms: int) -> Dialled:
        assert keepalive_ms == 24000
        await trio.lowlevel.checkpoint()
        self.dials.append(trio.current_time())
        world = self.worlds.get(address)
        if world is None or (isinstance(world, World) and world.stopped.is_set()):
            raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
        return world.dialled()

    @asynccontextmanager
    async def server(self, slot: int, rid: int, term: int, votes_needed: int = 2) -> AsyncIterator[World]:
        """A server of `term` in `slot` that ends cleanly."""
        self.volume.elected(slot, rid, term)
        async with serving(votes_needed, fsid=self.volume.fsid, term=term, volume=self.volume.volume) as world:
            self.worlds[SLOTS[slot]] = world
            yield world
            world.stopped.set()
            await world.ended.wait()
        self.worlds[SLOTS[slot]] = None
        self.volume.record(slot, Event.STOP, rid, term)

    async def leave(self) -> None:
        await self.client.farewell(self.held_back.append)
        self.left.set()


@asynccontextmanager
async def mounted(member: bool = True) -> AsyncIterator[Cluster]:
    with trio.fail_after(2000):
        async with trio.open_nursery() as nursery:
            cluster = Cluster(member)
            await nursery.start(cluster.client.run)
            yield cluster
            nursery.cancel_scope.cancel()


async def test_it_finds_the_server_and_asks_it(autojump_clock: MockClock) -> None:
    async with mounted() as cluster:
        assert not cluster.client.connected
        assert cluster.client.waiting_since is not None
        async with cluster.server(1, B, 5) as world:
            await cluster.client.wait_usable()
            assert cluster.client.server == (SlotAddress("127.0.0.1", 23450), 5)
            assert cluster.client.waiting_since is None
            assert await cluster.client.statfs() == FREE
            (client,) = world.clients.clients.values()
            assert (client.rid, client.member) == (US, True)
        assert cluster.log.lines[0] == "client connected 10.0.0.9:50001 -> 127.0.0.1:23450"


async def test_it_asks_for_the_roots(autojump_clock: MockClock) -> None:
    async with mounted() as cluster, cluster.server(1, B, 5):
        assert await cluster.client.roots() == ROOTS


async def test_a_mount_without_a_slot_says_so(autojump_clock: MockClock) -> None:
    async with mounted(member=False) as cluster, cluster.server(1, B, 5) as world:
        await cluster.client.wait_usable()
        assert not world.clients.clients[US].member


async def test_requests_wait_for_a_server_and_can_be_interrupted(autojump_clock: MockClock) -> None:
    async with mounted() as cluster:
        with trio.move_on_after(5) as scope:
            await cluster.client.statfs()
        assert scope.cancelled_caught
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cluster.client.statfs)
            await trio.sleep(5)
            async with cluster.server(1, B, 5) as world:
                await trio.sleep(1)
                assert world.statfs_reads == 1, "the interrupted one is forgotten"


async def test_what_it_waits_for_is_said_once_and_when_it_is_over(autojump_clock: MockClock) -> None:
    async with mounted() as cluster:
        await trio.sleep(0.9)
        assert cluster.log.lines == []
        await trio.sleep(60)
        assert cluster.log.lines == ["waiting for a server: no quorum slot has a leader"]
        async with cluster.server(1, B, 5):
            await cluster.client.wait_usable()
            assert cluster.log.lines[1] == "client connected 10.0.0.9:50001 -> 127.0.0.1:23450"
            assert cluster.log.lines[2].startswith("found a server after 60.9 s")
        await trio.sleep(60)
        assert cluster.log.lines[-1].startswith("waiting for a server: ")
        assert len([text for text in cluster.log.lines if text.startswith("waiting")]) == 2


async def test_a_short_wait_is_not_worth_a_line(autojump_clock: MockClock) -> None:
    async with mounted() as cluster:
        await trio.sleep(0.5)
        async with cluster.server(1, B, 5):
            await cluster.client.wait_usable()
        assert not cluster.log.has("waiting for a server")
        assert not cluster.log.has("found a server")


async def test_attempts_are_a_tenth_of_a_second_apart(autojump_clock: MockClock) -> None:
    async with mounted() as cluster:
        cluster.volume.elected(1, B, 5)  # nobody listens there
        await trio.sleep(2)
        assert 18 <= len(cluster.dials) <= 21
        assert cluster.client.waiting_for == (
            "the server of slot 1 at 127.0.0.2:23450 does not answer: Connection refused"
        )


async def test_w11_an_unreadable_block_does_not_keep_it_from_another_slots_server(autojump_clock: MockClock) -> None:
    async with mounted() as cluster:
        cluster.volume.break_block(2)
        await trio.sleep(2)
        assert cluster.log.has("no quorum slot has a leader; the block of slot 2 cannot be read")
        async with cluster.server(1, B, 5):
            await cluster.client.wait_usable()


async def test_an_unreadable_super_block_is_waited_out(autojump_clock: MockClock) -> None:
    async with mounted() as cluster:
        cluster.volume.super_error = ScoutfsError("/dev/meta: reading: Input/output error", errno.EIO)
        await trio.sleep(5)
        assert cluster.log.lines == ["waiting for a server: /dev/meta: reading: Input/output error"]
        cluster.volume.super_error = None
        async with cluster.server(1, B, 5):
            await cluster.client.wait_usable()


async def test_after_a_broken_connection_it_comes_back_at_once(autojump_clock: MockClock) -> None:
    async with mounted() as cluster, cluster.server(1, B, 5) as world:
        await cluster.client.wait_usable()
        await trio.sleep(10)
        before = trio.current_time()
        for connection in list(world.service._connections.values()):
            connection.close("cut by the test")
        await wait_all_tasks_blocked()
        assert cluster.client.connected
        assert trio.current_time() == before
        assert len(world.clients.clients) == 1


async def test_an_unanswered_request_goes_to_the_next_server(autojump_clock: MockClock) -> None:
    async with mounted() as cluster:
        answers = []

        async def ask() -> None:
            answers.append(await cluster.client.statfs())

        async with cluster.server(1, B, 5) as world:
            await cluster.client.wait_usable()
            world.statfs_time = math.inf
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask)
                await trio.sleep(1)
                world.stopped.set()
                await world.ended.wait()
                cluster.volume.record(1, Event.STOP, B, 5)
                async with cluster.server(2, C, 6) as successor:
                    await trio.sleep(1)
                    assert answers == [FREE]
                    assert successor.clients.took_over


async def test_a_server_of_another_volume_is_tried_for_ever_and_said_once(autojump_clock: MockClock) -> None:
    async with mounted() as cluster:
        cluster.volume.elected(1, B, 5)
        async with serving(fsid=cluster.volume.fsid + 1, term=5) as world:
            cluster.worlds[SLOTS[1]] = world
            await trio.sleep(10)
            assert len(cluster.dials) > 50
            (line,) = cluster.log.lines
            assert line.startswith("waiting for a server: the server at 127.0.0.1:23450 does not accept the greeting: ")
            assert line.endswith("the server refused the greeting: EINVAL")


async def test_a_fenced_mount_is_told_what_may_have_happened(autojump_clock: MockClock) -> None:
    async with mounted() as cluster, cluster.server(1, B, 5) as world:
        await cluster.client.wait_usable()
        world.clients.fenced(US)
        world.service._connections[US].close("fenced")
        await trio.sleep(5)
        assert not cluster.client.connected
        assert "as it does if this mount was fenced" in cluster.log.lines[-1]


class Frozen:
    """A server that accepts connections and says nothing, or nothing after the greeting."""

    def __init__(self, fsid: int, term: int, greets: bool) -> None:
        self.fsid, self.term, self.greets = fsid, term, greets
        self.streams: list[trio.abc.HalfCloseableStream] = []

    def dialled(self) -> Dialled:
        ours, theirs = memory_stream_pair()
        self.streams.append(theirs)
        trio.lowlevel.spawn_system_task(self.serve, theirs)
        return Dialled(ours, SlotAddress("10.0.0.9", 1), SlotAddress("127.0.0.1", 23450))

    async def serve(self, stream) -> None:
        connection = Connection(stream, Side.SERVER, Counters(), *[SlotAddress("127.0.0.1", 1)] * 2)

        def received(frame) -> None:
            if frame.header.command is Command.GREETING and self.greets:
                greeting = Greeting(self.fsid, 2, self.term, US)
                connection.greet(greeting_response(frame.header, greeting.build()))
                connection.attach(ServerSession(frame.header.id))

        await connection.run(received)


@pytest.mark.parametrize("greets", [False, True])
async def test_a_frozen_server_is_left_once_a_later_leader_is_recorded(greets: bool, autojump_clock: MockClock) -> None:
    async with mounted() as cluster:
        cluster.volume.elected(1, B, 5)
        cluster.worlds[SLOTS[1]] = Frozen(cluster.volume.fsid, 5, greets)
        record_mount(cluster.volume.volume, US)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cluster.client.statfs)
            await trio.sleep(30)
            assert cluster.client.connected is greets, "there is no other server yet"
            assert len(cluster.dials) == 1
            async with cluster.server(2, C, 6):
                with trio.fail_after(5):
                    while cluster.client.server is None or cluster.client.server[1] != 6:
                        await trio.sleep(0.1)
                await trio.sleep(1)  # the question is answered there


async def test_a_frozen_server_that_owes_a_lock_is_left_too(autojump_clock: MockClock) -> None:
    async with mounted() as cluster:
        cluster.volume.elected(1, B, 5)
        cluster.worlds[SLOTS[1]] = Frozen(cluster.volume.fsid, 5, True)
        record_mount(cluster.volume.volume, US)
        await cluster.client.wait_usable()
        answers = []
        talk = SimpleNamespace(
            server_changed=lambda: None, asked=answer, answered=answers.append, abandoned=lambda: None
        )
        cluster.client.conversation = talk  # type: ignore[assignment]
        cluster.client.send(Command.LOCK, LockMessage(bytes(27), LockMode.NULL, LockMode.READ).build())
        await trio.sleep(30)
        assert cluster.client.connected
        async with cluster.server(2, C, 6):
            with trio.fail_after(5):
                while not answers:
                    await trio.sleep(0.1)
        assert [answer.command for answer in answers] == [Command.LOCK]


async def test_the_blocks_are_not_read_while_nothing_waits_for_an_answer(autojump_clock: MockClock) -> None:
    async with mounted() as cluster, cluster.server(1, B, 5):
        await cluster.client.wait_usable()
        reads = cluster.volume.reads
        await trio.sleep(500)
        assert cluster.volume.reads == reads


async def test_a_servers_questions_are_answered(autojump_clock: MockClock) -> None:
    async with mounted() as cluster, cluster.server(1, B, 5) as world:
        await cluster.client.wait_usable()
        session = world.clients.clients[US].session
        assert session is not None
        answers = []
        connection = world.service._connections[US]
        receive = connection.receive

        def recorded(frame):
            received = receive(frame)
            if isinstance(received, (Request, Response)):
                answers.append(received)
            return received

        connection.receive = recorded  # type: ignore[method-assign]
        session.request(Command.LOCK_RECOVER, bytes(32))
        connection.wake()
        await wait_all_tasks_blocked()
        assert [(answer.command, answer.payload) for answer in answers] == [(Command.LOCK_RECOVER, bytes(8))]


# -- leaving -----------------------------------------------------------------------------------------------------------


async def test_a_mount_that_never_had_a_server_just_goes(autojump_clock: MockClock) -> None:
    async with mounted() as cluster:
        await trio.sleep(1)
        before = trio.current_time()
        await cluster.leave()
        assert trio.current_time() - before < 0.2


async def test_farewell(autojump_clock: MockClock) -> None:
    async with mounted() as cluster, cluster.server(1, B, 5, votes_needed=1) as world:
        await cluster.client.wait_usable()
        dials = len(cluster.dials)
        await cluster.leave()
        await trio.sleep(100)
        assert cluster.held_back == []
        assert not world.clients.clients
        assert world.fences.pending() == ()
        assert not cluster.client.connected
        assert len(cluster.dials) == dials


async def test_a_server_that_has_forgotten_a_leaving_mount_lets_it_go(autojump_clock: MockClock) -> None:
    """Its answer was lost with the connection; the next greeting says that the mount is leaving (spec 03 §3.4)."""
    async with mounted() as cluster, cluster.server(1, B, 5) as world:
        await cluster.client.wait_usable()
        farewell = world.clients.farewell

        def lose_the_first(rid, session, request):
            world.clients.farewell = farewell
            del world.clients.clients[rid]
            world.service._connections[rid].close("cut by the test")

        world.clients.farewell = lose_the_first  # type: ignore[method-assign]
        before = trio.current_time()
        await cluster.leave()
        assert trio.current_time() - before < 0.5


async def test_what_holds_the_mount_back_is_explained(autojump_clock: MockClock) -> None:
    async with mounted() as cluster, cluster.server(1, B, 5) as world:
        cluster.volume.record(0, Event.BEGIN, US, 1)
        await cluster.client.wait_usable()
        other = await world.mounted(B)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cluster.leave)
            await trio.sleep(60)
            (text,) = cluster.held_back
            assert text.startswith("the last 2 quorum members leave together")
            assert text.endswith("unmount slot 1 at 127.0.0.2 too, as far as it still runs")
            assert not cluster.left.is_set()
            await other.ask(Command.FAREWELL)
            await cluster.left.wait()


async def test_a_farewell_waits_for_a_server_and_says_so(autojump_clock: MockClock) -> None:
    async with mounted() as cluster:
        cluster.volume.record(0, Event.BEGIN, US, 1)
        async with cluster.server(1, B, 5):
            await cluster.client.wait_usable()
        cluster.volume.record(2, Event.BEGIN, C, 5)  # somebody is left who may lead
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cluster.leave)
            await trio.sleep(30)
            assert not cluster.left.is_set()
            assert "no server can be told that this mount leaves: " in cluster.held_back[-1]
            assert "'umount -f'" in cluster.held_back[-1]
            async with cluster.server(2, C, 6, votes_needed=1):
                await cluster.left.wait()


async def test_a_farewell_whose_answer_is_lost_with_the_last_server_is_over(autojump_clock: MockClock) -> None:
    """The server's own mount left too; nobody is there who could answer, and the volume does not know us any more."""
    async with mounted() as cluster:
        cluster.volume.record(0, Event.BEGIN, US, 1)
        async with cluster.server(1, B, 5) as world:
            await cluster.client.wait_usable()
            await world.mounted(B)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(cluster.leave)
                await trio.sleep(5)
                assert not cluster.left.is_set()
                await world.volume.change(lambda volume: forget(volume, US))
                world.stopped.set()
                await world.ended.wait()
                cluster.volume.record(1, Event.STOP, B, 5)
                await trio.sleep(1)
                assert cluster.left.is_set()


async def test_a_refused_farewell_is_counted_and_does_not_keep_the_mount(autojump_clock: MockClock) -> None:
    async with mounted() as cluster, cluster.server(1, B, 5) as world:
        await cluster.client.wait_usable()
        world.clients.farewell = lambda rid, session, request: session.respond(request, b"", 3)  # type: ignore
        await cluster.leave()
        assert cluster.counters.snapshot()["client_farewell_error"] == 1
        assert cluster.log.has("client saw farewell error: FAREWELL: Input/output error")


async def test_abandoning_ends_every_wait(autojump_clock: MockClock) -> None:
    async with mounted() as cluster:
        errors = []

        async def ask() -> None:
            try:
                await cluster.client.statfs()
            except ScoutfsError as error:
                errors.append(error.errno)

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(ask)
            await trio.sleep(1)
            cluster.client.abandon()
        assert errors == [errno.ECONNABORTED] * 3
        await ask()
        assert errors[-1] == errno.ENOLINK
        dials = len(cluster.dials)
        await cluster.leave()
        await trio.sleep(10)
        assert len(cluster.dials) == dials


async def test_abandoning_ends_the_wait_for_a_server(autojump_clock: MockClock) -> None:
    async with mounted() as cluster:
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def wait() -> None:
                with pytest.raises(ScoutfsError) as error:
                    await cluster.client.wait_usable()
                assert error.value.errno == errno.ENOLINK

            await wait_all_tasks_blocked()
            cluster.client.abandon()


async def test_abandoning_says_nothing_to_the_server(autojump_clock: MockClock) -> None:
    async with mounted() as cluster, cluster.server(1, B, 5) as world:
        await cluster.client.wait_usable()
        received = world.counters.snapshot()["net_recv_messages"]
        cluster.client.abandon()
        await trio.sleep(19)
        assert world.counters.snapshot()["net_recv_messages"] == received
        assert world.clients.clients[US].parked_since is not None
        await trio.sleep(2)
        assert [view.rid for view in world.fences.pending()] == [US]
