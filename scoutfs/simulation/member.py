"""One mount with a quorum slot: the shell around an election machine, with a host that pauses, stalls and dies."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Any

from format.message import Message, MessageType
from format.quorum import Event, QuorumBlock
from scoutfs.quorum.actions import (
    Action,
    Left,
    ReadBlocks,
    Report,
    Rules,
    Send,
    StartServer,
    StopServer,
    WriteEvent,
)
from scoutfs.quorum.election import Election, ServerStatus
from scoutfs.quorum.leaders import Blocks
from scoutfs.quorum.status import Role
from scoutfs.simulation.server import Server, ServerRules

if TYPE_CHECKING:
    from scoutfs.simulation.cluster import Cluster

SOCKET_QUEUE = 256
"""Datagrams that wait for a paused agent at most; later ones are lost."""

TIMER_LATENESS = 0.001
"""Seconds by which a timer is late at most, although its host is idle."""

_NEVER = float("inf")


class Member:
    """One incarnation: from the mount's start to its unmount or death.

    `clock` is (rate, offset): the host's monotonic clock shows `rate * time + offset`.  A member is `alive` until its
    process is gone; its agent is over when `election` is finished.
    """

    __slots__ = (
        "_committed",
        "_completions",
        "_inbox",
        "_offset",
        "_parameters",
        "_pending",
        "_rate",
        "_timer_at",
        "abandoned",
        "alive",
        "cluster",
        "durable_term",
        "election",
        "fuse",
        "heard_term",
        "label",
        "leaving",
        "original",
        "paused_until",
        "rid",
        "role",
        "rules",
        "server",
        "slot",
        "term",
        "timer_credit",
        "vote",
    )

    def __init__(
        self,
        cluster: Cluster,
        slot: int,
        rid: int,
        *,
        rules: Rules,
        server_rules: ServerRules,
        heartbeat_timeout: float,
        clock: tuple[float, float] = (1.0, 0.0),
        random: Random,
    ) -> None:
        self.cluster = cluster
        self.slot = slot
        self.rid = rid
        self.rules = rules
        self.original = not any(rules)
        self.label = f"slot {slot}"
        self.election: Election | None = None
        self.server = Server(self, server_rules)
        self.alive = True
        self.leaving = False
        self.abandoned = False
        self.paused_until = 0.0
        self.fuse = -1
        # What the invariants remember of this incarnation.
        self.role = Role.FOLLOWER
        self.term = 0
        self.vote = (0, -1)
        self.durable_term = -1
        self.heard_term = 0
        self.timer_credit = False
        self._rate, self._offset = clock
        self._parameters = (heartbeat_timeout, random)
        self._inbox: list[Message | None] = []
        self._completions: list[tuple[Any, Any]] = []
        self._pending: QuorumBlock | None = None
        self._committed = False
        self._timer_at = _NEVER

    # -- what people and faults do -------------------------------------------------------------------------------

    def boot(self) -> None:
        """Mount: the socket is bound, and the blocks are being read."""
        self.cluster.tell(self, "mount", f"mounts with rid {self.rid:x}")
        self._read(self._begin)

    def unmount(self) -> None:
        """Leave cleanly; does nothing for an agent that is over already."""
        if self.alive and not self.leaving:
            self.leaving = True
            self.cluster.tell(self, "mount", "is being unmounted")
            self._after_pause(self._leave, None)

    def force_unmount(self) -> None:
        """Leave at once: no datagram and no write any more."""
        if not self.alive:
            return
        self.cluster.tell(self, "mount", "is unmounted by force")
        self.abandoned = True
        if self.election is not None:
            self._perform(self.election.abandon(self.now))
        self._die()

    def crash(self, why: str = "dies") -> None:
        """The process is gone between two of its actions."""
        if self.alive:
            self.cluster.tell(self, "mount", why)
            self._die()

    def pause(self, seconds: float) -> None:
        """Stop the process (or its host) for a while: what it has asked of the disk goes on."""
        if not self.alive:
            return
        until = self.cluster.now + seconds
        if until > self.paused_until:
            self.cluster.tell(self, "mount", f"stands still for {seconds:.3f} s")
            self.paused_until = until
            self.cluster.schedule.at(until, self._resume, until)

    def resume(self) -> None:
        """End a pause now."""
        if self.alive and self.paused_until > self.cluster.now:
            self.paused_until = self.cluster.now
            self._resume(self.cluster.now, None)

    def set_heartbeat_timeout(self, seconds: float) -> None:
        """Change the option while mounted."""
        if self.election is not None and self.alive:
            self._perform(self.election.set_heartbeat_timeout(seconds, self.now))

    # -- what the rest of the simulation asks and tells ------------------------------------------------------------

    @property
    def now(self) -> float:
        """The time on this host's clock."""
        return self.cluster.schedule.now * self._rate + self._offset

    @property
    def participates(self) -> bool:
        """Whether the agent runs."""
        return self.alive and self.election is not None and not self.election.finished

    def deliver(self, message: Message | None) -> None:
        """A datagram arrives; None is one that no agent accepts."""
        schedule = self.cluster.schedule
        election = self.election
        if schedule.now < self.paused_until or election is None:
            if len(self._inbox) < SOCKET_QUEUE:
                self._inbox.append(message)
            return
        if message is None:
            return
        term = election.term
        if message.term == term:
            actions = election.received(message, schedule.now * self._rate + self._offset)
        else:
            if message.term > self.heard_term:
                self.heard_term = message.term
            before = self.cluster.invariants.before_receiving(self, message)
            actions = election.received(message, self.now)
            self._perform(actions)
            if self.alive:
                self.cluster.invariants.after_receiving(self, message, before, actions)
                self._stepped()
            return
        self._perform(actions)
        self._stepped()

    def server_is(self, status: ServerStatus) -> None:
        """The server tells its agent of a new status."""
        self._after_pause(self._server_changed, status)

    # -- inputs of the machine -------------------------------------------------------------------------------------

    def _begin(self, blocks: Blocks) -> None:
        heartbeat_timeout, random = self._parameters
        self.election = election = Election(
            slot=self.slot,
            present=self.cluster.slots,
            rid=self.rid,
            heartbeat_timeout=heartbeat_timeout,
            blocks=blocks,
            now=self.now,
            random=random,
            rules=self.rules,
        )
        self.term = election.term
        self.cluster.invariants.started(self)
        self._perform(election.start(self.now))
        if self.leaving and self.alive:
            self._perform(election.leave(self.now))
        self._stepped()
        self._drain()

    def _leave(self, _: Any) -> None:
        if self.election is None:
            return
        if self.election.finished:
            self.crash("is gone")
            return
        self._perform(self.election.leave(self.now))
        self._stepped()

    def _server_changed(self, status: ServerStatus) -> None:
        if self.election is not None:
            self._perform(self.election.server_changed(status, self.now))
            self._stepped()

    def _wrote(self, error: str | None) -> None:
        self._pending = None
        assert self.election is not None
        if error is None:
            self._perform(self.election.wrote(self.now))
        else:
            self._perform(self.election.write_failed(error, self.now))
        self._stepped()

    def _blocks_read(self, blocks: Blocks) -> None:
        assert self.election is not None
        self._perform(self.election.blocks_read(blocks, self.now))
        self._stepped()

    def _timer(self, scheduled: float, _: None) -> None:
        if scheduled != self._timer_at or not self.alive:
            return
        self._timer_at = _NEVER
        schedule = self.cluster.schedule
        if schedule.now < self.paused_until:
            return
        election = self.election
        assert election is not None
        now = schedule.now * self._rate + self._offset
        if now > election.deadline:
            self.timer_credit = True
            self._perform(election.timer(now))
        self._stepped()

    def _stepped(self) -> None:
        """After every input: look for what changed, and set the timer."""
        if not self.alive:
            return
        election = self.election
        assert election is not None
        if election.term != self.term or election.role is not self.role:
            self.cluster.invariants.changed(self)
        deadline = election.deadline
        if deadline == _NEVER:
            return
        schedule = self.cluster.schedule
        time = (deadline - self._offset) / self._rate
        if time < schedule.now:
            time = schedule.now
        if time < self._timer_at:
            late = 0.000001 + TIMER_LATENESS * self.cluster.random.random()
            self._timer_at = time + late
            schedule.at(time + late, self._timer, time + late)

    # -- actions of the machine ------------------------------------------------------------------------------------

    def _perform(self, actions: list[Action]) -> None:
        cluster = self.cluster
        for action in actions:
            if self.fuse >= 0:
                self.fuse -= 1
                if self.fuse < 0:
                    self.crash(f"dies before {type(action).__name__}")
                    return
            kind = action.__class__
            if kind is Send:
                self._send(action)  # type: ignore[arg-type]
            elif kind is WriteEvent:
                self._write(action)  # type: ignore[arg-type]
            elif kind is ReadBlocks:
                cluster.invariants.reading(self)
                self._read(self._blocks_read)
            elif kind is StartServer:
                cluster.invariants.starting_server(self, action.term)  # type: ignore[union-attr]
                self.server.start(action)  # type: ignore[arg-type]
            elif kind is StopServer:
                self.server.stop()
            elif kind is Report:
                cluster.tell(self, "log", action.text)  # type: ignore[union-attr]
            elif kind is Left:
                self._left(action)  # type: ignore[arg-type]

    def _send(self, action: Send) -> None:
        cluster = self.cluster
        to, message = action
        cluster.invariants.sending(self, to, message)
        if cluster.tracing:
            noisy = message.type is MessageType.HEARTBEAT
            cluster.tell(self, "beat" if noisy else "send", f"sends {message.type.name} {message.term} to {to}")
            if self.election is not None:
                self.election.sent(to, message, self.now)
        cluster.network.send(self.slot, to, message)

    def _write(self, action: WriteEvent) -> None:
        cluster = self.cluster
        cluster.invariants.writing(self, action, busy=self._pending is not None)
        path = cluster.paths[self.slot]
        done = cluster.update_time(self.slot)
        block = cluster.disk.blocks[self.slot]
        stranger = action.event is not Event.BEGIN and block.event(Event.BEGIN).rid != self.rid
        unreadable = path.fails_to_read(self.slot, cluster.random)
        self._committed = False
        self._pending = block.updated(action.event, action.rid or self.rid, action.term, int(self.now * 1e9))
        cluster.tell(self, "write", f"writes {action.event.name} {action.term}")
        if stranger or unreadable:
            cluster.schedule.at(done, self._complete, None, "begin rid of another mount" if stranger else "read error")
            return
        cluster.schedule.at(cluster.now + (done - cluster.now) * cluster.random.random(), self._commit, self._pending)
        cluster.schedule.at(done, self._complete, None, "write error" if path.unwritable else None)

    def _commit(self, block: QuorumBlock, _: None) -> None:
        """The write reaches the disk; a failing one may do so, too."""
        if self._pending is not block:
            return
        cluster = self.cluster
        if cluster.paths[self.slot].unwritable and cluster.random.random() < 0.5:
            return
        cluster.invariants.written(self, cluster.disk.blocks[self.slot], block)
        cluster.disk.blocks[self.slot] = block
        self._committed = True

    def _complete(self, _: None, error: str | None) -> None:
        if not self.alive:
            return
        if error is not None:
            self.cluster.tell(self, "write", f"update fails: {error}")
        elif not self._committed:
            error = "write error"
        self._after_pause(self._wrote, error)

    def _read(self, answer: Any) -> None:
        """Read all blocks; each is read at an instant of its own between now and the answer."""
        cluster = self.cluster
        done = cluster.read_time(self.slot)
        cluster.schedule.at(done, self._read_complete, dict(cluster.disk.blocks), answer)

    def _read_complete(self, early: dict[int, QuorumBlock], answer: Any) -> None:
        if not self.alive:
            return
        cluster = self.cluster
        path = cluster.paths[self.slot]
        blocks: dict[int, QuorumBlock | None] = {}
        for slot, block in cluster.disk.blocks.items():
            if path.fails_to_read(slot, cluster.random):
                blocks[slot] = None
            else:
                blocks[slot] = early[slot] if early[slot] is block or cluster.random.random() < 0.5 else block
        self._after_pause(answer, blocks)

    def _left(self, action: Left) -> None:
        cluster = self.cluster
        cluster.invariants.left(self, action.error)
        if action.error is None:
            cluster.tell(self, "mount", "has left")
            self._die()
        elif not self.abandoned:
            cluster.tell(self, "mount", f"has failed: {action.error}")

    def _die(self) -> None:
        """The process ends: a write in flight happens or does not."""
        cluster = self.cluster
        if self._pending is not None and not self._committed and cluster.random.random() < 0.5:
            self._commit(self._pending, None)
        self._pending = None
        self.alive = False
        self.server.die()
        cluster.gone(self)

    # -- pauses ----------------------------------------------------------------------------------------------------

    def _after_pause(self, callback: Any, value: Any) -> None:
        """Call `callback(value)`, now or when the process runs again."""
        if self.cluster.schedule.now < self.paused_until:
            self._completions.append((callback, value))
        else:
            callback(value)

    def _resume(self, until: float, _: None) -> None:
        if not self.alive or until < self.paused_until:
            return
        self.paused_until = 0.0
        self.cluster.tell(self, "mount", "goes on")
        self._drain()

    def _drain(self) -> None:
        """Take what waited, datagrams and completions in an arbitrary order of the two; only then the timer."""
        random = self.cluster.random.random
        completions, self._completions = self._completions, []
        inbox: list[Message | None] = []
        if self.election is not None:
            inbox, self._inbox = self._inbox, []
        while completions or inbox:
            if not self.alive:
                return
            if not inbox or (completions and random() < 0.5):
                callback, value = completions.pop(0)
                callback(value)
                if self.election is not None and self._inbox:
                    inbox, self._inbox = inbox + self._inbox, []
            else:
                self.deliver(inbox.pop(0))
        if self.election is not None:
            self._stepped()
