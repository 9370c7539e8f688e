"""`scoutfs df`: how much of a volume is free, read from the devices, as the original prints it (spec 01 §8.6)."""

from __future__ import annotations

import json
from collections.abc import Sequence

from format.block import LARGE_BLOCK_SIZE, SMALL_BLOCK_SIZE
from scoutfs.tools.arguments import run_command
from scoutfs.tools.reading.arguments import Parser, add_path_option, open_volume
from scoutfs.tools.sizes import size_text

_DESCRIPTION = """\
Show how many blocks for metadata and for data a volume has, and how many are free.  Metadata that is reserved for a
server and its clients counts as used, as for the original.
"""
_EXAMPLES = """\
  scoutfs df -p /dev/scoutfs
  scoutfs df -h -m meta.img -p data.img"""

_SERVER_RESERVE = 16370
"""Blocks of metadata that are kept for the server,"""
_CLIENT_RESERVE = 18311
"""and for each of its clients; without a server on this side there is one."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status."""
    parser = Parser("scoutfs df", description=_DESCRIPTION, examples=_EXAMPLES, add_help=False)
    parser.add_argument("-h", "--human-readable", action="store_true", help="print sizes instead of blocks")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--help", action="help", help="print this")
    add_path_option(parser)
    args = parser.parse(argv)

    def body() -> int:
        with open_volume(args) as files:
            free = files.statfs()
        usable = max(0, free.free_meta_blocks - _SERVER_RESERVE - _CLIENT_RESERVE)
        if args.json:
            found = {
                "meta_block_size": LARGE_BLOCK_SIZE,
                "total_meta_blocks": free.total_meta_blocks,
                "free_meta_blocks": free.free_meta_blocks,
                "usable_meta_blocks": usable,
                "data_block_size": SMALL_BLOCK_SIZE,
                "total_data_blocks": free.total_data_blocks,
                "free_data_blocks": free.free_data_blocks,
                "inode_count": free.inode_count,
            }
            print(json.dumps(found))
            return 0
        rows = [["Type", "Size", "Total", "Used", "Free", "Use%"]]
        for name, size, block_size, total, unused in (
            ("MetaData", "64KB", LARGE_BLOCK_SIZE, free.total_meta_blocks, usable),
            ("Data", "4KB", SMALL_BLOCK_SIZE, free.total_data_blocks, free.free_data_blocks),
        ):
            used = total - unused
            numbers = (total, used, unused)
            cells = [size_text(number * block_size) if args.human_readable else str(number) for number in numbers]
            rows.append([name, size, *cells, str(used * 100 // total if total else 0)])
        widths = [max(map(len, column)) for column in zip(*rows)]
        for row in rows:
            print("".join(f"{cell:>{width}}  " for cell, width in zip(row, widths)))
        return 0

    return run_command("df", "scoutfs df", body)
