"""Requests for the inodes of a volume, whichever way they are answered; `ctx` is the caller as the binding tells it.

All of them raise ScoutfsError or OSError.
"""

from __future__ import annotations

from typing import Any, Protocol

import pyfuse3

from format.checksum import Buffer
from scoutfs.files.rename import Names


class OpenedFile(Protocol):
    """An open regular file; `pid` is the thread that opened it."""

    pid: int

    async def read(self, offset: int, size: int) -> Buffer:
        """Return up to `size` bytes, fewer only at the end; they are good until the next call for any file."""

    async def write(self, offset: int, data: bytes) -> int:
        """Write bytes; return how many."""

    def close(self) -> None:
        """Note that nobody uses it any more."""


class OpenedDirectory(Protocol):
    """An open directory; `pid` is the thread that opened it."""

    pid: int

    async def readdir(self, start: int, token: Any) -> None:
        """Hand out the entries from position `start` on, as far as they fit."""


class Reading(Protocol):
    """Requests that change nothing."""

    async def lookup(self, dir_ino: int, name: bytes, ctx: Any) -> pyfuse3.EntryAttributes: ...
    def forget(self, ino: int, count: int) -> None: ...
    async def getattr(self, ino: int, ctx: Any) -> pyfuse3.EntryAttributes: ...
    async def readlink(self, ino: int, ctx: Any) -> bytes: ...
    async def getxattr(self, ino: int, name: bytes, ctx: Any) -> bytes: ...
    async def listxattr(self, ino: int, ctx: Any) -> list[bytes]: ...
    async def open(self, ino: int, flags: int, ctx: Any) -> tuple[OpenedFile, pyfuse3.FileInfo]: ...
    async def opendir(self, ino: int, ctx: Any) -> OpenedDirectory: ...


class Changing(Protocol):
    """Requests that change something; names of the control directory do not get here."""

    async def setattr(self, ino: int, attr: Any, fields: Any, ctx: Any) -> pyfuse3.EntryAttributes: ...
    async def mknod(self, dir_ino: int, name: bytes, mode: int, device: int, ctx: Any) -> pyfuse3.EntryAttributes: ...
    async def mkdir(self, dir_ino: int, name: bytes, mode: int, ctx: Any) -> pyfuse3.EntryAttributes: ...
    async def symlink(self, dir_ino: int, name: bytes, target: bytes, ctx: Any) -> pyfuse3.EntryAttributes: ...
    async def link(self, ino: int, dir_ino: int, name: bytes, ctx: Any) -> pyfuse3.EntryAttributes: ...
    async def unlink(self, dir_ino: int, name: bytes, ctx: Any) -> None: ...
    async def rmdir(self, dir_ino: int, name: bytes, ctx: Any) -> None: ...
    async def rename(self, names: Names, flags: int, ctx: Any) -> None: ...
    async def setxattr(self, ino: int, name: bytes, value: bytes, ctx: Any) -> None: ...
    async def removexattr(self, ino: int, name: bytes, ctx: Any) -> None: ...
    async def create(
        self, dir_ino: int, name: bytes, mode: int, flags: int, ctx: Any
    ) -> tuple[OpenedFile, pyfuse3.FileInfo, pyfuse3.EntryAttributes]: ...
    async def sync(self) -> None: ...


class Files(Reading, Changing, Protocol):
    """All requests."""
