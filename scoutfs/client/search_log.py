"""The log of a mount for those who search attributes by name: a file of blocks that only grows (spec 06 §8.1)."""

from __future__ import annotations

import struct
from typing import Any

from format.block import NO_REF, Magic, Ref
from format.srch import BLOCK_SAFE_SIZE, ENTRIES_OFFSET, PARENT_REFS, Entry, encode_entry
from scoutfs.metadata.blocks import DamagedBlock
from scoutfs.metadata.writer import BlockAllocator, BlockWriter, RawBlock

_SPAN = struct.Struct("<9QII")
"""First, last and tail entry of a block, the number of its entries, and their bytes."""
_SPAN_OFFSET = 32
_REF = struct.Struct("<QQ")
_REFS_OFFSET = 32


class SearchLog:
    """Appends to the file that `parsed`, a `format.srch.SrchFile`, tells of; `fields` tells what it is then.

    Blocks are changed in `writer`, under numbers from `allocator`.  Raises what these do; then the entry is not there.
    """

    def __init__(self, writer: BlockWriter, allocator: BlockAllocator, parsed: Any) -> None:
        self._writer, self._allocator = writer, allocator
        self._first, self._last = (Entry(entry.hash, entry.ino, entry.id) for entry in (parsed.first, parsed.last))
        self._ref = Ref(parsed.ref.blkno, parsed.ref.seq)
        self._blocks, self._entries, self._height = parsed.blocks, parsed.entries, parsed.height

    def fields(self) -> dict[str, Any]:
        """Return what `format.srch.SrchFile` is built from."""
        return {
            "first": self._first._asdict(),
            "last": self._last._asdict(),
            "ref": self._ref._asdict(),
            "blocks": self._blocks,
            "entries": self._entries,
            "height": self._height,
        }

    def append(self, entry: Entry) -> None:
        """Log an entry behind all others."""
        number = max(self._blocks - 1, 0)
        block = self._block(number)
        span = _SPAN.unpack_from(block.data, _SPAN_OFFSET)
        if span[10] > BLOCK_SAFE_SIZE:
            number += 1
            block = self._block(number)
            span = _SPAN.unpack_from(block.data, _SPAN_OFFSET)
        first, last, tail = (Entry(*span[i : i + 3]) for i in (0, 3, 6))
        count, size = span[9:]
        coded = encode_entry(entry, tail)
        start = ENTRIES_OFFSET + size
        block.data[start : start + len(coded)] = coded
        first, last = (min(first, entry), max(last, entry)) if count else (entry, entry)
        _SPAN.pack_into(block.data, _SPAN_OFFSET, *first, *last, *entry, count + 1, size + len(coded))
        if self._entries:
            self._first, self._last = min(self._first, entry), max(self._last, entry)
        else:
            self._first = self._last = entry
        self._entries += 1
        self._blocks = max(self._blocks, number + 1)

    def _block(self, number: int) -> RawBlock:
        """Make a block of the file, a new one at its end, and everything above it dirty."""
        while self._height < _height_for(number):
            if not self._height:
                self._ref, _ = self._dirty(NO_REF, Magic.SRCH_BLOCK)
            else:
                child = self._ref
                self._ref, parent = self._dirty(NO_REF, Magic.SRCH_PARENT)
                _REF.pack_into(parent.data, _REFS_OFFSET, *child)
            self._height += 1
        level = self._height - 1
        self._ref, block = self._dirty(self._ref, _magic(level))
        while level:
            place = _REFS_OFFSET + number // PARENT_REFS ** (level - 1) % PARENT_REFS * _REF.size
            level -= 1
            ref, child_block = self._dirty(Ref(*_REF.unpack_from(block.data, place)), _magic(level))
            _REF.pack_into(block.data, place, *ref)
            block = child_block
        return block

    def _dirty(self, ref: Ref, magic: Magic) -> tuple[Ref, RawBlock]:
        """Return a block to be changed and what refers to it; a new one for no reference."""
        known = self._writer.find(ref, RawBlock, "srch block") if ref.blkno else None
        if known is not None:
            if known.magic != magic:
                raise DamagedBlock(f"{self._writer.name(ref, 'srch block')}: is another block")
            return ref, known
        block = RawBlock(magic, self._writer.read(ref, magic, "srch block") if ref.blkno else None)
        return self._writer.replace(ref, block, self._allocator), block


def _height_for(number: int) -> int:
    height, reach = 1, 1
    while number >= reach:
        height, reach = height + 1, reach * PARENT_REFS
    return height


def _magic(level: int) -> Magic:
    return Magic.SRCH_PARENT if level else Magic.SRCH_BLOCK
