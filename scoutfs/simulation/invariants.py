"""The invariants of spec 02 §13.1, asserted after every step; each looks only at what the step changed.

I14 and I15 are read with the project's rules in mind: a candidate stands for one more than any term that it knows or
finds on the disk, and a follower that defers to a leader lets that leader's stale heartbeats extend its timeout.
I11 has exceptions: a leader whose lease is fresh may decline a REQUEST_VOTE of a greater term altogether, and any
agent refuses an absurd term and what claims to come from its own slot.
I17 needs a cluster without faults: `Cluster.settle` asserts it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from format.message import Message, MessageType
from format.quorum import Event, EventRecord, QuorumBlock
from scoutfs.quorum.actions import Action, Count, Publish, Report, WriteEvent
from scoutfs.quorum.election import ABSURD_TERM_STEP, ServerStatus
from scoutfs.quorum.status import Role

if TYPE_CHECKING:
    from scoutfs.simulation.cluster import Cluster
    from scoutfs.simulation.member import Member

_HARMLESS = (Count, Publish, Report)


class Violation(AssertionError):
    """An invariant does not hold; `invariant` is its id, `time` the virtual time in seconds, `slot` where."""

    def __init__(self, invariant: str, time: float, slot: int, text: str) -> None:
        self.invariant = invariant
        self.time = time
        self.slot = slot
        super().__init__(f"{invariant} violated at {time:.6f} s, slot {slot}: {text}")


class Invariants:
    """Watches one cluster."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._granted: dict[tuple[int, int], int] = {}
        self._leaders: dict[int, Member] = {}
        self._excused_terms: set[int] = set()
        self._serving: dict[int, Member] = {}
        self._shared_slots: set[int] = set()

    # -- the machine -------------------------------------------------------------------------------------------------

    def started(self, member: Member) -> None:
        """An agent has read the blocks and begins."""
        if not member.rules.abstain_in_start_term:
            self._excused_terms.add(member.term)

    def changed(self, member: Member) -> None:
        """The term or the role of a member's agent has changed: I1, I9, I10, I14."""
        election = member.election
        assert election is not None
        term, old_term, old_role = election.term, member.term, member.role
        if term < old_term:
            self._fail("I1", member, f"term went from {old_term} to {term}")
        if term > old_term and term > member.heard_term:
            known = max(old_term, self._greatest_recorded())
            if term > known + 1:
                self._fail("I14", member, f"term went from {old_term} to {term}, nobody knows more than {known}")
            if not member.timer_credit:
                self._fail("I14", member, f"term went from {old_term} to {term} without an expired timeout")
            member.timer_credit = False
        member.term = term
        member.role = election.role
        if election.role is Role.LEADER:
            if old_role is not Role.LEADER or term != old_term:
                self._elected(member)
        elif old_role is Role.LEADER and term == old_term and not member.rules.keep_vote_after_resigning:
            self._excused_terms.add(term)
        self._cluster.role_changed(member)

    def before_receiving(self, member: Member, message: Message) -> tuple[int, Role, int, int, float]:
        """Remember what I11 and I15 compare, before a message of another term is fed."""
        election = member.election
        assert election is not None
        if message.term > election.term:
            return (election.term, election.role, 0, 0, 0.0)
        status = election.status
        return (status.term, status.role, status.vote_for, status.votes, status.timeout)

    def after_receiving(
        self, member: Member, message: Message, before: tuple[int, Role, int, int, float], actions: list[Action]
    ) -> None:
        """I11 for a greater term, I15 for a stale one."""
        election = member.election
        assert election is not None
        if message.term > before[0]:
            if before[1] is not Role.LEADER or member.abandoned or election.finished:
                return
            declined = election.role is Role.LEADER and election.term == before[0]
            if declined:
                lease = member.rules.decline_while_led and message.type is MessageType.REQUEST_VOTE
                absurd = member.rules.refuse_absurd_terms and message.term > before[0] + ABSURD_TERM_STEP
                echo = member.rules.ignore_own_slot and message.sender == member.slot
                if lease or absurd or echo:
                    return
                self._fail("I11", member, f"still leads term {before[0]} after a message of term {message.term}")
            if member.server.status in (ServerStatus.STARTING, ServerStatus.UP):
                self._fail("I11", member, f"its server still runs after a message of term {message.term}")
            return
        status = election.status
        after = (status.term, status.role, status.vote_for, status.votes, status.timeout)
        if after[:4] != before[:4] or (after[4] != before[4] and not member.rules.defer_to_heard_leader):
            self._fail("I15", member, f"a stale {message.type.name} of term {message.term} changed {before} to {after}")
        if any(not isinstance(action, _HARMLESS) for action in actions) and not election.finished:
            self._fail("I15", member, f"a stale {message.type.name} of term {message.term} made it act: {actions}")

    def sending(self, member: Member, to: int, message: Message) -> None:
        """A member is about to send: I3, I4, I16."""
        if member.abandoned or not member.alive:
            self._fail("I16", member, f"sends {message.type.name} {message.term} after a forced unmount")
        kind, term = message.type, message.term
        if term > member.durable_term and (kind is not MessageType.REQUEST_VOTE or member.rules.persist_before_sending):
            self._fail("I3", member, f"sends {kind.name} {term}, its block knows {member.durable_term} only")
        if kind is MessageType.VOTE:
            self._voted(member, term, to)
            self._granted[term, to] = self._granted.get((term, to), 0) | 1 << member.slot
        elif kind is MessageType.REQUEST_VOTE:
            self._voted(member, term, member.slot)

    def _voted(self, member: Member, term: int, slot: int) -> None:
        voted_term, voted_slot = member.vote
        if voted_term == term and voted_slot != slot and term not in self._excused_terms:
            self._fail("I4", member, f"votes for slot {slot} and slot {voted_slot} in term {term}")
        member.vote = (term, slot)

    def _elected(self, member: Member) -> None:
        cluster, term = self._cluster, member.term
        if len(cluster.slots) >= 3:
            votes = self._granted.get((term, member.slot), 0) | 1 << member.slot
            if votes.bit_count() < cluster.votes_needed:
                self._fail("I9", member, f"leads term {term} with votes {votes:#b} only")
        other = self._leaders.get(term)
        counts = cluster.votes_needed >= 2 and term not in self._excused_terms
        if counts and other is not None and other.rid != member.rid:
            self._fail("I10", member, f"leads term {term} that slot {other.slot} was elected in")
        self._leaders[term] = member

    # -- the disk ----------------------------------------------------------------------------------------------------

    def reading(self, member: Member) -> None:
        """A member is about to read the blocks."""
        if member.abandoned:
            self._fail("I16", member, "reads blocks after a forced unmount")

    def writing(self, member: Member, action: WriteEvent, *, busy: bool) -> None:
        """A member is about to update its block: I6, I7, I16, and one update at a time."""
        if member.abandoned or not member.alive:
            self._fail("I16", member, f"writes {action.event.name} {action.term} after a forced unmount")
        if busy:
            self._fail("contract", member, f"writes {action.event.name} while another update is under way")
        server = member.server
        if action.event is Event.FENCE and not (server.served and server.term == action.term):
            self._fail(
                "I6", member, f"writes FENCE {action.term}, server of term {server.term} is {server.status.name}"
            )
        if action.event is Event.STOP:
            if server.status is not ServerStatus.DOWN:
                self._fail("I7", member, f"writes STOP {action.term} while its server is {server.status.name}")
            if action.term != self._own_block(member).event(Event.ELECT).term and not self._is_shared(member):
                self._fail("I7", member, f"writes STOP {action.term}, which is not the term of its server")

    def written(self, member: Member, old: QuorumBlock, new: QuorumBlock) -> None:
        """An update of a member's block reaches the disk: I2."""
        event = next(e for e, record in new.events.items() if record.write_nr == new.write_nr)
        record = new.event(event)
        member.durable_term = max(member.durable_term, record.term)
        if event is Event.BEGIN and self._cluster.has_other_incarnation(member):
            self._shared_slots.add(member.slot)
        if self._is_shared(member):
            return
        if new.write_nr != old.write_nr + 1:
            self._fail("I2", member, f"write number went from {old.write_nr} to {new.write_nr}")
        if record.term < old.event(event).term:
            self._fail("I2", member, f"{event.name} went from term {old.event(event).term} to {record.term}")
        if max(r.write_nr for r in new.events.values()) != new.write_nr:
            self._fail("I2", member, "its write number is not the greatest of its events")

    def left(self, member: Member, error: str | None) -> None:
        """An agent is over: I8."""
        if error is not None or self._is_shared(member):
            return
        block = self._own_block(member)
        if block.event(Event.END).write_nr <= block.event(Event.BEGIN).write_nr:
            self._fail("I8", member, "left without END")
        if member.server.status is not ServerStatus.DOWN and member.rules.wait_for_server_when_leaving:
            self._fail("I8", member, f"left while its server is {member.server.status.name}")
        stopped = block.event(Event.ELECT).term <= block.event(Event.STOP).term
        own = block.event(Event.ELECT).rid == member.rid
        if own and not stopped and member.rules.wait_for_server_when_leaving:
            self._fail("I8", member, "left without STOP")

    # -- the server --------------------------------------------------------------------------------------------------

    def starting_server(self, member: Member, term: int) -> None:
        """An agent asks for its server: I5."""
        if member.abandoned:
            self._fail("I16", member, "starts its server after a forced unmount")
        if member.server.status is not ServerStatus.DOWN:
            self._fail("I5", member, f"starts a server while one is {member.server.status.name}")
        elect = self._own_block(member).event(Event.ELECT)
        if (elect.term, elect.rid) != (term, member.rid) and not self._is_shared(member):
            self._fail("I5", member, f"starts the server of term {term}, its block shows ELECT {elect.term}")

    def server_up(
        self, member: Member, blocks: Mapping[int, QuorumBlock | None], overwritten: tuple[tuple[int, EventRecord], ...]
    ) -> None:
        """A server becomes UP: I6, I12, I13.  `blocks` is what it read last."""
        server = member.server
        for slot, record in self._to_be_fenced(member, blocks):
            if record.rid not in server.fenced and member.server.rules.fence_error_is_failure:
                self._fail("I12", member, f"its server is up, leader {record.rid:x} of slot {slot} is not fenced")
        for _, record in overwritten:
            if record.rid not in server.fenced and record.term >= self._fenced_below(blocks):
                self._fail("I12", member, f"its server is up, overwritten leader {record.rid:x} is not fenced")
        for other in self._serving.values():
            if other is not member and other.rid not in server.fenced:
                self._fail(
                    "I13",
                    member,
                    f"its server of term {server.term} is up, so is slot {other.slot}'s of term {other.server.term} "
                    f"({other.server.status.name}), which nobody has fenced",
                )
        self._serving[member.rid] = member

    def server_ended(self, member: Member) -> None:
        """A server is down, or its process is gone."""
        self._serving.pop(member.rid, None)

    # -- helpers -----------------------------------------------------------------------------------------------------

    @staticmethod
    def _fenced_below(blocks: Mapping[int, QuorumBlock | None]) -> int:
        return max((block.event(Event.FENCE).term for block in blocks.values() if block is not None), default=0)

    def _to_be_fenced(self, member: Member, blocks: Mapping[int, QuorumBlock | None]) -> list[tuple[int, EventRecord]]:
        """Spec 02 §5.5, steps 2 and 3, read anew."""
        term = member.server.term
        fenced_below = self._fenced_below(blocks)
        found = []
        for slot, block in blocks.items():
            if block is None:
                continue
            elect, fence, stop = (block.event(event) for event in (Event.ELECT, Event.FENCE, Event.STOP))
            records = [elect] if elect.term > stop.term else []
            if fence.term > stop.term and fence.term < elect.term:
                records.append(fence)
            for record in records:
                if record.term and fenced_below <= record.term <= term and record.rid != member.rid:
                    found.append((slot, record))
        return found

    def _greatest_recorded(self) -> int:
        return max(block.greatest_term for block in self._cluster.disk.blocks.values())

    def _own_block(self, member: Member) -> QuorumBlock:
        return self._cluster.disk.blocks[member.slot]

    def _is_shared(self, member: Member) -> bool:
        """Whether assumption A1, one mount a slot, was broken on purpose."""
        return member.slot in self._shared_slots

    def _fail(self, invariant: str, member: Member, text: str) -> None:
        raise Violation(invariant, self._cluster.now, member.slot, text)
