"""Trees of free extents, and moving extents between them (spec 04 §6.2, §6.4)."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum, auto
from typing import Any, NamedTuple, Protocol

from format.extent import Extent, extent_order, free_extent, free_extent_keys
from format.keys import Key, Zone
from scoutfs.metadata.blocks import DamagedBlock
from scoutfs.metadata.btree import NO_ROOT, Root
from scoutfs.metadata.btree_writer import BtreeWriter
from scoutfs.metadata.extents import MappedExtent, NoExtent, carry_out, insertion, removal
from scoutfs.metadata.writer import BlockAllocator, BlockWriter, NoSpace

ZONES_MAX = 1024
"""Zones of a data device that a bitmap has bits for."""

MOVE_RESERVE = 50
"""Blocks that moving extents leave to others, beside what moving one more may need."""

_LENGTH_MAX = 1 << 51


class AllocatorRoot(NamedTuple):
    """The root of a tree of free extents, see `format.alloc.AllocRoot`; `total_len` is the sum of their blocks."""

    total_len: int = 0
    flags: int = 0
    root: Root = NO_ROOT

    @classmethod
    def of(cls, parsed: Any) -> AllocatorRoot:
        """Convert a parsed `format.alloc.AllocRoot`."""
        return cls(parsed.total_len, parsed.flags, Root.of(parsed.root))

    def fields(self) -> dict[str, Any]:
        """Return what `format.alloc.AllocRoot` is built from."""
        return {"total_len": self.total_len, "flags": self.flags, "root": self.root.fields()}


NO_EXTENTS = AllocatorRoot()
"""The root of an empty tree."""


class BudgetedAllocator(BlockAllocator, Protocol):
    """An allocator that tells how many blocks it has left."""

    @property
    def remaining_avail(self) -> int:
        """How many blocks can be taken."""

    @property
    def remaining_freed(self) -> int:
        """How many blocks can be freed."""

    def is_low(self, blocks: int) -> bool:
        """Whether fewer than `blocks` can be taken or freed."""


class FreeExtents:
    """A tree of free extents that is changed: each is in it twice, by its place and by its size.

    None touches another.  A change that fails is undone.  Every method may raise what `BtreeWriter` raises.
    """

    def __init__(self, writer: BlockWriter, allocator: BlockAllocator, root: AllocatorRoot = NO_EXTENTS) -> None:
        self.tree = BtreeWriter(writer, allocator, root.root)
        self.total_len = root.total_len
        self.flags = root.flags

    @property
    def root(self) -> AllocatorRoot:
        """The tree as it is now."""
        return AllocatorRoot(self.total_len, self.flags, self.tree.root)

    def find(self, block: int) -> MappedExtent | None:
        """Return the extent that contains a block, or the first one behind it; None if there is none."""
        return self._next(Key(Zone.FREE_EXTENT_BLKNO, block, 0, 1))

    def find_by_order(self, extent: Extent) -> MappedExtent | None:
        """Return the first extent that is not sorted before `extent`: by falling order, then by the last block."""
        return self._next(free_extent_keys(extent)[1])

    def largest(self) -> MappedExtent | None:
        """Return an extent of the largest order, the first of them on the device; None if there is none."""
        return self._next(Key(Zone.FREE_EXTENT_ORDER))

    def extents(self) -> Iterator[Extent]:
        """Yield all extents in the order of the device; the tree must not be changed meanwhile."""
        first, last = (Key(Zone.FREE_EXTENT_BLKNO, block).sort_bytes for block in (0, Key.ONES.first))
        for item in self.tree.items(first, last):
            yield free_extent(Key.from_sort_bytes(item.key))

    def insert(self, extent: Extent) -> None:
        """Add free blocks; raises InvalidExtent if some of them are there already."""
        wanted = MappedExtent(extent.start, extent.length)
        carry_out(insertion(self.find, wanted), self._remove, self._insert)

    def remove(self, extent: Extent) -> None:
        """Take blocks out; raises NoExtent or InvalidExtent if they are not all in one extent."""
        carry_out(removal(self.find, extent.start, extent.length), self._remove, self._insert)

    def allocate(self, count: int) -> Extent:
        """Take out and return up to `count` blocks, the front of an extent of the largest order; raises NoExtent."""
        found = self.largest()
        if found is None:
            raise NoExtent("no free extent is left")
        extent = Extent(found.start, min(found.length, count))
        self.remove(extent)
        return extent

    def _next(self, key: Key) -> MappedExtent | None:
        last = Key(key.zone, Key.ONES.first, Key.ONES.type, Key.ONES.second, Key.ONES.third, Key.ONES.fourth)
        item = self.tree.next(key.sort_bytes, last.sort_bytes)
        if item is None:
            return None
        extent = free_extent(Key.from_sort_bytes(item.key))
        if item.value or not extent.length or extent.last > Key.ONES.first:
            name = self.tree.writer.name(self.tree.root.ref)
            raise DamagedBlock(f"{name}: item {Key.from_sort_bytes(item.key)}: is no free extent")
        return MappedExtent(*extent)

    def _insert(self, extent: MappedExtent) -> None:
        place, size = (key.sort_bytes for key in free_extent_keys(Extent(extent.start, extent.length)))
        self.tree.insert(place, b"")
        try:
            self.tree.insert(size, b"")
        except Exception:
            self.tree.delete(place)
            raise
        self.total_len += extent.length

    def _remove(self, extent: MappedExtent) -> None:
        place, size = (key.sort_bytes for key in free_extent_keys(Extent(extent.start, extent.length)))
        self.tree.delete(place)
        try:
            self.tree.delete(size)
        except Exception:
            self.tree.insert(place, b"")
            raise
        self.total_len -= extent.length


def blocks_of_change(height: int) -> int:
    """Return how many blocks changing one extent of a tree of this height takes or frees at most."""
    return (1 + height) * 15


class Stop(Enum):
    """Why moving extents has ended."""

    DONE = auto()
    BUDGET = auto()
    """It would take more blocks than it may in this commit: go on in the next one."""
    LOW = auto()
    """The allocator has too few blocks left to go on."""
    EMPTY = auto()
    """There is nothing left to move."""


class Moved(NamedTuple):
    """How many blocks were moved, and why no more were."""

    blocks: int
    stop: Stop


class Zones(NamedTuple):
    """Where on a device of zones of `blocks` blocks a client should get its data: bit n of a mask is zone n.

    First from zones that only this client uses, then from those that nobody uses, then from anywhere.
    """

    blocks: int = 0
    exclusive: int = 0
    vacant: int = 0


NO_ZONES = Zones()
"""Data may come from anywhere."""


def move_extents(
    target: FreeExtents,
    source: FreeExtents,
    total: int,
    allocator: BudgetedAllocator,
    *,
    zones: Zones = NO_ZONES,
    budget: int = 0,
) -> Moved:
    """Move up to `total` free blocks between trees, taking and freeing at most `budget` blocks unless it is 0.

    What was moved stays moved whatever comes next.  Raises NoSpace if the allocator is too low for anything, and what
    changing the trees raises: then both roots must be kept too.
    """
    masks = [mask for mask in (zones.exclusive, zones.vacant) if mask] if zones.blocks else []
    avail, freed = allocator.remaining_avail, allocator.remaining_freed
    moved = 0
    while moved < total:
        part = None
        while masks and part is None:
            part = find_in_zones(source, masks[0], zones.blocks, total - moved)
            if part is None:
                masks.pop(0)
        if part is None:
            found = source.largest()
            if found is None:
                return Moved(moved, Stop.EMPTY)
            part = Extent(found.start, min(found.length, total - moved))
        needed = blocks_of_change(source.tree.root.height) + blocks_of_change(target.tree.root.height)
        used = max(avail - allocator.remaining_avail, freed - allocator.remaining_freed)
        if budget and used + needed > budget:
            return Moved(moved, Stop.BUDGET)
        if allocator.is_low(MOVE_RESERVE + needed):
            if not moved:
                raise NoSpace("too few free metadata blocks are left to move free extents")
            return Moved(moved, Stop.LOW)
        source.remove(part)
        try:
            target.insert(part)
        except Exception:
            source.insert(part)
            raise
        moved += part.length
    return Moved(moved, Stop.DONE)


def find_in_zones(extents: FreeExtents, mask: int, zone_blocks: int, count: int) -> Extent | None:
    """Return up to `count` blocks that start in a zone of `mask`, of an extent of an order as large as possible.

    They may go on behind the end of the zone.  None if no extent has blocks in these zones.
    """
    length, zone = _LENGTH_MAX, 0
    while True:
        found_zone = _first_bit(mask, zone)
        if found_zone is None:
            length //= 8
            found_zone = _first_bit(mask, 0)
            if not length or found_zone is None:
                return None
        found = extents.find_by_order(Extent(found_zone * zone_blocks, length))
        if found is None:
            return None
        first = _first_bit(mask, found.start // zone_blocks)
        if first is not None and first <= (found.end - 1) // zone_blocks:
            start = max(first * zone_blocks, found.start)
            return Extent(start, min(count, found.end - start))
        zone = (found.end - 1) // zone_blocks + 1
        length = 8 ** extent_order(found.length)


def _first_bit(mask: int, start: int) -> int | None:
    """Return the first bit from `start` on that is set; None if there is none."""
    rest = mask >> start
    return None if not rest else start + (rest & -rest).bit_length() - 1
