"""What a mount leaves in the run directory while it lives: the link for daemons, and the socket for umount."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Callable
from pathlib import Path

from mount import kernel
from mount.control import NAME
from mount.preparation import live_mounts
from scoutfs.errors import ScoutfsError
from scoutfs.paths import mount_name, mounts_directory, run_directory
from scoutfs.quorum.registration import Host

_ALL_ONES = 2**64 - 1
_DRAWS = 100
_SOCKET_SUFFIX = ".socket"


def draw_rid(fsid: int, draw: Callable[[int], int] = secrets.randbits) -> int:
    """Return a random rid: neither 0 nor all ones, nor one whose name is taken on this host (spec 02 §9.1).

    Raises ScoutfsError (EIO) after a hundred unusable draws.
    """
    directory = run_directory()
    rid = 0
    for _ in range(_DRAWS):
        rid = draw(64)
        if rid not in (0, _ALL_ONES) and not (directory / mount_name(fsid, rid)).is_symlink():
            return rid
    raise ScoutfsError(f"no usable rid in {_DRAWS} draws, the last was {rid:#x}", errno.EIO)


def publish_link(fsid: int, rid: int, mount_point: str) -> Path:
    """Make the link to the control directory of a mount; links of dead mounts are removed.  Raises OSError."""
    directory = run_directory()
    directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    remove_stale_links(directory)
    link = directory / mount_name(fsid, rid)
    link.symlink_to(Path(mount_point) / os.fsdecode(NAME))
    return link


def remove_stale_links(directory: Path) -> None:
    """Remove the links and sockets of mounts that neither live nor are mounted.

    Nothing is looked at through a link: the process behind it may be stuck.
    """
    records = list(live_mounts(mounts_directory(), Host.current().boot_id))
    alive = {mount_name(record.fsid, record.rid) for record in records}
    # a mount that could not be registered is known by its mount point, unless a registered one is there now
    mounted = {entry.target for entry in kernel.mount_table() if entry.type == kernel.FILESYSTEM_TYPE}
    unregistered = mounted - {record.mount_point for record in records}
    for path in sorted(directory.glob("f.*.r.*"), reverse=True):
        name = path.name.removesuffix(_SOCKET_SUFFIX)
        with contextlib.suppress(OSError):
            link = directory / name
            if name not in alive and not (link.is_symlink() and str(link.readlink().parent) in unregistered):
                path.unlink()


def remove(path: Path) -> None:
    """Remove the link or the socket of a mount."""
    with contextlib.suppress(OSError):
        path.unlink()


def socket_path(link: Path) -> Path:
    """Return where the socket of the mount with this link is."""
    return link.with_name(link.name + _SOCKET_SUFFIX)


def private_directory() -> Path | None:
    """Return where a user who may not write to the run directory keeps sockets, None if there is no such place."""
    path = os.environ.get("XDG_RUNTIME_DIR", "")
    return Path(path) / "scoutfs" if path and os.path.isdir(path) else None
