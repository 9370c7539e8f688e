"""The control directory as the kernel sees it: `.scoutfs` and what is below.  Nothing here waits."""

from __future__ import annotations

import errno
import os
from typing import Any

import pyfuse3

from mount import control
from mount.attributes import control_attributes

_PAGE = 4096

Listed = list[tuple[bytes, int, pyfuse3.EntryAttributes]]


class ControlFile:
    """An open file."""

    def __init__(self, node: control.File) -> None:
        self._node = node
        self._contents: bytes | None = None

    async def read(self, offset: int, size: int) -> bytes:
        """Return a part of the contents, made afresh for each reading from the start, and then not torn by changes."""
        if offset == 0 or self._contents is None:
            self._contents = self._node.read()
        return self._contents[offset : offset + size]

    async def write(self, offset: int, data: bytes) -> int:
        """Take what one write(2) gave, wherever."""
        if self._node.write is None:
            raise pyfuse3.FUSEError(errno.EACCES)
        if len(data) > control.WRITE_MAX:
            raise pyfuse3.FUSEError(errno.EINVAL)
        self._node.write(bytes(data))
        return len(data)

    def close(self) -> None:
        """Do nothing: each reading is for itself."""


class ControlDirectory:
    """An open directory: what was in it when it was opened."""

    def __init__(self, tree: control.ControlTree, entries: Listed) -> None:
        self._tree, self._entries = tree, entries

    async def readdir(self, start: int, token: Any) -> None:
        """Hand out the entries from `start` on, as far as they fit."""
        for next_id, (name, ino, entry) in enumerate(self._entries[start:], start + 1):
            if not pyfuse3.readdir_reply(token, name, entry, next_id):
                break
            if name not in (b".", b".."):
                self._tree.remember(ino)


class ControlHandlers:
    """Requests for inodes from `control.FIRST_INO` on.

    `owner` is (uid, gid) of everything, `time` (ns) when it was last changed.  What is not there raises OSError
    (ENOENT).
    """

    def __init__(self, tree: control.ControlTree, owner: tuple[int, int], time: int) -> None:
        self._tree, self._owner, self._time = tree, owner, time

    def root(self) -> pyfuse3.EntryAttributes:
        """Look the control directory itself up."""
        self._tree.remember(control.FIRST_INO)
        return self.getattr(control.FIRST_INO)

    def lookup(self, parent: int, name: bytes) -> pyfuse3.EntryAttributes:
        if name in (b".", b".."):
            ino = parent if name == b"." else self._tree.parent(parent)
            self._tree.remember(ino)
            return self.getattr(ino)
        ino, node = self._tree.lookup(parent, name)
        return self._entry(ino, node)

    def forget(self, ino: int, count: int) -> None:
        self._tree.forget(ino, count)

    def getattr(self, ino: int) -> pyfuse3.EntryAttributes:
        return self._entry(ino, self._tree.node(ino))

    def setattr(self, ino: int, fields: Any) -> pyfuse3.EntryAttributes:
        node = self._tree.node(ino)
        if fields.update_mode or fields.update_uid or fields.update_gid:
            raise pyfuse3.FUSEError(errno.EPERM)
        # what a shell does before it writes to a file: cutting it to nothing means nothing here
        if fields.update_size and (isinstance(node, control.Directory) or node.write is None):
            raise pyfuse3.FUSEError(errno.EACCES)
        return self.getattr(ino)

    def open(self, ino: int, flags: int) -> ControlFile:
        node = self._tree.node(ino)
        if not isinstance(node, control.File):
            raise pyfuse3.FUSEError(errno.EISDIR)
        # root may open what its mode does not allow, so the mode alone does not protect files without a writer
        if flags & os.O_ACCMODE != os.O_RDONLY and node.write is None:
            raise pyfuse3.FUSEError(errno.EACCES)
        return ControlFile(node)

    def opendir(self, ino: int) -> ControlDirectory:
        parent = self._tree.parent(ino)
        entries = [(b".", ino, self.getattr(ino)), (b"..", parent, self.getattr(parent))]
        entries += [(name, child, self._entry(child, node)) for name, child, node in self._tree.entries(ino)]
        return ControlDirectory(self._tree, entries)

    def _entry(self, ino: int, node: control.Node) -> pyfuse3.EntryAttributes:
        if isinstance(node, control.Directory):
            subdirectories = sum(isinstance(child, control.Directory) for child in node.entries().values())
            entry = control_attributes(ino, node.mode, 2 + subdirectories, 0)
        else:
            # as in sysfs: one page, whatever is in it
            entry = control_attributes(ino, node.mode, 1, _PAGE)
        entry.st_uid, entry.st_gid = self._owner
        entry.st_atime_ns = entry.st_mtime_ns = entry.st_ctime_ns = self._time
        return entry
