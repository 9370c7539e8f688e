"""Devices that misbehave on purpose: objects to use in place of `SystemIO`."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Any

from scoutfs.storage.system import SystemIO

KINDS = ("EIO", "ENOSPC", "short", "nothing")
"""What may go wrong: an error, a transfer of half the bytes, a transfer of none."""


class NthFails(SystemIO):
    """The n-th operation (from 1) fails; `happened` tells which it was, None if fewer were made.

    Closing is not counted: what it says is never looked at.
    """

    def __init__(self, n: int, kind: str) -> None:
        self.n, self.kind = n, kind
        self.count = 0
        self.happened: str | None = None

    def _next(self, name: str) -> bool:
        self.count += 1
        if self.count == self.n:
            self.happened = name
            return True
        return False

    def _plain(self, name: str, operation: Callable[[], Any]) -> Any:
        if self._next(name):
            code = errno.ENOSPC if self.kind == "ENOSPC" else errno.EIO
            raise OSError(code, os.strerror(code))
        return operation()

    def _transfer(self, name: str, buffer: memoryview, operation: Callable[[memoryview], int]) -> int:
        if self.count + 1 == self.n and self.kind == "short":
            self._next(name)
            return operation(buffer[: len(buffer) // 2])
        if self.count + 1 == self.n and self.kind == "nothing":
            self._next(name)
            return 0
        return int(self._plain(name, lambda: operation(buffer)))

    def open(self, path, flags):
        return self._plain("open", lambda: super(NthFails, self).open(path, flags))

    def stat(self, fd):
        return self._plain("stat", lambda: super(NthFails, self).stat(fd))

    def size(self, fd):
        return self._plain("size", lambda: super(NthFails, self).size(fd))

    def pread(self, fd, buffer, offset):
        return self._transfer("pread", buffer, lambda part: super(NthFails, self).pread(fd, part, offset))

    def pwrite(self, fd, buffer, offset, *, durable=False):
        return self._transfer(
            "pwrite", buffer, lambda part: super(NthFails, self).pwrite(fd, part, offset, durable=durable)
        )

    def flush(self, fd):
        return self._plain("flush", lambda: super(NthFails, self).flush(fd))

    def lock(self, fd, *, exclusive):
        return self._plain("lock", lambda: super(NthFails, self).lock(fd, exclusive=exclusive))

    def lock_bytes(self, fd, offset, size, *, exclusive):
        return self._plain(
            "lock_bytes", lambda: super(NthFails, self).lock_bytes(fd, offset, size, exclusive=exclusive)
        )

    def drop_cache(self, fd):
        return self._plain("drop_cache", lambda: super(NthFails, self).drop_cache(fd))


class BadSectors(SystemIO):
    """Reads (or writes) that touch any of the given byte ranges of any device fail with EIO."""

    def __init__(self, *ranges: range, reads: bool = True, writes: bool = False) -> None:
        self.ranges, self.reads, self.writes = ranges, reads, writes

    def _check(self, buffer: memoryview, offset: int) -> None:
        if any(offset < bad.stop and bad.start < offset + len(buffer) for bad in self.ranges):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def pread(self, fd, buffer, offset):
        if self.reads:
            self._check(buffer, offset)
        return super().pread(fd, buffer, offset)

    def pwrite(self, fd, buffer, offset, *, durable=False):
        if self.writes:
            self._check(buffer, offset)
        return super().pwrite(fd, buffer, offset, durable=durable)


class Recorder(SystemIO):
    """Records what changes a device, in order.

    `log` has ("write", path, offset, bytes, durable) and ("flush", path).
    """

    def __init__(self) -> None:
        self.log: list[tuple[Any, ...]] = []
        self.paths: dict[int, str] = {}

    def open(self, path, flags):
        fd = super().open(path, flags)
        self.paths[fd] = path
        return fd

    def pwrite(self, fd, buffer, offset, *, durable=False):
        count = super().pwrite(fd, buffer, offset, durable=durable)
        self.log.append(("write", self.paths[fd], offset, bytes(buffer[:count]), durable))
        return count

    def flush(self, fd):
        super().flush(fd)
        self.log.append(("flush", self.paths[fd]))
