"""Search entries are coded as the original codes them, and no block of them misleads the reader."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from format.block import BlockError, FormatError, Ref
from format.srch import (
    BLOCK_SAFE_SIZE,
    ENTRIES_OFFSET,
    ENTRY_MAX_SIZE,
    FIRST_BASE,
    Entry,
    SrchBlock,
    decode_entry,
    encode_entry,
    read_entries,
    read_parent,
)
from tests.images import DIRECTORY

RECORDED = json.loads((DIRECTORY / "hashes.json").read_text())["srch_entries"]
ENTRIES = [Entry(int(vector["hash"], 16), vector["ino"], vector["id"]) for vector in RECORDED]
CODES = [bytes.fromhex(vector["bytes"]) for vector in RECORDED]

u64 = st.one_of(st.integers(0, 2**64 - 1), st.sampled_from([0, 1, 127, 128, 2**63 - 1, 2**63, 2**64 - 1]))
entries = st.builds(Entry, u64, u64, u64)


def block_of(entry_nr: int, coded: bytes, entry_bytes: int | None = None) -> bytes:
    """A search block with these counts and bytes; its header is of no interest to the reader."""
    empty = dict.fromkeys(("crc", "magic", "fsid", "seq", "blkno"), 0)
    ends = {name: FIRST_BASE._asdict() for name in ("first", "last", "tail")}
    size = len(coded) if entry_bytes is None else entry_bytes
    head = SrchBlock.build({"hdr": empty, **ends, "entry_nr": entry_nr, "entry_bytes": size})
    return (head + coded).ljust(65536, b"\0")


def test_recorded_entries_are_coded_and_decoded() -> None:
    base = FIRST_BASE
    for entry, code, vector in zip(ENTRIES, CODES, RECORDED, strict=True):
        assert encode_entry(entry, base) == code
        assert decode_entry(code, 0, base) == (entry, vector["len"])
        base = entry


def test_a_block_of_recorded_entries_is_read() -> None:
    found = list(read_entries(block_of(len(ENTRIES), b"".join(CODES)), "block"))
    assert found == [(entry, len(code)) for entry, code in zip(ENTRIES, CODES, strict=True)]


@given(entries, entries)
def test_what_was_coded_is_decoded(entry: Entry, base: Entry) -> None:
    code = encode_entry(entry, base)
    assert 2 <= len(code) <= ENTRY_MAX_SIZE
    assert decode_entry(b"xx" + code, 2, base) == (entry, len(code))
    for cut in range(len(code)):
        with pytest.raises(BlockError):
            decode_entry(code[:cut], 0, base)


def test_a_length_above_eight_reads_as_eight() -> None:
    code = bytes.fromhex("0f00") + (2).to_bytes(8, "little")
    assert decode_entry(code, 0, FIRST_BASE) == (Entry(1, 0, 0), 10)


def test_entries_out_of_range_are_refused() -> None:
    entry, _ = decode_entry(encode_entry(Entry(2**64 - 1, 2**64 - 1, 2**64 - 1)), 0, FIRST_BASE)
    assert entry == Entry(2**64 - 1, 2**64 - 1, 2**64 - 1)
    for wrong in (Entry(2**64, 0, 0), Entry(0, -1, 0)):
        with pytest.raises(FormatError):
            encode_entry(wrong)


def test_counts_that_do_not_fit_are_errors_behind_the_entries_that_do() -> None:
    coded = b"".join(CODES)
    reader = read_entries(block_of(len(ENTRIES) + 1, coded), "block 9")
    assert [next(reader)[0] for _ in ENTRIES] == ENTRIES
    with pytest.raises(BlockError, match="block 9 entry 7"):
        next(reader)
    with pytest.raises(BlockError, match="entry_bytes"):
        next(read_entries(block_of(1, coded, 65536 - ENTRIES_OFFSET + 1), "block"))
    with pytest.raises(BlockError, match="length"):
        next(read_entries(bytes(65535), "block"))


def test_no_entry_starts_behind_the_safe_size() -> None:
    same = Entry(1, 1, 0)
    coded = b"".join([encode_entry(same), *[encode_entry(same, same)] * 32697])
    assert len(coded) == BLOCK_SAFE_SIZE
    full = coded.ljust(65424, b"\0")
    assert len(list(read_entries(block_of(32699, full), "block"))) == 32699  # the last one starts at 65398
    with pytest.raises(BlockError, match="entry_nr"):
        list(read_entries(block_of(32700, full), "block"))


def test_random_blocks_give_entries_or_typed_errors() -> None:
    rng = random.Random(20)
    for _ in range(300):
        coded = rng.randbytes(200)
        try:
            list(read_entries(block_of(rng.choice([1, 10, 2**32 - 1]), coded), "block"))
        except BlockError:
            continue


def test_parents_name_their_children() -> None:
    parent = bytearray(65536)
    parent[32:48] = (1140).to_bytes(8, "little") + (60).to_bytes(8, "little")
    parent[32 + 16 * 4093 :] = (1141).to_bytes(8, "little") + (61).to_bytes(8, "little")
    assert read_parent(parent, "parent") == {0: Ref(1140, 60), 4093: Ref(1141, 61)}
    with pytest.raises(BlockError):
        read_parent(parent[:-1], "parent")
