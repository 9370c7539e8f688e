"""`scoutfs find`: files by what is known of them, read from the devices, with the expressions of find(1)."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence

from scoutfs.errors import ScoutfsError
from scoutfs.files.filesystem import Filesystem
from scoutfs.files.inode import Inode
from scoutfs.tools.reading import describe
from scoutfs.tools.reading.arguments import Parser, add_device, add_json, open_location
from scoutfs.tools.reading.expression import BadExpression, Expression, parse_expression
from scoutfs.tools.reading.names import literal, quoting
from scoutfs.tools.reading.problems import Problems
from scoutfs.tools.reading.walk import Visited, walk

_DESCRIPTION = """\
Print the paths below PATH for which the expression is true, directories before what is in them.  Symbolic links are not
followed.
"""
_EXAMPLES = """\
  scoutfs find /dev/scoutfs / -name '*.tmp' -mtime +30
  scoutfs find -m meta.img data.img /archive -type f -offline -print0
  scoutfs find --json image / -xattr 'scoutfs.srch.*' | jq -r .ino

tests, as in find(1); N is N, +N (more) or -N (less):
  -name -iname -path -ipath GLOB     -type f,d,l,p,s,b,c      -size N[cwbkMGT]     -empty
  -mtime -atime -ctime N (days)      -mmin -amin -cmin N      -newer PATH (on the volume)
  -newermt DATE                      -ino N  -links N         -perm MODE, -MODE, /MODE
  -uid -gid N  -user -group NAME     -maxdepth -mindepth N    -prune  -true  -false
  -xattr GLOB    has an attribute of such a name, hidden ones too
  -offline       has contents that are not on the volume
  -project N     belongs to this project
operators: ( )  ! -not  -a -and  -o -or
actions: -print, which is done if there is none; -print0, which ends all paths with zero bytes"""
_OPTIONS = ("--json", "--help", "-h", "-N", "--literal")
_WITH_VALUE = ("-m", "--metadev")
_WRITTEN_AT_ONCE = 1000


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status.  Raises ScoutfsError."""
    parser = Parser(
        "scoutfs find",
        description=_DESCRIPTION,
        examples=_EXAMPLES,
        usage="scoutfs find [--json] [-N] [-m DEVICE] DEVICE [PATH ...] [EXPRESSION]",
    )
    parser.add_argument("-N", "--literal", action="store_true", help="print paths as they are on a terminal too")
    add_json(parser)
    add_device(parser, paths="*")
    given, expression = _split(list(sys.argv[1:] if argv is None else argv))
    args = parser.parse(given)
    problems = Problems("find")
    files, paths = open_location(args)
    with files:
        try:
            wanted = parse_expression(expression, files, time.time_ns())
        except BadExpression as error:
            parser.error(str(error))
        printer = _Printer(wanted, as_json=args.json, as_they_are=args.literal)
        for path, start in problems.each(paths, lambda path: files.resolve(path, follow=False)):
            _find(files, start, path, wanted, printer, problems)
    return problems.status


def _split(words: list[str]) -> tuple[list[str], list[str]]:
    """Return options and operands, and the words of the expression; `--json` may be among these."""
    given: list[str] = []
    at = 0
    while at < len(words):
        word = words[at]
        if word in _WITH_VALUE:
            given += words[at : at + 2]
            at += 2
        elif word in _OPTIONS or word.startswith("--") or not (word.startswith("-") or word in ("(", "!")):
            given.append(word)
            at += 1
        else:
            break
    expression = [word for word in words[at:] if word != "--json"]
    return given + ["--json"] * (len(words) - at - len(expression)), expression


def _find(
    files: Filesystem, start: Inode, path: bytes, wanted: Expression, printer: _Printer, problems: Problems
) -> None:
    try:
        for visited in walk(files, start, path, problems, descend=wanted.descend):
            try:
                found = wanted.wants(visited)
            except ScoutfsError as error:
                problems(visited.path, error)
                continue
            if found:
                printer.add(visited)
    finally:
        printer.flush()


class _Printer:
    def __init__(self, wanted: Expression, *, as_json: bool, as_they_are: bool) -> None:
        self._as_json = as_json
        self._end = b"\0" if wanted.ends_with_zero else b"\n"
        self._quote = literal if as_they_are or wanted.ends_with_zero else quoting()
        self._waiting: list[bytes] = []

    def add(self, visited: Visited) -> None:
        """Print a file, soon."""
        if self._as_json:
            line = json.dumps(describe.json_object(visited.path, visited.inode)).encode() + b"\n"
        else:
            line = self._quote(visited.path) + self._end
        self._waiting.append(line)
        if len(self._waiting) >= _WRITTEN_AT_ONCE:
            self.flush()

    def flush(self) -> None:
        """Write what waits."""
        sys.stdout.buffer.write(b"".join(self._waiting))
        self._waiting.clear()
