"""`scoutfs search-xattrs`: inodes with an attribute of a name, in the original's form (spec 06 §7, §8.2)."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from scoutfs.tools.arguments import run_command
from scoutfs.tools.reading.arguments import Parser, add_json, add_path_option, open_volume, operand

_DESCRIPTION = """\
List the inodes that have an attribute of this name, which must have the tag srch.  The search files are read, not the
inodes: few of those listed may have lost the attribute meanwhile, or never have had one of quite that name.
"""
_EXAMPLES = """\
  scoutfs search-xattrs -p /dev/scoutfs scoutfs.srch.owner.17
  scoutfs search-xattrs -m meta.img -p data.img scoutfs.hide.srch.flagged"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status."""
    parser = Parser("scoutfs search-xattrs", description=_DESCRIPTION, examples=_EXAMPLES)
    add_json(parser)
    add_path_option(parser)
    parser.add_argument("name", metavar="NAME", type=operand, help="name of the attribute, with all tags")
    args = parser.parse(argv)
    return run_command("search-xattrs", parser.prog, lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    with open_volume(args) as files:
        for ino in files.search_xattrs(args.name):
            print(f'{{"ino": {ino}}}' if args.json else ino)
    return 0
