"""All checks of a volume, in order."""

from __future__ import annotations

import errno
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from format.block import (
    DATA_START_BLKNO,
    LARGE_BLOCK_SIZE,
    META_START_BLKNO,
    SMALL_BLOCK_SIZE,
    Ref,
)
from format.btree import Item
from format.extent import Extent
from format.keys import Zone
from format.superblock import SuperBlock
from scoutfs.errors import ScoutfsError
from scoutfs.fsck import forest, logs, quorum, quota, superblock
from scoutfs.fsck.allocators import FreeSpace
from scoutfs.fsck.blocks import Blocks, VolumeChanged
from scoutfs.fsck.inodes import InodeItems
from scoutfs.fsck.kinds import Kind
from scoutfs.fsck.links import Links
from scoutfs.fsck.report import Report
from scoutfs.fsck.space import OWNERS_MAX, DataSpace, MetadataSpace
from scoutfs.fsck.srch import SearchFiles
from scoutfs.fsck.tree import Walker
from scoutfs.fsck.words import blocks_words
from scoutfs.storage.device import Device
from scoutfs.storage.volume import SUPER_OFFSET

ATTEMPTS_MAX = 5
"""How often a check begins anew because the volume changes under it."""


@dataclass(frozen=True)
class Progress:
    """How far a check is: the number of its walk, and blocks that were read of how many that may be in use."""

    walk: int
    blocks: int
    expected: int


@dataclass(frozen=True)
class Outcome:
    """What a check has found, and what it has looked at; `attempts` is more than 1 for a volume that changed."""

    report: Report
    summary: Mapping[str, int]
    attempts: int = 1


def check_volume(
    meta: Device,
    data: Device | None,
    *,
    progress: Callable[[Progress], None] = lambda progress: None,
) -> Outcome:
    """Check a volume; `data` is None if its data device is not at hand.

    A volume that is in use is checked as one super block says that it is; if blocks of that time are used again
    meanwhile, all begins anew.  Raises ScoutfsError if there is no volume, or if it changes faster than it is checked.
    """
    stale: set[Ref] = set()
    for attempt in range(1, ATTEMPTS_MAX + 1):
        report = Report()
        super_block = superblock.read(meta, report)
        if super_block is None:
            return Outcome(report, MappingProxyType({}), attempt)
        try:
            return Outcome(report, _Check(meta, data, super_block, report, progress, stale).run(), attempt)
        except VolumeChanged as changed:
            stale.add(changed.ref)
    text = f"the volume is in use and changes faster than it can be checked ({ATTEMPTS_MAX} attempts)"
    raise ScoutfsError(f"{meta.path}: {text}: unmount it, or check a snapshot of its devices", errno.EBUSY)


class _Check:
    """One attempt."""

    def __init__(
        self,
        meta: Device,
        data: Device | None,
        super_block: SuperBlock,
        report: Report,
        progress: Callable[[Progress], None],
        stale: Collection[Ref],
    ) -> None:
        self._meta, self._data, self._super, self._report = meta, data, super_block, report
        self._progress, self._walk_number = progress, 1
        self._raw = super_block.raw
        # Sizes that the devices do not have would only make room for bits that no block stands for.
        total = min(super_block.total_meta_blocks, max(meta.size // LARGE_BLOCK_SIZE, META_START_BLKNO))
        self._data_total = super_block.total_data_blocks
        if data is not None:
            self._data_total = min(self._data_total, data.size // SMALL_BLOCK_SIZE)
        self._data_total = max(self._data_total, DATA_START_BLKNO)
        self._metadata = MetadataSpace(max(total, META_START_BLKNO))
        self._space = DataSpace(DATA_START_BLKNO, self._data_total)
        self._links = Links()
        self._blocks = Blocks(
            meta,
            super_block.fsid,
            self._metadata,
            report,
            changed=self._changed,
            stale=stale,
            progress=self._read_blocks,
        )
        self._walker = Walker(self._blocks)
        self._free = FreeSpace(self._blocks, self._walker, self._space, self._data_total)
        self._inode: InodeItems | None = None
        self._files_lost = 0
        self._deltas = 0
        self._expected = self._metadata.total - sum(root.total_len for root in self._raw.meta_alloc)

    def run(self) -> Mapping[str, int]:
        """Check everything; return what was counted."""
        self._check_small_blocks()
        self._walk()
        lost = self._blocks.lost
        self._conclude()
        summary = {
            "inodes": self._links.inode_count,
            "metadata_blocks_read": self._blocks.count,
            "metadata_blocks": self._metadata.total,
            "data_blocks": self._data_total,
            "blocks_lost": lost,
        }
        self._details(lost)
        return MappingProxyType(summary)

    def _check_small_blocks(self) -> None:
        report, where = self._report, f"super block of {self._meta.path}"
        superblock.check(self._meta, self._super, is_meta=True, report=report)
        superblock.check_totals(self._super, where, self._meta, self._data, report)
        superblock.check_options(self._super, report)
        quorum.check_config(self._super.quorum_config, report)
        quorum.check_blocks(self._meta, self._super.fsid, self._super.quorum_config, report)
        if self._data is None:
            report.add(Kind.DEVICE_UNCHECKED, "data device")
            return
        other = superblock.read(self._data, report)
        if other is not None:
            where = f"super block of {self._data.path}"
            superblock.check(self._data, other, is_meta=False, report=report)
            superblock.check_pair(self._super, other, where, report)
            superblock.check_totals(other, where, self._meta, self._data, report)

    def _walk(self) -> None:
        """Follow every reference: what is in use first, then what is free, so that damage of the latter hides less."""
        raw, walker, blocks = self._raw, self._walker, self._blocks
        mounted = logs.mounted_clients(walker, raw.mounted_clients, blocks)
        lost = blocks.lost
        merge = logs.merge(walker, raw.log_merge, blocks)
        trees = logs.log_trees(walker, raw.logs_root, mounted, blocks)
        self._deltas = sum(tree.parsed.inode_count_delta for tree in trees)
        self._files_lost = blocks.lost - lost
        lost = blocks.lost
        files = SearchFiles(blocks, walker, self._links.search_entry)
        compactions = files.tree(raw.srch_root)
        for tree in trees:
            files.file(tree.parsed.srch_file, f"{tree.name}, search file")
        for compaction in compactions:
            files.claim_output(compaction)
        self._links.srch_is_whole = blocks.lost == lost
        lost = blocks.lost
        forest.check_items(
            walker,
            self._report,
            raw.fs_root,
            trees,
            fmt_vers=self._super.fmt_vers,
            seq=raw.seq,
            merge_seq=merge.seq,
            take=self._take,
            take_total=self._links.total,
        )
        self._end_inode()
        self._files_lost += blocks.lost - lost
        self._walk_free_space(trees, merge, compactions)

    def _walk_free_space(self, trees: list[logs.LogTree], merge: logs.Merge, compactions: list[Any]) -> None:
        raw, free = self._raw, self._free
        for name in ("server_meta_avail", "server_meta_freed"):
            for index, head in enumerate(raw[name]):
                free.list(head, f"{name}[{index}]")
        for tree in trees:
            free.list(tree.parsed.meta_avail, f"{tree.name}, meta_avail")
            free.list(tree.parsed.meta_freed, f"{tree.name}, meta_freed")
            free.data_tree(tree.parsed.data_avail, f"{tree.name}, data_avail")
            free.data_tree(tree.parsed.data_freed, f"{tree.name}, data_freed")
        for compaction in compactions:
            free.list(compaction.meta_avail, f"search compaction {compaction.id:#x}, meta_avail")
            free.list(compaction.meta_freed, f"search compaction {compaction.id:#x}, meta_freed")
        for request in merge.requests:
            free.list(request.meta_avail, f"merge request {request.seq}, meta_avail")
            free.list(request.meta_freed, f"merge request {request.seq}, meta_freed")
        free.data_tree(raw.data_alloc, "data_alloc")
        for index, root in enumerate(raw.meta_alloc):
            free.metadata_tree(root, f"meta_alloc[{index}]")
        for completion in merge.completions:
            self._completion(completion)
        for freeing in merge.freeing:
            logs.claim_freeing(freeing, self._blocks)

    def _completion(self, completion: Any) -> None:
        """Until it is spliced, the volume's tree still refers to the blocks that a merge has replaced and freed."""
        name = f"merge completion {completion.seq}"
        if completion.meta_avail.ref.blkno or completion.meta_freed.ref.blkno:
            self._free.list(completion.meta_avail, f"{name}, meta_avail")
            self._free.list(completion.meta_freed, f"{name}, meta_freed", softly=True)
            logs.claim_completion(completion, self._blocks)

    def _take(self, item: Item) -> None:
        key = item.key
        if key.zone == Zone.FS:
            if self._inode is None or self._inode.ino != key.first:
                self._end_inode()
                self._inode = InodeItems(
                    key.first,
                    self._report,
                    self._links,
                    self._space,
                    data_total=self._data_total,
                    fmt_vers=self._super.fmt_vers,
                )
            self._inode.take(item)
        elif key.zone == Zone.QUOTA:
            quota.check_rule(item, self._report)
        else:
            self._links.item(item)

    def _end_inode(self) -> None:
        if self._inode is not None:
            self._inode.finish()
            self._inode = None

    def _conclude(self) -> None:
        """Compare what was counted over the whole volume."""
        links, report, raw = self._links, self._report, self._raw
        if self._files_lost:
            report.add(Kind.FILES_UNCHECKED, "files", what="entries, inodes, indexes, totals and search files")
            return
        if not links.srch_is_whole:
            report.add(Kind.FILES_UNCHECKED, "files", what="attributes and search files")
        if not links.has_root:
            report.add(Kind.ROOT_MISSING, "inode 1")
        if links.greatest_ino >= raw.next_ino:
            report.add(Kind.NEXT_INO_LOW, "super block", next_ino=raw.next_ino, ino=links.greatest_ino)
        stored = raw.inode_count + self._deltas
        if stored != links.inode_count:
            report.add(Kind.INODE_COUNT, "super block", stored=stored, found=links.inode_count)
        links.report_directories(report)

    def _details(self, lost: int) -> None:
        """Walk again, and maybe once more, to find what does not agree and whose it is."""
        files = not self._files_lost and not self._links.agree
        halves = not self._free.halves.agrees
        data = not self._space.agrees
        shared = self._metadata.shared_count
        self._report_unclaimed(lost)
        if not (files or halves or shared or data):
            return
        if data:
            self._space.begin_ranges()
        if halves:
            self._free.halves.begin_details()
        self._walk_again(files=files)
        if files:
            self._links.report_all(self._report)
        if halves:
            self._free.report_halves()
        for block, owners in sorted(self._metadata.owners.items()):
            self._report.add(Kind.BLOCK_SHARED, "metadata", blkno=block, owners=" and ".join(owners))
        if len(self._metadata.owners) == OWNERS_MAX:
            self._report.count(Kind.BLOCK_SHARED, self._metadata.shared_count - OWNERS_MAX)
        if data:
            self._report_data(lost)

    def _walk_again(self, *, files: bool) -> None:
        self._walk_number += 1
        self._metadata.begin_details()
        self._blocks.begin_walk()
        self._links.begin_walk(details=files)
        self._report.muted = True
        self._walk()
        self._report.muted = False

    def _report_data(self, lost: int) -> None:
        self._space.begin_owners()
        if not self._space.complete:
            self._report.add(Kind.DATA_UNACCOUNTED, "data")
            return
        if self._space.owners:
            self._walk_again(files=False)
        for extent, owners in self._space.owners.items():
            text = blocks_words(extent, "belong")
            self._report.add(Kind.DATA_SHARED, "data", what=text, owners=" and ".join(owners))
        leaked = [extent for extent, count in self._space.wrong() if count < 1]
        if leaked and lost:
            self._report.add(Kind.SPACE_UNCHECKED, "data", device="data")
            return
        for extent in leaked:
            self._report.add(Kind.DATA_LEAKED, "data", what=blocks_words(extent))

    def _report_unclaimed(self, lost: int) -> None:
        leaked: list[Extent] = []
        for extent in self._metadata.unclaimed(META_START_BLKNO):
            if lost:
                self._report.add(Kind.SPACE_UNCHECKED, "metadata", device="metadata")
                return
            for block in range(extent.start, extent.start + extent.length):
                if self._blocks.is_old_parent(block):
                    self._report.add(Kind.BLOCK_LEAKED_PARENT, "metadata", what=blocks_words(Extent(block, 1)))
                elif leaked and leaked[-1].last + 1 == block:
                    leaked[-1] = Extent(leaked[-1].start, leaked[-1].length + 1)
                else:
                    leaked.append(Extent(block, 1))
        for extent in leaked:
            self._report.add(Kind.BLOCK_LEAKED, "metadata", what=blocks_words(extent))

    def _changed(self) -> bool:
        """Whether the super block is another one by now."""
        fresh = self._meta.read(SUPER_OFFSET, SMALL_BLOCK_SIZE)
        return int.from_bytes(fresh[16:24], "little") != self._raw.hdr.seq

    def _read_blocks(self, count: int) -> None:
        self._progress(Progress(self._walk_number, count, self._expected))
