"""Members on several hosts, whose network is cut and healed: local fencing knows nothing of other hosts' mounts."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from format.quorum import Event
from tests.mounted.cluster import Mount, Volume, at_once, await_heartbeats, wait_until, within
from tests.mounted.fence_daemon import FORCE_UNMOUNT, FenceDaemon
from tests.mounted.hosts import Hosts, hosts_in

FAST = "quorum_heartbeat_timeout_ms=2000"


@pytest.fixture
def three_hosts(tmp_path: Path) -> Iterator[Callable[[str], Hosts]]:
    """Hands out three hosts by name, for what is tested at the same time."""
    with ExitStack() as stack:
        yield lambda name: stack.enter_context(hosts_in(tmp_path / name, 3))


def started(hosts: Hosts) -> tuple[Volume, list[Mount], Mount]:
    """Mount a member on each host; return them, usable, and their leader."""
    volume = hosts.volume()
    members = [cluster.mount(volume, slot, FAST) for slot, cluster in enumerate(hosts.clusters)]
    leader = hosts.clusters[0].await_leader(members)
    hosts.clusters[0].await_usable(members)
    wait_until(lambda: leader.status["server_event"] == "3", "the record that leaders before are fenced")
    return volume, members, leader


def await_followers(leader: Mount, members: list[Mount]) -> None:
    """Wait until all others follow the leader; one that was cut off may keep a greater term all the same."""
    others = [mount for mount in members if mount is not leader]
    wait_until(lambda: all(mount.role == "follower" for mount in others), "the return of all members")
    await_heartbeats(leader, "send", 10)
    assert leader.is_leader
    assert [mount.role for mount in others] == ["follower"] * len(others)


def answers(mount: Mount) -> bool:
    """Ask the server through the kernel, as df does."""
    return int(within(20.0, lambda: str(os.statvfs(mount.directory).f_bfree))) > 0


def test_hosts_that_are_cut_off(three_hosts: Callable[[str], Hosts]):
    cases = (a_leader_is_fenced_by_an_agent, a_leader_steps_down, a_follower_comes_back)
    at_once(*(partial(case, three_hosts(case.__name__)) for case in cases))


def a_leader_is_fenced_by_an_agent(hosts: Hosts) -> None:
    volume, members, leader = started(hosts)
    slot, rid = members.index(leader), leader.rid
    # as a management board would, it reaches every host whatever becomes of their network
    everywhere = " ".join(map(str, hosts.run_directories()))
    action = f"for SCOUTFS_RUN_DIR in {everywhere}; do\n{FORCE_UNMOUNT}done\n"
    daemons = [FenceDaemon(cluster, action) for cluster in hosts.clusters]
    for daemon in daemons:
        daemon.start()
    hosts.cut(slot)
    others = [mount for mount in members if mount is not leader]
    successor = hosts.clusters[0].await_leader(others)
    wait_until(leader.processes_gone, "the end of the leader that is cut off")
    hosts.clusters[0].await_usable(others)
    asked = daemons[members.index(successor)]
    assert asked.calls() == [(rid, volume.slots[slot].split(",")[0])]
    assert (
        f"rid {rid} at {volume.slots[slot].split(',')[0]} is left to the fence daemon: this host has no record of it"
        in (successor.log())
    )
    assert all(answers(mount) for mount in others)
    # nobody else was asked, and its host can mount again
    assert [daemon.calls() for daemon in daemons if daemon is not asked] == [[], []]
    hosts.heal(slot)
    members[slot] = hosts.clusters[slot].mount(volume, slot, FAST, "wait=20")
    await_followers(successor, members)
    assert all(answers(mount) for mount in members)
    hosts.clusters[0].umount_all(members)
    hosts.clusters[0].assert_all_have_left(volume)


def a_leader_steps_down(hosts: Hosts) -> None:
    volume, members, leader = started(hosts)
    slot, rid, term = members.index(leader), leader.rid, leader.term
    hosts.cut(slot)
    others = [mount for mount in members if mount is not leader]
    successor = hosts.clusters[0].await_leader(others)
    wait_until(lambda: successor.fences == [rid], "the fence request")
    # somebody says so, but it is not true
    (successor.control("fence") / rid / "fenced").write_text("1\n")
    for mount in others:
        assert answers(mount)
    # it sees on the disk that it is replaced, and records that its server has ended
    wait_until(lambda: not leader.is_leader, "the end of the old leadership")
    wait_until(lambda: volume.quorum_blocks()[slot].event(Event.STOP).term == term, "the record of that")
    hosts.heal(slot)
    await_followers(successor, members)
    wait_until(lambda: "as it does if this mount was fenced" in leader.read("waiting"), "the refusal")
    leader.umount("-f")
    members[slot] = hosts.clusters[slot].mount(volume, slot, FAST, "wait=20")
    await_followers(successor, members)
    assert all(answers(mount) for mount in members)


def a_follower_comes_back(hosts: Hosts) -> None:
    volume, members, leader = started(hosts)
    term = leader.term
    follower = next(mount for mount in members if mount is not leader)
    hosts.cut(members.index(follower))
    wait_until(lambda: follower.role == "candidate", "the end of its patience")
    await_heartbeats(leader, "send", 30)
    others = [mount for mount in members if mount is not follower]
    assert all(answers(mount) for mount in others)
    hosts.heal(members.index(follower))
    await_followers(leader, members)
    # it has not deposed the leader, nor does it try to
    assert leader.term == term
    assert all(answers(mount) for mount in members)
    assert leader.fences == []
    hosts.clusters[0].umount_all(members)
    hosts.clusters[0].assert_all_have_left(volume)
