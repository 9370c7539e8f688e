"""Command lines of the commands that read a volume from its devices: which volume, and which paths in it.

A volume is named by its device, by its data device with `-m` and the metadata device, or by a directory or file on a
mount of it on this host, ours or the kernel's: then its devices are read, not the mount.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from format.block import LARGE_BLOCK_SIZE, SMALL_BLOCK_SIZE, Magic
from format.superblock import SuperBlockStruct, SuperFlag
from scoutfs.errors import ScoutfsError
from scoutfs.files.filesystem import Filesystem
from scoutfs.storage.device import Device
from scoutfs.storage.volume import SUPER_OFFSET
from scoutfs.tools.arguments import CommandParser

CACHE_BYTES = 32 << 20
"""Blocks that a command keeps in memory."""

VOLUME_HELP = """\
The volume is only read, and may be mounted meanwhile, here or elsewhere: what its mounts have committed is seen.  Name
its device or image file; of a volume on two devices name the data device and, with -m, the metadata device.  A path on
a mount of it on this host will do too.
"""

_MOUNTS = Path("/proc/self/mountinfo")
_TYPES = ("scoutfs", "fuse.scoutfs")
_ESCAPED = re.compile(r"\\([0-7]{3})")
_NUMBER = re.compile(r"-[0-9]")


class Parser(CommandParser):
    """A parser whose operands may be negative numbers: what looks like `_NUMBER` is no option."""

    def __init__(self, program: str, *, description: str, examples: str, status: str = "", **settings: Any) -> None:
        status = status or "0 on success, 1 if anything could not be read, 64 for a wrong command line"
        super().__init__(
            prog=program,
            description=f"{description}\n{VOLUME_HELP}",
            epilog=f"exit status: {status}\n\nexamples:\n{examples}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            **settings,
        )

    def parse(self, argv: Sequence[str] | None) -> argparse.Namespace:
        """Parse `argv`, by default the arguments of the process."""
        words = list(sys.argv[1:] if argv is None else argv)
        end = words.index("--") if "--" in words else len(words)
        # argparse takes words with a space in them as operands; `number` takes it away again.
        words[:end] = [f" {word}" if self._is_number(word) else word for word in words[:end]]
        return self.parse_intermixed_args(words)

    def _is_number(self, word: str) -> bool:
        return bool(_NUMBER.match(word)) and word[:2] not in self._option_string_actions


def add_metadata_device(parser: argparse.ArgumentParser) -> None:
    """Declare `-m`."""
    parser.add_argument("-m", "--metadev", metavar="DEVICE", help="metadata device of a volume on two devices")


def add_device(parser: argparse.ArgumentParser, *, paths: str | None = None) -> None:
    """Declare the operand that names the volume, and with `paths` (`*`, `+`) those that name files on it."""
    add_metadata_device(parser)
    parser.add_argument("device", metavar="DEVICE", help="device or image file of the volume")
    if paths:
        text = "path from the volume's root"
        # Without a default, argparse would name what may be left out among what is missing.
        parser.add_argument("paths", metavar="PATH", nargs=paths, default=[], type=operand, help=text)


def add_path_option(parser: argparse.ArgumentParser) -> None:
    """Declare `-p`, by which the original's commands name a mount."""
    add_metadata_device(parser)
    parser.add_argument(
        "-p",
        "--path",
        dest="device",
        metavar="DEVICE",
        default=os.environ.get("SCOUTFS_MOUNT_PATH") or ".",
        help="device or image file of the volume, or a path on a mount of it; $SCOUTFS_MOUNT_PATH or the current"
        " directory by default",
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    """Declare `--json`."""
    parser.add_argument("--json", action="store_true", help="print JSON, one object a line")


class Location(NamedTuple):
    """An open volume, and the paths on it that are meant."""

    files: Filesystem
    paths: list[bytes]


def open_location(args: argparse.Namespace, *, default: bytes = b"/") -> Location:
    """Open what `args` names.  Without paths `default` is meant, or what the operand names on a mount.

    Raises VolumeError, DeviceError, and ScoutfsError.
    """
    paths = list(getattr(args, "paths", None) or [])
    mounted = _mounted(args.device)
    if mounted is None:
        if os.path.isdir(args.device):
            raise ScoutfsError(f"{args.device}: no ScoutFS is mounted here: name the devices of the volume")
        return Location(_open(args.device, args.metadev), paths or [default])
    data, metadata, base = mounted
    files = _open(data, args.metadev or metadata)
    return Location(files, [_joined(base, path) for path in paths] or [base])


def operand(text: str) -> bytes:
    """Return a path or name as bytes; one that looks like a negative number is meant as it was given."""
    return os.fsencode(text[1:] if _NUMBER.match(text, 1) and text[0] == " " else text)


def open_volume(args: argparse.Namespace) -> Filesystem:
    """Open the volume that `args` names.  Raises as `open_location`."""
    return open_location(args).files


def number(text: str) -> int:
    """Return a number of 64 bits in C notation, all ones for -1.  Raises ValueError."""
    text = text.strip(" ")
    if re.fullmatch("0[0-7]+", text):
        text = f"0o{text[1:]}"
    try:
        value = int(text, 0)
    except ValueError:
        raise ValueError(f"'{text}' is not a number") from None
    if not -(2**63) <= value < 2**64:
        raise ValueError(f"{text} does not fit into 64 bits")
    return value & 2**64 - 1


def numbers(text: str, count: int, what: str) -> tuple[int, ...]:
    """Return `count` numbers joined by dots, of which later ones may be left out and are 0 then.

    Raises ArgumentTypeError.
    """
    words = text.strip(" ").split(".")
    try:
        if len(words) > count:
            raise ValueError(f"more than {count} numbers")
        found = [number(word) for word in words]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"'{text.strip(' ')}' is no {what}: {error}") from error
    return (*found, *[0] * (count - len(found)))


def _open(device: str, metadata: str | None) -> Filesystem:
    """Open a volume; the two devices may be given in either order."""
    is_metadata, is_whole = _look(device)
    if metadata is None:
        if not is_metadata or not is_whole:
            kind, other = ("metadata", "data") if is_metadata else ("data", "metadata")
            text = f"this is the {kind} device of a volume on two devices"
            raise ScoutfsError(f"{device}: {text}: name the {other} device too, one of them with -m")
        return Filesystem.open(device, cache_bytes=CACHE_BYTES)
    if is_metadata and not _look(metadata)[0]:
        device, metadata = metadata, device
    return Filesystem.open(device, metadata, cache_bytes=CACHE_BYTES)


def _look(path: str) -> tuple[bool, bool]:
    """Return whether a device has the flag of metadata, and whether it has room for data behind that.

    Both are True for anything that is no volume, which is refused later.
    """
    with Device.open(path) as device:
        parsed = SuperBlockStruct.parse(device.read(SUPER_OFFSET, SMALL_BLOCK_SIZE))
        if parsed.hdr.magic != Magic.SUPER:
            return True, True
        data = parsed.total_meta_blocks * LARGE_BLOCK_SIZE
        return bool(parsed.flags & SuperFlag.IS_META_BDEV), data + SUPER_OFFSET < device.size


def _mounted(operand: str) -> tuple[str, str | None, bytes] | None:
    """Return data device, metadata device and path from the root, if `operand` is on a mount of a volume."""
    try:
        lines = _MOUNTS.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return None
    path = os.path.abspath(operand)
    best: tuple[str, str, str] | None = None
    for line in lines:
        before, _, behind = line.partition(" - ")
        point = _unescaped(before.split(" ")[4])
        kind, source, options = behind.split(" ")[:3]
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        if inside and (best is None or len(point) >= len(best[0])):
            best = (point, _unescaped(source), options) if kind in _TYPES else None
            best = best or (point, "", "")
    if best is None or not best[1]:
        return None
    point, source, options = best
    metadata = _metadata_of(point, options)
    if metadata == source:
        # What a mount of a volume on one device tells.
        metadata = None
    return source, metadata, os.fsencode("/" + os.path.relpath(path, point).removeprefix("."))


def _metadata_of(point: str, options: str) -> str | None:
    """Return the metadata device of a mount: the kernel's mounts have it among their options, ours in a file."""
    for option in options.split(","):
        name, _, value = option.partition("=")
        if name == "metadev_path":
            return _unescaped(value)
    try:
        text = Path(point, ".scoutfs", "mount_options", "metadev_path").read_text(errors="surrogateescape")
    except OSError:
        return None
    return text.strip() or None


def _unescaped(text: str) -> str:
    return _ESCAPED.sub(lambda match: chr(int(match[1], 8)), text)


def _joined(base: bytes, path: bytes) -> bytes:
    return base.rstrip(b"/") + b"/" + path.lstrip(b"/")
