"""`scoutfs stat`: all that an inode holds, read from the devices."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from scoutfs.errors import ScoutfsError
from scoutfs.files.filesystem import Filesystem
from scoutfs.files.inode import Inode
from scoutfs.tools.reading import describe
from scoutfs.tools.reading.arguments import Parser, add_device, add_json, open_location
from scoutfs.tools.reading.names import json_name, quoting
from scoutfs.tools.reading.problems import Problems

_DESCRIPTION = """\
Print all that is recorded of files, a field a line: what stat(2) shows, then meta_seq to crtime as the original's
stat prints them, then the rest.  Symbolic links are not followed.
"""
_EXAMPLES = """\
  scoutfs stat /dev/scoutfs /archive/file
  scoutfs stat -m meta.img data.img archive/file
  scoutfs stat -s offline_blocks -m meta.img data.img archive/file
  scoutfs stat --json image / | jq .nlink"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status.  Raises ScoutfsError."""
    parser = Parser("scoutfs stat", description=_DESCRIPTION, examples=_EXAMPLES)
    parser.add_argument("-L", "--dereference", action="store_true", help="follow symbolic links")
    parser.add_argument("-s", "--single-field", metavar="FIELD", help="print only the value of this field")
    parser.add_argument("-i", "--inode", action="store_true", help="each PATH is the number of an inode")
    add_json(parser)
    add_device(parser, paths="*")
    args = parser.parse(argv)
    problems = Problems("stat")
    files, paths = open_location(args)
    with files:
        for path, found in problems.each(paths, lambda path: _fields(files, _inode(files, path, args))):
            if args.single_field is not None and args.single_field not in found:
                parser.error(f"there is no field '{args.single_field}': {', '.join(found)}")
            _print(path, found, args, len(paths) > 1)
    return problems.status


def _inode(files: Filesystem, path: bytes, args: argparse.Namespace) -> Inode:
    if not args.inode:
        return files.resolve(path, follow=args.dereference)
    try:
        return files.inode(int(path))
    except ValueError as error:
        raise ScoutfsError("this is no number of an inode") from error


def _fields(files: Filesystem, inode: Inode) -> dict[str, Any]:
    found = describe.fields(inode)
    if inode.is_regular:
        found["extents"] = sum(1 for _ in files.extents(inode.ino))
    found["xattrs"] = len(files.xattr_names(inode.ino))
    return found


def _print(path: bytes, found: dict[str, Any], args: argparse.Namespace, several: bool) -> None:
    if args.single_field is not None:
        found = {args.single_field: found[args.single_field]}
    if args.json:
        print(json.dumps(json_name("path", path) | found))
        return
    if args.single_field is not None:
        print(found[args.single_field])
        return
    out = sys.stdout.buffer
    sys.stdout.flush()
    if several:
        out.write(b"== " + quoting()(path) + b"\n")
    out.write("".join(f"{name:17} {value}\n" for name, value in found.items()).encode())
