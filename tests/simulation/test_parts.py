"""Schedule, network, disk, timeline and faults, each by itself; and what a failed run says."""

from __future__ import annotations

from random import Random

import pytest

from format.message import Message, MessageType
from scoutfs.simulation.cluster import Cluster, ClusterConfig, links_between
from scoutfs.simulation.disk import DiskPath
from scoutfs.simulation.faults import SCENARIOS, Fault, Kind, inject, random_faults
from scoutfs.simulation.invariants import Violation
from scoutfs.simulation.network import Network
from scoutfs.simulation.runs import SimulationFailure, configure, run_faults
from scoutfs.simulation.schedule import Schedule
from scoutfs.simulation.timeline import Line, format_line

REQUEST = Message(3, MessageType.REQUEST_VOTE, 0)


# -- schedule ----------------------------------------------------------------------------------------------------------


def test_callbacks_happen_in_order_of_time_and_then_of_addition() -> None:
    schedule = Schedule()
    happened: list[tuple[float, object]] = []
    for time, name in ((2.0, "c"), (1.0, "a"), (1.0, "b"), (3.0, "d")):
        schedule.at(time, lambda first, _: happened.append((schedule.now, first)), name)
    schedule.run(2.5)
    assert happened == [(1.0, "a"), (1.0, "b"), (2.0, "c")]
    assert (schedule.now, schedule.events) == (2.5, 3)
    schedule.run(10.0)
    assert happened[-1] == (3.0, "d")


def test_running_while_a_condition_holds_stops_between_two_events() -> None:
    schedule = Schedule()
    happened: list[object] = []
    for time in (1.0, 2.0, 3.0):
        schedule.at(time, lambda first, _: happened.append(first), time)
    assert schedule.run_while(lambda: len(happened) < 2, 10.0)
    assert (schedule.now, happened) == (2.0, [1.0, 2.0])
    assert not schedule.run_while(lambda: True, 10.0)
    assert (schedule.now, happened, schedule.events) == (10.0, [1.0, 2.0, 3.0], 3)


# -- network -----------------------------------------------------------------------------------------------------------


class Wire:
    """A network between two slots, and what arrived when."""

    def __init__(self) -> None:
        self.schedule = Schedule()
        self.arrived: list[tuple[float, int, Message | None]] = []
        self.network = Network(self.schedule, Random(1), self._deliver, (0.001, 0.002))

    def _deliver(self, slot: int, message: Message | None) -> None:
        self.arrived.append((self.schedule.now, slot, message))

    def send(self, number: int = 1, source: int = 0) -> list[Message | None]:
        """Send, and return what arrived."""
        self.arrived.clear()
        for _ in range(number):
            self.network.send(source, 1 - source, REQUEST)
        self.schedule.run(self.schedule.now + 1.0)
        return [message for _, _, message in self.arrived]


def test_a_datagram_arrives_once_after_its_latency() -> None:
    wire = Wire()
    assert wire.send() == [REQUEST]
    ((time, slot, _),) = wire.arrived
    assert 0.001 <= time <= 0.002
    assert slot == 1


def test_a_cut_is_of_one_direction_and_ends_when_every_cut_is_mended() -> None:
    wire = Wire()
    wire.network.cut([(0, 1)])
    wire.network.cut([(0, 1)])
    assert wire.send() == []
    assert wire.send(source=1) == [REQUEST]
    assert not wire.network.connected(0, 1)
    wire.network.mend([(0, 1), (1, 0)])
    assert wire.send() == []
    wire.network.mend([(0, 1)])
    assert wire.send() == [REQUEST]


@pytest.mark.parametrize(
    ("fault", "least", "most"),
    [("loss", 400, 600), ("corruption", 1000, 1000), ("duplication", 1400, 1600), ("reordering", 1000, 1000)],
)
def test_half_of_1000_datagrams_meet_a_fault(fault: str, least: int, most: int) -> None:
    wire = Wire()
    wire.network.set_faults(**{fault: 0.5})
    arrived = wire.send(1000)
    assert least <= len(arrived) <= most
    assert 400 <= arrived.count(None) <= 600 if fault == "corruption" else None not in arrived
    late = sum(time > 0.002 for time, _, _ in wire.arrived)
    assert 400 <= late <= 600 if fault in ("duplication", "reordering") else late == 0
    wire.network.heal()
    assert wire.send(10) == [REQUEST] * 10


def test_a_held_datagram_waits_until_it_is_let_go() -> None:
    wire = Wire()
    wire.network.hold([(0, 1)])
    assert wire.send() == []
    assert wire.network.waiting == [(0, 1, REQUEST)]
    wire.network.arrive(1, REQUEST)
    assert wire.send(source=1) == [REQUEST, REQUEST]


def test_links_between_two_groups_go_both_ways_and_never_to_oneself() -> None:
    assert sorted(links_between((0,), (0, 1, 2))) == [(0, 1), (0, 2), (1, 0), (2, 0)]


# -- disk --------------------------------------------------------------------------------------------------------------


def test_a_path_to_the_disk_is_slow_stalled_blind_or_flaky() -> None:
    random = Random(1)
    assert 5.002 <= DiskPath().update_time(5.0, random) <= 5.010
    assert 5.02 <= DiskPath(slowness=10.0).update_time(5.0, random) <= 5.1
    assert DiskPath(stalled_until=9.0).read_time(5.0, random) == 9.0
    blind = DiskPath(unreadable=frozenset({1}))
    assert [blind.fails_to_read(slot, random) for slot in range(3)] == [False, True, False]
    assert 400 <= sum(DiskPath(flakiness=0.5).fails_to_read(0, random) for _ in range(1000)) <= 600


# -- faults ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_drawn_faults_are_in_order_and_of_the_scenario(scenario: str) -> None:
    faults = random_faults(Random(3), SCENARIOS[scenario], (0, 2, 5), 6000.0)
    assert faults == random_faults(Random(3), SCENARIOS[scenario], (0, 2, 5), 6000.0)
    assert [fault.at for fault in faults] == sorted(fault.at for fault in faults)
    assert {fault.kind for fault in faults} == set(SCENARIOS[scenario].weights)
    assert {fault.slot for fault in faults} <= {0, 2, 5}
    assert all(0.0 < fault.at < 6000.0 and fault.seconds > 0.0 and 0.0 <= fault.amount <= 1.0 for fault in faults)


@pytest.mark.parametrize("kind", Kind)
def test_every_kind_of_fault_can_be_said_and_played(kind: Kind) -> None:
    fault = Fault(5.0, kind, 1, 2, 3.0, 0.5)
    assert "{" not in str(fault)
    told: list[Line] = []
    run_faults(ClusterConfig(), [fault], seconds=20.0, tell=lambda *line: told.append(Line(*line)))
    first, *later = [line.text for line in told if line.kind == "fault"]
    assert first == str(fault)
    assert set(later) == {"everything is repaired"}


def test_a_fault_of_an_absent_slot_does_nothing() -> None:
    cluster = Cluster(ClusterConfig(slots=(1, 4)), 1)
    inject(cluster, [Fault(0.1, Kind.CRASH, 0), Fault(0.1, Kind.CUT, 1, 2)])
    cluster.start_all()
    cluster.run(5.0)
    assert sorted(cluster.members) == [1, 4]


def test_a_scenario_says_who_is_the_original() -> None:
    assert all(len(configure(seed, SCENARIOS["mixed"], members=3).originals) == 1 for seed in range(9))
    assert {min(configure(seed, SCENARIOS["mixed"], members=3).originals) for seed in range(30)} == {0, 1, 2}
    assert configure(1, SCENARIOS["original"], members=3).originals == {0, 1, 2}
    assert configure(1, SCENARIOS["faulty"], members=3).originals == frozenset()


# -- what a failure says -----------------------------------------------------------------------------------------------


def test_a_failure_names_its_origin_and_ends_its_timeline_with_what_happened(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(cluster: Cluster) -> float:
        raise Violation("I17", cluster.now, 1, "made up")

    monkeypatch.setattr(Cluster, "settle", refuse)
    faults = [Fault(1.0, Kind.CRASH, 1, seconds=0.5)]
    with pytest.raises(SimulationFailure) as caught:
        run_faults(ClusterConfig(), faults, seconds=3.0, origin="the origin")
    first, *_ = text = str(caught.value).splitlines()
    assert first == "I17 violated at 3.000000 s, slot 1: made up"
    assert text[1].startswith("the origin")
    assert "    1.000000 s * " + " " * 8 + str(faults[0]) in text
    assert "    1.000000 s   slot 1  dies" in text
    assert not any("HEARTBEAT" in line for line in text)
    assert caught.value.violation.invariant == "I17"


def test_a_line_of_the_timeline() -> None:
    assert format_line(Line(1.5, 3, "mount", "dies")) == "    1.500000 s   slot 3  dies"
    assert format_line(Line(1.5, -1, "fault", "rain")) == "    1.500000 s *         rain"
