"""Merging log trees gives what the newest versions are, also where it goes on after it had to stop."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from format.keys import Key
from scoutfs.metadata.blocks import DamagedBlock
from scoutfs.metadata.btree import FIRST_KEY, LAST_KEY, Btree, after
from scoutfs.metadata.btree_writer import BtreeWriter
from scoutfs.metadata.merge import merge
from scoutfs.metadata.nodes import Node, ParentNode
from tests.metadata.test_btree_writer import FS_ROOT, Tree, key, small_blocks
from tests.metadata.writing import check_tree, columns

TOTAL = Key(12, 1, 0, 2, 3).sort_bytes


def log(t: Tree, rows: list[tuple[bytes, int, int, bytes]]) -> Btree:
    """Write a log tree of sorted items beside the tree."""
    tree = BtreeWriter(t.writer, t.pool)
    tree.insert_list(columns(rows))
    return tree


def test_the_worked_example() -> None:
    # Spec 04 §17.6
    def sums(one: int, other: int) -> bytes:
        return struct.pack("<qq", one, other)

    t = Tree()
    t.tree.insert_list(columns(FS_ROOT))
    first = log(t, [(TOTAL, 10, 0, sums(5, 1)), (key(2000), 10, 0, b"AAAAAAAA"), (key(3000), 10, 0, b"old")])
    second = log(t, [(TOTAL, 9, 0, sums(7, 1)), (key(2000), 12, 1, b""), (key(3000), 11, 0, b"new!")])
    assert merge(t.tree, [first, second], FIRST_KEY, LAST_KEY, subtree=False) is None
    expected = [FS_ROOT[0], (TOTAL, 10, 0, sums(12, 2)), FS_ROOT[1], (key(3000), 11, 0, b"new!")]
    assert check_tree(t.device, t.tree.root, t.writer).items == expected
    third = log(t, [(TOTAL, 20, 0, sums(-12, -2)), (key(3000), 20, 1, b"")])
    assert merge(t.tree, [third], FIRST_KEY, LAST_KEY, subtree=False) is None
    assert check_tree(t.device, t.tree.root, t.writer).items == FS_ROOT
    assert merge(t.tree, [], FIRST_KEY, LAST_KEY, subtree=False) is None


def test_differences_that_cancel_in_the_inputs_leave_no_trace() -> None:
    t = Tree()
    trees = [log(t, [(TOTAL, seq, 0, struct.pack("<qq", value, 1))]) for seq, value in ((3, 1), (4, 2), (5, 9))]
    trees.insert(2, log(t, [(TOTAL, 6, 0, struct.pack("<qq", -3, -2))]))
    assert merge(t.tree, trees, FIRST_KEY, LAST_KEY, subtree=False) is None
    assert check_tree(t.device, t.tree.root, t.writer).items == [(TOTAL, 5, 0, struct.pack("<qq", 9, 1))]
    with pytest.raises(DamagedBlock):
        merge(t.tree, [*trees, log(t, [(TOTAL, 7, 0, b"short")])], FIRST_KEY, LAST_KEY, subtree=False)


versions = st.dictionaries(st.integers(0, 120), st.tuples(st.integers(0, 1), st.binary(max_size=20)), max_size=60)


@settings(max_examples=60, deadline=None)
@given(versions, st.lists(versions, max_size=4), st.integers(0, 130), st.integers(0, 130), st.integers(1, 5), st.data())
def test_any_inputs(base, inputs, low, high, pace, data) -> None:
    with pytest.MonkeyPatch.context() as patch:
        small_blocks(patch)
        t = Tree()
        model = {key(n): (1, 0, value) for n, (_, value) in sorted(base.items())}
        t.tree.insert_list(columns((wanted, *model[wanted]) for wanted in model))
        trees = []
        newest: dict[bytes, tuple[int, int, bytes]] = {}
        for index, content in enumerate(inputs):
            # Every version of an item has a seq of its own.
            rows = [
                (key(n), 2 + index + 10 * data.draw(st.integers(0, 2)), deletion, b"" if deletion else value)
                for n, (deletion, value) in sorted(content.items())
            ]
            trees.append(log(t, rows))
            for wanted, *version in rows:
                newest[wanted] = max(newest.get(wanted, (0, 0, b"")), tuple(version))
        for wanted, (seq, deletion, value) in newest.items():
            if key(low) <= wanted <= key(high):
                if deletion:
                    model.pop(wanted, None)
                else:
                    model[wanted] = (seq, 0, value)
        wanted = key(low)
        steps = 0
        while wanted is not None:
            left = iter(range(pace))
            wanted = merge(
                t.tree,
                trees,
                wanted,
                key(high),
                subtree=False,
                may_go_on=lambda left=left: next(left, None) is not None,
            )
            steps += 1
            assert steps < 200
        assert {item.key: item[1:] for item in check_tree(t.device, t.tree.root, t.writer).items} == model


@pytest.mark.parametrize("deletion", [0, 1])
def test_the_root_of_a_subtree_is_never_split_or_joined(monkeypatch: pytest.MonkeyPatch, deletion: int) -> None:
    small_blocks(monkeypatch)
    monkeypatch.setattr(ParentNode, "low_water_mark", 3 * 72)
    monkeypatch.setattr(Node, "low_water_mark", 150)
    t = Tree()
    t.tree.insert_list(columns((key(10 * n), 1, 0, b"") for n in range(300)))
    assert t.tree.root.height > 2
    items = check_tree(t.device, t.tree.root, t.writer).items
    rows = [(key(n), 2, deletion, b"") for n in range(0, 3000, 10 if deletion else 3)]
    tree = log(t, rows)
    wanted: bytes | None = FIRST_KEY
    stops = 0
    while wanted is not None:
        # What client and server do together: a part is merged, put in its place, balanced, and the rest follows.
        first, last = t.tree.parent_range(wanted)
        part = BtreeWriter(t.writer, t.pool, t.tree.subtree(wanted))
        rest = merge(part, [tree], max(first, wanted), last, subtree=t.tree.root.height > 2)
        assert part.root.height == min(2, t.tree.root.height) or t.tree.root.height <= 2
        t.tree.set_subtree(wanted, part.root)
        if rest is not None:
            stops += 1
            assert stops < 500
            # A full parent is split by the next insertion of the server's walk.
            t.tree.rebalance(rest)
        wanted = rest if rest is not None else (None if last == LAST_KEY else after(last))
    found = check_tree(t.device, t.tree.root, t.writer)
    assert stops > 0
    model = {item.key: item[1:] for item in items}
    for wanted, *version in rows:
        if deletion:
            model.pop(wanted, None)
        else:
            model[wanted] = tuple(version)
    assert {item.key: item[1:] for item in found.items} == model
