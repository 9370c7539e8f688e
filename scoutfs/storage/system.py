"""The system calls that touch devices, behind one object: the seam at which tests make them fail."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
from pathlib import Path
from typing import NamedTuple

_BLKGETSIZE64 = 0x80081272
_BLKFLSBUF = 0x1261
_LOOP_GET_STATUS64 = 0x4C05
_LOOP_INFO = struct.Struct("=5Q 4I 64s 64s 32s 2Q")
_LOOP_MAJOR = 7
_FLOCK = struct.Struct("hhqqi4x")
_BLOCK_DEVICES = Path("/sys/block")


class BackingFile(NamedTuple):
    """The file behind a loop device: a descriptor of its own, and which bytes are shown; size 0 is up to its end."""

    fd: int
    offset: int
    size: int


class SystemIO:
    """Thin methods over the system calls; every one raises OSError as the call does.

    Code that works on devices takes an instance and calls nothing else, so that a test can hand it one whose n-th call
    fails, or one that records what was written.
    """

    def open(self, path: str, flags: int) -> int:
        """Return a new descriptor, closed on exec."""
        return os.open(path, flags | os.O_CLOEXEC)

    def close(self, fd: int) -> None:
        """Close a descriptor."""
        os.close(fd)

    def stat(self, fd: int) -> os.stat_result:
        """Return what fstat(2) says."""
        return os.fstat(fd)

    def size(self, fd: int) -> int:
        """Return the bytes of a block device or a regular file."""
        status = os.fstat(fd)
        if stat.S_ISBLK(status.st_mode):
            answer = fcntl.ioctl(fd, _BLKGETSIZE64, bytes(8))
            return int(struct.unpack("=Q", answer)[0])
        return status.st_size

    def pread(self, fd: int, buffer: memoryview, offset: int) -> int:
        """Read into `buffer`; return how many bytes came, 0 at the end."""
        return os.preadv(fd, [buffer], offset)

    def pwrite(self, fd: int, buffer: memoryview, offset: int, *, durable: bool = False) -> int:
        """Write `buffer`; return how many bytes went.  `durable`: they are on stable storage on return."""
        return os.pwritev(fd, [buffer], offset, os.RWF_DSYNC if durable else 0)

    def flush(self, fd: int) -> None:
        """Bring everything written so far to stable storage."""
        os.fdatasync(fd)

    def lock(self, fd: int, *, exclusive: bool) -> None:
        """Take an advisory lock of the open file without waiting; BlockingIOError if another holds it."""
        fcntl.flock(fd, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)

    def lock_bytes(self, fd: int, offset: int, size: int, *, exclusive: bool) -> None:
        """Lock a range of a file, size 0 for all that follows, as `lock` does; it belongs to the open file.

        Exclusively only where the file was opened for writing.  A filesystem that cannot lock ranges goes without.
        """
        kind = fcntl.F_WRLCK if exclusive else fcntl.F_RDLCK
        try:
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _FLOCK.pack(kind, os.SEEK_SET, offset, size, 0))
        except OSError as error:
            if error.errno == errno.EACCES:
                raise BlockingIOError(error.errno, error.strerror) from error
            if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
                raise

    def backing_file(self, fd: int, *, writable: bool) -> BackingFile | None:
        """Open the file behind a loop device; None for other devices, and for files that are out of reach."""
        number = os.fstat(fd).st_rdev
        if os.major(number) != _LOOP_MAJOR:
            return None
        try:
            info = _loop_info(fd)
            path = Path(f"/sys/dev/block/7:{os.minor(number)}/loop/backing_file").read_text().rstrip("\n")
            file = self.open(path, os.O_RDWR if writable else os.O_RDONLY)
        except OSError:
            return None
        found = os.fstat(file)
        if (found.st_dev, found.st_ino) != (info[0], info[1]):
            self.close(file)
            return None
        return BackingFile(file, info[3], info[4])

    def loop_devices_of(self, fd: int) -> list[str]:
        """Return the paths of the loop devices that are attached to an open regular file."""
        wanted = os.fstat(fd)
        found = []
        for entry in sorted(_BLOCK_DEVICES.glob("loop*/loop")):
            path = f"/dev/{entry.parent.name}"
            try:
                device = self.open(path, os.O_RDONLY)
            except OSError:
                continue
            try:
                info = _loop_info(device)
                if (wanted.st_dev, wanted.st_ino) == (info[0], info[1]):
                    found.append(path)
            except OSError:
                continue
            finally:
                self.close(device)
        return found

    def drop_cache(self, fd: int) -> None:
        """Forget what the page cache holds of a block device or file."""
        if stat.S_ISBLK(os.fstat(fd).st_mode):
            fcntl.ioctl(fd, _BLKFLSBUF, 0)
        else:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)


def _loop_info(fd: int) -> tuple[int, ...]:
    """Return what a loop device is attached to: device, inode, (unused), offset and size limit."""
    answer = fcntl.ioctl(fd, _LOOP_GET_STATUS64, bytes(_LOOP_INFO.size))
    return tuple(_LOOP_INFO.unpack(answer)[:5])
