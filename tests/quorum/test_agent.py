"""The agent on real sockets and a real volume, in virtual time."""

from __future__ import annotations

import errno
import logging
import random
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
import trio.testing

from format.message import Message, MessageType
from format.quorum import Event, QuorumConfig, SlotAddress
from scoutfs.errors import ScoutfsError
from scoutfs.quorum.actions import ORIGINAL_RULES, STRICT_RULES
from scoutfs.quorum.agent import bind_socket
from scoutfs.quorum.election import ServerStatus
from scoutfs.quorum.status import Role
from tests.faults import BadSectors
from tests.quorum.members import Disk, Member, datagram, free_config, inline, peer, running, until

Clock = trio.testing.MockClock


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path)


@pytest.fixture
def config() -> QuorumConfig:
    return free_config()


def send(sock: socket.socket, config: QuorumConfig, data: bytes, slot: int = 0) -> None:
    sock.sendto(data, (config.slots[slot].address, config.slots[slot].port))


def received(sock: socket.socket, disk: Disk) -> list[Message]:
    """All that has come to a peer's socket."""
    messages = []
    while True:
        try:
            messages.append(Message.parse(sock.recv(100), disk.fsid))
        except BlockingIOError:
            return messages


# the socket


def test_the_socket_is_bound_to_the_slot_and_shared_with_nobody(config: QuorumConfig) -> None:
    with peer(config, 0) as sock:
        assert sock.getsockname() == (config.slots[0].address, config.slots[0].port)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR) == 0
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT) == 0
        assert not sock.get_inheritable()
        with pytest.raises(ScoutfsError, match="another mount on this host uses the slot") as caught:
            bind_socket(0, config.slots[0])
        assert caught.value.errno == errno.EADDRINUSE


def test_an_address_of_another_host_cannot_be_bound() -> None:
    with pytest.raises(ScoutfsError, match="no interface of this host has that address") as caught:
        bind_socket(3, SlotAddress("192.0.2.1", 4000))
    assert caught.value.errno == errno.EADDRNOTAVAIL
    assert "quorum slot 3: cannot bind UDP 192.0.2.1:4000" in str(caught.value)


# elections


async def test_three_agents_elect_one_leader_that_all_follow(
    disk: Disk, config: QuorumConfig, autojump_clock: Clock
) -> None:
    members = [Member(disk, config, slot, run_sync=inline) for slot in range(3)]
    async with running(*members):
        took = await until(lambda: any(m.leads for m in members), 2)
        assert 0.25 <= took <= 0.8
        (leader,) = [m for m in members if m.leads]
        await until(lambda: leader.status.server_event == 3, 1)
        term = leader.status.term
        assert leader.server.log == [f"start {term}"]
        assert disk.terms(leader.slot) == {"BEGIN": 0, "TERM": term, "ELECT": term, "FENCE": term}
        await trio.sleep(20)
        for member in members:
            assert member.status.term == term
            assert member.leads == (member is leader)
            assert "ELECT" not in disk.terms(member.slot) or member is leader
            if member is not leader:
                # a heartbeat every 100 ms
                assert 195 <= member.counted()["quorum_recv_heartbeat"] <= 210
                assert 0 <= trio.current_time() - member.status.last_recv[leader.slot].time <= 0.21


async def test_a_killed_leader_is_replaced(disk: Disk, config: QuorumConfig, autojump_clock: Clock) -> None:
    members = [Member(disk, config, slot, heartbeat_timeout=2.0, run_sync=inline) for slot in range(3)]
    async with running(*members):
        await until(lambda: any(m.leads and m.status.server_event == 3 for m in members), 2)
        (old,) = [m for m in members if m.leads]
        await trio.sleep(1)
        old.kill()
        others = [m for m in members if m is not old]
        took = await until(lambda: any(m.leads for m in others), 10)
        assert 1.8 <= took <= 2.6
        (new,) = [m for m in others if m.leads]
        assert new.status.term > old.status.term
        left = disk.terms(old.slot)
        assert left["ELECT"] == left["FENCE"] == old.status.term
        assert "STOP" not in left
        assert "END" not in left
        assert disk.terms(new.slot)["ELECT"] == new.status.term


async def test_a_leader_that_leaves_records_it_and_is_replaced_at_once(
    disk: Disk, config: QuorumConfig, autojump_clock: Clock
) -> None:
    members = [Member(disk, config, slot, run_sync=inline) for slot in range(3)]
    async with running(*members):
        await until(lambda: any(m.leads and m.status.server_event == 3 for m in members), 2)
        (old,) = [m for m in members if m.leads]
        term = old.status.term
        old.agent.leave()
        await until(lambda: old.result is None, 1)
        assert old.server.log == [f"start {term}", "stop"]
        assert disk.terms(old.slot) == dict.fromkeys(("TERM", "ELECT", "FENCE", "STOP", "END"), term) | {"BEGIN": 0}
        block = disk.block(old.slot)
        assert block.event(Event.END).write_nr > block.event(Event.STOP).write_nr > block.event(Event.BEGIN).write_nr
        others = [m for m in members if m is not old]
        took = await until(lambda: any(m.leads for m in others), 2)
        assert took <= 0.8
        for member in others:
            member.agent.leave()
        await until(lambda: all(m.result is None for m in members), 2)
        assert not any(disk.block(slot).agent_may_run for slot in range(3))
        assert all(disk.block(slot).leader is None for slot in range(3))


async def test_leaving_waits_for_the_server(disk: Disk, config: QuorumConfig, autojump_clock: Clock) -> None:
    alone = free_config([0])
    member = Member(disk, alone, 0, run_sync=inline)
    member.server.downs = False
    async with running(member):
        await until(lambda: member.leads, 2)
        member.agent.leave()
        await trio.sleep(5)
        assert member.result == "running"
        assert "STOP" not in disk.terms(0)
        member.server.become(ServerStatus.DOWN)
        await until(lambda: member.result is None, 1)
        assert {"STOP", "END"} <= disk.terms(0).keys()


async def test_a_follower_leaves_at_once_whatever_it_waits_for(
    disk: Disk, config: QuorumConfig, autojump_clock: Clock
) -> None:
    # the record of a leader in another slot makes it wait for a heartbeat
    disk.change(1, (Event.BEGIN, 1, 4), (Event.ELECT, 1, 5))
    member = Member(disk, config, 0, run_sync=inline)
    async with running(member):
        await trio.sleep(1)
        member.agent.leave()
        assert await until(lambda: member.result is None, 1) <= 0.05
        assert disk.terms(0) == {"BEGIN": 5, "END": 5}


async def test_the_status_is_published_before_elect_is_written(disk: Disk, autojump_clock: Clock) -> None:
    alone = free_config([0])
    elects: list[str] = []

    async def watched(function: Callable[[], object]) -> object:
        before = set(disk.terms(0))
        result = await inline(function)
        if "ELECT" in set(disk.terms(0)) - before:
            elects.append(member.status.role.name)
        return result

    member = Member(disk, alone, 0, run_sync=watched)
    async with running(member):
        await until(lambda: elects, 2)
        assert elects == ["LEADER"]


async def test_snapshots_are_published_ten_times_a_second_at_most(
    disk: Disk, config: QuorumConfig, autojump_clock: Clock
) -> None:
    members = [Member(disk, config, slot, run_sync=inline) for slot in range(3)]
    async with running(*members):
        await until(lambda: any(m.leads and m.status.server_event == 3 for m in members), 2)
        counts = [len(m.published) for m in members]
        await trio.sleep(10)
        for member, before in zip(members, counts, strict=True):
            assert 90 <= len(member.published) - before <= 105
            times = [time for time, _ in member.published]
            assert all(status.timeout >= time - 0.2 for time, status in member.published[-50:])
            assert times == sorted(times)


async def test_a_new_heartbeat_timeout_is_used_the_next_time(
    disk: Disk, config: QuorumConfig, autojump_clock: Clock
) -> None:
    member = Member(disk, config, 0, run_sync=inline)
    with peer(config, 1) as sock:
        async with running(member):
            send(sock, config, datagram(disk, MessageType.HEARTBEAT, 5, 1))
            await until(lambda: member.published and member.status.term == 5, 1)
            assert 9.8 < member.status.timeout - trio.current_time() < 10.2
            member.agent.set_heartbeat_timeout(30)
            await trio.sleep(0.3)
            assert member.status.timeout - trio.current_time() < 10.2
            send(sock, config, datagram(disk, MessageType.HEARTBEAT, 5, 1))
            await trio.sleep(0.3)
            assert 29.5 < member.status.timeout - trio.current_time() < 30.2


# what is received


async def test_a_late_agent_that_finds_a_heartbeat_stays_a_follower(
    disk: Disk, config: QuorumConfig, mock_clock: Clock
) -> None:
    member = Member(disk, config, 0, run_sync=inline)
    with peer(config, 1) as sock:
        async with running(member):
            send(sock, config, datagram(disk, MessageType.HEARTBEAT, 5, 1))
            while not (member.published and member.counted().get("quorum_recv_heartbeat") == 1):
                await trio.lowlevel.checkpoint()
            await trio.testing.wait_all_tasks_blocked()
            # the whole process stands still for 30 s, and the leader's message waits in the socket
            send(sock, config, datagram(disk, MessageType.HEARTBEAT, 5, 1))
            mock_clock.jump(30)
            await trio.testing.wait_all_tasks_blocked()
            assert member.counted()["quorum_recv_heartbeat"] == 2
            assert "quorum_send_request" not in member.counted()
            # without one it stands, as soon as it has found that nothing waits
            mock_clock.jump(30)
            await trio.testing.wait_all_tasks_blocked()
            assert member.counted()["quorum_send_request"] == 1


async def test_a_message_of_a_greater_term_is_on_disk_before_its_vote_is_sent(
    disk: Disk, config: QuorumConfig, autojump_clock: Clock
) -> None:
    gate = trio.Event()

    async def slow(function: Callable[[], object]) -> object:
        if member.published and "BEGIN" in disk.terms(0):
            await gate.wait()
        return await inline(function)

    member = Member(disk, config, 0, run_sync=slow)
    with peer(config, 1) as sock:
        async with running(member):
            await until(lambda: "BEGIN" in disk.terms(0) and member.published, 1, 0.001)
            send(sock, config, datagram(disk, MessageType.REQUEST_VOTE, 9, 1))
            await trio.sleep(0.2)
            assert received(sock, disk) == []
            assert "TERM" not in disk.terms(0)
            gate.set()
            await trio.sleep(0.01)
            assert received(sock, disk) == [Message(9, MessageType.VOTE, 0)]
            assert disk.terms(0)["TERM"] == 9


def invalid_datagrams(disk: Disk) -> dict[str, bytes]:
    good = datagram(disk, MessageType.HEARTBEAT, 7, 1)
    flipped = bytearray(good)
    flipped[20] ^= 1
    return {
        "empty": b"",
        "31 bytes": good[:31],
        "flipped bit": bytes(flipped),
        "other fsid": Message(7, MessageType.HEARTBEAT, 1).build(disk.fsid ^ 1),
        "absent slot": Message(7, MessageType.HEARTBEAT, 5).build(disk.fsid),
        "zeros": bytes(32),
        "another slot's name": Message(7, MessageType.HEARTBEAT, 2).build(disk.fsid),
    }


async def test_invalid_datagrams_are_counted_and_change_nothing(
    disk: Disk, config: QuorumConfig, autojump_clock: Clock
) -> None:
    disk.change(2, (Event.BEGIN, 1, 4), (Event.ELECT, 1, 5))
    member = Member(disk, config, 0, run_sync=inline)
    with peer(config, 1) as sock:
        async with running(member):
            await trio.sleep(0.2)
            before, raw = member.status, disk.raw()
            bad = invalid_datagrams(disk)
            for data in bad.values():
                send(sock, config, data)
            await trio.sleep(0.2)
            assert member.counted() == {"quorum_recv_invalid": len(bad)}
            assert member.status == before
            assert disk.raw() == raw
            # a longer one is taken if it starts with a message
            send(sock, config, datagram(disk, MessageType.HEARTBEAT, 7, 1) + b"more")
            await trio.sleep(0.2)
            assert member.status.term == 7


async def test_messages_that_do_not_come_from_the_slots_address_are_dropped_and_reported_once(
    disk: Disk, config: QuorumConfig, autojump_clock: Clock
) -> None:
    disk.change(2, (Event.BEGIN, 1, 4), (Event.ELECT, 1, 5))
    member = Member(disk, config, 0, run_sync=inline)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as forger:
        forger.bind((config.slots[1].address, 0))
        async with running(member):
            for term in (7, 8, 9):
                send(forger, config, datagram(disk, MessageType.HEARTBEAT, term, 1))
            await trio.sleep(0.5)
            assert member.counted() == {"quorum_recv_invalid": 3}
            assert member.status.term == 5
            assert disk.terms(0) == {"BEGIN": 5}
            (line,) = [text for level, text in member.lines if level == logging.WARNING]
            assert "{}:{}".format(*forger.getsockname()) in line
            assert str(config.slots[1]) in line


async def test_ten_thousand_damaged_datagrams_do_nothing(
    disk: Disk, config: QuorumConfig, autojump_clock: Clock
) -> None:
    disk.change(2, (Event.BEGIN, 1, 4), (Event.ELECT, 1, 5))
    member = Member(disk, config, 0, heartbeat_timeout=60.0, run_sync=inline)
    rand = random.Random(1)
    good = datagram(disk, MessageType.REQUEST_VOTE, 7, 1)

    def damaged() -> bytes:
        kind = rand.randrange(4)
        if kind == 0:
            return rand.randbytes(rand.randrange(80))
        if kind == 1:
            return good[: rand.randrange(32)]
        data = bytearray(good)
        for _ in range(rand.randint(1, 4)):
            data[rand.randrange(32)] ^= 1 << rand.randrange(8)
        return bytes(data) if data != good else b""

    with peer(config, 1) as sock:
        async with running(member):
            await trio.sleep(0.2)
            before, raw = member.status, disk.raw()
            for _ in range(100):
                for _ in range(100):
                    send(sock, config, damaged())
                await trio.sleep(0.001)
            assert member.counted() == {"quorum_recv_invalid": 10_000}
            await trio.sleep(0.2)
            assert member.status == before
            assert disk.raw() == raw
            assert received(sock, disk) == []


async def test_ten_thousand_valid_datagrams_keep_the_block_valid_and_the_agent_alive(
    disk: Disk, config: QuorumConfig, autojump_clock: Clock
) -> None:
    member = Member(disk, config, 0, run_sync=inline)
    rand = random.Random(2)
    terms = [0, 1, 2, 3, 2**31, 2**32 + 5, 2**63, 2**64 - 1]
    with peer(config, 1) as one, peer(config, 2) as two:
        async with running(member):
            greatest = 0
            for _ in range(200):
                for _ in range(50):
                    slot, sock = rand.choice([(1, one), (2, two)])
                    term = rand.choice([*terms, greatest, greatest + 1])
                    send(sock, config, datagram(disk, MessageType(rand.randrange(4)), term % 2**64, slot))
                await trio.sleep(rand.choice([0.0001, 0.01, 0.4]))
                received(one, disk)
                received(two, disk)
                block = disk.block(0)
                assert block.write_nr == max(record.write_nr for record in block.events.values())
                await trio.sleep(0.1)
                assert member.status.term >= max(greatest, block.greatest_term)
                greatest = member.status.term
            assert member.result == "running"
            # terms more than 2**32 above what is known are refused
            assert greatest < 2**33
            member.agent.leave()
            await until(lambda: member.result is None, 2)
            assert not disk.block(0).agent_may_run


# what fails


async def test_a_failed_update_ends_the_agent_after_its_server(disk: Disk, autojump_clock: Clock) -> None:
    alone = free_config([0])
    bad = BadSectors(range(17 * 4096, 18 * 4096), reads=False, writes=False)
    member = Member(disk, alone, 0, run_sync=inline, io=bad)
    order: list[str] = []
    member.server.ups = False
    async with running(member):
        await until(lambda: member.server.log == ["start 1"], 2)
        bad.writes = True
        member.server.become(ServerStatus.UP)
        await until(lambda: member.result != "running", 2)
        order = member.server.log
        assert order == ["start 1", "stop"]
        assert member.result is not None
        assert "for event FENCE of term 1" in member.result
        (line,) = [text for level, text in member.lines if level == logging.ERROR]
        assert "no longer takes part in quorum" in line
        # the last status stays to be read
        assert member.status.term == 1
        assert disk.terms(0) == {"BEGIN": 0, "TERM": 1, "ELECT": 1}


async def test_a_mount_whose_begin_fails_never_takes_part(
    disk: Disk, config: QuorumConfig, autojump_clock: Clock
) -> None:
    member = Member(disk, config, 0, run_sync=inline, io=BadSectors(range(17 * 4096, 18 * 4096)))
    with peer(config, 1) as sock:
        async with running(member):
            await until(lambda: member.result != "running", 1)
            assert received(sock, disk) == []
    errors = [text for level, text in member.lines if level == logging.ERROR]
    assert any("error reading quorum block of slot 0" in text for text in errors)
    assert disk.terms(0) == {}


async def test_a_second_mount_in_the_slot_makes_the_first_leave(disk: Disk, autojump_clock: Clock) -> None:
    alone = free_config([0])
    member = Member(disk, alone, 0, run_sync=inline)
    async with running(member):
        await trio.sleep(0.1)
        disk.change(0, (Event.BEGIN, 0xBEEF, 0))
        await until(lambda: member.result != "running", 2)
        assert member.result is not None
        assert "beef" in member.result
        assert disk.terms(0) == {"BEGIN": 0}


async def test_an_unreadable_block_of_another_slot_is_reported_once(disk: Disk, autojump_clock: Clock) -> None:
    two = free_config([0, 1])
    member = Member(disk, two, 0, run_sync=inline, io=BadSectors(range(18 * 4096, 19 * 4096)))
    async with running(member):
        await until(lambda: member.leads, 5)
        await trio.sleep(10)
        errors = [text for level, text in member.lines if level == logging.ERROR]
        assert len(errors) == 1
        assert errors[0].startswith("error reading quorum block of slot 1: ")
        assert member.leads


async def test_heartbeats_do_not_wait_for_the_disk(disk: Disk, config: QuorumConfig, autojump_clock: Clock) -> None:
    hung = False

    async def hangs(function: Callable[[], object]) -> object:
        if hung:
            await trio.sleep(7)
        return await inline(function)

    member = Member(disk, config, 0, run_sync=hangs)
    member.server.ups = False
    with peer(config, 1) as sock:
        async with running(member):
            await until(lambda: received(sock, disk), 2)
            send(sock, config, datagram(disk, MessageType.VOTE, 1, 1))
            await until(lambda: member.server.log, 2)
            hung = True
            member.server.become(ServerStatus.UP)
            await trio.sleep(6)
            beats = [message for message in received(sock, disk) if message.type is MessageType.HEARTBEAT]
            assert 55 <= len(beats) <= 65
            assert "FENCE" not in disk.terms(0)
            await until(lambda: "FENCE" in disk.terms(0), 10)
            assert member.leads


async def test_forced_unmount_sends_and_writes_nothing(disk: Disk, config: QuorumConfig, autojump_clock: Clock) -> None:
    member = Member(disk, config, 0, run_sync=inline)
    with peer(config, 1) as sock:
        async with running(member):
            await until(lambda: received(sock, disk), 2)
            send(sock, config, datagram(disk, MessageType.VOTE, 1, 1))
            await until(lambda: member.status.server_event == 3, 2)
            received(sock, disk)
            raw = disk.raw()
            member.agent.abandon()
            await until(lambda: member.result == "forced unmount", 1)
            await trio.sleep(5)
            assert member.server.log[-1] == "stop"
            assert received(sock, disk) == []
            assert disk.raw() == raw


class Flaky(socket.socket):
    """A socket on which receiving fails with the errors it is told, and sending while `mute`."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(fileno=sock.detach())
        self.errors: list[int] = []
        self.mute = False

    def recvfrom(self, *args):
        if self.errors:
            code = self.errors.pop(0)
            raise OSError(code, "injected")
        return super().recvfrom(*args)

    def sendto(self, *args):
        if self.mute:
            raise OSError(errno.EPERM, "injected")
        return super().sendto(*args)


async def test_errors_of_peers_do_not_end_the_agent_and_those_of_the_socket_do(
    disk: Disk, config: QuorumConfig, autojump_clock: Clock
) -> None:
    member = Member(disk, config, 0, run_sync=inline, wrap=Flaky)
    flaky = member.agent._sock
    assert isinstance(flaky, Flaky)
    async with running(member):
        flaky.errors = [errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENOBUFS]
        await until(lambda: not flaky.errors, 2)
        await trio.sleep(1)
        assert member.result == "running"
        assert member.counted()["quorum_recv_error"] == 3
        flaky.errors = [errno.EBADF]
        await until(lambda: member.result != "running", 12)
        assert member.result == "error receiving: injected"


async def test_failed_heartbeats_are_counted(disk: Disk, config: QuorumConfig, autojump_clock: Clock) -> None:
    member = Member(disk, config, 0, run_sync=inline, wrap=Flaky)
    flaky = member.agent._sock
    assert isinstance(flaky, Flaky)
    with peer(config, 1) as sock:
        async with running(member):
            await until(lambda: received(sock, disk), 2)
            flaky.mute = True
            send(sock, config, datagram(disk, MessageType.VOTE, 1, 1))
            await until(lambda: member.leads, 2)
            await trio.sleep(1)
            counted = member.counted()
            # two failed sends for each regular round; those of the first heartbeat are not counted
            assert counted["quorum_send_heartbeat"] >= 9
            assert counted["quorum_send_heartbeat_dropped"] == 2 * counted["quorum_send_heartbeat"]


@pytest.mark.parametrize("rules", [STRICT_RULES, ORIGINAL_RULES])
async def test_both_sets_of_rules_work_on_a_real_volume(
    disk: Disk, config: QuorumConfig, autojump_clock: Clock, rules: object
) -> None:
    members = [Member(disk, config, slot, rules=rules, run_sync=inline) for slot in range(3)]
    async with running(*members):
        await until(lambda: [m.status.role for m in members if m.published].count(Role.LEADER) == 1, 5)


async def test_with_real_threads_and_real_time_an_agent_leads_and_leaves(disk: Disk) -> None:
    from scoutfs.quorum.agent import in_thread

    alone = free_config([0])
    member = Member(disk, alone, 0, run_sync=in_thread)
    async with running(member, deadline=30):
        await until(lambda: member.published and member.status.server_event == 3, 20)
        member.agent.leave()
        await until(lambda: member.result is None, 20)
        assert disk.terms(0) == {"BEGIN": 0, "TERM": 1, "ELECT": 1, "FENCE": 1, "STOP": 1, "END": 1}
