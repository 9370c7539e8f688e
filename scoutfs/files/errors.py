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


class Exists(FileError):
    """There is such a name, attribute or rule already (EEXIST)."""

    number = errno.EEXIST


class IsADirectory(FileError):
    """A directory is not possible here (EISDIR)."""

    number = errno.EISDIR


class NotEmpty(FileError):
    """The directory has entries (ENOTEMPTY)."""

    number = errno.ENOTEMPTY


class NotPermitted(FileError):
    """The caller may not do that, or nobody may while the file is retained (EPERM)."""

    number = errno.EPERM


class Refused(FileError):
    """An argument that is not possible (EINVAL)."""


class Unsupported(FileError):
    """This volume, or this file, does not know that (EOPNOTSUPP)."""

    number = errno.EOPNOTSUPP


class LinksExhausted(FileError):
    """The inode has as many links as it can count (EMLINK)."""

    number = errno.EMLINK


class NoSpace(FileError):
    """There are no blocks, or no numbers, left (ENOSPC)."""

    number = errno.ENOSPC


class QuotaExceeded(FileError):
    """A quota rule forbids more (EDQUOT)."""

    number = errno.EDQUOT


class FileTooLarge(FileError):
    """No file can be that large (EFBIG)."""

    number = errno.EFBIG


class ValueTooLarge(FileError):
    """The value of an attribute has more than 65535 bytes (E2BIG)."""

    number = errno.E2BIG


class AttributeNameTooLong(FileError):
    """The name of an attribute has more than 255 bytes (ERANGE)."""

    number = errno.ERANGE


class BadRange(FileError):
    """Bytes that do not begin and end with blocks, or pass the greatest number (EOVERFLOW)."""

    number = errno.EOVERFLOW


class Stale(FileError):
    """The file is another one by now, or has other contents (ESTALE)."""

    number = errno.ESTALE


class OfflineError(FileError):
    """The contents are in the archive and not on the volume (ENODATA).

    `offset` and `length` in bytes say what part of the file is meant.
    """

    number = errno.ENODATA

    def __init__(self, ino: int, offset: int, length: int) -> None:
        self.ino, self.offset, self.length = ino, offset, length
        super().__init__(f"inode {ino}: {length} bytes from {offset} on are offline: stage them first")


class TruncatePending(FileError):
    """The truncation of inode `ino` has to be finished first, in transactions of its own (EAGAIN)."""

    number = errno.EAGAIN

    def __init__(self, ino: int) -> None:
        self.ino = ino
        super().__init__(f"inode {ino}: blocks behind its end have to be removed first")


class DamagedItem(ScoutfsError):
    """An item whose contents make no sense (EIO); the text names device, item and field."""

    def __init__(self, text: str) -> None:
        super().__init__(text, errno.EIO)
