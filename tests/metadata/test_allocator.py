"""Lists of blocks: the original's vectors, and no block lost or there twice whatever fails."""

from __future__ import annotations

import errno

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from format.alloc import build_list_block, read_list_block
from format.block import LARGE_BLOCK_SIZE, Magic, Ref, verify_block
from format.extent import Extent
from scoutfs.errors import ScoutfsError
from scoutfs.metadata.allocator import (
    ListAllocator,
    empty_list,
    fill_list,
    has_room,
    reserved_blocks,
    splice_list,
)
from scoutfs.metadata.block_lists import NO_LIST, BlockList, ListHead, read_node
from scoutfs.metadata.blocks import DamagedBlock
from scoutfs.metadata.free_extents import FreeExtents
from scoutfs.metadata.writer import BlockWriter, NoSpace, RawBlock
from scoutfs.storage.device import DeviceError
from tests.metadata.building import FSID
from tests.metadata.writing import Device, Pool, check_tree, contents_of, io_error, unreadable

TOTAL = 20_000


def stored(device: Device, head: ListHead, writer: BlockWriter | None = None) -> list[list[int]]:
    """Return the entries of each block of a list, dirty or not, of which everything was checked."""
    contents = contents_of(device, writer)
    found, ref = [], head.ref
    while ref.blkno:
        data = contents[ref.blkno]
        verify_block("list", data, LARGE_BLOCK_SIZE, Magic.ALLOC_LIST, fsid=FSID, blkno=ref.blkno, seq=ref.seq)
        block = read_list_block(data, "list")
        found.append(list(block.blknos))
        ref = block.next
    assert sum(map(len, found)) == head.total_nr
    assert (len(found[0]) if found else 0) == head.first_nr
    return found


def list_blocks(head: ListHead, writer: BlockWriter) -> list[int]:
    """Return the numbers of the blocks of a list."""
    found, ref = [], head.ref
    while ref.blkno:
        found.append(ref.blkno)
        ref = read_node(writer, ref).next
    return found


def put_list(device: Device, blkno: int, entries: list[int], **place) -> ListHead:
    """Store a list of one block."""
    ref = Ref(blkno, blkno + 7)
    device.contents[blkno] = build_list_block(FSID, ref, entries, **place)
    return ListHead(ref, len(entries), len(entries))


def opening(space: int) -> tuple[Device, BlockWriter, ListAllocator]:
    """What the worked examples begin with: blocks 9000 and 9001, so many free places in the latter."""
    device = Device(TOTAL * LARGE_BLOCK_SIZE)
    avail = put_list(device, 9000, [50, 40, 41, 60])
    freed = put_list(device, 9001, list(range(10_000, 10_000 + 8185 - space)))
    writer = device.writer()
    return device, writer, ListAllocator(writer, avail, freed, TOTAL)


def test_opening_of_the_worked_example() -> None:
    # Spec 04 §17.8
    device, writer, allocator = opening(2046)
    assert allocator.exchange(1) == [41]
    assert (allocator.avail.ref.blkno, allocator.avail.total_nr, allocator.avail.first_nr) == (50, 1, 1)
    assert (allocator.freed.ref.blkno, allocator.freed.total_nr, allocator.freed.first_nr) == (40, 6141, 6141)
    assert stored(device, allocator.avail, writer) == [[60]]
    assert stored(device, allocator.freed, writer)[0][-2:] == [9000, 9001]
    data = dict(writer.encoded())[50 * LARGE_BLOCK_SIZE]
    assert read_list_block(data, "list").start == 3
    assert allocator.exchange(1) == [60]
    with pytest.raises(NoSpace) as full:
        allocator.exchange(1)
    assert full.value.errno == errno.ENOSPC
    for blkno in (0, 1, TOTAL):
        with pytest.raises(ScoutfsError) as error:
            allocator.exchange(0, [blkno])
        assert error.value.errno == errno.EINVAL


def test_opening_with_a_rotation_of_the_worked_example() -> None:
    # Spec 04 §17.8
    device, writer, allocator = opening(2045)
    assert allocator.remaining_freed == 8183
    old = allocator.freed.ref
    assert allocator.exchange(1) == [41]
    assert (allocator.freed.ref.blkno, allocator.freed.first_nr, allocator.freed.total_nr) == (40, 1, 6141)
    assert stored(device, allocator.freed, writer)[0] == [9000]
    data = dict(writer.encoded())[40 * LARGE_BLOCK_SIZE]
    assert read_list_block(data, "list").next == old
    assert allocator.remaining_freed == 8184


def test_blocks_are_taken_in_the_order_of_the_device() -> None:
    device = Device(TOTAL * LARGE_BLOCK_SIZE)
    avail = put_list(device, 9000, [50, 40, 70, 30, 60])
    allocator = ListAllocator(device.writer(), avail, NO_LIST, TOTAL)
    assert allocator.exchange(2) == [30, 60]
    assert allocator.exchange(1) == [70]


def test_opening_needs_two_blocks() -> None:
    device = Device(TOTAL * LARGE_BLOCK_SIZE)
    writer = device.writer()
    for head in (NO_LIST, put_list(device, 9000, [50])):
        with pytest.raises(NoSpace):
            ListAllocator(writer, head, NO_LIST, TOTAL).exchange(1)
    assert writer.dirty_bytes == 0


def test_lists_without_a_block_of_freed_ones() -> None:
    device = Device(TOTAL * LARGE_BLOCK_SIZE)
    writer = device.writer()
    allocator = ListAllocator(writer, put_list(device, 9000, [50, 40, 41]), NO_LIST, TOTAL)
    assert allocator.exchange(1, [77, 78]) == [41]
    assert stored(device, allocator.freed, writer) == [[9000, 77, 78]]


def test_nothing_is_exchanged_by_half() -> None:
    device, writer, allocator = opening(2046)
    with pytest.raises(NoSpace):
        allocator.exchange(3, [70])
    assert (allocator.avail.first_nr, allocator.freed.first_nr) == (2, 6141)
    with pytest.raises(ScoutfsError) as error:
        allocator.exchange(1, range(100, 100 + 2045))
    assert error.value.errno == errno.EIO
    assert allocator.exchange(1, range(100, 100 + 2044)) == [41]
    assert allocator.exchange(0) == []
    assert sorted(stored(device, allocator.freed, writer)[0])[:2] == [100, 101]


def test_a_commit_that_fails_is_opened_again_without_taking_blocks() -> None:
    device, writer, allocator = opening(3000)
    allocator.exchange(1)
    heads = allocator.prepare()
    device.before_write = io_error
    with pytest.raises(DeviceError):
        writer.write()
    device.before_write = lambda offset: None
    allocator.exchange(0, [70])
    assert allocator.avail == heads[0]
    assert allocator.freed.ref == heads[1].ref
    allocator.prepare()
    writer.write()
    assert stored(device, allocator.avail) == [[60]]
    assert stored(device, allocator.freed)[0][-3:] == [9000, 9001, 70]


@pytest.mark.parametrize("damage", ["entries", "count", "gone", "kind"])
def test_damaged_lists(damage: str) -> None:
    device, writer, allocator = opening(2046)
    if damage == "gone":
        device.contents[9000] = bytes(LARGE_BLOCK_SIZE)
    elif damage == "kind":
        writer.add(9000, RawBlock(Magic.BLOOM))
        with pytest.raises(ScoutfsError):
            allocator.exchange(1)
        return
    else:
        entries = [50, 40, TOTAL, 60] if damage == "entries" else [50, 40, 41]
        device.contents[9000] = build_list_block(FSID, Ref(9000, 9007), entries)
    with pytest.raises(DamagedBlock, match="9000"):
        allocator.exchange(1)
    assert writer.dirty_bytes == 0


def test_reserved_blocks_of_the_specification() -> None:
    # Spec 04 §6.6
    assert [reserved_blocks(clients) for clients in (0, 1, 3)] == [16370 + clients * 18311 for clients in (1, 1, 3)]


def test_what_there_must_be_room_for() -> None:
    # Spec 04 §6.3: 1 + extents * (1 + height) * 15 + blocks.
    pool = Pool(remaining_avail=46, remaining_freed=47)
    assert has_room(pool, 1, 2)
    assert not has_room(pool, 1, 2, 1)
    assert not has_room(Pool(remaining_avail=47, remaining_freed=45), 1, 2)


class Space:
    """A pool of blocks for changes, a tree of free blocks, lists."""

    def __init__(self) -> None:
        self.device = Device(TOTAL * LARGE_BLOCK_SIZE)
        self.pool = Pool(next_blkno=15_000)
        self.writer = self.device.writer()
        self.pool.writer = self.writer  # type: ignore[attr-defined]
        self.extents = FreeExtents(self.writer, self.pool)
        self.lists = [BlockList(), BlockList()]

    def entries(self, index: int) -> list[list[int]]:
        return stored(self.device, self.lists[index].head, self.writer)

    def free(self) -> set[int]:
        """Check everything; return the blocks that are free, each once."""
        found = check_tree(self.device, self.extents.tree.root, self.writer)
        blocks = [block for extent in self.extents.extents() for block in range(extent.start, extent.last + 1)]
        blocks += [block for index in (0, 1) for part in self.entries(index) for block in part]
        assert len(blocks) == len(set(blocks))
        lists = [block for index in (0, 1) for block in list_blocks(self.lists[index].head, self.writer)]
        assert sorted([*lists, *found.blknos]) == sorted(self.pool.used)
        return set(blocks)


def test_filling_and_emptying() -> None:
    s = Space()
    s.extents.insert(Extent(100, 10))
    s.extents.insert(Extent(200, 9000))
    fill_list(s.pool, s.lists[0], s.extents, 1, 8185)
    assert s.entries(0) == [list(range(200, 8385))]
    before = s.lists[0].head
    fill_list(s.pool, s.lists[0], s.extents, 8185, 8185)
    assert s.lists[0].head == before
    with pytest.raises(NoSpace):
        fill_list(s.pool, s.lists[1], s.extents, 1000, 1000)
    assert s.entries(1) == [[*range(8385, 9200), *range(100, 110)]]
    assert len(s.free()) == 9010
    empty_list(s.pool, s.lists[0], s.extents)
    empty_list(s.pool, s.lists[1], s.extents)
    assert [list(extent) for extent in s.extents.extents()] == [[100, 10], [200, 9000]]
    assert s.lists[0].head == s.lists[1].head == NO_LIST
    assert len(s.free()) == 9010


def test_filling_and_emptying_stop_without_room() -> None:
    s = Space()
    for number in range(40):
        s.extents.insert(Extent(100 + 2 * number, 1))
    s.pool.remaining_avail = 30
    fill_list(s.pool, s.lists[0], s.extents, 10, 10)
    assert s.lists[0].head.first_nr == 0
    s.pool.remaining_avail = 31
    fill_list(s.pool, s.lists[0], s.extents, 10, 10)
    assert s.lists[0].head.first_nr == 10
    empty_list(s.pool, s.lists[0], s.extents)
    assert s.lists[0].head.first_nr == 10
    s.pool.remaining_avail = 32
    empty_list(s.pool, s.lists[0], s.extents)
    assert s.lists[0].head == NO_LIST
    assert len(s.free()) == 40


def test_splicing() -> None:
    s = Space()
    s.extents.insert(Extent(100, 1000))
    for index, count in ((0, 5), (1, 7)):
        fill_list(s.pool, s.lists[index], s.extents, count, count)
    s.lists[0].head = s.lists[0].head._replace(flags=1)
    s.lists[1].head = s.lists[1].head._replace(flags=1)
    splice_list(s.pool, s.lists[1], s.lists[0])
    assert s.lists[0].head == NO_LIST
    assert s.lists[1].head[1:] == (12, 5, 1)
    assert s.entries(1) == [list(range(100, 105)), list(range(105, 112))]
    before = s.lists[1].head
    splice_list(s.pool, s.lists[1], s.lists[0])
    assert s.lists[1].head == before
    s.writer.write()
    splice_list(s.pool, s.lists[0], s.lists[1])
    assert s.entries(0) == [list(range(100, 105)), list(range(105, 112))]
    assert len(s.free()) == 1000


steps = st.tuples(
    st.sampled_from(["fill", "empty", "splice"]),
    st.integers(0, 1),
    st.integers(1, 60),
    st.integers(0, 14),
    st.booleans(),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(100, 400), st.integers(1, 30)), min_size=1, max_size=8), st.lists(steps))
def test_no_block_is_lost_or_doubled(extents, operations) -> None:
    """`fails_at` says which read, or exchange of blocks, of an operation fails."""
    s = Space()
    for start, length in extents:
        try:
            s.extents.insert(Extent(start, length))
        except ScoutfsError:
            continue
    everything = s.free()
    for what, index, count, fails_at, reads in operations:
        s.pool.fails_at = 0 if reads else fails_at
        if reads:
            s.writer.write()
            s.writer.reader.forget()
            s.device.before_read = unreadable(fails_at)  # type: ignore[method-assign]
        try:
            if what == "fill":
                fill_list(s.pool, s.lists[index], s.extents, count, count)
            elif what == "empty":
                empty_list(s.pool, s.lists[index], s.extents)
            else:
                splice_list(s.pool, s.lists[index], s.lists[1 - index])
        except (NoSpace, DeviceError):
            pass
        s.pool.fails_at = 0
        s.device.before_read = unreadable(0)  # type: ignore[method-assign]
        assert s.free() == everything
