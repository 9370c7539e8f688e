"""The n-th failure of a whole mount: whichever operation on the devices fails, it ends clearly or recovers.

From the checks to the end of the member, with the real kernel; agent, server and client have such tests of their own.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.mounted.cluster import Cluster, at_once

ROOT = Path(__file__).parents[2]
STEP = 6


def test_every_operation_of_a_mount_fails_in_turn(clusters: Callable[[str], Cluster]):
    at_once(*(partial(fail_each, clusters(str(first)), first) for first in range(1, STEP + 1)))


def fail_each(cluster: Cluster, first: int) -> None:
    volume = cluster.volume(1, loop=False)
    directory = cluster.directory / "m"
    directory.mkdir()
    words = ["EIO", str(first), str(STEP), volume.device, str(directory), volume.options(0, "wait=4")]
    cluster.environment["PYTHONPATH"] = str(ROOT)
    done = cluster.run(sys.executable, "-m", "tests.mounted.faulty_mount", *words, timeout=120)
    assert done.stderr == ""
    runs = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(runs) > 2
    for run in runs:
        # one line says why, unless it recovered
        assert run["code"] in (0, 32), run
        assert len(run["said"]) == (run["code"] != 0), run
        assert not any("internal error" in line or "Traceback" in line for line in run["log"]), run
    last = runs[-1]
    assert (last["code"], last["ready"], last["happened"]) == (0, True, []), last
    assert all(run["happened"] for run in runs[:-1])
    assert cluster.mounted() == []
    assert cluster.live_pids() == []
    # what the last run left is whole, whatever happened before it
    assert "no damage found" in cluster.run("fsck.scoutfs", "-n", volume.device).stdout
    cluster.assert_all_have_left(volume)
    mount = cluster.mount(volume, 0, "wait=20")
    assert mount.usable
