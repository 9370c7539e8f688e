"""Runs of a faulty cluster, each from a seed; a failure is replayed with its timeline."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from scoutfs.quorum.actions import STRICT_RULES, Rules
from scoutfs.simulation.cluster import Cluster, ClusterConfig, Tell
from scoutfs.simulation.faults import SCENARIOS, Fault, Scenario, inject, random_faults
from scoutfs.simulation.invariants import Violation
from scoutfs.simulation.timeline import Line, format_line

CONTEXT_LINES = 60
"""Lines of the timeline that a failure shows."""


@dataclass(frozen=True, slots=True)
class Run:
    """What a run showed.

    `seconds` of virtual time had faults, of `total_seconds`; `elections` were won; `settled` is how many seconds after
    the last fault a leader served.
    """

    seed: int
    seconds: float
    total_seconds: float
    elections: int
    events: int
    settled: float


class SimulationFailure(AssertionError):
    """A violated invariant, with all that is needed to see it again."""

    def __init__(self, violation: Violation, origin: str, lines: Sequence[Line]) -> None:
        self.violation = violation
        self.origin = origin
        timeline = "\n".join(format_line(line) for line in lines)
        super().__init__(f"{violation}\n{origin}; the last of its timeline:\n{timeline}")


def configure(
    seed: int,
    scenario: Scenario,
    *,
    members: int = 3,
    rules: Rules = STRICT_RULES,
    heartbeat_timeout: float | None = None,
) -> ClusterConfig:
    """Return the cluster of a seed: what a scenario leaves open is drawn."""
    random = Random(f"cluster {seed}")
    timeout = random.choice(scenario.heartbeat_timeouts)
    return ClusterConfig(
        members=members,
        heartbeat_timeout=heartbeat_timeout or timeout,
        clock_drift=scenario.clock_drift,
        rules=rules,
        originals=frozenset(random.sample(range(members), min(scenario.originals, members))),
    )


def run_seed(
    seed: int,
    *,
    scenario: str = "faulty",
    members: int = 3,
    seconds: float = 300.0,
    rules: Rules = STRICT_RULES,
    tell: Tell | None = None,
) -> Run:
    """Run one seed of a scenario of `SCENARIOS`; raises SimulationFailure, with the end of the timeline.

    With `tell`, which gets the whole timeline, it raises the bare Violation.
    """
    chosen = SCENARIOS[scenario]
    config = configure(seed, chosen, members=members, rules=rules)
    faults = random_faults(Random(f"faults {seed}"), chosen, config.present, seconds)
    origin = f"seed {seed} of scenario {scenario!r}, {members} members, {seconds:g} s"
    return run_faults(config, faults, seed=seed, seconds=seconds, origin=origin, tell=tell)


def run_faults(
    config: ClusterConfig,
    faults: Sequence[Fault],
    *,
    seed: int = 0,
    seconds: float = 60.0,
    origin: str = "a script of faults",
    tell: Tell | None = None,
) -> Run:
    """Run a cluster through a list of faults, then let it settle; raises SimulationFailure."""
    if tell is not None:
        return _run(config, faults, seed, seconds, tell)
    try:
        return _run(config, faults, seed, seconds, None)
    except Violation as first:
        violation = first
        lines: deque[Line] = deque(maxlen=CONTEXT_LINES)

        def remember(time: float, slot: int, kind: str, text: str) -> None:
            if kind != "beat":
                lines.append(Line(time, slot, kind, text))

        try:
            _run(config, faults, seed, seconds, remember)
        except Violation as again:
            violation = again
        raise SimulationFailure(violation, origin, lines) from None


def _run(config: ClusterConfig, faults: Sequence[Fault], seed: int, seconds: float, tell: Tell | None) -> Run:
    cluster = Cluster(config, seed, tell)
    cluster.start_all()
    inject(cluster, faults)
    cluster.run(seconds)
    settled = cluster.settle()
    return Run(seed, seconds, cluster.now, cluster.elections, cluster.schedule.events, settled)
