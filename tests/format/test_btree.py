"""The reader of btree blocks says what the declarations say, on blocks of the original, and of nobody."""

from __future__ import annotations

import random
import re
import struct

import pytest
from construct import Array
from hypothesis import given, settings
from hypothesis import strategies as st

from format.block import BlockError, Magic, Ref, verify_block
from format.btree import BtreeBlock, BtreeItem, read_buckets, read_items
from format.btree_check import check_items
from format.hashes import LEAF_BUCKETS, leaf_bucket
from format.keys import Key
from tests import images
from tests.format.blocks import Given, btree_block

FSID = 0x0123456789ABCDEF
LARGE = 65536


def block_of(name: str, blkno: int) -> bytes:
    """Return a verified btree block of a recorded volume."""
    data = images.read(name, "meta", blkno * LARGE, LARGE)
    verify_block(f"block {blkno}", data, LARGE, Magic.BTREE, fsid=FSID, blkno=blkno)
    return data


@st.composite
def contents(draw: st.DrawFn) -> tuple[int, bytes]:
    """A level, and a block of random bytes except for the numbers that the reader checks."""
    level = draw(st.integers(0, 19))
    nr_items = draw(st.integers(0, 12))
    rng = random.Random(draw(st.integers(0, 2**32)))
    data = bytearray(rng.randbytes(48 + 56 * nr_items).ljust(LARGE, b"\0"))
    struct.pack_into(
        "<HHHHB", data, 32, rng.randrange(2**16), nr_items, rng.randrange(2**16), rng.randrange(2**16), level
    )
    low, high = 48 + 56 * nr_items, LARGE if level else 62512
    data[low:] = rng.randbytes(64) * ((LARGE - low) // 64) + bytes((LARGE - low) % 64)
    for index in range(nr_items):
        val_len = 16 if level else draw(st.integers(0, 896))
        val_off = draw(st.integers(low, high - val_len)) if val_len else draw(st.integers(0, 65535))
        struct.pack_into("<HH", data, 48 + 56 * index + 48, val_off, val_len)
    return level, bytes(data)


@settings(max_examples=300)
@given(contents())
def test_fields_equal_those_of_the_declarations(given_block: tuple[int, bytes]) -> None:
    level, data = given_block
    block = read_items(data, "block")
    head = BtreeBlock.parse(data[:48])
    declared = Array(head.nr_items, BtreeItem).parse(data[48:])
    assert (block.level, block.item_root) == (head.level, head.item_root.node) == (level, head.item_root.node)
    assert (block.total_item_bytes, block.mid_free_len) == (head.total_item_bytes, head.mid_free_len)
    assert sorted(item.offset for item in block.items) == [48 + 56 * index for index in range(head.nr_items)]
    assert list(block.items) == sorted(block.items, key=lambda item: item.key)
    for item in block.items:
        stored = declared[(item.offset - 48) // 56]
        for field in ("zone", "first", "type", "second", "third", "fourth"):
            assert getattr(item.key, field) == stored.key[field]
        for field in ("parent", "left", "right", "height"):
            assert getattr(item, field) == stored.node[field]
        assert (item.seq, item.flags, item.val_off) == (stored.seq, stored.flags, stored.val_off)
        assert item.value == (data[stored.val_off : stored.val_off + stored.val_len] if stored.val_len else b"")
        assert item.deleted == bool(stored.flags & 1)
        if level:
            assert item.ref == Ref(*struct.unpack("<QQ", item.value))


def test_the_root_leaf_of_the_worked_example() -> None:
    # Spec 01 §6.7, LG 2 of a volume of format version 2.
    data = block_of("v2-1slot", 2)
    block = check_items(data, "fs root", heights=False)
    index, inode = block.items
    assert (block.level, block.item_root, block.total_item_bytes, block.mid_free_len) == (0, 72, 280, 62184)
    assert (str(index.key), index.offset, index.val_off, index.value, index.seq) == ("4.0.4.0.1.0", 48, 0, b"", 1)
    assert (index.parent, index.left, index.right, index.height) == (72, 0, 0, 1)
    assert (str(inode.key), inode.offset, inode.val_off, len(inode.value)) == ("16.1.4.0.0.0", 104, 62344, 168)
    assert (inode.parent, inode.left, inode.right, inode.height) == (0, 16, 0, 0)
    assert {bucket: offset for bucket, offset in enumerate(read_buckets(data)) if offset} == {252: 48, 1040: 104}
    with pytest.raises(BlockError, match="height"):
        check_items(data, "fs root")


@pytest.mark.parametrize(
    ("blkno", "keys", "buckets"),
    [
        (1028, ("36.16383.0.16320.0.0", "40.18446744073709551611.0.16383.16320.0"), {398: 48, 702: 104}),
        (1029, ("36.1539.0.509.0.0", "40.18446744073709551613.0.1539.509.0"), {258: 48, 1192: 104}),
        (1030, ("36.2047.0.508.0.0", "40.18446744073709551613.0.2047.508.0"), {1152: 48, 1334: 104}),
    ],
)
def test_the_free_extents_of_the_worked_example(blkno: int, keys: tuple[str, str], buckets: dict[int, int]) -> None:
    data = block_of("v2-1slot", blkno)
    block = check_items(data, "leaf", heights=False)
    assert tuple(str(item.key) for item in block.items) == keys
    assert (block.total_item_bytes, block.mid_free_len) == (112, 62352)
    assert {bucket: offset for bucket, offset in enumerate(read_buckets(data)) if offset} == buckets


@pytest.mark.parametrize("name", ["v1-15slot", "v2-64G", "v2-zone-8T", "v2-odd-sizes", "v2-smallest"])
def test_trees_of_other_recorded_volumes(name: str) -> None:
    lengths = set()
    for blkno in (2, 1028, 1029, 1030):
        block = check_items(block_of(name, blkno), f"block {blkno}", heights=False)
        assert len(block.items) == 2
        lengths.add(max(len(item.value) for item in block.items))
    assert lengths == {0, 160 if name.startswith("v1") else 168}


def test_blocks_that_the_original_printed() -> None:
    # Each line of an item in the original's print of a made-up volume, against what the reader finds.
    text = (images.DIRECTORY / "synthetic-all-structures.print.txt").read_text()
    blocks = re.findall(
        r"btree blkno (\d+)\n  crc (\w+) fsid 123456789abcdef seq (\d+) blkno \1 \n"
        r"  total_item_bytes (\d+) mid_free_len (\d+)\n  level (\d+) nr_items (\d+) item_root.node (\d+)\n"
        r"((?:(?!.*(?:btree|alloc_list_block|srch \w+) ?(?:block)? blkno).*\n?)*)",
        text,
    )
    assert len(blocks) > 15
    items = 0
    for number, crc, seq, total, free, level, nr_items, root, body in blocks:
        data = images.read("synthetic-all-structures", "meta", int(number) * LARGE, LARGE)
        header = verify_block("block", data, LARGE, Magic.BTREE, fsid=FSID, blkno=int(number), seq=int(seq))
        block = read_items(data, f"block {number}")
        assert f"{header.crc:08x}" == crc
        assert (block.total_item_bytes, block.mid_free_len) == (int(total), int(free))
        assert (block.level, len(block.items), block.item_root) == (int(level), int(nr_items), int(root))
        printed = re.findall(r"\[\d+\] off (\d+) par (\d+) l (\d+) r (\d+) h (\d+) vo (\d+) vl (\d+)\n", body)
        found = [
            (item.offset, item.parent, item.left, item.right, item.height, item.val_off, len(item.value))
            for item in block.items
        ]
        assert found == [tuple(map(int, line)) for line in printed]
        items += len(found)
    assert items > 60


def leaf() -> bytearray:
    """A leaf of three items, not in the order of their keys."""
    given_items = [
        Given(Key(16, 7, 4), b"seven", 3),
        Given(Key(4, 0, 4, 9, 7), b"", 2),
        Given(Key(16, 7, 8), b"x" * 896, 4, 1),
    ]
    return btree_block(0, given_items)


def parent() -> bytearray:
    """A parent of two children."""
    return btree_block(
        3, [Given(Key(16, 7, 4), struct.pack("<QQ", 100, 5)), Given(Key.ONES, struct.pack("<QQ", 101, 6))]
    )


def test_items_come_in_the_order_of_their_keys() -> None:
    block = check_items(leaf(), "leaf")
    assert [str(item.key) for item in block.items] == ["4.0.4.9.7.0", "16.7.4.0.0.0", "16.7.8.0.0.0"]
    assert [item.value for item in block.items] == [b"", b"seven", b"x" * 896]
    assert [item.seq for item in block.items] == [2, 3, 4]
    assert [item.deleted for item in block.items] == [False, False, True]
    assert [item.ref for item in check_items(parent(), "parent").items] == [Ref(100, 5), Ref(101, 6)]


def test_full_blocks_are_read() -> None:
    full = btree_block(0, [Given(Key(16, number)) for number in range(1115)])
    assert len(check_items(full, "leaf").items) == 1115
    full = btree_block(1, [Given(Key(16, number), struct.pack("<QQ", 9, 9)) for number in range(909)])
    assert len(check_items(full, "parent").items) == 909
    assert check_items(btree_block(0, []), "leaf").items == ()


def put(data: bytearray, offset: int, form: str, *numbers: int) -> bytearray:
    """Return `data` with other numbers at `offset`."""
    struct.pack_into("<" + form, data, offset, *numbers)
    return data


@pytest.mark.parametrize(
    ("data", "field"),
    [
        (leaf()[:-1], "length"),
        (put(leaf(), 40, "B", 20), "level"),
        (put(leaf(), 40, "B", 255), "level"),
        (put(leaf(), 34, "H", 1116), "nr_items"),
        (put(leaf(), 34, "H", 65535), "nr_items"),
        (put(parent(), 34, "H", 1170), "nr_items"),
        (put(leaf(), 48 + 50, "H", 897), "val_len"),
        (put(leaf(), 48 + 50, "H", 65535), "val_len"),
        (put(parent(), 48 + 50, "H", 15), "val_len"),
        (put(parent(), 48 + 50, "H", 0), "val_len"),
        (put(leaf(), 48 + 48, "H", 62508), "val_off"),
        (put(leaf(), 48 + 48, "H", 65535), "val_off"),
        (put(leaf(), 48 + 48, "H", 48 + 56 * 3 - 1), "val_off"),
        (put(leaf(), 48 + 48, "H", 0), "val_off"),
        (put(parent(), 48 + 48, "H", 65521), "val_off"),
    ],
)
def test_what_would_leave_the_block_is_refused(data: bytearray, field: str) -> None:
    with pytest.raises(BlockError) as caught:
        read_items(bytes(data), "block 77")
    assert caught.value.field == field
    assert str(caught.value).startswith("block 77")


FIRST, SECOND, THIRD = 48, 104, 160


@pytest.mark.parametrize(
    ("data", "field"),
    [
        (put(leaf(), 41, "B", 1), "pad"),
        (put(leaf(), FIRST + 7, "B", 1), "pad"),
        (put(leaf(), FIRST + 35, "B", 1), "pad"),
        (put(leaf(), FIRST + 39, "B", 1), "pad"),
        (put(leaf(), THIRD + 53, "B", 1), "pad"),
        (put(leaf(), 36, "H", 1), "total_item_bytes"),
        (put(leaf(), 38, "H", 65000), "mid_free_len"),
        (put(leaf(), 32, "H", 0), "avl order"),
        (put(leaf(), 32, "H", 17), "avl link"),
        (put(leaf(), 32, "H", 72), "avl parent"),
        (put(leaf(), FIRST + 2, "H", 16), "avl parent"),
        (put(leaf(), FIRST + 2, "H", 9999), "avl link"),
        (put(leaf(), FIRST + 2, "H", 0), "avl order"),
        (put(leaf(), FIRST + 2, "HH", 128, 72), "avl order"),
        (put(leaf(), FIRST + 6, "B", 1), "avl height"),
        (put(leaf(), FIRST + 52, "B", 2), "flags"),
        (put(parent(), FIRST + 52, "B", 1), "flags"),
        (put(parent(), 65536 - 16, "Q", 0), "ref"),
        (put(leaf(), FIRST + 48, "H", 62505), "val_off"),
        (put(leaf(), SECOND + 48, "H", 8), "val_off"),
        (put(leaf(), THIRD + 48, "H", 62504 - 888), "val_off"),
        (put(leaf(), 62512 + 2 * 700, "H", 48), "item hash"),
        (btree_block(1, []), "nr_items"),
        (btree_block(0, [Given(Key(1)), Given(Key(1))]), "uniqueness"),
    ],
)
def test_what_must_hold_is_checked(data: bytearray, field: str) -> None:
    with pytest.raises(BlockError) as caught:
        check_items(bytes(data), "block")
    assert caught.value.field == field


def test_unbalanced_trees_and_lost_items_are_noticed() -> None:
    # A list to the right: 1 -> 2 -> 3, with the heights that it has.
    data = btree_block(0, [Given(Key(first=number)) for number in (1, 2, 3)])
    put(data, 32, "H", 16)
    for offset, links in ((FIRST, (0, 0, 72, 3)), (SECOND, (16, 0, 128, 2)), (THIRD, (72, 0, 0, 1))):
        put(data, offset, "HHHB", *links)
    with pytest.raises(BlockError, match="balance"):
        check_items(data, "block")
    lost = leaf()
    (bucket,) = (index for index, offset in enumerate(read_buckets(lost)) if offset == FIRST)
    put(lost, 62512 + 2 * bucket, "HH", 0, FIRST)
    check_items(put(lost, 62512 + 2 * bucket, "HH", FIRST, 0), "block")
    put(lost, 62512 + 2 * bucket, "H", 0)
    put(lost, 62512 + 2 * ((bucket + 2) % 1511), "H", FIRST)
    with pytest.raises(BlockError, match="item hash"):
        check_items(lost, "block")


def test_the_item_hash_goes_on_at_its_start() -> None:
    # Two keys whose bucket is the last one: the second item is found in bucket 0.
    last = [key for number in range(6000) if leaf_bucket((key := Key(16, number)).build()) == LEAF_BUCKETS - 1][:2]
    data = btree_block(0, [Given(key) for key in last])
    buckets = read_buckets(data)
    assert (buckets[LEAF_BUCKETS - 1], buckets[0]) == (FIRST, SECOND)
    assert len(check_items(data, "leaf").items) == 2
    put(data, 62512, "HH", 0, SECOND)
    with pytest.raises(BlockError, match="item hash"):
        check_items(data, "leaf")


def test_ranges_are_checked() -> None:
    low, high = Key(4, 0, 4, 9, 7), Key(16, 7, 8)
    assert len(check_items(leaf(), "leaf", start=low, end=high).items) == 3
    for start, end in ((low.increment(), high), (low, high.decrement())):
        with pytest.raises(BlockError, match="range"):
            check_items(leaf(), "leaf", start=start, end=end)
