"""`scoutfs quorum DEV` and `scoutfs quorum watch DIR|DEV`: the quorum of a volume, recorded and live."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence

from scoutfs.errors import ScoutfsError
from scoutfs.storage.device import Device
from scoutfs.tools.arguments import CommandParser
from scoutfs.tools.quorum.report import report
from scoutfs.tools.quorum.volume import read_overview

_DESCRIPTION = """\
Print the quorum slots of a volume, what the member of each has recorded last, which mount may be the server, and what
is wrong.  Only reads, needs no data device, and works while the volume is mounted, here or elsewhere.

What is recorded need not be so: a member that has lost power looks like one that runs.  Where a mount of the volume is
at hand, `scoutfs quorum watch` shows what it knows.
"""
_EPILOG = """\
The exit status is 1 if the volume or the block of a slot could not be read.

examples:
  scoutfs quorum /dev/meta
  scoutfs quorum --json /dev/meta | jq .server
  scoutfs quorum watch /mnt             see scoutfs quorum watch --help
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with these arguments, by default those of the process; returns the exit status.

    Raises ScoutfsError.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["watch"]:
        # Here, because it needs more, and most calls do not want it.
        from scoutfs.tools.quorum.watch import main as watch

        return watch(arguments[1:])
    parser = CommandParser(
        prog="scoutfs quorum",
        usage="scoutfs quorum [--json] META-DEV\n       scoutfs quorum watch [OPTION...] DIR|META-DEV",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object, for programs")
    parser.add_argument("device", metavar="META-DEV", help="metadata device, the device of a volume on one, or a file")
    args = parser.parse_args(arguments)
    if os.path.isdir(args.device):
        raise ScoutfsError(f"{args.device}: is a directory: `scoutfs quorum watch` takes one, this a metadata device")
    with Device.open(args.device) as device:
        view = read_overview(device)
    if args.json:
        print(json.dumps({"device": args.device, **view.to_dict()}, indent=2))
    else:
        sys.stdout.write(report(view, args.device))
    return 1 if view.unreadable else 0
