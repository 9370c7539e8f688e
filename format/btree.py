"""Btree roots, blocks and items (spec 01 §3.5)."""

from __future__ import annotations

from construct import Int8ul, Padding, Struct

from format.block import BlockRef

BtreeRoot = Struct("ref" / BlockRef, "height" / Int8ul, "pad" / Padding(7))
"""24 bytes; all zero when the tree is empty."""
