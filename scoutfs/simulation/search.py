"""Exhaustive search: every interleaving of a few members over small terms, on the same state machine that members run.

Time is abstracted: an armed timer may fire at any moment, and no lease or heard leader is ever fresh.  Declining a
vote or deferring to a leader only leaves out what losing a message or a late timer leaves out as well, so every
behaviour that they allow is searched too.  The network is the set of all messages ever sent: each may arrive at any
time, any number of times, or never, which is loss, delay, duplication and reordering at once.

A machine is deterministic, and what it does depends on its own state and the input only.  So each machine state gets a
number, each of its steps is computed once, and a state of the cluster is a short tuple of numbers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

from format.message import Message, MessageType
from format.quorum import Event, EventRecord, QuorumBlock
from scoutfs.quorum.actions import STRICT_RULES, Action, ReadBlocks, Rules, Send, StopServer, WriteEvent
from scoutfs.quorum.election import Election, ServerStatus
from scoutfs.quorum.status import Role

_STEP = 1000.0
"""Seconds between two inputs of a machine: more than every timeout."""

_FOREVER = float("inf")
_GONE = -1
_EXCLUDED = frozenset(
    {
        "_timeouts",
        "_last_send",
        "_last_recv",
        "_delays",
        "_heard",
        "_repeats",
        "_timeout",
        "_standing_timeout",
        "_reading_since",
        "_watch_due",
        "_lease_until",
        "_votes",
        "_heard_since_request",
        "_out",
        "others",
        "rules",
        "votes_needed",
    }
)
"""Attributes of a machine that are times, that only matter while something is fresh, that never change, or of which
`_key` takes what counts."""


class Bounds(NamedTuple):
    """How far to search: the greatest term, how many mounts may die, how many slots may be mounted again, and how many
    servers may fail."""

    term: int = 2
    deaths: int = 2
    restarts: int = 1
    server_ends: int = 0


DEFAULT_BOUNDS = Bounds()


@dataclass(frozen=True, slots=True)
class Result:
    """What a search found: `violation` says what, `path` the steps to it, else every state within bounds is fine."""

    states: int
    steps: int
    depth: int
    violation: str | None = None
    path: tuple[str, ...] = ()


class _State(NamedTuple):
    """Numbers of machines and of blocks by slot, sent messages as a bit mask, what may still fail, leaders by term."""

    machines: tuple[int, ...]
    blocks: tuple[int, ...]
    sent: int
    deaths: int
    restarts: int
    server_ends: int
    leaders: tuple[int, ...]


class _Step(NamedTuple):
    """What one input did to one machine: its new number, the messages it sent, and what it may not do."""

    machine: int
    sent: int
    violation: str | None


def search(
    rules: Rules = STRICT_RULES,
    bounds: Bounds = DEFAULT_BOUNDS,
    *,
    members: int = 3,
    limit: int = 10_000_000,
) -> Result:
    """Search breadth first for two leaders of one term or a term that goes back; stops at the first, a shortest one.

    Raises RuntimeError when there are more than `limit` states.
    """
    return _Search(rules, bounds, members).run(limit)


class _Search:
    def __init__(self, rules: Rules, bounds: Bounds, members: int) -> None:
        self._rules = rules
        self._bounds = bounds
        self._slots = tuple(range(members))
        self._machines: list[tuple[Election, float]] = []
        self._machine_numbers: dict[Hashable, int] = {}
        self._blocks: list[QuorumBlock] = []
        self._block_numbers: dict[Hashable, int] = {}
        self._messages: list[tuple[int, Message]] = []
        self._message_bits: dict[tuple[int, Message], int] = {}
        self._inboxes = [0] * members
        # By slot and term of its block: messages that are stale to it for ever.
        self._stale = [[0] * (bounds.term + 2) for _ in self._slots]
        self._votes_to = [[0] * (bounds.term + 1) for _ in self._slots]
        self._steps: dict[tuple[int, Hashable], _Step] = {}

    def run(self, limit: int) -> Result:
        first = self._first_state()
        origins: dict[_State, tuple[_State, str] | None] = {first: None}
        queue = deque([(first, 0)])
        steps = depth = 0
        while queue:
            state, depth = queue.popleft()
            for label, following, violation in self._following(state):
                steps += 1
                if violation is not None:
                    path = [*_path(origins, state), f"{label}: {violation}"]
                    return Result(len(origins), steps, depth + 1, violation, tuple(path))
                if following not in origins:
                    origins[following] = (state, label)
                    queue.append((following, depth + 1))
                    if len(origins) > limit:
                        raise RuntimeError(f"more than {limit} states")
        return Result(len(origins), steps, depth)

    def _first_state(self) -> _State:
        """All members have begun on an empty volume."""
        empty = {slot: QuorumBlock(0, slot) for slot in self._slots}
        blocks = {slot: _updated(empty[slot], Event.BEGIN, _rid(slot, 0), 0) for slot in self._slots}
        machines = []
        for slot in self._slots:
            machine = self._new_machine(slot, 0, empty)
            machine.start(0.0)
            machine.wrote(0.0)
            machines.append(self._number_of_machine(machine, 0.0))
        return _State(
            tuple(machines),
            tuple(self._number_of_block(block) for block in blocks.values()),
            0,
            self._bounds.deaths,
            self._bounds.restarts,
            self._bounds.server_ends,
            (_GONE,) * (self._bounds.term + 1),
        )

    # -- what may happen next ----------------------------------------------------------------------------------------

    def _following(self, state: _State) -> Iterator[tuple[str, _State, str | None]]:
        for slot in self._slots:
            number = state.machines[slot]
            if number == _GONE:
                if self._may_return(state, slot):
                    yield self._mounted(state, slot)
                continue
            machine = self._machines[number][0]
            if machine.finished:
                continue
            if machine.deadline < _FOREVER:
                yield self._timer_fires(state, slot)
            arriving = state.sent & self._inboxes[slot]
            while arriving:
                bit = arriving & -arriving
                arriving ^= bit
                message = self._messages[bit.bit_length() - 1][1]
                if message.term >= machine.term and _may_take(machine, message):
                    label = f"receives {message.type.name} {message.term} of slot {message.sender}"
                    yield self._stepped(state, slot, bit, label, _receiving(message))
            yield from self._disk_steps(state, slot, machine)
            if state.server_ends and machine.server is ServerStatus.STARTING:
                ended = state._replace(server_ends=state.server_ends - 1)
                yield self._stepped(ended, slot, "server", "its server fails", _server_down)
            yield from self._deaths(state, slot, machine)

    def _disk_steps(self, state: _State, slot: int, machine: Election) -> Iterator[tuple[str, _State, str | None]]:
        write = _pending_write(machine)
        if write is not None:
            written, violation = self._written(state, machine, write)
            label, following, also = self._stepped(
                written, slot, "wrote", f"{write.event.name} {write.term} is on disk", lambda m, now: m.wrote(now)
            )
            yield label, following, violation or also

    def _timer_fires(self, state: _State, slot: int) -> tuple[str, _State, str | None]:
        """The timer, and the answer to the read that it may ask for.

        What happens between the two either has nothing to do with them or makes the machine ignore the answer, which
        is as if the timer had fired after the answer, or not at all.
        """
        blocks = {peer: self._blocks[number] for peer, number in enumerate(state.blocks)}

        def take(machine: Election, now: float) -> list[Action]:
            actions = machine.timer(now)
            return actions + machine.blocks_read(blocks, now) if ReadBlocks() in actions else actions

        return self._stepped(state, slot, state.blocks, "its timer fires", take)

    def _deaths(self, state: _State, slot: int, machine: Election) -> Iterator[tuple[str, _State, str | None]]:
        """It dies; an update under way may have reached the disk."""
        if not state.deaths:
            return
        gone = state._replace(machines=_with(state.machines, slot, _GONE), deaths=state.deaths - 1)
        if not self._may_return(gone, slot):
            gone = gone._replace(sent=gone.sent & ~self._inboxes[slot])
        yield f"slot {slot} dies", gone, None
        write = _pending_write(machine)
        if write is not None:
            written, violation = self._written(gone, machine, write)
            yield f"slot {slot} dies, {write.event.name} {write.term} is on disk", written, violation

    def _mounted(self, state: _State, slot: int) -> tuple[str, _State, str | None]:
        blocks = {peer: self._blocks[number] for peer, number in enumerate(state.blocks)}
        incarnation = blocks[slot].event(Event.BEGIN).rid % 16 + 1
        machine = self._new_machine(slot, incarnation, blocks)
        machine.start(0.0)
        number = self._number_of_machine(machine, 0.0)
        following = state._replace(machines=_with(state.machines, slot, number), restarts=state.restarts - 1)
        return f"slot {slot} mounts again", following, None

    @staticmethod
    def _may_return(state: _State, slot: int) -> bool:
        """Slots differ in their numbers only, so it is enough that slot 0 returns."""
        return state.restarts > 0 and slot == 0

    # -- one step ----------------------------------------------------------------------------------------------------

    def _stepped(
        self, state: _State, slot: int, key: Hashable, label: str, take: Callable[[Election, float], list[Action]]
    ) -> tuple[str, _State, str | None]:
        number = state.machines[slot]
        step = self._steps.get((number, key))
        if step is None:
            step = self._steps[number, key] = self._compute(number, take)
        machine = self._machines[step.machine][0]
        text = f"slot {slot} {label}"
        if machine.term > self._bounds.term:
            return text, state, None
        leaders, violation = state.leaders, step.violation
        if machine.role is Role.LEADER:
            leader = leaders[machine.term]
            if leader not in (_GONE, machine.rid):
                violation = f"slot {slot} and slot {leader // 16 - 1} both lead term {machine.term}"
            elif leader == _GONE:
                leaders = _with(leaders, machine.term, machine.rid)
        sent = state.sent | step.sent
        if machine.deadline < _FOREVER:
            # It does not hold: its term is on disk, and messages of older terms are stale for ever.
            sent &= ~self._stale[slot][machine.term]
            if machine.role is not Role.CANDIDATE:
                sent &= ~self._votes_to[slot][machine.term]
        following = _State(
            _with(state.machines, slot, step.machine),
            state.blocks,
            sent,
            state.deaths,
            state.restarts,
            state.server_ends,
            leaders,
        )
        return text, following, violation

    def _compute(self, number: int, take: Callable[[Election, float], list[Action]]) -> _Step:
        old, time = self._machines[number]
        machine, now = _clone(old), time + _STEP
        sent = self._perform(machine, take(machine, now), now)
        went_back = machine.term < old.term
        violation = f"term went from {old.term} to {machine.term}" if went_back else None
        return _Step(self._number_of_machine(machine, now), sent, violation)

    def _perform(self, machine: Election, actions: list[Action], now: float) -> int:
        """Writes and reads stay pending in the machine; a server that is asked to stop is down at once."""
        sent = 0
        for action in actions:
            if isinstance(action, Send):
                sent |= self._bit_of_message(action.to, action.message)
            elif isinstance(action, StopServer):
                sent |= self._perform(machine, machine.server_changed(ServerStatus.DOWN, now), now)
        return sent

    def _written(self, state: _State, machine: Election, write: WriteEvent) -> tuple[_State, str | None]:
        slot = machine.slot
        old = self._blocks[state.blocks[slot]]
        new = _updated(old, write.event, write.rid or machine.rid, write.term)
        violation = None
        if write.term < old.event(write.event).term:
            violation = f"{write.event.name} of slot {slot} went from {old.event(write.event).term} to {write.term}"
        blocks = _with(state.blocks, slot, self._number_of_block(new))
        sent = state.sent & ~self._stale[slot][new.greatest_term]
        return state._replace(blocks=blocks, sent=sent), violation

    # -- numbers for things ------------------------------------------------------------------------------------------

    def _new_machine(self, slot: int, incarnation: int, blocks: dict[int, QuorumBlock]) -> Election:
        return Election(
            slot=slot,
            present=self._slots,
            rid=_rid(slot, incarnation),
            heartbeat_timeout=10.0,
            blocks=blocks,
            now=0.0,
            random=_Fixed(),
            rules=self._rules,
        )

    def _number_of_machine(self, machine: Election, now: float) -> int:
        key = _key(machine)
        number = self._machine_numbers.setdefault(key, len(self._machines))
        if number == len(self._machines):
            self._machines.append((machine, now))
        return number

    def _number_of_block(self, block: QuorumBlock) -> int:
        key = (block.slot, tuple((event, record.rid, record.term) for event, record in sorted(block.events.items())))
        number = self._block_numbers.setdefault(key, len(self._blocks))
        if number == len(self._blocks):
            self._blocks.append(block)
        return number

    def _bit_of_message(self, to: int, message: Message) -> int:
        key = (to, message)
        bit = self._message_bits.get(key)
        if bit is None:
            bit = self._message_bits[key] = 1 << len(self._messages)
            self._messages.append(key)
            self._inboxes[to] |= bit
            if message.type is MessageType.VOTE and message.term <= self._bounds.term:
                self._votes_to[to][message.term] |= bit
            for term in range(message.term + 1, self._bounds.term + 2):
                self._stale[to][term] |= bit
        return bit


class _Fixed(Random):
    """Timeouts need not differ: any timer may fire."""

    def randrange(self, start: int, stop: int | None = None, step: int = 1) -> int:
        return 0


def _key(machine: Election) -> Hashable:
    """Everything of a machine that decides what it will do, without times."""
    values = vars(machine)
    kept = (value for name, value in values.items() if name not in _EXCLUDED)
    candidacy = (values["_votes"], values["_heard_since_request"]) if machine.role is Role.CANDIDATE else None
    return (candidacy, *(tuple(value) if isinstance(value, deque) else value for value in kept))


def _clone(machine: Election) -> Election:
    """A machine that goes its own way; what only the status shows may stay shared."""
    copy = Election.__new__(Election)
    values = vars(copy)
    values.update(vars(machine))
    for name, value in values.items():
        if isinstance(value, deque | list):
            values[name] = value.copy()
    return copy


def _pending_write(machine: Election) -> WriteEvent | None:
    values = vars(machine)
    return values["_writes"][0] if values["_writing"] else None


def _may_take(machine: Election, message: Message) -> bool:
    """Whether to deliver now: what comes while a machine holds may as well come later, but for a rival's request."""
    if not vars(machine)["_begun"]:
        return False
    if not vars(machine)["_holding"]:
        return True
    rival = message.type is MessageType.REQUEST_VOTE and message.term == machine.term
    return rival and machine.role is Role.CANDIDATE and not vars(machine)["_held"]


def _receiving(message: Message) -> Callable[[Election, float], list[Action]]:
    return lambda machine, now: machine.received(message, now)


def _server_down(machine: Election, now: float) -> list[Action]:
    return machine.server_changed(ServerStatus.DOWN, now)


def _rid(slot: int, incarnation: int) -> int:
    return (slot + 1) * 16 + incarnation


def _updated(block: QuorumBlock, event: Event, rid: int, term: int) -> QuorumBlock:
    """The block with one more event; the number of writes does not matter to anybody who runs."""
    return QuorumBlock(block.fsid, block.slot, 1, {**block.events, event: EventRecord(1, rid, term)})


def _with(numbers: tuple[int, ...], index: int, number: int) -> tuple[int, ...]:
    return (*numbers[:index], number, *numbers[index + 1 :])


def _path(origins: dict[_State, tuple[_State, str] | None], state: _State) -> list[str]:
    steps: list[str] = []
    origin = origins[state]
    while origin is not None:
        state, label = origin
        steps.append(label)
        origin = origins[state]
    return steps[::-1]
