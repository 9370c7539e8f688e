"""What goes wrong, and when: a schedule of faults is plain data, so that it can be replayed and shrunk."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from random import Random
from types import MappingProxyType

from scoutfs.quorum.election import ServerStatus
from scoutfs.simulation.cluster import Cluster, Fencing, links_between
from scoutfs.simulation.disk import DiskPath
from scoutfs.simulation.member import Member


class Kind(StrEnum):
    """Kinds of faults; each says what `slot`, `peer`, `seconds` and `amount` (0 to 1) of a Fault mean."""

    CRASH = "crash"
    """`slot`'s mount dies; it is mounted again `seconds` later."""
    CRASH_AFTER = "crash after"
    """`slot`'s mount dies after at most 12·`amount` further actions, or after 5 s; mounted again `seconds` later."""
    UNMOUNT = "unmount"
    """`slot` is unmounted, and mounted again when it has left, `seconds` later at the earliest."""
    FORCE_UNMOUNT = "forced unmount"
    """`slot` is unmounted by force, and mounted again `seconds` later."""
    PAUSE = "pause"
    """`slot`'s process stands still for `seconds`."""
    CUT = "cut"
    """Nothing gets from `slot` to `peer` for `seconds`."""
    ISOLATE = "isolate"
    """Nothing gets to or from `slot` for `seconds`."""
    MUTE = "mute"
    """Nothing gets from `slot` to anybody for `seconds`."""
    SPLIT = "split"
    """The slots below and from `slot` on cannot reach each other for `seconds`."""
    LOSS = "loss"
    """A datagram is lost with probability `amount`, for `seconds`."""
    CORRUPTION = "corruption"
    DUPLICATION = "duplication"
    REORDERING = "reordering"
    """Likewise for a datagram that arrives corrupted, twice, or late."""
    DELAY = "delay"
    """Datagrams take up to 0.2·`amount` seconds, for `seconds`."""
    SLOW_DISK = "slow disk"
    """`slot`'s disk operations take up to 200·`amount` times longer, for `seconds`."""
    STALLED_DISK = "stalled disk"
    """`slot`'s disk operations do not complete for `seconds`."""
    READ_ERROR = "read error"
    """`slot` cannot read the block of `peer` for `seconds`."""
    FLAKY_READS = "flaky reads"
    """Each read of a block by `slot` fails with probability `amount`, for `seconds`."""
    WRITE_ERROR = "write error"
    """`slot`'s updates fail for `seconds`; a mount that failed is mounted again then."""
    SERVER_FAILURE = "server failure"
    """The server that `slot` runs fails."""
    FENCE_ERROR = "fence error"
    """`slot`'s fence agent reports errors for `seconds`."""
    FENCE_ABSENT = "fence agent absent"
    """`slot`'s fence agent does not run for `seconds`."""
    REPLACE = "replace"
    """`slot` is mounted elsewhere while its mount only stands still, for `seconds`: assumption A1 is broken."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault at `at` seconds; what the other fields mean depends on `kind`."""

    at: float
    kind: Kind
    slot: int = 0
    peer: int = 0
    seconds: float = 1.0
    amount: float = 0.5

    def __str__(self) -> str:
        values = {"slot": self.slot, "peer": self.peer, "s": self.seconds, "p": self.amount, "n": int(12 * self.amount)}
        return _TEXT[self.kind].format(**values, delay=200 * self.amount, slow=1 + 200 * self.amount)


_TEXT: Mapping[Kind, str] = MappingProxyType(
    {
        Kind.CRASH: "slot {slot} dies, to be mounted again {s:.3f} s later",
        Kind.CRASH_AFTER: "slot {slot} dies after {n} more actions, to be mounted again {s:.3f} s later",
        Kind.UNMOUNT: "slot {slot} is unmounted, to be mounted again {s:.3f} s later",
        Kind.FORCE_UNMOUNT: "slot {slot} is unmounted by force, to be mounted again {s:.3f} s later",
        Kind.PAUSE: "slot {slot} stands still for {s:.3f} s",
        Kind.CUT: "nothing gets from slot {slot} to slot {peer} for {s:.3f} s",
        Kind.ISOLATE: "nothing gets to or from slot {slot} for {s:.3f} s",
        Kind.MUTE: "nothing gets from slot {slot} to anybody for {s:.3f} s",
        Kind.SPLIT: "slots below {slot} and the others cannot reach each other for {s:.3f} s",
        Kind.LOSS: "datagrams are lost with probability {p:.2f} for {s:.3f} s",
        Kind.CORRUPTION: "datagrams are corrupted with probability {p:.2f} for {s:.3f} s",
        Kind.DUPLICATION: "datagrams arrive twice with probability {p:.2f} for {s:.3f} s",
        Kind.REORDERING: "datagrams are overtaken with probability {p:.2f} for {s:.3f} s",
        Kind.DELAY: "datagrams take up to {delay:.0f} ms for {s:.3f} s",
        Kind.SLOW_DISK: "slot {slot}'s disk is {slow:.0f} times slower for {s:.3f} s",
        Kind.STALLED_DISK: "slot {slot}'s disk answers nothing for {s:.3f} s",
        Kind.READ_ERROR: "slot {slot} cannot read the block of slot {peer} for {s:.3f} s",
        Kind.FLAKY_READS: "slot {slot}'s reads fail with probability {p:.2f} for {s:.3f} s",
        Kind.WRITE_ERROR: "slot {slot}'s writes fail for {s:.3f} s",
        Kind.SERVER_FAILURE: "the server of slot {slot} fails",
        Kind.FENCE_ERROR: "slot {slot}'s fence agent reports errors for {s:.3f} s",
        Kind.FENCE_ABSENT: "slot {slot}'s fence agent is not running for {s:.3f} s",
        Kind.REPLACE: "slot {slot} is mounted elsewhere, its mount only stands still for {s:.3f} s",
    }
)


@dataclass(frozen=True, slots=True)
class Scenario:
    """A mix of faults: how often each kind comes, the mean seconds between two, and who the members are."""

    text: str
    weights: Mapping[Kind, float]
    gap: float = 4.0
    originals: int = 0
    heartbeat_timeouts: tuple[float, ...] = (2.0, 10.0)
    clock_drift: float = 0.0005


_NETWORK = {
    Kind.CUT: 3.0,
    Kind.ISOLATE: 3.0,
    Kind.MUTE: 2.0,
    Kind.SPLIT: 2.0,
    Kind.LOSS: 3.0,
    Kind.CORRUPTION: 1.0,
    Kind.DUPLICATION: 1.0,
    Kind.REORDERING: 1.0,
    Kind.DELAY: 1.0,
}
_MOUNTS = {
    Kind.CRASH: 3.0,
    Kind.CRASH_AFTER: 3.0,
    Kind.UNMOUNT: 2.0,
    Kind.FORCE_UNMOUNT: 1.0,
    Kind.PAUSE: 3.0,
    Kind.SERVER_FAILURE: 2.0,
}
_DISKS = {
    Kind.SLOW_DISK: 2.0,
    Kind.STALLED_DISK: 2.0,
    Kind.READ_ERROR: 1.0,
    Kind.FLAKY_READS: 1.0,
    Kind.WRITE_ERROR: 1.0,
}
_FENCING = {Kind.FENCE_ERROR: 1.0, Kind.FENCE_ABSENT: 0.5}
_ALL = {**_NETWORK, **_MOUNTS, **_DISKS, **_FENCING}

SCENARIOS: Mapping[str, Scenario] = MappingProxyType(
    {
        "faulty": Scenario("everything goes wrong now and then", _ALL),
        "storm": Scenario("everything goes wrong all the time", _ALL, gap=0.7),
        "calm": Scenario("nothing goes wrong", {}),
        "network": Scenario("cuts, losses, delays, duplicates", _NETWORK, gap=2.0),
        "mounts": Scenario("mounts come, go, stand still and die", _MOUNTS, gap=2.0),
        "disks": Scenario("disks stall and fail, mounts die", {**_DISKS, **_FENCING, Kind.CRASH: 4.0}, gap=2.0),
        "restarts": Scenario(
            "members die and return at once, datagrams are late",
            {Kind.CRASH: 2.0, Kind.CRASH_AFTER: 4.0, Kind.DELAY: 1.0, Kind.LOSS: 1.0, Kind.CUT: 1.0},
            gap=0.5,
            heartbeat_timeouts=(2.0,),
        ),
        "replaced": Scenario(
            "slots are mounted again elsewhere although their mounts live", {**_ALL, Kind.REPLACE: 8.0}, gap=3.0
        ),
        "mixed": Scenario("one member is the original", _ALL, originals=1),
        "original": Scenario("all members are the original", _ALL, originals=15),
    }
)


def random_faults(random: Random, scenario: Scenario, slots: Sequence[int], seconds: float) -> list[Fault]:
    """Draw the faults of a run of `seconds`, in order of time."""
    faults: list[Fault] = []
    if not scenario.weights:
        return faults
    kinds, weights = list(scenario.weights), list(scenario.weights.values())
    time = random.expovariate(1.0 / scenario.gap)
    while time < seconds:
        long = random.random() < 0.3
        faults.append(
            Fault(
                round(time, 6),
                random.choices(kinds, weights)[0],
                random.choice(slots),
                random.choice(slots),
                round(random.uniform(5.0, 40.0) if long else random.expovariate(1.0), 6),
                round(random.random() ** 2, 4),
            )
        )
        time += random.expovariate(1.0 / scenario.gap)
    return faults


def inject(cluster: Cluster, faults: Sequence[Fault]) -> None:
    """Let the faults happen at their times, counted from now."""
    for fault in faults:
        if fault.slot in cluster.slots and fault.peer in cluster.slots:
            cluster.schedule.at(cluster.now + fault.at, _happen, cluster, fault)


def _happen(cluster: Cluster, fault: Fault) -> None:
    cluster.tell(None, "fault", str(fault))
    if fault.kind in _MOUNT_FAULTS:
        _mount_fault(cluster, fault)
    elif fault.kind in _LINKS:
        links = _LINKS[fault.kind](cluster, fault)
        cluster.network.cut(links)
        _later(cluster, fault, lambda: cluster.network.mend(links))
    elif fault.kind in _PROBABILITIES:
        cluster.network.set_faults(**{_PROBABILITIES[fault.kind]: fault.amount})
        _later(cluster, fault, cluster.network.set_faults)
    elif fault.kind is Kind.DELAY:
        cluster.network.set_delay((0.0, 0.2 * fault.amount))
        _later(cluster, fault, lambda: cluster.network.set_delay(cluster.config.network_delay))
    elif fault.kind in (Kind.FENCE_ERROR, Kind.FENCE_ABSENT):
        cluster.fencing[fault.slot] = Fencing.FAILS if fault.kind is Kind.FENCE_ERROR else Fencing.ABSENT
        _later(cluster, fault, lambda: cluster.fencing.update({fault.slot: Fencing.WORKS}))
    else:
        _disk_fault(cluster, fault)


_MOUNT_FAULTS = frozenset(_MOUNTS) | {Kind.REPLACE}
_PROBABILITIES = {
    Kind.LOSS: "loss",
    Kind.CORRUPTION: "corruption",
    Kind.DUPLICATION: "duplication",
    Kind.REORDERING: "reordering",
}
_LINKS: dict[Kind, Callable[[Cluster, Fault], list[tuple[int, int]]]] = {
    Kind.CUT: lambda cluster, fault: [(fault.slot, fault.peer)],
    Kind.MUTE: lambda cluster, fault: [(fault.slot, peer) for peer in cluster.slots],
    Kind.ISOLATE: lambda cluster, fault: links_between((fault.slot,), cluster.slots),
    Kind.SPLIT: lambda cluster, fault: links_between(
        [slot for slot in cluster.slots if slot < fault.slot], [slot for slot in cluster.slots if slot >= fault.slot]
    ),
}


def _mount_fault(cluster: Cluster, fault: Fault) -> None:
    member = cluster.members.get(fault.slot)
    if member is None:
        return
    match fault.kind:
        case Kind.CRASH:
            member.crash()
        case Kind.CRASH_AFTER:
            member.fuse = int(12 * fault.amount)
            cluster.schedule.at(cluster.now + 5.0, _fuse_burns_out, member)
            cluster.schedule.at(cluster.now + 5.0 + fault.seconds, _mount_again, cluster, fault)
        case Kind.UNMOUNT:
            member.unmount()
        case Kind.FORCE_UNMOUNT:
            member.force_unmount()
        case Kind.PAUSE:
            member.pause(fault.seconds)
        case Kind.SERVER_FAILURE:
            member.server.fail()
        case Kind.REPLACE:
            member.pause(fault.seconds)
            cluster.start(fault.slot)
    _later(cluster, fault, lambda: _mount_again(cluster, fault))


def _disk_fault(cluster: Cluster, fault: Fault) -> None:
    path = cluster.paths[fault.slot]
    match fault.kind:
        case Kind.SLOW_DISK:
            path.slowness = 1.0 + 200.0 * fault.amount
        case Kind.STALLED_DISK:
            path.stalled_until = cluster.now + fault.seconds
        case Kind.READ_ERROR:
            path.unreadable |= {fault.peer}
        case Kind.FLAKY_READS:
            path.flakiness = fault.amount
        case Kind.WRITE_ERROR:
            path.unwritable = True
    _later(cluster, fault, lambda: _mend_disk(cluster, fault))


def _mend_disk(cluster: Cluster, fault: Fault) -> None:
    cluster.paths[fault.slot] = DiskPath()
    _mount_again(cluster, fault)


def _mount_again(cluster: Cluster, fault: Fault, _: object = None) -> None:
    """Mount the slot if its mount is gone; remount it if its agent has given up; wait for one that is leaving."""
    member = cluster.members.get(fault.slot)
    if member is not None and member.leaving:
        cluster.schedule.at(cluster.now + 1.0, _mount_again, cluster, fault)
        return
    gave_up = member is not None and member.election is not None and member.election.finished
    if member is not None and gave_up and member.server.status is ServerStatus.DOWN:
        member.crash("is unmounted, its agent had given up")
        member = None
    if member is None:
        cluster.start(fault.slot)


def _fuse_burns_out(member: Member, _: object) -> None:
    if member.fuse >= 0:
        member.crash()


def _later(cluster: Cluster, fault: Fault, undo: Callable[[], None]) -> None:
    cluster.schedule.at(cluster.now + fault.seconds, _undo, undo)


def _undo(undo: Callable[[], None], _: None) -> None:
    undo()
