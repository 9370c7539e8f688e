"""`scoutfs tree`: directories and what is in them as a tree, read from the devices."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from format.dirent import DirentType
from scoutfs.files.directory import Listed
from scoutfs.files.filesystem import Filesystem
from scoutfs.tools.reading.arguments import Parser, add_device, add_json, open_location
from scoutfs.tools.reading.names import json_name, literal, quoting
from scoutfs.tools.reading.problems import Problems
from scoutfs.tools.reading.walk import entries, join, sorted_within_bounds

_DESCRIPTION = """\
Show what is below directories as a tree, sorted by the bytes of names, and count it.
"""
_EXAMPLES = """\
  scoutfs tree /dev/scoutfs
  scoutfs tree -d -L 2 -m meta.img data.img /archive"""


class _Level(NamedTuple):
    """A directory that is being shown: what is still to come, and what stands in front of its lines."""

    ino: int
    path: bytes
    rest: Iterator[tuple[Listed, bool]]
    indent: bytes


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status.  Raises ScoutfsError."""
    parser = Parser("scoutfs tree", description=_DESCRIPTION, examples=_EXAMPLES)
    parser.add_argument("-a", "--all", action="store_true", help="show names that start with a dot too")
    parser.add_argument("-d", "--directories", action="store_true", help="show directories only")
    parser.add_argument("-L", "--level", type=_level, metavar="N", help="show at most N directories below one another")
    parser.add_argument("-N", "--literal", action="store_true", help="print names as they are")
    parser.add_argument("--inodes", action="store_true", help="print the number of each inode")
    parser.add_argument("--noreport", action="store_true", help="leave out the counts at the end")
    add_json(parser)
    add_device(parser, paths="*")
    args = parser.parse(argv)
    problems = Problems("tree")
    files, paths = open_location(args)
    with files:
        shower = _Shower(files, args, problems)
        for path, inode in problems.each(paths, files.resolve):
            shower.show(path, inode.ino)
        if not args.noreport and not args.json:
            shower.report()
    return problems.status


def _level(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text.strip()}' is not a number from 1")
    return int(text)


class _Shower:
    def __init__(self, files: Filesystem, args: argparse.Namespace, problems: Problems) -> None:
        self._files, self._args, self._problems = files, args, problems
        self._quote = literal if args.literal else quoting()
        self._out = sys.stdout.buffer
        self._directories = self._others = 0

    def show(self, path: bytes, ino: int) -> None:
        self._line(b"", path, path, ino, DirentType.DIR, 0)
        stack = [self._enter(ino, path, b"")]
        while stack:
            level = stack[-1]
            found = next(level.rest, None)
            if found is None:
                stack.pop()
                continue
            listed, is_last = found
            path = join(level.path, listed.name)
            branch = "└── " if is_last else "├── "
            self._line(level.indent + branch.encode(), listed.name, path, listed.ino, listed.type, len(stack))
            if listed.type != DirentType.DIR:
                self._others += 1
                continue
            self._directories += 1
            if any(listed.ino == above.ino for above in stack):
                self._problems(path, "the directory is inside itself")
            elif self._args.level is None or len(stack) < self._args.level:
                stack.append(self._enter(listed.ino, path, level.indent + ("    " if is_last else "│   ").encode()))

    def report(self) -> None:
        """Print how much was shown."""
        text = f"\n{self._directories} director{'y' if self._directories == 1 else 'ies'}"
        if not self._args.directories:
            text += f", {self._others} file{'' if self._others == 1 else 's'}"
        self._out.write(f"{text}\n".encode())

    def _enter(self, ino: int, path: bytes, indent: bytes) -> _Level:
        wanted = (
            (listed.name, listed)
            for listed in entries(self._files, ino, path, self._problems)
            if (self._args.all or not listed.name.startswith(b"."))
            and (listed.type == DirentType.DIR or not self._args.directories)
        )
        return _Level(ino, path, _with_last(sorted_within_bounds(wanted)), indent)

    def _line(self, branch: bytes, name: bytes, path: bytes, ino: int, type: int, depth: int) -> None:
        if self._args.json:
            kind = DirentType(type).name if type in tuple(DirentType) else str(type)
            found = json_name("path", path) | {"ino": ino, "type": kind.lower(), "depth": depth}
            self._out.write((json.dumps(found) + "\n").encode())
            return
        number = f"[{ino:>7}]  ".encode() if self._args.inodes else b""
        self._out.write(branch + number + self._quote(name) + b"\n")


def _with_last(listed: Iterator[Listed]) -> Iterator[tuple[Listed, bool]]:
    """Yield each entry, and whether it is the last."""
    waiting = next(listed, None)
    for entry in listed:
        assert waiting is not None
        yield waiting, False
        waiting = entry
    if waiting is not None:
        yield waiting, True
