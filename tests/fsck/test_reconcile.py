"""Two multisets are compared without being kept."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from format.extent import Extent
from scoutfs.fsck.reconcile import Reconciliation
from scoutfs.fsck.space import Bitmap, DataSpace, MetadataSpace

MEMBERS = st.lists(st.tuples(st.integers(0, 5), st.binary(max_size=1)), max_size=20)


def compare(one, other, *, modulus=0):
    """Return what differs, the sides being added in turn."""
    reconciliation = Reconciliation(modulus=modulus)
    for details in (False, True):
        if details:
            reconciliation.begin_details()
        for member in one:
            reconciliation.add(member)
        for member in other:
            reconciliation.add(member, -1)
        if not details and reconciliation.agrees:
            return {}
    assert reconciliation.complete
    return reconciliation.differences()


@settings(max_examples=100, deadline=None)
@given(MEMBERS, MEMBERS)
def test_it_finds_what_counting_finds(one, other):
    expected = Counter(one)
    expected.subtract(other)
    assert compare(one, other) == {member: count for member, count in expected.items() if count}


@settings(max_examples=100, deadline=None)
@given(MEMBERS)
def test_of_parities_it_finds_the_odd_ones(members):
    odd = {member for member, count in Counter(members).items() if count % 2}
    assert set(compare(members, [], modulus=2)) == odd


def test_weights_wrap():
    reconciliation = Reconciliation(modulus=2**64)
    reconciliation.add("total", 2**64 - 5)
    reconciliation.add("total", 5)
    assert reconciliation.agrees


def test_differences_are_found_among_very_many():
    one = [(number, number * 7) for number in range(100_000)]
    assert compare(one, [*one[:500], *one[501:], (1, 2)]) == {(500, 3500): 1, (1, 2): -1}


def test_it_says_when_there_are_too_many_differences_to_list():
    reconciliation = Reconciliation()
    for _ in range(2):
        for number in range(20_000):
            reconciliation.add(number)
        reconciliation.begin_details()
    assert not reconciliation.complete


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 299), st.integers(1, 120)), max_size=8))
def test_a_bitmap_is_a_set(extents):
    bitmap, expected = Bitmap(300), set()
    for start, length in extents:
        blocks = set(range(start, min(start + length, 300)))
        assert set(bitmap.add(start, len(blocks))) == blocks & expected
        expected |= blocks
    gaps = [block for extent in bitmap.gaps(2) for block in range(extent.start, extent.last + 1)]
    assert gaps == sorted(set(range(2, 300)) - expected)
    runs = list(bitmap.gaps(2))
    assert all(one.last + 1 < other.start for one, other in itertools.pairwise(runs))


def test_owners_of_shared_metadata_are_found_when_the_walk_is_repeated():
    space = MetadataSpace(100)
    for details in (False, True):
        if details:
            space.begin_details()
        space.claim(10, 20, "a tree")
        space.claim(15, 1, "a list")
        space.claim(29, 3, "another")
    assert space.owners == {15: ["a tree", "a list"], 29: ["a tree", "another"]}


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(64, 130), st.integers(1, 40)), max_size=8))
def test_ranges_with_none_or_several_owners_are_found(extents):
    extents = [Extent(start, min(length, 140 - start)) for start, length in extents]
    space = DataSpace(64, 140)
    for extent in extents:
        space.claim(extent, "")
    owners = Counter(block for extent in extents for block in range(extent.start, extent.last + 1))
    wrong = {block: owners[block] for block in range(64, 140) if owners[block] != 1}
    assert space.agrees == (not wrong)
    if not wrong:
        return
    space.begin_ranges()
    for extent in extents:
        space.claim(extent, "")
    space.begin_owners()
    found = {block: count for extent, count in space.wrong() for block in range(extent.start, extent.last + 1)}
    assert found == wrong


@pytest.mark.parametrize("start", [0, 1, 7, 8, 63])
def test_long_runs_of_bits(start):
    bitmap = Bitmap(1000)
    assert bitmap.add(start, 500) == []
    assert bitmap.add(start + 499, 2) == [start + 499]
    assert list(bitmap.gaps(start)) == [Extent(start + 501, 1000 - start - 501)]
