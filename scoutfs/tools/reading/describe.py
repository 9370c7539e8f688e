"""Inodes in words: for `ls -l`, `stat`, and in JSON."""

from __future__ import annotations

import functools
import grp
import os
import pwd
import stat
import time
from typing import Any

from scoutfs.files.inode import Inode
from scoutfs.tools.reading.names import json_name

TYPES = {
    stat.S_IFIFO: "fifo",
    stat.S_IFCHR: "character device",
    stat.S_IFDIR: "directory",
    stat.S_IFBLK: "block device",
    stat.S_IFREG: "regular file",
    stat.S_IFLNK: "symbolic link",
    stat.S_IFSOCK: "socket",
}
_NANOSECONDS = 1_000_000_000
_HALF_A_YEAR = 31_556_952 // 2


def type_name(inode: Inode) -> str:
    """Return the type of an inode in words."""
    return TYPES.get(stat.S_IFMT(inode.mode), "unknown")


def seconds(time_ns: int) -> str:
    """Return a time as seconds since the epoch, a dot, and nine digits of nanoseconds, as the original prints it."""
    return f"{time_ns // _NANOSECONDS}.{time_ns % _NANOSECONDS:09}"


def fields(inode: Inode) -> dict[str, Any]:
    """Return all that an inode item holds, under the names of the format, and what follows from it."""
    found: dict[str, Any] = {"ino": inode.ino, "type": type_name(inode), "mode": f"{stat.S_IMODE(inode.mode):04o}"}
    found |= {name: getattr(inode, name) for name in ("nlink", "uid", "gid", "size", "blocks")}
    if stat.S_ISCHR(inode.mode) or stat.S_ISBLK(inode.mode):
        found["rdev"] = f"{inode.rdev >> 20}:{inode.rdev & 0xFFFFF}"
    found |= {name: seconds(getattr(inode, name)) for name in ("atime", "mtime", "ctime")}
    return (
        found
        | more_fields(inode)
        | {
            "project_id": inode.proj,
            "retention": int(inode.retention),
            "flags": f"{inode.flags:#x}",
            "version": inode.version,
            "next_readdir_pos": inode.next_readdir_pos,
            "next_xattr_id": inode.next_xattr_id,
        }
    )


def more_fields(inode: Inode) -> dict[str, Any]:
    """Return what the original's `stat` prints of a file, in its order."""
    names = ("meta_seq", "data_seq", "data_version", "online_blocks", "offline_blocks")
    return {name: getattr(inode, name) for name in names} | {"crtime": seconds(inode.crtime)}


def json_object(path: bytes, inode: Inode) -> dict[str, Any]:
    """Return what JSON says of a file."""
    return json_name("path", path) | fields(inode)


@functools.lru_cache(maxsize=10_000)
def user_name(uid: int) -> str:
    """Return the name that this host has for a user, or his number."""
    try:
        return pwd.getpwuid(uid).pw_name
    except (KeyError, OverflowError):
        return str(uid)


@functools.lru_cache(maxsize=10_000)
def group_name(gid: int) -> str:
    """Return the name that this host has for a group, or its number."""
    try:
        return grp.getgrgid(gid).gr_name
    except (KeyError, OverflowError):
        return str(gid)


def time_text(time_ns: int, style: str, now_ns: int) -> str:
    """Return a time as `ls -l` prints it in local time; `style` is one of `ls --time-style`, `+FORMAT` too.

    Times that the C library cannot convert are printed as seconds.
    """
    whole, fraction = divmod(time_ns, _NANOSECONDS)
    recent = 0 <= now_ns - time_ns < _HALF_A_YEAR * _NANOSECONDS
    formats = {
        "full-iso": "%Y-%m-%d %H:%M:%S.%N %z",
        "long-iso": "%Y-%m-%d %H:%M",
        "iso": "%m-%d %H:%M" if recent else "%Y-%m-%d ",
        "locale": "%b %e %H:%M" if recent else "%b %e  %Y",
    }
    text = style[1:] if style.startswith("+") else formats[style]
    try:
        local = time.localtime(whole)
        return time.strftime(text.replace("%N", f"{fraction:09}"), local)
    except (OverflowError, ValueError, OSError):
        return seconds(time_ns)


def size_text(inode: Inode, *, human: bool = False) -> str:
    """Return the size as `ls -l` prints it: of a device its number."""
    if stat.S_ISCHR(inode.mode) or stat.S_ISBLK(inode.mode):
        return f"{os.major(inode.device_number)}, {os.minor(inode.device_number)}"
    return human_size(inode.size) if human else str(inode.size)


def human_size(size: int) -> str:
    """Return a size as `ls -h` prints it: rounded up, with one digit below 10."""
    if size < 1024:
        return str(size)
    for power, unit in enumerate("KMGTPE", 1):
        tenths = -(-size * 10 // 1024**power)
        if tenths < 100:
            return f"{tenths // 10}.{tenths % 10}{unit}"
        rounded = -(-size // 1024**power)
        if rounded < 1024 or unit == "E":
            return f"{rounded}{unit}"
    raise AssertionError(size)
