"""`scoutfs xattr`: extended attributes, read from the devices, in the form of getfattr(1)."""

from __future__ import annotations

import argparse
import base64
import json
import os
import re
import sys
from collections.abc import Iterator, Sequence

from format.xattr import Xattr
from scoutfs.errors import ScoutfsError
from scoutfs.files.errors import NoAttribute
from scoutfs.files.filesystem import Filesystem
from scoutfs.files.inode import Inode
from scoutfs.files.tags import is_hidden
from scoutfs.tools.reading.arguments import Parser, add_device, add_json, open_location
from scoutfs.tools.reading.names import json_name
from scoutfs.tools.reading.problems import Problems
from scoutfs.tools.reading.walk import walk

_DESCRIPTION = """\
Print the names of the extended attributes of files, with -d their values too, in the form of getfattr(1), which
setfattr --restore reads.  All namespaces are shown.  Attributes with the tag hide need --hidden.  Symbolic links are
not followed.
"""
_EXAMPLES = """\
  scoutfs xattr /dev/scoutfs /archive/file
  scoutfs xattr -d -e hex -R -m meta.img data.img /archive
  scoutfs xattr -n user.checksum --only-values -m meta.img data.img archive/file
  scoutfs xattr -d --json image / | jq -r .value_b64"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status.  Raises ScoutfsError."""
    parser = Parser("scoutfs xattr", description=_DESCRIPTION, examples=_EXAMPLES)
    parser.add_argument("-d", "--dump", action="store_true", help="print values too")
    parser.add_argument("-e", "--encoding", choices=("text", "hex", "base64"), help="how to print values")
    parser.add_argument("-n", "--name", type=os.fsencode, help="print this attribute only, with its value")
    parser.add_argument("--match", type=_pattern, metavar="PATTERN", help="print attributes whose names match only")
    parser.add_argument("--hidden", action="store_true", help="print hidden attributes too")
    parser.add_argument("--only-values", action="store_true", help="print nothing but the values, as they are")
    parser.add_argument("-R", "--recursive", action="store_true", help="go through directories")
    add_json(parser)
    add_device(parser, paths="*")
    args = parser.parse(argv)
    problems = Problems("xattr")
    files, paths = open_location(args)
    with files:
        for path, inode in problems.each(paths, lambda path: files.resolve(path, follow=False)):
            if not args.recursive:
                _print(files, path, inode, args, problems)
                continue
            for visited in walk(files, inode, path, problems):
                _print(files, visited.path, visited.inode, args, problems)
    return problems.status


def _pattern(text: str) -> re.Pattern[bytes]:
    try:
        return re.compile(os.fsencode(text))
    except re.error as error:
        raise argparse.ArgumentTypeError(f"'{text}' is no regular expression: {error}") from error


def _print(files: Filesystem, path: bytes, inode: Inode, args: argparse.Namespace, problems: Problems) -> None:
    out = sys.stdout.buffer
    with_values = args.dump or args.only_values or args.name is not None
    try:
        found = list(_wanted(files, inode.ino, args, with_values=with_values))
    except NoAttribute as error:
        if not args.recursive:
            problems(path, f"{os.strerror(error.errno)}: there is no attribute {os.fsdecode(args.name)}")
        return
    except ScoutfsError as error:
        problems(path, error)
        return
    if args.only_values:
        out.write(b"".join(xattr.value for xattr in found))
    elif args.json:
        out.write("".join(_json(path, inode, xattr, with_values=with_values) for xattr in found).encode())
    elif found:
        lines = [b"# file: " + _octal(path.lstrip(b"/") or b"/", b"\\\n\r")]
        for name, value in found:
            lines.append(_octal(name, b"\\=\n\r") + (b"=" + _encoded(value, args.encoding) if with_values else b""))
        out.write(b"\n".join(lines) + b"\n\n")


def _wanted(files: Filesystem, ino: int, args: argparse.Namespace, *, with_values: bool) -> Iterator[Xattr]:
    """Yield the attributes that are asked for; without their values, where they are not."""
    if args.name is not None:
        yield Xattr(args.name, files.getxattr(ino, args.name))
        return
    all_of_them = files.xattrs(ino) if with_values else [Xattr(found.name, b"") for found in files.xattr_names(ino)]
    for xattr in all_of_them:
        if (args.hidden or not is_hidden(xattr.name)) and (args.match is None or args.match.search(xattr.name)):
            yield xattr


def _json(path: bytes, inode: Inode, xattr: Xattr, *, with_values: bool) -> str:
    found = json_name("path", path) | {"ino": inode.ino} | json_name("name", xattr.name)
    if with_values:
        found["value_b64"] = base64.b64encode(xattr.value).decode("ascii")
    return json.dumps(found) + "\n"


def _encoded(value: bytes, encoding: str | None) -> bytes:
    """Return a value as getfattr prints it: as text if most of it is, else in base64, unless told otherwise."""
    if encoding is None:
        encoding = "text" if _is_text(value) else "base64"
    if encoding == "hex":
        return b"0x" + value.hex().encode()
    if encoding == "base64":
        return b"0s" + base64.b64encode(value)
    quoted = re.sub(rb'([\\"])', rb"\\\1", value.removesuffix(b"\0"))
    return b'"' + _octal(quoted, b"\n\r\0") + b'"'


def _is_text(value: bytes) -> bool:
    """Whether getfattr would take a value for text: less than one byte of eight is unprintable."""
    value = value.removesuffix(b"\0")
    return 8 * sum(not 32 <= byte < 127 for byte in value) <= len(value)


def _octal(text: bytes, special: bytes) -> bytes:
    """Return bytes with the `special` ones as octal numbers behind backslashes."""
    return b"".join(b"\\%03o" % byte if byte in special else bytes((byte,)) for byte in text)
