"""Seeds that fail without the fix of a bug that they found, see `docs/track-record.md`."""

from __future__ import annotations

import pytest

from scoutfs.simulation.runs import run_seed


@pytest.mark.parametrize(
    ("seed", "scenario", "seconds"),
    [
        pytest.param(4, "mounts", 25.0, id="an-earlier-leader-of-the-slot-is-named-again"),
        pytest.param(290, "disks", 50.0, id="no-start-without-the-own-block"),
        pytest.param(491, "disks", 60.0, id="simulator-a-write-fails-after-everything-is-repaired"),
        pytest.param(29, "mounts", 40.0, id="simulator-a-server-stands-still-after-everything-is-repaired"),
    ],
)
def test_seed_that_found_a_bug(seed: int, scenario: str, seconds: float) -> None:
    run_seed(seed, scenario=scenario, seconds=seconds)
