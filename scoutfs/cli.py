"""`scoutfs COMMAND`: finds the module of a command and runs it.

The module `scoutfs.tools.NAME` of a command is imported only when it is called.  It has either `add_parser(subparsers)`
and `run(args) -> int`, or, where options must be parsed exactly as the original does, `main(argv) -> int`.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping, Sequence
from types import MappingProxyType, ModuleType

from scoutfs.errors import ScoutfsError
from scoutfs.tools.arguments import CommandParser, output_lost

COMMANDS: Mapping[str, str] = MappingProxyType(
    {
        "mkfs": "make a volume on one device or two",
        "print": "print the structures on a metadata device",
        "fsck": "check a volume, and change nothing",
        "quorum": "show the quorum slots of a volume and who may lead; `quorum watch` follows them live",
        "change-quorum-config": "replace the quorum slots of a volume that is not mounted",
        "ls": "list directories of a volume that need not be mounted",
        "tree": "show directories of a volume as a tree",
        "stat": "print all that is recorded of files",
        "cat": "write the contents of files to standard output",
        "cp": "copy files and whole trees out of a volume, with all attributes",
        "find": "find files by name, type, size, time, attributes",
        "xattr": "print extended attributes of files",
        "df": "show how much of a volume is free",
        "get-fiemap": "print where the data of a file is",
        "ino-path": "print the paths of an inode",
        "walk-inodes": "list inodes in the order of their last change",
        "search-xattrs": "list inodes that have an attribute with the tag srch",
        "read-xattr-totals": "print the totals of attributes with the tag totl",
        "read-xattr-index": "list inodes by attributes with the tag indx",
        "simulate": "run a simulated cluster from a seed and print what happened",
    }
)
"""What each command does, in one line."""

_QUESTIONS = ("-h", "--help", "-V", "--version")
_EXAMPLES = """\
examples:
  scoutfs mkfs -Q 0,192.168.1.1,6000 -Q 1,192.168.1.2,6000 -Q 2,192.168.1.3,6000 /dev/meta /dev/data
  scoutfs quorum /dev/meta
  scoutfs quorum watch /mnt/scoutfs
  scoutfs print /dev/meta
  scoutfs ls -la -m /dev/meta /dev/data /archive
  scoutfs cp -r --errors lost.json -m /dev/meta /dev/data / /rescue
  scoutfs fsck /dev/meta /dev/data
  scoutfs change-quorum-config --offline -Q 0,192.168.1.9,6000 /dev/meta

`scoutfs COMMAND --help` describes a command.  Volumes are mounted with `mount -t scoutfs`, see mount.scoutfs(8).
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (`sys.argv` by default) and return its exit status; errors are one line on stderr."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    command = arguments[0] if arguments else ""
    if command not in COMMANDS and command not in _QUESTIONS:
        if command:
            print(f"scoutfs: there is no command '{command}'", file=sys.stderr)
        print(_help(), file=sys.stderr)
        return 1
    if sys.stdout is None:
        print("scoutfs: standard output is closed", file=sys.stderr)
        return 1
    try:
        status = _answer(command) if command in _QUESTIONS else _guarded(command, arguments[1:])
        sys.stdout.flush()
    except OSError as error:
        output_lost("scoutfs" if command in _QUESTIONS else f"scoutfs: {command}", error)
        return 1
    return status


def _answer(question: str) -> int:
    print(_help() if question in ("-h", "--help") else version())
    return 0


def version() -> str:
    """Return the line that `--version` prints."""
    import importlib.metadata

    return f"scoutfs {importlib.metadata.version('scoutfs')}"


def _guarded(command: str, arguments: list[str]) -> int:
    # Here, so that help and version need not wait for the declarations of the format.
    from format.block import FormatError

    try:
        return _run(importlib.import_module(f"scoutfs.tools.{command.replace('-', '_')}"), command, arguments)
    except (ScoutfsError, FormatError) as error:
        print(f"scoutfs: {command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _run(module: ModuleType, command: str, arguments: list[str]) -> int:
    if not hasattr(module, "add_parser"):
        return int(module.main(arguments))
    parser = CommandParser(prog="scoutfs")
    module.add_parser(parser.add_subparsers(dest="command", required=True, metavar=command))
    return int(module.run(parser.parse_args([command, *arguments])))


def _help() -> str:
    width = max(map(len, COMMANDS)) + 2
    lines = "\n".join(f"  {name:{width}}{summary}" for name, summary in COMMANDS.items())
    usage = "usage: scoutfs COMMAND [ARGUMENT...]\n       scoutfs --help | --version"
    return f"{usage}\n\ncommands:\n{lines}\n\n{_EXAMPLES}".rstrip()


if __name__ == "__main__":
    sys.exit(main())
