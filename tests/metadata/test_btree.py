"""Trees of several levels: items in both directions, lookups, and blocks that make no tree."""

from __future__ import annotations

import struct
from bisect import bisect_left, bisect_right

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from format.block import LARGE_BLOCK_SIZE, seal
from format.btree_check import check_items
from format.keys import Key
from scoutfs.metadata.blocks import DamagedBlock
from scoutfs.metadata.btree import FIRST_KEY, LAST_KEY, NO_ROOT, Btree, Root, TreeItem, after, before
from tests.format.blocks import Given
from tests.metadata.building import Blocks

small = st.integers(0, 40)
keys = st.builds(Key, st.sampled_from([4, 16, 255]), small, st.sampled_from([0, 4, 255]), small, small, small)
ends = st.one_of(keys, st.just(Key.ZEROS), st.just(Key.ONES)).map(lambda key: key.sort_bytes)
contents = st.dictionaries(keys, st.tuples(st.binary(max_size=20), st.integers(0, 2**64 - 1), st.integers(0, 1)))


def given_items(content: dict[Key, tuple[bytes, int, int]]) -> list[Given]:
    return [Given(key, *content[key]) for key in sorted(content)]


@settings(max_examples=150)
@given(contents, st.integers(1, 9), st.integers(2, 5), st.integers(1, 6), ends, ends, keys)
def test_ranges_in_both_directions(content, leaf, fanout, height, first, last, wanted) -> None:
    device = Blocks()
    root = device.add_tree(given_items(content), leaf=leaf, fanout=fanout, height=height)
    tree = Btree(device.reader(), root)
    everything = [TreeItem(item.key.sort_bytes, item.seq, item.flags, item.value) for item in given_items(content)]
    order = [item.key for item in everything]
    expected = everything[bisect_left(order, first) : bisect_right(order, last)] if first <= last else []
    assert list(tree.items(first, last)) == expected
    assert list(tree.items_reversed(first, last)) == expected[::-1]
    assert list(tree.items()) == everything
    by_key = {item.key: item for item in everything}
    for key in (wanted.sort_bytes, first, last, *order[:5]):
        assert tree.lookup(key) == by_key.get(key)


def test_the_blocks_of_the_tests_are_valid() -> None:
    device = Blocks()
    device.add_tree([Given(Key(16, number), bytes(number % 50)) for number in range(1000)], leaf=70, fanout=4)
    for blkno, data in device.contents.items():
        check_items(data, f"block {blkno}")


def test_neighbours_of_keys() -> None:
    assert after(LAST_KEY) == FIRST_KEY
    assert before(FIRST_KEY) == LAST_KEY
    key = Key(16, 5, 3, 2**64 - 1, 2**64 - 1, 255)
    assert Key.from_sort_bytes(after(key.sort_bytes)) == key.increment() == Key(16, 5, 4)
    assert Key.from_sort_bytes(before(Key(16, 5, 4).sort_bytes)) == key


def test_a_tree_larger_than_the_cache_is_streamed() -> None:
    device = Blocks()
    items = [Given(Key(16, number, 4), b"x" * 100, seq=1) for number in range(40_000)]
    root = device.add_tree(items, leaf=300, fanout=12)
    assert root.height == 3
    reader = device.reader(cache_bytes=1 << 20)
    tree = Btree(reader, root)
    assert [item.key for item in tree.items()] == [item.key.sort_bytes for item in items]
    assert [item.key for item in tree.items_reversed()] == [item.key.sort_bytes for item in reversed(items)]
    assert reader.used_bytes <= 1 << 20
    assert device.reads <= 2 * (len(items) // 300 + 20) + 20, "a walk reads each leaf once"
    walk = tree.items(items[30_000].key.sort_bytes)
    assert next(walk).key == items[30_000].key.sort_bytes


def test_an_empty_tree_and_an_empty_leaf() -> None:
    device = Blocks()
    reader = device.reader()
    assert list(Btree(reader, NO_ROOT).items()) == list(Btree(reader, NO_ROOT).items_reversed()) == []
    assert Btree(reader, NO_ROOT).lookup(FIRST_KEY) is None
    full = [device.add_btree(0, [Given(Key(16, number))]) for number in (1, 9)]
    empty = device.add_btree(0, [])
    bounds = [(Key(16, 1), full[0]), (Key(16, 5), empty), (Key.ONES, full[1])]
    root = Root(device.add_btree(1, [Given(key, struct.pack("<QQ", *ref)) for key, ref in bounds]), 2)
    tree = Btree(reader, root)
    assert [Key.from_sort_bytes(item.key).first for item in tree.items()] == [1, 9]
    assert [Key.from_sort_bytes(item.key).first for item in tree.items_reversed()] == [9, 1]
    assert list(tree.items(Key(16, 2).sort_bytes, Key(16, 8).sort_bytes)) == []


def test_what_a_parent_does_not_let_a_leaf_hold_is_not_there() -> None:
    device = Blocks()
    low = device.add_btree(0, [Given(Key(16, 1)), Given(Key(16, 7))])
    high = device.add_btree(0, [Given(Key(16, 2)), Given(Key(16, 9))])
    bounds = [(Key(16, 5), low), (Key.ONES, high)]
    root = Root(device.add_btree(1, [Given(key, struct.pack("<QQ", *ref)) for key, ref in bounds]), 2)
    found = [Key.from_sort_bytes(item.key).first for item in Btree(device.reader(), root).items()]
    assert found == [1, 9]


def test_heights_and_levels_that_cannot_be() -> None:
    device = Blocks()
    leaf = device.add_btree(0, [Given(Key(16, 1))])
    parent = device.add_btree(1, [Given(Key.ONES, struct.pack("<QQ", *leaf))])
    for root, text in (
        (Root(leaf, 0), "a tree of height 0"),
        (Root(leaf, 21), "a tree of height 21"),
        (Root(leaf, 2), "level is 0, expected 1"),
        (Root(parent, 1), "level is 1, expected 0"),
        (Root(parent, 3), "level is 1, expected 2"),
    ):
        with pytest.raises(DamagedBlock, match=text):
            list(Btree(device.reader(), root).items())
        with pytest.raises(DamagedBlock, match=text):
            list(Btree(device.reader(), root).items_reversed())


def test_keys_without_child() -> None:
    device = Blocks()
    leaf = device.add_btree(0, [Given(Key(16, 1))])
    root = Root(device.add_btree(1, [Given(Key(16, 5), struct.pack("<QQ", *leaf))]), 2)
    with pytest.raises(DamagedBlock, match=r"no child for keys from 16\.5\.0\.0\.0\.1 on"):
        list(Btree(device.reader(), root).items())
    with pytest.raises(DamagedBlock, match="no child"):
        list(Btree(device.reader(), root).items_reversed())


def test_blocks_that_all_refer_to_one_child_end_a_walk() -> None:
    """19 levels of parents with 900 items each, all of one child: a walk must not take 900^19 steps."""
    device = Blocks()
    ref = device.add_btree(0, [Given(Key(16, number)) for number in range(900)])
    for level in range(1, 20):
        value = struct.pack("<QQ", *ref)
        items = [Given(Key(16, number, level), value) for number in range(900)]
        ref = device.add_btree(level, [*items, Given(Key.ONES, value)])
    tree = Btree(device.reader(), Root(ref, 20))
    found = list(tree.items())
    assert [item.key for item in found] == sorted({item.key for item in found})
    assert list(tree.items_reversed()) == found[::-1]


def test_a_block_that_is_its_own_child_is_damage() -> None:
    device = Blocks()
    ref = device.add_btree(1, [Given(Key.ONES, bytes(15) + b"\1")])
    data = bytearray(device.contents[ref.blkno])
    data[-16:] = struct.pack("<QQ", *ref)
    device.contents[ref.blkno] = seal(data, LARGE_BLOCK_SIZE)
    with pytest.raises(DamagedBlock, match="level is 1, expected 0"):
        list(Btree(device.reader(), Root(ref, 2)).items())
