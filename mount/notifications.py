"""What a FUSE server tells the kernel unasked, in messages of their own: the binding has only some of them.

Spec 05 §10.1, §10.3.  Those that wait for nobody may be sent from the event loop.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterable

_HEADER = struct.Struct("<IiQ")
_INVAL_INODE = struct.Struct("<Qqq")
_PRUNE = struct.Struct("<IIQ")
_CODE_INVAL_INODE, _CODE_INC_EPOCH, _CODE_PRUNE = 2, 8, 9
_PRUNED_AT_ONCE = 500


class Notifications:
    """Notifications through `fd`, the descriptor of the FUSE connection.

    Without a descriptor nothing is sent, and the kernel has heard of nothing.
    """

    def __init__(self, fd: int | None) -> None:
        self._fd = fd
        self._knows_epochs: bool | None = None

    @property
    def knows_epochs(self) -> bool:
        """Whether this kernel can be told to look all names up again.  Asked once, after it has been greeted."""
        if self._knows_epochs is None:
            self._knows_epochs = self._send(_CODE_INC_EPOCH, b"") == 0
        return self._knows_epochs

    def forget_names(self) -> None:
        """Have the kernel look every name of the mount up again before it is used.  Does not block."""
        self._send(_CODE_INC_EPOCH, b"")

    def forget_attributes(self, ino: int) -> bool:
        """Have the kernel ask again for attributes and access lists of an inode.  Does not block.

        False if it does not know the inode, or not yet.
        """
        return self._send(_CODE_INVAL_INODE, _INVAL_INODE.pack(ino, -1, 0)) != errno.ENOENT

    def forget_pages(self, ino: int, start: int, length: int) -> None:
        """Have the kernel drop bytes of a file, dirty ones are written first.  Waits for requests in progress."""
        self._send(_CODE_INVAL_INODE, _INVAL_INODE.pack(ino, start, length))

    def forget_unused(self, inos: Iterable[int]) -> None:
        """Have the kernel drop inodes that nobody uses.  To be sent from a thread of its own."""
        numbers = list(inos)
        for at in range(0, len(numbers), _PRUNED_AT_ONCE):
            some = numbers[at : at + _PRUNED_AT_ONCE]
            self._send(_CODE_PRUNE, _PRUNE.pack(len(some), 0, 0) + struct.pack(f"<{len(some)}Q", *some))

    def _send(self, code: int, payload: bytes) -> int:
        """Return 0, or the error number: what the kernel does not know, or is not connected to any more, is no harm."""
        if self._fd is None:
            return errno.ENOENT
        try:
            os.write(self._fd, _HEADER.pack(_HEADER.size + len(payload), code, 0) + payload)
        except OSError as error:
            return error.errno or errno.EIO
        return 0
