"""Servers that follow another one: whom they wait for, whom they fence, what comes back (spec 03 §9)."""

from __future__ import annotations

import trio
from trio.testing import MockClock

from format.keys import Key
from format.logs import LogTrees
from format.net import Command
from format.payloads import LockMode, NetInodeAlloc, OpenInoMap, OpenInoMapArgs
from scoutfs.network.locks import LockMessage, build_recovered
from scoutfs.quorum.fencing import FenceReason
from scoutfs.server.clients import RECOVERY_TIME
from scoutfs.server.mounted_clients import recorded_mounts
from tests.network.peer import Peer
from tests.server.fakes import memory_volume, record_mount
from tests.server.world import FAREWELL, MEMBER, OTHER, TERM, World, serving

KEY = Key(16, 1024).sort_bytes


def rids(world: World) -> list[int]:
    return [mount.rid for mount in recorded_mounts(world.volume._transactions.current)]


async def request_of_server(peer: Peer, command: Command):
    """Return the next request of the server."""
    while not peer.requests:
        frame = await peer.frame()
        assert frame is not None
        received = peer.session.receive(frame)
        assert received is not None
        peer.requests.append(received)  # type: ignore[arg-type]
    request = peer.requests.pop(0)
    assert request.command is command
    return request


async def recover(peer: Peer, *locks: LockMessage) -> None:
    """Tell the server which locks the mount holds."""
    for held in (locks, ()) if locks else ((),):
        request = await request_of_server(peer, Command.LOCK_RECOVER)
        peer.session.respond(request, build_recovered(held))
        await peer.flush()


async def test_a_mount_is_on_the_volume_before_it_is_greeted_and_gone_before_it_is_let_go(
    autojump_clock: MockClock,
) -> None:
    async with serving() as world:
        peer = await world.mounted(1, OTHER)
        assert rids(world) == [1]
        response = await peer.call(Command.FAREWELL)
        assert (response.error, response.payload, rids(world)) == (0, b"", [])


async def test_a_mount_that_does_not_come_back_is_fenced_and_all_it_had_comes_back(autojump_clock: MockClock) -> None:
    volume = memory_volume()
    async with serving(volume=volume) as world:
        one, two = [await world.mounted(rid, OTHER) for rid in (1, 2)]
        for peer in (one, two):
            trees = LogTrees.parse((await peer.call(Command.GET_LOG_TREES)).payload)
            assert trees.data_avail.total_len > 0
    session = one.session
    async with serving(volume=volume, term=TERM + 1) as world:
        started = trio.current_time()
        peer = world.connect(1, OTHER, session)
        assert await peer.greet()
        await recover(peer)
        await peer.ask(Command.GET_LOG_TREES)
        await peer.ask(Command.LOCK, LockMessage(KEY, LockMode.NULL, LockMode.READ).build())
        await trio.sleep(RECOVERY_TIME - 2)
        assert world.fences.pending() == ()
        await trio.sleep(3)
        (view,) = world.fences.pending()
        assert (view.rid, view.reason) == (2, FenceReason.CLIENT_RECOVERY)
        world.fences.mark_fenced(2)
        answers = [await peer.answer(), await peer.answer()]
        assert trio.current_time() - started < RECOVERY_TIME + 3
        assert {answer.command for answer in answers if answer} == {Command.GET_LOG_TREES, Command.LOCK}
        while rids(world) != [1]:
            await trio.sleep(0.1)
        assert world.log.has("successfully reclaimed resources for fenced rid 0000000000000002")
        late = world.connect(2, OTHER, two.session)
        await late.say_hello()
        assert await late.is_closed()


async def test_locks_come_from_the_mounts_and_their_numbers_are_not_given_again(autojump_clock: MockClock) -> None:
    volume = memory_volume()
    record_mount(volume, 1)
    record_mount(volume, 2)
    async with serving(volume=volume) as world:
        one, two = world.connect(1), world.connect(2)
        for peer in (one, two):
            peer.session.server_term = TERM - 1
            await peer.greet()
        await two.ask(Command.GET_LOG_TREES)
        await recover(one, LockMessage(KEY, LockMode.WRITE, LockMode.WRITE, 5_000_000))
        await recover(two)
        answer = await two.answer()
        assert answer is not None
        assert LogTrees.parse(answer.payload).get_trans_seq > 5_000_000
        await two.ask(Command.LOCK, LockMessage(KEY, LockMode.NULL, LockMode.WRITE).build())
        request = await request_of_server(one, Command.LOCK)
        asked = LockMessage.parse(request.payload)
        assert (asked.key, asked.old_mode, asked.new_mode) == (KEY, LockMode.WRITE, LockMode.NULL)
        one.session.respond(request, request.payload)
        await one.flush()
        answer = await two.answer()
        assert answer is not None
        grant = LockMessage.parse(answer.payload)
        assert (grant.key, grant.new_mode) == (KEY, LockMode.WRITE)
        assert grant.write_seq > 5_000_000


async def test_a_mount_that_is_not_recorded_was_taken_for_dead(autojump_clock: MockClock) -> None:
    async with serving() as world:
        peer = world.connect(1)
        peer.session.server_term = TERM - 1
        await peer.say_hello()
        assert await peer.is_closed()
        assert world.log.has("is not recorded on the volume")


async def test_a_leaving_mount_that_is_not_recorded_is_told_that_it_is_gone(autojump_clock: MockClock) -> None:
    async with serving() as world:
        other = await world.mounted(2)
        peer = world.connect(1, MEMBER)
        peer.session.server_term = TERM - 1
        await peer.greet(FAREWELL)
        assert (await peer.call(Command.FAREWELL)).error == 0
        assert rids(world) == [2]
        await other.close()


async def test_recorded_mounts_keep_the_last_members_for_a_while(autojump_clock: MockClock) -> None:
    """Longer would be for ever: what is unmounted shows no fence requests that somebody could answer."""
    volume = memory_volume()
    record_mount(volume, 1)
    record_mount(volume, 9, member=False)
    async with serving(votes_needed=1, volume=volume) as world:
        peer = world.connect(1)
        peer.session.server_term = TERM - 1
        await peer.greet()
        await recover(peer)
        await peer.ask(Command.FAREWELL)
        await trio.sleep(RECOVERY_TIME - 2)
        assert rids(world) == [1, 9]
        assert "volume records" in world.clients.held_back(trio.current_time())[1]
        await trio.sleep(3)
        assert rids(world) == [9], "which is left to the next server"


async def test_a_farewell_waits_for_the_locks_of_its_mount(autojump_clock: MockClock) -> None:
    volume = memory_volume()
    record_mount(volume, 1, member=False)
    async with serving(volume=volume) as world:
        peer = world.connect(1, OTHER)
        peer.session.server_term = TERM - 1
        await peer.greet()
        await peer.ask(Command.FAREWELL)
        await trio.sleep(5)
        assert rids(world) == [1]
        await recover(peer)
        assert await peer.answer() is not None
        assert rids(world) == []


async def test_open_inodes_are_asked_of_everybody_else(autojump_clock: MockClock) -> None:
    async with serving() as world:
        peers = [await world.mounted(rid) for rid in (1, 2, 3)]
        await peers[0].ask(Command.OPEN_INO_MAP, OpenInoMapArgs.build({"group_nr": 7, "req_id": 0}))
        for bit, peer in enumerate(peers[1:], 3):
            request = await request_of_server(peer, Command.OPEN_INO_MAP)
            args = OpenInoMapArgs.parse(request.payload)
            assert args.group_nr == 7
            payload = OpenInoMap.build({"args": args, "bits": [1 << bit] + [0] * 15})
            peer.session.respond(request, payload)
            await peer.flush()
        answer = await peers[0].answer()
        assert answer is not None
        found = OpenInoMap.parse(answer.payload)
        assert (found.args.group_nr, list(found.bits)) == (7, [0b11000] + [0] * 15)


async def test_nobody_has_inodes_open_on_a_single_mount(autojump_clock: MockClock) -> None:
    async with serving() as world:
        peer = await world.mounted(1)
        answer = await peer.call(Command.OPEN_INO_MAP, OpenInoMapArgs.build({"group_nr": 0, "req_id": 0}))
        assert list(OpenInoMap.parse(answer.payload).bits) == [0] * 16


async def test_numbers_of_inodes_over_the_network(autojump_clock: MockClock) -> None:
    async with serving() as world:
        peer = await world.mounted(1)
        # spec 03 §13, V4 and V5
        answer = await peer.call(Command.ALLOC_INODES, (10240).to_bytes(8, "little"))
        assert NetInodeAlloc.parse(answer.payload) == {"ino": 1024, "nr": 10240}


async def test_a_server_stops_though_more_mounts_leave_meanwhile(autojump_clock: MockClock) -> None:
    async with serving() as world:
        one, two = [await world.mounted(rid, OTHER) for rid in (1, 2)]

        async def slowly(function, *arguments):
            await trio.sleep(1)
            return function(*arguments)

        world.volume._run_in_thread = slowly
        await one.ask(Command.FAREWELL)
        await trio.sleep(0.2)
        world.stopped.set()
        await trio.sleep(0.2)
        await two.ask(Command.FAREWELL)
        assert await one.answer() is not None
        with trio.fail_after(10):
            await world.ended.wait()


async def test_a_mistake_in_a_change_ends_the_server_with_a_reason(autojump_clock: MockClock) -> None:
    async with serving() as world:

        def wrong(volume: object) -> None:
            raise ZeroDivisionError("the test")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.volume.change, wrong)
            await world.ended.wait()
            nursery.cancel_scope.cancel()
        assert "internal error: ZeroDivisionError: the test, in " in str(world.failure)
