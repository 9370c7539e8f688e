"""`scoutfs ino-path`: all paths of an inode, in the original's form (spec 06 §7)."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from scoutfs.tools.arguments import run_command
from scoutfs.tools.reading.arguments import Parser, add_json, add_path_option, number, open_volume
from scoutfs.tools.reading.names import json_name, literal, quoting

_DESCRIPTION = """\
Print the paths of an inode, one a line, from the root of the volume and without leading slash.  The root itself has
none, an inode without links neither.
"""
_EXAMPLES = """\
  scoutfs ino-path -p /dev/scoutfs 1234
  scoutfs ino-path -z -m meta.img -p data.img 1234 | xargs -0 ls"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status."""
    parser = Parser("scoutfs ino-path", description=_DESCRIPTION, examples=_EXAMPLES)
    add_json(parser)
    parser.add_argument("-z", "--zero", action="store_true", help="end paths with a zero byte instead of a newline")
    add_path_option(parser)
    parser.add_argument("ino", metavar="INO", type=number, help="number of the inode")
    args = parser.parse(argv)
    return run_command("ino-path", parser.prog, lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    quote = literal if args.zero else quoting()
    out = sys.stdout.buffer
    with open_volume(args) as files:
        files.inode(args.ino)
        for path, link in files.paths(args.ino):
            if args.json:
                found = json_name("path", path) | {"dir_ino": link.dir_ino, "pos": link.pos}
                out.write((json.dumps(found) + "\n").encode())
            else:
                out.write(quote(path) + (b"\0" if args.zero else b"\n"))
    return 0
