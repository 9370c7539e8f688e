"""The lock server by itself: the example of the specification, what kernel servers said, and misbehaving mounts."""

from __future__ import annotations

import itertools
from collections import defaultdict
from typing import Any

import pytest

from format.keys import Key
from format.net import Command, Greeting
from format.payloads import LockMode
from scoutfs.files.store import inode_request
from scoutfs.network.locks import LockMessage, parse_recovered
from scoutfs.network.session import SessionError
from scoutfs.server.lock_server import Grant, Invalidate, LockServer, Recover, Send
from tests.network.capture import Message, Stream, messages, tcp_streams

NULL, READ, WRITE, WRITE_ONLY = LockMode
A, B, C = 0xA, 0xB, 0xC
KEY, OTHER = inode_request(5).start, inode_request(6).start


class Driver:
    """A server and the next net id of each client; write_seq goes on from 101."""

    def __init__(self, recovering: tuple[int, ...] = ()) -> None:
        self.seq = 100
        self.ids = itertools.count(1)
        self.server = LockServer(self._next, self._raise, recovering)

    def _next(self) -> int:
        self.seq += 1
        return self.seq

    def _raise(self, seq: int) -> None:
        self.seq = max(self.seq, seq)

    def ask(self, rid: int, mode: LockMode, key: bytes = KEY) -> list[Send]:
        return self.server.request(rid, next(self.ids), LockMessage(key, NULL, mode))

    def answer(self, rid: int, old: LockMode, new: LockMode, key: bytes = KEY) -> list[Send]:
        return self.server.invalidated(rid, LockMessage(key, old, new))

    def lists(self, key: bytes = KEY) -> dict[str, list[tuple[int, LockMode]]]:
        found: dict[str, list[tuple[int, LockMode]]] = {"granted": [], "requested": [], "invalidated": []}
        for entry in self.server.entries():
            if entry.key == key:
                found[entry.state].append((entry.rid, entry.mode))
        return found


def grant(rid: int, old: LockMode, new: LockMode, write_seq: int = 0, key: bytes = KEY) -> tuple[object, ...]:
    return Grant, rid, LockMessage(key, old, new, write_seq)


def invalidate(rid: int, old: LockMode, new: LockMode, key: bytes = KEY) -> tuple[object, ...]:
    return Invalidate, rid, LockMessage(key, old, new)


def said(sends: list[Send]) -> list[tuple[object, ...]]:
    return [(type(send), send.rid, send.key if isinstance(send, Recover) else send.lock) for send in sends]


def test_the_worked_example() -> None:
    """Spec 05 §3.1."""
    driver = Driver()
    assert said(driver.ask(A, READ)) == [grant(A, NULL, READ)]
    assert said(driver.ask(B, READ)) == [grant(B, NULL, READ)]
    assert said(driver.ask(A, WRITE)) == [invalidate(B, READ, NULL)]
    assert said(driver.ask(C, READ)) == []
    assert driver.lists() == {
        "granted": [(A, READ)],
        "requested": [(A, WRITE), (C, READ)],
        "invalidated": [(B, READ)],
    }
    assert said(driver.answer(B, READ, NULL)) == [grant(A, READ, WRITE, 101), invalidate(A, WRITE, READ)]
    assert driver.lists() == {"granted": [], "requested": [(C, READ)], "invalidated": [(A, WRITE)]}
    assert said(driver.answer(A, WRITE, READ)) == [grant(C, NULL, READ)]
    assert driver.lists()["granted"] == [(A, READ), (C, READ)]
    assert said(driver.ask(A, NULL)) == [invalidate(A, READ, NULL)]
    assert said(driver.answer(A, READ, NULL)) == [grant(A, NULL, NULL)]
    assert driver.lists() == {"granted": [(C, READ)], "requested": [], "invalidated": []}


@pytest.mark.parametrize(
    ("held", "wanted", "left"),
    [
        (READ, READ, None),
        (READ, WRITE, NULL),
        (READ, WRITE_ONLY, NULL),
        (WRITE, READ, READ),
        (WRITE, WRITE, NULL),
        (WRITE, WRITE_ONLY, NULL),
        (WRITE_ONLY, READ, NULL),
        (WRITE_ONLY, WRITE, NULL),
        (WRITE_ONLY, WRITE_ONLY, None),
    ],
)
def test_what_another_client_keeps(held: LockMode, wanted: LockMode, left: LockMode | None) -> None:
    """Spec 05 §2.1, the second table."""
    driver = Driver()
    driver.ask(A, held)
    sends = said(driver.ask(B, wanted))
    if left is None:
        assert [send[:2] for send in sends] == [(Grant, B)]
    else:
        assert sends == [invalidate(A, held, left)]


@pytest.mark.parametrize(
    ("held", "wanted", "first"),
    [
        (READ, WRITE, None),
        (READ, READ, None),
        (WRITE_ONLY, WRITE_ONLY, None),
        (WRITE_ONLY, READ, NULL),
        (WRITE_ONLY, WRITE, NULL),
        (READ, WRITE_ONLY, NULL),
        (WRITE, WRITE_ONLY, NULL),
        (WRITE, NULL, NULL),
    ],
)
def test_what_the_same_client_must_give_up_first(held: LockMode, wanted: LockMode, first: LockMode | None) -> None:
    driver = Driver()
    driver.ask(A, held)
    sends = said(driver.ask(A, wanted))
    if first is None:
        assert [(send[:2], send[2].old_mode) for send in sends] == [((Grant, A), held)]  # type: ignore[attr-defined]
        return
    assert sends == [invalidate(A, held, first)]
    (sent,) = said(driver.answer(A, held, first))
    assert sent[:2] == (Grant, A)


def test_writers_get_growing_numbers_and_others_none() -> None:
    driver = Driver()
    numbers = []
    for rid, mode in ((A, WRITE), (B, WRITE_ONLY), (C, WRITE_ONLY), (A, READ)):
        sends = driver.ask(rid, mode)
        while not isinstance(sends[-1], Grant):
            sends = [
                answer
                for send in sends
                if isinstance(send, Invalidate)
                for answer in driver.answer(send.rid, send.lock.old_mode, send.lock.new_mode)
            ]
        numbers.append(sends[-1].lock.write_seq)
    assert numbers == [101, 102, 103, 0]


def test_nothing_is_granted_before_all_have_told_what_they_hold() -> None:
    driver = Driver((A, B))
    assert driver.ask(C, READ) == []
    assert said(driver.server.greeted(C)) == []
    assert said(driver.server.greeted(A)) == [(Recover, A, bytes(27))]
    after = Key.from_sort_bytes(KEY).increment().sort_bytes
    held = LockMessage(KEY, WRITE, WRITE, 500)
    assert said(driver.server.recovered(A, [held])) == [(Recover, A, after)]
    assert driver.server.recovered(A, []) == []
    assert driver.server.recovering == {B}
    driver.server.greeted(B)
    assert driver.ask(B, WRITE, OTHER) == []
    assert said(driver.server.recovered(B, [])) == [
        invalidate(A, WRITE, READ),
        grant(B, NULL, WRITE, 501, OTHER),  # above what A had been given by the server before
    ]
    assert said(driver.answer(A, WRITE, READ)) == [grant(C, NULL, READ)]


def test_a_client_that_does_not_come_back_ends_the_recovery_when_it_is_fenced() -> None:
    driver = Driver((A, B))
    driver.server.greeted(A)
    driver.server.recovered(A, [LockMessage(KEY, WRITE, WRITE, 500)])
    driver.ask(C, WRITE)
    driver.server.greeted(B)
    assert driver.server.recovered(B, []) == []
    assert said(driver.server.leave(A)) == [grant(C, NULL, WRITE, 501)]


def test_a_client_that_greets_again_while_it_tells_begins_anew() -> None:
    driver = Driver((A,))
    driver.server.greeted(A)
    driver.server.recovered(A, [LockMessage(KEY, READ, READ)])
    assert said(driver.server.greeted(A)) == [(Recover, A, bytes(27))]
    driver.server.recovered(A, [LockMessage(KEY, READ, READ)])
    driver.server.recovered(A, [])
    assert driver.lists()["granted"] == [(A, READ)]


def test_a_recovered_null_is_taken_back_before_the_request_is_granted() -> None:
    """R9: what kernel mounts tell of a lock that a task of theirs waits for."""
    driver = Driver((A,))
    driver.server.greeted(A)
    driver.ask(A, WRITE)
    driver.server.recovered(A, [LockMessage(KEY, NULL, NULL)])
    assert said(driver.server.recovered(A, [])) == [invalidate(A, NULL, NULL)]
    assert said(driver.answer(A, NULL, NULL)) == [grant(A, NULL, WRITE, 101)]


def test_others_get_what_a_client_had_that_leaves() -> None:
    """R11, spec 05 §3.2: as a holder, as one that was asked to give up, and as one that waits."""
    driver = Driver()
    driver.ask(A, WRITE)
    driver.ask(B, WRITE)
    driver.ask(C, WRITE)
    assert said(driver.server.leave(A)) == [grant(B, NULL, WRITE, 102), invalidate(B, WRITE, NULL)]
    assert said(driver.server.leave(C)) == []
    assert said(driver.answer(B, WRITE, NULL)) == []
    assert list(driver.server.entries()) == []


def test_the_lines_of_locks() -> None:
    """Spec 05 §3.4."""
    driver = Driver()
    driver.ask(A, WRITE_ONLY)
    driver.ask(B, READ)
    assert [str(entry) for entry in driver.server.entries()] == [
        "16.5120.0.0.0.0 read requested rid 000000000000000b net_id 2",
        "16.5120.0.0.0.0 write_only invalidated rid 000000000000000a net_id 1",
    ]


def test_what_no_correct_client_sends() -> None:
    driver = Driver((C,))
    driver.server.greeted(C)
    with pytest.raises(SessionError, match="out of order"):
        driver.server.recovered(C, [LockMessage(OTHER, READ, READ), LockMessage(KEY, READ, READ)])
    driver = Driver()
    with pytest.raises(SessionError, match="was not asked for its locks"):
        driver.server.recovered(A, [])
    with pytest.raises(SessionError, match="not asked to give up"):
        driver.answer(A, READ, NULL)
    driver.ask(A, WRITE)
    driver.ask(B, READ)
    with pytest.raises(SessionError, match="not asked to give up"):
        driver.answer(A, WRITE, NULL)
    with pytest.raises(SessionError, match="asks twice"):
        driver.ask(B, READ)


# -- what kernel servers said ----------------------------------------------------------------------------------------


class Capture:
    """All messages of one recorded server, in the order in which they were sent."""

    def __init__(self, name: str, port: int) -> None:
        self.messages: list[tuple[float, int, bool, Message]] = []
        streams = [stream for stream in tcp_streams(name) if port in (stream.source[1], stream.target[1])]
        rids = {}
        for stream in streams:
            if stream.target[1] == port:
                rids[stream.source[1]] = Greeting.parse(messages(stream.data)[0].payload).rid
        for stream in streams:
            to_server = stream.target[1] == port
            rid = rids[stream.source[1] if to_server else stream.target[1]]
            self.messages += [(time, rid, to_server, message) for time, message in timed(stream)]
        self.messages.sort(key=lambda entry: entry[0])


def timed(stream: Stream) -> list[tuple[float, Message]]:
    """The messages of a stream with the time of the packet that completed each."""
    ends, total = [], 0
    for time, data in stream.pieces:
        total += len(data)
        ends.append((total, time))
    found, position = [], 0
    for message in messages(stream.data):
        position += 32 + message.data_len
        found.append((next(time for end, time in ends if end >= position), message))
    return found


@pytest.mark.parametrize(("port", "locks"), [(19700, 164), (19702, 13)])
def test_we_say_what_a_kernel_server_said(port: int, locks: int) -> None:
    """Every LOCK and LOCK_RECOVER message of a recorded cluster: the same for each mount and lock, in this order."""
    capture = Capture("cluster3/lo", port)
    recovering = [rid for _, rid, up, m in capture.messages if not up and m.cmd == Command.LOCK_RECOVER]
    seqs = itertools.count(1)
    server = LockServer(lambda: next(seqs), lambda seq: None, recovering)
    ours: defaultdict[tuple[int, bytes], list[Any]] = defaultdict(list)
    theirs: defaultdict[tuple[int, bytes], list[Any]] = defaultdict(list)
    count = 0
    for _, rid, up, message in capture.messages:
        sends: list[Send] = []
        if message.cmd == Command.GREETING and up:
            sends = server.greeted(rid)
        elif message.cmd == Command.FAREWELL and not up:
            sends = server.leave(rid)
        elif message.cmd == Command.LOCK_RECOVER and up:
            sends = server.recovered(rid, parse_recovered(message.payload))
        elif message.cmd == Command.LOCK_RECOVER:
            theirs[rid, b"recover"].append(Key.parse(message.payload).sort_bytes)
        elif message.cmd == Command.LOCK:
            lock = LockMessage.parse(message.payload)
            count += 1
            if up and message.flags:
                sends = server.invalidated(rid, lock)
            elif up:
                sends = server.request(rid, message.id, lock)
            elif message.flags:
                theirs[rid, lock.key].append((message.id, lock.old_mode, lock.new_mode, lock.write_seq > 0))
            else:
                theirs[rid, lock.key].append((None, lock.old_mode, lock.new_mode))
        for send in sends:
            if isinstance(send, Recover):
                ours[send.rid, b"recover"].append(send.key)
            elif isinstance(send, Invalidate):
                ours[send.rid, send.lock.key].append((None, send.lock.old_mode, send.lock.new_mode))
            else:
                lock = send.lock
                ours[send.rid, lock.key].append((send.id, lock.old_mode, lock.new_mode, lock.write_seq > 0))
    assert count >= locks
    assert ours == theirs
