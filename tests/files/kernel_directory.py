"""A directory of the kernel's, to compare with: what one operation does to it, and what is in it then."""

from __future__ import annotations

import ctypes
import os
import shutil
import stat
import struct
import tempfile
from typing import Any, NamedTuple

BEFORE = 1
"""The mtime, in nanoseconds, that everything has before an operation."""
_AT_FDCWD = -100
_BASES = ("/dev/shm", tempfile.gettempdir())
_LIBC = ctypes.CDLL(None, use_errno=True)


class Node(NamedTuple):
    """What can be seen of a file.  `size` is None for directories, `contents` a target for symbolic links."""

    mode: int
    nlink: int
    uid: int
    gid: int
    size: int | None
    device: int
    contents: bytes | None
    xattrs: tuple[tuple[bytes, bytes], ...]


def make_directory() -> str | None:
    """Make a directory where links, attributes and access control lists work as on a disk, None if there is none."""
    for base in _BASES:
        if os.geteuid() or not os.access(base, os.W_OK):
            continue
        path = tempfile.mkdtemp(prefix="scoutfs-test-", dir=base)
        try:
            os.mkdir(f"{path}/d")
            os.mknod(f"{path}/d/n", stat.S_IFCHR | 0o600, os.makedev(1, 3))
            os.setxattr(f"{path}/d", "user.a", bytes(3000))
            os.setxattr(f"{path}/d", "system.posix_acl_default", _ACL)
            if os.stat(path).st_nlink == 3:
                shutil.rmtree(f"{path}/d")
                os.chmod(path, 0o755)
                return path
        except OSError:
            pass
        shutil.rmtree(path)
    return None


def rename(old: bytes, new: bytes, flags: int) -> None:
    """Call renameat2(2)."""
    if _LIBC.renameat2(_AT_FDCWD, old, _AT_FDCWD, new, flags):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def create(path: bytes, mode: int, device: int = 0) -> None:
    """Create anything but a symbolic link."""
    if stat.S_ISDIR(mode):
        os.mkdir(path, stat.S_IMODE(mode))
    elif stat.S_ISREG(mode):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, stat.S_IMODE(mode)))
    else:
        os.mknod(path, mode, device)


def write(path: bytes, offset: int | None, data: bytes) -> None:
    """Write all of `data`, at the end if there is no offset."""
    file = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW | (os.O_APPEND if offset is None else 0))
    try:
        assert os.pwrite(file, data, offset or 0) == len(data)
    finally:
        os.close(file)


def allocate(path: bytes, offset: int, length: int) -> None:
    """Call fallocate(2)."""
    file = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    try:
        os.posix_fallocate(file, offset, length)
    finally:
        os.close(file)


def tree(top: bytes) -> dict[bytes, Node]:
    """Return all files below `top` by their paths from there, itself at an empty one."""
    found = {b"": _node(top)}
    for directory, names, files in os.walk(top):
        for name in names + files:
            path = os.path.join(directory, name)
            found[path[len(top) + 1 :]] = _node(path)
    return found


def reset_times(top: bytes) -> None:
    """Give everything the mtime `BEFORE`."""
    for path in _paths(top):
        os.utime(path, ns=(BEFORE, BEFORE), follow_symlinks=False)


def changed_times(top: bytes) -> set[bytes]:
    """Return what has another mtime by now."""
    return {path[len(top) + 1 :] for path in _paths(top) if os.lstat(path).st_mtime_ns != BEFORE}


def _paths(top: bytes) -> list[bytes]:
    found = [top]
    for directory, names, files in os.walk(top):
        found += [os.path.join(directory, name) for name in names + files]
    return found


def _node(path: bytes) -> Node:
    status: Any = os.lstat(path)
    mode = status.st_mode
    contents = None
    if stat.S_ISREG(mode):
        with open(path, "rb") as file:
            contents = file.read()
    elif stat.S_ISLNK(mode):
        contents = os.readlink(path)
    names = sorted(name.encode() for name in os.listxattr(path, follow_symlinks=False))
    xattrs = tuple((name, os.getxattr(path, name, follow_symlinks=False)) for name in names)
    size = None if stat.S_ISDIR(mode) else status.st_size
    return Node(mode, status.st_nlink, status.st_uid, status.st_gid, size, status.st_rdev, contents, xattrs)


_ACL = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", tag, perm, id)
    for tag, perm, id in ((1, 7, 2**32 - 1), (2, 6, 5), (4, 5, 2**32 - 1), (16, 7, 2**32 - 1), (32, 0, 2**32 - 1))
)
