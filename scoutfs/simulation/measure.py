"""Figures of the election in a simulated cluster: how long it takes, and whether it leaves healthy leaders alone.

Latencies are those of spec 02 §12.1: 0.05 to 0.5 ms one way, 2 to 10 ms for an update of a block, 1 to 3 ms for
reading the blocks.  All times are virtual seconds.
"""

from __future__ import annotations

from collections.abc import Sequence

from scoutfs.quorum.actions import STRICT_RULES, Rules
from scoutfs.simulation.cluster import Cluster, ClusterConfig, links_between
from scoutfs.simulation.member import Member

_LIMIT = 300.0


def cold_election(members: int, seed: int, *, rules: Rules = STRICT_RULES) -> float:
    """Return the seconds from the simultaneous mount of all members of a new volume until one leads."""
    cluster = Cluster(ClusterConfig(members=members, rules=rules), seed)
    cluster.start_all()
    _await_leader(cluster)
    return cluster.now


def failover(seed: int, heartbeat_timeout: float = 10.0, *, members: int = 3, rules: Rules = STRICT_RULES) -> float:
    """Return the seconds from the silent death of a leader until another member leads."""
    cluster = Cluster(ClusterConfig(members=members, heartbeat_timeout=heartbeat_timeout, rules=rules), seed)
    cluster.start_all()
    leader = _await_leader(cluster)
    # Anywhere between two heartbeats.
    cluster.run(2.0 + cluster.random.random())
    died = cluster.now
    leader.crash()
    _await_leader(cluster)
    return cluster.now - died


def resignation(seed: int, *, members: int = 3, rules: Rules = STRICT_RULES) -> float:
    """Return the seconds from the clean unmount of a leader until another member leads."""
    cluster = Cluster(ClusterConfig(members=members, rules=rules), seed)
    cluster.start_all()
    leader = _await_leader(cluster)
    cluster.run(2.0 + cluster.random.random())
    began = cluster.now
    leader.unmount()
    cluster.run_until(lambda: any(other is not leader for other in cluster.leaders), _LIMIT)
    return cluster.now - began


def isolation_return(
    seed: int, *, isolated: float = 30.0, heartbeat_timeout: float = 10.0, rules: Rules = STRICT_RULES
) -> bool:
    """Return whether a follower that was cut off from two others for a while deposes the healthy leader."""
    cluster = Cluster(ClusterConfig(heartbeat_timeout=heartbeat_timeout, rules=rules), seed)
    cluster.start_all()
    _await_leader(cluster)
    cluster.run(2.0 + cluster.random.random())
    leader = _await_leader(cluster)
    follower = cluster.random.choice([slot for slot in cluster.slots if slot != leader.slot])
    links = links_between((follower,), cluster.slots)
    cluster.network.cut(links)
    cluster.run(isolated)
    cluster.network.mend(links)
    cluster.run(3 * heartbeat_timeout)
    return cluster.leaders != [leader]


def percentile(figures: Sequence[float], percent: float) -> float:
    """Return the smallest figure that `percent` of all do not exceed."""
    ordered = sorted(figures)
    return ordered[max(0, -(-len(ordered) * int(percent * 100) // 10000) - 1)]


def _await_leader(cluster: Cluster) -> Member:
    if not cluster.run_until(lambda: bool(cluster.leaders), _LIMIT):
        raise AssertionError(f"nobody leads after {_LIMIT:g} s")
    return cluster.leaders[0]
