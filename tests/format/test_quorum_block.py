"""Quorum blocks: the recorded writes, the blocks of real volumes, what readers may conclude."""

from __future__ import annotations

import itertools

import pytest

from format.block import BlockError, FormatError
from format.quorum import (
    AddressFamily,
    Event,
    EventRecord,
    InetAddr4,
    InetAddr6,
    QuorumBlock,
    QuorumConfig,
    QuorumConfigStruct,
    SlotAddress,
    address_from_struct,
    address_to_struct,
    config_from_struct,
    config_to_struct,
)

FSID = 0x0123456789ABCDEF
RID = 0xA1A2A3A4A5A6A7A8
TERMS = {Event.BEGIN: 0, Event.TERM: 1, Event.ELECT: 1, Event.FENCE: 1, Event.STOP: 1, Event.END: 1}
CRCS = ["ccefdce5", "16b9ab7f", "0a7a694e", "3d8e4c20", "31d95943", "a36f7691"]
FINAL = """
91766fa3680831bc efcdab8967452301 0100000000000000 1300000000000000 0600000000000000
0100000000000000 a8a7a6a5a4a3a2a1 0000000000000000 6400000000000000 0065cd1d00000000
0200000000000000 a8a7a6a5a4a3a2a1 0100000000000000 6500000000000000 0165cd1d00000000
0300000000000000 a8a7a6a5a4a3a2a1 0100000000000000 6600000000000000 0265cd1d00000000
0400000000000000 a8a7a6a5a4a3a2a1 0100000000000000 6700000000000000 0365cd1d00000000
0500000000000000 a8a7a6a5a4a3a2a1 0100000000000000 6800000000000000 0465cd1d00000000
0600000000000000 a8a7a6a5a4a3a2a1 0100000000000000 6900000000000000 0565cd1d00000000
"""
MKFS_CRCS = """
e27b9178 b69d7726 799b0743 1f50bb9a d056cbff 84b02da1 4bb65dc4 49275413 86212476 d2c7c228 1dc1b24d 7b0a0e94 b40c7ef1
e0ea98af 2fece8ca
"""


def crc_of(data: bytes) -> str:
    """Return the stored checksum as the specification prints it."""
    return f"{int.from_bytes(data[:4], 'little'):08x}"


def test_the_six_recorded_writes() -> None:
    block = QuorumBlock(FSID, 2)
    assert crc_of(block.build()) == "799b0743"
    for k, (event, crc) in enumerate(zip(Event, CRCS, strict=True)):
        block = block.updated(event, RID, TERMS[event], (100 + k) * 1_000_000_000 + 500_000_000 + k)
        data = block.build()
        assert crc_of(data) == crc
        assert QuorumBlock.parse(data, fsid=FSID, slot=2) == block
        assert block.write_nr == k + 1
    expected = bytes.fromhex(FINAL)
    assert len(expected) == 280
    assert data == expected + bytes(4096 - 280)


def test_the_recorded_block_is_read() -> None:
    block = QuorumBlock.parse(bytes.fromhex(FINAL) + bytes(4096 - 280), fsid=FSID, slot=2)
    assert block.write_nr == 6
    for k, event in enumerate(Event):
        expected = EventRecord(k + 1, RID, TERMS[event], (100 + k) * 1_000_000_000 + 500_000_000 + k)
        assert block.event(event) == expected


def test_empty_blocks_have_the_recorded_checksums() -> None:
    assert [crc_of(QuorumBlock(FSID, slot).build()) for slot in range(15)] == MKFS_CRCS.split()


def test_an_update_leaves_the_other_events_and_the_seq_alone() -> None:
    block = QuorumBlock(FSID, 0, seq=1).updated(Event.BEGIN, 1, 4, 10).updated(Event.TERM, 1, 5, 20)
    again = block.updated(Event.TERM, 1, 6, 30)
    assert again.event(Event.BEGIN) == EventRecord(1, 1, 4, 10)
    assert again.event(Event.TERM) == EventRecord(3, 1, 6, 30)
    assert again.event(Event.ELECT) == EventRecord()
    assert (again.write_nr, again.seq) == (3, 1)
    assert block.event(Event.TERM) == EventRecord(2, 1, 5, 20)


def test_conclusions() -> None:
    empty = QuorumBlock(FSID, 3)
    assert (empty.leader, empty.greatest_term, empty.agent_may_run) == (None, 0, False)
    begun = empty.updated(Event.BEGIN, RID, 4, 0)
    assert (begun.leader, begun.greatest_term, begun.agent_may_run) == (None, 4, True)
    elected = begun.updated(Event.TERM, RID, 5, 0).updated(Event.ELECT, RID, 5, 0)
    assert elected.leader == elected.event(Event.ELECT)
    stopped = elected.updated(Event.STOP, RID, 5, 0)
    assert stopped.leader is None
    assert stopped.agent_may_run
    ended = stopped.updated(Event.END, RID, 6, 0)
    assert (ended.agent_may_run, ended.greatest_term) == (False, 6)


def test_terms_of_records_without_a_rid_do_not_count() -> None:
    assert QuorumBlock(FSID, 0, 1, {Event.TERM: EventRecord(1, 0, 99, 0)}).greatest_term == 0


def refusal(data: bytes, fsid: int = FSID, slot: int = 2) -> str:
    """Return the field for which a block is refused."""
    with pytest.raises(BlockError) as caught:
        QuorumBlock.parse(data, fsid=fsid, slot=slot)
    assert f"quorum block {17 + slot}" in str(caught.value)
    return caught.value.field


def test_refusals() -> None:
    data = QuorumBlock(FSID, 2).updated(Event.BEGIN, RID, 4, 0).build()
    assert refusal(data[:-1]) == "length"
    assert refusal(data, fsid=FSID + 1) == "fsid"
    assert refusal(data, slot=3) == "blkno"
    for bit in [*range(8 * 300), *range(8 * 300, 8 * 4096, 97)]:
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        assert refusal(bytes(flipped)) == "crc"


def test_numbers_that_do_not_fit_are_refused() -> None:
    for record in (EventRecord(2**64), EventRecord(rid=-1), EventRecord(term=2**64), EventRecord(ts=-1)):
        with pytest.raises(FormatError):
            QuorumBlock(FSID, 0, 1, {Event.TERM: record}).build()


@pytest.mark.parametrize(
    ("address", "data"),
    [
        (SlotAddress("127.0.0.1", 12345), "01003930 0100007f"),
        (SlotAddress("10.0.0.3", 4003), "0100a30f 0300000a"),
        (SlotAddress("127.0.0.1", 42000), "010010a4 0100007f"),
        (SlotAddress("10.1.2.3", 42001), "010011a4 0302010a"),
        (SlotAddress("192.168.0.9", 42002), "010012a4 0900a8c0"),
        (SlotAddress("10.1.2.3", 50000), "010050c3 0302010a"),
        (None, "00000000 00000000"),
    ],
)
def test_recorded_addresses(address: SlotAddress | None, data: str) -> None:
    stored = bytes.fromhex(data) + bytes(24)
    assert InetAddr4.build(address_to_struct(address)) == stored
    assert address_from_struct(InetAddr4.parse(stored)) == address


def test_garbage_behind_an_address_means_nothing_and_is_kept() -> None:
    stored = bytes.fromhex("010039300100007f") + bytes(range(24))
    parsed = InetAddr4.parse(stored)
    assert address_from_struct(parsed) == SlotAddress("127.0.0.1", 12345)
    assert InetAddr4.build(parsed) == stored


def test_bad_addresses_are_not_built() -> None:
    for address in (SlotAddress("::1", 1), SlotAddress("localhost", 1), SlotAddress("127.0.0.1", 65536)):
        with pytest.raises(FormatError):
            address_to_struct(address)


def test_only_slots_with_the_ipv4_family_are_present() -> None:
    v6 = InetAddr6.build({"family": 2, "port": 7, "addr": bytes(range(16)), "flow_info": 0, "scope_id": 0})
    v4 = InetAddr4.build(address_to_struct(SlotAddress("10.0.0.1", 4000)))
    unknown = (3).to_bytes(2, "little") + v4[2:]
    stored = (9).to_bytes(8, "little") + v6 + v4 + unknown + bytes(32 * 12)
    config = config_from_struct(QuorumConfigStruct.parse(stored))
    assert config == QuorumConfig(9, {1: SlotAddress("10.0.0.1", 4000)}, (0,))
    assert AddressFamily.IPV6 == 2


def test_configurations_are_built_as_they_are_read() -> None:
    config = QuorumConfig(3, {14: SlotAddress("1.2.3.4", 1), 0: SlotAddress("4.3.2.1", 65535)})
    stored = QuorumConfigStruct.build(config_to_struct(config))
    assert len(stored) == 488
    assert stored[8 + 32 : 8 + 14 * 32] == bytes(13 * 32)
    read = config_from_struct(QuorumConfigStruct.parse(stored))
    assert read == config
    assert list(read.slots) == [0, 14]


@pytest.mark.parametrize(("slots", "needed"), [(1, 1), (2, 1), (3, 2), (4, 3), (5, 3), (7, 4), (14, 8), (15, 8)])
def test_votes_needed(slots: int, needed: int) -> None:
    addresses = {slot: SlotAddress("127.0.0.1", 1000 + slot) for slot in range(slots)}
    assert QuorumConfig(1, addresses).votes_needed == needed


def test_every_event_has_its_own_place() -> None:
    for one, other in itertools.permutations(Event, 2):
        block = QuorumBlock(FSID, 0).updated(one, 1, 1, 1)
        assert block.event(other) == EventRecord()
        assert block.build()[40 + 40 * one : 48 + 40 * one] == (1).to_bytes(8, "little")
