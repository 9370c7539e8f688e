"""Who is let in and who may leave: the tables of spec 03 §3.4 and spec 02 §8.3, row by row."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from format.net import Command, Greeting, GreetingFlag, Header
from format.quorum import SlotAddress
from scoutfs.network.session import Request, ServerSession
from scoutfs.server.clients import CLIENTS_MAX, RECOVERY_TIME, RID_MAX, SETTLING_TIME, Clients, Verdict, Welcome

FSID, TERM = 0x62F572033142D14C, 7
PEER = SlotAddress("10.1.2.3", 50000)
FAREWELL, QUORUM, NONE = GreetingFlag.FAREWELL, GreetingFlag.QUORUM, GreetingFlag.NONE


def server(votes_needed: int = 2, expected: dict[int, int] | None = None) -> Clients:
    return Clients(FSID, 2, TERM, votes_needed, started=100.0, expected=expected or {})


def greet(
    clients: Clients, rid: int, *, term: int = 0, id: int = 1, flags: GreetingFlag = QUORUM, **other: int
) -> Welcome:
    greeting = Greeting(other.get("fsid", FSID), other.get("fmt_vers", 2), term, rid, flags)
    return clients.greet(Header(id, 0, id, 40, Command.GREETING), greeting.build(), PEER)


def session_of(welcome: Welcome) -> ServerSession:
    assert welcome.verdict is Verdict.ACCEPT
    assert welcome.session is not None
    return welcome.session


def mounted(clients: Clients, *rids: int, flags: GreetingFlag = QUORUM, term: int = 0) -> None:
    for rid in rids:
        session_of(greet(clients, rid, flags=flags, term=term))


def leave(clients: Clients, *rids: int, now: float = 1000.0) -> list[int]:
    """Ask for all of `rids`; return who has been told that it may go, each time a wish arrives."""
    left = []
    for rid in rids:
        client = clients.clients.get(rid)
        session = client.session if client and client.session else ServerSession(1)
        clients.farewell(rid, session, Request(Command.FAREWELL, 9, b""))
        left += [farewell.rid for farewell in clients.leaving(now)]
    return left


# -- greetings: spec 03 §3.3 and §3.4 ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"fsid": FSID + 1}, "volume"),
        ({"fmt_vers": 1}, "format version"),
        ({"rid": 0}, "rid"),
        ({"rid": RID_MAX}, "rid"),
    ],
)
def test_a_greeting_of_something_else_is_refused(wrong: dict[str, int], why: str) -> None:
    clients = server()
    welcome = greet(clients, **{"rid": 1, **wrong})
    assert welcome.verdict is Verdict.REFUSE
    assert why in welcome.text
    assert not clients.clients


def test_a_greeting_of_another_length_is_refused() -> None:
    assert server().greet(Header(1, 0, 1, 39, Command.GREETING), bytes(39), PEER).verdict is Verdict.REFUSE


def test_row_1_term_0_starts_a_new_session() -> None:
    clients = server()
    welcome = greet(clients, 1)
    assert welcome.first_contact
    client = clients.clients[1]
    assert (client.member, client.address, client.session) == (True, PEER, welcome.session)
    assert greet(clients, 2, flags=NONE).first_contact
    assert not clients.clients[2].member
    assert not clients.took_over


def test_row_2_our_term_with_its_session_goes_on() -> None:
    clients = server()
    first = session_of(greet(clients, 1))
    assert clients.parked(1, first, 50.0)
    assert clients.clients[1].parked_since == 50.0
    again = greet(clients, 1, term=TERM, id=5)
    assert session_of(again) is first
    assert not again.first_contact
    assert clients.clients[1].parked_since is None
    assert first.greeting_id == 5


def test_row_3_our_term_without_its_session_is_dropped_every_time() -> None:
    clients = server()
    assert greet(clients, 1, term=TERM).verdict is Verdict.DROP
    mounted(clients, 2)
    clients.give_up(2)
    assert greet(clients, 2, term=TERM, id=8).verdict is Verdict.DROP
    assert greet(clients, 2, term=TERM, id=9).verdict is Verdict.DROP


def test_row_4_our_term_without_its_session_may_still_say_farewell() -> None:
    clients = server()
    mounted(clients, 1, 2, 3)
    assert leave(clients, 1) == [1]
    welcome = greet(clients, 1, term=TERM, id=9, flags=QUORUM | FAREWELL)
    assert not welcome.first_contact
    clients.farewell(1, session_of(welcome), Request(Command.FAREWELL, 4, b""))
    assert [farewell.session for farewell in clients.leaving(1000.0)] == [welcome.session]
    assert set(clients.clients) == {2, 3}


def test_row_5_another_term_starts_a_new_session_and_shows_a_predecessor() -> None:
    clients = server()
    assert greet(clients, 1, term=TERM - 1).first_contact
    assert clients.took_over


def test_row_6_another_term_after_our_first_answer_was_lost() -> None:
    clients = server()
    first = session_of(greet(clients, 1, term=TERM - 1, id=4))
    again = greet(clients, 1, term=TERM - 1, id=6)
    assert again.first_contact
    assert session_of(again) is not first
    assert clients.clients[1].session is again.session


def test_a_second_first_greeting_supersedes_the_first() -> None:
    """The original keeps two connections then, and fences the mount for the older one (spec 03 §3.5)."""
    clients = server()
    first = session_of(greet(clients, 1, id=2))
    second = session_of(greet(clients, 1, id=4))
    assert second is not first
    assert not clients.parked(1, first, 50.0), "the older connection's end is nobody's loss"
    assert clients.clients[1].parked_since is None


@pytest.mark.parametrize("term", [0, TERM])
def test_a_late_greeting_of_an_older_connection_steals_nothing(term: int) -> None:
    clients = server()
    newer = session_of(greet(clients, 1, id=9))
    assert greet(clients, 1, term=term, id=7).verdict is Verdict.DROP
    assert clients.clients[1].session is newer


def test_a_fenced_mount_is_not_let_in_again_by_any_term() -> None:
    clients = server()
    mounted(clients, 1)
    clients.fenced(1)
    assert 1 not in clients.clients
    for id, term in enumerate((0, TERM - 1, TERM), start=5):
        assert greet(clients, 1, term=term, id=id).verdict is Verdict.DROP
    session = session_of(greet(clients, 1, term=TERM - 1, id=9, flags=QUORUM | FAREWELL))
    assert 1 not in clients.clients
    clients.farewell(1, session, Request(Command.FAREWELL, 4, b""))
    assert [farewell.rid for farewell in clients.leaving(1000.0)] == [1]


def test_a_server_takes_a_bounded_number_of_mounts() -> None:
    clients = server()
    mounted(clients, *range(1, CLIENTS_MAX + 1))
    assert greet(clients, CLIENTS_MAX + 1).verdict is Verdict.DROP
    assert greet(clients, 1, id=2).verdict is Verdict.ACCEPT


# -- farewells: spec 02 §8.3 -------------------------------------------------------------------------------------------


def test_one_member_waits_for_all_mounts_without_a_slot() -> None:
    clients = server(votes_needed=1)
    mounted(clients, 1)
    mounted(clients, 11, 12, flags=NONE)
    assert leave(clients, 1) == []
    assert clients.held_back(1000.0) == {1: "2 mounts without a quorum slot must leave first"}
    assert leave(clients, 11) == [11]
    assert leave(clients, 12) == [12, 1]
    assert not clients.clients


def test_of_two_members_the_first_leaves_at_once_the_second_after_the_others() -> None:
    clients = server(votes_needed=1)
    mounted(clients, 1, 2)
    mounted(clients, 11, flags=NONE)
    assert leave(clients, 2) == [2]
    assert leave(clients, 1) == []
    assert leave(clients, 11) == [11, 1]


def test_of_three_members_the_last_two_leave_together() -> None:
    clients = server(votes_needed=2)
    mounted(clients, 1, 2, 3)
    assert leave(clients, 1) == [1]
    assert leave(clients, 2) == []
    assert clients.held_back(1000.0) == {
        2: "the last members leave together: 0000000000000003 is not leaving yet",
    }
    assert leave(clients, 3) == [2, 3]


def test_the_last_two_of_three_also_wait_for_mounts_without_a_slot() -> None:
    clients = server(votes_needed=2)
    mounted(clients, 1, 2, 3)
    mounted(clients, 11, flags=NONE)
    assert leave(clients, 1, 2, 3) == [1]
    assert clients.held_back(1000.0)[3] == "1 mount without a quorum slot must leave first"
    assert leave(clients, 11) == [11, 2, 3]


def test_of_five_members_two_leave_at_once_and_three_together() -> None:
    clients = server(votes_needed=3)
    mounted(clients, 1, 2, 3, 4, 5)
    assert leave(clients, 1, 2) == [1, 2]
    assert leave(clients, 3, 4) == []
    assert leave(clients, 5) == [3, 4, 5]


def test_of_three_slots_with_two_mounted_the_first_waits() -> None:
    clients = server(votes_needed=2)
    mounted(clients, 1, 2)
    assert leave(clients, 1) == []
    assert leave(clients, 2) == [1, 2]


def test_wishes_that_arrive_together_are_decided_in_order() -> None:
    clients = server(votes_needed=2)
    mounted(clients, 1, 2, 3, 4)
    for rid in (3, 1):
        clients.farewell(rid, ServerSession(1), Request(Command.FAREWELL, 9, b""))
    assert [farewell.rid for farewell in clients.leaving(1000.0)] == [3, 1]


def test_a_mount_that_is_being_fenced_counts_as_mounted_until_it_is_fenced() -> None:
    clients = server(votes_needed=2)
    mounted(clients, 1, 2, 3)
    clients.give_up(3)
    assert leave(clients, 1) == [1]  # three of which one is dying: as with the item that is not reclaimed yet
    assert leave(clients, 2) == []
    clients.fenced(3)
    assert [farewell.rid for farewell in clients.leaving(1000.0)] == [2]


def test_a_wish_repeated_is_answered_once() -> None:
    clients = server(votes_needed=2)
    mounted(clients, 1, 2)
    assert leave(clients, 1, 1, 1) == []
    assert leave(clients, 2) == [1, 2]


# -- after a failover --------------------------------------------------------------------------------------------------


def test_the_last_members_do_not_leave_because_the_others_are_not_back_yet() -> None:
    clients = server(votes_needed=2, expected={1: 0, 2: 1, 3: 2})
    mounted(clients, 1, 2, term=TERM - 1)
    soon = clients.started + SETTLING_TIME + 1
    assert leave(clients, 1, 2, now=soon) == []
    assert clients.held_back(soon)[1] == "members of slots 2 may be mounted and have not come back yet"
    mounted(clients, 3, term=TERM - 1)
    assert [farewell.rid for farewell in clients.leaving(soon)] == [1]
    assert leave(clients, 3, now=soon) == [2, 3]


def test_members_that_never_come_back_are_given_up_after_the_recovery_time() -> None:
    clients = server(votes_needed=2, expected={1: 0, 2: 1, 3: 2})
    mounted(clients, 1, 2, term=TERM - 1)
    before, after = clients.started + RECOVERY_TIME - 0.1, clients.started + RECOVERY_TIME
    assert leave(clients, 1, 2, now=before) == []
    assert clients.deadline(before) == after
    assert [farewell.rid for farewell in clients.leaving(after)] == [1, 2]
    assert clients.deadline(after) is None


def test_a_member_that_was_fenced_is_not_awaited() -> None:
    clients = server(votes_needed=2, expected={1: 0, 2: 1, 3: 2})
    mounted(clients, 1, 2, term=TERM - 1)
    clients.fenced(3)
    assert leave(clients, 1, 2, now=clients.started + SETTLING_TIME) == [1, 2]


def test_mounts_without_a_slot_get_a_moment_to_come_back() -> None:
    clients = server(votes_needed=1)
    mounted(clients, 1, term=TERM - 1)
    assert leave(clients, 1, now=clients.started) == []
    assert clients.deadline(clients.started) == clients.started + SETTLING_TIME
    mounted(clients, 11, flags=NONE, term=TERM - 1)
    late = clients.started + SETTLING_TIME
    assert clients.leaving(late) == []
    assert leave(clients, 11, now=late) == [11, 1]


def test_a_first_server_awaits_nobody() -> None:
    clients = server(votes_needed=2, expected={1: 0, 2: 1, 3: 2})
    mounted(clients, 1, 2)
    assert leave(clients, 1, 2, now=clients.started) == [1, 2]


def test_enough_members_let_one_go_even_then() -> None:
    clients = server(votes_needed=2, expected={4: 3})
    mounted(clients, 1, 2, 3, term=TERM - 1)
    assert leave(clients, 1, now=clients.started) == [1]


@given(
    slots=st.integers(1, 7),
    others=st.integers(0, 3),
    order=st.permutations(range(1, 11)),
)
def test_a_majority_stays_until_everybody_leaves(slots: int, others: int, order: list[int]) -> None:
    """The purpose of the rules: as long as anybody is mounted, enough members are to elect a server."""
    needed = 1 if slots < 3 else slots // 2 + 1
    clients = server(votes_needed=needed)
    mounted(clients, *range(1, slots + 1))
    mounted(clients, *range(slots + 1, slots + others + 1), flags=NONE)
    for rid in order:
        if rid in clients.clients:
            leave(clients, rid)
            members = sum(client.member for client in clients.clients.values())
            assert members >= needed or not clients.clients
    assert not clients.clients
