"""Reading the files of a volume that other mounts change: under locks, with which the kernel may keep what it hears."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from itertools import groupby
from typing import Any, NamedTuple

import pyfuse3
import trio

from format.acl import ACCESS_NAME, DEFAULT_NAME
from format.payloads import LockMode
from format.superblock import ROOT_INO
from mount import control
from mount.attributes import attributes_listed, attributes_of, attributes_of_none
from mount.kernel_cache import KernelCache
from mount.preparation import RootDirectory
from mount.volume_client import Held, VolumeClient
from scoutfs.errors import ScoutfsError
from scoutfs.files.directory import DirectoryEntry, find_entry, list_directory
from scoutfs.files.errors import DamagedItem, NoAttribute, NotADirectory, NotFound
from scoutfs.files.inode import Inode, read_inode
from scoutfs.files.items import Items
from scoutfs.files.links import parent
from scoutfs.files.store import LockRequest, inode_request
from scoutfs.files.symlink import read_target
from scoutfs.files.xattr import find_xattr, list_xattrs
from scoutfs.metadata.lock_ranges import LOCK_GROUP

SOON = 0.2
"""Seconds in which a server that works answers, however busy it is."""
FIRST_LISTED, MOST_LISTED = 24, 1024
"""Entries that are read for one answer: as many as fit into the smallest one, and at most."""

_XATTR_PREFIXES = (b"user.", b"trusted.", b"security.", b"scoutfs.")
_ACL_NAMES = (ACCESS_NAME, DEFAULT_NAME)

Report = Callable[[str, ScoutfsError], None]


class Seen(NamedTuple):
    """An inode as it was in a generation of its lock."""

    inode: Inode
    generation: int


class SharedFiles:
    """Requests that read.  They raise ScoutfsError or OSError.

    `root` is the root directory as it was before: where control files are looked for it is answered by what is known of
    it last when its lock cannot be had, because control files must not wait.  `report` is told of damage that a request
    goes on with.  `acl`: access control lists are in use.
    """

    def __init__(
        self,
        client: VolumeClient,
        cache: KernelCache,
        root: RootDirectory,
        report: Report,
        *,
        acl: bool,
    ) -> None:
        self._client, self._cache, self._report, self._acl = client, cache, report, acl
        self._root, self._root_acl = Seen(root.inode, 0), root.acl

    async def lookup(self, parent_ino: int, name: bytes, ctx: Any) -> pyfuse3.EntryAttributes:
        async with self._client.locked(_to_read(parent_ino)) as held:
            ino = await held.ask(self._entry_ino, parent_ino, name)
            names = self._client.generation(parent_ino)
            if ino is None:
                return attributes_of_none(self._cache.name_timeout(parent_ino, names))
            if ino // LOCK_GROUP == parent_ino // LOCK_GROUP:
                seen = await self._seen(held, ino)
                return self._named(seen, self._cache.name_timeout(parent_ino, names))
        # the lock of the directory is not held any more: no other may be taken behind it
        try:
            async with self._client.locked(_to_read(ino)) as held:
                seen = await self._seen(held, ino)
                return self._named(seen, self._cache.name_timeout(parent_ino, names))
        except NotFound:
            return attributes_of_none(0)

    def forget(self, ino: int, count: int) -> None:
        self._cache.forget(ino, count)

    async def getattr(self, ino: int, ctx: Any) -> pyfuse3.EntryAttributes:
        if ino == ROOT_INO:
            return await self._root_attributes()
        async with self._client.locked(_to_read(ino)) as held:
            return self._attributes(await self._known(held, ino))

    async def readlink(self, ino: int, ctx: Any) -> bytes:
        async with self._client.locked(_to_read(ino)) as held:
            seen = await self._known(held, ino)
            return await held.ask(read_target, seen.inode)

    async def getxattr(self, ino: int, name: bytes, ctx: Any) -> bytes:
        if not name.startswith(_XATTR_PREFIXES) and not (self._acl and name in _ACL_NAMES):
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        if ino == ROOT_INO and name == ACCESS_NAME:
            value = await self._root_access_list()
        else:
            value = await self._xattr(ino, name)
        if value is None:
            raise NoAttribute(f"inode {ino} has no attribute {name!r}")
        return value

    async def listxattr(self, ino: int, ctx: Any) -> list[bytes]:
        async with self._client.locked(_to_read(ino)) as held:
            return await held.ask(_listed_names, ino)

    async def opendir(self, ino: int, ctx: Any) -> SharedDirectory:
        if not (await self.look(ino)).inode.is_directory:
            raise NotADirectory(f"inode {ino} is no directory")
        return SharedDirectory(self, ino, ctx.pid)

    async def look(self, ino: int) -> Seen:
        """Return an inode that the kernel knows."""
        async with self._client.locked(_to_read(ino)) as held:
            return await self._known(held, ino)

    async def ino_of(self, dir_ino: int, name: bytes) -> int | None:
        """Return the number that a name leads to, None if there is no such name."""
        async with self._client.locked(_to_read(dir_ino)) as held:
            return await held.ask(self._entry_ino, dir_ino, name)

    # -- what directories need of it -----------------------------------------------------------------------------------

    async def listed(self, dir_ino: int, start: int, count: int) -> tuple[list[DirectoryEntry], int]:
        """Return up to `count` entries from position `start` on, and the generation of their lock."""
        async with self._client.locked(_to_read(dir_ino)) as held:
            entries = await held.ask(_listed, dir_ino, start, count)
            return entries, self._client.generation(dir_ino)

    async def seen_all(self, inos: set[int]) -> dict[int, Seen]:
        """Return inodes, without those that are not there or cannot be read."""
        found = {}
        for number, group in groupby(sorted(inos), lambda ino: ino // LOCK_GROUP):
            async with self._client.locked(inode_request(number, LockMode.READ)) as held:
                for ino in group:
                    try:
                        found[ino] = await self._seen(held, ino)
                    except NotFound:
                        continue
                    except ScoutfsError as error:
                        # its name must be there all the same
                        self._report(f"inode {ino} of a directory", error)
        return found

    def hand_out(self, token: Any, dir_ino: int, names: int, entry: DirectoryEntry, seen: Seen | None) -> bool:
        """Hand out an entry if there is room for it; then the kernel remembers its inode."""
        if seen is None or entry.name in (b".", b".."):
            return pyfuse3.readdir_reply(token, entry.name, attributes_listed(entry), entry.next_pos)
        attributes = attributes_of(seen.inode, 0)
        known = self._cache.remember(entry.ino)
        known.unlinked = not seen.inode.nlink
        attributes.attr_timeout = self._cache.attribute_timeout(entry.ino, seen.generation, named=False)
        attributes.entry_timeout = self._cache.name_timeout(dir_ino, names, listed=True)
        fits: bool = pyfuse3.readdir_reply(token, entry.name, attributes, entry.next_pos)
        if not fits:
            self._cache.forget(entry.ino, 1)
        return fits

    # -- answers -------------------------------------------------------------------------------------------------------

    def _named(self, seen: Seen, name_timeout: float) -> pyfuse3.EntryAttributes:
        """Return the answer that tells the kernel of an inode, which it remembers.  The last step of a request."""
        ino = seen.inode.ino
        if ino >= control.FIRST_INO:
            raise DamagedItem(f"inode number {ino} is out of range: it stands for control files of the mount")
        entry = attributes_of(seen.inode, 0)
        known = self._cache.remember(ino)
        known.unlinked = not seen.inode.nlink
        entry.attr_timeout = self._cache.attribute_timeout(ino, seen.generation, named=False)
        entry.entry_timeout = name_timeout
        return entry

    def _attributes(self, seen: Seen) -> pyfuse3.EntryAttributes:
        """Return the attributes of an inode that the kernel knows.  The last step of a request."""
        entry = attributes_of(seen.inode, 0)
        self._cache.known(seen.inode.ino).unlinked = not seen.inode.nlink
        entry.attr_timeout = self._cache.attribute_timeout(seen.inode.ino, seen.generation, named=True)
        return entry

    async def _root_attributes(self) -> pyfuse3.EntryAttributes:
        with trio.move_on_after(SOON):
            try:
                async with self._client.locked(_to_read(ROOT_INO)) as held:
                    self._root = await self._known(held, ROOT_INO)
            except ScoutfsError as error:
                self._report("reading the root directory", error)
        return self._attributes(self._root)

    async def _root_access_list(self) -> bytes | None:
        with trio.move_on_after(SOON):
            try:
                self._root_acl = await self._xattr(ROOT_INO, ACCESS_NAME)
            except ScoutfsError as error:
                self._report("reading the root directory", error)
        return self._root_acl

    # -- reading -------------------------------------------------------------------------------------------------------

    async def _xattr(self, ino: int, name: bytes) -> bytes | None:
        async with self._client.locked(_to_read(ino)) as held:
            return await held.ask(find_xattr, ino, name)

    async def _seen(self, held: Held, ino: int) -> Seen:
        """Return an inode, whose lock is held.  Raises NotFound."""
        inode = await held.ask(read_inode, ino, self._client.fmt_vers)
        if inode is None:
            raise NotFound(f"there is no inode {ino}")
        return Seen(inode, self._client.generation(ino))

    async def _known(self, held: Held, ino: int) -> Seen:
        """Return an inode that the kernel knows, whose lock is held.  Raises OSError (ESTALE) if it is gone."""
        try:
            return await self._seen(held, ino)
        except NotFound as error:
            # the kernel must walk the path again
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE)) from error

    @staticmethod
    def _entry_ino(items: Items, dir_ino: int, name: bytes) -> int | None:
        if name == b".":
            return dir_ino
        if name == b"..":
            return dir_ino if dir_ino == ROOT_INO else parent(items, dir_ino) or dir_ino
        entry = find_entry(items, dir_ino, name)
        return None if entry is None else entry.ino


class SharedDirectory:
    """An open directory; cookies are positions (spec 06 §3.3), so that entries neither repeat nor get lost.

    Everything is read anew for each request: the kernel takes it for as new as the request.
    """

    def __init__(self, files: SharedFiles, ino: int, pid: int) -> None:
        self._files, self.ino, self.pid = files, ino, pid
        self._count = FIRST_LISTED

    async def readdir(self, start: int, token: Any) -> None:
        """Hand out the entries from position `start` on, as far as they fit; the kernel remembers their inodes."""
        fitted = 0
        while not fitted:
            entries, names = await self._files.listed(self.ino, start, self._count)
            if not entries:
                return
            seen = await self._files.seen_all(_inos(self.ino, entries))
            # from here on nothing is awaited: what is answered is true when the kernel gets it
            for entry in entries:
                start = entry.next_pos
                if self.ino == ROOT_INO and entry.name == control.NAME:
                    continue
                if not self._files.hand_out(token, self.ino, names, entry, seen.get(entry.ino)):
                    self._count = fitted + 2
                    return
                fitted += 1
        # there may have been room for more: the kernel asks again
        self._count = min(2 * self._count, MOST_LISTED)


def _inos(dir_ino: int, entries: list[DirectoryEntry]) -> set[int]:
    return {entry.ino for entry in entries if entry.name not in (b".", b"..") and entry.ino < control.FIRST_INO}


def _to_read(ino: int) -> LockRequest:
    return inode_request(ino // LOCK_GROUP, LockMode.READ)


def _listed(items: Items, dir_ino: int, start: int, count: int) -> list[DirectoryEntry]:
    entries = []
    for entry in list_directory(items, dir_ino, start):
        entries.append(entry)
        if len(entries) == count:
            break
    return entries


def _listed_names(items: Items, ino: int) -> list[bytes]:
    return [xattr.name for xattr in list_xattrs(items, ino) if not xattr.hidden]
