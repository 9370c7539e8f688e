"""Members that die: another leads, the dead one is fenced by its host, and its slot can be mounted again."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from format.quorum import Event
from tests.mounted.cluster import Cluster, Mount, at_once, wait_until, within

FAST = "quorum_heartbeat_timeout_ms=2000"
SLOW = "quorum_heartbeat_timeout_ms=60000"
"""Longer than anything here may take: whatever happens all the same did not wait for it."""


def free_blocks(directory: Path) -> int:
    """Ask the server through the kernel, as df does."""
    return int(within(20.0, lambda: str(os.statvfs(directory).f_bfree)))


def started(cluster: Cluster, slots: int = 3, option: str = FAST) -> tuple[list[Mount], Mount]:
    """Mount all members of a new volume; return them, usable, and their leader."""
    members = cluster.members(cluster.volume(slots), option)
    leader = cluster.await_leader(members)
    cluster.await_usable(members)
    return members, leader


def test_the_leader_is_killed(clusters: Callable[[str], Cluster]):
    kinds = (("mount", "member"), ("member",), ("mount",))
    at_once(*(partial(kill_the_leader, clusters("+".join(roles)), roles) for roles in kinds))


def kill_the_leader(cluster: Cluster, roles: tuple[str, ...]) -> None:
    volume = cluster.volume()
    members = cluster.members(volume, FAST)
    leader = cluster.await_leader(members)
    cluster.await_usable(members)
    slot, rid, term = members.index(leader), leader.rid, leader.term
    wait_until(lambda: leader.status["server_event"] == "3", "the record that leaders before are fenced")
    recorded = volume.quorum_blocks()[slot]

    leader.kill(signal.SIGKILL, *roles)
    others = [mount for mount in members if mount is not leader]
    successor = cluster.await_leader(others)
    cluster.await_usable(others)
    assert successor.term > term

    # whatever was left of it has been ended; nobody had to be asked
    wait_until(leader.processes_gone, "the end of the processes", timeout=5)
    log = successor.log()
    assert f"fenced rid {rid}: " in log
    assert "left to the fence daemon" not in log
    wait_until(lambda: successor.fences == [], "the end of the fence request")
    wait_until(lambda: successor.status["server_event"] == "3", "the record that leaders before are fenced")
    blocks = volume.quorum_blocks()
    fence = blocks[members.index(successor)].event(Event.FENCE)
    assert (f"{fence.rid:016x}", fence.term) == (successor.rid, successor.term)
    assert blocks[slot] == recorded, "a dead mount writes nothing"
    for mount in others:
        assert free_blocks(mount.directory) > 0

    # its slot is mounted again in the same place, and follows
    again = cluster.mount(volume, slot, FAST)
    assert "whose mount process is dead" in again.started.stderr
    members[slot] = again
    assert again.rid != rid
    assert cluster.await_leader(members) is successor
    cluster.await_usable(members)
    assert free_blocks(again.directory) > 0
    cluster.umount_all(members)
    cluster.assert_all_have_left(volume)


def test_a_member_process_that_dies_leaves_a_client(cluster: Cluster):
    members, leader = started(cluster, option=SLOW)
    follower = next(mount for mount in members if mount is not leader)
    follower.kill(signal.SIGKILL, "member")
    wait_until(lambda: "no longer takes part in quorum" in follower.log(), "the news that the member is gone")
    assert list(follower.note_pids()) == ["mount", "member"]
    assert follower.read("pids").split() == ["mount", str(follower.pids["mount"])]
    assert follower.read("quorum/is_leader") == "0"
    assert follower.role == "follower"
    # it is as usable as any other client
    assert follower.usable
    assert free_blocks(follower.directory) > 0


def test_a_follower_is_killed(clusters: Callable[[str], Cluster]):
    kinds = (("mount", "member"), ("mount",))
    at_once(*(partial(kill_a_follower, clusters("+".join(roles)), roles) for roles in kinds))


def kill_a_follower(cluster: Cluster, roles: tuple[str, ...]) -> None:
    volume = cluster.volume()
    members = cluster.members(volume, SLOW)
    leader = cluster.await_leader(members)
    cluster.await_usable(members)
    term = leader.term
    slot = next(slot for slot, mount in enumerate(members) if mount is not leader)
    members[slot].kill(signal.SIGKILL, *roles)
    wait_until(members[slot].processes_gone, "the end of the processes")
    with pytest.raises(OSError) as caught:
        free_blocks(members[slot].directory)
    assert caught.value.errno in (errno.ENOTCONN, errno.ECONNABORTED)
    for mount in members[:slot] + members[slot + 1 :]:
        assert free_blocks(mount.directory) > 0
    assert volume.quorum_blocks()[slot].agent_may_run, "that is what a killed member leaves behind"

    members[slot] = cluster.mount(volume, slot, SLOW)
    assert cluster.await_leader(members) is leader
    assert leader.term == term
    cluster.await_usable(members)
    assert free_blocks(members[slot].directory) > 0
    wait_until(lambda: leader.fences == [], "the end of any fence request")


def test_the_only_member_leads_again_at_once(cluster: Cluster):
    volume = cluster.volume(1, loop=False)
    terms, before = [], ""
    for _ in range(2):
        # less than the heartbeat timeout, which it need not wait for since it knows that it is dead
        mount = cluster.mount(volume, 0, SLOW, "wait=20")
        assert mount.usable
        wait_until(lambda mount=mount: mount.status["server_event"] == "3", "the record that it has fenced itself")
        terms.append(mount.term)
        assert free_blocks(mount.directory) > 0
        if before:
            assert f"fenced rid {before}: no process holds its lock" in mount.log()
        before = mount.rid
        mount.kill()
        wait_until(mount.processes_gone, "the end of the processes")
    assert terms == sorted(set(terms))


def test_everybody_is_killed(cluster: Cluster):
    volume = cluster.volume()
    members = cluster.members(volume, FAST)
    client = cluster.mount(volume, None, "wait=20")
    leader = cluster.await_leader(members)
    rid, term = leader.rid, leader.term
    for mount in (*members, client):
        mount.kill()
    for mount in (*members, client):
        wait_until(mount.processes_gone, "the end of the processes")
    members = cluster.members(volume, FAST)
    client = cluster.mount(volume, None, "wait=20")
    leader = cluster.await_leader(members)
    cluster.await_usable(members)
    assert leader.term > term
    assert f"fenced rid {rid}: " in leader.log()
    for mount in (*members, client):
        assert free_blocks(mount.directory) > 0


def test_leaders_die_one_after_the_other(cluster: Cluster):
    volume = cluster.volume()
    members = cluster.members(volume, FAST)
    term = 0
    for _ in range(2):
        leader = cluster.await_leader(members)
        cluster.await_usable(members)
        assert leader.term > term
        slot, term = members.index(leader), leader.term
        leader.kill()
        wait_until(leader.processes_gone, "the end of the processes")
        members[slot] = cluster.mount(volume, slot, FAST)
    cluster.await_leader(members)
    cluster.await_usable(members)
    cluster.umount_all(members)
    cluster.assert_all_have_left(volume)


def test_a_written_heartbeat_timeout_is_what_followers_wait(cluster: Cluster):
    members, leader = started(cluster, option=SLOW)
    others = [mount for mount in members if mount is not leader]
    for mount in others:
        path = mount.control("mount_options/quorum_heartbeat_timeout_ms")
        path.write_text("2000")
        assert path.read_text() == "2000"
    # in force with the next heartbeat
    heard = [int(mount.read("counters/quorum_recv_heartbeat")) for mount in others]
    for mount, before in zip(others, heard, strict=True):
        wait_until(
            lambda mount=mount, before=before: int(mount.read("counters/quorum_recv_heartbeat")) > before + 1,
            "another heartbeat",
        )
    leader.umount("-f")
    took = wait_until(lambda: any(mount.is_leader for mount in others), "another leader")
    assert took > 1.0, "nobody may lead before the old leader was silent for two seconds, give or take a second"
