"""`scoutfs quorum` and `scoutfs quorum watch` on volumes that are mounted."""

from __future__ import annotations

import json
import signal
from typing import Any

from tests.mounted.cluster import Cluster, wait_until


def look(cluster: Cluster, target: object, status: int = 0) -> dict[str, Any]:
    done = cluster.run("scoutfs", "quorum", "watch", "--once", "--json", str(target), check=False)
    assert done.returncode == status, done.stderr
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def test_a_cluster_as_its_device_and_its_mounts_show_it(cluster: Cluster) -> None:
    volume = cluster.volume()
    members = cluster.members(volume)
    leader = cluster.await_leader(members)
    slot = members.index(leader)
    rids = [member.read("rid").strip() for member in members]

    recorded = json.loads(cluster.run("scoutfs", "quorum", "--json", volume.device).stdout)
    assert [entry["rid"] for entry in recorded["slots"]] == rids
    assert (recorded["server"]["slot"], recorded["server"]["term"]) == (slot, leader.term)
    assert recorded["members"] == [0, 1, 2]
    assert recorded["problems"] == []

    seen = look(cluster, volume.device)
    assert [view["rid"] for view in seen["mounts"]] == rids
    assert [view["path"] for view in seen["mounts"]] == [str(member.directory) for member in members]
    assert [view["is_leader"] for view in seen["mounts"]] == [member is leader for member in members]
    assert {view["status"]["term"] for view in seen["mounts"]} == {leader.term}
    assert seen["volume"]["server"] == recorded["server"]

    [follower] = [view["slot"] for view in seen["mounts"] if view["slot"] not in (slot, (slot + 1) % 3)]
    [view] = look(cluster, members[follower].directory)["mounts"]
    [heard] = [message for message in view["status"]["last_recv"] if message["slot"] == slot]
    assert heard["type"] == "heartbeat"
    assert 0 <= heard["secs_since"] < 5

    # a mount whose process is stopped must not stop who watches
    members[follower].kill(signal.SIGSTOP)
    try:
        seen = look(cluster, volume.device, status=1)
    finally:
        members[follower].kill(signal.SIGCONT)
    assert [view["slot"] for view in seen["mounts"]] == [nr for nr in range(3) if nr != follower]
    [problem] = seen["problems"]
    assert problem.startswith(f"{members[follower].directory}: no answer for ")

    wait_until(lambda: cluster.agreed(members), "agreement on a leader")
    cluster.umount_all(members)
    recorded = json.loads(cluster.run("scoutfs", "quorum", "--json", volume.device).stdout)
    assert (recorded["server"], recorded["members"], recorded["to_fence"]) == (None, [], [])
    assert look(cluster, volume.device)["mounts"] == []
