"""Which block belongs to whom: each exactly once (spec 04 §14.5, spec 01 §10.7).

Metadata blocks have a bit each.  Data devices are too large for that: an extent is told by where it starts and where it
ends.  If all extents together cover the device once, every end is the start of another, and the two cancel; see
`reconcile`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from format.extent import Extent
from scoutfs.fsck.reconcile import Reconciliation

OWNERS_MAX = 200
"""Blocks or ranges whose owners are looked for; more are counted only."""

_NOT_FULL = re.compile(rb"[^\xff]")


class Bitmap:
    """A bit for each of `size` blocks."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._bits = bytearray((size + 7) // 8)

    def add(self, start: int, length: int = 1) -> list[int]:
        """Set the bits of blocks that exist; return those that were set before."""
        if length == 1:
            index, bit = start >> 3, 1 << (start & 7)
            if self._bits[index] & bit:
                return [start]
            self._bits[index] |= bit
            return []
        end = start + length
        first, last = (start + 7) >> 3, end >> 3
        if first >= last:
            return [block for number in range(start, end) for block in self.add(number)]
        again = [block for number in range(start, first << 3) for block in self.add(number)]
        middle = self._bits[first:last]
        if middle.count(0) == len(middle):
            self._bits[first:last] = b"\xff" * len(middle)
        else:
            again += [block for number in range(first << 3, last << 3) for block in self.add(number)]
        return again + [block for number in range(last << 3, end) for block in self.add(number)]

    def __contains__(self, block: int) -> bool:
        return bool(self._bits[block >> 3] >> (block & 7) & 1)

    def gaps(self, first: int) -> Iterator[Extent]:
        """Yield the runs of blocks from `first` on that are not set."""
        start = end = first
        for match in _NOT_FULL.finditer(self._bits, first >> 3):
            index = match.start()
            for block in range(max(first, index << 3), min((index + 1) << 3, self._size)):
                if block in self:
                    continue
                if block != end:
                    if end > start:
                        yield Extent(start, end - start)
                    start = block
                end = block + 1
        if end > start:
            yield Extent(start, end - start)


class MetadataSpace:
    """The owners of the blocks of the metadata device.

    Blocks are claimed by whoever refers to them; `shared_count` counts claims on blocks that had one.  The same walk
    behind `begin_details` finds the `owners` of the first of these.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.shared: set[int] = set()
        self.shared_count = 0
        self.owners: dict[int, list[str]] = {}
        self._claimed = Bitmap(total)

    def claim(self, start: int, length: int, owner: str) -> None:
        """Note that these blocks, which exist, belong to `owner`."""
        for block in self._claimed.add(start, length):
            self.shared_count += not self.owners
            if len(self.shared) < OWNERS_MAX:
                self.shared.add(block)
        if length == 1:
            if start in self.owners:
                self.owners[start].append(owner)
            return
        for block in self.owners:
            if start <= block < start + length:
                self.owners[block].append(owner)

    def claim_softly(self, block: int) -> None:
        """Note that a block may belong to somebody, whose claim counts only if nobody else has one."""
        self._claimed.add(block)

    def begin_details(self) -> None:
        """Forget who claimed what, to learn the owners of blocks that have several."""
        self.owners = {block: [] for block in self.shared}
        self._claimed = Bitmap(self.total)

    def unclaimed(self, first: int) -> Iterator[Extent]:
        """Yield the runs of blocks from `first` on that nobody claims."""
        return self._claimed.gaps(first)


class DataSpace:
    """The owners of the blocks of the data device, `first` to `total` - 1: `agrees` if each has exactly one.

    Walks are repeated: one finds the places where extents do not meet, and with them the ranges without an owner or
    with several; another finds those owners.
    """

    def __init__(self, first: int, total: int) -> None:
        self._first, self._total = first, total
        self._ends = Reconciliation()
        self._ranges: list[tuple[Extent, int]] = []
        self.owners: dict[Extent, list[str]] = {}
        self._expect()

    def claim(self, extent: Extent, owner: str) -> None:
        """Note that an extent, which lies on the device, belongs to `owner`."""
        self._ends.add(extent.start, 1)
        self._ends.add(extent.start + extent.length, -1)
        for wanted, owners in self.owners.items():
            if extent.start <= wanted.last and wanted.start <= extent.last:
                owners.append(owner)

    @property
    def complete(self) -> bool:
        """Whether all ranges were found that are wrong."""
        return self._ends.complete

    @property
    def agrees(self) -> bool:
        """Whether each block belongs to exactly one owner."""
        return self._ends.agrees

    def begin_ranges(self) -> None:
        """Begin the walk that finds where something is wrong."""
        self._ends.begin_details()
        self._expect()

    def begin_owners(self) -> None:
        """Begin the walk that finds whose the ranges are."""
        self._ranges = list(self._wrong_ranges())
        self.owners = {extent: [] for extent, count in self._ranges[:OWNERS_MAX] if count > 1}

    def wrong(self) -> list[tuple[Extent, int]]:
        """Return the ranges that do not have one owner, with the number that they have."""
        return self._ranges

    def _expect(self) -> None:
        self._ends.add(self._first, -1)
        self._ends.add(self._total, 1)

    def _wrong_ranges(self) -> Iterator[tuple[Extent, int]]:
        count, previous = 1, 0
        for place, change in sorted((int(str(place)), change) for place, change in self._ends.differences().items()):
            if count != 1 and place > previous:
                yield Extent(previous, place - previous), count
            count, previous = count + change, place
