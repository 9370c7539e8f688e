"""The system calls that touch devices, behind one object: the seam at which tests make them fail."""

from __future__ import annotations

import fcntl
import os
import stat
import struct

_BLKGETSIZE64 = 0x80081272
_BLKFLSBUF = 0x1261


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

    def drop_cache(self, fd: int) -> None:
        """Forget what the page cache holds of a block device or file."""
        if stat.S_ISBLK(os.fstat(fd).st_mode):
            fcntl.ioctl(fd, _BLKFLSBUF, 0)
        else:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
