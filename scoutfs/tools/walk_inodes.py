"""`scoutfs walk-inodes`: inodes by the transaction of their last change, in the original's form (spec 06 §7)."""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Sequence

from format.keys import InodeIndexType
from scoutfs.tools.arguments import run_command
from scoutfs.tools.reading.arguments import Parser, add_json, add_path_option, numbers, open_volume

_DESCRIPTION = """\
List the inodes of an index from FIRST to LAST, by the seq of the transaction that changed them last: `meta_seq` for any
change, `data_seq` for changes of contents.  FIRST and LAST are `major[.minor[.ino]]`, major a seq; -1 stands for the
greatest number.  A LAST without ino is in front of all inodes of its seq.

The numbers are those that are committed now.  While mounts write, a later transaction may still be committed with a
lesser seq: --stable leaves out what is behind the first that is open, as a mount does.
"""
_EXAMPLES = """\
  scoutfs walk-inodes -p /dev/scoutfs meta_seq 0 -1
  scoutfs walk-inodes -m meta.img -p data.img data_seq 1200 1299.0.-1
  scoutfs walk-inodes --json -p image meta_seq 0 -1 | jq .ino"""
_INDEXES = {"meta_seq": InodeIndexType.META_SEQ, "data_seq": InodeIndexType.DATA_SEQ}
_ROWS = 25
"""Rows below a header."""
_HEADER = f"{'#':20} {'major':20} {'minor':10} {'ino':20}\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status."""
    parser = Parser("scoutfs walk-inodes", description=_DESCRIPTION, examples=_EXAMPLES)
    add_json(parser)
    parser.add_argument("--stable", action="store_true", help="end before the first transaction that is still open")
    add_path_option(parser)
    position = functools.partial(numbers, count=3, what="position of an inode")
    parser.add_argument("index", choices=_INDEXES, metavar="INDEX", help="meta_seq or data_seq")
    parser.add_argument("first", metavar="FIRST", type=position, help="where to start")
    parser.add_argument("last", metavar="LAST", type=position, help="where to end")
    args = parser.parse(argv)
    return run_command("walk-inodes", parser.prog, lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    first, last = ((major, ino) for major, _, ino in (args.first, args.last))
    row = 0
    with open_volume(args) as files:
        if args.stable:
            stable = files.last_stable_seq()
            last = last if last[0] <= stable else (stable, 2**64 - 1)
        for batch in files.walk_inode_batches(_INDEXES[args.index], first, last):
            if args.json:
                lines = [f'{{"major": {major}, "minor": 0, "ino": {ino}}}\n' for major, ino in batch]
                sys.stdout.write("".join(lines))
                continue
            lines = [
                (_HEADER if number % _ROWS == 0 else "") + f"{number:<20} {major:<20} 0          {ino:<20}\n"
                for number, (major, ino) in enumerate(batch, row)
            ]
            row += len(batch)
            sys.stdout.write("".join(lines))
    return 0
