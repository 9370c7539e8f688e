"""Datagrams of the election: recorded bytes both ways, and what a receiver must drop."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from format.checksum import checksum
from format.message import Message, MessageError, MessageType

FSID = 0x0123456789ABCDEF
OTHER_FSID = 0xFEDCBA9876543210

# Spec 02 §3.5: fsid, term, sender, type, bytes.
VECTORS = [
    (FSID, 7, 2, 0, "efcdab8967452301 0000000000000000 0700000000000000 00 02 0000 00fad8ee"),
    (FSID, 7, 2, 1, "efcdab8967452301 0000000000000000 0700000000000000 01 02 0000 b8509d33"),
    (FSID, 7, 2, 2, "efcdab8967452301 0000000000000000 0700000000000000 02 02 0000 81d9bf51"),
    (FSID, 7, 2, 3, "efcdab8967452301 0000000000000000 0700000000000000 03 02 0000 3973fa8c"),
    (FSID, 1, 0, 0, "efcdab8967452301 0000000000000000 0100000000000000 00 00 0000 ad509306"),
    (FSID, 1, 0, 1, "efcdab8967452301 0000000000000000 0100000000000000 01 00 0000 15fad6db"),
    (FSID, 1, 0, 2, "efcdab8967452301 0000000000000000 0100000000000000 02 00 0000 2c73f4b9"),
    (FSID, 1, 0, 3, "efcdab8967452301 0000000000000000 0100000000000000 03 00 0000 94d9b164"),
    (OTHER_FSID, 0x1122334455667788, 14, 0, "1032547698badcfe 0000000000000000 8877665544332211 00 0e 0000 f8b0ac43"),
    (OTHER_FSID, 0x1122334455667788, 14, 1, "1032547698badcfe 0000000000000000 8877665544332211 01 0e 0000 401ae99e"),
    (OTHER_FSID, 0x1122334455667788, 14, 2, "1032547698badcfe 0000000000000000 8877665544332211 02 0e 0000 7993cbfc"),
    (OTHER_FSID, 0x1122334455667788, 14, 3, "1032547698badcfe 0000000000000000 8877665544332211 03 0e 0000 c1398e21"),
]
VALID = bytes.fromhex(VECTORS[0][4])


def with_crc(body: bytes) -> bytes:
    """Return a datagram of these 28 bytes and their checksum."""
    return body + checksum(body).to_bytes(4, "little")


def reason(datagram: bytes, fsid: int = FSID) -> str:
    """Return why a datagram is refused."""
    with pytest.raises(MessageError) as caught:
        Message.parse(datagram, fsid)
    return caught.value.field


def test_types_have_the_numbers_of_the_specification() -> None:
    assert [type_.name for type_ in MessageType] == ["REQUEST_VOTE", "VOTE", "HEARTBEAT", "RESIGNATION"]
    assert [int(type_) for type_ in MessageType] == [0, 1, 2, 3]


@pytest.mark.parametrize(("fsid", "term", "sender", "type_", "text"), VECTORS)
def test_recorded_datagrams(fsid: int, term: int, sender: int, type_: int, text: str) -> None:
    message = Message(term, MessageType(type_), sender)
    assert message.build(fsid) == bytes.fromhex(text)
    assert Message.parse(bytes.fromhex(text), fsid) == message


@pytest.mark.parametrize("vector", VECTORS)
def test_every_flipped_bit_is_noticed(vector: tuple[int, int, int, int, str]) -> None:
    datagram = bytes.fromhex(vector[4])
    for bit in range(8 * len(datagram)):
        flipped = bytearray(datagram)
        flipped[bit // 8] ^= 1 << bit % 8
        assert reason(bytes(flipped), vector[0]) == "crc"


@pytest.mark.parametrize("length", range(32))
def test_shorter_datagrams_are_refused(length: int) -> None:
    assert reason(VALID[:length]) == "length"


def test_bytes_behind_the_message_do_not_count() -> None:
    assert Message.parse(VALID + b"rubbish", FSID) == Message.parse(VALID, FSID)


@pytest.mark.parametrize("type_", [4, 5, 128, 255])
def test_unknown_types_are_refused(type_: int) -> None:
    assert reason(with_crc(VALID[:24] + bytes([type_]) + VALID[25:28])) == "type"


@pytest.mark.parametrize("sender", [15, 16, 255])
def test_impossible_senders_are_refused(sender: int) -> None:
    assert reason(with_crc(VALID[:25] + bytes([sender]) + VALID[26:28])) == "from"


def test_messages_of_another_volume_are_refused() -> None:
    assert reason(VALID, FSID + 1) == "fsid"


def test_checks_come_in_the_order_of_the_specification() -> None:
    everything_wrong = bytearray(VALID[:28])
    everything_wrong[24:26] = b"\x04\x0f"
    assert reason(bytes(everything_wrong), OTHER_FSID) == "length"
    assert reason(bytes(everything_wrong) + bytes(4), OTHER_FSID) == "crc"
    assert reason(with_crc(bytes(everything_wrong)), OTHER_FSID) == "fsid"
    assert reason(with_crc(bytes(everything_wrong)), FSID) == "type"


def test_version_and_pad_are_not_looked_at() -> None:
    odd = with_crc(VALID[:8] + b"\xff" * 8 + VALID[16:26] + b"\xff\xff")
    assert Message.parse(odd, FSID) == Message.parse(VALID, FSID)


@given(
    st.integers(0, 2**64 - 1),
    st.builds(Message, st.integers(0, 2**64 - 1), st.sampled_from(MessageType), st.integers(0, 14)),
)
def test_what_was_built_is_parsed(fsid: int, message: Message) -> None:
    assert Message.parse(message.build(fsid), fsid) == message
