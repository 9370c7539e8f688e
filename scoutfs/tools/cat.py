"""`scoutfs cat`: the contents of files, read from the devices."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import BinaryIO

from scoutfs.errors import ScoutfsError
from scoutfs.files.filesystem import READ_SIZE, Filesystem
from scoutfs.tools.reading.arguments import Parser, add_device, open_location
from scoutfs.tools.reading.describe import type_name
from scoutfs.tools.reading.problems import Problems

_DESCRIPTION = """\
Write the contents of files to standard output.  Holes are zeros.  A file that is offline, as a whole or in part, ends
at the first byte that is not on the volume, with an error.
"""
_EXAMPLES = """\
  scoutfs cat /dev/scoutfs /etc/motd
  scoutfs cat -m meta.img data.img logs/a logs/b | less"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status.  Raises ScoutfsError."""
    parser = Parser("scoutfs cat", description=_DESCRIPTION, examples=_EXAMPLES)
    add_device(parser, paths="*")
    args = parser.parse(argv)
    problems = Problems("cat")
    files, paths = open_location(args, default=b"")
    if paths == [b""]:
        parser.error("name a file")
    sys.stdout.flush()
    with files:
        for path in paths:
            try:
                _write(files, path, sys.stdout.buffer)
            except ScoutfsError as error:
                sys.stdout.buffer.flush()
                problems(path, error)
    return problems.status


def _write(files: Filesystem, path: bytes, out: BinaryIO) -> None:
    inode = files.resolve(path)
    if not inode.is_regular:
        kind = type_name(inode)
        raise ScoutfsError(f"this is a {kind}, not a regular file")
    for offset in range(0, inode.size, READ_SIZE):
        out.write(files.read(inode.ino, offset, READ_SIZE))
