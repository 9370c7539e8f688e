"""Finding and opening the devices of a volume, whatever state they are in."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from format.block import LARGE_BLOCK_SIZE, SMALL_BLOCK_SIZE, Magic
from format.superblock import SuperBlockStruct, SuperFlag
from scoutfs.errors import ScoutfsError
from scoutfs.storage import Device, SystemIO
from scoutfs.storage.volume import SUPER_OFFSET

_MOUNTS = Path("/proc/self/mounts")


@contextmanager
def open_devices(paths: Sequence[str], io: SystemIO | None = None) -> Iterator[tuple[Device, Device | None]]:
    """Open one or two devices for reading; yield the metadata device and the data device, None if it was not given.

    Raises ScoutfsError.
    """
    with ExitStack() as stack:
        devices = [stack.enter_context(Device.open(path, io=io)) for path in paths]
        if len(devices) == 1:
            yield _of_one(devices[0])
            return
        first, second = devices
        if first.is_same_as(second):
            raise ScoutfsError(
                f"{second.path}: this is the same device as {first.path}: name a volume on one device once"
            )
        yield (second, first) if _is_meta(second) and not _is_meta(first) else (first, second)


def mount_points(paths: Sequence[str]) -> list[str]:
    """Return the directories of this host on which a volume on one of these devices is mounted."""
    wanted = {os.path.realpath(path) for path in paths}
    try:
        lines = _MOUNTS.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return []
    points = []
    for source, point, kind, options, *_ in (line.split(" ") for line in lines):
        if not kind.endswith("scoutfs"):
            continue
        devices = [source, *(option.partition("=")[2] for option in options.split(",") if "metadev_path=" in option)]
        if any(os.path.realpath(device) in wanted for device in devices):
            points.append(point)
    return points


def _of_one(device: Device) -> tuple[Device, Device | None]:
    parsed = SuperBlockStruct.parse(device.read(SUPER_OFFSET, SMALL_BLOCK_SIZE))
    if parsed.hdr.magic != Magic.SUPER:
        return device, None
    if not parsed.flags & SuperFlag.IS_META_BDEV:
        text = "this is the data device of a volume on two devices: name its metadata device as well"
        raise ScoutfsError(f"{device.path}: {text}")
    split = parsed.total_meta_blocks * LARGE_BLOCK_SIZE
    if split + SUPER_OFFSET + SMALL_BLOCK_SIZE > device.size:
        return device, None
    data = device.part(split, device.size - split)
    found = SuperBlockStruct.parse(data.read(SUPER_OFFSET, SMALL_BLOCK_SIZE))
    if found.hdr.magic != Magic.SUPER:
        return device, None
    return device.part(0, split), data


def _is_meta(device: Device) -> bool:
    parsed = SuperBlockStruct.parse(device.read(SUPER_OFFSET, SMALL_BLOCK_SIZE))
    return bool(parsed.hdr.magic == Magic.SUPER and parsed.flags & SuperFlag.IS_META_BDEV)
