"""Changes where nothing can be changed."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable
from typing import Any, NoReturn


class RefusingChanges:
    """All requests that change something, refused with EROFS; that is logged once."""

    def __init__(self, log: Callable[[int, str], None]) -> None:
        self._tell: Callable[[int, str], None] | None = log

    async def setattr(self, ino: int, attr: Any, fields: Any, ctx: Any) -> NoReturn:
        self._refuse()

    async def mknod(self, dir_ino: int, name: bytes, mode: int, device: int, ctx: Any) -> NoReturn:
        self._refuse()

    async def mkdir(self, dir_ino: int, name: bytes, mode: int, ctx: Any) -> NoReturn:
        self._refuse()

    async def symlink(self, dir_ino: int, name: bytes, target: bytes, ctx: Any) -> NoReturn:
        self._refuse()

    async def link(self, ino: int, dir_ino: int, name: bytes, ctx: Any) -> NoReturn:
        self._refuse()

    async def unlink(self, dir_ino: int, name: bytes, ctx: Any) -> NoReturn:
        self._refuse()

    async def rmdir(self, dir_ino: int, name: bytes, ctx: Any) -> NoReturn:
        self._refuse()

    async def rename(self, names: Any, flags: int, ctx: Any) -> NoReturn:
        self._refuse()

    async def setxattr(self, ino: int, name: bytes, value: bytes, ctx: Any) -> NoReturn:
        self._refuse()

    async def removexattr(self, ino: int, name: bytes, ctx: Any) -> NoReturn:
        self._refuse()

    async def create(self, dir_ino: int, name: bytes, mode: int, flags: int, ctx: Any) -> NoReturn:
        self._refuse()

    async def sync(self) -> None:
        """Do nothing: nothing was changed."""

    def refuse_writing(self, flags: int) -> None:
        """Refuse to open a file for anything but reading."""
        if flags & (os.O_ACCMODE | os.O_TRUNC):
            self._refuse()

    def _refuse(self) -> NoReturn:
        if self._tell is not None:
            self._tell(logging.WARNING, "this mount only reads: files and directories cannot be changed (EROFS)")
            self._tell = None
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))
