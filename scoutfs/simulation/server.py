"""The metadata server as the election knows it: it fences previous leaders, serves, and stops (spec 02 §7)."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

from format.quorum import Event, EventRecord
from scoutfs.quorum.actions import StartServer
from scoutfs.quorum.election import ServerStatus
from scoutfs.quorum.leaders import Blocks, Leader, later_leader, previous_leaders

if TYPE_CHECKING:
    from scoutfs.simulation.member import Member

FENCE_WAIT = 15.0
"""Seconds that a new server waits for its fence requests."""

STOPPING_PATIENCE = 0.5
"""Seconds that a leader gets to stop before it is fenced."""

_STOPPING_POLL = 0.05

START_TIME = (0.005, 0.050)
"""Seconds from the last fence to UP: listening, reading the super block, recovery."""

STOP_TIME = (0.001, 0.200)
"""Seconds from a stop request to DOWN."""

REPORT_DELAY = 0.0002
"""Seconds until the agent knows of a new status."""


class ServerRules(NamedTuple):
    """Where the server is stricter than the original's; all off is the original."""

    yield_to_later_leader: bool = True
    """Refuse to serve when a block shows a leader of a greater term, at the start and after fencing (remedy W2)."""
    fence_error_is_failure: bool = True
    """A fence request that ended with an error ends the start (remedy W3)."""
    fence_overwritten_leader: bool = True
    """Fence also the leader whose record our own ELECT has replaced (remedy W5)."""
    await_stop: bool = True
    """Give a leader that may live a moment to record STOP before it is fenced."""


STRICT_SERVER_RULES = ServerRules()
ORIGINAL_SERVER_RULES = ServerRules(False, False, False, False)


class FenceResult(Enum):
    """How a fence request ended."""

    PENDING = "pending"
    FENCED = "fenced"
    ERROR = "error"


class Server:
    """Runs in the process of its member; knows its agent by `member.server_is` only."""

    __slots__ = (
        "_member",
        "_overwritten",
        "_patience_ends",
        "_requests",
        "_run",
        "_seen",
        "_stopping",
        "fenced",
        "rules",
        "served",
        "status",
        "term",
    )

    def __init__(self, member: Member, rules: ServerRules) -> None:
        self._member = member
        self.rules = rules
        self.status = ServerStatus.DOWN
        self.term = 0
        self.served = False
        self.fenced: set[int] = set()
        self._stopping = False
        self._run = 0
        self._patience_ends = 0.0
        self._requests: dict[int, FenceResult] = {}
        self._overwritten: tuple[tuple[int, EventRecord], ...] = ()
        self._seen: Blocks = {}

    def start(self, action: StartServer) -> None:
        """Start, not waiting."""
        self._run += 1
        self.term = action.term
        self.served = False
        self.fenced = set()
        self._stopping = False
        self._requests = {}
        self._patience_ends = self._member.cluster.now + STOPPING_PATIENCE
        self._overwritten = action.overwritten if self.rules.fence_overwritten_leader else ()
        self._become(ServerStatus.STARTING)
        self._read(self._check_and_fence)

    def stop(self) -> None:
        """Ask it to stop, not waiting: a start in progress notices when the fence wait is over."""
        if self.status is ServerStatus.UP:
            self._shut_down("is asked to stop")
        elif self.status is ServerStatus.STARTING:
            self._stopping = True
            self._become(ServerStatus.STOPPING)

    def fail(self, why: str = "fails") -> None:
        """Something in a running server went wrong."""
        if self.status is ServerStatus.UP:
            self._shut_down(why)

    def die(self) -> None:
        """The process is gone."""
        self._run += 1
        self.status = ServerStatus.DOWN
        self._member.cluster.invariants.server_ended(self._member)

    # -- the start -------------------------------------------------------------------------------------------------

    def _read(self, then: object) -> None:
        cluster = self._member.cluster
        done = cluster.read_time(self._member.slot)
        cluster.schedule.at(done, self._read_complete, self._run, then)

    def _read_complete(self, run: int, then: object) -> None:
        if self._is_over(run, self._read_complete, then):
            return
        cluster = self._member.cluster
        path, random = cluster.paths[self._member.slot], cluster.random
        blocks: Blocks = {s: None if path.fails_to_read(s, random) else b for s, b in cluster.disk.blocks.items()}
        self._seen = blocks
        if any(block is None for block in blocks.values()):
            self._shut_down("cannot read the quorum blocks")
            return
        later = later_leader(blocks, self.term) if self.rules.yield_to_later_leader else None
        if later is not None:
            self._shut_down(f"yields to slot {later.slot}, leader of term {later.term}")
            return
        then(blocks)  # type: ignore[operator]

    def _check_and_fence(self, blocks: Blocks) -> None:
        """Fence whom the blocks name; nobody to fence, or all fenced and nobody new, is what going on needs."""
        victims = self._previous_leaders(blocks)
        new = [leader for leader in victims if leader.rid not in self._requests]
        if self._gives_time_to_stop(new, blocks):
            cluster = self._member.cluster
            cluster.schedule.at(cluster.now + _STOPPING_POLL, self._look_again, self._run)
            return
        for leader in new:
            self._request_fence(leader)
        if new:
            cluster = self._member.cluster
            cluster.schedule.at(cluster.now + FENCE_WAIT, self._fence_timeout, self._run)
            return
        self._go_on()

    def _gives_time_to_stop(self, leaders: list[Leader], blocks: Blocks) -> bool:
        """Whether one of the leaders may still record STOP; who is dead, no simulated host knows."""
        if not self.rules.await_stop or self._member.cluster.now >= self._patience_ends:
            return False
        for leader in leaders:
            block = blocks[leader.slot]
            if leader.slot != self._member.slot and block and block.event(Event.BEGIN).rid == leader.rid:
                return True
        return False

    def _look_again(self, run: int, _: None) -> None:
        if not self._is_over(run, self._look_again, None):
            self._read(self._check_and_fence)

    def _previous_leaders(self, blocks: Blocks) -> list[Leader]:
        return previous_leaders(blocks, self._member.rid, self.term, self._overwritten)

    def _request_fence(self, leader: Leader) -> None:
        member = self._member
        self._requests[leader.rid] = FenceResult.PENDING
        text = f"fencing previous leader {leader.rid:x} of term {leader.term}, slot {leader.slot}"
        member.cluster.tell(member, "server", text)
        run = self._run
        member.cluster.fence(member, leader.rid, lambda result: self._fence_ended(run, (leader.rid, result)))

    def _fence_ended(self, run: int, answer: tuple[int, FenceResult]) -> None:
        cluster = self._member.cluster
        if run != self._run:
            return
        if cluster.now < self._member.paused_until:
            cluster.schedule.at(self._member.paused_until, self._fence_ended, run, answer)
            return
        rid, result = answer
        self._requests[rid] = result
        if result is FenceResult.FENCED:
            self.fenced.add(rid)
        cluster.tell(self._member, "server", f"fence request for {rid:x}: {result.value}")
        self._continue_if_all_fenced()

    def _continue_if_all_fenced(self) -> None:
        """The test of spec 02 §6.2, in order of creation."""
        for result in self._requests.values():
            if result is FenceResult.PENDING:
                return
            if result is FenceResult.ERROR:
                if self.rules.fence_error_is_failure:
                    self._shut_down("cannot fence a previous leader")
                    return
                break
        if self.rules.yield_to_later_leader:
            self._read(self._check_and_fence)
        else:
            self._go_on()

    def _fence_timeout(self, run: int, _: None) -> None:
        if run == self._run and FenceResult.PENDING in self._requests.values():
            self._shut_down("cannot fence a previous leader in time")

    def _go_on(self) -> None:
        cluster = self._member.cluster
        cluster.schedule.at(cluster.now + cluster.random.uniform(*START_TIME), self._up, self._run)

    def _up(self, run: int, _: None) -> None:
        if self._is_over(run, self._up, None):
            return
        self.served = True
        self._member.cluster.invariants.server_up(self._member, self._seen, self._overwritten)
        self._become(ServerStatus.UP)

    # -- the end ---------------------------------------------------------------------------------------------------

    def _is_over(self, run: int, callback: object, argument: object) -> bool:
        """Whether a step of the start must not go on: the process is gone, stands still, or a stop was asked for."""
        if run != self._run:
            return True
        member = self._member
        if member.cluster.now < member.paused_until:
            member.cluster.schedule.at(member.paused_until, callback, run, argument)  # type: ignore[arg-type]
            return True
        if self._stopping:
            self._shut_down("stops before it was up")
            return True
        return False

    def _shut_down(self, why: str) -> None:
        cluster = self._member.cluster
        cluster.tell(self._member, "server", f"server of term {self.term} {why}")
        self._run += 1
        self._stopping = False
        if self.status is not ServerStatus.STOPPING:
            self._become(ServerStatus.STOPPING)
        cluster.schedule.at(cluster.now + cluster.random.uniform(*STOP_TIME), self._down, self._run)

    def _down(self, run: int, _: None) -> None:
        if self._is_over(run, self._down, None):
            return
        self._member.cluster.invariants.server_ended(self._member)
        self._become(ServerStatus.DOWN)

    def _become(self, status: ServerStatus) -> None:
        cluster = self._member.cluster
        self.status = status
        cluster.tell(self._member, "server", f"server of term {self.term} is {status.name}")
        cluster.schedule.at(cluster.now + REPORT_DELAY, self._report, self._member, status)

    @staticmethod
    def _report(member: Member, status: ServerStatus) -> None:
        if member.alive:
            member.server_is(status)
