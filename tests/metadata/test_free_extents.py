"""Trees of free extents: the original's vectors, no block lost or there twice, whatever fails."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from format.extent import Extent, free_extent, free_extent_keys
from format.keys import Key, Zone
from scoutfs.errors import ScoutfsError
from scoutfs.metadata.blocks import DamagedBlock
from scoutfs.metadata.btree import NO_ROOT
from scoutfs.metadata.extents import InvalidExtent, NoExtent
from scoutfs.metadata.free_extents import FreeExtents, Moved, Stop, Zones, blocks_of_change, move_extents
from scoutfs.metadata.writer import NoSpace
from tests.metadata.test_btree_writer import small_blocks
from tests.metadata.writing import Device, Pool, check_tree, unreadable


class Trees:
    """Two trees with one allocator."""

    def __init__(self) -> None:
        self.device, self.pool = Device(), Pool()
        self.writer = self.device.writer()
        self.one = FreeExtents(self.writer, self.pool)
        self.other = FreeExtents(self.writer, self.pool)

    def check(self, tree: FreeExtents) -> list[tuple[int, int]]:
        """Return the extents of a tree of which everything was checked."""
        items = [Key.from_sort_bytes(item.key) for item in check_tree(self.device, tree.tree.root, self.writer).items]
        places = [free_extent(key) for key in items if key.zone == Zone.FREE_EXTENT_BLKNO]
        sizes = [free_extent(key) for key in items if key.zone == Zone.FREE_EXTENT_ORDER]
        assert sorted(sizes) == sorted(places)
        assert sorted(items) == sorted(key for extent in places for key in free_extent_keys(extent))
        assert all(one.last + 1 < other.start for one, other in pairwise(places))
        assert tree.total_len == sum(extent.length for extent in places)
        assert list(tree.extents()) == places
        return [tuple(extent) for extent in places]


def filled(*extents: tuple[int, int]) -> Trees:
    """Trees of which the first has these extents."""
    trees = Trees()
    for extent in extents:
        trees.one.insert(Extent(*extent))
    return trees


def test_insertions_and_removals_of_the_worked_example() -> None:
    # Spec 04 §17.8
    t = filled((100, 10), (120, 5), (110, 10))
    assert t.check(t.one) == [(100, 25)]
    for extent in ((99, 1), (125, 1)):
        t.one.insert(Extent(*extent))
    assert t.check(t.one) == [(99, 27)]
    with pytest.raises(InvalidExtent):
        t.one.insert(Extent(105, 1))
    t.one.remove(Extent(105, 3))
    assert t.check(t.one) == [(99, 6), (108, 18)]
    assert t.one.total_len == 24
    with pytest.raises(InvalidExtent):
        t.one.remove(Extent(104, 2))
    with pytest.raises(NoExtent):
        t.one.remove(Extent(200, 2))


def test_a_move_from_zones_of_the_worked_example() -> None:
    # Spec 04 §17.8
    t = filled((99, 6), (108, 18), (320, 30), (500, 900))
    zones = Zones(100, exclusive=1 << 1, vacant=1 << 3)
    assert move_extents(t.other, t.one, 60, t.pool, zones=zones) == Moved(60, Stop.DONE)
    assert t.check(t.other) == [(100, 5), (108, 18), (320, 30), (500, 7)]
    assert t.check(t.one) == [(99, 1), (507, 893)]


def test_a_large_move_of_the_worked_example() -> None:
    # Spec 04 §17.8
    t = filled((64, 5242816))
    assert move_extents(t.other, t.one, 1048576, t.pool) == Moved(1048576, Stop.DONE)
    assert t.check(t.other) == [(64, 1048576)]
    assert t.check(t.one) == [(1048640, 4194240)]


def test_allocation_takes_the_first_extent_of_the_largest_order() -> None:
    # Spec 04 §16.21: not the longest one.
    t = filled((10, 7), (100, 70), (300, 500))
    assert t.one.allocate(5) == (100, 5)
    assert t.one.allocate(1000) == (105, 65)
    assert t.one.allocate(1000) == (300, 500)
    assert t.one.allocate(1000) == (10, 7)
    with pytest.raises(NoExtent):
        t.one.allocate(1)
    assert t.check(t.one) == []
    assert t.one.tree.root == NO_ROOT


def test_moves_end_early() -> None:
    t = filled(*((10 * number, 2) for number in range(100)))
    assert blocks_of_change(1) == 30
    # Each extent of a move takes at most blocks_of_change of both trees, of height 1 and 0 at first.
    t.pool.remaining_avail = 50 + 45 - 1
    with pytest.raises(NoSpace):
        move_extents(t.other, t.one, 40, t.pool)
    t.pool.remaining_avail = 8185
    assert move_extents(t.other, t.one, 40, t.pool, budget=44) == Moved(0, Stop.BUDGET)
    left = iter(range(8185, 0, -100))

    class Using(Pool):
        @property
        def remaining_avail(self) -> int:
            return next(left)

        @remaining_avail.setter
        def remaining_avail(self, value: int) -> None:
            pass

    moved = move_extents(t.other, t.one, 40, Using(), budget=500)
    assert moved.stop is Stop.BUDGET
    assert 0 < moved.blocks < 40
    left = iter([200, 200, 200, 200, 90, 90, 90])
    moved = move_extents(t.other, t.one, 1000, Using())
    assert moved.stop is Stop.LOW
    assert move_extents(t.other, t.one, 1000, t.pool).stop is Stop.EMPTY
    assert t.check(t.one) == []
    assert sum(length for _, length in t.check(t.other)) == 200


def test_items_that_are_no_extents_are_damage() -> None:
    t = Trees()
    t.one.tree.insert(Key(Zone.FREE_EXTENT_BLKNO, 5, 0, 9).sort_bytes, b"")
    with pytest.raises(DamagedBlock):
        t.one.find(3)
    t.other.tree.insert(Key(Zone.FREE_EXTENT_BLKNO, 5, 0, 2).sort_bytes, b"value")
    with pytest.raises(DamagedBlock):
        t.other.find(3)


def runs(blocks: set[int]) -> list[tuple[int, int]]:
    """Return the extents that cover a set of blocks."""
    found: list[tuple[int, int]] = []
    for block in sorted(blocks):
        if found and sum(found[-1]) == block:
            found[-1] = (found[-1][0], found[-1][1] + 1)
        else:
            found.append((block, 1))
    return found


steps = st.tuples(
    st.sampled_from(["insert", "remove", "allocate", "move", "back"]),
    st.integers(2, 300),
    st.integers(1, 80),
    st.integers(0, 14),
    st.booleans(),
)


@settings(max_examples=50, deadline=None)
@given(st.lists(steps, min_size=5, max_size=40), st.integers(0, 1 << 32), st.integers(0, 1 << 32))
def test_no_block_is_lost_or_doubled(operations, exclusive, vacant) -> None:
    """`fails_at` says which read, or exchange of blocks, of an operation fails; it is undone then."""
    with pytest.MonkeyPatch.context() as patch:
        small_blocks(patch)
        t = Trees()
        # So many that the two items of an extent are in different leaves.
        for start in range(310, 700, 13):
            t.one.insert(Extent(start, 1 + start % 9))
        one = {block for start, length in t.check(t.one) for block in range(start, start + length)}
        other: set[int] = set()
        for what, start, length, fails_at, reads in operations:
            # Each operation has to copy all that it changes.
            t.writer.write()
            t.writer.reader.forget()
            t.pool.fails_at = 0 if reads else fails_at
            t.device.before_read = unreadable(fails_at if reads else 0)  # type: ignore[method-assign]
            wanted = set(range(start, start + length))
            moves = what in ("move", "back")
            source, target = (t.other, t.one) if what == "back" else (t.one, t.other)
            try:
                if what == "insert" and wanted & other:
                    continue
                if what == "insert":
                    t.one.insert(Extent(start, length))
                    one |= wanted
                elif what == "remove":
                    t.one.remove(Extent(start, length))
                    one -= wanted
                elif what == "allocate":
                    extent = t.one.allocate(length)
                    one -= set(range(extent.start, extent.last + 1))
                else:
                    moved = move_extents(target, source, length, t.pool, zones=Zones(10, exclusive, vacant))
                    assert moved.blocks == min(length, len(other if what == "back" else one))
            except ScoutfsError as error:
                if isinstance(error, InvalidExtent):
                    assert wanted & one if what == "insert" else wanted - one
            t.pool.fails_at = 0
            t.device.before_read = unreadable(0)  # type: ignore[method-assign]
            both = one | other
            found = [{b for s, n in t.check(tree) for b in range(s, s + n)} for tree in (t.one, t.other)]
            assert not found[0] & found[1]
            if moves:
                assert found[0] | found[1] == both
                one, other = found
            assert t.check(t.one) == runs(one)
            assert t.check(t.other) == runs(other)
