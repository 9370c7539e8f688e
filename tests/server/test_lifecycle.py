"""Servers from start to stop, in their own threads, with real sockets of 127.0.1.x."""

from __future__ import annotations

import contextlib
import errno
import queue
import socket
import threading
import time
from collections.abc import Iterator

import pytest
import trio

from format.net import Command, GreetingFlag
from format.quorum import Event
from scoutfs.counters import Counters
from scoutfs.errors import ScoutfsError
from scoutfs.network.connection import connect
from scoutfs.network.statfs import Statfs
from scoutfs.quorum.election import ServerStatus
from scoutfs.quorum.fencing import FenceRequests
from scoutfs.server.lifecycle import ServerThread
from tests.network.peer import Peer
from tests.server.fakes import FakeVolume, RecordedLog, quorum_config, record_mount

US, THEM = 0xA1, 0xB2
DEADLINE = 10.0


class Member:
    """Stands in for the agent: starts and stops the server of slot 0, and sees its statuses."""

    def __init__(self) -> None:
        self.config = quorum_config(3)
        self.volume = FakeVolume(self.config)
        self.log = RecordedLog()
        self.statuses: queue.Queue[ServerStatus] = queue.Queue()
        self.fences: FenceRequests | None = None
        self.server = ServerThread(
            self.volume,
            self.config,
            0,
            US,
            2,
            fences_factory=self.make_fences,
            log=self.log,
            counters=Counters(),
            on_status=self.statuses.put,
        )
        self.address = self.config.slots[0]

    def make_fences(self, nursery: trio.Nursery) -> FenceRequests:
        self.fences = FenceRequests(nursery, self.log)
        return self.fences

    def start(self, term: int = 1) -> None:
        self.volume.record(0, Event.BEGIN, US, term)
        self.volume.record(0, Event.ELECT, US, term)
        self.server.start(term)

    def reaches(self, *statuses: ServerStatus) -> None:
        assert [self.statuses.get(timeout=DEADLINE) for _ in statuses] == list(statuses)

    def logs(self, text: str) -> None:
        deadline = time.monotonic() + DEADLINE
        while not self.log.has(text):
            assert time.monotonic() < deadline, f"{text!r} was not logged"
            time.sleep(0.01)

    async def client(self, rid: int, server_term: int = 0) -> Peer:
        stream = (await connect(self.address, 24000)).stream
        peer = Peer(stream, rid, fsid=self.volume.fsid, flags=GreetingFlag.QUORUM)
        peer.session.server_term = server_term
        try:
            with trio.fail_after(DEADLINE):
                await peer.greet()
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        return peer


DOWN, STARTING, UP, STOPPING = ServerStatus


@pytest.fixture
def member() -> Iterator[Member]:
    member = Member()
    yield member
    member.server.stop()
    deadline = time.monotonic() + DEADLINE
    while [thread.name for thread in threading.enumerate() if thread.name.startswith("server-")]:
        assert time.monotonic() < deadline, "the server does not stop"
        time.sleep(0.01)
    assert member.server.status is DOWN


def test_up_and_down_again_and_again(member: Member) -> None:
    address = member.address
    for term in (1, 2, 3):
        member.start(term)
        assert member.server.status is not DOWN
        member.reaches(STARTING, UP)
        assert (member.server.info().status, member.server.info().term) == (UP, term)
        member.server.stop()
        member.reaches(STOPPING, DOWN)
        member.server.stop()
    assert (
        member.log.lines
        == [
            f"server starting at {address}",
            f"server ready at {address}",
            f"server shutting down at {address}",
            f"server stopped at {address}",
        ]
        * 3
    )


def test_a_start_while_it_runs_is_ignored(member: Member) -> None:
    member.start(1)
    member.reaches(STARTING, UP)
    member.server.start(2)
    assert member.server.info().term == 1


def test_a_stop_at_once_is_not_lost(member: Member) -> None:
    for term in range(1, 6):
        member.start(term)
        member.server.stop()
        seen = []
        while not seen or seen[-1] is not DOWN:
            seen.append(member.statuses.get(timeout=DEADLINE))
        assert seen[-2:] == [STOPPING, DOWN]


async def test_clients_are_served_and_shown(member: Member) -> None:
    member.start(5)
    member.reaches(STARTING, UP)
    peer = await member.client(0x77)
    assert peer.session.server_term == 5
    with trio.fail_after(DEADLINE):
        free = Statfs.parse((await peer.call(Command.STATFS)).payload)
    assert free.free_meta_blocks == 2048 - 7 - 3, "the record of the mount, and two more lists of free blocks"
    (client,) = member.server.info().clients
    assert (client.rid, client.member, client.connected, client.farewell) == (0x77, True, True, None)
    assert client.address.startswith("127.")
    await peer.ask(Command.FAREWELL)  # 1 of 3 slots is mounted: the last ones leave together
    assert (await peer.answer()) is not None
    await peer.close()
    assert member.server.info().clients == ()


async def test_a_held_back_farewell_is_explained(member: Member) -> None:
    member.start(5)
    member.reaches(STARTING, UP)
    first = await member.client(0x77)
    second = await member.client(0x88)
    await first.ask(Command.FAREWELL)
    with trio.fail_after(DEADLINE):
        while not any(client.farewell for client in member.server.info().clients):
            await trio.sleep(0.01)
    reasons = {client.rid: client.farewell for client in member.server.info().clients}
    assert reasons == {0x77: "the last members leave together: 0000000000000088 is not leaving yet", 0x88: None}
    await first.close()
    await second.close()
    with trio.fail_after(DEADLINE):
        while any(client.connected for client in member.server.info().clients):
            await trio.sleep(0.01)
    parked = [client.parked_since for client in member.server.info().clients]
    assert all(since is not None and 0 <= time.monotonic() - since < DEADLINE for since in parked)


async def test_clients_are_told_when_it_stops_and_can_go_on_with_the_next(member: Member) -> None:
    member.start(5)
    member.reaches(STARTING, UP)
    peer = await member.client(0x77)
    member.server.stop()
    with trio.fail_after(DEADLINE):
        assert await peer.is_closed()
        await peer.close()
        member_statuses = await trio.to_thread.run_sync(lambda: [member.statuses.get(timeout=DEADLINE) for _ in "12"])
    assert member_statuses == [STOPPING, DOWN]
    member.start(6)
    member.reaches(STARTING, UP)
    again = Peer((await connect(member.address, 24000)).stream, 0x77, fsid=member.volume.fsid, session=peer.session)
    with trio.fail_after(DEADLINE):
        assert await again.greet(), "a new server"
        assert (await again.call(Command.STATFS)).payload
    await again.close()


def test_nothing_else_is_read_before_previous_leaders_are_fenced(member: Member) -> None:
    member.volume.elected(1, THEM, 3)
    member.volume.super_error = ScoutfsError("the super block was read too early")
    member.start(5)
    member.reaches(STARTING)
    with pytest.raises(queue.Empty):
        member.statuses.get(timeout=0.2)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((member.address.address, member.address.port), timeout=1).close()
    member.logs("fencing previous leader")
    member.volume.super_error = None
    member.server.answer_fence(THEM, "fenced")
    member.reaches(UP)
    member.logs(f"successfully reclaimed resources for fenced rid {THEM:016x}")


def test_a_stop_does_not_wait_for_fencing(member: Member) -> None:
    member.volume.elected(1, THEM, 3)
    member.start(5)
    member.reaches(STARTING)
    before = time.monotonic()
    member.server.stop()
    member.reaches(STOPPING, DOWN)
    assert time.monotonic() - before < 5
    assert member.log.errors == []


def test_a_failed_fence_ends_the_start(member: Member) -> None:
    member.volume.elected(1, THEM, 3)
    member.start(5)
    member.reaches(STARTING)
    deadline = time.monotonic() + DEADLINE
    while member.fences is None or not member.fences.pending():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    member.server.answer_fence(THEM, "error")
    member.reaches(STOPPING, DOWN)
    assert member.log.errors[-1] == (
        f"server failed to fence previous leaders: mount {THEM:016x} could not be fenced, error -5"
    )


def test_a_port_in_use(member: Member) -> None:
    with socket.socket() as other:
        other.bind((member.address.address, member.address.port))
        other.listen()
        member.start()
        member.reaches(STARTING, STOPPING, DOWN)
    assert member.log.errors == [
        f"server failed to bind to {member.address}: Address already in use, error -{errno.EADDRINUSE}"
    ]
    member.start(2)
    member.reaches(STARTING, UP)


def test_a_super_block_that_cannot_be_read(member: Member) -> None:
    member.volume.super_error = ScoutfsError("/dev/meta: reading: Input/output error", errno.EIO)
    member.start()
    member.reaches(STARTING, STOPPING, DOWN)
    assert member.log.errors == [
        "server failed to read the super block: /dev/meta: reading: Input/output error, error -5"
    ]
    member.volume.super_error = None
    member.start(2)
    member.reaches(STARTING, UP)


def test_a_quorum_block_that_cannot_be_read(member: Member) -> None:
    member.volume.break_block(2)
    member.start()
    member.reaches(STARTING, STOPPING, DOWN)
    assert "error reading quorum block of slot 2" in member.log.errors[0]


def test_an_address_of_another_host() -> None:
    member = Member()
    slots = {**member.config.slots, 0: type(member.address)("192.0.2.1", 23450)}
    member.server.config = type(member.config)(1, slots)
    member.start()
    member.reaches(STARTING, STOPPING, DOWN)
    assert "server failed to bind to 192.0.2.1:23450: Cannot assign requested address" in member.log.errors[0]


async def test_a_port_scan_harms_nobody(member: Member) -> None:
    member.start()
    member.reaches(STARTING, UP)
    address = (member.address.address, member.address.port)
    with contextlib.ExitStack() as stack:
        for _ in range(100):
            socket.create_connection(address, timeout=DEADLINE).close()
        for _ in range(100):
            stack.enter_context(socket.create_connection(address, timeout=DEADLINE))
        peer = await member.client(0x77)
        with trio.fail_after(DEADLINE):
            assert (await peer.call(Command.STATFS)).payload
        await peer.close()
    assert member.server.status is UP
    assert len([text for text in member.log.lines if "dropped a connection" in text]) == 1


async def test_a_fenced_leader_is_not_let_in(member: Member) -> None:
    member.volume.elected(1, THEM, 3)
    member.volume.elected(2, 0xC3, 4)
    member.volume.record(2, Event.STOP, 0xC3, 4)
    member.start(5)
    member.reaches(STARTING, UP)  # slot 2's leader fenced the one of slot 1, and stopped
    with pytest.raises(AssertionError, match="closed without an answer"):
        await member.client(THEM)
    assert member.log.has(f"mount {THEM:016x} was fenced, and must not be let in again")


async def test_members_that_may_run_are_awaited_after_a_failover_and_dead_ones_are_not(member: Member) -> None:
    member.volume.elected(1, THEM, 3)  # led once, was fenced, never came back: its block still says that it began
    member.volume.elected(2, 0xC3, 4)
    member.volume.record(2, Event.STOP, 0xC3, 4)
    record_mount(member.volume.volume, US)
    member.start(5)
    member.reaches(STARTING, UP)
    peer = await member.client(US, server_term=4)
    assert member.server.info().awaited_slots == (2,)
    member.volume.record(2, Event.END, 0xC3, 4)
    with trio.fail_after(DEADLINE):
        while member.server.info().awaited_slots:
            await trio.sleep(0.01)
    assert member.log.lines[-1] == "all clients recovered"
    await peer.close()
