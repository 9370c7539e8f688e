"""`scoutfs ls`: lists directories, read from the devices, with the options and in the form of ls(1)."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import islice

from format.dirent import DirentType
from scoutfs.errors import ScoutfsError
from scoutfs.files.directory import Listed
from scoutfs.files.errors import FileError
from scoutfs.files.filesystem import Filesystem
from scoutfs.files.inode import Inode
from scoutfs.tools.reading import describe
from scoutfs.tools.reading.arguments import Parser, add_device, add_json, open_location
from scoutfs.tools.reading.listing import Row, format_rows, sorted_rows
from scoutfs.tools.reading.names import Quote, escaped, json_name, literal, quoting
from scoutfs.tools.reading.problems import Problems
from scoutfs.tools.reading.walk import entries, join, with_inodes

_DESCRIPTION = """\
List directories, or files with their attributes.  The options are those of ls(1); names are sorted by their bytes, one
a line.  On a terminal names are quoted as ls does, elsewhere they are printed as they are.
"""
_EXAMPLES = """\
  scoutfs ls -la /dev/scoutfs
  scoutfs ls -R -m meta.img data.img /archive
  scoutfs ls --json image / | jq -r .path"""
_STYLES = ("full-iso", "long-iso", "iso", "locale")
_GROUP = 5000
"""Lines that are aligned with each other."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status.  Raises ScoutfsError."""
    args = _parse(argv)
    problems = Problems("ls")
    files, paths = open_location(args)
    with files:
        lister = _Lister(files, args, problems)
        follow = not args.directory and not args.long
        operands = list(problems.each(paths, lambda path: _operand(files, path, follow=follow)))
        lister.show(operands, len(paths) > 1)
    return problems.status


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser("scoutfs ls", description=_DESCRIPTION, examples=_EXAMPLES, add_help=False)
    flags = [
        ("-a", "--all", "list names that start with a dot too, . and .. among them"),
        ("-A", "--almost-all", "the same without . and .."),
        ("-b", "--escape", "print unusual bytes of names as C escapes"),
        ("-d", "--directory", "list directories themselves"),
        ("-F", "--classify", "append / to directories, @ to links, | to fifos, = to sockets, * to executables"),
        ("-h", "--human-readable", "print sizes with units, powers of 1024"),
        ("-i", "--inode", "print the number of the inode"),
        ("-l", "--long", "print type, mode, links, owners, size and time"),
        ("-n", "--numeric-uid-gid", "the same with numbers of users and groups"),
        ("-N", "--literal", "print names as they are"),
        ("-r", "--reverse", "sort the other way round"),
        ("-R", "--recursive", "list directories below too"),
        ("-s", "--size", "print the KiB that a file has on the volume or in the archive"),
    ]
    for letter, name, text in flags:
        parser.add_argument(letter, name, action="store_true", help=text)
    parser.add_argument("-1", dest="one", action="store_true", help="one name a line: always so")
    parser.add_argument("-S", dest="order", action="store_const", const="size", help="sort by size, largest first")
    parser.add_argument("-t", dest="order", action="store_const", const="time", help="sort by mtime, newest first")
    parser.add_argument("-U", dest="order", action="store_const", const="none", help="do not sort")
    parser.add_argument(
        "--time-style", metavar="STYLE", type=_time_style, default="locale", help=f"{', '.join(_STYLES)} or +FORMAT"
    )
    parser.add_argument("--full-time", action="store_true", help="-l --time-style=full-iso")
    parser.add_argument("--zero", action="store_true", help="end lines with a zero byte, print names as they are")
    add_json(parser)
    parser.add_argument("--help", action="help", help="print this")
    add_device(parser, paths="*")
    args = parser.parse(argv)
    if args.full_time:
        args.time_style = "full-iso"
    args.long = args.long or args.numeric_uid_gid or args.full_time
    return args


def _time_style(text: str) -> str:
    if text not in _STYLES and not text.startswith("+"):
        raise argparse.ArgumentTypeError(f"'{text}' is none of {', '.join(_STYLES)}, +FORMAT")
    return text


def _operand(files: Filesystem, path: bytes, *, follow: bool) -> Inode:
    """Return what a path leads to; with `follow` the end of symbolic links, unless they lead nowhere."""
    try:
        return files.resolve(path, follow=follow)
    except FileError:
        return files.resolve(path, follow=False)


class _Lister:
    def __init__(self, files: Filesystem, args: argparse.Namespace, problems: Problems) -> None:
        self._files, self._args, self._problems = files, args, problems
        self._out = sys.stdout.buffer
        self._end = b"\0" if args.zero else b"\n"
        if args.zero or args.literal:
            self._quote: Quote = literal
        else:
            self._quote = escaped if args.escape else quoting()
        self._needs_inodes = bool(
            args.long or args.order in ("size", "time") or args.json or args.size or args.classify
        )
        self._written = False

    def show(self, operands: list[tuple[bytes, Inode]], several: bool) -> None:
        """List what the command line names: files first, then directories."""
        alone = [Row(path, path, inode.ino, inode) for path, inode in operands if self._is_alone(inode)]
        self._rows(sorted_rows(alone, self._args.order, reverse=self._args.reverse))
        for path, inode in operands:
            if not self._is_alone(inode):
                self._directories(path, inode, several or self._args.recursive)

    def _is_alone(self, inode: Inode) -> bool:
        return self._args.directory or not inode.is_directory

    def _directories(self, path: bytes, inode: Inode, titled: bool) -> None:
        """List a directory, and with -R those below it; each remembers the names of those that are to come."""
        stack: list[Iterator[Row]] = [iter([Row(path, path, inode.ino, inode)])]
        above: list[int] = []
        while stack:
            row = next(stack[-1], None)
            if row is None:
                stack.pop()
                if above:
                    above.pop()
                continue
            if row.ino in above:
                self._problems(row.path, "the directory is inside itself")
                continue
            self._title(row.path, titled)
            self._rows(self._sorted(row.path, row.ino))
            if self._args.recursive:
                above.append(row.ino)
                stack.append(self._subdirectories(row.path, row.ino))

    def _title(self, path: bytes, titled: bool) -> None:
        if titled and not self._args.json:
            self._out.write((self._end if self._written else b"") + self._quote(path) + b":" + self._end)
            self._written = True

    def _sorted(self, path: bytes, ino: int) -> Iterator[Row]:
        return sorted_rows(self._listed(path, ino), self._args.order, reverse=self._args.reverse)

    def _subdirectories(self, path: bytes, ino: int) -> Iterator[Row]:
        """Yield the directories in a directory in the order in which they were listed, read once more."""
        listed = (row for row in self._listed(path, ino, types=(DirentType.DIR,)) if row.name not in (b".", b".."))
        return sorted_rows(listed, self._args.order, reverse=self._args.reverse)

    def _listed(self, path: bytes, ino: int, types: Sequence[int] = ()) -> Iterator[Row]:
        if self._args.all and not types:
            yield from self._dots(path, ino)
        hidden = self._args.all or self._args.almost_all
        wanted = (
            listed
            for listed in entries(self._files, ino, path, self._problems)
            if (hidden or not listed.name.startswith(b".")) and (not types or listed.type in types)
        )
        while batch := list(islice(wanted, _GROUP)):
            yield from self._with_inodes(path, ino, batch)

    def _with_inodes(self, path: bytes, ino: int, batch: list[Listed]) -> Iterator[Row]:
        if not self._needs_inodes:
            for listed in batch:
                yield Row(listed.name, join(path, listed.name), listed.ino, None)
            return
        for listed, inode in with_inodes(self._files, ino, path, batch, self._problems):
            yield Row(listed.name, join(path, listed.name), listed.ino, inode)

    def _dots(self, path: bytes, ino: int) -> Iterator[Row]:
        try:
            for name, number in ((b".", ino), (b"..", self._files.parent(ino))):
                yield Row(name, join(path, name), number, self._files.inode(number) if self._needs_inodes else None)
        except ScoutfsError as error:
            self._problems(path, error)

    def _rows(self, rows: Iterator[Row]) -> None:
        now = time.time_ns()
        while group := list(islice(rows, _GROUP)):
            self._written = True
            if self._args.json:
                self._out.write("".join(self._json(row) for row in group).encode())
                continue
            lines = format_rows(group, self._args, self._quote, self._target, now)
            self._out.write(b"".join(line + self._end for line in lines))

    def _json(self, row: Row) -> str:
        assert row.inode is not None
        found = describe.json_object(row.path, row.inode)
        if row.inode.is_symlink:
            found |= json_name("target", self._target(row))
        return json.dumps(found) + "\n"

    def _target(self, row: Row) -> bytes:
        try:
            return self._files.readlink(row.ino)
        except ScoutfsError as error:
            self._problems(row.path, error)
            return b"?"
