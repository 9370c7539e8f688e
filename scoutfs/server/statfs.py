"""How much of the volume is free (spec 03 §8.9, spec 04 §6.9)."""

from __future__ import annotations

from typing import Any

from construct import Container

from format.keys import Key, SrchType, Zone
from format.logs import LogMergeComplete, LogMergeRequest, LogTrees
from format.srch import SrchCompact
from format.superblock import SuperBlock
from scoutfs.metadata.blocks import BlockReader, DamagedBlock, StaleBlockError
from scoutfs.metadata.btree import Btree, Root, TreeItem
from scoutfs.metadata.log_trees import wrong_size
from scoutfs.network.statfs import Statfs
from scoutfs.storage.volume import Volume

_MERGES: dict[int, Any] = {Zone.LOG_MERGE_REQUEST: LogMergeRequest, Zone.LOG_MERGE_COMPLETE: LogMergeComplete}
_FIRST_MERGE = Key(Zone.LOG_MERGE_REQUEST).sort_bytes
_LAST_MERGE = Key(Zone.LOG_MERGE_COMPLETE, Key.ONES.first, 255, Key.ONES.second, Key.ONES.third, 255).sort_bytes
_FIRST_COMPACT = Key(Zone.SRCH, 0, SrchType.PENDING).sort_bytes
_LAST_COMPACT = Key(Zone.SRCH, 0, SrchType.BUSY, Key.ONES.second, Key.ONES.third, 255).sort_bytes


def read_statfs(volume: Volume) -> Statfs:
    """Count what is free on the volume as it is on disk now.  Blocks.

    While somebody writes, blocks are replaced under us: then everything is counted again from a newer super block.
    Raises VolumeError, DeviceError, and DamagedBlock also when the roots stay and their blocks are gone.
    """
    previous: tuple[Any, ...] | None = None
    while True:
        super_block = volume.read_super()
        roots = tuple(
            (root.ref.blkno, root.ref.seq)
            for root in (super_block.raw.logs_root, super_block.raw.srch_root, super_block.raw.log_merge)
        )
        try:
            return count_free(BlockReader(volume.meta, volume.fsid), super_block)
        except StaleBlockError as error:
            if roots == previous:
                raise DamagedBlock(str(error)) from error
            previous = roots


def count_free(blocks: BlockReader, super_block: SuperBlock) -> Statfs:
    """Count what is free according to a super block.  Blocks, and raises as `Btree` does."""
    raw = super_block.raw
    meta = sum(root.total_len for root in raw.meta_alloc)
    meta += sum(head.total_nr for head in (*raw.server_meta_avail, *raw.server_meta_freed))
    data, inodes = raw.data_alloc.total_len, raw.inode_count
    for item in Btree(blocks, Root.of(raw.logs_root)).items():
        trees = _parsed(LogTrees, item, blocks)
        meta += _lists(trees)
        data += trees.data_avail.total_len + trees.data_freed.total_len
        inodes += trees.inode_count_delta
    for item in Btree(blocks, Root.of(raw.srch_root)).items(_FIRST_COMPACT, _LAST_COMPACT):
        if Key.from_sort_bytes(item.key).type in (SrchType.PENDING, SrchType.BUSY):
            meta += _lists(_parsed(SrchCompact, item, blocks))
    for item in Btree(blocks, Root.of(raw.log_merge)).items(_FIRST_MERGE, _LAST_MERGE):
        zone = item.key[0]
        if zone in _MERGES:
            meta += _lists(_parsed(_MERGES[zone], item, blocks))
    return Statfs(super_block.uuid, meta, super_block.total_meta_blocks, data, super_block.total_data_blocks, inodes)


def _lists(structure: Container[Any]) -> int:
    return int(structure.meta_avail.total_nr + structure.meta_freed.total_nr)


def _parsed(declaration: Any, item: TreeItem, blocks: BlockReader) -> Container[Any]:
    if len(item.value) != declaration.sizeof():
        raise wrong_size(blocks.device.path, item.key, item.value, declaration.sizeof())
    return declaration.parse(item.value)
