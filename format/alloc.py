"""Allocator roots and lists of free blocks (spec 01 §3.6)."""

from __future__ import annotations

from construct import Int32ul, Int64ul, Padding, Struct

from format.block import BlockRef
from format.btree import BtreeRoot

AllocRoot = Struct("total_len" / Int64ul, "flags" / Int32ul, "pad" / Padding(4), "root" / BtreeRoot)
"""40 bytes: a btree of free extents and the sum of their lengths in blocks."""

AllocListHead = Struct("ref" / BlockRef, "total_nr" / Int64ul, "first_nr" / Int32ul, "flags" / Int32ul)
"""32 bytes: a chain of list blocks and the sum of their entries."""
