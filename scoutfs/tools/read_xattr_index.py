"""`scoutfs read-xattr-index`: inodes by attributes with the tag indx, in the original's form (spec 06 §7, §8.5)."""

from __future__ import annotations

import argparse
import errno
import functools
from collections.abc import Sequence

from format.xattr import IndxEntry
from scoutfs.errors import ScoutfsError
from scoutfs.files.indexes import FIRST_INDX, LAST_INDX
from scoutfs.files.items import NUMBER_MAX
from scoutfs.tools.arguments import run_command
from scoutfs.tools.reading.arguments import Parser, add_json, add_path_option, numbers, open_volume

_DESCRIPTION = """\
List the inodes that have attributes with the tag indx, by the two numbers at the end of their names, from FIRST to LAST
or all of them.  FIRST and LAST are `major.minor.ino`; -1 stands for the greatest number, 255 for major.
"""
_EXAMPLES = """\
  scoutfs read-xattr-index -p /dev/scoutfs
  scoutfs read-xattr-index -m meta.img -p data.img 7.0.0 7.-1.-1"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status."""
    parser = Parser("scoutfs read-xattr-index", description=_DESCRIPTION, examples=_EXAMPLES)
    add_json(parser)
    add_path_option(parser)
    position = functools.partial(numbers, count=3, what="position in the index")
    parser.add_argument("first", metavar="FIRST", nargs="?", type=position, help="where to start")
    parser.add_argument("last", metavar="LAST", nargs="?", type=position, help="where to end")
    args = parser.parse(argv)
    for given in (args.first, args.last):
        if given and given[0] > 255 and given[0] != NUMBER_MAX:
            parser.error(f"major is {given[0]}, at most 255 is possible")
    return run_command("read-xattr-index", parser.prog, lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    first = FIRST_INDX if args.first is None else _position(args.first, 0)
    last = LAST_INDX if args.last is None else _position(args.last, NUMBER_MAX)
    if first > last:
        raise ScoutfsError("FIRST is behind LAST", errno.EINVAL)
    with open_volume(args) as files:
        for major, minor, ino in files.xattr_index(first, last):
            if args.json:
                print(f'{{"major": {major}, "minor": {minor}, "ino": {ino}}}')
            else:
                print(f"{major}.{minor} = {ino}")
    return 0


def _position(given: tuple[int, ...], xid: int) -> IndxEntry:
    major, minor, ino = given
    return IndxEntry(min(major, 255), minor, ino, xid)
