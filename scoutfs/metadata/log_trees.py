"""The log trees of a volume's mounts: what they wrote since their items were last merged (spec 04 §1.3, §7)."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

from format.block import Magic, Ref
from format.keys import Key, Zone
from format.logs import LogMergeStatus, LogTreesFlag, bloom_has
from scoutfs.metadata.blocks import BlockReader, DamagedBlock
from scoutfs.metadata.btree import Btree, Root

_LOG_TREES = struct.Struct("<64xQQB7xQQ80x88s168xQQQQ")
"""Item root, bloom reference, search file, finalize_seq, rid, nr and flags of `format.logs.LogTrees`."""

_FIRST_STATUS = Key(Zone.LOG_MERGE_STATUS).sort_bytes
_STATUS_SIZE = LogMergeStatus.sizeof()


class LogTree(NamedTuple):
    """What readers need of a `format.logs.LogTrees`; `srch_file` is an undecoded `format.srch.SrchFile` of 88 bytes."""

    rid: int
    nr: int
    item_root: Root
    bloom_ref: Ref
    srch_file: bytes
    finalized: bool
    finalize_seq: int

    def may_hold(self, blocks: BlockReader, bits: Sequence[int]) -> bool:
        """Whether the bloom filter, if there is one, lets the tree hold items of the lock that has these bits.

        Raises StaleBlockError or DeviceError.
        """
        if not self.bloom_ref.blkno:
            return True
        return bloom_has(blocks.read(self.bloom_ref, Magic.BLOOM, "bloom block"), bits)


def read_log_trees(blocks: BlockReader, logs_root: Root) -> tuple[LogTree, ...]:
    """Return all log trees under `logs_root`, in the order of rid and nr.  Raises as `Btree` does."""
    trees = []
    for key, _, _, value in Btree(blocks, logs_root).items():
        if len(value) != _LOG_TREES.size:
            raise wrong_size(blocks.device.path, key, value, _LOG_TREES.size)
        blkno, seq, height, bloom_blkno, bloom_seq, srch_file, finalize_seq, rid, nr, flags = _LOG_TREES.unpack(value)
        root, bloom = Root(Ref(blkno, seq), height), Ref(bloom_blkno, bloom_seq)
        finalized = bool(flags & LogTreesFlag.FINALIZED)
        trees.append(LogTree(rid, nr, root, bloom, srch_file, finalized, finalize_seq))
    return tuple(trees)


def read_merge_seq(blocks: BlockReader, log_merge: Root) -> int:
    """Return the seq of the merge that runs, 0 if none does.  Raises as `Btree` does."""
    item = Btree(blocks, log_merge).lookup(_FIRST_STATUS)
    if item is None:
        return 0
    if len(item.value) != _STATUS_SIZE:
        raise wrong_size(blocks.device.path, item.key, item.value, _STATUS_SIZE)
    return int(LogMergeStatus.parse(item.value).seq)


def wrong_size(path: str, key: bytes, value: bytes, expected: int) -> DamagedBlock:
    """Return the error of an item with a value of the wrong size; `path` names the device."""
    text = f"a value of {len(value)} bytes, expected {expected}"
    return DamagedBlock(f"{path}: item {Key.from_sort_bytes(key)}: {text}")
