"""Chains of list blocks (spec 01 §7.7)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

from format.alloc import LIST_MAX_BLOCKS, AllocListBlock
from scoutfs.tools.print import text
from scoutfs.tools.print.output import Blocks, BlockSet, Output

_ENTRIES_OFFSET = 56
_WRAP_COLUMN = 72
_INDENT = "        "


def print_list(blocks: Blocks, output: Output, name: str, head: Any) -> None:
    """Print the blocks of the list under `head`, a parsed `AllocListHead`."""
    seen = BlockSet()
    blkno = head.ref.blkno
    while blkno:
        if not seen.add(blkno):
            output.problem(f"{name} alloc_list_block {blkno}: the chain comes back to it")
            return
        data = blocks.large_or_none(blkno, f"{name} alloc_list_block", output)
        if data is None:
            return
        parsed = AllocListBlock.parse(data[:_ENTRIES_OFFSET])
        output.write(f"{name} alloc_list_block blkno {blkno}\n{text.header_line(data)}{_contents(data, parsed)}")
        blkno = parsed.next.blkno


def _contents(data: bytes, parsed: Any) -> str:
    line = f"  next {text.ref(parsed.next)} start {parsed.start} nr {parsed.nr}\n"
    if parsed.start + parsed.nr > LIST_MAX_BLOCKS:
        return line + "  (invalid start and nr fields)\n"
    if not parsed.nr:
        return line
    blknos = struct.unpack_from(f"<{parsed.nr}Q", data, _ENTRIES_OFFSET + 8 * parsed.start)
    return line + "  exts: " + _wrapped(f"{first},{count} " for first, count in _runs(blknos)) + "\n"


def _runs(blknos: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """Yield runs of consecutive numbers as (first, count)."""
    first, count = blknos[0], 0
    for blkno in blknos:
        if blkno != first + count:
            yield first, count
            first, count = blkno, 0
        count += 1
    yield first, count


def _wrapped(pairs: Iterator[str]) -> str:
    """Join pairs as the original does: its count of columns is one too high on every line but the first."""
    pieces = []
    column = len(_INDENT)
    for pair in pairs:
        if column >= _WRAP_COLUMN:
            pieces.append(f"\n{_INDENT}")
            column = len(_INDENT) + 1
        pieces.append(pair)
        column += len(pair)
    return "".join(pieces)
