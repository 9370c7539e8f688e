"""The election agent as a pure state machine (spec 02 §4).

Nothing here waits, reads a clock, opens a socket or logs.  A shell feeds what happened together with the time, and
performs the returned actions in their order.  Two rules shape the code:

* Only `_settle` compares the role with the server's status, and it runs at the end of every input.
* While a TERM is on its way to the disk the machine is *holding*: nothing of that term may be said before it is
  durable, so messages wait in a queue and timers do not run.  Every other update of the block lets the machine go on,
  so that a leader's heartbeats never wait for the disk.

Contract of the shell: a datagram is fed only if it is valid and came from the address of the slot that it names; when
`deadline` has passed, everything that is queued in the socket is fed before `timer` is called, so that a late agent
never mistakes its own delay for a dead leader.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable
from enum import Enum, IntEnum
from random import Random

from format.message import Message, MessageType
from format.quorum import Event, EventRecord
from scoutfs.quorum.actions import (
    STRICT_RULES,
    Action,
    Count,
    Left,
    Publish,
    ReadBlocks,
    Report,
    Rules,
    Send,
    StartServer,
    StopServer,
    WriteEvent,
)
from scoutfs.quorum.delays import HeartbeatDelays
from scoutfs.quorum.leaders import (
    Blocks,
    expects_leader,
    find_server,
    greatest_fence,
    greatest_term,
    later_leader,
    may_have_started_in,
)
from scoutfs.quorum.status import Exchange, QuorumStatus, Role
from scoutfs.quorum.timeouts import HEARTBEAT_INTERVAL, LEASE, WATCH_INTERVAL, Timeouts

ABSURD_TERM_STEP = 1 << 32
_HELD_MESSAGES_MAX = 64
_FOREVER = float("inf")
_NOBODY = -1


class ServerStatus(IntEnum):
    """Life cycle of the server as its agent sees it (spec 02 §7)."""

    DOWN = 0
    STARTING = 1
    UP = 2
    STOPPING = 3


class _Reading(Enum):
    STAND = 1
    WATCH = 2


class Election:
    """One member's agent from its start to its end.

    `slot` is ours, `present` all present slots, `rid` our mount's id, `heartbeat_timeout` in seconds, `blocks` what the
    present slots' blocks hold at the start (None for one that cannot be read), `now` and every later time seconds of
    any monotonic clock, `random` the source of timeouts.
    """

    def __init__(
        self,
        *,
        slot: int,
        present: Iterable[int],
        rid: int,
        heartbeat_timeout: float,
        blocks: Blocks,
        now: float,
        random: Random,
        rules: Rules = STRICT_RULES,
    ) -> None:
        self.slot = slot
        self.others = tuple(sorted(nr for nr in present if nr != slot))
        members = len(self.others) + 1
        self.votes_needed = 1 if members < 3 else members // 2 + 1
        self.rid = rid
        self.rules = rules
        self.role = Role.FOLLOWER
        self.term = greatest_term(blocks)
        self.server = ServerStatus.DOWN
        self.server_start_term = 0
        self.finished = False
        self._timeouts = Timeouts(heartbeat_timeout, random, jitter=rules.jitter_heartbeat_timeout)
        self._start_term = self.term
        self._vote_for = _NOBODY
        self._votes = 0
        self._timeout = now
        self._server_event = 0
        self._last_send: dict[int, Exchange] = {}
        self._last_recv: dict[int, Exchange] = {}
        self._delays = HeartbeatDelays()
        self._begun = False
        self._leaving = False
        self._waits_for_stop = True
        self._ending = False
        self._holding = False
        self._held: deque[Message] = deque(maxlen=_HELD_MESSAGES_MAX)
        self._writes: deque[WriteEvent] = deque()
        self._writing = False
        self._electing = False
        self._stop_requested = False
        self._reading: _Reading | None = None
        self._reading_since = now
        self._standing_timeout = now
        self._watch_due = _FOREVER
        self._lease_until = now
        self._heard: tuple[int, float] | None = None
        self._deferring_to = _NOBODY
        self._heard_since_request = False
        self._repeats = 0
        self._out: list[Action] = []
        self._overwritten: tuple[tuple[int, EventRecord], ...] = ()
        own = blocks.get(slot)
        self._knows_own_block = own is not None
        if rules.remember_overwritten_leader and own is not None and own.leader and own.leader.rid != rid:
            self._overwritten = ((slot, own.leader),)
        own_slot = slot if rules.stand_at_once_after_own_death else None
        self._awaits_leader = expects_leader(blocks, own_slot)

    # -- what a shell asks ---------------------------------------------------------------------------------------

    @property
    def deadline(self) -> float:
        """When `timer` is due: call it once the time is strictly greater and nothing is left to receive."""
        if self.finished or not self._begun or self._holding or self._ending:
            return _FOREVER
        if self.role is Role.LEADER:
            watch = self._watch_due if self._reading is None else self._reading_since + self._timeouts.heartbeat_timeout
            return min(self._timeout, watch)
        if self._reading is not None or self._leaving:
            return _FOREVER
        return self._timeout

    @property
    def status(self) -> QuorumStatus:
        """An immutable snapshot for `quorum/status`."""
        return QuorumStatus(
            self.slot,
            self.term,
            self.role,
            self._vote_for,
            self._votes,
            self._timeout,
            self.server_start_term,
            self._server_event,
            dict(self._last_send),
            dict(self._last_recv),
            self._delays.snapshot(),
        )

    # -- what happens --------------------------------------------------------------------------------------------

    def start(self, now: float, unreadable: str = "") -> list[Action]:
        """Begin: the slot becomes ours on disk before anything is sent (§4.2).

        Without the own block an agent cannot know in which terms its slot has voted or led: then it does not begin.
        `unreadable` says what is wrong with that block.
        """
        self._timeout = now
        if not self._knows_own_block:
            why = f": {unreadable}" if unreadable else ""
            self._fail(f"cannot read the own block of quorum slot {self.slot}{why}", now)
            return self._taken()
        self._update(Event.BEGIN, self.term)
        return self._taken()

    def received(self, message: Message, now: float) -> list[Action]:
        """Take a valid message that came from its sender's address."""
        if self.finished or self._ending:
            return []
        if message.sender == self.slot and self.rules.ignore_own_slot:
            self._count("quorum_recv_invalid")
            return self._taken()
        if message.term:
            self._last_recv[message.sender] = Exchange(message.term, message.type, now)
        if self._holding or not self._begun:
            self._held.append(message)
            return []
        self._receive(message, now)
        return self._settled(now)

    def timer(self, now: float) -> list[Action]:
        """Act on `deadline` having passed; does nothing before that."""
        if now <= self.deadline:
            return []
        if self.role is Role.LEADER:
            self._lead(now)
        else:
            self._stand_if_possible(now)
        return self._settled(now)

    def wrote(self, now: float) -> list[Action]:
        """The last WriteEvent is durable."""
        write = self._writes.popleft()
        self._writing = False
        if self.finished:
            return []
        match write.event:
            case Event.BEGIN:
                self._begun = True
                self._timeout = self._heartbeat_expiry(now) if self._awaits_leader else self._election_expiry(now)
                self._receive_held(now)
            case Event.TERM:
                self._term_is_durable(now)
            case Event.ELECT:
                if not write.rid:
                    self._elect_is_durable(write.term)
            case Event.FENCE:
                self._server_event = 3
            case Event.END:
                self.finished = True
                self._out += [Publish(), Left(None)]
            case Event.STOP:
                pass
        return self._settled(now)

    def write_failed(self, error: str, now: float) -> list[Action]:
        """The last WriteEvent failed: the agent cannot take part any more (§4.6)."""
        if self.finished:
            return []
        write = self._writes[0]
        self._fail(f"{error} while recording {write.event.name} of term {write.term}", now)
        return self._taken()

    def blocks_read(self, blocks: Blocks, now: float) -> list[Action]:
        """What ReadBlocks found; None for each block that cannot be read."""
        reading, self._reading = self._reading, None
        if self.finished or self._ending or reading is None:
            return []
        own = blocks.get(self.slot)
        if own is not None and own.event(Event.BEGIN).rid not in (0, self.rid):
            begin = own.event(Event.BEGIN).rid
            self._fail(f"mount {begin:016x} has taken quorum slot {self.slot}: two mounts with one slot", now)
            return self._taken()
        fence = greatest_fence(blocks)
        self._overwritten = tuple(entry for entry in self._overwritten if entry[1].term >= fence)
        if reading is _Reading.WATCH:
            self._watched(blocks, now)
        elif self.role is not Role.LEADER and self._timeout == self._standing_timeout and not self._leaving:
            self._stand_or_defer(blocks, now)
        return self._settled(now)

    def server_changed(self, status: ServerStatus, now: float) -> list[Action]:
        """The server's status is now `status`."""
        self.server = status
        if status is ServerStatus.UP:
            self._overwritten = ()
        elif status is ServerStatus.DOWN:
            self._stop_requested = False
        if self.finished:
            return []
        return self._settled(now)

    def set_heartbeat_timeout(self, seconds: float, now: float) -> list[Action]:
        """Use `seconds` the next time a heartbeat timeout is set (§1.2)."""
        self._timeouts.heartbeat_timeout = seconds
        return []

    def leave(self, now: float) -> list[Action]:
        """Leave cleanly: server down, RESIGNATION, STOP, END; then Left (§4.5, remedy W15)."""
        if self.finished or self._leaving:
            return []
        self._leaving = True
        stops_already = self.server is ServerStatus.STOPPING or (self.server_start_term and not self._server_is_running)
        self._waits_for_stop = self.rules.wait_for_server_when_leaving or not stops_already
        self._out.append(Publish())
        return self._settled(now)

    def abandon(self, now: float) -> list[Action]:
        """Forced unmount: stop the server; no datagram and no write any more (I16)."""
        if self.finished:
            return []
        self.finished = True
        if self._server_is_running:
            self._out.append(StopServer())
        self._out.append(Left("forced unmount"))
        return self._taken()

    def socket_failed(self, error: str, now: float) -> list[Action]:
        """The socket cannot be used any more: the agent cannot take part any more (§4.6)."""
        if self.finished:
            return []
        self._fail(error, now)
        return self._taken()

    # -- receiving -----------------------------------------------------------------------------------------------

    def _receive(self, message: Message, now: float) -> None:
        """Steps 4 to 16 of an iteration of §4.3 for a message."""
        self._heard_since_request = True
        kind = message.type
        if kind is MessageType.HEARTBEAT:
            self._heard = (message.sender, now)
        elif kind is MessageType.RESIGNATION and self._heard is not None and self._heard[0] == message.sender:
            self._heard = None
            self._lease_until = -_FOREVER
        beat = False
        if message.term < self.term:
            self._receive_stale(message, now)
        elif message.term > self.term:
            if self._declines(message, now):
                self._beat(False, now)
                return
            self._adopt(message, now)
        elif kind is MessageType.HEARTBEAT:
            beat = self._receive_heartbeat(now)
        elif kind is MessageType.RESIGNATION:
            self._receive_resignation(now)
        elif kind is MessageType.VOTE:
            self._receive_vote(message.sender, now)
        else:
            self._receive_request(message.sender)
        self._beat(beat, now)

    def _receive_stale(self, message: Message, now: float) -> None:
        """A message of an older term is nothing received, unless it comes from the leader that we defer to."""
        if message.sender != self._deferring_to or self.role is not Role.FOLLOWER:
            return
        if message.type is MessageType.HEARTBEAT:
            self._timeout = self._heartbeat_expiry(now)
            self._lease_until = now + LEASE
        elif message.type is MessageType.RESIGNATION:
            self._deferring_to = _NOBODY
            self._timeout = self._election_expiry(now)

    def _declines(self, message: Message, now: float) -> bool:
        """Whether a message of a greater term is not taken at all."""
        if self.rules.refuse_absurd_terms and message.term > self.term + ABSURD_TERM_STEP:
            self._report(logging.WARNING, f"refused term {message.term} of slot {message.sender}: ours is {self.term}")
            self._count("quorum_recv_invalid")
            return True
        if message.type is not MessageType.REQUEST_VOTE or not self.rules.decline_while_led:
            return False
        return self.role is not Role.CANDIDATE and now < self._lease_until

    def _adopt(self, message: Message, now: float) -> None:
        """Follow a greater term: it is durable before the message that brought it has any other effect."""
        if self.role is Role.LEADER:
            self._report(
                logging.WARNING,
                f"message type {int(message.type)} of slot {message.sender} has term {message.term}, ours is "
                f"{self.term}: no longer leader, shutting down the server",
            )
            self._delays.clear()
        self._count("quorum_term_follower")
        self._become_follower(message.term, _NOBODY)
        led = message.type is MessageType.HEARTBEAT
        self._timeout = self._heartbeat_expiry(now) if led else self._election_expiry(now)
        self._repeats = 0
        self._hold(message.term)
        self._held.appendleft(message)

    def _receive_heartbeat(self, now: float) -> bool:
        """A heartbeat of our own term; returns whether it counts for the histogram of delays."""
        self._count("quorum_recv_heartbeat")
        if self.role is Role.LEADER:
            if self.rules.ignore_rival_heartbeat:
                return False
            self._timeout = self._heartbeat_expiry(now)
            return True
        if self.role is Role.CANDIDATE and self.rules.follow_the_winner:
            self._become_follower(self.term, self.slot)
        self._timeout = self._heartbeat_expiry(now)
        self._lease_until = now + LEASE
        self._repeats = 0
        return True

    def _receive_resignation(self, now: float) -> None:
        if self.role is Role.CANDIDATE and self.rules.follow_the_winner:
            self._become_follower(self.term, self.slot)
        if self.role is Role.FOLLOWER:
            self._count("quorum_recv_resignation")
            self._timeout = self._election_expiry(now)

    def _receive_vote(self, sender: int, now: float) -> None:
        if self.role is not Role.CANDIDATE:
            return
        self._count("quorum_recv_vote")
        if self._votes >> sender & 1:
            self._report(
                logging.WARNING,
                f"second vote of slot {sender} in term {self.term}: are several mounts using quorum slot {sender}?",
            )
        self._votes |= 1 << sender
        self._lead_if_elected(now)

    def _receive_request(self, sender: int) -> None:
        if self.role is not Role.FOLLOWER or self._vote_for != _NOBODY:
            return
        if self.rules.abstain_in_start_term and 0 < self.term <= self._start_term:
            return
        self._vote_for = sender
        self._count("quorum_send_vote")
        self._send((sender,), MessageType.VOTE, self.term)

    def _receive_held(self, now: float) -> None:
        while self._held and not self._holding and not self.finished:
            self._receive(self._held.popleft(), now)

    # -- standing ------------------------------------------------------------------------------------------------

    def _stand_if_possible(self, now: float) -> None:
        """The timeout of a follower or candidate has expired and nothing was received (§4.3 step 8)."""
        self._beat(False, now)
        if self.server is not ServerStatus.DOWN or self.server_start_term or self._writes:
            self._count("quorum_candidate_server_stopping")
            self._timeout = self._election_expiry(now)
        elif self.rules.read_before_standing:
            self._standing_timeout = self._timeout
            self._read(_Reading.STAND, now)
        else:
            self._stand(self.term + 1, now)

    def _stand_or_defer(self, blocks: Blocks, now: float) -> None:
        leader = find_server(blocks)
        if self.rules.defer_to_heard_leader and self._heard is not None and leader is not None:
            sender, heard_at = self._heard
            if sender == leader.slot != self.slot and now - heard_at < self._timeouts.heartbeat_timeout:
                if self.role is Role.CANDIDATE:
                    self._become_follower(self.term, self.slot)
                self._deferring_to = sender
                self._timeout = self._heartbeat_expiry(heard_at)
                self._lease_until = heard_at + LEASE
                self._out.append(Publish())
                return
        recorded = greatest_term(blocks)
        alone = self.role is Role.CANDIDATE and not self._heard_since_request
        isolated = alone and self.rules.repeat_request_while_isolated
        if isolated and recorded <= self.term and not may_have_started_in(blocks, self.term, self.slot):
            self._repeats += 1
            self._request_votes(now)
        else:
            # Several isolated members outbid each other by way of the disk: no faster than one repeats its request.
            self._repeats = self._repeats + 1 if isolated and recorded > self.term else 0
            self._stand(max(self.term, recorded) + 1, now)

    def _stand(self, term: int, now: float) -> None:
        self.role = Role.CANDIDATE
        self.term = term
        self._vote_for = _NOBODY
        self._votes = 1 << self.slot
        self._deferring_to = _NOBODY
        self._heard_since_request = False
        if not self.rules.persist_before_sending:
            self._request_votes(now)
        self._hold(term)

    def _request_votes(self, now: float) -> None:
        self._heard_since_request = False
        self._count("quorum_send_request")
        self._send(self.others, MessageType.REQUEST_VOTE, self.term)
        self._timeout = now + self._timeouts.repeated_election(self._repeats)

    def _term_is_durable(self, now: float) -> None:
        """TERM is on disk: say what waited for it, then read on."""
        self._holding = any(write.event is Event.TERM for write in self._writes)
        if self._holding:
            return
        if self.role is Role.CANDIDATE:
            if self.rules.yield_before_requesting and self._rival_asked_first():
                self._become_follower(self.term, _NOBODY)
                self._timeout = self._election_expiry(now)
            elif not self._leaving:
                if self.rules.persist_before_sending:
                    self._request_votes(now)
                self._lead_if_elected(now)
        elif self.role is Role.FOLLOWER:
            # a disk that took longer than the timeout must not turn the vote that follows into a candidacy
            self._timeout = max(self._timeout, self._election_expiry(now))
        self._receive_held(now)

    def _rival_asked_first(self) -> bool:
        """Whether somebody asked for our vote of this term before we asked for theirs: nobody knows that we stand."""
        return self.votes_needed > 1 and any(
            message.type is MessageType.REQUEST_VOTE and message.term == self.term for message in self._held
        )

    # -- leading -------------------------------------------------------------------------------------------------

    def _lead_if_elected(self, now: float) -> None:
        if self.role is not Role.CANDIDATE or self._votes.bit_count() < self.votes_needed:
            return
        self.role = Role.LEADER
        self._count("quorum_elected")
        self._send(self.others, MessageType.HEARTBEAT, self.term)
        self._timeout = now + HEARTBEAT_INTERVAL
        self._watch_due = now + WATCH_INTERVAL if self.rules.watch_blocks_while_leading else _FOREVER
        self._lease_until = now + LEASE + WATCH_INTERVAL
        self._server_event = 0
        self._delays.clear()
        self._out.append(Publish())
        self._electing = True
        self._update(Event.ELECT, self.term)

    def _elect_is_durable(self, term: int) -> None:
        """Start the server, unless a greater term has come meanwhile: then STOP must follow, by `_settle`."""
        self._electing = False
        self.server_start_term = term
        self._server_event = 2
        if self.role is Role.LEADER and self.term == term and not self._leaving:
            self.server = ServerStatus.STARTING
            self._stop_requested = False
            self._out.append(StartServer(term, self._overwritten))

    def _lead(self, now: float) -> None:
        """A leader's deadline: the regular heartbeat, the look at the blocks, or a look that never returned."""
        if now > self._timeout:
            self._count("quorum_send_heartbeat")
            self._send(self.others, MessageType.HEARTBEAT, self.term)
            self._timeout = now + HEARTBEAT_INTERVAL
            self._beat(True, now)
        if self._reading is None:
            if now > self._watch_due:
                self._watch_due = now + WATCH_INTERVAL
                self._read(_Reading.WATCH, now)
        elif now > self._reading_since + self._timeouts.heartbeat_timeout:
            self._reading_since = _FOREVER
            limit = self._timeouts.heartbeat_timeout
            self._report(logging.ERROR, f"reading quorum blocks took over {limit:g} s: shutting down the server")
            self._request_stop()

    def _watched(self, blocks: Blocks, now: float) -> None:
        if self.role is not Role.LEADER:
            return
        later = later_leader(blocks, self.term)
        if later is None:
            if blocks.get(self.slot) is not None:
                self._lease_until = now + LEASE + WATCH_INTERVAL
            return
        self._report(
            logging.WARNING,
            f"slot {later.slot} recorded a leader of term {later.term}, ours is {self.term}: no longer leader, "
            "shutting down the server",
        )
        self._delays.clear()
        self._become_follower(self.term, self.slot)
        self._timeout = self._heartbeat_expiry(now)

    # -- keeping role, server and disk in step -------------------------------------------------------------------

    def _settled(self, now: float) -> list[Action]:
        self._settle(now)
        return self._taken()

    def _settle(self, now: float) -> None:
        """Steps 11 to 13 of §4.3, and leaving."""
        if self.finished:
            return
        leads_its_server = self.role is Role.LEADER and self.term == self.server_start_term and not self._leaving
        fencing = any(write.event is Event.FENCE for write in self._writes)
        if leads_its_server and self.server is ServerStatus.UP and self._server_event == 2 and not fencing:
            self._update(Event.FENCE, self.term)
        if not leads_its_server:
            self._request_stop()
        if self.server_start_term and self.server is ServerStatus.DOWN:
            self._server_ended(now)
        if self._leaving and self._begun and not self._ending:
            self._end_if_possible()

    def _server_ended(self, now: float) -> None:
        """The server that we started is down: a leader resigns, and STOP is recorded."""
        term, self.server_start_term = self.server_start_term, 0
        if self.role is Role.LEADER:
            self._count("quorum_server_shutdown")
            self._become_follower(self.term, self.slot if self.rules.keep_vote_after_resigning else _NOBODY)
            self._timeout = self._election_expiry(now)
            self._delays.clear()
            self._count("quorum_send_resignation")
            self._send(self.others, MessageType.RESIGNATION, term)
        if self._overwritten:
            self._hand_back(self._overwritten[-1][1].rid, term)
        else:
            self._update(Event.STOP, term)

    def _hand_back(self, rid: int, term: int) -> None:
        """Name the leader whose record ours replaced, in our term and without STOP: the next leader fences it, not us.

        A STOP of ours would hide it (W4), and our own ELECT would get us fenced in its place (W5).
        """
        self._report(
            logging.ERROR,
            f"earlier mount {rid:016x} of slot {self.slot} may still lead and is not fenced: ELECT of term {term} "
            "names it again, so that the next leader fences it",
        )
        self._update(Event.ELECT, term, rid)

    def _end_if_possible(self) -> None:
        if self._electing or self._holding:
            return
        if self._waits_for_stop and (self.server is not ServerStatus.DOWN or self.server_start_term):
            return
        self._ending = True
        self._held.clear()
        self._update(Event.END, self.term)

    def _request_stop(self) -> None:
        if self._server_is_running and not self._stop_requested:
            self._stop_requested = True
            self._out.append(StopServer())

    @property
    def _server_is_running(self) -> bool:
        return self.server in (ServerStatus.STARTING, ServerStatus.UP)

    def _fail(self, error: str, now: float) -> None:
        """Fatal exit: the server first, since nobody would hear from us that it still runs (remedy W6)."""
        self.finished = True
        if self.rules.stop_server_on_fatal_error:
            self._request_stop()
            self.role = Role.FOLLOWER
        self._report(
            logging.ERROR,
            f"{error}. This mount no longer takes part in quorum; remount it to restore that.",
        )
        self._out += [Publish(), Left(error)]

    # -- small steps ---------------------------------------------------------------------------------------------

    def _become_follower(self, term: int, vote_for: int) -> None:
        self.role = Role.FOLLOWER
        self.term = term
        self._vote_for = vote_for
        self._votes = 0
        self._deferring_to = _NOBODY
        self._watch_due = _FOREVER
        self._lease_until = -_FOREVER

    def _hold(self, term: int) -> None:
        self._holding = True
        self._update(Event.TERM, term)

    def _update(self, event: Event, term: int, rid: int = 0) -> None:
        self._writes.append(WriteEvent(event, term, rid))

    def _read(self, reading: _Reading, now: float) -> None:
        self._reading = reading
        self._reading_since = now
        self._out.append(ReadBlocks())

    def _send(self, slots: tuple[int, ...], kind: MessageType, term: int) -> None:
        if not slots:
            return
        message = Message(term, kind, self.slot)
        self._out += [Send(slot, message) for slot in slots]

    def sent(self, slot: int, message: Message, now: float) -> None:
        """The shell tried to send `message` to `slot`: remembered for the status, also if that failed."""
        if message.term:
            self._last_send[slot] = Exchange(message.term, message.type, now)

    def _taken(self) -> list[Action]:
        """Return the collected actions; the next update of the block comes last and only if none is under way."""
        if self._writes and not self._writing and not self.finished:
            self._writing = True
            self._out.append(self._writes[0])
        out, self._out = self._out, []
        return out

    def _count(self, counter: str) -> None:
        self._out.append(Count(counter))

    def _report(self, level: int, text: str) -> None:
        self._out.append(Report(level, text))

    def _election_expiry(self, now: float) -> float:
        return now + self._timeouts.election()

    def _heartbeat_expiry(self, now: float) -> float:
        return now + self._timeouts.heartbeat()

    def _beat(self, beat: bool, now: float) -> None:
        """Step 16."""
        late = self._delays.iteration(beat, now)
        if late is not None:
            way = "send" if self.role is Role.LEADER else "recv"
            self._report(logging.INFO, f"longest quorum heartbeat {way} delay of {late} sec")
