"""A server that is up, seen by its clients through streams in memory."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from format.net import Command, Header, NetError
from scoutfs.errors import ScoutfsError
from scoutfs.network.framing import Frame
from scoutfs.network.statfs import Statfs
from scoutfs.server.service import RECONNECT_TIMEOUT
from tests.server.world import FAREWELL, FREE, FSID, TERM, serving

# -- greeting ----------------------------------------------------------------------------------------------------------


async def test_a_client_is_greeted_with_the_term_and_logged_as_the_original_does(autojump_clock: MockClock) -> None:
    async with serving() as world:
        peer = await world.mounted(1)
        assert peer.session.server_term == TERM
        assert world.log.lines == ["server accepted 127.0.0.1:23450 -> 10.0.0.9:50001"]
        await peer.close()
        await wait_all_tasks_blocked()
        assert world.log.lines[1:] == ["server closing 127.0.0.1:23450 -> 10.0.0.9:50001"]


async def test_a_mount_of_another_volume_is_told_einval_and_closed(autojump_clock: MockClock) -> None:
    async with serving() as world:
        peer = world.connect(1, fsid=FSID + 1)
        await peer.say_hello()
        frame = await peer.frame()
        assert frame is not None
        assert (frame.header.error, frame.header.data_len, frame.header.seq) == (NetError.EINVAL, 0, 1)
        assert await peer.is_closed()
        assert not world.clients.clients


async def test_w12_a_connection_that_never_greets_is_dropped_and_harms_nobody(autojump_clock: MockClock) -> None:
    async with serving() as world:
        silent = world.connect(1)
        before = trio.current_time()
        assert await silent.is_closed()
        assert 4 < trio.current_time() - before < 6
        await trio.sleep(100)
        assert world.fences.pending() == ()
        assert not world.ended.is_set()


async def test_anything_before_a_greeting_closes_the_connection(autojump_clock: MockClock) -> None:
    async with serving() as world:
        peer = world.connect(1)
        await peer.stream.send_all(Frame(Header(1, 0, 1, 0, Command.STATFS), b"").build())
        assert await peer.is_closed()
        assert world.count("net_recv_invalid_message") == 1


async def test_a_newer_connection_of_a_mount_ends_the_older(autojump_clock: MockClock) -> None:
    async with serving() as world:
        older = await world.mounted(1)
        newer = await world.back(older)
        assert await older.is_closed()
        assert (await newer.call(Command.STATFS)).payload == FREE.build()
        await trio.sleep(RECONNECT_TIMEOUT + 5)
        assert world.fences.pending() == ()


async def test_a_lost_first_greeting_response_does_not_get_the_mount_fenced(autojump_clock: MockClock) -> None:
    """Spec 03 §3.5: the original keeps both connections, and fences the mount for the older one."""
    async with serving() as world:
        first = world.connect(1)
        await first.say_hello()
        await first.close()
        second = await world.back(first)
        await trio.sleep(RECONNECT_TIMEOUT + 5)
        assert world.fences.pending() == ()
        assert (await second.call(Command.STATFS)).error is NetError.NONE


# -- requests ----------------------------------------------------------------------------------------------------------


async def test_statfs(autojump_clock: MockClock) -> None:
    async with serving() as world:
        peer = await world.mounted(1)
        response = await peer.call(Command.STATFS)
        assert Statfs.parse(response.payload) == FREE


# spec 03 §11, vector M2: the roots of a new volume
NEW_ROOTS = bytes.fromhex("0200000000000000 0100000000000000 0100000000000000") + bytes(48)


async def test_roots(autojump_clock: MockClock) -> None:
    async with serving() as world:
        peer = await world.mounted(1)
        response = await peer.call(Command.GET_ROOTS)
        assert (response.error, response.payload) == (NetError.NONE, NEW_ROOTS)
        # as the original answers a wrong length, spec 03 §4
        response = await peer.call(Command.GET_ROOTS, b"x")
        assert (response.error, response.payload) == (NetError.NONE, bytes(72))
        assert world.roots_reads == 1


async def test_one_count_answers_all_that_asked_before_it(autojump_clock: MockClock) -> None:
    async with serving() as world:
        peer = await world.mounted(1)
        for _ in range(20):
            await peer.ask(Command.STATFS)
        for _ in range(20):
            response = await peer.answer()
            assert response is not None
            assert response.payload == FREE.build()
        assert world.statfs_reads <= 2


async def test_statfs_of_a_volume_that_cannot_be_read(autojump_clock: MockClock) -> None:
    async with serving() as world:
        peer = await world.mounted(1)
        world.statfs_error = ScoutfsError("/dev/meta: reading: Input/output error", 5)
        response = await peer.call(Command.STATFS)
        assert (response.error, response.payload) == (NetError.EIO, b"")
        assert world.log.errors == ["statfs failed: /dev/meta: reading: Input/output error"]
        world.statfs_error = None
        assert (await peer.call(Command.STATFS)).error is NetError.NONE


_LENGTHS = [
    (Command.ALLOC_INODES, b""),
    (Command.GET_LOG_TREES, b"x"),
    (Command.COMMIT_LOG_TREES, bytes(471)),
    (Command.GET_LAST_SEQ, b"x"),
    (Command.SRCH_GET_COMPACT, b"x"),
    (Command.SRCH_COMMIT_COMPACT, bytes(583)),
    (Command.GET_VOLOPT, b"x"),
    (Command.SET_VOLOPT, bytes(519)),
    (Command.CLEAR_VOLOPT, bytes(521)),
    (Command.RESIZE_DEVICES, b""),
    (Command.STATFS, b"x"),
]


@pytest.mark.parametrize(("command", "payload"), _LENGTHS)
async def test_a_wrong_length_is_answered_with_einval(
    command: Command, payload: bytes, autojump_clock: MockClock
) -> None:
    # spec 03 §4, "bad len"
    async with serving() as world:
        peer = await world.mounted(1)
        response = await peer.call(command, payload)
        assert (response.error, response.payload) == (NetError.EINVAL, b"")


_BREAKING = [
    (Command.LOCK_RECOVER, b""),
    (Command.FAREWELL, b"x"),
    (Command.LOCK, bytes(47)),
    (Command.GET_LOG_MERGE, b"x"),
    (Command.COMMIT_LOG_MERGE, bytes(207)),
]


@pytest.mark.parametrize(("command", "payload"), _BREAKING)
async def test_what_no_client_asks_breaks_the_connection(
    command: Command, payload: bytes, autojump_clock: MockClock
) -> None:
    async with serving() as world:
        peer = await world.mounted(1)
        await peer.ask(command, payload)
        assert await peer.is_closed()


async def test_a_request_is_answered_on_the_next_connection(autojump_clock: MockClock) -> None:
    async with serving() as world:
        peer = await world.mounted(1)
        await peer.ask(Command.STATFS)
        await peer.close()
        again = await world.back(peer)
        response = await again.answer()
        assert response is not None
        assert response.payload == FREE.build()
        await trio.sleep(1)
        assert world.statfs_reads == 1, "the repeated request is a duplicate"
        assert world.count("net_recv_dropped_duplicate") == 1


# -- farewell ----------------------------------------------------------------------------------------------------------


async def test_a_member_leaves_and_its_connection_ends_without_fencing(autojump_clock: MockClock) -> None:
    async with serving() as world:
        peers = [await world.mounted(rid) for rid in (1, 2, 3)]
        response = await peers[0].call(Command.FAREWELL)
        assert (response.error, response.payload) == (NetError.NONE, b"")
        await peers[0].close()
        await trio.sleep(RECONNECT_TIMEOUT + 5)
        assert world.fences.pending() == ()
        assert sorted(world.clients.clients) == [2, 3]


async def test_the_last_members_are_answered_together(autojump_clock: MockClock) -> None:
    async with serving() as world:
        first, second = await world.mounted(1), await world.mounted(2)
        await first.ask(Command.FAREWELL)
        with trio.move_on_after(60) as scope:
            await first.answer()
        assert scope.cancelled_caught, "held back"
        await second.ask(Command.FAREWELL)
        assert (await first.answer()) is not None
        assert (await second.answer()) is not None


async def test_a_farewell_answer_that_was_lost_is_given_again(autojump_clock: MockClock) -> None:
    async with serving() as world:
        peers = [await world.mounted(rid) for rid in (1, 2, 3)]
        await peers[0].ask(Command.FAREWELL)
        await wait_all_tasks_blocked()  # answered, but never read
        assert 1 not in world.clients.clients
        await peers[0].close()
        again = await world.back(peers[0], FAREWELL)
        assert (await again.answer()) is not None


async def test_a_farewell_waits_across_a_reconnect(autojump_clock: MockClock) -> None:
    async with serving() as world:
        first, second = await world.mounted(1), await world.mounted(2)
        await first.ask(Command.FAREWELL)
        await first.close()
        again = await world.back(first, FAREWELL)
        await second.ask(Command.FAREWELL)
        assert (await again.answer()) is not None


async def test_mounts_that_are_fenced_no_longer_hold_the_last_members(autojump_clock: MockClock) -> None:
    async with serving() as world:
        peers = [await world.mounted(rid) for rid in (1, 2, 3)]
        await peers[2].close()
        await peers[0].ask(Command.FAREWELL)
        await peers[1].ask(Command.FAREWELL)
        assert (await peers[0].answer()) is not None
        with trio.move_on_after(RECONNECT_TIMEOUT + 1) as scope:
            await peers[1].answer()
        assert scope.cancelled_caught
        world.fences.mark_fenced(3)
        assert (await peers[1].answer()) is not None


async def test_after_a_failover_the_others_get_time_to_come_back(autojump_clock: MockClock) -> None:
    async with serving(expected={1: 0, 2: 1, 3: 2}) as world:
        first = await world.mounted(1, term=TERM - 1)
        assert world.log.lines[-1] == "waiting for 2 clients to recover"
        second = await world.mounted(2, term=TERM - 1)
        await first.ask(Command.FAREWELL)
        await second.ask(Command.FAREWELL)
        with trio.move_on_after(20) as scope:
            await first.answer()
        assert scope.cancelled_caught
        assert (await first.answer()) is not None
        assert (await second.answer()) is not None
        assert 29 < trio.current_time() - world.clients.started < 31
        assert world.log.has("recovery timeout expired for members 0000000000000003 in slot 2")


async def test_a_member_that_has_left_meanwhile_is_not_awaited(autojump_clock: MockClock) -> None:
    """It had said farewell to the predecessor, and its block said that it had begun when this server started."""
    async with serving(expected={1: 0, 2: 1, 3: 2}) as world:
        first = await world.mounted(1, term=TERM - 1)
        second = await world.mounted(2, term=TERM - 1)
        await first.ask(Command.FAREWELL)
        await second.ask(Command.FAREWELL)
        world.running = None  # the blocks cannot be read now
        await trio.sleep(5)
        assert world.clients.awaited(trio.current_time()) == {3: 2}
        world.running = {1: 0, 2: 1, 4: 2}  # slot 2 has another mount now
        assert (await first.answer()) is not None
        assert (await second.answer()) is not None
        assert trio.current_time() - world.clients.started < 7


async def test_all_clients_recovered(autojump_clock: MockClock) -> None:
    async with serving(expected={1: 0, 2: 1}) as world:
        await world.mounted(1, term=TERM - 1)
        await world.mounted(2, term=TERM - 1)
        assert world.log.lines[-1] == "all clients recovered"


# -- losing clients ----------------------------------------------------------------------------------------------------


async def test_a_client_that_does_not_come_back_in_20_seconds_is_fenced_and_forgotten(
    autojump_clock: MockClock,
) -> None:
    async with serving() as world:
        peer = await world.mounted(0x1234)
        await peer.close()
        await trio.sleep(RECONNECT_TIMEOUT - 0.1)
        assert world.fences.pending() == ()
        await trio.sleep(0.2)
        (view,) = world.fences.pending()
        assert (view.rid, view.address, view.reason) == (0x1234, "10.0.0.9", "client_reconnect")
        assert world.log.has("client 10.0.0.9:50001 reconnect timed out, fencing rid 0000000000001234")
        late = world.connect(0x1234, session=peer.session)
        await late.say_hello()
        assert await late.is_closed()
        world.fences.mark_fenced(0x1234)
        await wait_all_tasks_blocked()
        assert world.log.has("successfully reclaimed resources for fenced rid 0000000000001234")
        assert not world.clients.clients
        assert world.fences.pending() == ()


async def test_a_client_that_comes_back_in_time_is_not_fenced(autojump_clock: MockClock) -> None:
    async with serving() as world:
        peer = await world.mounted(1)
        for _ in range(3):
            await peer.close()
            await trio.sleep(RECONNECT_TIMEOUT - 1)
            peer = await world.back(peer)
        await trio.sleep(RECONNECT_TIMEOUT + 5)
        assert world.fences.pending() == ()


async def test_a_fence_error_stops_the_server(autojump_clock: MockClock) -> None:
    async with serving() as world:
        peer = await world.mounted(1)
        await peer.close()
        await trio.sleep(RECONNECT_TIMEOUT + 1)
        world.fences.mark_error(1)
        await world.ended.wait()
        assert world.failure is not None
        assert "fence error seen for rid 0000000000000001" in str(world.failure)


async def test_the_connection_of_a_fenced_mount_is_cut(autojump_clock: MockClock) -> None:
    async with serving() as world:
        peer = await world.mounted(1)
        world.fences.start(1, "10.0.0.9", "client_recovery")
        world.fences.mark_fenced(1)
        assert await peer.is_closed()


# -- stopping ----------------------------------------------------------------------------------------------------------


async def test_stopping_lets_the_last_answers_out(autojump_clock: MockClock) -> None:
    async with serving() as world:
        first, second = await world.mounted(1), await world.mounted(2)
        await first.ask(Command.FAREWELL)
        await second.ask(Command.FAREWELL)
        await wait_all_tasks_blocked()
        world.stopped.set()
        assert (await first.answer()) is not None
        assert (await second.answer()) is not None
        await first.close()
        await second.close()
        await world.ended.wait()
        assert world.failure is None
        assert world.log.has("server closing")


async def test_stopping_sends_what_is_queued_before_it_closes(autojump_clock: MockClock) -> None:
    async with serving() as world:
        peer = await world.mounted(1)
        session = world.clients.clients[1].session
        assert session is not None
        session.request(Command.LOCK_RECOVER, bytes(32))
        world.stopped.set()
        frame = await peer.frame()
        assert frame is not None
        assert frame.header.command is Command.LOCK_RECOVER
        assert await peer.is_closed()


async def test_stopping_does_not_wait_for_clients_that_do_not_react(autojump_clock: MockClock) -> None:
    async with serving() as world:
        await world.mounted(1)
        before = trio.current_time()
        world.stopped.set()
        await world.ended.wait()
        assert trio.current_time() - before < 3
        assert world.fences.pending() == ()
