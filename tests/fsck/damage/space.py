"""Damage of free space, log trees, merges and search files."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from format.block import seal
from format.extent import Extent, free_extent, free_extent_keys
from format.keys import Key, SrchType, Zone
from format.logs import LogMergeRange, LogMergeStatus
from format.srch import SrchFile, encode_entry, read_entries
from tests.format.blocks import Given
from tests.fsck.corruption import LARGE, Corruption
from tests.fsck.damage.registry import CRASHED, damage

# Free space


@damage("alloc-flags")
def alloc_flags(c: Corruption) -> None:
    c.change_super(lambda parsed: parsed.meta_alloc[0].update({"flags": 2}))


@damage("free-total")
def free_total(c: Corruption) -> None:
    c.change_super(lambda parsed: parsed.data_alloc.update({"total_len": 1}))


def free_extents(c: Corruption) -> tuple[Any, list[Extent]]:
    """The parsed root of the free data extents, and these."""
    root = c.super.data_alloc.root
    return root, [free_extent(key) for key in c.items(root) if key.zone == Zone.FREE_EXTENT_BLKNO]


def replace_extents(c: Corruption, old: list[Extent], new: list[Extent]) -> None:
    """Put other free data extents in the place of some, and count them."""
    root = c.super.data_alloc.root

    def change(items: dict[Key, Given]) -> None:
        for extent in old:
            for key in free_extent_keys(extent):
                del items[key]
        for extent in new:
            items.update({key: Given(key) for key in free_extent_keys(extent)})

    c.rewrite(c.path(root)[-1], change)
    grown = sum(extent.length for extent in new) - sum(extent.length for extent in old)
    c.change_super(lambda parsed: parsed.data_alloc.update({"total_len": parsed.data_alloc.total_len + grown}))


@damage("free-extent-range", "data-leaked")
def free_extent_beyond_the_device(c: Corruption) -> None:
    _, extents = free_extents(c)
    replace_extents(c, extents[-1:], [Extent(1 << 40, extents[-1].length)])


@damage("free-extent-overlap", "data-shared")
def overlapping_free_extents(c: Corruption) -> None:
    _, extents = free_extents(c)
    one, other = extents[0], extents[1]
    replace_extents(c, [one], [Extent(one.start, other.start - one.start + 1)])


@damage("free-extent-touching")
def touching_free_extents(c: Corruption) -> None:
    _, extents = free_extents(c)
    last = extents[-1]
    replace_extents(c, [last], [Extent(last.start, 5), Extent(last.start + 5, last.length - 5)])


@damage("free-extent-order")
def order_of_a_free_extent(c: Corruption) -> None:
    root, _ = free_extents(c)
    key = next(key for key in c.items(root) if key.zone == Zone.FREE_EXTENT_ORDER)
    c.move(key, Key(key.zone, key.first - 1, key.type, key.second, key.third), root)


@damage("free-extent-half")
def free_extent_without_its_size(c: Corruption) -> None:
    root, extents = free_extents(c)
    c.remove(free_extent_keys(extents[0])[1], root)


@damage("free-extent-half", "free-total", "data-leaked")
def free_extent_without_its_place(c: Corruption) -> None:
    root, extents = free_extents(c)
    c.remove(free_extent_keys(extents[0])[0], root)


# Log trees and merges


@damage("log-item", volume=CRASHED)
def log_of_another_number(c: Corruption) -> None:
    c.change_log(0, lambda parsed: parsed.update({"nr": 9}))


@damage("log-seqs", volume=CRASHED)
def log_committed_before_it_began(c: Corruption) -> None:
    c.change_log(1, lambda parsed: parsed.update({"commit_trans_seq": parsed.get_trans_seq + 1}))


@damage("log-seqs", volume=CRASHED)
def finalized_without_a_seq(c: Corruption) -> None:
    c.change_log(0, lambda parsed: parsed.update({"finalize_seq": 0}))


@damage("log-unfinalized", volume=CRASHED)
def log_that_was_not_finalized(c: Corruption) -> None:
    c.change_log(0, lambda parsed: parsed.update({"flags": 0, "finalize_seq": 0}))


@damage("log-finalized-space", volume=CRASHED)
def finalized_log_with_free_space(c: Corruption) -> None:
    c.change_log(1, lambda parsed: parsed.update({"flags": 1, "finalize_seq": parsed.get_trans_seq}))


@damage(notes=("log-abandoned",), volume=CRASHED)
def log_of_a_mount_that_is_gone(c: Corruption) -> None:
    c.rewrite(c.path(c.super.mounted_clients)[0], lambda items: items.clear())


@damage("bloom-missing", volume=CRASHED)
def empty_bloom_block(c: Corruption) -> None:
    c.change_block(c.logs()[0].bloom_ref.blkno, lambda data: data.__setitem__(slice(32, LARGE), bytes(LARGE - 32)))


@damage("bloom-count", volume=CRASHED)
def bloom_count(c: Corruption) -> None:
    c.poke(c.logs()[0].bloom_ref.blkno, 32, "Q", 5)


@damage("merge-count", volume=CRASHED)
def merge_requests(c: Corruption) -> None:
    root = c.super.log_merge
    parsed = LogMergeStatus.parse(c.items(root)[Key(Zone.LOG_MERGE_STATUS)].value)
    parsed.nr_requests = 1
    c.put(Key(Zone.LOG_MERGE_STATUS), LogMergeStatus.build(parsed), root, seq=0)


@damage("merge-item", volume=CRASHED)
def merge_range_backwards(c: Corruption) -> None:
    root = c.super.log_merge
    key = Key(Zone.LOG_MERGE_RANGE)
    parsed = LogMergeRange.parse(c.items(root)[key].value)
    parsed.start.zone, parsed.end.zone = 9, 8
    c.put(key, LogMergeRange.build(parsed), root, seq=0)


@damage("merge-item", volume=CRASHED)
def merge_without_a_status(c: Corruption) -> None:
    c.remove(Key(Zone.LOG_MERGE_STATUS), c.super.log_merge)


# Search files


def _srch(c: Corruption) -> tuple[Any, Key, Any]:
    root = c.super.srch_root
    key, stored = next(iter(c.items(root).items()))
    return root, key, SrchFile.parse(stored.value)


@damage("srch-item")
def search_file_under_another_key(c: Corruption) -> None:
    root, key, _ = _srch(c)
    c.move(key, Key(Zone.SRCH, 0, SrchType.LOG, 12345), root)


@damage("srch-file")
def search_file_entries(c: Corruption) -> None:
    root, key, file = _srch(c)
    file.entries += 1
    c.put(key, SrchFile.build(file), root)


@damage("srch-block")
def search_block_tail(c: Corruption) -> None:
    _, _, file = _srch(c)
    c.poke(file.ref.blkno, 80, "Q", 1)


@damage("srch-block", notes=("files-unchecked",))
def search_block_bytes(c: Corruption) -> None:
    _, _, file = _srch(c)
    c.poke(file.ref.blkno, 108, "I", LARGE)


@damage("srch-order")
def unsorted_file_among_the_sorted(c: Corruption) -> None:
    root, key, file = _srch(c)
    c.move(key, Key(Zone.SRCH, 0, SrchType.BLOCKS, file.blocks, file.ref.blkno), root)


def _reencode(c: Corruption, change: Callable[[list[Any]], object]) -> None:
    root, key, file = _srch(c)
    data = bytearray(c.block(file.ref.blkno))
    entries = [entry for entry, _ in read_entries(data, "")]
    change(entries)
    coded, base = b"", (0, 0, 0)
    for entry in entries:
        coded += encode_entry(entry, base)  # type: ignore[arg-type]
        base = entry
    ends = (min(entries), max(entries), entries[-1])
    struct.pack_into("<9QII", data, 32, *ends[0], *ends[1], *ends[2], len(entries), len(coded))
    data[112:] = coded.ljust(LARGE - 112, b"\0")
    c.meta.write(file.ref.blkno * LARGE, seal(data, LARGE))
    file.entries = len(entries)
    for name, entry in (("first", ends[0]), ("last", ends[1])):
        file[name].hash, file[name].ino, file[name].id = entry
    c.put(key, SrchFile.build(file), root)


@damage("srch-missing")
def attribute_that_is_not_found(c: Corruption) -> None:
    def forget(entries: list[Any]) -> None:
        entries.remove(next(entry for entry in entries if entries.count(entry) == 1))

    _reencode(c, forget)


@damage(notes=("srch-stale",))
def search_entry_of_nothing(c: Corruption) -> None:
    _reencode(c, lambda entries: entries.append(type(entries[0])(1, 2, 3)))
