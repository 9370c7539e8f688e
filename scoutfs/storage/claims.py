"""Who may use a device on this host: claims that keep mounts, mkfs and the kernel out of each other's way.

A claim is a lock of the device's node, which ends with the processes that hold it.  An image file may also be reached
through loop devices, which are other nodes: so a claim locks the bytes of the file too, whichever way it was opened.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from enum import Enum
from typing import TypeVar

from scoutfs.storage.system import SystemIO

_RETRIES = 10
_RETRY_DELAY = 0.03
"""Seconds."""

_BY_THE_KERNEL = "in use by the kernel of this host: mounted, swap, or part of another device"

_Result = TypeVar("_Result")


class Sharing(Enum):
    """Who else may use a device on this host while it is open."""

    NONE = "nothing is claimed: for readers that only look"
    SHARED = "any number of user-space mounts, nobody else"
    EXCLUSIVE = "nobody else: for tools that write to a volume that is not mounted, and open it for writing"


class ClaimRefused(Exception):
    """Somebody else uses the device; the text says who."""


def claim(
    io: SystemIO, path: str, fd: int, sharing: Sharing, keep: Callable[[int], None], *, is_block_device: bool
) -> None:
    """Claim the block device or file that is open as `fd`; raises ClaimRefused or OSError.

    `keep` is called with each further descriptor that carries the claim: it lasts as long as any of them.
    """
    if sharing is Sharing.NONE:
        return
    exclusive = sharing is Sharing.EXCLUSIVE
    user = "a live mount or another tool" if exclusive else "mkfs.scoutfs or another tool that changes it"
    by_another = f"is in use by {user} on this host"
    try:
        _retry(lambda: io.lock(fd, exclusive=exclusive))
        if is_block_device:
            _claim_block_device(io, path, fd, exclusive, keep)
            return
        _retry(lambda: io.lock_bytes(fd, 0, 0, exclusive=exclusive))
    except BlockingIOError as error:
        raise ClaimRefused(by_another) from error
    if exclusive:
        for device in io.loop_devices_of(fd):
            if _is_busy(io, device):
                raise ClaimRefused(f"is the file behind {device}, which is {_BY_THE_KERNEL}")


def _claim_block_device(io: SystemIO, path: str, fd: int, exclusive: bool, keep: Callable[[int], None]) -> None:
    """Claim what is particular to block devices: against the kernel, and the file behind a loop device."""
    try:
        own = _retry(lambda: io.open(path, os.O_RDONLY | os.O_EXCL))
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        raise ClaimRefused(f"is {_BY_THE_KERNEL}") from error
    # Mounts of a host share the device: they hold it exclusively for this moment only.
    if exclusive:
        keep(own)
    else:
        io.close(own)
    backing = io.backing_file(fd, writable=exclusive)
    if backing is not None:
        keep(backing.fd)
        _retry(lambda: io.lock_bytes(backing.fd, backing.offset, backing.size, exclusive=exclusive))


def _is_busy(io: SystemIO, device: str) -> bool:
    """Whether the kernel uses a block device; one that cannot be opened is not."""
    try:
        io.close(_retry(lambda: io.open(device, os.O_RDONLY | os.O_EXCL)))
    except OSError as error:
        return error.errno == errno.EBUSY
    return False


def _retry(operation: Callable[[], _Result]) -> _Result:
    """Repeat for a moment what another process may prevent for an instant: udev and other mounts probe devices too."""
    for _ in range(_RETRIES):
        try:
            return operation()
        except OSError as error:
            if error.errno not in (errno.EBUSY, errno.EAGAIN):
                raise
            time.sleep(_RETRY_DELAY)
    return operation()
