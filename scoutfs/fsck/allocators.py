"""Free space: trees of extents and lists of blocks (spec 04 §6)."""

from __future__ import annotations

from typing import Any

from format.alloc import AllocFlag, read_list_block
from format.block import DATA_START_BLKNO, META_START_BLKNO, BlockError, Magic, Ref
from format.extent import Extent, extent_order, free_extent
from format.keys import Key, Zone
from scoutfs.fsck.blocks import Blocks
from scoutfs.fsck.kinds import Kind
from scoutfs.fsck.reconcile import Reconciliation
from scoutfs.fsck.report import Report
from scoutfs.fsck.space import DataSpace, MetadataSpace
from scoutfs.fsck.tree import Tree, Walker, of_sizes
from scoutfs.fsck.words import extent_words

_FREE_EXTENTS = of_sizes({Zone.FREE_EXTENT_BLKNO: 0, Zone.FREE_EXTENT_ORDER: 0})
_MAX = 2**64 - 1


class FreeSpace:
    """Checks what says that blocks are free, and claims the blocks.

    Each extent is in its tree twice; `halves` tells of those that are there once.
    """

    def __init__(self, blocks: Blocks, walker: Walker, data: DataSpace, data_total: int) -> None:
        self.halves = Reconciliation()
        self._blocks, self._walker = blocks, walker
        self._report: Report = blocks.report
        self._metadata: MetadataSpace = blocks.space
        self._data, self._data_total = data, data_total

    def metadata_tree(self, root: Any, name: str) -> None:
        """Check a parsed `AllocRoot` of metadata blocks."""
        self._tree(root, name, META_START_BLKNO, self._metadata.total, self._claim_metadata)

    def data_tree(self, root: Any, name: str) -> None:
        """Check a parsed `AllocRoot` of data blocks."""
        self._tree(root, name, DATA_START_BLKNO, self._data_total, self._data.claim)

    def list(self, head: Any, name: str, *, softly: bool = False) -> None:
        """Check a parsed `AllocListHead`; `softly` if its blocks may rightly be in use as well."""
        self._check_flags(head, name)
        ref, found, is_first = Ref(head.ref.blkno, head.ref.seq), 0, True
        lost = self._blocks.lost
        while ref.blkno:
            data = self._blocks.read(ref, Magic.ALLOC_LIST, name)
            if data is None:
                break
            try:
                block = read_list_block(data, "list block")
            except BlockError as error:
                self._report.add(Kind.LIST_BLOCK, name, blkno=ref.blkno, problem=str(error))
                self._blocks.lost += 1
                break
            if is_first and len(block.blknos) != head.first_nr:
                self._report.add(
                    Kind.LIST_COUNT, name, field="first_nr", stored=head.first_nr, expected=len(block.blknos)
                )
            self._claim_entries(block.blknos, name, softly)
            found += len(block.blknos)
            ref, is_first = block.next, False
        if found != head.total_nr and lost == self._blocks.lost:
            self._report.add(Kind.LIST_COUNT, name, field="total_nr", stored=head.total_nr, expected=found)

    def report_halves(self) -> None:
        """Report extents that are in their tree once, after the walk for details."""
        half: Any
        for half, weight in self.halves.differences().items():
            name, last, length = half
            present, missing = ("place", "size") if weight > 0 else ("size", "place")
            extent = extent_words(Extent(last - length + 1, length))
            self._report.add(Kind.FREE_EXTENT_HALF, name, extent=extent, present=present, missing=missing)

    def _claim_entries(self, blknos: tuple[int, ...], name: str, softly: bool) -> None:
        for blkno in blknos:
            if not META_START_BLKNO <= blkno < self._metadata.total:
                self._report.add(Kind.LIST_ENTRY, name, entry=blkno, last=self._metadata.total - 1)
            elif softly:
                self._metadata.claim_softly(blkno)
            else:
                self._metadata.claim(blkno, 1, name)

    def _claim_metadata(self, extent: Extent, name: str) -> None:
        self._metadata.claim(extent.start, extent.length, name)

    def _check_flags(self, parsed: Any, name: str) -> None:
        if parsed.flags & ~int(AllocFlag.LOW):
            self._report.add(Kind.ALLOC_FLAGS, name, flags=parsed.flags)

    def _tree(self, root: Any, name: str, first: int, end: int, claim: Any) -> None:
        self._check_flags(root, name)
        previous: Extent | None = None
        total = 0
        lost = self._blocks.lost
        for item in self._walker.items(root.root, Tree(name, _FREE_EXTENTS)):
            key = item.key
            extent = free_extent(key)
            if key.zone == Zone.FREE_EXTENT_ORDER:
                self._order_item(key, extent, name)
                continue
            total += extent.length
            self.halves.add((name, extent.last, extent.length), 1)
            if not extent.length or not first <= extent.start <= extent.last < end:
                details = {"extent": f"{extent.start}+{extent.length}", "first": first, "last": end - 1}
                self._report.add(Kind.FREE_EXTENT_RANGE, name, **details)
                continue
            if previous is not None and extent.start <= previous.last + 1:
                touching = extent.start == previous.last + 1
                kind = Kind.FREE_EXTENT_TOUCHING if touching else Kind.FREE_EXTENT_OVERLAP
                self._report.add(kind, name, extent=extent_words(previous), other=extent_words(extent))
            previous = extent
            claim(extent, name)
        if total != root.total_len and lost == self._blocks.lost:
            self._report.add(Kind.FREE_TOTAL, name, stored=root.total_len, expected=total)

    def _order_item(self, key: Key, extent: Extent, name: str) -> None:
        self.halves.add((name, extent.last, extent.length), -1)
        stored, expected = _MAX - key.first, extent_order(extent.length)
        if stored != expected:
            details = {"extent": extent_words(extent), "stored": stored, "expected": expected}
            self._report.add(Kind.FREE_EXTENT_ORDER, name, **details)
