"""Each rule that makes our election stricter: what happens with it, and what happens without (docs/decisions)."""

from __future__ import annotations

import pytest

from format.message import MessageType
from format.quorum import Event, EventRecord
from scoutfs.quorum.actions import STRICT_RULES
from scoutfs.quorum.election import ServerStatus
from scoutfs.quorum.status import Role
from scoutfs.quorum.timeouts import HEARTBEAT_JITTER_MS
from tests.quorum.machine import OTHER, RID, FixedRandom, Machine, block_with

REQUEST, VOTE, HEARTBEAT, RESIGNATION = MessageType


def without(rule: str, **arguments: object) -> Machine:
    assert rule in STRICT_RULES._fields
    return Machine(rules=STRICT_RULES._replace(**{rule: False}), **arguments)  # type: ignore[arg-type]


def led(member: Machine) -> Machine:
    """Make a member of three leader of the next term with its server up."""
    member.advance(0.301)
    member.receive(VOTE, member.election.term, 1)
    member.server(ServerStatus.UP)
    assert member.election.role is Role.LEADER
    member.taken()
    return member


def votes(lines: list[str]) -> list[str]:
    return [line for line in lines if line.startswith("VOTE")]


def test_no_vote_in_the_term_a_member_starts_in() -> None:
    started_in_5 = {0: block_with(0, (Event.TERM, OTHER, 5))}
    member = Machine(blocks=dict(started_in_5))
    member.receive(REQUEST, 5, 1)
    assert votes(member.taken()) == []
    member.receive(REQUEST, 6, 1)
    assert votes(member.taken()) == ["VOTE 6 to 1"]
    member = without("abstain_in_start_term", blocks=started_in_5)
    member.receive(REQUEST, 5, 1)
    assert votes(member.taken()) == ["VOTE 5 to 1"]


def test_a_leader_whose_server_ended_does_not_vote_in_its_own_term() -> None:
    member = led(Machine())
    member.server(ServerStatus.DOWN)
    member.receive(REQUEST, 1, 2)
    assert votes(member.taken()) == []
    member = led(without("keep_vote_after_resigning"))
    member.server(ServerStatus.DOWN)
    member.receive(REQUEST, 1, 2)
    assert votes(member.taken()) == ["VOTE 1 to 2"]


def test_a_term_is_on_disk_before_a_message_carries_it() -> None:
    member = Machine()
    member.advance(0.301)
    assert member.taken() == ["BEGIN 0", "TERM 1", "REQUEST_VOTE 1 to 1", "REQUEST_VOTE 1 to 2"]
    member = without("persist_before_sending")
    member.advance(0.301)
    assert member.taken() == ["BEGIN 0", "REQUEST_VOTE 1 to 1", "REQUEST_VOTE 1 to 2", "TERM 1"]


def test_nothing_of_a_term_is_said_while_its_write_is_under_way() -> None:
    member = Machine()
    member.slow_disk = True
    member.receive(REQUEST, 3, 1)
    member.receive(RESIGNATION, 3, 2)
    member.advance(30)
    assert member.taken() == ["BEGIN 0"]
    member.write()
    assert member.taken() == ["TERM 3", "VOTE 3 to 1"]


def test_a_voter_with_a_slow_disk_waits_for_its_candidate() -> None:
    member = Machine()
    member.slow_disk = True
    member.receive(REQUEST, 9, 1)
    member.slow_disk = False
    member.now += 3
    member.write()
    member.advance(0.2)
    assert member.taken() == ["BEGIN 0", "TERM 9", "VOTE 9 to 1"]


def test_a_slow_disk_does_not_delay_a_leaders_heartbeats() -> None:
    member = Machine()
    member.advance(0.301)
    member.slow_disk = True
    member.receive(VOTE, 1, 1)
    member.taken()
    member.advance(0.55)
    assert [line for line in member.taken() if line.endswith("to 1")] == ["HEARTBEAT 1 to 1"] * 5
    assert member.started == []
    member.write()
    assert "start server 1" in member.taken()


def test_a_member_reads_the_blocks_before_it_stands() -> None:
    member = Machine()
    member.blocks[1] = block_with(1, (Event.TERM, OTHER, 41))
    member.advance(0.301)
    assert "TERM 42" in member.taken()


def test_a_heartbeat_that_comes_while_the_blocks_are_read_keeps_a_follower() -> None:
    member = Machine()
    member.slow_reads = True
    member.advance(0.301)
    member.receive(HEARTBEAT, 0, 1)
    member.perform(member.election.blocks_read(dict(member.blocks), member.now))
    assert member.election.role is Role.FOLLOWER
    assert member.taken() == ["BEGIN 0"]


def test_a_returning_member_defers_to_a_leader_that_it_hears() -> None:
    for rule, stands in (("", False), ("defer_to_heard_leader", True)):
        member = without(rule) if rule else Machine()
        member.advance(0.301)
        member.blocks[1] = block_with(1, (Event.ELECT, OTHER, 1))
        member.election.term, term = 4, member.election.term
        member.taken()
        for _ in range(30):
            member.receive(HEARTBEAT, term, 1)
            member.advance(0.1)
        requests = [line for line in member.taken() if line.startswith("REQUEST_VOTE")]
        assert bool(requests) is stands, rule
        if not stands:
            assert member.election.role is Role.FOLLOWER
            member.receive(RESIGNATION, term, 1)
            member.advance(0.4)
            assert "TERM 5" in member.taken()


def test_an_isolated_candidate_repeats_its_request_with_growing_delays() -> None:
    member = Machine()
    member.advance(30)
    requests = [line for line in member.taken() if line == "REQUEST_VOTE 1 to 1"]
    assert member.election.term == 1
    assert 5 <= len(requests) <= 12
    member.receive(REQUEST, 1, 2)
    member.advance(6)
    assert member.election.term == 2
    member = Machine()
    member.advance(3)
    member.blocks[1] = block_with(1, (Event.BEGIN, OTHER, 1))
    member.advance(5.1)
    assert member.election.term == 2, "a member that started in term 1 gives no vote in it"
    member = without("repeat_request_while_isolated")
    member.advance(30)
    assert member.election.term > 80


def test_isolated_members_that_see_each_others_terms_on_the_disk_slow_down() -> None:
    stands = {}
    for rule in ("", "repeat_request_while_isolated"):
        member = without(rule) if rule else Machine()
        for _ in range(600):
            member.advance(0.05)
            member.blocks[1] = block_with(1, (Event.TERM, OTHER, member.election.term + 1))
        stands[rule] = [line for line in member.taken() if line.endswith("to 1")]
        assert member.election.term == 2 * len(stands[rule]), rule
    assert 5 <= len(stands[""]) <= 12
    assert len(stands["repeat_request_while_isolated"]) > 70


def test_a_candidate_that_was_asked_before_it_could_ask_gives_its_vote() -> None:
    for rule, expected in (("", ["VOTE 1 to 2"]), ("yield_before_requesting", [])):
        member = without(rule) if rule else Machine()
        member.slow_disk = True
        member.advance(0.301)
        member.receive(REQUEST, 1, 2)
        member.write()
        assert votes(member.taken()) == expected, rule


def test_a_led_follower_and_a_leader_decline_a_vote_of_a_greater_term() -> None:
    for rule, declines in (("", True), ("decline_while_led", False)):
        follower = without(rule) if rule else Machine()
        follower.receive(HEARTBEAT, 1, 1)
        follower.receive(REQUEST, 9, 2)
        assert (follower.election.term == 1) is declines, rule
        leader = led(without(rule) if rule else Machine())
        leader.receive(REQUEST, 9, 2)
        assert (leader.election.role is Role.LEADER) is declines, rule
    leader = led(Machine())
    leader.receive(HEARTBEAT, 9, 2)
    assert leader.election.role is Role.FOLLOWER
    follower = Machine()
    follower.receive(HEARTBEAT, 1, 1)
    follower.advance(1.1)
    follower.receive(REQUEST, 9, 2)
    assert votes(follower.taken()) == ["VOTE 9 to 2"]


def test_a_leader_that_cannot_read_the_blocks_declines_no_longer_and_then_stops() -> None:
    leader = led(Machine())
    leader.slow_reads = True
    leader.advance(3.1)
    leader.receive(REQUEST, 9, 2)
    assert leader.election.term == 9
    leader = led(Machine(heartbeat_timeout=2.0))
    leader.slow_reads = True
    leader.advance(3.2)
    assert "stop server" in leader.taken()


def test_a_leader_stops_when_the_blocks_show_a_later_one() -> None:
    for rule, stops in (("", True), ("watch_blocks_while_leading", False)):
        leader = led(without(rule) if rule else Machine())
        leader.blocks[2] = block_with(2, (Event.ELECT, OTHER, 2))
        leader.advance(1.2)
        assert ("stop server" in leader.taken()) is stops, rule


def test_a_fatal_error_stops_the_server_first() -> None:
    member = Machine()
    member.advance(0.301)
    member.receive(VOTE, 1, 1)
    member.slow_disk = True
    member.server(ServerStatus.UP)
    member.taken()
    member.fail_write()
    assert member.taken() == ["stop server"]
    assert isinstance(member.left, str)
    assert "Input/output error" in member.left
    assert member.election.deadline == float("inf")
    member.receive(REQUEST, 9, 1)
    assert member.taken() == []


def test_a_rival_of_the_same_term_does_not_silence_a_leader() -> None:
    leader = Machine(present=(0, 1))
    leader.advance(0.301)
    leader.receive(HEARTBEAT, 1, 1)
    leader.taken()
    leader.advance(0.35)
    assert leader.taken() == ["HEARTBEAT 1 to 1"] * 3


def test_a_losing_candidate_follows_the_winner_and_keeps_its_vote() -> None:
    member = Machine()
    member.advance(0.301)
    member.taken()
    member.receive(HEARTBEAT, 1, 2)
    assert member.election.role is Role.FOLLOWER
    assert member.election.status.vote_for == 0
    member.receive(REQUEST, 1, 1)
    assert votes(member.taken()) == []
    member.receive(RESIGNATION, 1, 2)
    assert member.election.deadline - member.now < 0.35


@pytest.mark.parametrize("term", [2**64 - 1, 2**33])
def test_an_absurd_term_is_refused(term: int) -> None:
    member = Machine()
    for kind in MessageType:
        member.receive(kind, term, 1)
    assert member.election.term == 0
    assert member.taken() == ["BEGIN 0"]
    assert member.counters["quorum_recv_invalid"] == 4
    member = without("refuse_absurd_terms")
    member.receive(HEARTBEAT, term, 1)
    assert member.election.term == term


def test_a_message_that_names_our_own_slot_is_refused() -> None:
    member = Machine()
    member.receive(REQUEST, 1, 0)
    member.receive(HEARTBEAT, 7, 0)
    assert member.election.term == 0
    assert member.counters["quorum_recv_invalid"] == 2


def test_heartbeat_timeouts_are_jittered() -> None:
    deadlines = set()
    for jitter in (0, HEARTBEAT_JITTER_MS - 1):
        member = Machine(random=FixedRandom(jitter))
        member.receive(HEARTBEAT, 1, 1)
        deadlines.add(round(member.election.deadline, 3))
    assert deadlines == {10.0, 10.149}


def test_leaving_while_the_server_stops_waits_and_records_stop() -> None:
    for rule, recorded in (("", ["STOP 1", "END 3"]), ("wait_for_server_when_leaving", ["END 3"])):
        member = led(without(rule) if rule else Machine())
        member.receive(HEARTBEAT, 3, 2)
        member.server(ServerStatus.STOPPING)
        member.taken()
        member.perform(member.election.leave(member.now))
        member.server(ServerStatus.DOWN)
        assert member.taken() == recorded, rule


def test_the_overwritten_leader_of_our_slot_is_remembered_until_it_is_fenced() -> None:
    died = {0: block_with(0, (Event.ELECT, OTHER, 5))}
    member = Machine(present=(0,), blocks=dict(died))
    member.advance(0.31)
    overwritten = member.started[-1].overwritten
    assert [(slot, record.rid, record.term) for slot, record in overwritten] == [(0, OTHER, 5)]
    member.taken()
    member.server(ServerStatus.DOWN)
    assert member.taken() == ["ELECT 6"]
    assert "not fenced" in member.reports[-1]
    own = member.blocks[0]
    assert own is not None
    assert own.leader == EventRecord(own.write_nr, OTHER, 6, own.event(Event.ELECT).ts)
    member.advance(0.4)
    assert member.started[-1].overwritten == overwritten
    member.server(ServerStatus.UP)
    member.server(ServerStatus.DOWN)
    assert "STOP 7" in member.taken()
    member = without("remember_overwritten_leader", present=(0,), blocks=died)
    member.advance(0.31)
    assert member.started[-1].overwritten == ()


def test_a_member_does_not_wait_for_the_previous_mount_of_its_own_slot() -> None:
    for slot, waits in ((0, False), (1, True)):
        died = {slot: block_with(slot, (Event.ELECT, OTHER, 5), (Event.FENCE, OTHER, 5))}
        member = Machine(blocks=died)
        assert (member.election.deadline > 9) is waits
    stale = {
        1: block_with(1, (Event.ELECT, OTHER, 5), (Event.FENCE, OTHER, 5)),
        2: block_with(2, (Event.ELECT, OTHER, 7), (Event.FENCE, OTHER, 7), (Event.STOP, OTHER, 7)),
    }
    assert Machine(blocks=dict(stale)).election.deadline < 0.5
    assert without("stand_at_once_after_own_death", blocks=stale).election.deadline > 9


def test_a_taken_slot_ends_the_agent() -> None:
    member = led(Machine())
    own = member.blocks[0]
    assert own is not None
    member.blocks[0] = own.updated(Event.BEGIN, OTHER, 1, 0)
    member.advance(1.2)
    assert "stop server" in member.taken()
    assert isinstance(member.left, str)
    assert "two mounts with one slot" in member.left


def test_forced_unmount_sends_and_writes_nothing() -> None:
    member = led(Machine())
    member.perform(member.election.abandon(member.now))
    assert member.taken() == ["stop server"]
    member.server(ServerStatus.DOWN)
    member.receive(REQUEST, 9, 1)
    member.advance(30)
    assert member.taken() == []


def test_a_greater_term_while_elect_is_written_never_starts_a_server() -> None:
    member = Machine()
    member.advance(0.301)
    member.slow_disk = True
    member.receive(VOTE, 1, 1)
    member.receive(HEARTBEAT, 2, 2)
    member.taken()
    for _ in range(3):
        member.write()
    assert member.taken() == ["ELECT 1", "TERM 2", "STOP 1"]
    assert member.started == []


def test_delays_of_heartbeats_are_counted_in_whole_seconds() -> None:
    """The gaps of the recorded status: 3.25, 1.1 and 5.2 seconds (spec 02 §9.2, §9.4)."""
    member = Machine()
    for gap in (0.0, 3.25, 1.1, 5.2):
        member.advance(gap)
        member.receive(HEARTBEAT, 6, 2)
    assert {late: delay.occurrences for late, delay in member.election.status.delays.items()} == {1: 1, 3: 1, 5: 1}
    assert "longest quorum heartbeat recv delay of 5 sec" in member.reports[-1]
    member.receive(HEARTBEAT, 7, 2)
    assert member.rid == RID


def test_an_agent_that_cannot_read_its_own_block_does_not_begin() -> None:
    machine = Machine(blocks={0: None})
    assert machine.taken() == []
    assert isinstance(machine.left, str)
    assert "own block of quorum slot 0" in machine.left
