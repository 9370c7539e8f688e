"""The allocator of a transaction: blocks come from one list and go to another (spec 04 §6.3, §6.6).

Taking and freeing a block changes nothing but the first block of either list, which are dirty already: so allocators
can serve those who copy blocks without copying any.  The lists are filled from, and emptied into, trees of free extents
between transactions, by an allocator that they are no part of.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import Protocol

from format.alloc import LIST_MAX_BLOCKS
from format.block import META_START_BLKNO, NO_REF
from format.extent import Extent
from scoutfs.errors import ScoutfsError
from scoutfs.metadata.block_lists import NO_LIST, BlockList, ListHead, ListNode, read_first, read_node
from scoutfs.metadata.extents import NoExtent
from scoutfs.metadata.free_extents import BudgetedAllocator, FreeExtents, blocks_of_change
from scoutfs.metadata.writer import BlockWriter, NoSpace

META_FILL_TARGET = LIST_MAX_BLOCKS
"""64 KiB blocks that a list of a client, or of the server, is filled with."""
META_FILL_LOW = 4092
"""A list with fewer blocks is filled."""
MERGE_FILL_TARGET = 1028
"""64 KiB blocks that the list of a merge request is filled with, and below which it is filled."""
DATA_FILL_TARGET = 1 << 20
"""4 KiB blocks that a client gets for data."""
DATA_FILL_LOW = 1 << 18
"""A client with fewer is given more."""
DATA_COMMIT_LOW = 1 << 16
"""A client with fewer commits, to be given more, unless the server has said that there are none."""
MERGE_BUDGET_BLOCKS = 913
"""Blocks of a log tree that is grown until it is finalized."""

_ROTATION_SPACE = LIST_MAX_BLOCKS // 4
"""Free places below which a new block is put in front of a list of freed blocks."""
_ROTATED_SPACE = LIST_MAX_BLOCKS - 2
"""Free places that there will be then."""


def reserved_blocks(clients: int) -> int:
    """Return how many metadata blocks are kept for so many clients to delete with when space runs out."""
    per_client = 2 * LIST_MAX_BLOCKS + MERGE_FILL_TARGET + MERGE_BUDGET_BLOCKS
    return 2 * LIST_MAX_BLOCKS + max(1, clients) * per_client


class ListAllocator:
    """Takes blocks from the first block of the list `avail` and frees them to that of `freed`.

    `total_blocks` is the number of blocks of the device.  The first exchange of a transaction opens the lists: their
    first blocks are copied to blocks that are in `avail` themselves.  `prepare` ends the transaction.
    """

    def __init__(self, writer: BlockWriter, avail: ListHead, freed: ListHead, total_blocks: int) -> None:
        self.writer = writer
        self._avail = BlockList(avail)
        self._freed = BlockList(freed)
        self._total_blocks = total_blocks
        self._open: tuple[ListNode, ListNode] | None = None

    @property
    def avail(self) -> ListHead:
        """The head of the list of blocks that can be taken, as it is now."""
        return self._avail.head

    @property
    def freed(self) -> ListHead:
        """The head of the list of blocks that were freed, as it is now."""
        return self._freed.head

    @property
    def remaining_avail(self) -> int:
        """How many blocks can be taken in this transaction."""
        return self.avail.first_nr

    @property
    def remaining_freed(self) -> int:
        """How many blocks can be freed in this transaction."""
        space = LIST_MAX_BLOCKS - self.freed.first_nr
        return _ROTATED_SPACE if self._open is None and space < _ROTATION_SPACE else space

    def is_low(self, blocks: int) -> bool:
        """Whether fewer than `blocks` can be taken or freed, or only behind a rotation."""
        return self.avail.first_nr < blocks or LIST_MAX_BLOCKS - self.freed.first_nr < blocks

    def exchange(self, count: int, freed: Sequence[int] = ()) -> list[int]:
        """Take `count` blocks and free others, all or nothing.

        Raises NoSpace if there are too few to take, ScoutfsError if there is no room for those that are freed or they
        cannot be, and DamagedBlock or DeviceError when the lists are opened.
        """
        if not count and not freed:
            return []
        for blkno in freed:
            if not META_START_BLKNO <= blkno < self._total_blocks:
                raise ScoutfsError(f"block {blkno} cannot be freed: it is none of the device", errno.EINVAL)
        if self._open is None:
            self._open = self._opened()
        available, given_back = self._open
        if count > len(available.blknos):
            raise NoSpace(f"{count} blocks are needed, {len(available.blknos)} are left for this transaction")
        if len(given_back.blknos) + len(freed) > LIST_MAX_BLOCKS:
            raise ScoutfsError("too many blocks were freed in this transaction", errno.EIO)
        given_back.add(freed)
        self._freed.counted(len(freed))
        self._avail.counted(-count)
        return available.take(count)

    def prepare(self) -> tuple[ListHead, ListHead]:
        """End the transaction; return the heads of both lists, which are what is to be stored."""
        self._open = None
        return self.avail, self.freed

    def _opened(self) -> tuple[ListNode, ListNode]:
        """Make the first block of each list dirty; nothing has changed if that fails."""
        writer, avail, freed = self.writer, self.avail, self.freed
        if not avail.ref.blkno:
            raise NoSpace("no free metadata block is left")
        available = read_first(writer, avail)
        rotate = freed.ref.blkno != 0 and LIST_MAX_BLOCKS - freed.first_nr < _ROTATION_SPACE
        given_back = ListNode(freed.ref) if rotate else read_first(writer, freed)
        # What was not written because a commit has failed is dirty, and stays where it is.
        copies_avail = not writer.is_dirty(avail.ref)
        copies_freed = rotate or not freed.ref.blkno or not writer.is_dirty(freed.ref)
        if avail.first_nr < copies_avail + copies_freed:
            raise NoSpace(f"only {avail.first_nr} metadata blocks are left, two are needed for the lists of them")
        blknos = available.take(copies_avail + copies_freed)
        self._avail.counted(-len(blknos))
        available.sort()
        old = []
        if copies_avail:
            self._avail.head = self.avail._replace(ref=writer.add(blknos.pop(0), available))
            old.append(avail.ref.blkno)
        if copies_freed:
            new = writer.add(blknos.pop(0), given_back)
            self._freed.head = freed._replace(ref=new, first_nr=0 if rotate else freed.first_nr)
            if freed.ref.blkno and not rotate:
                old.append(freed.ref.blkno)
        given_back.add(old)
        self._freed.counted(len(old))
        return available, given_back


class RoomyAllocator(BudgetedAllocator, Protocol):
    """An allocator for changes to lists and trees of extents, and the writer of their blocks."""

    @property
    def writer(self) -> BlockWriter:
        """Where dirty blocks go to."""


def has_room(allocator: BudgetedAllocator, extents: int, height: int, blocks: int = 0) -> bool:
    """Return whether changing so many extents of a tree of this height, and `blocks` more, is possible."""
    most = 1 + extents * blocks_of_change(height) + blocks
    return min(allocator.remaining_avail, allocator.remaining_freed) >= most


def fill_list(allocator: RoomyAllocator, list: BlockList, extents: FreeExtents, low: int, target: int) -> None:
    """Fill the first block of a list up to `target` entries from a tree, if it has fewer than `low`.

    It may stay below that if `allocator`, which the list is no part of, has no room for more.  Raises NoSpace if the
    tree runs out: what it had is in the list then.
    """
    if list.head.first_nr >= low:
        return
    node = _dirty_first(allocator, list)
    while list.head.first_nr < target and has_room(allocator, 1, extents.tree.root.height):
        try:
            extent = extents.allocate(target - list.head.first_nr)
        except NoExtent as error:
            raise NoSpace(f"no free metadata block is left: a list got {list.head.first_nr} of {target}") from error
        node.add(range(extent.start, extent.start + extent.length))
        list.counted(extent.length)


def empty_list(allocator: RoomyAllocator, list: BlockList, extents: FreeExtents) -> None:
    """Move the entries of a list to a tree, and free its blocks, as far as `allocator` has room for it."""
    while list.head.ref.blkno and has_room(allocator, 1, extents.tree.root.height, 1):
        if not list.head.first_nr:
            _free_first(allocator, list)
            continue
        node = _dirty_first(allocator, list)
        node.sort()
        while node.blknos and has_room(allocator, 1, extents.tree.root.height, 1):
            count = node.run()
            extents.insert(Extent(node.blknos[0], count))
            node.take(count)
            list.counted(-count)


def splice_list(allocator: RoomyAllocator, target: BlockList, source: BlockList) -> None:
    """Put a list in front of another; `source` is empty then, `target` keeps its flags.

    Every block of `source` is copied: it should be short.  If that fails both lists are as they were.
    """
    if not source.head.ref.blkno:
        return
    writer = allocator.writer
    previous: ListNode | None = None
    ref = source.head.ref
    while ref.blkno:
        node = read_node(writer, ref)
        ref = writer.replace(ref, node, allocator)
        if previous is None:
            source.head = source.head._replace(ref=ref)
        else:
            previous.next = ref
        previous, ref = node, node.next
    assert previous is not None
    previous.next = target.head.ref
    total = target.head.total_nr + source.head.total_nr
    target.head = ListHead(source.head.ref, total, source.head.first_nr, target.head.flags)
    source.head = NO_LIST


def _dirty_first(allocator: RoomyAllocator, list: BlockList) -> ListNode:
    """Make the first block of a list dirty, a new one if it has none."""
    node = read_first(allocator.writer, list.head)
    list.head = list.head._replace(ref=allocator.writer.replace(list.head.ref, node, allocator))
    return node


def _free_first(allocator: RoomyAllocator, list: BlockList) -> None:
    """Free the first block of a list, which has no entries left."""
    following = read_first(allocator.writer, list.head).next
    count = len(read_node(allocator.writer, following).blknos) if following != NO_REF else 0
    allocator.exchange(0, [list.head.ref.blkno])
    allocator.writer.drop(list.head.ref.blkno)
    list.head = list.head._replace(ref=following, first_nr=count)
