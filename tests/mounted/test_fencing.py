"""Lost mounts are fenced, by the fence daemon's command or by their host, and the rest goes on (spec 02 §6, §13.4).

Mostly waiting, some of it for the 15 and 20 seconds of the protocol, so everything is done at the same time.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial

from tests.mounted.cluster import Cluster, Mount, Volume, at_once, wait_until, waits_for_answer, within
from tests.mounted.fence_daemon import FenceDaemon

AGENT = "quorum_heartbeat_timeout_ms=2000,fence=agent"
LOCAL = "quorum_heartbeat_timeout_ms=2000"
FENCED_WITHIN = 90.0
"""Seconds in which the original's test wants every lost mount fenced; clients are waited for 20 s before."""


def started(cluster: Cluster, slots: int, clients: int, options: str) -> tuple[Volume, list[Mount], Mount]:
    """Mount all members of a new volume, then clients; return them, usable, and the leader."""
    volume = cluster.volume(slots, loop=False)
    mounts = cluster.members(volume, options)
    leader = cluster.await_leader(mounts)
    mounts += [cluster.mount(volume, None, options, "wait=20", name=f"c{nr}") for nr in range(clients)]
    cluster.await_usable(mounts)
    return volume, mounts, leader


def answers(mount: Mount) -> bool:
    """Ask the server through the kernel, as df does."""
    return int(within(30.0, lambda: str(os.statvfs(mount.directory).f_bfree))) > 0


def mount_again(cluster: Cluster, volume: Volume, mount: Mount, options: str) -> Mount:
    name = mount.directory.name
    slot = int(name[1:]) if name.startswith("m") else None
    return cluster.mount(volume, slot, options, name=name)


def await_fenced(daemon: FenceDaemon, rids: list[str]) -> None:
    """Wait until the command ran for each of them, and check that it ran for nobody else, nor twice."""
    wait_until(lambda: sorted(daemon.rids()) == sorted(rids), "fencing by the daemon", FENCED_WITHIN)


def await_reclaimed(server: Mount, rids: list[str]) -> None:
    wait_until(lambda: server.fences == [], "the end of the requests")
    log = server.log()
    for rid in rids:
        assert f"successfully reclaimed resources for fenced rid {rid}" in log


def test_lost_mounts_are_fenced(clusters: Callable[[str], Cluster]):
    cases = (one_client, all_but_the_server, the_server, everything, a_client_of_this_host, nobody_can_fence)
    at_once(*(partial(case, clusters(case.__name__)) for case in cases))


def one_client(cluster: Cluster) -> None:
    volume, [member, lost, kept], _ = started(cluster, 1, 2, AGENT)
    daemon = FenceDaemon(cluster)
    daemon.start()
    rid, rest = lost.rid, [member, kept]
    lost.umount("-f")
    wait_until(lambda: member.fences == [rid], "the fence request", FENCED_WITHIN)
    assert (member.control("fence") / rid / "reason").read_text() == "client_reconnect"
    await_fenced(daemon, [rid])
    await_reclaimed(member, [rid])
    assert all(answers(mount) for mount in [mount_again(cluster, volume, lost, AGENT), *rest])


def all_but_the_server(cluster: Cluster) -> None:
    volume, mounts, leader = started(cluster, 3, 1, AGENT)
    daemon = FenceDaemon(cluster)
    daemon.start()
    term = leader.term
    lost = [mount for mount in mounts if mount is not leader]
    rids = [mount.rid for mount in lost]
    for mount in lost:
        mount.umount("-f")
    await_fenced(daemon, rids)
    await_reclaimed(leader, rids)
    again = [mount_again(cluster, volume, mount, AGENT) for mount in lost]
    assert all(answers(mount) for mount in [*again, leader])
    assert (leader.is_leader, leader.term) == (True, term)


def the_server(cluster: Cluster) -> None:
    volume, mounts, leader = started(cluster, 3, 1, AGENT)
    daemon = FenceDaemon(cluster)
    daemon.start()
    rid, address = leader.rid, volume.slots[mounts.index(leader)].split(",")[0]
    leader.umount("-f")
    rest = [mount for mount in mounts if mount is not leader]
    wait_until(lambda: any(mount.is_leader for mount in rest[:2]), "another leader")
    assert all(answers(mount) for mount in rest)
    assert daemon.calls() == [(rid, address)]
    [successor] = [mount for mount in rest[:2] if mount.is_leader]
    await_reclaimed(successor, [rid])
    assert answers(mount_again(cluster, volume, leader, AGENT))


def everything(cluster: Cluster) -> None:
    volume, mounts, leader = started(cluster, 3, 1, AGENT)
    daemon = FenceDaemon(cluster)
    daemon.start()
    rid, others = leader.rid, [mount.rid for mount in mounts if mount is not leader]
    for mount in mounts:
        mount.umount("-f")
    mounts = [mount_again(cluster, volume, mount, AGENT) for mount in mounts]
    assert all(answers(mount) for mount in mounts)
    assert daemon.rids() == [rid]
    # the volume records what was mounted: that it does not come back is known after a while, and then it is fenced
    await_fenced(daemon, [rid, *others])
    [successor] = [mount for mount in mounts[:3] if mount.is_leader]
    await_reclaimed(successor, others)
    cluster.umount_all(mounts)
    cluster.assert_all_have_left(volume)


def a_client_of_this_host(cluster: Cluster) -> None:
    volume, [member, client], _ = started(cluster, 1, 1, LOCAL)
    rid = client.rid
    client.kill()
    fenced = f"fenced rid {rid}: no process holds its lock"
    wait_until(lambda: fenced in member.log(), "fencing by the host", FENCED_WITHIN)
    await_reclaimed(member, [rid])
    # what is fenced counts no longer for who may leave
    assert answers(mount_again(cluster, volume, client, LOCAL))


def nobody_can_fence(cluster: Cluster) -> None:
    """A command that fails, then no daemon for longer than a server waits; each time the next leader tries again."""
    _, mounts, leader = started(cluster, 3, 0, AGENT)
    rid = leader.rid
    rest = [mount for mount in mounts if mount is not leader]

    def asked() -> Mount | None:
        """Return the server that waits for the fence."""
        return next(
            (m for m in rest if m.fences == [rid] and (m.control("fence") / rid / "error").read_text() == "0"), None
        )

    def failures(error: str) -> int:
        text = f"server failed to fence previous leaders: mount {rid} {error}"
        return sum(mount.log().count(text) for mount in rest)

    leader.umount("-f")
    waiting = cluster.start("stat", "-f", str(rest[0].directory))
    wait_until(lambda: waits_for_answer(waiting.pid), "the wait for a server")
    wait_until(asked, "the fence request")
    done = FenceDaemon(cluster, "exit 3\n").once()
    assert done.returncode == 1
    assert f"failed to fence rid {rid}: " in done.stderr
    wait_until(lambda: failures("could not be fenced, error -5") == 1, "the end of that server")
    assert sum(mount.log().count(f"error indicated by fence action for rid {rid}") for mount in rest) == 1
    wait_until(lambda: failures("was not fenced within 15 s, error -110") == 1, "the end of the next server", 40)
    wait_until(asked, "the fence request of the third server")
    assert waiting.poll() is None
    # while nobody knows whether it is dead, nothing goes on; its host is certain once it looks
    assert FenceDaemon(cluster).once().returncode == 0
    assert waiting.wait(timeout=30) == 0
    assert all(answers(mount) for mount in rest)
