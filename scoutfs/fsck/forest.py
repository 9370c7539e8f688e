"""The items of files: the volume's tree and the log trees of mounts, as one (spec 04 §7.2, §13)."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from itertools import groupby
from typing import Any, NamedTuple

from format.btree import Item, ItemFlag
from format.dirent import NAME_MAX
from format.inode import InodeV1, inode_size
from format.keys import ORPHAN_TYPE, QUOTA_RULE_TYPE, FsType, InodeIndexType, Key, Zone
from format.quota import QuotaRule
from format.xattr import XattrTotl
from scoutfs.fsck.kinds import Kind
from scoutfs.fsck.logs import LogTree
from scoutfs.fsck.report import Report
from scoutfs.fsck.tree import FOREIGN, Tree, Walker
from scoutfs.fsck.words import key_words
from scoutfs.metadata.lock_ranges import LockRange, lock_of

_DIRENT_SIZE = 32
_PART_MAX = 896
_MASK = 2**64 - 1
_DELETION = int(ItemFlag.DELETION)
_V2_ZONES = (Zone.QUOTA, Zone.XATTR_INDX)


class Total(NamedTuple):
    """What the trees say of the attributes with a name that ends in three numbers: sum and number, modulo 2^64."""

    total: int
    number: int


class _Version(NamedTuple):
    """An item of one tree; `order` is the place of the tree: 0 for the volume's."""

    sort_bytes: bytes
    order: int
    item: Item


def check_items(
    walker: Walker,
    report: Report,
    fs_root: Any,
    trees: list[LogTree],
    *,
    fmt_vers: int,
    seq: int,
    merge_seq: int,
    take: Callable[[Item], None],
    take_total: Callable[[Key, Total], None],
) -> None:
    """Walk through all trees with items of files at once, and hand out the version of each item that counts.

    `seq` is that of the super block, `merge_seq` that of the merge that runs or 0.
    """
    problem_of = _problems(fmt_vers)
    sources = [_of_volume(walker, report, fs_root, Tree("fs_root", problem_of), seq)]
    sources += [
        _of_log(walker, report, tree, Tree(tree.name, problem_of, deletions=True), order)
        for order, tree in enumerate(trees, 1)
    ]
    for _, group in groupby(heapq.merge(*sources), key=lambda version: version.sort_bytes):
        versions = list(group)
        if versions[0].item.key.zone == Zone.XATTR_TOTL:
            take_total(versions[0].item.key, _sum(versions, trees, merge_seq))
            continue
        # Of equal versions the first one counts, and max() returns that.
        winner = (versions[0] if len(versions) == 1 else max(versions, key=lambda version: version.item.seq)).item
        if not winner.flags & _DELETION:
            take(winner)


def _of_volume(walker: Walker, report: Report, root: Any, tree: Tree, seq: int) -> Iterator[_Version]:
    for item in walker.items(root, tree):
        if item.seq > seq:
            report.add(Kind.ITEM_SEQ, tree.name, key=key_words(item.key), seq=item.seq, limit=seq)
        yield _Version(item.key.sort_bytes, 0, item)


def _of_log(walker: Walker, report: Report, log: LogTree, tree: Tree, order: int) -> Iterator[_Version]:
    limit = log.parsed.max_item_seq
    lock: LockRange | None = None
    for item in walker.items(log.parsed.item_root, tree):
        if item.seq > limit:
            report.add(Kind.ITEM_SEQ, tree.name, key=key_words(item.key), seq=item.seq, limit=limit)
        if lock is None or item.key > lock.end:
            lock = lock_of(item.key)
            if lock is not None and log.bloom_lacks(lock.start):
                report.add(Kind.BLOOM_MISSING, tree.name, lock=f"the lock from {lock.start} on")
        yield _Version(item.key.sort_bytes, order, item)


def _sum(versions: list[_Version], trees: list[LogTree], merge_seq: int) -> Total:
    volume, merging, other = Total(0, 0), Total(0, 0), Total(0, 0)
    volume_seq = merging_seq = 0
    for version in versions:
        item = version.item
        parsed = XattrTotl.parse(item.value) if item.value else XattrTotl.parse(bytes(XattrTotl.sizeof()))
        if version.order == 0:
            volume, volume_seq = Total(parsed.total, parsed.count), item.seq
            continue
        tree = trees[version.order - 1]
        if tree.finalized and (not merge_seq or tree.parsed.finalize_seq < merge_seq):
            merging = Total(merging.total + parsed.total, merging.number + parsed.count)
            merging_seq = max(merging_seq, item.seq)
        else:
            other = Total(other.total + parsed.total, other.number + parsed.count)
    # What was merged already is in the volume's tree as well: the seqs tell (spec 04 §13).
    if not (merging_seq > volume_seq if volume_seq else merging.number > 0):
        merging = Total(0, 0)
    return Total(
        (volume.total + merging.total + other.total) & _MASK, (volume.number + merging.number + other.number) & _MASK
    )


def _problems(fmt_vers: int) -> Callable[[Item], str | None]:
    """Return the `problem_of` of trees of items of files."""
    types: dict[tuple[int, int], tuple[int, int]] = {
        (Zone.INODE_INDEX, InodeIndexType.META_SEQ): (0, 0),
        (Zone.INODE_INDEX, InodeIndexType.DATA_SEQ): (0, 0),
        (Zone.ORPHAN, ORPHAN_TYPE): (0, 0),
        (Zone.QUOTA, QUOTA_RULE_TYPE): (QuotaRule.sizeof(), QuotaRule.sizeof()),
        (Zone.XATTR_TOTL, 0): (XattrTotl.sizeof(), XattrTotl.sizeof()),
        (Zone.XATTR_INDX, 0): (0, 0),
        (Zone.FS, FsType.INODE): (InodeV1.sizeof(), inode_size(fmt_vers)),
        (Zone.FS, FsType.XATTR): (1, _PART_MAX),
        (Zone.FS, FsType.DIRENT): (_DIRENT_SIZE + 1, _DIRENT_SIZE + NAME_MAX),
        (Zone.FS, FsType.READDIR): (_DIRENT_SIZE + 1, _DIRENT_SIZE + NAME_MAX),
        (Zone.FS, FsType.LINK_BACKREF): (_DIRENT_SIZE + 1, _DIRENT_SIZE + NAME_MAX),
        (Zone.FS, FsType.SYMLINK): (1, _PART_MAX),
        (Zone.FS, FsType.DATA_EXTENT): (16, 16),
    }
    types = {
        (int(zone), int(kind)): sizes for (zone, kind), sizes in types.items() if fmt_vers >= 2 or zone not in _V2_ZONES
    }
    inode = (int(Zone.FS), int(FsType.INODE))

    def problem_of(item: Item) -> str | None:
        kind = (item.key.zone, item.key.type)
        sizes = types.get(kind)
        if sizes is None:
            return FOREIGN
        size = len(item.value)
        if item.flags & _DELETION or sizes[0] <= size <= sizes[1]:
            if kind == inode and size not in (0, *sizes):
                return f"{size} bytes, expected {sizes[0]} or {sizes[1]}"
            return None
        expected = f"{sizes[0]}" if sizes[0] == sizes[1] else f"{sizes[0]} to {sizes[1]}"
        return f"{size} bytes, expected {expected}"

    return problem_of
