"""Log trees of mounts, their bloom blocks, and their merges into the volume's tree (spec 01 §3.7, §3.8, §3.10)."""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntFlag

from construct import Array, Int64sl, Int64ul, Struct

from format.alloc import AllocListHead, AllocRoot
from format.block import BlockHeader, BlockRef
from format.btree import BtreeRoot
from format.checksum import Buffer
from format.keys import KeyStruct
from format.srch import SrchFile

MAX_ZONES = 1024
"""Data zones that a log tree can name."""
BLOOM_BITS_OFFSET = 40
_TOTAL_SET = slice(32, BLOOM_BITS_OFFSET)


class LogTreesFlag(IntFlag):
    """`flags` of log trees."""

    FINALIZED = 1


class MergeRequestFlag(IntFlag):
    """`flags` of a merge request."""

    SUBTREE = 1


class MergeCompleteFlag(IntFlag):
    """`flags` of a merge's completion."""

    ERROR = 1
    REMAIN = 2


LogTrees = Struct(
    "meta_avail" / AllocListHead,
    "meta_freed" / AllocListHead,
    "item_root" / BtreeRoot,
    "bloom_ref" / BlockRef,
    "data_avail" / AllocRoot,
    "data_freed" / AllocRoot,
    "srch_file" / SrchFile,
    "data_alloc_zone_blocks" / Int64ul,
    "data_alloc_zones" / Array(MAX_ZONES // 64, Int64ul),
    "inode_count_delta" / Int64sl,
    "get_trans_seq" / Int64ul,
    "commit_trans_seq" / Int64ul,
    "max_item_seq" / Int64ul,
    "finalize_seq" / Int64ul,
    "rid" / Int64ul,
    "nr" / Int64ul,
    "flags" / Int64ul,
)
"""472 bytes: all that a mount writes with; `inode_count_delta` is signed, `data_alloc_zones` a bitmap of zones."""

BloomBlock = Struct("hdr" / BlockHeader, "total_set" / Int64ul)
"""The 40 bytes in front of the bits; bit n is bit n % 8 of byte n // 8 behind it."""

LogMergeStatus = Struct("next_range_key" / KeyStruct, "nr_requests" / Int64ul, "nr_complete" / Int64ul, "seq" / Int64ul)
"""56 bytes: the one merge that runs."""

LogMergeRange = Struct("start" / KeyStruct, "end" / KeyStruct)
"""64 bytes: keys still to be merged, the last one included."""

LogMergeRequest = Struct(
    "meta_avail" / AllocListHead,
    "meta_freed" / AllocListHead,
    "logs_root" / BtreeRoot,
    "root" / BtreeRoot,
    "start" / KeyStruct,
    "end" / KeyStruct,
    "input_seq" / Int64ul,
    "rid" / Int64ul,
    "seq" / Int64ul,
    "flags" / Int64ul,
)
"""208 bytes: a part of a merge given to a client."""

LogMergeComplete = Struct(
    "meta_avail" / AllocListHead,
    "meta_freed" / AllocListHead,
    "root" / BtreeRoot,
    "start" / KeyStruct,
    "end" / KeyStruct,
    "remain" / KeyStruct,
    "rid" / Int64ul,
    "seq" / Int64ul,
    "flags" / Int64ul,
)
"""208 bytes: what the client made of it."""

LogMergeFreeing = Struct("root" / BtreeRoot, "key" / KeyStruct, "seq" / Int64ul)
"""64 bytes: a merged log tree whose blocks are being freed."""


def bloom_has(data: Buffer, bits: Iterable[int]) -> bool:
    """Return whether a bloom block of 64 KiB has all of `bits` set: see `hashes.bloom_bits`."""
    return all(data[BLOOM_BITS_OFFSET + bit // 8] >> bit % 8 & 1 for bit in bits)


def bloom_set(data: bytearray, bits: Iterable[int]) -> None:
    """Set `bits` of a bloom block of 64 KiB, see `hashes.bloom_bits`; `total_set` counts those that were not set."""
    added = 0
    for bit in bits:
        index, mask = BLOOM_BITS_OFFSET + bit // 8, 1 << bit % 8
        added += not data[index] & mask
        data[index] |= mask
    total = int.from_bytes(data[_TOTAL_SET], "little") + added
    data[_TOTAL_SET] = total.to_bytes(8, "little")
