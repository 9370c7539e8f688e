"""Extents change by the original's rules: its vectors, and a model that knows every block."""

from __future__ import annotations

import errno
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scoutfs.errors import ScoutfsError
from scoutfs.metadata.extents import (
    Changes,
    InvalidExtent,
    MappedExtent,
    NoExtent,
    carry_out,
    insertion,
    removal,
    setting,
)


class Set:
    """A set of extents in memory; the `fails_at`-th change from now on fails."""

    def __init__(self) -> None:
        self.extents: set[MappedExtent] = set()
        self.fails_at = 0

    def find(self, block: int) -> MappedExtent | None:
        behind = [extent for extent in self.extents if extent.end > block]
        return min(behind, key=lambda extent: extent.start, default=None)

    def apply(self, changes: Changes) -> None:
        carry_out(changes, self.remove, self.insert)

    def remove(self, extent: MappedExtent) -> None:
        self._step()
        self.extents.remove(extent)

    def insert(self, extent: MappedExtent) -> None:
        self._step()
        assert all(other.end <= extent.start or extent.end <= other.start for other in self.extents), "overlap"
        self.extents.add(extent)

    def _step(self) -> None:
        self.fails_at -= 1
        if not self.fails_at:
            raise ScoutfsError("failed", errno.EIO)


def test_primitives_of_the_original() -> None:
    # Spec 06 §13, one after the other.
    steps = [
        ((0, 8, 100, 2), "(0,8,100,2)"),
        ((0, 1, 100, 0), "(0,1,100,0)(1,7,101,2)"),
        ((1, 1, 101, 0), "(0,2,100,0)(2,6,102,2)"),
        ((7, 1, 107, 0), "(0,2,100,0)(2,5,102,2)(7,1,107,0)"),
        ((2, 3, 102, 0), "(0,5,100,0)(5,2,105,2)(7,1,107,0)"),
        ((2, 3, 0, 1), "(0,2,100,0)(2,3,0,1)(5,2,105,2)(7,1,107,0)"),
        ((5, 3, 0, 1), None),
        ((0, 2, 0, 1), "(0,5,0,1)(5,2,105,2)(7,1,107,0)"),
        ((3, 1, 0, 0), "(0,3,0,1)(4,1,0,1)(5,2,105,2)(7,1,107,0)"),
        ((3, 1, 500, 0), "(0,3,0,1)(3,1,500,0)(4,1,0,1)(5,2,105,2)(7,1,107,0)"),
        ((2, 3, 0, 0), None),
    ]
    extents = Set()
    for step, expected in steps:
        before = set(extents.extents)
        if expected is None:
            with pytest.raises(InvalidExtent) as error:
                extents.apply(setting(extents.find, MappedExtent(*step)))
            assert error.value.errno == errno.EINVAL
            assert extents.extents == before
        else:
            extents.apply(setting(extents.find, MappedExtent(*step)))
            found = "".join(str(tuple(extent)).replace(" ", "") for extent in sorted(extents.extents))
            assert found == expected
    with pytest.raises(InvalidExtent):
        insertion(extents.find, MappedExtent(3, 1, 0, 1))


def test_a_hole_in_front_does_not_swallow_what_is_mapped_to_its_length() -> None:
    # Spec 04 §6.8: an extent of L blocks that becomes a hole, before one that is mapped to device block L.
    extents = Set()
    extents.insert(MappedExtent(0, 7, 100, 0))
    extents.insert(MappedExtent(7, 3, 7, 0))
    extents.apply(setting(extents.find, MappedExtent(0, 7)))
    assert extents.extents == {MappedExtent(7, 3, 7, 0)}


def test_what_is_not_there_cannot_be_removed() -> None:
    extents = Set()
    with pytest.raises(NoExtent) as error:
        removal(extents.find, 3, 1)
    assert error.value.errno == errno.ENOENT
    extents.insert(MappedExtent(5, 2))
    for start, length in ((3, 1), (4, 2), (6, 2), (4, 9)):
        with pytest.raises(InvalidExtent):
            removal(extents.find, start, length)


changes = st.tuples(
    st.sampled_from(["insert", "remove", "set"]),
    st.integers(0, 30),
    st.integers(1, 9),
    st.sampled_from([0, 0, 100, 101, 140, 5]),
    st.integers(0, 3),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(changes, max_size=25), st.data())
def test_against_a_model_of_blocks(steps, data) -> None:
    extents = Set()
    model: dict[int, tuple[int, int]] = {}
    for what, start, length, blkno, flags in steps:
        wanted = MappedExtent(start, length, blkno, flags)
        if what == "insert" and wanted.is_hole:
            continue
        before = set(extents.extents)
        try:
            plan = {
                "insert": lambda wanted=wanted: insertion(extents.find, wanted),
                "remove": lambda start=start, length=length: removal(extents.find, start, length),
                "set": lambda wanted=wanted: setting(extents.find, wanted),
            }[what]()
        except ScoutfsError:
            overlapping = [extent for extent in before if extent.start < wanted.end and wanted.start < extent.end]
            inside = len(overlapping) == 1 and overlapping[0].start <= start and wanted.end <= overlapping[0].end
            assert overlapping if what == "insert" else not inside
            continue
        extents.fails_at = data.draw(st.integers(1, 7))
        if extents.fails_at <= len(plan.removed) + len(plan.inserted):
            with pytest.raises(ScoutfsError):
                extents.apply(plan)
            assert extents.extents == before
        extents.fails_at = 0
        extents.apply(plan)
        for block in range(start, start + length):
            if what == "remove" or wanted.is_hole:
                model.pop(block, None)
            else:
                model[block] = (blkno and blkno + block - start, flags)
        found = {
            block: (extent.blkno and extent.blkno + block - extent.start, extent.flags)
            for extent in extents.extents
            for block in range(extent.start, extent.end)
        }
        assert found == model
        assert not any(extent.is_hole for extent in extents.extents)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 40), st.integers(1, 6)), max_size=30))
def test_free_extents_never_touch(steps) -> None:
    extents = Set()
    for inserts, start, length in steps:
        try:
            if inserts:
                extents.apply(insertion(extents.find, MappedExtent(start, length)))
            else:
                extents.apply(removal(extents.find, start, length))
        except ScoutfsError:
            continue
        ordered = sorted(extents.extents)
        assert all(one.end < other.start for one, other in pairwise(ordered))
