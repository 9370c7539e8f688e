"""Expressions of find(1): which files are meant."""

from __future__ import annotations

import fnmatch
import functools
import grp
import os
import pwd
import re
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType

from scoutfs.errors import ScoutfsError
from scoutfs.files.errors import FileError
from scoutfs.files.filesystem import Filesystem
from scoutfs.tools.reading.names import shown
from scoutfs.tools.reading.problems import reason
from scoutfs.tools.reading.walk import Visited

Test = Callable[[Visited], bool]

_DAY, _MINUTE = 86_400_000_000_000, 60_000_000_000
_TYPES = MappingProxyType(
    {
        "f": stat.S_IFREG,
        "d": stat.S_IFDIR,
        "l": stat.S_IFLNK,
        "p": stat.S_IFIFO,
        "s": stat.S_IFSOCK,
        "b": stat.S_IFBLK,
        "c": stat.S_IFCHR,
    }
)
_UNITS = MappingProxyType({"c": 1, "w": 2, "b": 512, "": 512, "k": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40})


class BadExpression(ScoutfsError):
    """An expression that cannot be understood; the text says at which word."""


@dataclass
class Expression:
    """What was asked for: `test` of each file from `min_depth` to `max_depth`; `printed` and `pruned` are set by it.

    Where it has actions, those decide what is printed, otherwise its truth.
    """

    test: Test = field(default=lambda visited: True)
    min_depth: int = 0
    max_depth: int | None = None
    ends_with_zero: bool = False
    has_action: bool = False
    printed: bool = False
    pruned: bool = False

    def wants(self, visited: Visited) -> bool:
        """Whether a file is to be printed.  Raises what reading its attributes does."""
        if visited.depth < self.min_depth:
            return False
        self.printed = False
        is_true = self.test(visited)
        return self.printed if self.has_action else is_true

    def descend(self, visited: Visited) -> bool:
        """Whether a directory that was tested is to be entered."""
        pruned, self.pruned = self.pruned, False
        return not pruned and (self.max_depth is None or visited.depth < self.max_depth)


def parse_expression(words: Sequence[str], files: Filesystem, now_ns: int) -> Expression:
    """Return what the words of a command line mean.  Raises BadExpression, and what reading a file for -newer does."""
    return _Parser(words, files, now_ns).parse()


class _Parser:
    """Reads `or := and (-o and)*`, `and := not ([-a] not)*`, `not := ! not | ( or ) | test`."""

    def __init__(self, words: Sequence[str], files: Filesystem, now_ns: int) -> None:
        self._words = list(words)
        self._at = 0
        self._files, self._now = files, now_ns
        self._found = Expression()

    def parse(self) -> Expression:
        if self._words:
            self._found.test = self._either()
        if self._at < len(self._words):
            raise BadExpression(f"'{self._words[self._at]}' does not belong here")
        return self._found

    def _peek(self) -> str:
        return self._words[self._at] if self._at < len(self._words) else ""

    def _next(self, after: str) -> str:
        if self._at >= len(self._words):
            raise BadExpression(f"something is missing behind '{after}'")
        self._at += 1
        return self._words[self._at - 1]

    def _either(self) -> Test:
        tests = [self._all()]
        while self._peek() in ("-o", "-or"):
            self._at += 1
            tests.append(self._all())
        return tests[0] if len(tests) == 1 else lambda visited: any(test(visited) for test in tests)

    def _all(self) -> Test:
        tests = [self._not()]
        while self._peek() not in ("", "-o", "-or", ")"):
            if self._peek() in ("-a", "-and"):
                self._at += 1
            tests.append(self._not())
        return tests[0] if len(tests) == 1 else lambda visited: all(test(visited) for test in tests)

    def _not(self) -> Test:
        word = self._next(self._words[self._at - 1] if self._at else "find")
        if word in ("!", "-not"):
            test = self._not()
            return lambda visited: not test(visited)
        if word == "(":
            test = self._either()
            if self._next("(") != ")":
                raise BadExpression("a ')' is missing")
            return test
        return self._primary(word)

    def _primary(self, word: str) -> Test:
        if word in _PLAIN:
            return _PLAIN[word](self)
        if word in _WITH_VALUE:
            value = self._next(word)
            try:
                return _WITH_VALUE[word](self, value)
            except (ValueError, OverflowError, KeyError, re.error) as error:
                raise BadExpression(f"{word} cannot take '{value}'") from error
        raise BadExpression(f"'{word}' is no test that is known here")

    def _empty(self) -> Test:
        def is_empty(visited: Visited) -> bool:
            inode = visited.inode
            if inode.is_directory:
                return not self._files.list_batch(inode.ino, 0, 1)
            return inode.is_regular and inode.size == 0

        return is_empty

    def _prune(self) -> Test:
        def prune(visited: Visited) -> bool:
            self._found.pruned = True
            return True

        return prune

    def _print(self) -> Test:
        found = self._found
        found.has_action = True

        def print_it(visited: Visited) -> bool:
            found.printed = True
            return True

        return print_it

    def _print0(self) -> Test:
        self._found.ends_with_zero = True
        return self._print()

    def _max_depth(self, value: str) -> Test:
        self._found.max_depth = _natural(value)
        return lambda visited: True

    def _min_depth(self, value: str) -> Test:
        self._found.min_depth = _natural(value)
        return lambda visited: True

    def _newer(self, value: str) -> Test:
        path = os.fsencode(value)
        try:
            limit = self._files.resolve(path).mtime
        except FileError as error:
            raise ScoutfsError(f"-newer {shown(path)}: {reason(error)}", error.errno) from error
        return lambda visited: visited.inode.mtime > limit

    def _age(self, value: str, time: str, unit: int) -> Test:
        compare = _comparison(value)
        now = self._now
        return lambda visited: compare((now - getattr(visited.inode, time)) // unit)

    def _xattr(self, value: str) -> Test:
        matches, files = _glob(value), self._files

        def has_one(visited: Visited) -> bool:
            inode = visited.inode
            # Ids are never used again: without a next one no attribute was ever set.
            return inode.next_xattr_id > 0 and any(matches(found.name) for found in files.xattr_names(inode.ino))

        return has_one


def _natural(value: str) -> int:
    if not value.isascii() or not value.isdigit():
        raise ValueError(value)
    return int(value)


def _comparison(value: str) -> Callable[[int], bool]:
    """Return what `N`, `+N` (more) and `-N` (less) mean."""
    number = _natural(value.removeprefix("+" if value.startswith("+") else "-"))
    if value.startswith("+"):
        return lambda found: found > number
    if value.startswith("-"):
        return lambda found: found < number
    return lambda found: found == number


def _glob(value: str, flags: int = 0) -> Callable[[bytes], object]:
    """Return what matches a pattern of a shell; `*` and `?` stand for slashes and leading dots too."""
    matches = re.compile(fnmatch.translate(value), flags).match
    return lambda name: matches(name.decode("utf-8", "surrogateescape"))


def _name(_: _Parser, value: str, flags: int = 0) -> Test:
    matches = _glob(value, flags)
    return lambda visited: bool(matches(visited.name))


def _path(_: _Parser, value: str, flags: int = 0) -> Test:
    matches = _glob(value, flags)
    return lambda visited: bool(matches(visited.path))


def _type(_: _Parser, value: str) -> Test:
    wanted = frozenset(_TYPES[letter] for letter in value.split(","))
    return lambda visited: visited.inode.mode & 0o170000 in wanted


def _size(_: _Parser, value: str) -> Test:
    """Sizes are rounded up to whole units."""
    match = re.fullmatch(r"([+-]?[0-9]+)([cwbkMGT]?)", value)
    if match is None:
        raise ValueError(value)
    compare, unit = _comparison(match[1]), _UNITS[match[2]]
    return lambda visited: compare(-(-visited.inode.size // unit))


def _newer_than(_: _Parser, value: str) -> Test:
    limit = int(datetime.fromisoformat(value).timestamp()) * 1_000_000_000
    return lambda visited: visited.inode.mtime > limit


def _number(_: _Parser, value: str, name: str) -> Test:
    compare = _comparison(value)
    return lambda visited: compare(getattr(visited.inode, name))


def _user(parser: _Parser, value: str) -> Test:
    return _number(parser, value if value.isdigit() else str(pwd.getpwnam(value).pw_uid), "uid")


def _group(parser: _Parser, value: str) -> Test:
    return _number(parser, value if value.isdigit() else str(grp.getgrnam(value).gr_gid), "gid")


def _perm(_: _Parser, value: str) -> Test:
    """`MODE` exactly, `-MODE` all of its bits, `/MODE` any of them."""
    bits = int(value.lstrip("-/"), 8)
    if value.startswith("-"):
        return lambda visited: visited.inode.mode & bits == bits
    if value.startswith("/"):
        return lambda visited: not bits or bool(visited.inode.mode & bits)
    return lambda visited: visited.inode.mode & 0o7777 == bits


def _offline(_: _Parser) -> Test:
    return lambda visited: visited.inode.offline_blocks > 0


def _ages() -> Iterator[tuple[str, Callable[[_Parser, str], Test]]]:
    for letter in "amc":
        for suffix, unit in (("time", _DAY), ("min", _MINUTE)):
            yield f"-{letter}{suffix}", functools.partial(_Parser._age, time=f"{letter}time", unit=unit)


_PLAIN: Mapping[str, Callable[[_Parser], Test]] = MappingProxyType(
    {
        "-empty": _Parser._empty,
        "-offline": _offline,
        "-print": _Parser._print,
        "-print0": _Parser._print0,
        "-prune": _Parser._prune,
        "-true": lambda parser: lambda visited: True,
        "-false": lambda parser: lambda visited: False,
    }
)
_WITH_VALUE: Mapping[str, Callable[[_Parser, str], Test]] = MappingProxyType(
    {
        "-name": _name,
        "-iname": functools.partial(_name, flags=re.IGNORECASE),
        "-path": _path,
        "-ipath": functools.partial(_path, flags=re.IGNORECASE),
        "-type": _type,
        "-size": _size,
        "-newer": _Parser._newer,
        "-newermt": _newer_than,
        "-ino": functools.partial(_number, name="ino"),
        "-inum": functools.partial(_number, name="ino"),
        "-links": functools.partial(_number, name="nlink"),
        "-uid": functools.partial(_number, name="uid"),
        "-gid": functools.partial(_number, name="gid"),
        "-project": functools.partial(_number, name="proj"),
        "-user": _user,
        "-group": _group,
        "-perm": _perm,
        "-xattr": _Parser._xattr,
        "-maxdepth": _Parser._max_depth,
        "-mindepth": _Parser._min_depth,
        **dict(_ages()),
    }
)
