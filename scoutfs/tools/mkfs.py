"""`mkfs.scoutfs`, `scoutfs mkfs`: makes a volume on two devices, or on one (spec 01 §6)."""

from __future__ import annotations

import errno
import json
import os
import secrets
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from format.block import LARGE_BLOCK_SIZE, SMALL_BLOCK_SIZE
from format.quorum import SlotAddress
from format.superblock import FORMAT_VERSION_MAX, FORMAT_VERSION_MIN
from scoutfs.errors import ScoutfsError
from scoutfs.storage import Device, DeviceError, Sharing, SystemIO
from scoutfs.storage.creation import DATA_BLOCKS_MIN, META_BLOCKS_MIN, NewVolume, write_volume
from scoutfs.tools.arguments import BadValue, Option, UsageError, parse_number, parse_size, run_command, scan
from scoutfs.tools.contents import check_empty, probe, running_mounts
from scoutfs.tools.quorum_slots import add_slot, check_slots, slot_lines, slot_warnings
from scoutfs.tools.sizes import size_text

SIZE_MIN = 64 << 30
"""Bytes that each device must have unless -A is given."""

SERVER_META_SIZE_MIN = (1031 + 2 * (34681 + 2 * 8185)) * LARGE_BLOCK_SIZE
"""Bytes of metadata below which a server runs out of blocks, about 6.3 GiB.

Each half of the free blocks has to hold what a server keeps in reserve with one client, and two full lists (spec 04).
"""

_SINGLE_META_SIZE = 64 << 30
_SINGLE_META_SHARE = 8
_SINGLE_ROUNDING = 1 << 20
_ZONE_BLOCKS_MIN = 1 << 20
_ZONES_MAX = 1024

_OPTIONS = (
    Option("quorum-slot", "Q", takes_value=True),
    Option("force", "f"),
    Option("allow-small-size", "A"),
    Option("max-meta-size", "m", takes_value=True),
    Option("max-data-size", "d", takes_value=True),
    Option("data-alloc-zone-blocks", "z", takes_value=True),
    Option("format-version", "V", takes_value=True),
    Option("metadata-size", takes_value=True),
    Option("quiet", "q"),
    Option("json"),
    Option("version"),
    Option("usage"),
    Option("help", "h"),
)

_USAGE = """\
usage: {program} [OPTION...] -Q NR,ADDRESS,PORT... META-DEVICE DATA-DEVICE
       {program} [OPTION...] -Q NR,ADDRESS,PORT... [--metadata-size SIZE] DEVICE"""

_HELP = """\

Makes a ScoutFS volume on two devices, or on one.  Devices are block devices or regular files.

  -Q, --quorum-slot NR,ADDRESS,PORT  a quorum slot, 0 to 14, and the IPv4 address and port of its
                                     member; at least one, three or five survive the loss of members
  -f, --force                        overwrite what the devices hold; a device that is in use on this
                                     host is refused all the same
  -A, --allow-small-size             only warn of devices smaller than 64 GiB
  -m, --max-meta-size SIZE           use at most SIZE for metadata, rounded down to 64 KiB
  -d, --max-data-size SIZE           use at most SIZE for data, rounded down to 4 KiB
      --metadata-size SIZE           on one device: SIZE for metadata, rounded down to 64 KiB
  -z, --data-alloc-zone-blocks NR    size of the zones in which mounts allocate data, in 4 KiB blocks
  -V, --format-version 1|2           version of the format, 2 if not given
  -q, --quiet                        print errors and warnings only
      --json                         print the result as JSON
  -h, --help                         print this
      --version                      print the version, as a lone -V does

SIZE is a number of bytes, or of K, M, G, T or P (powers of 1024).

On one device the metadata comes first, with the data behind it.  The metadata gets the greater of
64 GiB and an eighth of the device, but at most half of it, rounded down to 1 MiB.

examples:
  {program} -Q 0,10.0.0.1,6000 -Q 1,10.0.0.2,6000 -Q 2,10.0.0.3,6000 /dev/meta /dev/data
  truncate -s 160G image; {program} -Q 0,127.0.0.1,6000 image"""


@dataclass
class _Request:
    """What the command line asks for; sizes in bytes, 0 where not given."""

    slots: dict[int, SlotAddress] = field(default_factory=dict)
    paths: list[str] = field(default_factory=list)
    force: bool = False
    allow_small: bool = False
    meta_limit: int = 0
    data_limit: int = 0
    metadata_size: int = 0
    zone_blocks: int = 0
    fmt_vers: int = FORMAT_VERSION_MAX
    quiet: bool = False
    json: bool = False
    information: str = ""

    def note(self, text: str) -> None:
        """Print what is neither an error nor the result."""
        if not self.quiet:
            print(text, file=sys.stderr if self.json else sys.stdout)


def main(argv: Sequence[str] | None = None, *, io: SystemIO | None = None) -> int:
    """Run `mkfs` with these arguments, `mkfs.scoutfs` with those of the process; return the exit status."""
    program = "mkfs" if argv is not None else os.path.basename(sys.argv[0])
    arguments = list(sys.argv[1:] if argv is None else argv)

    def body() -> int:
        request = _parse(arguments, program)
        if request.information:
            print(request.information)
        else:
            _make(request, io or SystemIO(), os.environ)
        return 0

    return run_command("mkfs", program, body)


def single_device_split(size: int) -> int:
    """Return how many bytes at the start of a device of `size` bytes become metadata if nothing else is asked for."""
    wanted = max(_SINGLE_META_SIZE, size // _SINGLE_META_SHARE)
    return min(wanted, size // 2) // _SINGLE_ROUNDING * _SINGLE_ROUNDING


def _parse(arguments: Sequence[str], program: str) -> _Request:
    """Parse and check all that can be checked without devices; raises UsageError."""
    request = _Request()
    if list(arguments) == ["-V"]:
        arguments = ["--version"]
    try:
        for option, value in scan(arguments, _OPTIONS):
            _take(request, option.name if option else "", value, program)
            if request.information:
                return request
    except BadValue as error:
        print(error, file=sys.stdout if error.on_stdout else sys.stderr)
        request.paths.clear()
    if not request.slots:
        check_slots(request.slots)
    if not request.paths:
        raise UsageError("no metadata device argument given")
    check_slots(request.slots)
    if request.metadata_size and len(request.paths) == 2:
        raise UsageError("--metadata-size is for a volume on one device")
    return request


def _take(request: _Request, name: str, value: str, program: str) -> None:
    match name:
        case "quorum-slot":
            add_slot(request.slots, value)
        case "force":
            request.force = True
        case "allow-small-size":
            request.allow_small = True
        case "max-meta-size":
            request.meta_limit = _rounded(value, "Meta dev size", LARGE_BLOCK_SIZE)
        case "max-data-size":
            request.data_limit = _rounded(value, "Data dev size", SMALL_BLOCK_SIZE)
        case "metadata-size":
            request.metadata_size = _rounded(value, "Metadata size", LARGE_BLOCK_SIZE)
        case "data-alloc-zone-blocks":
            request.zone_blocks = parse_number(value)
            if not request.zone_blocks:
                raise UsageError("must provide non-zero data-alloc-zone-blocks")
        case "format-version":
            request.fmt_vers = parse_number(value)
            if not FORMAT_VERSION_MIN <= request.fmt_vers <= FORMAT_VERSION_MAX:
                versions = f"{FORMAT_VERSION_MIN}-{FORMAT_VERSION_MAX}"
                raise UsageError(f"format-version {request.fmt_vers} is outside supported range of {versions}")
        case "quiet":
            request.quiet = True
        case "json":
            request.json = True
        case "version":
            from scoutfs.cli import version

            request.information = version()
        case "usage":
            request.information = _USAGE.format(program=program)
        case "help":
            request.information = (_USAGE + "\n" + _HELP).format(program=program)
        case _:
            if len(request.paths) == 2:
                raise UsageError("more than two arguments given")
            request.paths.append(value)


def _rounded(value: str, what: str, unit: int) -> int:
    size = parse_size(value)
    rounded = size // unit * unit
    if size and not rounded:
        raise BadValue(f"{what} {size} is less than {unit} bytes")
    if rounded != size:
        print(f"{what} {size} rounded down to {rounded} bytes", file=sys.stderr)
    return rounded


def _make(request: _Request, io: SystemIO, environment: Mapping[str, str]) -> None:
    """Check everything, write the volume, print the result; raises ScoutfsError.  Nothing is refused once it writes."""
    fsid, uuid_, created = _identity(environment)
    with _devices(request, io) as (meta, data):
        warnings: list[str] = []
        if len(request.paths) == 1:
            meta, data = _split(meta, request)
        meta_size = _usable_size("meta", meta.size, request.meta_limit, META_BLOCKS_MIN * LARGE_BLOCK_SIZE, request)
        data_size = _usable_size("data", data.size, request.data_limit, DATA_BLOCKS_MIN * SMALL_BLOCK_SIZE, request)
        data_blocks = data_size // SMALL_BLOCK_SIZE
        _check_zone(request.zone_blocks, data_blocks)
        if meta_size < SERVER_META_SIZE_MIN:
            warnings.append(
                f"warning: {size_text(meta_size)} of metadata is less than a server can work with,"
                f" about {size_text(SERVER_META_SIZE_MIN)}"
            )
        warnings += slot_warnings(request.slots)
        if request.force:
            warnings += [f"warning: {line}" for line in running_mounts(meta)]
        new = NewVolume(
            fsid,
            uuid_.bytes,
            created,
            request.fmt_vers,
            meta_size // LARGE_BLOCK_SIZE,
            data_blocks,
            request.slots,
            request.zone_blocks,
        )
        write_volume(meta, data, new)
        if request.force:
            warnings += _remaining_signatures(meta, data)
        for line in warnings:
            print(line, file=sys.stderr)
        if request.json:
            print(json.dumps(_as_json(new, meta, data), indent=2))
        elif not request.quiet:
            print(_summary(new, meta, data))


def _identity(environment: Mapping[str, str]) -> tuple[int, uuid.UUID, int]:
    """Return fsid, uuid and time (nanoseconds, whole microseconds): random and now, unless a test gives them."""
    fsid, uuid_, created = secrets.randbits(64) or 1, uuid.uuid4(), time.time_ns() // 1000 * 1000
    try:
        if text := environment.get("SCOUTFS_MKFS_FSID"):
            fsid = int(text, 16)
        if text := environment.get("SCOUTFS_MKFS_UUID"):
            uuid_ = uuid.UUID(text)
        if text := environment.get("SCOUTFS_MKFS_TIME"):
            seconds, _, microseconds = text.partition(".")
            created = int(seconds) * 1_000_000_000 + int(microseconds.ljust(6, "0")) * 1000
    except ValueError as error:
        raise ScoutfsError(f"SCOUTFS_MKFS_*: {error}", errno.EINVAL) from error
    return fsid, uuid_, created


@contextmanager
def _devices(request: _Request, io: SystemIO) -> Iterator[tuple[Device, Device]]:
    """Open the devices, which are one and the same if only one was given, and look at what they hold."""
    names = ("meta dev", "data dev") if len(request.paths) == 2 else ("device",)
    opened: list[Device] = []
    try:
        for name, path in zip(names, request.paths, strict=True):
            if opened and _is_same(path, request.paths[0]):
                text = "is given both for metadata and for data: give it once for a volume on one device"
                raise ScoutfsError(f"{path}: {text}", errno.EINVAL)
            opened.append(_open(name, path, io))
            if not request.force:
                check_empty(opened[-1])
        yield opened[0], opened[-1]
    finally:
        for device in opened:
            device.close()


def _is_same(path: str, other: str) -> bool:
    """Whether both name one device or file, which cannot be claimed twice."""
    try:
        one, two = os.stat(path), os.stat(other)
    except OSError:
        return False
    return os.path.samestat(one, two) or (one.st_rdev != 0 and one.st_rdev == two.st_rdev)


def _open(name: str, path: str, io: SystemIO) -> Device:
    try:
        return Device.open(path, writable=True, sharing=Sharing.EXCLUSIVE, io=io)
    except DeviceError as error:
        text = f"failed to open {name} '{path}': {os.strerror(error.errno)} ({error.errno})"
        if error.errno in (errno.EBUSY, errno.ENOTBLK):
            text += f": {str(error).removeprefix(f'{path}: ')}"
        raise ScoutfsError(text, error.errno) from error


def _split(device: Device, request: _Request) -> tuple[Device, Device]:
    """Return the two parts of a single device."""
    meta_size = request.metadata_size or single_device_split(device.size)
    if request.meta_limit:
        meta_size = min(meta_size, request.meta_limit)
    if meta_size >= device.size:
        text = f"{size_text(meta_size)} of metadata leaves no data on a device of {size_text(device.size)}"
        raise ScoutfsError(f"{device.path}: {text}", errno.EINVAL)
    return device.part(0, meta_size), device.part(meta_size, device.size - meta_size)


def _usable_size(kind: str, size: int, limit: int, least: int, request: _Request) -> int:
    """Apply the limit of the command line to a device's size and check it against the minima."""
    if limit > size:
        request.note(
            f"Device size limit of {size_text(limit)} for {kind} device is greater than {size_text(size)} available,"
            " ignored."
        )
    elif limit and limit < size:
        request.note(f"Limiting use of {size_text(size)} {kind} device to {size_text(limit)}")
        size = limit
    if size < SIZE_MIN:
        text = f"{size_text(size)} too small for min {size_text(SIZE_MIN)} {kind} device"
        if not request.allow_small:
            raise ScoutfsError(text, errno.EINVAL)
        print(f"{text}, allowing with -A", file=sys.stderr)
    if size < least:
        text = f"{size_text(size)} too small for any {kind} device, even with -A: the least is {least} bytes"
        raise ScoutfsError(text, errno.EINVAL)
    return size


def _check_zone(zone_blocks: int, data_blocks: int) -> None:
    """Check the option data_alloc_zone_blocks (spec 01 §3.3)."""
    if not zone_blocks:
        return
    if zone_blocks < _ZONE_BLOCKS_MIN:
        text = f"must be at least {_ZONE_BLOCKS_MIN} mount data allocation target blocks"
    elif zone_blocks < data_blocks // _ZONES_MAX:
        text = f"must be greater than {data_blocks // _ZONES_MAX} blocks which results in max {_ZONES_MAX} zones"
    elif zone_blocks > data_blocks:
        text = f"must be at most {data_blocks} total data device blocks"
    else:
        return
    raise ScoutfsError(f"setting data_alloc_zone_blocks to '{zone_blocks}' failed, {text}", errno.EINVAL)


def _remaining_signatures(meta: Device, data: Device) -> list[str]:
    """Return a line for each foreign signature that the new volume does not cover, and that others may still trust."""
    lines = []
    for device in (meta,) if data.path == meta.path else (meta, data):
        try:
            found = probe(device)
        except ScoutfsError:
            # The volume is made; what cannot be looked at is not worth a failure.
            continue
        if kind := found.get("TYPE"):
            text = f"it still has a signature of {kind}, which `wipefs -a -t {kind} {device.path}` removes"
            lines.append(f"warning: {device.path}: {text}")
        if kind := found.get("PTTYPE"):
            lines.append(f"warning: {device.path}: it still has a partition table ({kind})")
    return lines


def _summary(new: NewVolume, meta: Device, data: Device) -> str:
    where = f" (from byte {data.start})" if data.start else ""
    return "\n".join(
        (
            "Created scoutfs filesystem:",
            f"  meta device path:       {meta.path}",
            f"  data device path:       {data.path}{where}",
            f"  fsid:                   {new.fsid:x}",
            f"  uuid:                   {uuid.UUID(bytes=new.uuid)}",
            f"  format version:         {new.fmt_vers}",
            f"  64KB metadata blocks:   {_blocks(new.meta_blocks, LARGE_BLOCK_SIZE)}",
            f"  4KB data blocks:        {_blocks(new.data_blocks, SMALL_BLOCK_SIZE)}",
            f"  quorum config version:  {new.quorum_config.version}",
            slot_lines(new.slots),
        )
    )


def _blocks(count: int, size: int) -> str:
    return f"{count} ({size_text(count * size, ' ')})"


def _as_json(new: NewVolume, meta: Device, data: Device) -> dict[str, object]:
    return {
        "meta_device": meta.path,
        "data_device": data.path,
        "data_offset": data.start,
        "fsid": f"{new.fsid:016x}",
        "uuid": str(uuid.UUID(bytes=new.uuid)),
        "format_version": new.fmt_vers,
        "meta_blocks": new.meta_blocks,
        "data_blocks": new.data_blocks,
        "data_alloc_zone_blocks": new.zone_blocks,
        "quorum_config_version": new.quorum_config.version,
        "quorum_slots": [
            {"slot": nr, "address": address.address, "port": address.port} for nr, address in sorted(new.slots.items())
        ],
    }


if __name__ == "__main__":
    sys.exit(main())
