"""Lists of faults that hypothesis draws: a list that violates an invariant shrinks to a short script."""

from __future__ import annotations

from dataclasses import fields
from random import Random

import pytest
from hypothesis import HealthCheck, find, given, settings
from hypothesis import strategies as st

from scoutfs.quorum.actions import STRICT_RULES, Rules
from scoutfs.simulation.cluster import ClusterConfig
from scoutfs.simulation.faults import Fault, Kind
from scoutfs.simulation.invariants import Violation
from scoutfs.simulation.runs import SimulationFailure, run_faults

SECONDS = 20.0
MEMBERS = 3


def milliseconds(least: int, most: int) -> st.SearchStrategy[float]:
    return st.integers(least, most).map(lambda number: number / 1000)


SCRIPTS = st.lists(
    st.builds(
        Fault,
        at=milliseconds(0, int(SECONDS * 1000)),
        kind=st.sampled_from(Kind),
        slot=st.integers(0, MEMBERS - 1),
        peer=st.integers(0, MEMBERS - 1),
        seconds=milliseconds(1, 10_000),
        amount=st.integers(0, 100).map(lambda number: number / 100),
    ),
    max_size=12,
)


def program(faults: list[Fault], rules: Rules) -> str:
    """Text that runs a script again: Python, with each fault in words."""
    changed = ", ".join(f"{name}=False" for name in Rules._fields if not getattr(rules, name))
    lines = [f"config = ClusterConfig(members={MEMBERS}, heartbeat_timeout=2.0, rules=Rules({changed}))", "faults = ["]
    for fault in faults:
        values = [f"{f.name}={getattr(fault, f.name)!r}" for f in fields(Fault) if f.name != "kind"]
        lines.append(f"    Fault(kind=Kind.{fault.kind.name}, {', '.join(values)}),  # {fault}")
    return "\n".join([*lines, "]", f"run_faults(config, faults, seconds={SECONDS:g})"])


def run_script(faults: list[Fault], rules: Rules = STRICT_RULES) -> None:
    config = ClusterConfig(members=MEMBERS, heartbeat_timeout=2.0, rules=rules)
    run_faults(config, faults, seconds=SECONDS, origin=f"replay with:\n{program(faults, rules)}\n")


def violates(faults: list[Fault], rules: Rules) -> bool:
    config = ClusterConfig(members=MEMBERS, heartbeat_timeout=2.0, rules=rules)
    try:
        run_faults(config, faults, seconds=SECONDS, tell=lambda *_: None)
    except Violation:
        return True
    return False


@pytest.mark.slow
@settings(max_examples=1500, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(SCRIPTS)
def test_every_invariant_holds_under_every_script(faults: list[Fault]) -> None:
    run_script(faults)


def test_a_script_that_violates_an_invariant_shrinks_and_can_be_replayed() -> None:
    """A candidate that has asked for votes before its term is on disk must not give its own vote away."""
    rules = STRICT_RULES._replace(persist_before_sending=False)
    shrunk = find(
        SCRIPTS,
        lambda faults: len(faults) > 0 and violates(faults, rules),
        settings=settings(max_examples=2000, deadline=None, database=None),
        random=Random(1),
    )
    assert len(shrunk) <= 3
    run_script(shrunk)
    with pytest.raises(SimulationFailure) as caught:
        run_script(shrunk, rules)
    assert caught.value.violation.invariant in ("I3", "I4", "I10")
    text = str(caught.value)
    code = text[text.index("config = ") : text.index("; the last of its timeline:")]
    names = {"ClusterConfig": ClusterConfig, "Rules": Rules, "Fault": Fault, "Kind": Kind, "run_faults": run_faults}
    with pytest.raises(SimulationFailure) as again:
        exec(code, names)
    assert str(again.value.violation) == str(caught.value.violation)
