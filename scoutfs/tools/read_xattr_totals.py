"""`scoutfs read-xattr-totals`: totals of attributes with the tag totl, in the original's form (spec 06 §7, §8.4)."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

from scoutfs.tools.arguments import run_command
from scoutfs.tools.reading.arguments import Parser, add_json, add_path_option, open_volume

_DESCRIPTION = """\
Print the sum of the values of all attributes with the tag totl whose names end in the same three numbers, and how many
they are: `a.b.c = TOTAL, COUNT`, both signed.
"""
_EXAMPLES = """\
  scoutfs read-xattr-totals -p /dev/scoutfs
  scoutfs read-xattr-totals --json -m meta.img -p data.img | jq .total"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status."""
    parser = Parser("scoutfs read-xattr-totals", description=_DESCRIPTION, examples=_EXAMPLES)
    add_json(parser)
    add_path_option(parser)
    args = parser.parse(argv)
    return run_command("read-xattr-totals", parser.prog, lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    with open_volume(args) as files:
        for total in files.totals():
            if args.json:
                print(json.dumps({"name": total.name, "total": total.total, "count": total.count}))
            else:
                print(f"{'.'.join(map(str, total.name))} = {total.total}, {total.count}")
    return 0
