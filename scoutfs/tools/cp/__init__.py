"""`scoutfs cp`: copies files and trees out of a volume, with all that the target can hold of them."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TextIO

from scoutfs.errors import ScoutfsError
from scoutfs.files.filesystem import Filesystem
from scoutfs.files.inode import Inode
from scoutfs.tools.cp.copier import Copier, Settings, TargetError
from scoutfs.tools.cp.progress import shown_progress
from scoutfs.tools.cp.report import Report
from scoutfs.tools.reading.arguments import Parser, add_device, open_location, operand

_DESCRIPTION = """\
Copy files, with -r whole trees, to a directory of any filesystem of this host: contents with their holes, owners,
modes, times to the nanosecond, extended attributes and access control lists, hard links, symbolic links, devices,
fifos and sockets.

Each SOURCE gets its own name in the directory TARGET, the root of the volume fills it; a TARGET that does not exist is
made.  A single file is copied to TARGET itself unless that is a directory.

Nothing stops the copy but a full or read-only target.  A file that cannot be read whole, because contents of it are
offline or damaged, is left out.  What could not be read or set is listed in the file of --errors, attributes with their
values, and summed up at the end.

Run the same command again to go on where it was interrupted, or to try again what failed: files get their names when
they are complete, and those there with the right size and time are not copied again; their other attributes are
compared and set where they differ.
"""
_EXAMPLES = """\
  scoutfs cp -r /dev/scoutfs / /rescue
  scoutfs cp -r --errors lost.json -m meta.img data.img /archive /rescue
  scoutfs cp -m meta.img data.img etc/motd motd"""
_STATUS = "0 if everything was copied, 1 if not, 64 for a wrong command line, 130 when interrupted"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status.  Raises ScoutfsError."""
    args = _parse(argv)
    files, sources = open_location(args)
    with files, _list(args.errors) as stream:
        report = Report(stream)
        status = _copy_all(files, sources, args, report)
    if args.json:
        print(json.dumps(report.to_dict()))
    else:
        report.sum_up(args.errors)
    return status


def _copy_all(files: Filesystem, sources: Sequence[bytes], args: argparse.Namespace, report: Report) -> int:
    with shown_progress(files, sources) as progress:
        copier = Copier(files, Settings.of(args), report, progress)
        try:
            for source in sources:
                _copy(files, source, args, copier, report)
        except TargetError as error:
            report.fatal(str(error))
            return 1
        except KeyboardInterrupt:
            report.fatal("interrupted")
            return 130
    return 1 if report.count else 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser("scoutfs cp", description=_DESCRIPTION, examples=_EXAMPLES, status=_STATUS)
    parser.add_argument("-r", "-R", "--recursive", action="store_true", help="copy directories with all in them")
    parser.add_argument("-T", "--no-target-directory", action="store_true", help="the copy of SOURCE is TARGET itself")
    parser.add_argument("--errors", metavar="FILE", help="list in FILE what was not copied, one JSON object a line")
    parser.add_argument("--no-owner", action="store_true", help="leave owners and groups as they come about")
    parser.add_argument(
        "--partial", action="store_true", help="copy what can be read of damaged and offline files, as NAME.partial"
    )
    parser.add_argument("--fsync", action="store_true", help="have each file on stable storage before it gets its name")
    parser.add_argument("--json", action="store_true", help="sum up as one JSON object on standard output")
    add_device(parser)
    parser.add_argument("paths", metavar="SOURCE", nargs="+", type=operand, help="path from the volume's root")
    parser.add_argument("target", metavar="TARGET", type=operand, help="where to copy to on this host")
    args = parser.parse(argv)
    if args.no_target_directory and len(args.paths) > 1:
        parser.error("-T takes only one SOURCE")
    return args


@contextmanager
def _list(path: str | None) -> Iterator[TextIO | None]:
    """Give the file that lists what was not copied; raises ScoutfsError if it cannot be written."""
    if path is None:
        yield None
        return
    try:
        with open(path, "w", encoding="ascii") as stream:
            yield stream
    except OSError as error:
        raise ScoutfsError(f"{path}: {error.strerror}", error.errno or 0) from error


def _copy(files: Filesystem, source: bytes, args: argparse.Namespace, copier: Copier, report: Report) -> None:
    try:
        inode = files.resolve(source, follow=not args.recursive)
    except ScoutfsError as error:
        report.add(source, "read", error)
        return
    if inode.is_directory and not args.recursive:
        report.add(source, "read", "this is a directory, which needs -r")
        return
    directory, name = _place(source, inode, args)
    copier.copy(inode, source, directory, name)


def _place(source: bytes, inode: Inode, args: argparse.Namespace) -> tuple[bytes, bytes]:
    """Return the directory that the copy is made in, and its name there; the name is empty for the directory itself."""
    target: bytes = args.target
    name = source.rstrip(b"/").rpartition(b"/")[2]
    if name in (b"", b".", b".."):
        return target, b""
    alone = len(args.paths) == 1 and not inode.is_directory and not target.endswith(b"/") and not os.path.isdir(target)
    if args.no_target_directory or alone:
        if inode.is_directory:
            return target, b""
        return os.path.dirname(target) or b".", os.path.basename(target)
    return target, name
