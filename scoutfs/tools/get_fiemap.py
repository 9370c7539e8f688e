"""`scoutfs get-fiemap`: where the data of a file is, in the original's form (spec 06 §5.9, §7)."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

from scoutfs.files.data import FiemapFlag, Mapping
from scoutfs.files.errors import FileError, WrongType
from scoutfs.files.inode import BLOCK_SIZE
from scoutfs.tools.arguments import run_command
from scoutfs.tools.reading.arguments import Parser, add_device, add_json, open_location
from scoutfs.tools.reading.describe import type_name
from scoutfs.tools.reading.names import shown
from scoutfs.tools.reading.problems import reason

_DESCRIPTION = """\
Print the extents of a file, those behind its end too: offset in the file and on the data device, length, and the flags
O (offline: not on the volume), U (unwritten: reads as zeros) and L (last), in blocks of 4 KiB.
"""
_EXAMPLES = """\
  scoutfs get-fiemap /dev/scoutfs /archive/file
  scoutfs get-fiemap -b -m meta.img data.img archive/file"""
_FLAGS = (("offline", FiemapFlag.UNKNOWN), ("unwritten", FiemapFlag.UNWRITTEN), ("last", FiemapFlag.LAST))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status."""
    parser = Parser("scoutfs get-fiemap", description=_DESCRIPTION, examples=_EXAMPLES)
    parser.add_argument("-b", "--byte", action="store_true", help="print bytes instead of blocks")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("-L", "--logical", action="store_true", help="print only the offset in the file")
    which.add_argument("-P", "--physical", action="store_true", help="print only the offset on the data device")
    add_json(parser)
    add_device(parser, paths="?")
    args = parser.parse(argv)
    args.paths = [args.paths] if args.paths else []
    return run_command("get-fiemap", parser.prog, lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    unit = 1 if args.byte else BLOCK_SIZE
    count = 0
    files, (path,) = open_location(args)
    with files:
        try:
            inode = files.resolve(path)
        except FileError as error:
            raise type(error)(f"{shown(path)}: {reason(error)}") from error
        if not inode.is_regular:
            raise WrongType(f"{shown(path)}: this is a {type_name(inode)}, not a regular file")
        for mapping in files.fiemap(inode.ino):
            print(_json(mapping) if args.json else f"{count}: {_line(mapping, unit, args)}")
            count += 1
    if not args.json:
        print(f"extents: {count}")
    return 0


def _line(mapping: Mapping, unit: int, args: argparse.Namespace) -> str:
    places = [] if args.physical else [mapping.logical // unit]
    places += [] if args.logical else [mapping.physical // unit]
    flags = "".join(name[0].upper() if mapping.flags & flag else "." for name, flag in _FLAGS)
    return f"offset: {' '.join(map(str, places))} length: {mapping.length // unit} flags: {flags}"


def _json(mapping: Mapping) -> str:
    return json.dumps(mapping._asdict() | {"flags": [name for name, flag in _FLAGS if mapping.flags & flag]})
