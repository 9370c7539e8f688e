"""How much of the volume is free (spec 03 §8.9, spec 04 §6.9)."""

from __future__ import annotations

import errno
from typing import Any

from construct import Container

from format.keys import Key, SrchType, Zone
from format.logs import LogMergeComplete, LogMergeRequest, LogTrees
from format.srch import SrchCompact
from format.superblock import SuperBlock
from scoutfs.errors import ScoutfsError
from scoutfs.metadata.btree import StaleBlockError, TreeError, items
from scoutfs.network.statfs import Statfs
from scoutfs.storage.volume import Volume

_MERGES: dict[int, Any] = {Zone.LOG_MERGE_REQUEST: LogMergeRequest, Zone.LOG_MERGE_COMPLETE: LogMergeComplete}
_FIRST_MERGE = Key(Zone.LOG_MERGE_REQUEST)
_LAST_MERGE = Key(Zone.LOG_MERGE_COMPLETE, Key.ONES.first, 255, Key.ONES.second, Key.ONES.third, 255)
_FIRST_COMPACT = Key(Zone.SRCH, 0, SrchType.PENDING)
_LAST_COMPACT = Key(Zone.SRCH, 0, SrchType.BUSY, Key.ONES.second, Key.ONES.third, 255)


def read_statfs(volume: Volume) -> Statfs:
    """Count what is free on the volume as it is on disk now.  Blocks.

    While somebody writes, blocks are replaced under us: then everything is counted again from a newer super block.
    Raises VolumeError, DeviceError, TreeError; ScoutfsError (EIO) when the roots stay and their blocks are gone.
    """
    previous: tuple[Any, ...] | None = None
    while True:
        super_block = volume.read_super()
        roots = tuple(
            (root.ref.blkno, root.ref.seq)
            for root in (super_block.raw.logs_root, super_block.raw.srch_root, super_block.raw.log_merge)
        )
        try:
            return _count(volume, super_block)
        except StaleBlockError as error:
            if roots == previous:
                raise ScoutfsError(str(error), errno.EIO) from error
            previous = roots


def _count(volume: Volume, super_block: SuperBlock) -> Statfs:
    raw = super_block.raw
    meta = sum(root.total_len for root in raw.meta_alloc)
    meta += sum(head.total_nr for head in (*raw.server_meta_avail, *raw.server_meta_freed))
    data, inodes = raw.data_alloc.total_len, raw.inode_count
    for item in items(volume, raw.logs_root):
        trees = _parsed(LogTrees, item.value, volume, item.key)
        meta += _lists(trees)
        data += trees.data_avail.total_len + trees.data_freed.total_len
        inodes += trees.inode_count_delta
    for item in items(volume, raw.srch_root, _FIRST_COMPACT, _LAST_COMPACT):
        if item.key.type in (SrchType.PENDING, SrchType.BUSY):
            meta += _lists(_parsed(SrchCompact, item.value, volume, item.key))
    for item in items(volume, raw.log_merge, _FIRST_MERGE, _LAST_MERGE):
        if item.key.zone in _MERGES:
            meta += _lists(_parsed(_MERGES[item.key.zone], item.value, volume, item.key))
    return Statfs(super_block.uuid, meta, super_block.total_meta_blocks, data, super_block.total_data_blocks, inodes)


def _lists(structure: Container[Any]) -> int:
    return int(structure.meta_avail.total_nr + structure.meta_freed.total_nr)


def _parsed(declaration: Any, value: bytes, volume: Volume, key: Key) -> Container[Any]:
    if len(value) != declaration.sizeof():
        text = f"item {key}: a value of {len(value)} bytes, expected {declaration.sizeof()}"
        raise TreeError(f"{volume.metadata_path}: {text}")
    return declaration.parse(value)
