"""Gives a copy the attributes of a file."""

from __future__ import annotations

import os
import stat

from scoutfs.errors import ScoutfsError
from scoutfs.files.filesystem import Filesystem
from scoutfs.files.inode import Inode
from scoutfs.tools.cp.report import Report

_PRIVILEGES = stat.S_ISUID | stat.S_ISGID
_USED = stat.S_IRUSR | stat.S_IWUSR
"""What an owner must be allowed to look at attributes and to set them."""


def apply(
    files: Filesystem, inode: Inode, source: bytes, target: bytes, report: Report, *, with_owner: bool = True
) -> None:
    """Give the file at `target` all attributes of `inode`, which is at `source` on the volume, but its times.

    What is right already is not touched.  What cannot be set is told to `report`.
    """
    found = os.lstat(target)
    mode = stat.S_IMODE(inode.mode)
    if with_owner and (found.st_uid, found.st_gid) != (inode.uid, inode.gid):
        try:
            os.lchown(target, inode.uid, inode.gid)
        except OSError as error:
            report.add(source, "owner", error, value=f"{inode.uid}:{inode.gid}".encode())
            # Whoever owns it instead must not get what was given to another.
            mode &= ~_PRIVILEGES
    if not inode.is_symlink and found.st_uid == os.geteuid() != 0 and ~found.st_mode & _USED:
        os.chmod(target, stat.S_IMODE(found.st_mode) | _USED)
    _apply_xattrs(files, inode, source, target, report)
    if not inode.is_symlink:
        # Behind the attributes, for it may keep its owner, unless that is root, from setting them.
        try:
            _chmod(target, mode)
        except OSError as error:
            report.add(source, "mode", error)
    if inode.retention:
        report.add(source, "retention", "the target has no such thing")
    if inode.proj:
        report.add(source, "project", "the target has no such thing", value=str(inode.proj).encode())


def apply_times(inode: Inode, source: bytes, target: bytes, report: Report) -> None:
    """Set atime and mtime of the file at `target`: last, for everything else changes them."""
    times = (inode.atime, inode.mtime)
    if _times(target) == times:
        return
    try:
        os.utime(target, ns=times, follow_symlinks=False)
    except (OSError, OverflowError) as error:
        report.add(source, "times", error)
        return
    if _times(target) != times:
        report.add(source, "times", "the target does not hold such times")


def _times(target: bytes) -> tuple[int, int]:
    found = os.lstat(target)
    return found.st_atime_ns, found.st_mtime_ns


def _chmod(target: bytes, mode: int) -> None:
    if stat.S_IMODE(os.lstat(target).st_mode) != mode:
        os.chmod(target, mode)


def _apply_xattrs(files: Filesystem, inode: Inode, source: bytes, target: bytes, report: Report) -> None:
    try:
        xattrs = files.xattrs(inode.ino)
    except ScoutfsError as error:
        report.add(source, "xattr", error)
        return
    for name, value in xattrs:
        try:
            if _value(target, name) != value:
                os.setxattr(target, name, value, follow_symlinks=False)
        except OSError as error:
            report.add(source, "xattr", error, name=name, value=value)


def _value(target: bytes, name: bytes) -> bytes | None:
    try:
        return os.getxattr(target, name, follow_symlinks=False)
    except OSError:
        # It is not there, or cannot be: setting it will tell.
        return None
