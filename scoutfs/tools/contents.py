"""What a device already holds, for tools that would overwrite it."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess

from format.block import SMALL_BLOCK_SIZE, BlockError, Magic
from format.superblock import SuperBlock
from scoutfs.errors import ScoutfsError
from scoutfs.storage import Device, DeviceError, read_quorum_block
from scoutfs.storage.volume import SUPER_OFFSET

_TIMEOUT = 60
"""Seconds in which blkid must have read a device."""
_NOTHING_FOUND = 2
_AMBIVALENT = 8


def check_empty(device: Device) -> None:
    """Raise ScoutfsError if the device holds a filesystem, a partition table or a ScoutFS super block.

    EPERM for what blkid knows, EINVAL for ScoutFS itself.  Mounts of an existing volume that may still run are named.
    """
    found = probe(device)
    if kind := found.get("TYPE"):
        raise ScoutfsError(f"{device.path}: appears to contain an existing {kind} superblock", errno.EPERM)
    if kind := found.get("PTTYPE"):
        raise ScoutfsError(f"{device.path}: appears to contain a partition table ({kind})", errno.EPERM)
    if has_super_block(device):
        text = f"{device.path}: appears to contain an existing ScoutFS superblock"
        raise ScoutfsError("\n".join([text, *running_mounts(device)]), errno.EINVAL)


def probe(device: Device) -> dict[str, str]:
    """Return what blkid knows of the device, by its names; TYPE is a filesystem, PTTYPE a partition table.

    ScoutFS is left out: not every blkid knows it, so its block is looked at instead.  Raises ScoutfsError: EPERM if
    there are several signatures, something else if blkid cannot tell.
    """
    path = shutil.which("blkid", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"]))
    if path is None:
        text = "cannot find out what it holds: blkid (util-linux) is not installed; -f overwrites whatever there is"
        raise ScoutfsError(f"{device.path}: {text}", errno.ENOENT)
    command = [path, "-p", "-o", "export", os.path.abspath(device.path)]
    try:
        device.drop_cache()
        done = subprocess.run(command, capture_output=True, timeout=_TIMEOUT, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired as error:
        raise ScoutfsError(f"{device.path}: blkid did not end within {_TIMEOUT} s", errno.ETIMEDOUT) from error
    except OSError as error:
        raise ScoutfsError(f"{device.path}: {path}: {error.strerror}", error.errno or errno.EIO) from error
    if done.returncode == _NOTHING_FOUND:
        return {}
    if done.returncode == _AMBIVALENT:
        text = "appears to contain several superblocks or partition tables"
        raise ScoutfsError(f"{device.path}: {text}", errno.EPERM)
    if done.returncode:
        text = done.stderr.decode(errors="replace").strip() or f"exit status {done.returncode}"
        raise ScoutfsError(f"{device.path}: blkid cannot tell what it holds: {' '.join(text.split())}", errno.EIO)
    lines = [line.partition("=") for line in done.stdout.decode(errors="replace").splitlines()]
    found = {name: value for name, equals, value in lines if equals}
    return {} if found.get("TYPE", "").startswith("scoutfs_") else found


def has_super_block(device: Device) -> bool:
    """Whether there is the magic of a ScoutFS super block at its place, valid or not; raises DeviceError."""
    raw = device.read(SUPER_OFFSET, SMALL_BLOCK_SIZE)
    return int.from_bytes(raw[4:8], "little") == Magic.SUPER


def running_mounts(device: Device) -> list[str]:
    """Return a line for each sign that the volume of this metadata device is mounted somewhere.

    Nothing is said of what cannot be read or is no metadata device.
    """
    try:
        super_block = SuperBlock.parse(device.read(SUPER_OFFSET, SMALL_BLOCK_SIZE))
    except (DeviceError, BlockError):
        return []
    if not super_block.is_meta:
        return []
    lines = []
    if super_block.raw.mounted_clients.ref.blkno:
        lines.append(f"{device.path}: mounts of it are recorded that have not been unmounted")
    for slot in sorted(super_block.quorum_config.slots):
        try:
            block = read_quorum_block(device, super_block.fsid, slot)
        except (DeviceError, BlockError):
            continue
        if block.agent_may_run:
            lines.append(f"{device.path}: a mount in quorum slot {slot} could still be running")
    return lines
