"""A whole cluster: members, network, disk and fencing in one thread and one virtual time, all from one seed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from random import Random

from format.quorum import Event
from scoutfs.quorum.actions import ORIGINAL_RULES, STRICT_RULES, Rules
from scoutfs.quorum.election import ServerStatus
from scoutfs.quorum.status import Role
from scoutfs.simulation.disk import Disk, DiskPath
from scoutfs.simulation.invariants import Invariants, Violation
from scoutfs.simulation.member import Member
from scoutfs.simulation.network import Network
from scoutfs.simulation.schedule import Schedule
from scoutfs.simulation.server import ORIGINAL_SERVER_RULES, STRICT_SERVER_RULES, FenceResult, ServerRules

FSID = 0x5C0077F5
Tell = Callable[[float, int, str, str], None]
"""`tell(time, slot, kind, text)`: something happened; kinds are mount, log, write, send, beat, server, fault."""


class Fencing(Enum):
    """What the fence agent of a host does with requests."""

    WORKS = "works"
    FAILS = "reports errors"
    ABSENT = "is not running"
    LIES = "reports success and kills nobody"


@dataclass(frozen=True, slots=True)
class ClusterConfig:
    """What a cluster is made of; times in seconds.

    `originals` are slots whose mounts follow the original's rules.  `clock_drift` is the greatest relative error of a
    host's clock.
    """

    members: int = 3
    slots: tuple[int, ...] = ()
    heartbeat_timeout: float = 10.0
    network_delay: tuple[float, float] = (0.00005, 0.0005)
    fence_time: tuple[float, float] = (0.05, 3.0)
    clock_drift: float = 0.0
    rules: Rules = STRICT_RULES
    server_rules: ServerRules = STRICT_SERVER_RULES
    originals: frozenset[int] = frozenset()

    @property
    def present(self) -> tuple[int, ...]:
        """The present slots, ascending."""
        return tuple(sorted(self.slots)) or tuple(range(self.members))


class Cluster:
    """The simulated cluster; `tell` is called for everything that a timeline shows, None is fastest."""

    def __init__(self, config: ClusterConfig, seed: int, tell: Tell | None = None) -> None:
        self.config = config
        self.slots = config.present
        self.votes_needed = 1 if len(self.slots) < 3 else len(self.slots) // 2 + 1
        self.random = Random(seed)
        self.schedule = Schedule()
        self.network = Network(self.schedule, self.random, self._deliver, config.network_delay)
        self.disk = Disk(FSID, self.slots)
        self.paths = {slot: DiskPath() for slot in self.slots}
        self.fencing = dict.fromkeys(self.slots, Fencing.WORKS)
        self._disk_busy_until = 0.0
        self.members: dict[int, Member] = {}
        self.tracing = tell is not None
        self._tell = tell
        self._alive: dict[int, Member] = {}
        self._incarnations = 0
        drift = config.clock_drift
        self._clocks = {
            slot: (1.0 + self.random.uniform(-drift, drift), self.random.uniform(0.0, 1e6) if drift else 0.0)
            for slot in self.slots
        }
        self.elections = 0
        self.invariants = Invariants(self)

    # -- mounts ------------------------------------------------------------------------------------------------------

    def start(self, slot: int, *, random: Random | None = None, rules: Rules | None = None) -> Member:
        """Mount with `slot`; a mount that still has the slot loses its address (that breaks assumption A1)."""
        self._incarnations += 1
        original = slot in self.config.originals
        member = Member(
            self,
            slot,
            (slot + 0xA) << 12 | self._incarnations,
            rules=rules or (ORIGINAL_RULES if original else self.config.rules),
            server_rules=ORIGINAL_SERVER_RULES if original else self.config.server_rules,
            heartbeat_timeout=self.config.heartbeat_timeout,
            clock=self._clocks[slot],
            random=random or self.random,
        )
        self.members[slot] = member
        self._alive[member.rid] = member
        member.boot()
        return member

    def start_all(self) -> None:
        """Mount with every slot that has no mount."""
        for slot in self.slots:
            if slot not in self.members:
                self.start(slot)

    def gone(self, member: Member) -> None:
        """A member's process is gone."""
        self._alive.pop(member.rid, None)
        if self.members.get(member.slot) is member:
            del self.members[member.slot]
            self.role_changed(member)

    def has_other_incarnation(self, member: Member) -> bool:
        """Whether another process believes that it owns the slot of `member`."""
        return any(other.slot == member.slot and other is not member for other in self._alive.values())

    def read_time(self, slot: int) -> float:
        """Return when a read of all blocks that a slot's host begins now is complete."""
        return self._busy_until(self.paths[slot].read_time(self.now, self.random))

    def update_time(self, slot: int) -> float:
        """Return when an update that a slot's host begins now is complete."""
        return self._busy_until(self.paths[slot].update_time(self.now, self.random))

    def fence(self, requester: Member, rid: int, reply: Callable[[FenceResult], None]) -> None:
        """Ask the fence agent of the requester's host: kills the mount `rid`, then replies."""
        mode = self.fencing[requester.slot]
        if mode is Fencing.ABSENT:
            return
        answer = self.now + self.random.uniform(*self.config.fence_time)
        if mode is Fencing.FAILS:
            self.schedule.at(answer, self._fence_reply, (requester, reply), FenceResult.ERROR)
            return
        kill = self.now + (answer - self.now) * self.random.random()
        if mode is Fencing.WORKS:
            self.schedule.at(kill, self._fence_kill, requester, rid)
        self.schedule.at(answer, self._fence_reply, (requester, reply), FenceResult.FENCED)

    # -- looking -----------------------------------------------------------------------------------------------------

    @property
    def now(self) -> float:
        """Virtual time in seconds."""
        return self.schedule.now

    @property
    def leaders(self) -> list[Member]:
        """Members whose agents say that they lead."""
        return [member for member in self.members.values() if member.participates and member.role is Role.LEADER]

    @property
    def servers(self) -> list[Member]:
        """Members whose servers are UP."""
        return [m for m in self._alive.values() if m.server.status is ServerStatus.UP]

    @property
    def serving_leader(self) -> Member | None:
        """The only leader, if its server is up in its term; else None."""
        leaders = self.leaders
        if len(leaders) != 1:
            return None
        leader = leaders[0]
        served = leader.server.status is ServerStatus.UP and leader.server.term == leader.term
        return leader if served else None

    @property
    def is_whole(self) -> bool:
        """Whether the agent of every present slot runs."""
        return len(self.members) == len(self.slots) and all(m.participates for m in self.members.values())

    # -- running -----------------------------------------------------------------------------------------------------

    def run(self, seconds: float) -> None:
        """Let virtual time pass; raises Violation."""
        self.schedule.run(self.now + seconds)

    def run_until(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Let time pass until `condition()`, at most `seconds`; return whether it came true."""
        return self.schedule.run_while(lambda: not condition(), self.now + seconds)

    def heal(self) -> None:
        """End every fault, and mount every slot again whose mount is gone or takes no part."""
        self.tell(None, "fault", "everything is repaired")
        self.network.heal()
        self.network.set_delay(self.config.network_delay)
        for slot in self.slots:
            self.paths[slot] = DiskPath()
            self.fencing[slot] = Fencing.WORKS
        for member in list(self._alive.values()):
            member.fuse = -1
            member.resume()
            gave_up = member.election is not None and member.election.finished
            # Of several mounts of one slot (assumption A1), the one that wrote BEGIN last has ended the others.
            replaced = self.members.get(member.slot) is not member
            taken = self.disk.blocks[member.slot].event(Event.BEGIN).rid != member.rid
            if member.leaving or gave_up or replaced or taken:
                member.crash("is rebooted")
        self.start_all()

    def settle(self, *, calm: float = 5.0) -> float:
        """Heal, and assert I17: a leader exists before long, everybody follows it, and it stays.

        Returns the seconds until the leader served.
        """
        delayed_until = max([self._disk_busy_until, *(member.paused_until for member in self._alive.values())])
        self.heal()
        if delayed_until > self.now:
            # What was asked of a stalled disk is answered, and a server that stood still takes its next step, only when
            # that would have ended.  A write of then may fail still: its mount needs another repair.
            self.run(delayed_until - self.now)
            self.heal()
        # Two rounds of waiting for a dead leader, one fence wait, and elections in between.
        begun, limit = self.now, 3 * self.config.heartbeat_timeout + 30.0
        leader: Member | None = None
        since = begun
        while self.now - begun < limit + calm:
            serving = self.serving_leader if self.is_whole else None
            if serving is not leader:
                leader, since = serving, self.now
            elif leader is not None and self.now - since >= calm:
                return since - begun
            self.run(0.25)
            self.start_all()
        raise Violation("I17", self.now, -1, f"no leader serves {limit:.0f} s after every fault has ended")

    def tell(self, member: Member | None, kind: str, text: str) -> None:
        """Add a line to the timeline; a mount whose slot another mount has taken is named by its rid."""
        if self._tell is None:
            return
        if member is not None and self.members.get(member.slot) is not member:
            text = f"(mount {member.rid:x}) {text}"
        self._tell(self.now, -1 if member is None else member.slot, kind, text)

    def role_changed(self, member: Member) -> None:
        """A member's role or term is new, or it is gone."""
        if member.alive and member.role is Role.LEADER:
            self.elections += 1
        if self.tracing and member.alive:
            self.tell(member, "role", f"is {member.role.name.lower()} in term {member.term}")

    # -- helpers -----------------------------------------------------------------------------------------------------

    def _busy_until(self, done: float) -> float:
        self._disk_busy_until = max(self._disk_busy_until, done)
        return done

    def _deliver(self, slot: int, message: object) -> None:
        member = self.members.get(slot)
        if member is not None:
            member.deliver(message)  # type: ignore[arg-type]

    def _fence_kill(self, requester: Member, rid: int) -> None:
        victim = self._alive.get(rid)
        if victim is not None and requester.alive:
            victim.crash(f"is fenced by slot {requester.slot}")

    def _fence_reply(self, request: tuple[Member, Callable[[FenceResult], None]], result: FenceResult) -> None:
        requester, reply = request
        if requester.alive:
            reply(result)


def links_between(left: Iterable[int], right: Iterable[int]) -> list[tuple[int, int]]:
    """Return both directions of every link between two groups of slots."""
    pairs = [(a, b) for a in left for b in right if a != b]
    return pairs + [(b, a) for a, b in pairs]
