"""Adding and removing entries of directories: three items each (spec 06 §3.1, §3.4)."""

from __future__ import annotations

from format.dirent import LAST_POS, NAME_MAX, DirEntry, DirentType
from format.hashes import dirent_name_hash
from format.keys import FsType
from scoutfs.files.change import Change
from scoutfs.files.directory import find_entry
from scoutfs.files.errors import Exists, NameTooLong, NoSpace, NotADirectory, NotFound, Refused
from scoutfs.files.inode import Inode
from scoutfs.files.items import fs_key


def check_name(name: bytes) -> None:
    """Raise NameTooLong, NotFound or Refused for a name that no entry can have."""
    if len(name) > NAME_MAX:
        raise NameTooLong(f"a name of {len(name)} bytes, at most {NAME_MAX} are possible")
    if not name:
        raise NotFound("a name without a byte")
    if b"/" in name or b"\0" in name or name in (b".", b".."):
        raise Refused(f"{name!r} is no name for a file")


def check_directory(directory: Inode) -> None:
    """Raise NotADirectory, or NotFound for a directory that was removed: nothing can be in it any more."""
    if not directory.is_directory:
        raise NotADirectory(f"inode {directory.ino} is no directory")
    if not directory.nlink:
        raise NotFound(f"directory {directory.ino} was removed")


def check_absent(change: Change, directory: Inode, name: bytes) -> None:
    """Raise Exists if the directory has an entry called `name`, and as `check_name` and `check_directory` do."""
    check_name(name)
    check_directory(directory)
    if find_entry(change, directory.ino, name) is not None:
        raise Exists(f"directory {directory.ino} has {name!r} already")


def present(change: Change, directory: Inode, name: bytes) -> DirEntry:
    """Return the entry called `name`.  Raises NotFound, and as `check_name` and `check_directory` do."""
    check_name(name)
    check_directory(directory)
    entry = find_entry(change, directory.ino, name)
    if entry is None:
        raise NotFound(f"there is no {name!r} in directory {directory.ino}")
    return entry


def add_entry(change: Change, directory: Inode, name: bytes, ino: int, mode: int) -> Inode:
    """Add an entry for an inode of this mode; return the directory with a longer size and the next position.

    Whether the name is in use has been looked at before.  Raises NoSpace if no position is left.
    """
    pos = directory.next_readdir_pos
    if pos > LAST_POS:
        raise NoSpace(f"directory {directory.ino} has no position left for an entry")
    entry = DirEntry(ino, dirent_name_hash(name), pos, DirentType.from_mode(mode), name)
    value = entry.build()
    for key in _keys(directory.ino, entry):
        change.create(key, value)
    return directory._replace(next_readdir_pos=pos + 1, size=directory.size + len(name))


def remove_entry(change: Change, directory: Inode, entry: DirEntry) -> Inode:
    """Remove an entry; return the directory with a shorter size."""
    for key in _keys(directory.ino, entry):
        change.delete(key)
    return directory._replace(size=directory.size - len(entry.name))


def changed(change: Change, inode: Inode) -> Inode:
    """Return an inode with a new ctime and version."""
    return inode._replace(ctime=change.now, version=inode.version + 1)


def changed_directory(change: Change, directory: Inode) -> Inode:
    """Return a directory whose entries have changed: new mtime, ctime and version."""
    return changed(change, directory)._replace(mtime=change.now)


def _keys(dir_ino: int, entry: DirEntry) -> tuple[bytes, bytes, bytes]:
    return (
        fs_key(dir_ino, FsType.DIRENT, entry.hash, entry.pos),
        fs_key(dir_ino, FsType.READDIR, entry.pos),
        fs_key(entry.ino, FsType.LINK_BACKREF, dir_ino, entry.pos),
    )
