"""`scoutfs cat`: the contents of files, read from the devices."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from scoutfs.errors import ScoutfsError
from scoutfs.files.filesystem import READ_SIZE, Filesystem
from scoutfs.tools.reading.arguments import Parser, add_device, add_json, open_location
from scoutfs.tools.reading.describe import type_name
from scoutfs.tools.reading.names import json_name
from scoutfs.tools.reading.problems import Problems

_DESCRIPTION = """\
Write the contents of files to standard output.  Holes are zeros.  A file that is offline, as a whole or in part, ends
at the first byte that is not on the volume, with an error.

With --json each piece is an object: `path`, `offset`, `length`, and `data_b64` unless all of it is zeros.
"""
_EXAMPLES = """\
  scoutfs cat /dev/scoutfs /etc/motd
  scoutfs cat -m meta.img data.img logs/a logs/b | less
  scoutfs cat --json image /etc/motd | jq -r .data_b64 | base64 -d"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status.  Raises ScoutfsError."""
    parser = Parser("scoutfs cat", description=_DESCRIPTION, examples=_EXAMPLES)
    add_json(parser)
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
                for offset, data in _pieces(files, path):
                    sys.stdout.buffer.write(_json(path, offset, data) if args.json else data)
            except ScoutfsError as error:
                sys.stdout.buffer.flush()
                problems(path, error)
    return problems.status


def _pieces(files: Filesystem, path: bytes) -> Iterator[tuple[int, bytes]]:
    inode = files.resolve(path)
    if not inode.is_regular:
        kind = type_name(inode)
        raise ScoutfsError(f"this is a {kind}, not a regular file")
    for offset in range(0, inode.size, READ_SIZE):
        yield offset, files.read(inode.ino, offset, READ_SIZE)


def _json(path: bytes, offset: int, data: bytes) -> bytes:
    found: dict[str, Any] = json_name("path", path) | {"offset": offset, "length": len(data)}
    if data.strip(b"\0"):
        found["data_b64"] = base64.b64encode(data).decode("ascii")
    return json.dumps(found).encode() + b"\n"
