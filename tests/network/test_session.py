"""Counters, queues, resending and adoption, one rule of spec 03 §2 and §3 at a time."""

from __future__ import annotations

import pytest

from format.net import Command, Greeting, Header, NetError
from scoutfs.network.framing import Frame, greeting_response
from scoutfs.network.session import (
    BATCH,
    UNACKNOWLEDGED_MAX,
    UNANSWERED_MAX,
    ClientSession,
    Request,
    Response,
    ServerSession,
    Session,
    SessionError,
)
from tests.network.capture import messages

FSID, RID = 0x62F572033142D14C, 0x0123456789ABCDEF
LOCK, GET, COMMIT = Command.LOCK, Command.GET_LOG_TREES, Command.COMMIT_LOG_TREES


def frames(data: bytes) -> list[Frame]:
    """Messages of the middle of a socket."""
    return [
        Frame(Header(m.seq, m.recv_seq, m.id, m.data_len, Command(m.cmd), bool(m.flags), NetError(m.error)), m.payload)
        for m in messages(data)
    ]


def sent(session: Session) -> list[Frame]:
    """Everything that a session transmits now."""
    found = []
    while session.has_unsent:
        found += frames(session.take().data)
    return found


def short(frame: Frame) -> tuple[int, int, int]:
    return frame.header.seq, frame.header.id, frame.header.recv_seq


def greeting(term: int) -> Greeting:
    return Greeting(FSID, 2, term, RID)


def greet(client: ClientSession, term: int) -> Frame:
    (frame,) = frames(client.greet(greeting(client.server_term)))
    answer = Greeting(FSID, 2, term, RID).build()
    (response,) = frames(greeting_response(frame.header, answer))
    client.greeted(response, greeting(client.server_term))
    return frame


def received(session: Session, frame: Frame) -> Request:
    request = session.receive(frame)
    assert isinstance(request, Request)
    return request


def test_the_worked_example() -> None:
    """Spec 03 §3.7: one client C; servers S of term 7, then T of term 8.  Numbers are (seq, id, recv_seq)."""
    c = ClientSession()
    # 1: C queues LOCK before it has a server, then greets
    lock = c.request(LOCK, b"lock")
    assert sent(c) == []
    (hello,) = frames(c.greet(greeting(0)))
    assert short(hello) == (2, 2, 0)
    # 2: S answers
    s = ServerSession(greeting_id=hello.header.id)
    s.attach()
    (answer,) = frames(greeting_response(hello.header, Greeting(FSID, 2, 7, RID).build()))
    assert short(answer) == (1, 2, 0)
    assert c.greeted(answer, greeting(0)) is True
    assert (c.server_term, c.recv_seq) == (7, 0)
    # 3: C sends LOCK
    (frame,) = sent(c)
    assert short(frame) == (1, lock, 0)
    request = received(s, frame)
    assert s.recv_seq == 1
    # 4: S grants
    s.respond(request, b"granted")
    (frame,) = sent(s)
    assert short(frame) == (2, 1, 1)
    assert c.receive(frame) == Response(LOCK, 1, NetError.NONE, b"granted")
    assert (c.recv_seq, c.waiting) == (2, ())
    # 5: C asks for its log trees; this acknowledges what S said so far
    get = c.request(GET)
    (first_get,) = sent(c)
    assert short(first_get) == (3, get, 2) == (3, 3, 2)
    request = received(s, first_get)
    assert (s.recv_seq, s.unacknowledged) == (3, 0)
    # 6: the socket breaks; the handler of S finishes meanwhile
    c.detach()
    s.detach()
    s.respond(request, b"trees")
    assert sent(s) == []
    # 7: C greets again, S goes on with the same session
    (hello,) = frames(c.greet(greeting(c.server_term)))
    assert short(hello) == (4, 4, 2)
    s.attach()
    (answer,) = frames(greeting_response(hello.header, Greeting(FSID, 2, 7, RID).build()))
    assert short(answer) == (1, 4, 0)
    assert c.greeted(answer, greeting(7)) is False
    assert c.recv_seq == 2
    # 8: both say again what is open; each needs only one of the two
    (parked,), (second_get,) = sent(s), sent(c)
    assert short(parked) == (3, 3, 3)
    assert short(second_get) == (3, 3, 2)
    assert s.receive(second_get) is None
    assert s.duplicates == 1
    assert c.receive(parked) == Response(GET, 3, NetError.NONE, b"trees")
    assert (c.recv_seq, c.waiting) == (3, ())
    # 9: C commits; 4 was the greeting
    commit = c.request(COMMIT)
    (frame,) = sent(c)
    assert short(frame) == (5, commit, 3) == (5, 5, 3)
    received(s, frame)
    assert s.recv_seq == 5
    # 10: S dies, T is another server
    c.detach()
    (hello,) = frames(c.greet(greeting(c.server_term)))
    assert short(hello)[:2] == (6, 6)
    t = ServerSession(greeting_id=hello.header.id)
    t.attach()
    (answer,) = frames(greeting_response(hello.header, Greeting(FSID, 2, 8, RID).build()))
    assert short(answer) == (1, 6, 0)
    assert c.greeted(answer, greeting(7)) is True
    assert (c.server_term, c.recv_seq) == (8, 0)
    # 11: T asks for locks, C commits once more, and T executes it
    recover = t.request(Command.LOCK_RECOVER, bytes(32))
    (frame,) = sent(t)
    assert short(frame) == (2, recover, 0) == (2, 1, 0)
    (again,) = sent(c)
    assert short(again) == (5, 5, 0)
    received(c, frame)
    assert received(t, again).command is COMMIT
    assert t.recv_seq == 5


def test_requests_go_in_order_and_a_response_matches_id_and_command() -> None:
    c = ClientSession()
    greet(c, 7)
    ids = [c.request(Command.STATFS), c.request(Command.GET_ROOTS)]
    assert [frame.header.id for frame in sent(c)] == ids == [2, 3]
    assert c.receive(Frame(Header(2, 0, 2, 0, Command.GET_ROOTS, True), b"")) is None
    assert (c.unmatched, c.waiting) == (1, (2, 3))
    assert c.receive(Frame(Header(3, 0, 9, 0, Command.STATFS, True), b"")) is None
    assert (c.unmatched, c.waiting) == (2, (2, 3))
    assert c.receive(Frame(Header(4, 0, 2, 0, Command.STATFS, True), b"")) is not None
    assert c.receive(Frame(Header(5, 0, 2, 0, Command.STATFS, True), b"")) is None
    assert (c.unmatched, c.waiting) == (3, (3,))


def test_an_error_response_carries_no_payload() -> None:
    s = ServerSession(1)
    s.attach()
    request = received(s, Frame(Header(1, 0, 1, 0, Command.STATFS), b""))
    s.respond(request, b"left out", NetError.EIO)
    (frame,) = sent(s)
    assert (frame.header.error, frame.header.data_len, frame.payload) == (NetError.EIO, 0, b"")


def test_a_request_answered_on_the_new_socket_is_not_sent_there_again() -> None:
    c, s = ClientSession(), ServerSession(1)
    greet(c, 7)
    s.attach()
    c.request(Command.STATFS)
    s.respond(received(s, sent(c)[0]), b"x")
    c.detach()
    s.detach()
    greet(c, 7)
    s.attach()
    assert isinstance(c.receive(sent(s)[0]), Response)
    assert sent(c) == []


def test_a_forgotten_request_is_neither_resent_nor_answered() -> None:
    c = ClientSession()
    greet(c, 7)
    id = c.request(Command.STATFS)
    assert len(sent(c)) == 1
    c.forget(id)
    c.detach()
    greet(c, 7)
    assert sent(c) == []
    assert c.receive(Frame(Header(2, 0, id, 0, Command.STATFS, True), b"")) is None


def test_a_response_stays_until_the_peer_says_that_it_has_it() -> None:
    s = ServerSession(1)
    s.attach()
    for seq in (1, 2):
        s.respond(received(s, Frame(Header(seq, 0, seq, 0, Command.STATFS), b"")))
    assert [frame.header.seq for frame in sent(s)] == [2, 3]
    s.detach()
    s.attach()
    assert [frame.header.seq for frame in sent(s)] == [2, 3]
    received(s, Frame(Header(3, 2, 3, 0, Command.STATFS), b""))
    s.detach()
    s.attach()
    assert [frame.header.seq for frame in sent(s)] == [3]


def test_a_duplicate_acknowledges_nothing() -> None:
    s = ServerSession(1)
    s.attach()
    s.respond(received(s, Frame(Header(1, 0, 1, 0, Command.STATFS), b"")))
    assert s.receive(Frame(Header(1, 2, 1, 0, Command.STATFS), b"")) is None
    assert s.unacknowledged == 1


def test_a_new_server_gets_our_requests_and_none_of_our_responses() -> None:
    c = ClientSession()
    greet(c, 7)
    answered = received(c, Frame(Header(2, 0, 1, 0, Command.SYNC_LOG_TREES), b""))
    late = received(c, Frame(Header(3, 0, 2, 0, Command.SYNC_LOG_TREES), b""))
    assert c.respond(answered)
    c.request(Command.STATFS)
    c.detach()
    greet(c, 8)
    assert [(frame.header.command, frame.header.response) for frame in sent(c)] == [(Command.STATFS, False)]
    # what the old server asked can only be answered to it: ids of the new one may be equal
    assert not c.respond(late)
    assert sent(c) == []


def test_responses_to_the_same_server_survive_the_socket() -> None:
    c = ClientSession()
    greet(c, 7)
    request = received(c, Frame(Header(2, 0, 1, 0, Command.SYNC_LOG_TREES), b""))
    c.detach()
    assert c.respond(request)
    greet(c, 7)
    assert [frame.header.response for frame in sent(c)] == [True]


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (Greeting(FSID + 1, 2, 7, RID).build(), "of volume"),
        (Greeting(FSID, 1, 7, RID).build(), "format version 1"),
        (Greeting(FSID, 2, 0, RID).build(), "term is 0"),
        (b"short", "greeting of 5 bytes"),
    ],
)
def test_a_client_refuses_a_greeting_of_another_volume(answer: bytes, why: str) -> None:
    c = ClientSession()
    (hello,) = frames(c.greet(greeting(0)))
    (response,) = frames(greeting_response(hello.header, answer))
    with pytest.raises(SessionError, match=why):
        c.greeted(response, greeting(0))
    assert (c.attached, c.server_term) == (False, 0)


def test_a_client_refuses_an_error_and_an_answer_to_another_greeting() -> None:
    c = ClientSession()
    (hello,) = frames(c.greet(greeting(0)))
    (refusal,) = frames(greeting_response(hello.header, b"", NetError.EINVAL))
    with pytest.raises(SessionError, match="EINVAL"):
        c.greeted(refusal, greeting(0))
    (stale,) = frames(greeting_response(hello.header, Greeting(FSID, 2, 7, RID).build()))
    c.greet(greeting(0))
    with pytest.raises(SessionError, match="no greeting of ours"):
        c.greeted(stale, greeting(0))


def test_greetings_count_but_are_not_recorded_as_received() -> None:
    c = ClientSession()
    assert [short(greet(c, 7))[:2] for _ in range(3)] == [(1, 1), (2, 2), (3, 3)]
    assert c.recv_seq == 0
    assert c.request(Command.STATFS) == 4


def test_abandoning_names_every_request_that_waits() -> None:
    c = ClientSession()
    ids = [c.request(Command.STATFS) for _ in range(3)]
    assert c.abandon() == ids
    greet(c, 7)
    assert sent(c) == []


def test_a_batch_is_bounded() -> None:
    c = ClientSession()
    greet(c, 7)
    for _ in range(BATCH + 1):
        c.request(Command.STATFS)
    assert [c.take().messages, c.take().messages, c.take().messages] == [BATCH, 1, 0]


def test_a_peer_that_asks_without_end_is_refused() -> None:
    s = ServerSession(1)
    s.attach()
    for seq in range(1, UNANSWERED_MAX + 1):
        received(s, Frame(Header(seq, 0, seq, 0, Command.LOCK), b""))
    with pytest.raises(SessionError, match="unanswered"):
        s.receive(Frame(Header(UNANSWERED_MAX + 1, 0, 1, 0, Command.LOCK), b""))


def test_a_peer_that_never_acknowledges_is_refused() -> None:
    s = ServerSession(1)
    s.attach()
    for seq in range(1, UNACKNOWLEDGED_MAX + 1):
        s.respond(received(s, Frame(Header(seq, 0, seq, 0, Command.STATFS), b"")))
    with pytest.raises(SessionError, match="acknowledged"):
        s.receive(Frame(Header(UNACKNOWLEDGED_MAX + 1, 0, 1, 0, Command.STATFS), b""))
    received(s, Frame(Header(UNACKNOWLEDGED_MAX + 1, UNACKNOWLEDGED_MAX, 1, 0, Command.STATFS), b""))
