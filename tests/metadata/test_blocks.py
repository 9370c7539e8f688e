"""Verified reads, the cache and its bound, and the decoder of btree blocks."""

from __future__ import annotations

import random
import struct
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from format.block import LARGE_BLOCK_SIZE, BlockError, Magic, Ref, seal
from format.btree import ITEM_SIZE, BtreeBlock, BtreeItem
from format.btree_columns import Leaf, Parent, decode_block
from format.keys import Key
from scoutfs.metadata.blocks import BlockReader, DamagedBlock, StaleBlockError
from scoutfs.metadata.btree import Btree
from scoutfs.storage.device import Device
from tests.format.blocks import Given
from tests.metadata.building import FSID, Blocks


def leaf_of(count: int, size: int = 8) -> list[Given]:
    return [Given(Key(16, number), bytes([number % 256]) * size, seq=number) for number in range(count)]


def test_a_block_is_read_once_and_kept() -> None:
    device = Blocks()
    ref = device.add_btree(0, leaf_of(3))
    reader = device.reader()
    first = reader.btree_block(ref, 0)
    assert reader.btree_block(ref, 0) is first
    assert device.reads == reader.device_reads == 1
    reader.forget()
    assert reader.used_bytes == 0
    assert reader.btree_block(ref, 0) == first
    assert device.reads == 2


@pytest.mark.parametrize(
    ("field", "offset", "size"), [("crc", 5000, 1), ("magic", 4, 4), ("fsid", 8, 8), ("seq", 16, 8), ("blkno", 24, 8)]
)
def test_a_block_that_is_not_the_one_referred_to_is_stale(field: str, offset: int, size: int) -> None:
    device = Blocks()
    ref = device.add_btree(0, leaf_of(3))
    data = bytearray(device.contents[ref.blkno])
    data[offset : offset + size] = bytes(byte ^ 0x10 for byte in data[offset : offset + size])
    device.contents[ref.blkno] = bytes(data) if field == "crc" else seal(data, LARGE_BLOCK_SIZE)
    with pytest.raises(StaleBlockError, match=f"^/dev/meta: btree block {ref.blkno}: {field} is "):
        device.reader().btree_block(ref, 0)
    assert device.reads == 2, "it is read once more"


def test_a_block_that_was_half_written_when_it_was_read_is_read_again() -> None:
    device = Blocks()
    ref = device.add_btree(0, leaf_of(100))
    whole = device.contents[ref.blkno]
    states = [bytes(4096) + whole[4096:], whole]
    device.before_read = lambda blkno: device.contents.__setitem__(blkno, states.pop(0))  # type: ignore[method-assign]
    assert len(device.reader().btree_block(ref, 0).keys) == 100


def test_a_cached_block_that_was_replaced_is_read_again() -> None:
    device = Blocks()
    old = device.add_btree(0, leaf_of(3))
    reader = device.reader()
    reader.btree_block(old, 0)
    device.next_blkno = old.blkno - 1
    new = device.add_btree(0, leaf_of(4))._replace(seq=77)
    data = bytearray(device.contents[old.blkno])
    struct.pack_into("<Q", data, 16, 77)
    device.contents[old.blkno] = seal(data, LARGE_BLOCK_SIZE)
    assert len(reader.btree_block(new, 0).keys) == 4
    with pytest.raises(StaleBlockError):
        reader.btree_block(old, 0)
    with pytest.raises(StaleBlockError, match="magic"):
        reader.read(new, Magic.BLOOM, "bloom block")


@pytest.mark.parametrize("blkno", [0, 1 << 24, 2**64 - 1])
def test_a_reference_to_no_block_of_the_device_is_stale(blkno: int) -> None:
    with pytest.raises(StaleBlockError, match="beyond the end"):
        Blocks(size=1 << 40).reader().read(Ref(blkno, 1), Magic.BTREE, "btree block")


def test_another_level_is_damage() -> None:
    device = Blocks()
    ref = device.add_btree(0, leaf_of(3))
    with pytest.raises(DamagedBlock, match=f"^/dev/meta: btree block {ref.blkno}: level is 0, expected 1$"):
        device.reader().btree_block(ref, 1)


def test_the_cache_is_bounded_in_bytes_of_memory() -> None:
    """Decoded leaves of many small items take more memory than blocks: the bound is on what they really take."""
    device = Blocks()
    items = [Given(Key(16, number), b"", seq=10**6 + number) for number in range(60_000)]
    root = device.add_tree(items, leaf=1000, fanout=50)
    limit = 2 << 20
    reader = device.reader(cache_bytes=limit)
    tracemalloc.start()
    try:
        assert sum(1 for _ in Btree(reader, root).items()) == 60_000
        assert reader.used_bytes <= limit
        # one leaf is being decoded besides
        assert tracemalloc.get_traced_memory()[1] < limit + (1 << 20)
    finally:
        tracemalloc.stop()
    assert device.reads == reader.device_reads
    assert device.reads <= 60 + 3 * 2


def test_the_least_recently_used_block_makes_room() -> None:
    device = Blocks()
    refs = [device.add_btree(0, leaf_of(100)) for _ in range(3)]
    reader = device.reader()
    reader.btree_block(refs[0], 0)
    cost = reader.used_bytes
    reader.cache_bytes = 2 * cost
    for index in (1, 0, 2, 0):
        reader.btree_block(refs[index], 0)
    assert device.reads == 3
    reader.btree_block(refs[1], 0)
    assert device.reads == 4


def test_a_block_larger_than_the_cache_is_kept_until_the_next() -> None:
    device = Blocks()
    refs = [device.add_btree(0, leaf_of(100)) for _ in range(2)]
    reader = BlockReader(device, FSID, cache_bytes=1)  # type: ignore[arg-type]
    for ref in (refs[0], refs[0], refs[1], refs[1]):
        reader.btree_block(ref, 0)
    assert device.reads == 2


@given(seed=st.integers(0, 2**32), level=st.integers(0, 3), count=st.integers(0, 200))
def test_the_decoder_reads_what_the_declarations_say(seed: int, level: int, count: int) -> None:
    """Random bytes, but for what must lie inside the block, against `format.btree`'s declarations."""
    source = random.Random(seed)
    data = bytearray(source.randbytes(LARGE_BLOCK_SIZE))
    struct.pack_into("<HHHHB", data, 32, 7, count, 8, 9, level)
    end = 48 + ITEM_SIZE * count
    for index in range(count):
        size = 16 if level else source.choice([0, 1, 7, 8, 896])
        offset = source.randrange(end, 62512 - size)
        struct.pack_into("<HH", data, 48 + ITEM_SIZE * index + 48, offset, size)
    if level and not count:
        with pytest.raises(BlockError, match="nr_items"):
            decode_block(data, "block")
        return
    block = decode_block(data, "block")
    assert BtreeBlock.parse(bytes(data[:48])).level == level
    items = [BtreeItem.parse(bytes(data[offset : offset + ITEM_SIZE])) for offset in range(48, end, ITEM_SIZE)]
    rows = []
    for item in items:
        key = Key(*(item.key[field] for field in ("zone", "first", "type", "second", "third", "fourth")))
        value = bytes(data[item.val_off : item.val_off + item.val_len])
        rows.append((key, item.seq, item.flags, value))
    rows.sort()
    assert [Key.from_sort_bytes(key) for key in block.keys] == [row[0] for row in rows]
    if level:
        assert isinstance(block, Parent)
        assert (block.level, [struct.pack("<QQ", *ref) for ref in block.refs]) == (level, [row[3] for row in rows])
    else:
        assert isinstance(block, Leaf)
        assert list(zip(block.seqs, block.flags, block.values)) == [row[1:] for row in rows]


def test_what_does_not_lie_inside_the_block_is_refused() -> None:
    device = Blocks()
    whole = bytearray(device.contents[device.add_btree(0, leaf_of(5)).blkno])

    def refused(offset: int, format: str, number: int) -> str:
        data = bytearray(whole)
        struct.pack_into(format, data, offset, number)
        with pytest.raises(BlockError) as raised:
            decode_block(data, "b")
        return str(raised.value)

    assert refused(34, "<H", 1116).startswith("b: bad nr_items")
    assert refused(40, "<B", 20).startswith("b: bad level")
    assert refused(40, "<B", 1).startswith("b item 0: bad val_len")
    assert refused(48 + 50, "<H", 897).startswith("b item 0: bad val_len")
    assert refused(48 + 48, "<H", 62505).startswith("b item 0: bad val_off")
    assert refused(48 + 56 + 48, "<H", 48 + 5 * 56 - 8).startswith("b item 1: bad val_off")
    assert refused(48 + 8, "<Q", 1).startswith("b: bad uniqueness of keys")
    with pytest.raises(BlockError, match="length"):
        decode_block(whole[:-1], "b")


def test_a_device_that_ends(tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(bytes(3 * LARGE_BLOCK_SIZE))
    with Device.open(tmp_path / "m") as device:
        reader = BlockReader(device, FSID)
        with pytest.raises(StaleBlockError, match="block 2: crc"):
            reader.btree_block(Ref(2, 1), 0)
        with pytest.raises(StaleBlockError, match="block 3: blkno is beyond"):
            reader.btree_block(Ref(3, 1), 0)
