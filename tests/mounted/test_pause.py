"""Mounts that are stopped for a while, as by a starved machine, and what may be asked of them meanwhile."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from functools import partial

from format.quorum import Event
from scoutfs.paths import mount_name
from tests.mounted.cluster import (
    Cluster,
    Mount,
    Volume,
    at_once,
    await_heartbeats,
    wait_until,
    waits_for_answer,
    within,
)
from tests.mounted.fence_daemon import FenceDaemon

FAST = "quorum_heartbeat_timeout_ms=2000"


def started(cluster: Cluster, *options: str) -> tuple[Volume, list[Mount], Mount]:
    """Mount the three members of a new volume; return them, usable, and their leader."""
    volume = cluster.volume(loop=False)
    members = cluster.members(volume, FAST, *options)
    leader = cluster.await_leader(members)
    cluster.await_usable(members)
    return volume, members, leader


def answers(mount: Mount) -> bool:
    """Ask the server through the kernel, as df does."""
    return int(within(20.0, lambda: str(os.statvfs(mount.directory).f_bfree))) > 0


def test_pauses(clusters: Callable[[str], Cluster]):
    cases = (
        a_leader_is_ended_by_its_host,
        a_leader_steps_down_when_it_goes_on,
        a_follower_changes_nothing,
        whatever_is_asked_has_an_end,
    )
    at_once(*(partial(case, clusters(case.__name__)) for case in cases))


def a_leader_is_ended_by_its_host(cluster: Cluster) -> None:
    _, members, leader = started(cluster)
    rid, pids = leader.rid, leader.pids
    leader.kill(signal.SIGSTOP)
    others = [mount for mount in members if mount is not leader]
    successor = cluster.await_leader(others)
    wait_until(leader.processes_gone, "the end of the paused leader")
    cluster.await_usable(others)
    # the kernel may be faster than the second kill: a member does not outlive its mount process
    killed = rf"fenced rid {rid}: killed process(es)? {pids['mount']}(, {pids['member']})?$"
    assert re.search(killed, successor.log(), re.MULTILINE)
    assert all(answers(mount) for mount in others)


def a_leader_steps_down_when_it_goes_on(cluster: Cluster) -> None:
    volume, members, leader = started(cluster, "fence=agent")
    wait_until(lambda: leader.status["server_event"] == "3", "the record that leaders before are fenced")
    slot, rid, term = members.index(leader), leader.rid, leader.term
    leader.kill(signal.SIGSTOP)
    others = [mount for mount in members if mount is not leader]
    successor = cluster.await_leader(others)
    wait_until(lambda: successor.fences == [rid], "the fence request")
    request = successor.control("fence") / rid
    assert {path.name: path.read_text() for path in request.iterdir() if path.name != "elapsed_secs"} == {
        "rid": rid,
        "ipv4_addr": volume.slots[slot].split(",")[0],
        "reason": "quorum_block_leader",
        "fenced": "0",
        "error": "0",
    }
    assert "is left to the fence daemon: fencing by this host is switched off" in successor.log()
    # the server is not up before that is answered, and nobody has ended the old one
    assert successor.status["server_event"] == "2"
    asked = [cluster.start("stat", "-f", str(mount.directory)) for mount in others]
    for process in asked:
        wait_until(lambda process=process: waits_for_answer(process.pid), "the wait for a server")
    assert not leader.processes_gone()
    (request / "fenced").write_text("1")
    for process in asked:
        assert process.wait(timeout=20) == 0
    cluster.await_usable(others)
    assert not leader.processes_gone()

    leader.kill(signal.SIGCONT)
    wait_until(lambda: (leader.role, leader.term) == ("follower", successor.term), "the end of the old leadership")
    wait_until(lambda: volume.quorum_blocks()[slot].event(Event.STOP).term == term, "the record that it has stopped")
    assert cluster.await_leader(members) is successor
    # it was declared dead, so it is not let in again, and is told so
    wait_until(lambda: "as it does if this mount was fenced" in leader.read("waiting"), "the refusal")
    assert all(answers(mount) for mount in others)
    leader.umount("-f")
    members[slot] = cluster.mount(volume, slot, FAST, "fence=agent", "wait=20")
    assert cluster.await_leader(members) is successor
    cluster.umount_all(members)
    cluster.assert_all_have_left(volume)


def a_follower_changes_nothing(cluster: Cluster) -> None:
    volume, members, leader = started(cluster)
    term = leader.term
    follower = next(mount for mount in members if mount is not leader)
    follower.kill(signal.SIGSTOP)
    # longer than its heartbeat timeout
    await_heartbeats(leader, "send", 60)
    follower.kill(signal.SIGCONT)
    await_heartbeats(follower, "recv", 10)
    assert (follower.role, follower.term) == ("follower", term)
    assert cluster.await_leader(members) is leader
    assert leader.term == term
    assert volume.quorum_blocks()[members.index(follower)].event(Event.TERM).term <= term
    assert all(answers(mount) for mount in members)


def whatever_is_asked_has_an_end(cluster: Cluster) -> None:
    volume, members, leader = started(cluster)
    follower = next(mount for mount in members if mount is not leader)
    slot = members.index(follower)
    name = mount_name(int(follower.read("fsid"), 16), int(follower.rid, 16))
    daemon = FenceDaemon(cluster)
    follower.kill(signal.SIGSTOP)

    def another_mount_in_its_place_is_refused() -> None:
        done = cluster.try_mount(volume.device, volume.options(), follower.directory.name)
        assert done.returncode == 32
        assert "its process does not answer: unmount it with umount -f" in done.stderr

    def its_slot_is_taken() -> None:
        done = cluster.try_mount(volume.device, volume.options(slot), "elsewhere")
        assert done.returncode == 32
        assert f"quorum_slot_nr={slot} of this volume is mounted on this host already" in done.stderr

    def who_waits_for_it_can_be_killed() -> None:
        waiting = cluster.start("stat", "-f", str(follower.directory))
        wait_until(lambda: waits_for_answer(waiting.pid), "the wait")
        waiting.kill()
        waiting.wait(timeout=10)

    def the_fence_daemon_goes_on() -> None:
        done = daemon.once()
        assert done.returncode == 0
        assert f"mount {name} does not answer: its requests have to wait" in done.stderr

    def unmounting_it_fails() -> None:
        done = follower.umount(check=False)
        assert done.returncode == 32
        assert "umount -f" in done.stderr
        assert follower.is_mounted()

    at_once(
        unmounting_it_fails,
        another_mount_in_its_place_is_refused,
        its_slot_is_taken,
        who_waits_for_it_can_be_killed,
        the_fence_daemon_goes_on,
    )
    # members that are not asked anything go on
    assert all(answers(mount) for mount in members if mount is not follower)
    follower.umount("-f", timeout=30)
    assert not follower.is_mounted()
    assert follower.processes_gone()
