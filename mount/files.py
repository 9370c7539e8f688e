"""The files of the volume as the kernel sees them: they are only read."""

from __future__ import annotations

import errno
import os
from bisect import bisect_left
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

import pyfuse3

from format.acl import ACCESS_NAME, DEFAULT_NAME
from format.dirent import LAST_POS
from format.superblock import ROOT_INO
from mount import control
from mount.attributes import attributes_listed, attributes_of, attributes_of_none
from mount.open_file import AnswerBuffers, OpenFile
from mount.preparation import RootDirectory, root_directory
from mount.reading import VolumeReader
from mount.refusing import RefusingChanges
from scoutfs.errors import ScoutfsError
from scoutfs.files.directory import DirectoryEntry, list_directory
from scoutfs.files.errors import DamagedItem, NoAttribute, NotFound
from scoutfs.files.filesystem import Filesystem
from scoutfs.files.inode import Inode
from scoutfs.metadata.blocks import DamagedBlock
from scoutfs.storage.device import DeviceError

FIRST_LISTED, MOST_LISTED = 32, 512
"""Entries of a directory that are read at once: at first, and when the listing goes on."""

_XATTR_PREFIXES = (b"user.", b"trusted.", b"security.", b"scoutfs.")
_ACL_NAMES = (ACCESS_NAME, DEFAULT_NAME)

Report = Callable[[str, ScoutfsError], None]


class FileHandlers(RefusingChanges):
    """Requests for the inodes of a volume.  They raise ScoutfsError or OSError.

    `root` is the root directory as it was before: where control files are looked for it is answered by what is known of
    it last when no server answers, because control files must not wait.  `report` is told of damage that a request goes
    on with.  `acl`: access control lists are in use.
    """

    def __init__(
        self,
        reader: VolumeReader,
        root: RootDirectory,
        log: Callable[[int, str], None],
        report: Report,
        *,
        acl: bool,
    ) -> None:
        super().__init__(log)
        self._reader, self._root, self._log, self._report, self._acl = reader, root, log, report, acl
        self._buffers = AnswerBuffers()
        self._versions: dict[int, tuple[int, int, int]] = {}

    async def lookup(self, parent: int, name: bytes, ctx: Any) -> pyfuse3.EntryAttributes:
        try:
            inode = await self._reader.ask(ctx.pid, self._reader.files.lookup, parent, name)
        except NotFound:
            return attributes_of_none(self._reader.timeout)
        return self._entry(inode)

    def forget(self, ino: int, count: int) -> None:
        """The kernel has nothing of the inode any more, no cached data either."""
        self._versions.pop(ino, None)

    async def getattr(self, ino: int, ctx: Any) -> pyfuse3.EntryAttributes:
        if ino == ROOT_INO:
            return self._entry((await self._last_known_root(ctx.pid)).inode)
        return self._entry(await self._inode(ino, ctx.pid))

    async def readlink(self, ino: int, ctx: Any) -> bytes:
        return await self._reader.ask(ctx.pid, self._reader.files.readlink, ino)

    async def getxattr(self, ino: int, name: bytes, ctx: Any) -> bytes:
        if not name.startswith(_XATTR_PREFIXES) and not (self._acl and name in _ACL_NAMES):
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        if ino == ROOT_INO and name == ACCESS_NAME:
            acl = (await self._last_known_root(ctx.pid)).acl
            if acl is None:
                raise NoAttribute("the root directory has no access control list")
            return acl
        return await self._reader.ask(ctx.pid, self._reader.files.getxattr, ino, name)

    async def listxattr(self, ino: int, ctx: Any) -> list[bytes]:
        return await self._reader.ask(ctx.pid, self._reader.files.listxattr, ino)

    async def open(self, ino: int, flags: int, ctx: Any) -> tuple[OpenFile, pyfuse3.FileInfo]:
        """Open for reading; the handle of the information is left open."""
        self.refuse_writing(flags)
        inode = await self._inode(ino, ctx.pid)
        if not inode.is_regular:
            raise OSError(errno.EISDIR if inode.is_directory else errno.ENXIO, "no regular file")
        # a read of whole pages would wait for parts in the archive that nobody asked for (spec 06 §11.2)
        direct_io = inode.offline_blocks > 0
        file = OpenFile(self._reader, self._buffers, inode, ctx.pid, self._log)
        return file, pyfuse3.FileInfo(direct_io=direct_io, keep_cache=not direct_io and self._is_unchanged(inode))

    async def opendir(self, ino: int, ctx: Any) -> OpenDirectory:
        inode = await self._inode(ino, ctx.pid)
        if not inode.is_directory:
            raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        return OpenDirectory(self._reader, ino, ctx.pid, self._report)

    async def _last_known_root(self, pid: int) -> RootDirectory:
        try:
            self._root = await self._reader.ask_soon(pid, root_directory, self._reader.files) or self._root
        except ScoutfsError as error:
            self._report("reading the root directory", error)
        return self._root

    async def _inode(self, ino: int, pid: int) -> Inode:
        try:
            return await self._reader.ask(pid, self._reader.files.inode, ino)
        except NotFound as error:
            # the kernel knew it: it must walk the path again
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE)) from error

    def _entry(self, inode: Inode) -> pyfuse3.EntryAttributes:
        if inode.ino >= control.FIRST_INO:
            raise DamagedItem(f"inode number {inode.ino} is out of range: it stands for control files of the mount")
        return attributes_of(inode, self._reader.timeout)

    def _is_unchanged(self, inode: Inode) -> bool:
        """Whether the contents are what they were at the last opening, so that what the kernel has of them counts."""
        if self._reader.unchanging:
            return True
        version = inode.data_version, inode.mtime, inode.size
        known = self._versions.get(inode.ino)
        self._versions[inode.ino] = version
        return version == known


class _Chunk:
    """Neighbouring entries of a directory with their inodes, None for those that cannot be read.

    It holds everything from position `start` to before `end`.
    """

    def __init__(self, start: int, entries: list[tuple[DirectoryEntry, Inode | None]], end: int) -> None:
        self.start, self.entries, self.end = start, entries, end
        self._positions = [entry.pos for entry, _ in entries]

    def from_position(self, pos: int) -> Iterable[tuple[DirectoryEntry, Inode | None]]:
        return islice(self.entries, bisect_left(self._positions, pos), None)


class OpenDirectory:
    """An open directory; cookies are positions (spec 06 §3.3), so that entries neither repeat nor get lost."""

    def __init__(self, reader: VolumeReader, ino: int, pid: int, report: Report) -> None:
        self._reader, self._ino, self.pid, self._report = reader, ino, pid, report
        self._chunk = _Chunk(0, [], 0)
        self._generation = -1

    async def readdir(self, start: int, token: Any) -> None:
        """Hand out the entries from position `start` on, as far as they fit; the kernel remembers their inodes."""
        generation = await self._reader.fresh(self.pid)
        if start == 0 or generation != self._generation:
            self._chunk, self._generation = _Chunk(0, [], 0), generation
        timeout = self._reader.timeout
        while True:
            if not self._chunk.start <= start < self._chunk.end:
                count = MOST_LISTED if start else FIRST_LISTED
                self._chunk = await self._reader.ask(self.pid, self._read, start, count)
            for entry, inode in self._chunk.from_position(start):
                if inode is None or inode.ino >= control.FIRST_INO:
                    attributes = attributes_listed(entry)
                else:
                    attributes = attributes_of(inode, timeout)
                if not pyfuse3.readdir_reply(token, entry.name, attributes, entry.next_pos):
                    return
                start = entry.next_pos
            if self._chunk.end == _NO_END:
                return
            start = self._chunk.end

    def _read(self, start: int, count: int) -> _Chunk:
        files = self._reader.files
        entries: list[tuple[DirectoryEntry, Inode | None]] = []
        for entry in list_directory(files.forest, self._ino, start):
            if len(entries) == count:
                return _Chunk(start, entries, entry.pos)
            if entry.name in (b".", b".."):
                entries.append((entry, None))
            elif self._ino != ROOT_INO or entry.name != control.NAME:
                entries.append((entry, self._inode(files, entry)))
        return _Chunk(start, entries, _NO_END)

    def _inode(self, files: Filesystem, entry: DirectoryEntry) -> Inode | None:
        """Return the inode of an entry, None if it cannot be read: its name must be there all the same."""
        try:
            return files.inode(entry.ino)
        except (DamagedBlock, DamagedItem, DeviceError, NotFound) as error:
            self._report(f"entry {entry.name!r} of directory {self._ino}", error)
            return None


_NO_END = LAST_POS + 2
