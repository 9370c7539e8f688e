"""`fsck.scoutfs`, `scoutfs fsck`: checks a volume, and changes nothing."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from scoutfs.errors import ScoutfsError
from scoutfs.fsck.check import Outcome, check_volume
from scoutfs.storage import SystemIO
from scoutfs.tools.arguments import Option, UsageError, output_lost, scan
from scoutfs.tools.fsck.devices import mount_points, open_devices
from scoutfs.tools.fsck.output import ProgressShower, json_text, text

CLEAN, UNCORRECTED, OPERATIONAL, USAGE, CANCELLED = 0, 4, 8, 16, 32
"""Exit statuses of fsck(8) that are used here."""

_OPTIONS = (
    Option("no-change", "n"),
    Option("force", "f"),
    Option("verbose", "v"),
    Option("json"),
    Option("version", "V"),
    Option("help", "h"),
    *(Option(f"repair-{letter}", letter) for letter in "apyr"),
)
_PROGRESS = re.compile(r"-C([0-9]{0,4})")

_USAGE = "usage: {program} [-n] [-f] [-v] [-C[FD]] [--json] DEVICE [DATA-DEVICE]"
_HELP = """\

Checks a ScoutFS volume and changes nothing: every block that the super block leads to, every tree,
that each block of both devices belongs to exactly one owner, and that inodes, names, links, attributes,
indexes and totals agree.  DEVICE is the metadata device, or a volume on one device; with both devices
the order does not matter.  Regular files will do.

  -n           change nothing; this is always so
  -f           check a volume that seems to be in use without a warning
  -v           show all findings, not the first of each kind only
  -C[FD]       show how far the check is, even where standard error is no terminal; with FD write lines
               `WALK BLOCKS EXPECTED DEVICE` to that descriptor
      --json   print the result for programs
  -V           print the version
  -h, --help   print this

Nothing is repaired: -a, -p, -r and -y are refused.

exit status: 0 no damage, 4 damage was found, 8 the check could not be made, 16 wrong usage, 32 interrupted

examples:
  {program} /dev/meta /dev/data
  {program} --json image | jq .counts"""


@dataclass
class _Request:
    paths: list[str] = field(default_factory=list)
    force: bool = False
    verbose: bool = False
    json: bool = False
    progress: int | None = None
    information: str = ""


def main(argv: Sequence[str] | None = None, *, io: SystemIO | None = None) -> int:
    """Run `fsck` with these arguments, `fsck.scoutfs` with those of the process; return the exit status."""
    program = "fsck.scoutfs" if argv is None else "scoutfs fsck"
    try:
        request = _parse(list(sys.argv[1:] if argv is None else argv))
        if request.information:
            print(_information(request.information, program))
            return CLEAN
        status = _check(request, program, io)
        sys.stdout.flush()
        return status
    except OSError as error:
        output_lost(program, error)
        return OPERATIONAL
    except UsageError as error:
        print(f"{program}: {error}", _USAGE.format(program=program), sep="\n", file=sys.stderr)
        return USAGE
    except ScoutfsError as error:
        print(f"{program}: {error}", file=sys.stderr)
        return OPERATIONAL
    except KeyboardInterrupt:
        print(f"{program}: interrupted, the check is not complete", file=sys.stderr)
        return CANCELLED


def _parse(arguments: list[str]) -> _Request:
    request = _Request()
    words = []
    for word in arguments:
        if match := _PROGRESS.fullmatch(word):
            request.progress = int(match[1] or 0)
        else:
            words.append(word)
    for option, value in scan(words, _OPTIONS):
        if option is None:
            request.paths.append(value)
        elif option.name.startswith("repair-"):
            raise UsageError(f"-{option.letter} asks for repairs, but this program only checks: use -n")
        elif option.name in ("help", "version"):
            request.information = request.information or option.name
        elif option.name != "no-change":
            setattr(request, option.name, True)
    if not request.information and len(request.paths) not in (1, 2):
        raise UsageError("name the metadata device and the data device, or the one device of the volume")
    return request


def _information(which: str, program: str) -> str:
    if which == "version":
        from scoutfs.cli import version

        return version()
    return f"{_USAGE.format(program=program)}\n{_HELP.format(program=program)}"


def _check(request: _Request, program: str, io: SystemIO | None) -> int:
    with open_devices(request.paths, io) as (meta, data), _showing(request, meta.path) as show:
        points = [] if request.force else mount_points(request.paths)
        for point in points:
            text_ = f"mounted on {point}: it is checked as it was at one moment, and caches are not looked at"
            print(f"{program}: warning: {text_}", file=sys.stderr)
        outcome = check_volume(meta, data, progress=show)
        show_all = request.verbose
    print(json_text(meta, data, outcome) if request.json else text(meta.path, outcome, show_all=show_all))
    return _status(outcome)


def _status(outcome: Outcome) -> int:
    return UNCORRECTED if outcome.report.errors else CLEAN


@contextmanager
def _showing(request: _Request, path: str) -> Iterator[ProgressShower]:
    stream = sys.stderr
    if request.progress:
        try:
            stream = os.fdopen(request.progress, "w", closefd=False)
        except OSError as error:
            raise ScoutfsError(f"-C{request.progress}: {error.strerror}", error.errno or 0) from error
    wanted = request.progress is not None or stream.isatty()
    shower = ProgressShower(stream, path, as_lines=bool(request.progress)) if wanted else ProgressShower(None, path)
    try:
        yield shower
    finally:
        shower.end()
