"""Figures are what an election can give at all; how fast ours are is asserted nowhere."""

from __future__ import annotations

from math import isfinite

import pytest

from scoutfs.simulation.measure import cold_election, failover, isolation_return, percentile, resignation

SEEDS = range(20)
ELECTION_TIMEOUT = 0.25
"""The least timeout, in seconds; an update of a block takes 2 ms at least (spec 02 §12)."""


@pytest.mark.parametrize("members", [1, 2, 3, 5])
def test_a_cold_election_takes_a_timeout_and_two_updates_at_least(members: int) -> None:
    figures = [cold_election(members, seed) for seed in SEEDS]
    assert all(isfinite(figure) for figure in figures)
    assert min(figures) >= ELECTION_TIMEOUT + 2 * 0.002
    assert max(figures) < 10.0
    assert len(set(figures)) == len(figures)
    assert figures[0] == cold_election(members, 0)


@pytest.mark.parametrize("heartbeat_timeout", [2.0, 10.0, 60.0])
def test_a_failover_takes_the_heartbeat_timeout(heartbeat_timeout: float) -> None:
    figures = [failover(seed, heartbeat_timeout) for seed in SEEDS]
    assert min(figures) >= heartbeat_timeout - 0.1
    assert max(figures) < heartbeat_timeout + 3.0


def test_after_a_resignation_nobody_waits_for_heartbeats() -> None:
    figures = [resignation(seed) for seed in SEEDS]
    assert min(figures) >= ELECTION_TIMEOUT
    assert max(figures) < 2.0


def test_an_isolation_shorter_than_the_heartbeat_timeout_is_never_noticed() -> None:
    assert not any(isolation_return(seed, isolated=5.0) for seed in SEEDS)


@pytest.mark.parametrize(
    ("percent", "figure"), [(0, 10.0), (10, 10.0), (10.1, 20.0), (50, 50.0), (90, 90.0), (99, 100.0), (100, 100.0)]
)
def test_a_percentile_is_the_least_figure_that_so_many_do_not_exceed(percent: float, figure: float) -> None:
    figures = [float(number) for number in (70, 10, 100, 40, 20, 90, 50, 30, 80, 60)]
    assert percentile(figures, percent) == figure
