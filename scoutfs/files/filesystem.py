"""A volume as a tree of files that is only read: by path, by inode number, or by what indexes say."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from typing import Self

from format.acl import ACCESS_NAME, AclEntry, parse_acl
from format.block import BlockError
from format.dirent import DirEntry
from format.keys import InodeIndexType
from format.superblock import ROOT_INO
from format.xattr import IndxEntry, Xattr
from scoutfs.errors import ScoutfsError
from scoutfs.files import data, directory, indexes, links, quota, search, xattr
from scoutfs.files.directory import DirectoryEntry, Listed
from scoutfs.files.errors import DamagedItem, NoAttribute, NotADirectory, NotFound, TooManyLinks
from scoutfs.files.indexes import FIRST_INDEXED, LAST_INDEXED, IndexedInode, Total
from scoutfs.files.inode import BLOCK_SIZE, Inode, read_inode, read_inodes
from scoutfs.files.items import NUMBER_MAX
from scoutfs.files.links import Link
from scoutfs.files.symlink import read_target
from scoutfs.files.xattr import XattrName
from scoutfs.metadata.blocks import DEFAULT_CACHE_BYTES, BlockReader
from scoutfs.metadata.forest import Forest, super_roots
from scoutfs.metadata.snapshot import Roots
from scoutfs.network.statfs import Statfs
from scoutfs.server.stable_seq import read_stable_seq
from scoutfs.server.statfs import read_statfs
from scoutfs.storage.volume import Volume

SYMLINKS_MAX = 40
"""Symbolic links that a path may lead through."""
READ_SIZE = 1 << 20
"""Bytes that `contents` reads at once."""


class Filesystem:
    """The files of an open volume; others may have it mounted.

    No cluster lock is taken: without one everything is as it was at some commit not before the last `refresh`, but two
    calls may see different ones.  Names and paths are bytes.  Every method blocks on the devices, and raises
    DamagedBlock, DamagedItem, DeviceError or VolumeError for what cannot be read, besides what it says.  Iterators
    hold a few blocks in memory, however much they yield.  Not for several threads at once.
    """

    def __init__(
        self,
        volume: Volume,
        *,
        get_roots: Callable[[], Roots] | None = None,
        cache_bytes: int = DEFAULT_CACHE_BYTES,
    ) -> None:
        """`get_roots` asks a server for the roots; without it they are read from the super block."""
        self.volume = volume
        self.blocks = BlockReader(volume.meta, volume.fsid, cache_bytes=cache_bytes)
        self.forest = Forest(self.blocks, get_roots or self._super_roots)
        self._committed = Forest(self.blocks, self._super_roots)
        self._fmt_vers = volume.fmt_vers

    @classmethod
    def open(
        cls,
        data_path: str | os.PathLike[str],
        metadata_path: str | os.PathLike[str] | None = None,
        *,
        cache_bytes: int = DEFAULT_CACHE_BYTES,
    ) -> Self:
        """Open a volume for reading; without `metadata_path` it is on one device.  Raises VolumeError, DeviceError."""
        return cls(Volume.open(data_path, metadata_path, writable=False), cache_bytes=cache_bytes)

    def close(self) -> None:
        """Close the volume."""
        self.volume.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def refresh(self) -> None:
        """See what has been committed since: needed after a cluster lock was granted, or to look again."""
        self.forest.refresh()

    def inode(self, ino: int) -> Inode:
        """Return inode `ino`, unlinked or not.  Raises NotFound."""
        found = None
        if 0 < ino <= NUMBER_MAX:
            found = self.forest.run(lambda items: read_inode(items, ino, self._fmt_vers))
        if found is None:
            raise NotFound(f"there is no inode {ino}")
        return found

    def inodes(self, inos: Iterable[int]) -> dict[int, Inode | ScoutfsError]:
        """Return those of the inodes `inos` that exist, in the place of one that cannot be read the error."""
        return read_inodes(self.forest, inos, self._fmt_vers)

    def entry(self, dir_ino: int, name: bytes) -> DirEntry | None:
        """Return the entry called `name` in a directory, None if there is none.  Raises NameTooLong."""
        return self.forest.run(lambda items: directory.find_entry(items, dir_ino, name))

    def lookup(self, dir_ino: int, name: bytes) -> Inode:
        """Return the inode called `name` in a directory; `.` and `..` too.  Raises NotFound, NameTooLong."""
        if name == b".":
            return self.inode(dir_ino)
        if name == b"..":
            return self.inode(self.parent(dir_ino))
        entry = self.entry(dir_ino, name)
        if entry is None:
            raise NotFound(f"there is no {name!r} in directory {dir_ino}")
        return self.inode(entry.ino)

    def parent(self, ino: int) -> int:
        """Return the number of the directory that a directory is in; the root, or an unlinked one, is in itself."""
        if ino == ROOT_INO:
            return ino
        return self.forest.run(lambda items: links.parent(items, ino)) or ino

    def resolve(self, path: bytes, *, follow: bool = True) -> Inode:
        """Return the inode at `path`, from the root of the volume, with or without leading slash.

        Symbolic links on the way are followed, absolute ones from that root too; one at its end only with `follow`.
        Raises NotFound, NotADirectory, NameTooLong, TooManyLinks.
        """
        inode = self.inode(ROOT_INO)
        names = path.split(b"/")[::-1]
        symlinks = 0
        while names:
            name = names.pop()
            if name in (b"", b"."):
                if not inode.is_directory:
                    raise NotADirectory(f"{path!r}: inode {inode.ino} is no directory")
                continue
            if not inode.is_directory:
                raise NotADirectory(f"{path!r}: inode {inode.ino} is no directory")
            found = self.lookup(inode.ino, name)
            if not found.is_symlink or (not names and not follow):
                inode = found
                continue
            symlinks += 1
            if symlinks > SYMLINKS_MAX:
                raise TooManyLinks(f"{path!r} leads through more than {SYMLINKS_MAX} symbolic links")
            target = self.readlink(found.ino)
            if target.startswith(b"/"):
                inode = self.inode(ROOT_INO)
            names += target.split(b"/")[::-1]
        return inode

    def readdir(self, ino: int, pos: int = 0) -> Iterator[DirectoryEntry]:
        """Yield the entries of a directory at position `pos` and behind; see `directory.list_directory`.

        Raises NotFound, NotADirectory.
        """
        if not self.inode(ino).is_directory:
            raise NotADirectory(f"inode {ino} is no directory")
        return directory.list_directory(self.forest, ino, pos)

    def list_batch(self, ino: int, pos: int, limit: int) -> list[Listed]:
        """Return some entries of a directory at position `pos` and behind; see `directory.list_batch`."""
        return directory.list_batch(self.forest, ino, pos, limit)

    def list_by_hash(self, ino: int) -> Iterator[Listed]:
        """Yield the entries of a directory from the items by which names are found; see `directory.list_by_hash`."""
        return directory.list_by_hash(self.forest, ino)

    def readlink(self, ino: int) -> bytes:
        """Return the target of a symbolic link.  Raises NotFound, WrongType."""
        inode = self.inode(ino)
        return self.forest.run(lambda items: read_target(items, inode))

    def getxattr(self, ino: int, name: bytes) -> bytes:
        """Return the value of the attribute called `name`, its prefix included.  Raises NoAttribute."""
        value = self.forest.run(lambda items: xattr.find_xattr(items, ino, name))
        if value is None:
            raise NoAttribute(f"inode {ino} has no attribute {name!r}")
        return value

    def listxattr(self, ino: int, *, hidden: bool = False) -> list[bytes]:
        """Return the names of the attributes of an inode in their order; with `hidden` those that others do not see."""
        return [found.name for found in self.xattr_names(ino) if found.hidden == hidden]

    def xattr_names(self, ino: int) -> list[XattrName]:
        """Return names and sizes of all attributes of an inode in the order of the names, hidden ones too."""
        return self.forest.run(lambda items: list(xattr.list_xattrs(items, ino)))

    def xattrs(self, ino: int) -> list[Xattr]:
        """Return all attributes of an inode with their values, hidden ones too: at most 64 KiB each, of any number."""
        return self.forest.run(lambda items: list(xattr.read_xattrs(items, ino)))

    def acl(self, ino: int, name: bytes = ACCESS_NAME) -> tuple[AclEntry, ...] | None:
        """Return an access control list of an inode, None if it has none.  Raises DamagedItem if it is invalid."""
        try:
            return parse_acl(self.getxattr(ino, name), f"inode {ino}")
        except NoAttribute:
            return None
        except BlockError as error:
            raise DamagedItem(f"{self.volume.metadata_path}: {error}") from error

    def read(self, ino: int, offset: int, size: int) -> bytes:
        """Return up to `size` bytes of a regular file, fewer only at its end; holes are zeros.

        Raises NotFound, WrongType, OfflineError.
        """
        inode = self.inode(ino)
        return self.forest.run(lambda items: data.read_data(self.volume, items, inode, offset, size))

    def contents(self, ino: int) -> Iterator[tuple[int, bytes]]:
        """Yield (offset, bytes) of all of a regular file but its holes, in pieces of at most 1 MiB.

        Raises NotFound, WrongType, OfflineError.
        """
        for start, length in self.data_segments(ino):
            for offset in range(start, start + length, READ_SIZE):
                yield offset, self.read(ino, offset, min(READ_SIZE, start + length - offset))

    def extents(self, ino: int) -> Iterator[data.DataExtent]:
        """Yield the extents of a file as they are stored, those behind its end too."""
        return data.read_extents(self.forest, ino, self._total_data_blocks)

    def data_segments(self, ino: int) -> Iterator[tuple[int, int]]:
        """Yield (offset, length) in bytes of what SEEK_DATA finds in a file: all but holes.  Raises NotFound."""
        return data.data_segments(self.forest, self.inode(ino), self._total_data_blocks)

    def fiemap(self, ino: int) -> Iterator[data.Mapping]:
        """Yield the extents of a file as FS_IOC_FIEMAP reports them."""
        return data.fiemap(self.forest, ino, self._total_data_blocks)

    def links(self, ino: int, dir_ino: int = 0, pos: int = 0) -> Iterator[Link]:
        """Yield the names of an inode, by directory and position, from (`dir_ino`, `pos`) on."""
        return links.links(self.forest, ino, dir_ino, pos)

    def paths(self, ino: int, dir_ino: int = 0, pos: int = 0) -> Iterator[tuple[bytes, Link]]:
        """Yield the paths of an inode, without leading slash, each with its link.  Raises TooManyLinks."""
        return links.paths(self.forest, ino, dir_ino, pos)

    def walk_inodes(
        self, index: InodeIndexType, first: IndexedInode = FIRST_INDEXED, last: IndexedInode = LAST_INDEXED
    ) -> Iterator[IndexedInode]:
        """Yield inodes by the seq of their last change, see `indexes.walk_inodes`."""
        return indexes.walk_inodes(self.forest, index, first, last)

    def walk_inode_batches(
        self, index: InodeIndexType, first: tuple[int, int], last: tuple[int, int]
    ) -> Iterator[list[tuple[int, int]]]:
        """Yield lists of (seq, ino), see `indexes.walk_inode_batches`."""
        return indexes.walk_inode_batches(self.forest, index, first, last)

    def orphans(self, first: int = 0) -> Iterator[int]:
        """Yield the numbers of inodes without links that still exist, from `first` on."""
        return indexes.orphans(self.forest, first)

    def totals(self, first: tuple[int, int, int] = (0, 0, 0)) -> Iterator[Total]:
        """Yield the totals of totl attributes, by name, as they are committed now."""
        self._committed.refresh()
        return indexes.read_totals(self._committed, first)

    def xattr_index(
        self, first: IndxEntry = indexes.FIRST_INDX, last: IndxEntry = indexes.LAST_INDX
    ) -> Iterator[tuple[int, int, int]]:
        """Yield (major, minor, ino) of indx attributes from `first` to `last`, as they are committed now."""
        self._committed.refresh()
        return indexes.read_xattr_index(self._committed, first, last)

    def search_xattrs(self, name: bytes, first_ino: int = 0, last_ino: int = NUMBER_MAX) -> Iterator[int]:
        """Yield the inodes that probably have the attribute called `name`, ascending.  Raises BadTag."""
        return search.search_xattrs(self.forest.run, name, first_ino, last_ino)

    def quota_rules(self) -> Iterator[quota.Rule]:
        """Yield all quota rules."""
        return quota.read_rules(self.forest)

    def statfs(self) -> Statfs:
        """Count what is free on the volume now."""
        return read_statfs(self.volume)

    def last_stable_seq(self) -> int:
        """Return the seq up to which no transaction is open now, so that nothing will be added to the indexes there."""
        return read_stable_seq(self.volume)

    @property
    def _total_data_blocks(self) -> int:
        return self.volume.data.size // BLOCK_SIZE

    def _super_roots(self) -> Roots:
        return super_roots(self.volume)
