"""Block devices and image files, read and written past the page cache."""

from __future__ import annotations

import errno
import mmap
import os
import stat
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Self

from format.checksum import Buffer
from scoutfs.errors import ScoutfsError
from scoutfs.storage.claims import ClaimRefused, Sharing, claim
from scoutfs.storage.system import SystemIO

ALIGNMENT = 4096
"""Offsets and lengths of every read and write are multiples of this: what O_DIRECT asks of any device."""


class DeviceError(ScoutfsError):
    """An operation on a device failed; `path` names the device, the text says which operation, where, and why."""

    def __init__(self, path: str, text: str, errno: int) -> None:
        self.path = path
        super().__init__(f"{path}: {text}", errno)


class Device:
    """An open block device or regular file, or a part of one.

    Reads and writes go past the page cache (O_DIRECT) because other hosts write the same device; where the filesystem
    that holds an image file cannot do that, they are buffered.  Offsets count from the start of the part.  Several
    threads may use an instance at once.
    """

    def __init__(self, file: _OpenFile, start: int, size: int) -> None:
        self._file = file
        self.path = file.path
        self.start = start
        self.size = size

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        writable: bool = False,
        start: int = 0,
        size: int | None = None,
        sharing: Sharing = Sharing.NONE,
        io: SystemIO | None = None,
    ) -> Device:
        """Open `path`; raises DeviceError.

        `start` and `size` (bytes) choose a part, all of it by default.  `sharing` claims the device, see `Sharing`;
        what is refused then has errno EBUSY.
        """
        file = _OpenFile(os.fspath(path), writable, sharing, io or SystemIO())
        try:
            return cls(file, 0, file.size).part(start, file.size - start if size is None else size)
        except DeviceError:
            file.close()
            raise

    @property
    def is_block_device(self) -> bool:
        """False for a regular file."""
        return stat.S_ISBLK(self._file.status.st_mode)

    @property
    def is_direct(self) -> bool:
        """True while reads and writes bypass the page cache."""
        return self._file.direct

    @property
    def major_minor(self) -> tuple[int, int]:
        """Numbers of the block device; of the device that holds it for a regular file."""
        number = self._file.status.st_rdev if self.is_block_device else self._file.status.st_dev
        return os.major(number), os.minor(number)

    @property
    def descriptors(self) -> tuple[int, ...]:
        """The file descriptors that are open: what a forked child must keep that closes all others."""
        return tuple(self._file.descriptors)

    def is_same_as(self, other: Device) -> bool:
        """Whether both are the same block device or the same file, by whatever path."""
        mine, others = self._file.status, other._file.status
        if self.is_block_device != other.is_block_device:
            return False
        if self.is_block_device:
            return mine.st_rdev == others.st_rdev
        return (mine.st_dev, mine.st_ino) == (others.st_dev, others.st_ino)

    def part(self, start: int, size: int) -> Device:
        """Return the bytes `start`..`start+size` as a device.

        It shares the open file, and closing either closes both.  Raises DeviceError if it does not fit.
        """
        if start < 0 or size < 0 or start + size > self.size:
            raise DeviceError(
                self.path, f"has {self.size} bytes, too few for a part of {size} bytes at {start}", errno.EINVAL
            )
        return Device(self._file, self.start + start, size)

    def read(self, offset: int, length: int) -> bytes:
        """Return `length` bytes from `offset`, both multiples of `ALIGNMENT`; all of them or DeviceError."""
        self._check("reading", offset, length)
        return self._file.read(self.start + offset, length)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` with what is at `offset`, all of it or DeviceError.

        Its length and `offset` are multiples of `ALIGNMENT`; its memory is best that of `AlignedBuffers`.
        """
        self._check("reading", offset, len(buffer))
        self._file.read_into(self.start + offset, buffer)

    def write(self, offset: int, data: Buffer, *, durable: bool = False) -> None:
        """Write `data` at `offset`, its length and `offset` multiples of `ALIGNMENT`; all of it or DeviceError.

        With `durable` it is on stable storage when this returns, otherwise after the next `flush`.
        """
        self._check("writing", offset, len(data))
        self._file.write(self.start + offset, data, durable)

    def flush(self) -> None:
        """Bring everything written so far to stable storage; raises DeviceError, and then nothing is known."""
        self._file.flush()

    def drop_cache(self) -> None:
        """Have other programs of this host read what is on the device, not what the page cache holds.

        Who may not do that goes without.  Raises DeviceError.
        """
        self._file.drop_cache()

    def close(self) -> None:
        """Close the device and give up its claim; harmless when repeated."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _check(self, doing: str, offset: int, length: int) -> None:
        what = f"{doing} {length} bytes at {self.start + offset}"
        if offset % ALIGNMENT or length % ALIGNMENT:
            raise DeviceError(self.path, f"{what}: not a multiple of {ALIGNMENT}", errno.EINVAL)
        if offset < 0 or length < 0 or offset + length > self.size:
            end = self.start + self.size
            raise DeviceError(self.path, f"{what}: beyond the end at {end}, the device is too small", errno.EINVAL)


class _OpenFile:
    """A descriptor with its buffers and claims; offsets count from the start of the device."""

    def __init__(self, path: str, writable: bool, sharing: Sharing, io: SystemIO) -> None:
        self.path = path
        self.direct = False
        self._io = io
        self._flags = os.O_RDWR if writable else os.O_RDONLY
        self._buffers = AlignedBuffers()
        self.descriptors: list[int] = []
        try:
            self._fd = self._open_direct()
            self.status = io.stat(self._fd)
            mode = self.status.st_mode
            if not stat.S_ISBLK(mode) and not stat.S_ISREG(mode):
                raise DeviceError(path, "is neither a block device nor a regular file", errno.ENOTBLK)
            claim(io, path, self._fd, sharing, self.descriptors.append, is_block_device=stat.S_ISBLK(mode))
            self.size = io.size(self._fd)
        except ClaimRefused as error:
            self.close()
            raise DeviceError(path, str(error), errno.EBUSY) from error
        except OSError as error:
            self.close()
            raise DeviceError(path, f"opening: {_strerror(error)}", error.errno or errno.EIO) from error
        except DeviceError:
            self.close()
            raise

    def _open(self, flags: int) -> int:
        fd = self._io.open(self.path, flags)
        self.descriptors.append(fd)
        return fd

    def _open_direct(self) -> int:
        """Open with O_DIRECT where the file can do it.

        Not blocking: a path that turns out to be a pipe must not hang.
        """
        flags = self._flags | os.O_NONBLOCK
        try:
            fd = self._open(flags | os.O_DIRECT)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            return self._open(flags)
        self.direct = True
        return fd

    def read(self, offset: int, length: int) -> bytes:
        with _Borrowed(self._buffers, length) as buffer:
            self.read_into(offset, buffer)
            return bytes(buffer)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        length, done = len(buffer), 0
        while done < length:
            try:
                count = self._transfer(buffer[done:], offset + done, self._io.pread)
            except OSError as error:
                raise self._failed("reading", length, offset, error) from error
            if count <= 0:
                text = f"reading {length} bytes at {offset}: it ended after {done} bytes"
                raise DeviceError(self.path, text, errno.EIO)
            done += count

    def write(self, offset: int, data: Buffer, durable: bool) -> None:
        length = len(data)
        pwrite = partial(self._io.pwrite, durable=durable)
        with _Borrowed(self._buffers, length) as buffer:
            buffer[:] = memoryview(data).cast("B")
            done = 0
            while done < length:
                try:
                    count = self._transfer(buffer[done:], offset + done, pwrite)
                except OSError as error:
                    raise self._failed("writing", length, offset, error) from error
                if count <= 0:
                    text = f"writing {length} bytes at {offset}: only {done} were taken"
                    raise DeviceError(self.path, text, errno.EIO)
                done += count

    def _transfer(self, buffer: memoryview, offset: int, operation: Callable[[int, memoryview, int], int]) -> int:
        try:
            return operation(self._fd, buffer, offset)
        except OSError as error:
            if error.errno != errno.EINVAL or not self.direct:
                raise
        # Some filesystems let a file be opened with O_DIRECT and refuse to read or write it so.
        self._fd = self._open(self._flags)
        self.direct = False
        return operation(self._fd, buffer, offset)

    def flush(self) -> None:
        try:
            self._io.flush(self._fd)
        except OSError as error:
            raise DeviceError(self.path, f"flushing: {_strerror(error)}", error.errno or errno.EIO) from error

    def drop_cache(self) -> None:
        try:
            self._io.drop_cache(self._fd)
        except PermissionError:
            return
        except OSError as error:
            text = f"dropping its page cache: {_strerror(error)}"
            raise DeviceError(self.path, text, error.errno or errno.EIO) from error

    def close(self) -> None:
        while self.descriptors:
            try:
                self._io.close(self.descriptors.pop())
            except OSError:
                # Everything that matters was flushed by whoever wrote it; the descriptor is gone whatever close says.
                continue

    def _failed(self, doing: str, length: int, offset: int, error: OSError) -> DeviceError:
        text = f"{doing} {length} bytes at {offset}: {_strerror(error)}"
        return DeviceError(self.path, text, error.errno or errno.EIO)


class AlignedBuffers:
    """Page-aligned memory for O_DIRECT, kept for reuse in sizes of powers of two.  Any thread may use it."""

    def __init__(self, *, kept_size_max: int = 1 << 20, kept_per_size: int = 8) -> None:
        self._kept_size_max, self._kept_per_size = kept_size_max, kept_per_size
        self._free: dict[int, deque[mmap.mmap]] = {}

    def take(self, length: int) -> mmap.mmap:
        """Return memory of at least `length` bytes."""
        size = max(ALIGNMENT, 1 << (length - 1).bit_length())
        try:
            return self._free[size].pop()
        except (KeyError, IndexError):
            # Private: a forked child must not share the memory its parent reads into.
            return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)

    def give(self, buffer: mmap.mmap) -> None:
        """Give memory back; nobody may use it any more."""
        if len(buffer) <= self._kept_size_max:
            self._free.setdefault(len(buffer), deque(maxlen=self._kept_per_size)).append(buffer)


class _Borrowed:
    """A buffer of exactly `length` bytes for the time of a `with`."""

    def __init__(self, buffers: AlignedBuffers, length: int) -> None:
        self._buffers = buffers
        self._memory = buffers.take(length)
        self._view = memoryview(self._memory)[:length]

    def __enter__(self) -> memoryview:
        return self._view

    def __exit__(self, *exception: object) -> None:
        self._buffers.give(self._memory)


def _strerror(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno else str(error)
