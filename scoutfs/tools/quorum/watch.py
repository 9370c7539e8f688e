"""`scoutfs quorum watch DIR|DEV`: a cluster live in the terminal."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from scoutfs.paths import run_directory
from scoutfs.tools.arguments import CommandParser
from scoutfs.tools.quorum import terminal
from scoutfs.tools.quorum.watcher import Watcher, pause

INTERVAL_MIN = 0.1
"""Seconds: a device is not read more often than that."""
INTERVAL_MAX = 3600.0
KERNEL_DIRECTORY = Path("/sys/fs/scoutfs")
"""Where the kernel keeps the control directories of its mounts."""

_DESCRIPTION = """\
Show the quorum of a volume live: slots, roles, terms, votes, the age of the last message each way, late heartbeats and
fence requests.

DIR is a directory at which the volume is mounted on this host: shown is what that mount knows.
DEV is the metadata device: shown is what the members have recorded there, and what all mounts of the volume on this
host know.  Nothing is changed.  Ctrl-C ends it.
"""
_EPILOG = """\
Colours need the package rich, and are left out with --no-color, with NO_COLOR in the environment, and where standard
output is no terminal.

examples:
  scoutfs quorum watch /mnt/scoutfs
  scoutfs quorum watch --interval 0.25 /dev/meta
  scoutfs quorum watch --once /mnt/scoutfs
  scoutfs quorum watch --json /dev/meta | jq -c .volume.server
"""


def main(argv: Sequence[str]) -> int:
    """Run the command; returns the exit status.  Raises ScoutfsError or FormatError if there is nothing to look at."""
    args = _parser().parse_args(argv)
    watcher = Watcher(args.target, (run_directory(), KERNEL_DIRECTORY))
    try:
        begun = time.monotonic()
        snapshot = watcher.first()
        with _show(args) as show:
            show(snapshot)
            while not args.once:
                pause(args.interval, begun)
                begun = time.monotonic()
                show(watcher.next())
    except KeyboardInterrupt:
        return 0
    return 1 if snapshot.problems else 0


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="scoutfs quorum watch",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--interval", type=_interval, default=1.0, metavar="SECONDS", help="between two looks (1)")
    parser.add_argument("--once", action="store_true", help="look once, print plain lines and end")
    parser.add_argument("--json", action="store_true", help="print each look as one line of JSON, for programs")
    parser.add_argument("--no-color", action="store_true", help="print plain lines, one look below the other")
    parser.add_argument("target", metavar="DIR|DEV", help="where the volume is mounted, or its metadata device")
    return parser


def _show(args: argparse.Namespace) -> AbstractContextManager[terminal.Show]:
    if args.json:
        return terminal.json_lines()
    if args.once or args.no_color or os.environ.get("NO_COLOR") or not sys.stdout.isatty():
        return terminal.plain()
    return terminal.full_screen()


def _interval(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not INTERVAL_MIN <= seconds <= INTERVAL_MAX:
        raise argparse.ArgumentTypeError(f"'{text}' is not between {INTERVAL_MIN:g} and {INTERVAL_MAX:g} seconds")
    return seconds
