"""Who may leave when, and what those who may not are told (spec 02 §8.3)."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from functools import partial

from tests.mounted.cluster import Cluster, Mount, Volume, at_once, wait_until, within

SLOW = "quorum_heartbeat_timeout_ms=60000"
"""Longer than anything here may take: nobody who leaves is waited for in vain."""


class Umount:
    """A umount.scoutfs that is held back, or not."""

    def __init__(self, mount: Mount) -> None:
        self.mount = mount
        self.process = mount.umount_started()

    def held_back(self) -> str:
        """Return why, once it says so."""
        assert self.process.stderr is not None
        line = within(20.0, self.process.stderr.readline)
        start = f"umount.scoutfs: {self.mount.directory}: waits: "
        assert line.startswith(start)
        assert self.is_waiting()
        return line.removeprefix(start).removesuffix("\n")

    def is_waiting(self) -> bool:
        # detached at once: nobody can begin to use what is about to go
        assert not self.mount.is_mounted()
        return self.process.poll() is None and not self.mount.processes_gone()

    def returns(self, status: int = 0) -> str:
        """Wait for its end; return what it has said since the last line that was read."""
        _, errors = self.process.communicate(timeout=30)
        assert self.process.returncode == status, errors
        return errors

    def leaves(self) -> None:
        self.returns()
        assert self.mount.processes_gone(), "it returned before the mount was gone"


def started(cluster: Cluster, slots: int, clients: int = 0) -> tuple[Mount, list[Mount], list[Mount]]:
    """Return the leader, the followers and the clients of a new volume, all of them usable."""
    volume = cluster.volume(slots, loop=False)
    members = cluster.members(volume, SLOW)
    others = [cluster.mount(volume, None, "wait=20", name=f"c{nr}") for nr in range(clients)]
    leader = cluster.await_leader(members)
    cluster.await_usable(members)
    return leader, [mount for mount in members if mount is not leader], others


def answers(mount: Mount) -> bool:
    """Ask the server through the kernel, as df does."""
    return int(within(20.0, lambda: str(os.statvfs(mount.directory).f_bfree))) > 0


def assert_nothing_is_left(cluster: Cluster) -> None:
    assert cluster.mounted() == []
    assert cluster.records() == []
    assert cluster.links() == []
    cluster.assert_all_have_left(Volume(str(cluster.directory / "v0.img"), {}))


def test_orders_of_leaving(clusters: Callable[[str], Cluster]):
    orders = (leader_first, followers_first, two_slots, all_together)
    at_once(*(partial(order, clusters(order.__name__)) for order in orders))


def leader_first(cluster: Cluster) -> None:
    leader, followers, _ = started(cluster, 3)
    term = leader.term
    Umount(leader).leaves()
    # its resignation and its STOP are heard and read: nobody waits for heartbeats, and nobody has to be fenced
    successor = cluster.await_leader(followers)
    cluster.await_usable(followers)
    assert successor.term > term
    assert "fencing previous leader" not in successor.log()
    assert all(answers(mount) for mount in followers)
    last = [Umount(mount) for mount in followers]
    for umount in last:
        umount.leaves()
    assert_nothing_is_left(cluster)


def followers_first(cluster: Cluster) -> None:
    leader, (first, second), _ = started(cluster, 3)
    term = leader.term
    Umount(first).leaves()
    held = Umount(second)
    why = held.held_back()
    assert "the last 2 quorum members leave together" in why
    # who could help is named: the slot that is still mounted, and no other
    assert f"unmount slot {leader.status['quorum_slot_nr']} at 127." in why
    assert why.count("slot") == 2
    assert (leader.is_leader, leader.term, answers(leader)) == (True, term, True)
    assert held.is_waiting()
    Umount(leader).leaves()
    held.leaves()
    assert_nothing_is_left(cluster)


def two_slots(cluster: Cluster) -> None:
    leader, (follower,), (client,) = started(cluster, 2, 1)
    Umount(leader).leaves()
    wait_until(lambda: follower.is_leader, "another leader")
    wait_until(lambda: client.usable, "a server for the client")
    # one vote is enough, so it is only the client that needs the last member
    held = Umount(follower)
    assert "mount without a quorum slot" in held.held_back()
    assert answers(client)
    Umount(client).leaves()
    held.leaves()
    assert_nothing_is_left(cluster)


def all_together(cluster: Cluster) -> None:
    leader, followers, clients = started(cluster, 3, 2)
    together = [Umount(mount) for mount in (*followers, *clients, leader)]
    for umount in together:
        umount.leaves()
    assert_nothing_is_left(cluster)


def test_who_is_held_back(clusters: Callable[[str], Cluster]):
    cases = (
        a_majority_of_five_stays_for_a_client,
        an_interrupted_umount_goes_on_in_the_background,
        the_leader_dies_meanwhile,
        it_is_asked_again_and_forced,
    )
    at_once(*(partial(case, clusters(case.__name__)) for case in cases))


def a_majority_of_five_stays_for_a_client(cluster: Cluster) -> None:
    leader, followers, (client,) = started(cluster, 5, 1)
    for mount in followers[:2]:
        Umount(mount).leaves()
    last = [Umount(mount) for mount in (*followers[2:], leader)]
    for umount in last:
        assert "mount without a quorum slot" in umount.held_back()
    # all three are leaving, and serve all the same
    assert answers(client)
    assert all(umount.is_waiting() for umount in last)
    Umount(client).leaves()
    for umount in last:
        umount.leaves()
    assert_nothing_is_left(cluster)


def an_interrupted_umount_goes_on_in_the_background(cluster: Cluster) -> None:
    leader, (first, second), _ = started(cluster, 3)
    Umount(first).leaves()
    held = Umount(second)
    held.held_back()
    held.process.send_signal(signal.SIGINT)
    assert "interrupted; if it is detached it goes on leaving in the background" in held.returns(8)
    assert not second.processes_gone()
    assert leader.is_leader
    Umount(leader).leaves()
    wait_until(second.processes_gone, "the end of the mount that was left to itself")
    assert_nothing_is_left(cluster)


def the_leader_dies_meanwhile(cluster: Cluster) -> None:
    volume = cluster.volume(loop=False)
    members = cluster.members(volume, "quorum_heartbeat_timeout_ms=2000")
    leader = cluster.await_leader(members)
    cluster.await_usable(members)
    dead = leader.rid
    first, second = (mount for mount in members if mount is not leader)
    Umount(first).leaves()
    held = Umount(second)
    assert "leave together" in held.held_back()
    leader.kill()
    assert "no server can be told that this mount leaves" in held.held_back()
    # a vote is all that it needs
    again = cluster.mount(volume, members.index(leader), "wait=20")
    assert answers(again)
    assert held.is_waiting()
    again.umount()
    held.leaves()
    assert [f"{record.rid:016x}" for record in cluster.records()] == [dead]
    cluster.assert_all_have_left(volume)


def it_is_asked_again_and_forced(cluster: Cluster) -> None:
    leader, (first, second), _ = started(cluster, 3)
    Umount(first).leaves()
    held, again = Umount(second), None
    why = held.held_back()
    again = Umount(second)
    assert again.held_back() == why
    held.process.send_signal(signal.SIGINT)
    held.returns(8)
    # another mount in the same place is not what is meant by then
    assert cluster.run("umount.scoutfs", "-l", str(second.directory), check=False).returncode == 32
    second.umount("-f")
    assert second.processes_gone()
    again.leaves()
    assert leader.is_leader
