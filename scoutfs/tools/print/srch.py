"""Search files: their parents and blocks (spec 01 §7.8)."""

from __future__ import annotations

from typing import Any

from format.block import BlockError, Magic
from format.srch import SrchBlock, read_entries, read_parent
from scoutfs.tools.print import text
from scoutfs.tools.print.output import Blocks, BlockSet, Output

_BLOCK_HEAD = 112


def print_srch_file(blocks: Blocks, output: Output, file: Any) -> None:
    """Print all blocks of `file`, a parsed `SrchFile`: a parent, then each of its children."""
    seen = BlockSet()
    waiting = [(file.ref.blkno, file.height)] if file.height else []
    while waiting:
        blkno, height = waiting.pop()
        if not blkno:
            continue
        what = "srch parent block" if height > 1 else "srch block"
        if not seen.add(blkno):
            output.problem(f"{what} {blkno}: referred to twice in one file, printed once")
            continue
        data = blocks.large_or_none(blkno, what, output)
        if data is None:
            continue
        output.write(f"{what} blkno {blkno}\n{text.header_line(data)}")
        if height == 1:
            _print_block(output, data, f"{what} {blkno}")
            continue
        children = read_parent(data, what)
        output.write("".join(f"  [{index}]: {text.ref(child)}\n" for index, child in children.items()))
        if int.from_bytes(data[4:8], "little") == Magic.SRCH_PARENT:
            waiting += [(child.blkno, height - 1) for child in reversed(children.values())]
        else:
            output.problem(f"{what} {blkno}: is none, its children are left out")


def _print_block(output: Output, data: bytes, what: str) -> None:
    parsed = SrchBlock.parse(data[:_BLOCK_HEAD])
    ends = " ".join(f"{name} {text.srch_entry(parsed[name])}" for name in ("first", "last", "tail"))
    lines = [f"  {ends}\n", f"  entry_nr {parsed.entry_nr} entry_bytes {parsed.entry_bytes}\n"]
    try:
        for index, (entry, size) in enumerate(read_entries(data, what)):
            lines.append(f"  [{index}]: ({size}) {text.srch_entry(entry)}\n")
    except BlockError as error:
        output.problem(str(error))
    output.write("".join(lines))
