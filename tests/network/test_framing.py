"""Cutting bytes into messages: the recorded ones, the spec's, hostile ones."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from format.net import HEADER_SIZE, MAX_DATA_LEN, Command, Header, NetError, NetHeader, NetHeaderError
from scoutfs.network.framing import Decoder, Frame, Side, greeting_response
from tests.network import vectors
from tests.network.capture import messages, tcp_streams

CAPTURES = ("cluster3/lo", "three-guests/br0")


def decode(decoder: Decoder, data: bytes) -> list[Frame]:
    decoder.feed(data)
    frames = []
    while (frame := decoder.next_frame()) is not None:
        frames.append(frame)
    return frames


def greeted(side: Side) -> Decoder:
    decoder = Decoder(side)
    decode(decoder, vectors.GREETING if side is Side.SERVER else vectors.GREETING_RESPONSE)
    return decoder


def test_the_greeting_of_the_original_and_our_answer() -> None:
    (frame,) = decode(Decoder(Side.SERVER), vectors.GREETING)
    assert frame.header == Header(2, 0, 2, 40, Command.GREETING)
    assert frame.build() == vectors.GREETING
    answer = bytes(vectors.GREETING_RESPONSE[HEADER_SIZE:])
    assert greeting_response(frame.header, answer) == vectors.GREETING_RESPONSE
    assert greeting_response(frame.header, answer, NetError.EINVAL) == vectors.GREETING_REFUSED


@given(st.binary(min_size=HEADER_SIZE, max_size=HEADER_SIZE))
def test_the_fast_reading_of_a_header_is_that_of_its_declaration(data: bytes) -> None:
    declared = NetHeader.parse(data)
    valid = bytearray(data)
    valid[24:29] = (declared.data_len % 1101).to_bytes(2, "little") + bytes([declared.cmd % 20, 1, declared.error % 7])
    valid[0] |= 1
    valid[16] |= 1
    declared = NetHeader.parse(bytes(valid))
    header = Header.parse(bytes(valid))
    assert (header.seq, header.recv_seq, header.id) == (declared.seq, declared.recv_seq, declared.id)
    assert (header.data_len, header.command, header.error) == (declared.data_len, declared.cmd, declared.error)
    assert header.response is (declared.flags == 1)
    assert header.build() == NetHeader.build(declared)


@pytest.mark.parametrize(("side", "wire"), [(Side.SERVER, vectors.FROM_CLIENT), (Side.CLIENT, vectors.FROM_SERVER)])
def test_the_vectors_come_out_as_they_went_in(side: Side, wire: tuple[bytes, ...]) -> None:
    frames = decode(Decoder(side), b"".join(wire))
    assert [frame.build() for frame in frames] == list(wire)


def test_a_header_is_judged_before_its_payload() -> None:
    decoder = greeted(Side.SERVER)
    decoder.feed(Header(1, 0, 1, MAX_DATA_LEN, Command.STATFS).build())
    assert decoder.next_frame() is None  # valid: its payload is awaited
    decoder = greeted(Side.SERVER)
    head = bytearray(Header(1, 0, 1, 0, Command.STATFS).build())
    head[24:26] = (MAX_DATA_LEN + 1).to_bytes(2, "little")
    decoder.feed(bytes(head))
    with pytest.raises(NetHeaderError, match="1101 bytes"):
        decoder.next_frame()


REFUSED = {
    "seq 0": (0, bytes(8)),
    "id 0": (16, bytes(8)),
    "unknown command": (26, bytes([20])),
    "unknown flag": (27, bytes([2])),
    "unknown error": (28, bytes([7])),
    "request with error": (28, bytes([1])),
    "payload too long": (24, (1101).to_bytes(2, "little")),
    "all ones": (0, b"\xff" * 32),
}


@pytest.mark.parametrize("change", REFUSED.values(), ids=REFUSED.keys())
def test_an_invalid_header_breaks_the_connection_for_good(change: tuple[int, bytes]) -> None:
    offset, value = change
    head = bytearray(vectors.FAREWELL)
    head[offset : offset + len(value)] = value
    decoder = greeted(Side.SERVER)
    with pytest.raises(NetHeaderError) as first:
        decode(decoder, bytes(head))
    with pytest.raises(NetHeaderError) as again:
        decode(decoder, vectors.FAREWELL)
    assert str(first.value) == str(again.value)


@pytest.mark.parametrize("pad", [29, 30, 31])
def test_padding_is_ignored(pad: int) -> None:
    head = bytearray(vectors.FAREWELL)
    head[pad] = 0xFF
    assert [frame.header.command for frame in decode(greeted(Side.SERVER), bytes(head))] == [Command.FAREWELL]


@pytest.mark.parametrize(
    ("side", "wire", "why"),
    [
        (Side.SERVER, vectors.GREETING_RESPONSE, "greeting response to the server"),
        (Side.CLIENT, vectors.GREETING, "greeting request to the client"),
        (Side.SERVER, vectors.GREETING + vectors.GREETING, "second greeting"),
        (Side.CLIENT, vectors.GREETING_RESPONSE * 2, "second greeting"),
        (Side.SERVER, vectors.FAREWELL, "FAREWELL before a greeting"),
        (Side.CLIENT, vectors.LOCK_RECOVER, "LOCK_RECOVER before a greeting"),
    ],
)
def test_every_socket_starts_with_one_greeting_of_the_right_direction(side: Side, wire: bytes, why: str) -> None:
    with pytest.raises(NetHeaderError, match=why):
        decode(Decoder(side), wire)


@pytest.mark.parametrize("capture", CAPTURES)
def test_recorded_connections_decode_to_the_same_numbers(capture: str) -> None:
    for stream in tcp_streams(capture):
        decoder = Decoder(Side.CLIENT if stream.source[1] in (19700, 19701, 19702) else Side.SERVER)
        frames = [frame for _, piece in stream.pieces for frame in decode(decoder, piece)]
        expected = messages(stream.data)
        assert [
            (
                frame.header.seq,
                frame.header.recv_seq,
                frame.header.id,
                frame.header.data_len,
                frame.header.command,
                frame.header.response,
                frame.header.error,
                frame.payload,
            )
            for frame in frames
        ] == [(m.seq, m.recv_seq, m.id, m.data_len, m.cmd, m.flags, m.error, m.payload) for m in expected]
        assert b"".join(frame.build() for frame in frames) == stream.data
        assert decoder.buffered == 0


def test_the_captures_hold_all_messages_that_the_specification_was_checked_with() -> None:
    """1296 messages, and the recv_seq of an old server in the greetings to a new one: 31, 39, 102, 104."""
    found = [message for capture in CAPTURES for stream in tcp_streams(capture) for message in messages(stream.data)]
    assert len(found) == 1296
    stale = {message.recv_seq for message in found if message.cmd == 0 and not message.flags}
    assert stale == {0, 31, 39, 102, 104}


@given(st.lists(st.integers(1, 200), min_size=1, max_size=30))
def test_pieces_of_any_size_give_the_same_messages(sizes: list[int]) -> None:
    wire = b"".join(vectors.FROM_SERVER)
    decoder, found, position = Decoder(Side.CLIENT), [], 0
    for size in sizes:
        found += decode(decoder, wire[position : position + size])
        position += size
    found += decode(decoder, wire[position:])
    assert [frame.build() for frame in found] == list(vectors.FROM_SERVER)


def test_ten_thousand_damaged_streams_end_in_messages_or_in_a_typed_error() -> None:
    """Recorded streams with bytes changed, cut out and put in; and noise.  Never another exception, never a hoard."""
    source = random.Random(3)
    recorded = {Side.CLIENT: [], Side.SERVER: []}
    for stream in tcp_streams("three-guests/br0"):
        recorded[Side.CLIENT if stream.source[1] == 19700 else Side.SERVER].append(stream.data[:700])
    refused = 0
    for case in range(12_000):
        side = source.choice((Side.CLIENT, Side.SERVER))
        start = vectors.GREETING if side is Side.SERVER else vectors.GREETING_RESPONSE
        if case % 3 == 0:
            data = bytearray(start + source.randbytes(source.randrange(200)))
        else:
            data = bytearray(source.choice(recorded[side]))
            for _ in range(source.randrange(1, 4)):
                at = source.randrange(len(data))
                match source.randrange(3):
                    case 0:
                        data[at] ^= 1 << source.randrange(8)
                    case 1:
                        del data[at : at + source.randrange(1, 40)]
                    case 2:
                        data[at:at] = source.randbytes(source.randrange(1, 40))
        decoder = Decoder(side)
        position = 0
        try:
            while position < len(data):
                size = source.randrange(1, 400)
                for frame in decode(decoder, bytes(data[position : position + size])):
                    assert frame.header.data_len == len(frame.payload) <= MAX_DATA_LEN
                assert decoder.buffered < HEADER_SIZE + MAX_DATA_LEN
                position += size
        except NetHeaderError:
            refused += 1
            assert decoder.buffered == 0
    assert refused > 2000
