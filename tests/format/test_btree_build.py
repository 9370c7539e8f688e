"""The encoder of btree blocks makes what the specification says, as the original and another encoder make it."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from format.block import FormatError, Ref, seal
from format.btree import read_items
from format.btree_build import build_leaf, build_parent
from format.btree_check import check_items
from format.btree_columns import Leaf, Parent, decode_block
from format.hashes import hash32, hash32_of_columns
from format.keys import Key
from tests import images
from tests.format.blocks import Given, btree_block

LARGE = 65536
FSID = 0x0123456789ABCDEF
REF = Ref(77, 0xFEDCBA9876543210)

number = st.one_of(st.integers(0, 3), st.integers(0, 2**64 - 1))
byte = st.integers(0, 255)
keys = st.builds(Key, byte, number, byte, number, number, byte)
contents = st.dictionaries(keys, st.tuples(st.binary(max_size=40), number, byte), max_size=30)
children = st.dictionaries(keys, st.tuples(number, number), min_size=1, max_size=30)


def leaf_of(items: list[Given]) -> bytes:
    columns = zip(*((item.key.sort_bytes, item.seq, item.flags, item.value) for item in items))
    return build_leaf(FSID, REF, *(columns if items else ((), (), (), ())))


@settings(max_examples=150)
@given(contents)
def test_leaves_equal_those_of_another_encoder(content: dict[Key, tuple[bytes, int, int]]) -> None:
    items = [Given(key, *content[key]) for key in sorted(content)]
    other = seal(btree_block(0, items, fsid=FSID, blkno=REF.blkno, seq=REF.seq), LARGE)
    assert leaf_of(items) == other
    read = decode_block(other, "leaf")
    assert isinstance(read, Leaf)
    assert build_leaf(FSID, REF, read.keys, read.seqs, read.flags, read.values) == other


@settings(max_examples=60)
@given(children, st.integers(1, 19))
def test_parents_equal_those_of_another_encoder(content: dict[Key, tuple[int, int]], level: int) -> None:
    items = [Given(key, struct.pack("<QQ", *content[key])) for key in sorted(content)]
    other = seal(btree_block(level, items, fsid=FSID, blkno=REF.blkno, seq=REF.seq), LARGE)
    read = decode_block(other, "parent")
    assert isinstance(read, Parent)
    assert build_parent(FSID, REF, level, read.keys, read.refs) == other


@pytest.mark.parametrize("count", [0, 1, 2, 3, 100, 277, 278, 279, 511, 512, 1115])
def test_leaves_of_any_size_are_valid(count: int) -> None:
    items = [
        Given(Key(16, inode, 4), bytes([inode % 256]) * (inode * 7 % 9 if count > 279 else 168), inode, inode % 2)
        for inode in range(count)
    ]
    if sum(56 + (len(item.value) + 7) // 8 * 8 for item in items) > 62464:
        with pytest.raises(FormatError, match="62464"):
            leaf_of(items)
        return
    block = check_items(leaf_of(items), "leaf")
    assert [(item.key, item.value, item.seq, item.flags) for item in block.items] == [
        (item.key, item.value, item.seq, item.flags) for item in items
    ]
    assert [item.offset for item in block.items] == [48 + 56 * index for index in range(count)]


def test_the_fullest_blocks() -> None:
    # Spec 04 §3.1: 1115 items without values, 909 children; nothing is left over but what no item fits.
    leaf = check_items(leaf_of([Given(Key(16, inode)) for inode in range(1115)]), "leaf")
    assert (leaf.total_item_bytes, leaf.mid_free_len) == (62440, 24)
    with pytest.raises(FormatError):
        leaf_of([Given(Key(16, inode)) for inode in range(1116)])
    columns = [Key(16, inode).sort_bytes for inode in range(910)], [Ref(inode, 1) for inode in range(1, 911)]
    parent = check_items(build_parent(FSID, REF, 1, columns[0][:909], columns[1][:909]), "parent")
    assert (parent.total_item_bytes, parent.mid_free_len) == (65448, 40)
    with pytest.raises(FormatError):
        build_parent(FSID, REF, 1, *columns)


@pytest.mark.parametrize("name", ["v1-1slot", "v2-1slot", "v2-64G"])
@pytest.mark.parametrize("blkno", [2, 1028, 1029, 1030])
def test_leaves_of_mkfs_are_built_again(name: str, blkno: int) -> None:
    # Spec 04 §16.2: mkfs writes heights 1 and 0 where 1 and 2 are right; all else is the same.
    data = images.read(name, "meta", blkno * LARGE, LARGE)
    leaf = decode_block(data, "leaf")
    assert isinstance(leaf, Leaf)
    fsid, seq, stored = struct.unpack_from("<QQQ", data, 8)
    built = bytearray(build_leaf(fsid, Ref(stored, seq), leaf.keys, leaf.seqs, leaf.flags, leaf.values))
    assert (built[48 + 6], built[104 + 6]) == (1, 2)
    built[104 + 6] = 0
    assert seal(built, LARGE) == data


def test_colliding_keys_are_found() -> None:
    # Spec 04 §17.4: the first three are at home in bucket 1511, the fourth in bucket 0.
    items = [Given(Key(16, inode, 4)) for inode in (261, 474, 676, 3106)]
    data = leaf_of(items)
    check_items(data, "leaf")
    buckets = struct.unpack_from("<1512H", data, 62512)
    assert sorted(bucket for bucket, offset in enumerate(buckets) if offset) == [0, 1, 2, 1511]


@pytest.mark.parametrize(
    "columns",
    [
        ([bytes(26)], [0], [0], [b""]),
        ([bytes(27)], [2**64], [0], [b""]),
        ([bytes(27)], [0], [256], [b""]),
        ([bytes(27)], [0], [0], [bytes(897)]),
    ],
)
def test_what_cannot_be_encoded_is_refused(columns: tuple[list, ...]) -> None:
    with pytest.raises(FormatError):
        build_leaf(FSID, REF, *columns)


@pytest.mark.parametrize(("level", "count"), [(1, 0), (0, 2), (20, 2)])
def test_no_such_parent(level: int, count: int) -> None:
    with pytest.raises(FormatError):
        build_parent(FSID, REF, level, [Key(inode).sort_bytes for inode in range(count)], [Ref(1, 1)] * count)


@given(st.integers(1, 40).flatmap(lambda size: st.lists(st.binary(min_size=size, max_size=size), max_size=40)))
def test_many_hashes_at_once(strings: list[bytes]) -> None:
    size = len(strings[0]) if strings else 0
    columns = [bytes(string[place] for string in strings) for place in range(size)]
    assert hash32_of_columns(columns, len(strings)) == tuple(map(hash32, strings))


def test_values_of_the_specification() -> None:
    # Spec 04 §17.4: values packed downwards from 62512, each taking a multiple of 8 bytes.
    data = leaf_of([Given(Key(16, inode, 4), bytes(size)) for inode, size in ((10, 10), (11, 11), (12, 12))])
    block = read_items(data, "leaf")
    assert [item.val_off for item in block.items] == [62496, 62480, 62464]
    assert (block.total_item_bytes, block.mid_free_len, block.item_root) == (216, 62248, 72)
