"""Changed trees hold what a dictionary would, in blocks that pass every check; structures are those of the original."""

from __future__ import annotations

import errno
import struct
from bisect import bisect_left

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from format.block import Ref
from format.keys import Key
from scoutfs.errors import ScoutfsError
from scoutfs.metadata.btree import FIRST_KEY, LAST_KEY, NO_ROOT, Root, TreeItem
from scoutfs.metadata.btree_writer import BtreeWriter, ItemExists, NoItem
from scoutfs.metadata.nodes import LeafNode, Node, ParentNode
from scoutfs.metadata.writer import NoSpace
from tests.metadata.writing import Checked, Device, Pool, check_tree, columns

FS_ROOT = [
    TreeItem(Key(4, 0, 4, 0, 1).sort_bytes, 1, 0, b""),
    TreeItem(Key(16, 1, 4).sort_bytes, 1, 0, bytes(168)),
]


def key(number: int) -> bytes:
    """The keys of the vectors."""
    return Key(16, number, 4).sort_bytes


class Tree:
    """A tree on a device of its own."""

    def __init__(self) -> None:
        self.device, self.pool = Device(), Pool()
        self.writer = self.device.writer()
        self.tree = BtreeWriter(self.writer, self.pool)

    def check(self) -> Checked:
        """Check everything: each block that was taken is in the tree or freed."""
        found = check_tree(self.device, self.tree.root, self.writer)
        assert found.blknos == self.pool.used
        return found


def ascending(tree: BtreeWriter, count: int, size: int) -> None:
    for number in range(count):
        tree.insert(key(number), bytes(size))


def test_operations_of_the_worked_example() -> None:
    # Spec 04 §17.4: what is in the tree, and the bytes that it takes; the block is packed, so more of it is free.
    t = Tree()
    for number in (11, 10, 12):
        t.tree.insert(key(number), bytes(number))
    assert t.check().leaves == [(3, 216, 62248)]
    t.tree.update(key(10), b"22")
    assert t.check().leaves == [(3, 208, 62256)]
    t.tree.update(key(11), b"")
    assert t.check().leaves == [(3, 192, 62272)]
    t.tree.delete(key(11))
    assert t.check().leaves == [(2, 136, 62328)]
    with pytest.raises(ItemExists) as error:
        t.tree.insert(key(10), b"")
    assert error.value.errno == errno.EEXIST
    for number in (10, 12):
        t.tree.delete(key(number))
    assert t.tree.root == NO_ROOT
    assert t.check().blknos == set()
    for method in (t.tree.delete, t.tree.dirty, lambda wanted: t.tree.update(wanted, b"")):
        with pytest.raises(NoItem) as missing:
            method(key(12))
        assert missing.value.errno == errno.ENOENT
    with pytest.raises(ScoutfsError):
        t.tree.insert(key(1), bytes(897))


def test_colliding_items() -> None:
    # Spec 04 §17.4: one of four items that are at home in the same places goes, the others are still found.
    t = Tree()
    for number in (261, 676, 474, 3106):
        t.tree.insert(key(number), b"")
    t.tree.delete(key(261))
    assert [item.key for item in t.check().items] == [key(number) for number in (474, 676, 3106)]


def test_splits_of_leaves_of_empty_values() -> None:
    # Spec 04 §17.5
    t = Tree()
    ascending(t.tree, 1115, 0)
    assert t.tree.root.height == 1
    t.tree.insert(key(1115), b"")
    found = t.check()
    assert t.tree.root.height == 2
    assert found.blocks == [(1, 2, 144, 65344), (0, 558, 31248, 31216), (0, 558, 31248, 31216)]
    assert found.parent_keys == ["16.557.4.0.0.0", str(Key.ONES)]
    for number in range(1116, 2232):
        t.tree.insert(key(number), b"")
    assert t.check().parent_keys == [f"16.{number}.4.0.0.0" for number in (557, 1115, 1673)] + [str(Key.ONES)]


def test_splits_of_leaves_of_inodes_and_joins() -> None:
    # Spec 04 §17.5; the free space in a packed block is more than in one that the original has split.
    t = Tree()
    ascending(t.tree, 278, 168)
    assert t.tree.root.height == 1
    t.tree.insert(key(278), bytes(168))
    assert [leaf[:2] for leaf in t.check().leaves] == [(139, 31136), (140, 31360)]
    for number in range(66):
        t.tree.delete(key(number))
    assert t.tree.root.height == 2
    t.tree.delete(key(66))
    assert t.tree.root.height == 1
    assert t.check().leaves == [(212, 47488, 62464 - 47488)]


def test_splits_where_the_new_item_goes_to_the_left() -> None:
    # Spec 04 §17.5
    t = Tree()
    for number in range(66, 0, -1):
        t.tree.insert(key(number), bytes(896))
        assert t.tree.root.height == 1 + (number == 1)
    assert [leaf[:2] for leaf in t.check().leaves] == [(34, 32368), (32, 30464)]


def test_joins_with_a_neighbour_on_the_left() -> None:
    # Spec 04 §17.5
    t = Tree()
    ascending(t.tree, 418, 168)
    assert [leaf[0] for leaf in t.check().leaves] == [139, 139, 140]
    for number in range(417, 350, -1):
        t.tree.delete(key(number))
    assert len(t.check().leaves) == 3
    t.tree.delete(key(350))
    found = t.check()
    assert [leaf[0] for leaf in found.leaves] == [139, 211]
    assert found.parent_keys == ["16.138.4.0.0.0", str(Key.ONES)]


def test_a_join_takes_a_quarter_of_a_large_neighbour() -> None:
    # Spec 04 §4.3: of a neighbour that has more than 32744 bytes, items move until 16372 bytes are used up.
    t = Tree()
    ascending(t.tree, 339, 168)
    assert [leaf[0] for leaf in t.check().leaves] == [139, 200]
    for number in range(67):
        t.tree.delete(key(number))
    assert [leaf[0] for leaf in t.check().leaves] == [139 - 67 + 74, 200 - 74]
    assert t.check().parent_keys == ["16.212.4.0.0.0", str(Key.ONES)]


def test_merging_of_the_worked_example() -> None:
    # Spec 04 §17.6: inputs A and B as the merge combines them, then two further merges.
    t = Tree()
    t.tree.insert_list(columns(FS_ROOT))
    total = Key(12, 1, 0, 2, 3).sort_bytes

    def differences(one: int, other: int) -> bytes:
        return struct.pack("<qq", one, other)

    items = [(total, 10, 0, differences(12, 2)), (key(2000), 12, 1, b""), (key(3000), 11, 0, b"new!")]
    assert t.tree.merge_list(columns(items)) == 3
    expected = [FS_ROOT[0], (total, 10, 0, differences(12, 2)), FS_ROOT[1], (key(3000), 11, 0, b"new!")]
    assert t.check().items == expected
    t.tree.merge_list(columns([(total, 20, 0, differences(-12, -2)), (key(3000), 20, 1, b"")]))
    assert t.check().items == FS_ROOT
    log = Tree()
    for seq, one, other in ((30, 3, 1), (31, -3, -1)):
        log.tree.insert_list(columns([(total, seq, 0, differences(one, other))]))
    log.tree.insert_list(columns([(key(99), 31, 1, b"")]))
    written = log.check().items
    assert written == [(total, 31, 0, differences(0, 0)), (key(99), 31, 1, b"")]
    t.tree.merge_list(columns(written))
    assert t.check().items == [FS_ROOT[0], (total, 31, 0, differences(0, 0)), FS_ROOT[1]]


def test_a_difference_of_another_size_is_damage() -> None:
    t = Tree()
    total = Key(12, 1, 0, 2, 3).sort_bytes
    t.tree.insert_list(columns([(total, 1, 0, bytes(16))]))
    for apply in (t.tree.insert_list, t.tree.merge_list):
        with pytest.raises(ScoutfsError, match="value of 15 bytes, expected 16"):
            apply(columns([(total, 2, 0, bytes(15))]))
    assert t.check().items == [(total, 1, 0, bytes(16))]


def test_subtrees_of_the_worked_example(monkeypatch: pytest.MonkeyPatch) -> None:
    # Spec 04 §17.9 with smaller blocks: where the height grows is the same rule, the subtree's bounds are the parent's.
    t = Tree()
    ascending(t.tree, 10, 800)
    assert t.tree.subtree(key(3)) == t.tree.root
    assert t.tree.parent_range(key(3)) == (FIRST_KEY, LAST_KEY)
    assert BtreeWriter(t.writer, t.pool).subtree(key(3)) == NO_ROOT
    small_blocks(monkeypatch)
    t = Tree()
    while t.tree.root.height < 4:
        t.tree.insert(key(len(t.check().items)), b"")
    assert t.tree.subtree(key(0)).height == 2
    first, last = t.tree.parent_range(key(0))
    assert first == FIRST_KEY
    sub = BtreeWriter(t.writer, Pool(5000), t.tree.subtree(key(0)))
    part = check_tree(t.device, sub.root, t.writer, subtree=True)
    assert part.items == [item for item in t.check().items if item.key <= last]
    t.writer.write()
    sub.update(key(1), b"changed")
    old = t.tree.subtree(key(0))
    t.tree.set_subtree(key(0), sub.root)
    assert t.tree.subtree(key(0)) == sub.root != old
    found = check_tree(t.device, t.tree.root, t.writer)
    assert {item.key: item.value for item in found.items}[key(1)] == b"changed"
    with pytest.raises(ScoutfsError, match="height 3"):
        t.tree.set_subtree(key(0), Root(Ref(4, 4), 3))


def test_heights_of_the_worked_example() -> None:
    # Spec 04 §17.9
    t = Tree()
    heights = {}
    for number in range(32725):
        t.tree.insert(key(number), bytes(800))
        heights.setdefault(t.tree.root.height, number + 1)
    assert heights == {1: 1, 2: 73, 3: 32725}
    first, last = t.tree.parent_range(key(500))
    assert (first, str(Key.from_sort_bytes(last))) == (FIRST_KEY, "16.16379.4.0.0.0")


def test_items_that_would_spoil_a_leaf_are_refused() -> None:
    t = Tree()
    for rows in ([(key(2), 0, 0, b""), (key(1), 0, 0, b"")], [(key(1), 0, 0, b"")] * 2, [(key(1), 0, 0, bytes(897))]):
        for apply in (t.tree.insert_list, t.tree.merge_list):
            with pytest.raises(ScoutfsError):
                apply(columns(rows))
    assert t.check().items == []


def test_set_subtree_of_a_low_tree() -> None:
    t = Tree()
    t.tree.insert(key(1), b"")
    t.tree.set_subtree(key(1), Root(Ref(4, 4), 1))
    assert t.tree.root == Root(Ref(4, 4), 1)


def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let few items fill a block, so that trees grow high: about 10 items in a leaf, at most 8 in a parent."""
    monkeypatch.setattr(LeafNode, "space", 600)
    monkeypatch.setattr(ParentNode, "space", 8 * 72)
    monkeypatch.setattr(Node, "low_water_mark", 150)


@pytest.fixture
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    small_blocks(monkeypatch)


numbers = st.integers(0, 150)
values = st.binary(max_size=24)


class Model(RuleBasedStateMachine):
    """Random operations; the model is a dictionary of (seq, flags, value)."""

    @initialize()
    def begin(self) -> None:
        self.patch = pytest.MonkeyPatch()
        small_blocks(self.patch)
        self.t = Tree()
        self.model: dict[bytes, tuple[int, int, bytes]] = {}

    def teardown(self) -> None:
        if hasattr(self, "patch"):
            self.patch.undo()

    @rule(number=numbers, value=values)
    def insert(self, number: int, value: bytes) -> None:
        if key(number) in self.model:
            with pytest.raises(ItemExists):
                self.t.tree.insert(key(number), value)
            return
        self.t.tree.insert(key(number), value, number, number % 2)
        self.model[key(number)] = (number, number % 2, value)

    @rule(number=numbers, value=values)
    def force(self, number: int, value: bytes) -> None:
        self.t.tree.force(key(number), value)
        seq, flags, _ = self.model.get(key(number), (0, 0, b""))
        self.model[key(number)] = (seq, flags, value)

    @precondition(lambda self: getattr(self, "model", None))
    @rule(data=st.data(), value=values)
    def update_and_dirty(self, data: st.DataObject, value: bytes) -> None:
        wanted = data.draw(st.sampled_from(sorted(self.model)))
        seq, flags, old = self.model[wanted]
        self.t.tree.dirty(wanted)
        self.t.pool.fails_at = 1
        self.t.tree.update(wanted, old[::-1])
        self.t.pool.fails_at = 0
        self.t.tree.update(wanted, value)
        self.model[wanted] = (seq, flags, value)

    @rule(first=numbers, count=st.integers(1, 30))
    def delete(self, first: int, count: int) -> None:
        for number in range(first, first + count):
            if self.model.pop(key(number), None) is None:
                with pytest.raises(NoItem):
                    self.t.tree.delete(key(number))
            else:
                self.t.tree.delete(key(number))

    @rule(items=st.dictionaries(numbers, values, max_size=40), seq=numbers)
    def insert_list(self, items: dict[int, bytes], seq: int) -> None:
        rows = [(key(number), seq, seq % 2, items[number]) for number in sorted(items)]
        self.t.tree.insert_list(columns(rows))
        self.model |= {row[0]: row[1:] for row in rows}

    @rule(first=numbers, count=st.integers(1, 60), value=values)
    def insert_run(self, first: int, count: int, value: bytes) -> None:
        self.insert_list(dict.fromkeys(range(first, first + count), value), 3)

    @rule(items=st.dictionaries(numbers, st.one_of(st.none(), values), max_size=60), run=st.integers(0, 150))
    def merge_list(self, items: dict[int, bytes | None], run: int) -> None:
        items |= dict.fromkeys(range(run, run + 20))
        rows = [(key(n), 5, int(items[n] is None), items[n] or b"") for n in sorted(items)]
        assert self.t.tree.merge_list(columns(rows)) == len(rows)
        for wanted, seq, deletion, value in rows:
            if deletion:
                self.model.pop(wanted, None)
            else:
                self.model[wanted] = (seq, 0, value)

    @rule(first=numbers, fails_at=st.integers(1, 12), choice=st.integers(0, 3))
    def fail(self, first: int, fails_at: int, choice: int) -> None:
        """An operation that fails has no effect, or that of its first items."""
        self.t.pool.fails_at = fails_at
        rows = [(key(number), 4, 0, b"new") for number in range(first, first + 25)]
        if choice == 2:
            rows = [(row[0], 4, 1, b"") for row in rows]
        done = 0
        try:
            if choice == 0:
                self.t.tree.insert_list(columns(rows))
                done = len(rows)
            elif choice == 3:
                for row in rows:
                    if row[0] in self.model:
                        self.t.tree.delete(row[0])
                    done += 1
                done = len(rows)
            else:
                self.t.tree.merge_list(columns(rows))
                done = len(rows)
        except NoSpace:
            found = {item.key: item[1:] for item in check_tree(self.t.device, self.t.tree.root, self.t.writer).items}
            if choice != 3:
                while done < len(rows) and found.get(rows[done][0]) == (None if choice == 2 else (4, 0, b"new")):
                    done += 1
        self.t.pool.fails_at = 0
        for row in rows[:done]:
            if choice in (2, 3):
                self.model.pop(row[0], None)
            else:
                self.model[row[0]] = row[1:]
        assert self.contents() == self.model

    @rule()
    def write(self) -> None:
        self.t.writer.write()

    def contents(self) -> dict[bytes, tuple[int, int, bytes]]:
        return {item.key: item[1:] for item in self.t.check().items}

    @invariant()
    def holds(self) -> None:
        if hasattr(self, "model"):
            assert self.contents() == self.model
            assert [item.key for item in self.t.tree.items()] == sorted(self.model)


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)


@pytest.mark.usefixtures("_small")
def test_high_trees_grow_and_shrink() -> None:
    t = Tree()
    t.tree.insert_list(columns((key(number), 1, 0, b"") for number in range(3000)))
    t.check()
    assert t.tree.root.height >= 4
    order = [number * 7 % 3000 for number in range(3000)]
    for done, number in enumerate(order):
        t.tree.delete(key(number))
        if done % 500 == 0:
            found = t.check()
            assert min(leaf[1] for leaf in found.leaves) >= 150 - 56
    assert t.tree.root == NO_ROOT
    assert t.pool.used == set()


def test_real_blocks_hold_what_a_dictionary_would() -> None:
    # Large values in random order, so that leaves of the true size are split and joined; written in between.
    t = Tree()
    model: dict[bytes, tuple[int, int, bytes]] = {}
    for turn in range(12):
        numbers_of_turn = sorted({(turn * 977 + step * 131) % 1500 for step in range(300)})
        rows = [(key(n), turn, 0, bytes([turn]) * (n * 13 % 897)) for n in numbers_of_turn]
        t.tree.insert_list(columns(rows))
        model |= {row[0]: row[1:] for row in rows}
        gone = [(wanted, turn, 1, b"") for wanted in sorted(model)[turn * 20 : turn * 20 + 100]]
        t.tree.merge_list(columns(gone))
        for row in gone:
            del model[row[0]]
        t.writer.write()
        assert {item.key: item[1:] for item in t.check().items} == model
    assert all(leaf[1] >= 16372 for leaf in t.check().leaves)


def test_a_large_list_into_an_empty_tree() -> None:
    t = Tree()
    rows = [(key(number), number, 0, bytes(168)) for number in range(20_000)]
    t.tree.insert_list(columns(rows))
    found = t.check()
    assert found.items == rows
    assert len(found.leaves) <= 20_000 // 278 * 1.1


def test_merging_stops_when_asked_to() -> None:
    t = Tree()
    ascending(t.tree, 500, 168)
    rows = [(key(number), 9, 0, b"new") for number in range(500)]
    answers = iter([True, True, False])
    done = t.tree.merge_list(columns(rows), lambda: next(answers))
    assert 200 < done < 500
    assert [item.seq for item in t.check().items] == [9] * done + [0] * (500 - done)


def test_a_failing_device_leaves_the_tree_as_it_was() -> None:
    t = Tree()
    ascending(t.tree, 500, 168)
    t.writer.write()
    before = t.check().items
    tree = BtreeWriter(t.device.writer(), t.pool, t.tree.root)
    fails = [2]

    def fail(blkno: int) -> None:
        fails[0] -= 1
        if fails[0] <= 0:
            raise ScoutfsError("unreadable", errno.EIO)

    t.device.before_read = fail  # type: ignore[method-assign]
    with pytest.raises(ScoutfsError, match="unreadable"):
        tree.insert_list(columns([(key(1), 1, 0, b""), (key(499), 1, 0, b"")]))
    t.device.before_read = lambda blkno: None  # type: ignore[method-assign]
    assert check_tree(t.device, tree.root, tree.writer).items in (
        before,
        [TreeItem(key(1), 1, 0, b"") if item.key == key(1) else item for item in before],
    )


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 896), min_size=1, max_size=400))
def test_leaves_are_cut_so_that_they_fit(sizes: list[int]) -> None:
    t = Tree()
    rows = [(key(number), 0, 0, bytes(size)) for number, size in enumerate(sizes)]
    for low, high in ((0, len(rows) // 3), (len(rows) // 3, len(rows))):
        t.tree.insert_list(columns(rows[low:high]))
    found = t.check()
    assert found.items == rows
    assert bisect_left([item.key for item in found.items], LAST_KEY) == len(rows)
