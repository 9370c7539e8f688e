"""Whom a new server fences first, and when it does not start: spec 02 §5.5, §6.2, remedies W2 to W5."""

from __future__ import annotations

import errno
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from format.quorum import Event, EventRecord, QuorumConfig, SlotAddress
from scoutfs.counters import Counters
from scoutfs.errors import ScoutfsError
from scoutfs.quorum.fencing import FenceOutcome, FenceRequests, LocalFencer, Verdict
from scoutfs.quorum.leaders import fenced_rids
from scoutfs.server.takeover import Blocks, Leadership, fence_previous_leaders, read_all_blocks
from tests.server.fakes import FakeVolume, RecordedLog

A, B, C, D = 0xA1, 0xB2, 0xC3, 0xD4
CONFIG = QuorumConfig(1, {slot: SlotAddress(f"10.0.0.{slot + 1}", 12345) for slot in range(3)})


class FakeFencer(LocalFencer):
    """Knows who is dead."""

    def __init__(self, dead: set[int]) -> None:
        self.dead = dead

    def look(self, rid: int) -> Verdict:
        return Verdict(FenceOutcome.DEAD if rid in self.dead else FenceOutcome.UNKNOWN, "as the test says")

    def fence(self, rid: int, given_up: Callable[[], bool] = lambda: False) -> Verdict:
        return self.look(rid)


class Start:
    """A start of the server of slot 0, rid A, whose fence requests the test answers."""

    def __init__(
        self,
        term: int,
        overwritten: tuple[tuple[int, EventRecord], ...] = (),
        *,
        patience: float = 0.0,
        fencer: FakeFencer | None = None,
    ) -> None:
        self.volume = FakeVolume(CONFIG)
        self.us = Leadership(0, A, term, overwritten)
        self.patience, self.fencer = patience, fencer
        self.log, self.counters = RecordedLog(), Counters()
        self.fences: FenceRequests
        self.outcome: Blocks | ScoutfsError | None = None
        self.volume.record(0, Event.BEGIN, A, term)
        self.volume.record(0, Event.ELECT, A, term)

    @asynccontextmanager
    async def started(self) -> AsyncIterator[Start]:
        async with trio.open_nursery() as nursery:
            self.fences = FenceRequests(nursery, self.log, fencer=self.fencer)
            nursery.start_soon(self._run)
            await wait_all_tasks_blocked()
            yield self
            nursery.cancel_scope.cancel()

    async def _run(self) -> None:
        async def read() -> Blocks:
            await trio.lowlevel.checkpoint()
            return read_all_blocks(self.volume, CONFIG.slots)

        try:
            self.outcome = await fence_previous_leaders(
                self.us,
                CONFIG,
                self.volume.fsid,
                read,
                self.fences,
                self.log,
                self.counters,
                stopping_patience=self.patience,
            )
        except ScoutfsError as error:
            self.outcome = error

    @property
    def asked(self) -> list[tuple[int, str]]:
        return [(view.rid, view.address) for view in self.fences.pending()]

    async def asks_for(self, *rids: int) -> None:
        while len(self.asked) < len(rids):
            await trio.sleep(0.01)
        assert [rid for rid, _ in self.asked] == list(rids)

    async def fence(self, *rids: int) -> None:
        for rid in rids:
            self.fences.mark_fenced(rid)
        await wait_all_tasks_blocked()


async def test_without_previous_leaders_it_starts_at_once() -> None:
    async with Start(1).started() as start:
        assert isinstance(start.outcome, dict)
        assert start.asked == []
        assert start.counters.snapshot()["quorum_fence_leader"] == 0


async def test_leaders_are_fenced_in_order_of_slots_and_awaited() -> None:
    start = Start(9)
    start.volume.elected(1, B, 5)
    start.volume.record(2, Event.ELECT, C, 7)
    async with start.started():
        assert start.asked == [(B, "10.0.0.2"), (C, "10.0.0.3")]
        fsid = f"{start.volume.fsid >> 40:06x}"
        assert start.log.lines[0] == (
            f"fencing previous leader f.{fsid}.r.{B >> 40:06x} at term 5 in slot 1 with address 10.0.0.2:12345"
        )
        await start.fence(B)
        assert start.outcome is None
        await start.fence(C)
        assert isinstance(start.outcome, dict)
        assert start.counters.snapshot()["quorum_fence_leader"] == 2


async def test_a_leader_that_appears_during_the_wait_is_fenced_too() -> None:
    start = Start(9)
    start.volume.elected(1, B, 5)
    async with start.started():
        start.volume.record(2, Event.ELECT, C, 9)  # of our own term: neither sees the other as later
        await start.fence(B)
        assert start.outcome is None
        assert (C, "10.0.0.3") in start.asked
        await start.fence(C)
        assert isinstance(start.outcome, dict)


@pytest.mark.parametrize("event", [Event.ELECT, Event.FENCE])
async def test_w2_a_later_leader_ends_the_start(event: Event) -> None:
    start = Start(9)
    start.volume.record(2, event, C, 12)
    async with start.started():
        assert isinstance(start.outcome, ScoutfsError)
        assert start.outcome.errno == errno.ESTALE
        assert start.asked == []


async def test_w2_a_later_leader_is_looked_for_again_after_the_wait() -> None:
    start = Start(9)
    start.volume.elected(1, B, 5)
    async with start.started():
        start.volume.record(2, Event.ELECT, C, 12)
        await start.fence(B)
        assert isinstance(start.outcome, ScoutfsError)
        assert "term 12, ours is 9" in str(start.outcome)


async def test_w3_an_error_of_the_fence_agent_is_an_error_of_the_start() -> None:
    """Fenced and failed together count as failed (spec 02 §6.2): the original starts then."""
    start = Start(9)
    start.volume.elected(1, B, 5)
    start.volume.record(2, Event.ELECT, C, 7)
    async with start.started():
        start.fences.mark_error(C)
        await start.fence(B)
        assert isinstance(start.outcome, ScoutfsError)
        assert start.outcome.errno == errno.EIO
        assert start.counters.snapshot()["quorum_fence_error"] == 1


async def test_nobody_fences_for_15_seconds(autojump_clock: MockClock) -> None:
    start = Start(9)
    start.volume.elected(1, B, 5)
    async with start.started():
        await trio.sleep(14.9)
        assert start.outcome is None
        await trio.sleep(0.2)
        assert isinstance(start.outcome, ScoutfsError)
        assert start.outcome.errno == errno.ETIMEDOUT


async def test_a_leader_that_stops_by_itself_is_not_fenced(autojump_clock: MockClock) -> None:
    """Two members that stand together can lead one after the other: the first is healthy, and hears of the second."""
    start = Start(9, patience=0.5)
    start.volume.elected(1, B, 5)
    async with start.started():
        await trio.sleep(0.3)
        assert start.outcome is None
        start.volume.record(1, Event.STOP, B, 5)
        await trio.sleep(0.1)
        assert isinstance(start.outcome, dict)
        assert start.asked == []


async def test_a_leader_that_does_not_stop_is_fenced_after_half_a_second(autojump_clock: MockClock) -> None:
    start = Start(9, patience=0.5)
    start.volume.elected(1, B, 5)
    async with start.started():
        await trio.sleep(0.4)
        assert start.asked == []
        await trio.sleep(0.2)
        assert start.asked == [(B, "10.0.0.2")]


async def test_who_cannot_stop_any_more_is_fenced_at_once() -> None:
    """A mount known to be dead, and one whose slot is another mount's now; the one beside them still has its moment."""
    start = Start(9, patience=600, fencer=FakeFencer({B}))
    start.volume.elected(1, B, 5)
    start.volume.record(2, Event.BEGIN, C, 6)
    start.volume.record(2, Event.ELECT, C, 7)
    async with start.started():
        with trio.fail_after(20):
            await start.asks_for(B)
            start.volume.record(2, Event.BEGIN, D, 9)
            await start.asks_for(B, C)
            start.fences.mark_fenced(C)
            while start.outcome is None:
                await trio.sleep(0.01)
        assert isinstance(start.outcome, dict)


async def test_an_unreadable_block_fails_the_start() -> None:
    start = Start(9)
    start.volume.break_block(2)
    async with start.started():
        assert isinstance(start.outcome, ScoutfsError)
        assert start.outcome.errno == errno.EIO
        assert "error reading quorum block of slot 2" in str(start.outcome)


async def test_w5_a_leader_that_our_record_overwrote_is_fenced() -> None:
    start = Start(9, overwritten=((0, EventRecord(3, D, 5, 0)),))
    async with start.started():
        assert start.asked == [(D, "10.0.0.1")]
        await start.fence(D)
        assert isinstance(start.outcome, dict)


async def test_w4_a_leader_of_our_own_slot_is_asked_for_until_it_is_fenced(autojump_clock: MockClock) -> None:
    start = Start(6)
    start.volume.record(0, Event.FENCE, D, 5)
    async with start.started():
        assert start.asked == [(D, "10.0.0.1")]
        await trio.sleep(100)
        assert start.outcome is None
        said = [text for text in start.log.errors if "giving up would hide it" in text]
        assert len(said) >= 4
        assert f"{D:016x} of term 5" in said[-1]
        await start.fence(D)
        assert isinstance(start.outcome, dict)


@pytest.mark.parametrize("moment", [15.0, 31.0, 36.0, 50.0])
async def test_w4_it_starts_as_soon_as_the_leader_is_fenced(moment: float, autojump_clock: MockClock) -> None:
    """Also at the very moment at which a wait ends."""
    start = Start(6)
    start.volume.record(0, Event.FENCE, D, 5)
    async with start.started():
        await trio.sleep(moment)
        await start.fence(D)
        if not isinstance(start.outcome, dict):  # it had failed by then, and an error wins: fenced again
            await trio.sleep(5)
            await start.fence(D)
        assert isinstance(start.outcome, dict)


async def test_w4_an_error_does_not_make_it_give_up_either(autojump_clock: MockClock) -> None:
    start = Start(6)
    start.volume.record(0, Event.FENCE, D, 5)
    async with start.started():
        start.fences.mark_error(D)
        await trio.sleep(1)
        assert start.outcome is None
        assert start.log.entries[-1][0] == logging.ERROR
        await trio.sleep(6)
        (view,) = start.fences.pending()
        assert not view.error, "asked for afresh"
        await start.fence(D)
        assert isinstance(start.outcome, dict)


async def test_w4_once_it_is_fenced_others_may_fail_the_start(autojump_clock: MockClock) -> None:
    start = Start(6)
    start.volume.record(0, Event.FENCE, D, 4)
    start.volume.record(1, Event.ELECT, B, 5)
    async with start.started():
        await trio.sleep(20)
        assert start.outcome is None
        await start.fence(D)
        await trio.sleep(20)
        assert isinstance(start.outcome, ScoutfsError)
        assert start.outcome.errno in (errno.ETIMEDOUT, errno.EIO)


def test_mounts_that_a_later_leader_fenced_are_known() -> None:
    volume = FakeVolume(CONFIG)
    volume.elected(0, A, 5)  # killed, fenced by the next
    volume.elected(1, B, 7)  # killed, not fenced yet
    volume.record(2, Event.ELECT, C, 3)
    volume.record(2, Event.STOP, C, 3)  # stopped by itself
    assert fenced_rids(read_all_blocks(volume, CONFIG.slots)) == {A}
