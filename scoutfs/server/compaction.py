"""Compactions of search files: given to mounts and taken back (spec 03 §8.13, spec 06 §8.3)."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import Any

from format.keys import Key, SrchType
from format.srch import COMPACT_FILES, SrchCompact, SrchCompactFlag, SrchFile
from scoutfs.metadata.btree import TreeItem
from scoutfs.metadata.commit import ServerVolume
from scoutfs.server.client_space import Lists, give_metadata, take_back_lists
from scoutfs.server.items import KEY_MAX, Refused, parsed, srch_key

_NOTHING = bytes(SrchCompact.sizeof())


def get_compaction(volume: ServerVolume, rid: int) -> bytes:
    """Return a `SrchCompact` of 584 bytes for a mount, with `nr` 0 if there is nothing to do.

    A mount that has one already, and does not know since its answer was lost, gets it once more.
    """
    pending = _items(volume, SrchType.PENDING)
    busy = _items(volume, SrchType.BUSY)
    for item in busy:
        if Key.from_sort_bytes(item.key).second == rid:
            return item.value
    if pending:
        work = parsed(SrchCompact, pending[0], volume)
        volume.srch_root.delete(pending[0].key)
    else:
        in_work = {each.sfl.ref.blkno for item in busy for each in _inputs(parsed(SrchCompact, item, volume))}
        work = _new(volume, in_work)
        if work is None:
            return _NOTHING
    lists = Lists(work)
    give_metadata(volume, lists, volume.targets.client_low, volume.targets.client)
    volume.allocator.take_back(lists.meta_freed)
    lists.store(work)
    value = SrchCompact.build(work)
    volume.srch_root.insert(srch_key(SrchType.BUSY, rid, work.id), value)
    return value


def commit_compaction(volume: ServerVolume, rid: int, result: Any) -> None:
    """Take back a compaction from a mount; `result` is a parsed `SrchCompact`.  Raises Refused (ENOENT)."""
    key = srch_key(SrchType.BUSY, rid, result.id)
    item = volume.srch_root.lookup(key)
    if item is None:
        raise Refused(f"mount {rid:016x} ends compaction {result.id}, which it has not", errno.ENOENT)
    stored = parsed(SrchCompact, item, volume)
    flags = result.flags
    volume.srch_root.delete(key)
    if flags & SrchCompactFlag.ERROR:
        _wait(volume, stored)
    elif not flags & SrchCompactFlag.DONE:
        _wait(volume, result)
    elif flags & SrchCompactFlag.DELETE:
        take_back_lists(volume, result)
    else:
        _replace_inputs(volume, stored, result)
        result.flags = int(SrchCompactFlag.DELETE)
        _wait(volume, result)


def cancel(volume: ServerVolume, rid: int) -> None:
    """Take back all compactions of a mount that is gone.

    One that has come to something waits for another mount: nothing else knows what it has written, or has to delete.
    Of the others only the blocks that they were given are left.
    """
    for item in _items(volume, SrchType.BUSY):
        if Key.from_sort_bytes(item.key).second != rid:
            continue
        volume.srch_root.delete(item.key)
        work = parsed(SrchCompact, item, volume)
        if work.out.ref.blkno or work.flags & SrchCompactFlag.DELETE:
            _wait(volume, work)
        else:
            take_back_lists(volume, work)


def _replace_inputs(volume: ServerVolume, stored: Any, result: Any) -> None:
    out = result.out
    if out.blocks:
        key = srch_key(SrchType.BLOCKS, out.blocks, out.ref.blkno)
        volume.srch_root.insert(key, SrchFile.build(out))
    for each in _inputs(stored):
        file = each.sfl
        if stored.flags & SrchCompactFlag.LOG:
            volume.srch_root.delete(srch_key(SrchType.LOG, file.ref.blkno))
        else:
            volume.srch_root.delete(srch_key(SrchType.BLOCKS, file.blocks, file.ref.blkno))
    for each in result["in"]:
        each.blk = each.pos = 0


def _wait(volume: ServerVolume, work: Any) -> None:
    volume.srch_root.insert(srch_key(SrchType.PENDING, work.id), SrchCompact.build(work))


def _items(volume: ServerVolume, type: SrchType) -> list[TreeItem]:
    return list(volume.srch_root.items(srch_key(type, 0), srch_key(type, KEY_MAX, KEY_MAX)))


def _inputs(work: Any) -> Sequence[Any]:
    return list(work["in"])[: min(work.nr, COMPACT_FILES)]


def _new(volume: ServerVolume, in_work: set[int]) -> Any | None:
    """Return a new compaction of files that are not in any, None if there are too few."""
    logs = _free_files(volume, SrchType.LOG, in_work)[:COMPACT_FILES]
    flag, files = SrchCompactFlag.LOG, logs
    if len(logs) < COMPACT_FILES:
        flag, files = SrchCompactFlag.SORTED, _of_one_order(_free_files(volume, SrchType.BLOCKS, in_work))
    if len(files) < COMPACT_FILES:
        return None
    work = SrchCompact.parse(_NOTHING)
    work.id, work.nr, work.flags = files[0].ref.blkno, len(files), int(flag)
    for each, file in zip(work["in"], files, strict=True):
        each.sfl = file
    return work


def _free_files(volume: ServerVolume, type: SrchType, in_work: set[int]) -> list[Any]:
    files = (parsed(SrchFile, item, volume) for item in _items(volume, type))
    return [file for file in files if file.ref.blkno not in in_work]


def _of_one_order(files: list[Any]) -> list[Any]:
    """Return the first neighbours of about the same size, as many as one compaction takes; fewer if there are none."""
    group: list[Any] = []
    for file in files:
        if group and file.blocks.bit_length() // 2 != group[0].blocks.bit_length() // 2:
            group = []
        group.append(file)
        if len(group) == COMPACT_FILES:
            break
    return group
