"""Fence requests: flags, timers, the wait for all of them, and fencing by this host first (spec 02 §6)."""

from __future__ import annotations

import errno
import logging
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from scoutfs.quorum.fencing import (
    FenceError,
    FenceReason,
    FenceRequests,
    FenceTimeout,
    FenceView,
    LocalFencer,
)
from scoutfs.quorum.registration import FenceOutcome, Verdict

LEADER = FenceReason.QUORUM_BLOCK_LEADER


class FakeFencer(LocalFencer):
    """Gives each rid the outcome it is told to, UNKNOWN unless told."""

    def __init__(self, dead: set[int], gate: threading.Event | None = None) -> None:
        self.dead, self.gate = dead, gate
        self.asked: list[int] = []
        self.gave_up = False

    def fence(self, rid: int, given_up: Callable[[], bool] = lambda: False) -> Verdict:
        self.asked.append(rid)
        if self.gate is not None:
            self.gate.wait(20)
        self.gave_up = given_up()
        outcome = FenceOutcome.DEAD if rid in self.dead else FenceOutcome.UNKNOWN
        return Verdict(outcome, f"verdict of {rid}")


class Fixture:
    def __init__(self) -> None:
        self.lines: list[tuple[int, str]] = []
        self.published: list[tuple[FenceView, ...]] = []
        self.requests: FenceRequests

    def errors(self) -> list[str]:
        return [text for level, text in self.lines if level >= logging.ERROR]


@asynccontextmanager
async def fences(fencer: LocalFencer | None = None) -> AsyncIterator[Fixture]:
    fixture = Fixture()
    with trio.fail_after(200):
        async with trio.open_nursery() as nursery:
            fixture.requests = FenceRequests(
                nursery,
                lambda level, text: fixture.lines.append((level, text)),
                fencer=fencer,
                on_change=fixture.published.append,
            )
            yield fixture
            nursery.cancel_scope.cancel()


async def settle() -> None:
    await trio.testing.wait_all_tasks_blocked()


async def until(condition: Callable[[], object]) -> None:
    """Wait for a real thread, in real time."""
    with trio.fail_after(20):
        while not condition():
            await trio.sleep(0.002)


# what a request shows


async def test_a_request_is_shown_with_its_facts(autojump_clock: trio.testing.MockClock) -> None:
    async with fences() as f:
        started = trio.current_time()
        f.requests.start(0xA1, "10.0.0.7", LEADER)
        f.requests.start(0xB2, "10.0.0.8", FenceReason.CLIENT_RECONNECT)
        await settle()
        assert f.requests.snapshot() == (
            FenceView(0xA1, "10.0.0.7", "quorum_block_leader", started),
            FenceView(0xB2, "10.0.0.8", "client_reconnect", started),
        )
        assert f.published[-1] == f.requests.snapshot()
        await trio.sleep(2.9)
        assert f.requests.snapshot()[0].age(trio.current_time()) == 2


async def test_a_second_request_for_a_rid_changes_nothing(autojump_clock: trio.testing.MockClock) -> None:
    async with fences() as f:
        f.requests.start(1, "10.0.0.1", LEADER)
        await settle()
        before = f.requests.snapshot()
        await trio.sleep(1)
        f.requests.start(1, "10.9.9.9", FenceReason.CLIENT_RECOVERY)
        await settle()
        assert f.requests.snapshot() == before


async def test_flags_are_shown_and_unknown_rids_are_ignored(autojump_clock: trio.testing.MockClock) -> None:
    async with fences() as f:
        f.requests.start(1, "10.0.0.1", LEADER)
        f.requests.mark_fenced(2)
        f.requests.mark_error(2)
        f.requests.remove(2)
        assert f.requests.serviced() is None
        f.requests.mark_fenced(1)
        f.requests.mark_error(1)
        await settle()
        (view,) = f.requests.snapshot()
        assert (view.fenced, view.error) == (True, True)
        assert f.requests.serviced() == view
        assert f.errors() == ["error indicated by fence action for rid 0000000000000001"]
        f.requests.remove(1)
        assert f.requests.snapshot() == ()
        assert f.requests.serviced() is None


async def test_what_was_serviced_first_in_order_of_creation_is_reclaimed_first(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with fences() as f:
        for rid in (3, 1, 2):
            f.requests.start(rid, "10.0.0.1", LEADER)
        f.requests.mark_fenced(2)
        f.requests.mark_fenced(1)
        serviced = f.requests.serviced()
        assert serviced is not None
        assert serviced.rid == 1


# the wait for all


@pytest.mark.parametrize(
    ("flags", "error"),
    [
        # the cases of spec 02 §6.2, with EIO where the original returns success in spite of an error
        (["11", "00"], errno.EIO),
        (["00", "00"], errno.ETIMEDOUT),
        (["10", "01"], errno.EIO),
        (["01", "10"], errno.EIO),
        (["00", "01"], errno.ETIMEDOUT),
        (["10", "10"], 0),
        ([], 0),
    ],
)
async def test_the_wait_for_all(autojump_clock: trio.testing.MockClock, flags: list[str], error: int) -> None:
    async with fences() as f:
        for rid, (fenced, failed) in enumerate(flags, 1):
            f.requests.start(rid, "10.0.0.1", LEADER)
            if fenced == "1":
                f.requests.mark_fenced(rid)
            if failed == "1":
                f.requests.mark_error(rid)
        start = trio.current_time()
        if error == 0:
            await f.requests.wait_all()
        else:
            with pytest.raises(FenceTimeout if error == errno.ETIMEDOUT else FenceError) as caught:
                await f.requests.wait_all()
            assert caught.value.errno == error
        assert trio.current_time() - start == (15.0 if error == errno.ETIMEDOUT else 0.0)


async def test_the_wait_ends_as_soon_as_the_last_is_fenced(autojump_clock: trio.testing.MockClock) -> None:
    async with fences() as f:
        f.requests.start(1, "10.0.0.1", LEADER)
        f.requests.start(2, "10.0.0.2", LEADER)
        start = trio.current_time()

        async def daemon() -> None:
            await trio.sleep(3)
            f.requests.mark_fenced(2)
            await trio.sleep(4)
            f.requests.mark_fenced(1)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(daemon)
            await f.requests.wait_all()
        assert trio.current_time() - start == 7.0


async def test_an_error_ends_the_wait_at_once(autojump_clock: trio.testing.MockClock) -> None:
    async with fences() as f:
        f.requests.start(1, "10.0.0.1", LEADER)
        start = trio.current_time()

        async def daemon() -> None:
            await trio.sleep(3)
            f.requests.mark_error(1)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(daemon)
            with pytest.raises(FenceError):
                await f.requests.wait_all()
        assert trio.current_time() - start == 3.0


async def test_changes_wake_who_waits_for_them(autojump_clock: trio.testing.MockClock) -> None:
    async with fences() as f:
        f.requests.start(1, "10.0.0.1", LEADER)
        await settle()
        seen: list[str] = []

        async def watch() -> None:
            await f.requests.changed()
            seen.append("fenced")
            await f.requests.changed()
            seen.append("removed")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            await settle()
            f.requests.mark_fenced(1)
            await settle()
            assert seen == ["fenced"]
            f.requests.remove(1)


# timers


async def test_a_request_that_nobody_services_fails_after_thirty_seconds(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with fences() as f:
        f.requests.start(0xAB, "10.0.0.1", LEADER)
        await trio.sleep(29.9)
        assert f.requests.serviced() is None
        await trio.sleep(0.2)
        serviced = f.requests.serviced()
        assert serviced is not None
        assert serviced.error
        assert f.errors() == ["fence request for rid 00000000000000ab was not serviced in 30000 ms"]


async def test_fenced_in_time_cancels_the_timer_and_error_does_not(autojump_clock: trio.testing.MockClock) -> None:
    async with fences() as f:
        f.requests.start(1, "10.0.0.1", LEADER)
        f.requests.start(2, "10.0.0.1", LEADER)
        await trio.sleep(1)
        f.requests.mark_fenced(1)
        f.requests.mark_error(2)
        await trio.sleep(60)
        assert [view.error for view in f.requests.snapshot()] == [False, True]
        assert f.errors() == [
            "error indicated by fence action for rid 0000000000000002",
            "fence request for rid 0000000000000002 was not serviced in 30000 ms",
        ]


async def test_requests_that_were_removed_have_no_timer(autojump_clock: trio.testing.MockClock) -> None:
    async with fences() as f:
        for rid in (1, 2, 3):
            f.requests.start(rid, "10.0.0.1", LEADER)
        await trio.sleep(1)
        f.requests.remove(1)
        f.requests.clear()
        assert f.requests.snapshot() == ()
        await trio.sleep(60)
        assert f.errors() == []
        assert f.published[-1] == ()


# this host first


async def test_a_mount_of_this_host_is_fenced_without_a_daemon() -> None:
    async with fences(FakeFencer(dead={1})) as f:
        f.requests.start(1, "10.0.0.1", LEADER)
        await f.requests.wait_all(timeout=20)
        assert f.lines == [(logging.INFO, "fenced rid 0000000000000001: verdict of 1")]
        (view,) = f.requests.snapshot()
        assert (view.fenced, view.error) == (True, False)


async def test_what_this_host_does_not_know_is_left_to_the_daemon() -> None:
    async with fences(FakeFencer(dead=set())) as f:
        f.requests.start(1, "10.0.0.1", LEADER)
        await until(f.requests.snapshot)
        assert f.lines == [
            (logging.INFO, "rid 0000000000000001 at 10.0.0.1 is left to the fence daemon: verdict of 1"),
        ]
        assert not f.requests.snapshot()[0].fenced
        f.requests.answer(1, "fenced")
        await f.requests.wait_all(timeout=20)


async def test_the_daemon_sees_nothing_while_this_host_is_at_it() -> None:
    gate = threading.Event()
    fencer = FakeFencer(dead={1}, gate=gate)
    async with fences(fencer) as f:
        f.requests.start(1, "10.0.0.1", LEADER)
        await until(lambda: fencer.asked)
        assert f.requests.snapshot() == ()
        gate.set()
        await f.requests.wait_all(timeout=20)
        assert f.published == [f.requests.snapshot()]


async def test_a_fencer_is_told_when_the_server_stops() -> None:
    gate = threading.Event()
    fencer = FakeFencer(dead={1}, gate=gate)
    async with fences(fencer) as f:
        f.requests.start(1, "10.0.0.1", LEADER)
        await until(lambda: fencer.asked)
        f.requests.clear()
        await settle()
        gate.set()
        await until(lambda: fencer.gave_up)
        assert f.lines == []


async def test_answers_come_from_any_thread() -> None:
    async with fences() as f:
        f.requests.start(1, "10.0.0.1", LEADER)
        f.requests.start(2, "10.0.0.1", LEADER)
        await settle()
        await trio.to_thread.run_sync(f.requests.answer, 1, "fenced")
        await trio.to_thread.run_sync(f.requests.answer, 2, "error")
        await until(lambda: f.requests.snapshot()[1].error)
        assert [(view.fenced, view.error) for view in f.requests.snapshot()] == [(True, False), (False, True)]


def test_an_answer_after_the_end_of_the_server_is_ignored() -> None:
    kept: list[FenceRequests] = []

    async def main() -> None:
        async with fences() as f:
            kept.append(f.requests)

    trio.run(main)
    kept[0].answer(1, "fenced")
