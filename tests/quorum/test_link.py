"""The link between a mount and its member: what is said arrives, what is not meant is refused, nobody waits."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from scoutfs.quorum.fencing import FenceView
from scoutfs.quorum.link import (
    LINE_MAX,
    QUEUE_MAX,
    Decoder,
    Entry,
    LinkError,
    Outbox,
    decode_counters,
    decode_fences,
    decode_pair,
    decode_status,
    encode,
    encode_fences,
    receive,
)
from scoutfs.quorum.status import Delay, Exchange, QuorumStatus, Role

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**64), 2**64) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)
U64 = st.integers(0, 2**64 - 1)
times = st.floats(0, 1e9)
exchanges = st.dictionaries(st.integers(0, 14), st.builds(Exchange, U64, st.integers(0, 3), times), max_size=4)
statuses = st.builds(
    QuorumStatus,
    st.integers(0, 14),
    U64,
    st.sampled_from(Role),
    st.integers(-1, 14),
    st.integers(0, 2**15 - 1),
    times | st.just(float("inf")),
    U64,
    st.sampled_from([0, 2, 3]),
    exchanges,
    exchanges,
    st.dictionaries(st.integers(1, 59), st.builds(Delay, st.integers(1, 1000), times), max_size=4),
)


def pieces(data: bytes, sizes: list[int]) -> Iterator[bytes]:
    for size in sizes:
        yield data[:size]
        data = data[size:]
    yield data


@given(st.lists(st.tuples(st.text(max_size=10), values), max_size=5), st.lists(st.integers(0, 40), max_size=8))
def test_entries_arrive_however_the_bytes_are_cut(entries: list[tuple[str, Any]], sizes: list[int]) -> None:
    decoder = Decoder()
    data = b"".join(encode(kind, payload) for kind, payload in entries)
    arrived = [entry for piece in pieces(data, sizes) for entry in decoder.feed(piece)]
    assert arrived == [Entry(kind, payload) for kind, payload in entries]


@given(st.binary(max_size=100) | values.map(json.dumps).map(str.encode))
def test_any_other_line_is_refused(line: bytes) -> None:
    try:
        said = json.loads(line)
    except ValueError:
        said = None
    meant = isinstance(said, list) and len(said) == 2 and isinstance(said[0], str) and b"\n" not in line
    if not meant and b"\n" not in line:
        with pytest.raises(LinkError):
            Decoder().feed(line + b"\n")


@pytest.mark.parametrize(
    "line", [b"[" * 100_000, b'["status"]', b"[1, 2]", b"{}", b"null", b'"ab"', b'{"a": 1, "b": 2}', b"\xff\xfe", b""]
)
def test_bad_lines_are_one_error(line: bytes) -> None:
    with pytest.raises(LinkError):
        Decoder().feed(line + b"\n")


def test_a_line_without_end_is_refused() -> None:
    decoder = Decoder()
    for _ in range(LINE_MAX // 65536 - 1):
        assert decoder.feed(b"x" * 65536) == []
    with pytest.raises(LinkError, match="longer"):
        decoder.feed(b"x" * 65536)


@given(statuses)
def test_statuses_arrive_as_they_were(status: QuorumStatus) -> None:
    (entry,) = Decoder().feed(encode("status", status.to_dict()))
    assert decode_status(entry.payload) == status


@given(
    st.lists(st.builds(FenceView, U64, st.text(max_size=15), st.text(max_size=20), times, st.booleans()), max_size=3)
)
def test_fence_requests_arrive_as_they_were(views: list[FenceView]) -> None:
    (entry,) = Decoder().feed(encode("fences", encode_fences(tuple(views))))
    assert decode_fences(entry.payload) == tuple(views)


@given(values)
def test_what_is_no_status_fences_counters_or_pair_is_an_error_of_the_link(payload: Any) -> None:
    for decode in (decode_status, decode_fences, decode_counters):
        try:
            decode(payload)
        except LinkError:
            continue
    try:
        first, second = decode_pair(payload, str, int)
    except LinkError:
        return
    assert isinstance(first, str)
    assert isinstance(second, int)


@pytest.mark.parametrize("payload", [None, [], {}, "x", {"slot": 1}, [[1, 2]], 5, {"slot": float("inf")}])
def test_refused_statuses(payload: Any) -> None:
    with pytest.raises(LinkError):
        decode_status(payload)


@pytest.mark.parametrize("payload", [None, [], ["x"], ["x", "y"], [1, 2], ["x", 1, 2], {"x": 1}])
def test_refused_pairs(payload: Any) -> None:
    with pytest.raises(LinkError):
        decode_pair(payload, str, int)


# the outbox


def taken(outbox: Outbox) -> list[Entry]:
    return Decoder().feed(outbox.take())


def test_only_the_latest_is_sent_of_what_was_put_and_all_of_what_was_appended() -> None:
    outbox = Outbox()
    outbox.put("status", lambda: pytest.fail("was replaced"))
    outbox.append("log", [20, "a"])
    outbox.put("fences", list)
    outbox.put("status", lambda: 2)
    outbox.append("log", [20, "b"])
    assert taken(outbox) == [
        Entry("log", [20, "a"]),
        Entry("log", [20, "b"]),
        Entry("status", 2),
        Entry("fences", []),
    ]
    assert outbox.take() == b""


def test_too_many_log_lines_are_counted_and_other_entries_are_not_lost() -> None:
    outbox = Outbox()
    for number in range(QUEUE_MAX + 7):
        outbox.append("log", [20, str(number)])
    outbox.append("left", None)
    entries = taken(outbox)
    assert len(entries) == QUEUE_MAX + 2
    assert entries[-2] == Entry("left", None)
    assert entries[-1] == Entry("log", [30, "7 log lines of the member were lost"])
    outbox.append("log", [20, "again"])
    assert taken(outbox) == [Entry("log", [20, "again"])]


@asynccontextmanager
async def pair() -> AsyncIterator[tuple[trio.SocketStream, trio.SocketStream]]:
    ends = [trio.SocketStream(trio.socket.from_stdlib_socket(sock)) for sock in socket.socketpair()]
    with trio.fail_after(30):
        async with ends[0], ends[1]:
            yield ends[0], ends[1]


async def test_what_threads_put_in_arrives() -> None:
    async with pair() as (one, two), trio.open_nursery() as nursery:
        outbox = Outbox()
        nursery.start_soon(outbox.send_all, one)
        await trio.testing.wait_all_tasks_blocked()
        threads = [threading.Thread(target=outbox.append, args=("log", [20, str(n)])) for n in range(20)]
        for thread in threads:
            thread.start()
        decoder, texts = Decoder(), []
        while len(texts) < 20:
            texts += [entry.payload[1] for entry in await receive(two, decoder)]
        assert sorted(texts, key=int) == [str(n) for n in range(20)]
        for thread in threads:
            thread.join(timeout=10)
        nursery.cancel_scope.cancel()


async def test_a_reader_that_sleeps_costs_nothing_but_the_states_in_between() -> None:
    async with pair() as (one, two), trio.open_nursery() as nursery:
        outbox = Outbox()
        nursery.start_soon(outbox.send_all, one)
        big = "x" * 100_000
        for number in range(200):
            outbox.put("status", lambda number=number: [number, big])
            await trio.testing.wait_all_tasks_blocked()
        decoder, seen = Decoder(), []
        while not seen or seen[-1] != 199:
            seen += [entry.payload[0] for entry in await receive(two, decoder)]
        assert seen == sorted(seen)
        assert len(seen) < 20
        nursery.cancel_scope.cancel()


async def test_a_closed_outbox_sends_all_and_ends() -> None:
    async with pair() as (one, two):
        outbox = Outbox()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(outbox.send_all, one)
            await trio.testing.wait_all_tasks_blocked()
            outbox.append("left", None)
            outbox.close()
        assert await receive(two, Decoder()) == [Entry("left", None)]


async def test_the_end_of_the_other_side_is_an_error_for_both() -> None:
    async with pair() as (one, two):
        await one.aclose()
        with pytest.raises(LinkError, match="ended"):
            await receive(two, Decoder())
        outbox = Outbox()
        outbox.append("log", [20, "x"])
        with pytest.raises(LinkError, match="broken"):
            await outbox.send_all(two)
