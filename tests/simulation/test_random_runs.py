"""Clusters under random faults: as many seeds as fit into a budget of CPU time, every invariant asserted at every step.

`SCOUTFS_SIMULATION_SECONDS` sets the budget of all scenarios together, `SCOUTFS_SIMULATION_SEED` the first seed.
"""

from __future__ import annotations

import os
import time
from itertools import count, cycle

import pytest

from scoutfs.simulation.faults import SCENARIOS
from scoutfs.simulation.runs import Run, SimulationFailure, configure, run_seed

FIRST_SEED = int(os.environ.get("SCOUTFS_SIMULATION_SEED", "1"))
BUDGET = float(os.environ.get("SCOUTFS_SIMULATION_SECONDS", "120"))
SECONDS = 300.0
MEMBERS = (3, 2, 5, 3, 2, 5, 1, 4, 7)
FAILURES_MAX = 3

LOST_LEADER = (241, "replaced", 1)
"""Seed, scenario and members of the one known run in which a leader is forgotten that nobody has fenced."""


def is_known_hole(failure: SimulationFailure, seed: int, scenario: str, members: int) -> bool:
    """Whether an original's server runs beside another's: I13 has the holes W2 to W6 of spec 02 §13.2 there."""
    originals = configure(seed, SCENARIOS[scenario], members=members).originals
    return failure.violation.invariant == "I13" and failure.violation.slot in originals


@pytest.mark.slow
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_invariant_holds_under_random_faults(scenario: str) -> None:
    deadline = time.process_time() + BUDGET / len(SCENARIOS)
    runs: list[Run] = []
    failures: list[str] = []
    for seed, members in zip(count(FIRST_SEED), cycle(MEMBERS)):
        if len(failures) == FAILURES_MAX or (len(runs) >= len(MEMBERS) and time.process_time() > deadline):
            break
        if (seed, scenario, members) == LOST_LEADER:
            continue
        try:
            runs.append(run_seed(seed, scenario=scenario, members=members, seconds=SECONDS))
        except SimulationFailure as failure:
            if not is_known_hole(failure, seed, scenario, members):
                command = (
                    f"scoutfs simulate --seed {seed} --scenario {scenario} --members {members} --seconds {SECONDS:g}"
                )
                failures.append(f"replay with: {command}\n{failure}")
    if failures:
        pytest.fail("\n\n".join(failures), pytrace=False)
    assert all(run.elections for run in runs)


@pytest.mark.parametrize(
    ("seed", "scenario", "members"),
    [
        pytest.param(1073, "storm", 2, id="a-server-start-waits-for-a-disk-that-stalls-when-the-faults-end"),
        pytest.param(500098, "disks", 2, id="a-write-that-must-fail-waits-for-a-disk-that-no-longer-stalls"),
        pytest.param(1026, "replaced", 2, id="two-mounts-of-one-slot-live-when-the-faults-end"),
    ],
)
def test_seed_that_failed_before(seed: int, scenario: str, members: int) -> None:
    run_seed(seed, scenario=scenario, members=members)


def test_a_leader_of_the_slot_is_forgotten_when_the_next_dies_before_fencing_it() -> None:
    """A known fault, see docs/decisions/election-rules.md: take it out here, and above, when it is mended."""
    seed, scenario, members = LOST_LEADER
    with pytest.raises(SimulationFailure, match="I13 violated"):
        run_seed(seed, scenario=scenario, members=members)
