"""What may be wrong with a file, or with the question for it."""

from __future__ import annotations

import errno
from typing import ClassVar

from scoutfs.errors import ScoutfsError


class FileError(ScoutfsError):
    """An operation on a file that is refused; `errno` is what the system call would have given."""

    number: ClassVar[int] = errno.EINVAL

    def __init__(self, text: str) -> None:
        super().__init__(text, self.number)


class NotFound(FileError):
    """There is no such inode or name (ENOENT)."""

    number = errno.ENOENT


class NotADirectory(FileError):
    """A directory is needed (ENOTDIR)."""

    number = errno.ENOTDIR


class WrongType(FileError):
    """The inode is of a type that has nothing of the kind that was asked for (EINVAL)."""


class NameTooLong(FileError):
    """A name has more than 255 bytes (ENAMETOOLONG)."""

    number = errno.ENAMETOOLONG


class TooManyLinks(FileError):
    """Symbolic links, or parents of directories, that do not end (ELOOP)."""

    number = errno.ELOOP


class NoAttribute(FileError):
    """The inode has no attribute of that name (ENODATA)."""

    number = errno.ENODATA


class OfflineError(FileError):
    """The contents are in the archive and not on the volume (ENODATA).

    `offset` and `length` in bytes say what part of the file is meant.
    """

    number = errno.ENODATA

    def __init__(self, ino: int, offset: int, length: int) -> None:
        self.ino, self.offset, self.length = ino, offset, length
        super().__init__(f"inode {ino}: {length} bytes from {offset} on are offline: stage them first")


class DamagedItem(ScoutfsError):
    """An item whose contents make no sense (EIO); the text names device, item and field."""

    def __init__(self, text: str) -> None:
        super().__init__(text, errno.EIO)
