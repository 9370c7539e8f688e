"""`scoutfs print`: every structure on a metadata device, in the original's text format (spec 01 §7)."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from scoutfs.storage.device import Device
from scoutfs.tools.print.output import Output
from scoutfs.tools.print.volume import print_volume

__all__ = ["Output", "add_parser", "print_volume", "run"]

_DESCRIPTION = """\
Print the super block, the quorum blocks, and every list, tree and search file on a metadata device, or on a volume
that has only one device.  Regular files will do.  Nothing is verified and nothing is changed: a damaged volume is
printed as far as it can be read, and a volume may be printed while it is mounted (what is printed may then be old).
"""
_EPILOG = """\
What could not be read or followed is named on standard error, the rest is still printed, and the exit status is 1.

examples:
  scoutfs print /dev/meta | less
  scoutfs print -S /dev/meta            the large trees left out
  diff <(scoutfs print a.img) <(scoutfs print b.img)
"""


def add_parser(subparsers: Any) -> None:
    """Declare the command's arguments."""
    parser = subparsers.add_parser(
        "print",
        help="print the structures on a metadata device",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "-S",
        "--skip-likely-huge",
        action="store_true",
        help="leave out what is large in a large volume: free extents, search files, the tree of all files",
    )
    parser.add_argument("device", metavar="META-DEV", help="metadata device, or a file that holds one")


def run(args: argparse.Namespace) -> int:
    """Print to standard output; return 1 if anything is missing there.  Raises ScoutfsError."""
    output = Output(sys.stdout.write, lambda text: print(f"scoutfs: print: {text}", file=sys.stderr))
    with Device.open(args.device) as device:
        print_volume(device, output, skip_likely_huge=args.skip_likely_huge)
    return 1 if output.problems else 0
