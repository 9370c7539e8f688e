"""Trees are freed block by block, each once, whatever the budget of a step."""

from __future__ import annotations

import pytest

from format.keys import Key
from scoutfs.metadata.btree import FIRST_KEY, LAST_KEY, Root
from scoutfs.metadata.btree_freeing import free_blocks
from scoutfs.metadata.btree_writer import BtreeWriter
from scoutfs.metadata.writer import NoSpace
from tests.metadata.building import Blocks
from tests.metadata.test_btree_writer import Tree, key, small_blocks
from tests.metadata.writing import check_tree, columns


def steps(t: Tree, root: Root, budget: int) -> list[bytes]:
    """Free a tree; return the keys after each step."""
    keys, wanted = [], FIRST_KEY
    while wanted != LAST_KEY:
        before = len(t.pool.freed)
        wanted = free_blocks(t.writer, t.pool, root, wanted, budget)
        assert 0 < len(t.pool.freed) - before <= budget
        keys.append(wanted)
    return keys


def test_the_worked_example() -> None:
    # Spec 04 §17.9: 60000 items, 36 in a leaf; of the original's steps the first four, which reach no end of a parent.
    t = Tree()
    for number in range(60000):
        t.tree.insert(key(number), bytes(800))
    assert t.tree.root.height == 3
    keys = steps(t, t.tree.root, 62)
    bound = [str(Key.from_sort_bytes(wanted)) for wanted in keys[:4]]
    assert bound == [f"16.{36 * 62 * step - 1}.4.0.0.1" for step in (1, 2, 3, 4)]
    assert t.pool.used == set()
    assert len(keys) <= 28


@pytest.mark.parametrize("count", [0, 1, 11, 200, 900])
@pytest.mark.parametrize("budget", [7, 8, 20, 10_000])
def test_every_block_is_freed_once(monkeypatch: pytest.MonkeyPatch, count: int, budget: int) -> None:
    small_blocks(monkeypatch)
    t = Tree()
    t.tree.insert_list(columns((key(number), 0, 0, b"") for number in range(count)))
    t.writer.write()
    assert t.check().blknos == t.pool.used
    if count:
        steps(t, t.tree.root, budget)
    else:
        assert free_blocks(t.writer, t.pool, t.tree.root, FIRST_KEY, budget) == LAST_KEY
    assert t.pool.used == set()
    assert len(t.device.contents) == len(t.pool.freed)


def test_nothing_is_freed_by_a_step_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    small_blocks(monkeypatch)
    t = Tree()
    t.tree.insert_list(columns((key(number), 0, 0, b"") for number in range(300)))
    t.pool.fails_at = 1
    with pytest.raises(NoSpace):
        free_blocks(t.writer, t.pool, t.tree.root, FIRST_KEY, 20)
    assert check_tree(t.device, t.tree.root, t.writer).blknos == t.pool.used


def test_leaves_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    small_blocks(monkeypatch)
    t = Tree()
    t.tree.insert_list(columns((key(number), 0, 0, b"") for number in range(300)))
    t.writer.write()
    parents = sum(1 for block in t.check().blocks if block[0])
    writer = t.device.writer()
    reads = Blocks.read
    count = 0

    def read(device: Blocks, offset: int, length: int) -> bytes:
        nonlocal count
        count += 1
        return reads(device, offset, length)

    monkeypatch.setattr(Blocks, "read", read)
    assert free_blocks(writer, t.pool, BtreeWriter(writer, t.pool, t.tree.root).root, FIRST_KEY, 10_000) == LAST_KEY
    assert count == parents
