"""Reads the control directories of mounts, ours (`.scoutfs`) and the kernel's (sysfs) alike (spec 02 §9.1)."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from scoutfs.errors import ScoutfsError
from scoutfs.paths import mount_name
from scoutfs.quorum.status_parser import parse_status
from scoutfs.tools.quorum.live import FenceRequest, MountView

NAME = ".scoutfs"
_FILE_MAX = 65536
_NOT_A_MEMBER = -1


class ControlError(ScoutfsError):
    """A control directory that is not there, does not answer, or holds what it should not."""


def control_directory(directory: Path) -> Path:
    """Return the control directory of the mount at `directory`, which may be that directory itself.

    Raises ControlError.
    """
    try:
        for candidate in (directory / NAME, directory):
            if (candidate / "rid").is_file():
                return candidate
    except OSError as error:
        raise _failed(directory, error) from error
    text = "no ScoutFS is mounted here (a kernel mount is named by its directory in /sys/fs/scoutfs)"
    raise ControlError(f"{directory}: {text}", errno.ENOENT)


def read_mount(control: Path, shown_as: str) -> MountView:
    """Read what a mount shows of itself; `shown_as` is what people know it by.  Raises ControlError.  May block."""
    try:
        status = _optional(control / "quorum" / "status")
        return MountView(
            path=shown_as,
            fsid=_hexadecimal(control / "fsid"),
            rid=_hexadecimal(control / "rid"),
            slot=_slot(control, status),
            status=parse_status(status, 0.0) if status else None,
            is_leader=_optional(control / "quorum" / "is_leader").strip() == "1",
            fences=tuple(_fences(control / "fence")),
            notes=tuple(_notes(control)),
        )
    except OSError as error:
        raise _failed(control, error) from error
    except ValueError as error:
        raise ControlError(f"{control}: {error}", errno.EPROTO) from error


def mounts_of(fsid: int, directories: Iterable[Path]) -> list[Path]:
    """Return the control directories, or links to them, of mounts on this host that may be of the volume `fsid`.

    Names hold only a part of the fsid.  Nothing is looked at through a link: what is behind it may not answer.
    """
    prefix = mount_name(fsid, 0).rpartition(".")[0]
    found = []
    for directory in directories:
        try:
            entries = list(os.scandir(directory))
        except OSError:
            # No mount has ever been made here, or the kernel has no such filesystem.
            continue
        found += [
            Path(entry.path)
            for entry in entries
            if entry.name.startswith(f"{prefix}.") and (entry.is_symlink() or entry.is_dir(follow_symlinks=False))
        ]
    return sorted(found)


def mount_point(control: Path) -> str:
    """Return where the mount with this control directory, or link to one, is: for people."""
    try:
        target = control.readlink()
    except OSError:
        target = control
    return str(target.parent if target.name == NAME else target)


def _fences(directory: Path) -> Iterator[FenceRequest]:
    """Yield the fence requests; one that goes while it is read is left out."""
    try:
        names = sorted(os.listdir(directory))
    except FileNotFoundError:
        return
    for name in names:
        request = directory / name
        try:
            yield FenceRequest(
                rid=_hexadecimal(request / "rid"),
                address=_read(request / "ipv4_addr").strip(),
                reason=_read(request / "reason").strip(),
                elapsed=int(_read(request / "elapsed_secs")),
                fenced=_read(request / "fenced").strip() != "0",
                error=_read(request / "error").strip() != "0",
            )
        except FileNotFoundError:
            continue


def _notes(control: Path) -> Iterator[str]:
    """Yield what our own mounts say of their client."""
    for name in ("connection", "waiting"):
        text = "; ".join(_optional(control / name).split("\n")).removesuffix("; ")
        if text:
            yield text


def _slot(control: Path, status: str) -> int:
    """Return the slot; the options, which say it, are the first to go when a mount is being unmounted."""
    text = _optional(control / "mount_options" / "quorum_slot_nr")
    if text:
        return int(text)
    return parse_status(status, 0.0).slot if status else _NOT_A_MEMBER


def _hexadecimal(path: Path) -> int:
    return int(_read(path), 16)


def _optional(path: Path) -> str:
    """Return the text of a file, nothing if it is not there."""
    try:
        return _read(path)
    except FileNotFoundError:
        return ""


def _read(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(_FILE_MAX).decode("ascii", "replace")


def _failed(path: Path, error: OSError) -> ControlError:
    text = error.strerror or str(error)
    if error.errno == errno.ENOTCONN:
        text = "the process of the mount is gone; umount -l it"
    elif isinstance(error, FileNotFoundError):
        text = "the mount is not there any more"
    return ControlError(f"{path}: {text}", error.errno or errno.EIO)
