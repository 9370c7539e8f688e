"""A run follows from its seed alone: not from the process, the hash seed, or what ran before."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from scoutfs.simulation.faults import SCENARIOS
from scoutfs.simulation.runs import Run, run_seed
from scoutfs.simulation.timeline import Line


def timeline(seed: int, scenario: str) -> tuple[Run, list[Line]]:
    lines: list[Line] = []
    return run_seed(seed, scenario=scenario, seconds=60.0, tell=lambda *line: lines.append(Line(*line))), lines


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_same_seed_gives_the_same_timeline(scenario: str) -> None:
    first = timeline(5, scenario)
    assert len(first[1]) > 100
    timeline(6, scenario)
    assert timeline(5, scenario) == first


def test_another_seed_gives_another_timeline() -> None:
    assert timeline(5, "faulty") != timeline(6, "faulty")


def test_telling_changes_nothing() -> None:
    assert timeline(5, "faulty")[0] == run_seed(5, scenario="faulty", seconds=60.0)


def test_the_hash_seed_of_the_process_changes_nothing() -> None:
    program = "import sys; from scoutfs.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", program, "simulate", "--seed=7", "--scenario=storm", "--members=5", "--seconds=30"]
    outputs = {
        subprocess.run(
            [*command, "--heartbeats"],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        ).stdout
        for hash_seed in ("0", "1", "4242")
    }
    assert len(outputs) == 1
    assert outputs.pop().count("\n") > 1000
