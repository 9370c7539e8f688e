"""The traces of spec 02 §4.7, which the original was seen to do, with the original's rules."""

from __future__ import annotations

from format.message import MessageType
from format.quorum import Event
from scoutfs.quorum.actions import ORIGINAL_RULES
from scoutfs.quorum.election import ServerStatus
from scoutfs.quorum.status import Role
from tests.quorum.machine import OTHER, Machine, block_with

REQUEST, VOTE, HEARTBEAT, RESIGNATION = MessageType


def original(**arguments: object) -> Machine:
    return Machine(rules=ORIGINAL_RULES, **arguments)  # type: ignore[arg-type]


def test_single_slot_on_an_empty_volume_with_a_clean_unmount() -> None:
    member = original(present=(0,))
    assert member.taken() == ["BEGIN 0"]
    member.advance(0.301)
    assert member.taken() == ["TERM 1", "ELECT 1", "start server 1"]
    member.server(ServerStatus.UP)
    assert member.taken() == ["FENCE 1"]
    member.advance(1)
    member.perform(member.election.leave(member.now))
    assert member.taken() == ["stop server"]
    member.server(ServerStatus.STOPPING)
    member.server(ServerStatus.DOWN)
    assert member.taken() == ["STOP 1", "END 1"]
    assert member.left is None
    own = member.blocks[0]
    assert own is not None
    assert [own.event(event).write_nr for event in Event] == [1, 2, 3, 4, 5, 6]


def test_three_slots_election_server_failure_and_a_vote_for_another() -> None:
    member = original()
    member.advance(0.301)
    assert member.taken() == ["BEGIN 0", "REQUEST_VOTE 1 to 1", "REQUEST_VOTE 1 to 2", "TERM 1"]
    member.receive(VOTE, 1, 1)
    assert member.taken() == ["HEARTBEAT 1 to 1", "HEARTBEAT 1 to 2", "ELECT 1", "start server 1"]
    member.server(ServerStatus.UP)
    assert member.taken() == ["FENCE 1"]
    member.advance(0.101)
    assert member.taken() == ["HEARTBEAT 1 to 1", "HEARTBEAT 1 to 2"]
    member.server(ServerStatus.DOWN)
    assert member.taken() == ["RESIGNATION 1 to 1", "RESIGNATION 1 to 2", "STOP 1"]
    assert member.election.role is Role.FOLLOWER
    member.receive(REQUEST, 2, 1)
    assert member.taken() == ["TERM 2", "VOTE 2 to 1"]
    member.receive(HEARTBEAT, 2, 1)
    assert member.election.deadline == member.now + 10
    member.receive(RESIGNATION, 2, 1)
    assert abs(member.election.deadline - member.now - 0.3) < 1e-9
    member.perform(member.election.leave(member.now))
    assert member.taken() == ["END 2"]
    own = member.blocks[0]
    assert own is not None
    assert own.write_nr == 7


def leader_of_term_1() -> Machine:
    member = original()
    member.advance(0.301)
    member.receive(VOTE, 1, 1)
    member.server(ServerStatus.UP)
    member.taken()
    return member


def test_deposed_leader_stops_its_server_and_records_stop_of_its_old_term() -> None:
    member = leader_of_term_1()
    member.receive(HEARTBEAT, 3, 2)
    assert member.taken() == ["stop server", "TERM 3"]
    assert "no longer leader" in member.reports[-1]
    member.server(ServerStatus.STOPPING)
    member.server(ServerStatus.DOWN)
    assert member.taken() == ["STOP 1"]
    member.perform(member.election.leave(member.now))
    assert member.taken() == ["END 3"]


def test_deposed_leader_votes_while_its_server_stops_and_stands_only_when_it_is_down() -> None:
    member = leader_of_term_1()
    member.receive(REQUEST, 3, 2)
    assert member.taken() == ["stop server", "TERM 3", "VOTE 3 to 2"]
    member.server(ServerStatus.STOPPING)
    member.advance(0.4)
    assert member.taken() == []
    assert member.counters["quorum_candidate_server_stopping"] == 1
    member.server(ServerStatus.DOWN)
    assert member.taken() == ["STOP 1"]
    member.advance(0.4)
    assert member.taken() == ["REQUEST_VOTE 4 to 1", "REQUEST_VOTE 4 to 2", "TERM 4"]


def test_a_fresh_member_starts_from_the_greatest_term_on_disk() -> None:
    member = original(blocks={1: block_with(1, (Event.BEGIN, OTHER, 4), (Event.TERM, OTHER, 5))})
    assert member.taken() == ["BEGIN 5"]
    deadline = member.election.deadline
    member.receive(REQUEST, 4, 1)
    assert member.taken() == []
    member.receive(REQUEST, 5, 1)
    assert member.taken() == ["VOTE 5 to 1"]
    assert member.election.deadline == deadline
    member.receive(REQUEST, 5, 2)
    member.receive(REQUEST, 5, 1)
    member.receive(HEARTBEAT, 4, 1)
    assert member.taken() == []
    assert member.election.deadline == deadline
    member.receive(RESIGNATION, 7, 1)
    assert member.taken() == ["TERM 7"]


def test_two_slots_a_rival_heartbeat_silences_the_leader() -> None:
    member = original(present=(0, 1))
    member.advance(0.301)
    expected = ["BEGIN 0", "REQUEST_VOTE 1 to 1", "TERM 1", "HEARTBEAT 1 to 1", "ELECT 1", "start server 1"]
    assert member.taken() == expected
    member.receive(REQUEST, 1, 1)
    assert member.taken() == []
    member.receive(HEARTBEAT, 1, 1)
    member.advance(9.9)
    assert member.taken() == []
    member.advance(0.2)
    assert member.taken() == ["HEARTBEAT 1 to 1"]


def test_own_echo() -> None:
    member = original()
    member.receive(REQUEST, 1, 0)
    assert member.election.status.vote_for == 0
    member.receive(REQUEST, 1, 1)
    assert [line for line in member.taken() if line.startswith("VOTE")] == ["VOTE 1 to 0"]
    member = original()
    member.advance(0.301)
    member.receive(VOTE, 1, 0)
    assert member.election.role is Role.CANDIDATE
    assert "second vote of slot 0" in member.reports[-1]


def test_role_and_event_table_follower() -> None:
    """Rows of spec 02 §4.4, column F, that the traces do not show."""
    member = original(blocks={1: block_with(1, (Event.TERM, OTHER, 5))})
    member.taken()
    deadline = member.election.deadline
    member.receive(VOTE, 5, 1)
    assert (member.taken(), member.election.deadline) == ([], deadline)
    member.receive(VOTE, 6, 1)
    assert member.taken() == ["TERM 6"]
    assert member.election.term == 6
    member.receive(HEARTBEAT, 8, 1)
    assert member.taken() == ["TERM 8"]
    assert member.election.deadline == member.now + 10


def test_role_and_event_table_candidate() -> None:
    member = original()
    member.advance(0.301)
    member.taken()
    for kind in (REQUEST, RESIGNATION):
        deadline = member.election.deadline
        member.receive(kind, 1, 2)
        assert (member.taken(), member.election.deadline) == ([], deadline)
    member.receive(HEARTBEAT, 1, 2)
    assert member.election.role is Role.CANDIDATE
    assert member.election.deadline == member.now + 10
