"""Names of inodes that come and go: link, unlink, rmdir (spec 06 §3.4)."""

from __future__ import annotations

from format.dirent import LINK_MAX, DirEntry
from scoutfs.files.change import Change
from scoutfs.files.entries import (
    add_entry,
    changed,
    changed_directory,
    check_absent,
    present,
    remove_entry,
)
from scoutfs.files.errors import (
    IsADirectory,
    LinksExhausted,
    NotADirectory,
    NotEmpty,
    NotFound,
    NotPermitted,
)
from scoutfs.files.inode import Inode


def link(change: Change, ino: int, dir_ino: int, name: bytes, *, revive: bool = False) -> Inode:
    """Give an inode another name; return it.

    An inode without any name gets one only with `revive`, which is for files made by `create_unlinked`.  Raises
    NotFound, NotPermitted for a directory, Exists, NotADirectory, NameTooLong, LinksExhausted, NoSpace, and as `Change`
    does.
    """
    directory, inode = change.open(dir_ino, ino)
    check_absent(change, directory, name)
    if inode.is_directory:
        raise NotPermitted(f"inode {ino} is a directory: it has one name only")
    if not inode.nlink and not revive:
        raise NotFound(f"inode {ino} was removed")
    if inode.nlink >= LINK_MAX:
        raise LinksExhausted(f"inode {ino} has {inode.nlink} names")
    change.need_space()
    if not inode.nlink:
        change.set_orphan(ino, orphan=False)
    directory = add_entry(change, directory, name, ino, inode.mode)
    change.set(changed_directory(change, directory))
    return change.set(changed(change, inode._replace(nlink=inode.nlink + 1)))


def unlink(change: Change, dir_ino: int, name: bytes, expected: int | None = None) -> Inode:
    """Remove a name of an inode that is no directory; return the inode, an orphan if it was the last.

    With `expected` the name has to be that of this inode, which saves taking locks twice.  Raises NotFound,
    NotADirectory, NameTooLong, IsADirectory, NotPermitted for a retained inode, and as `Change` does.
    """
    directory, inode, entry = _opened(change, dir_ino, name, expected)
    if inode.is_directory:
        raise IsADirectory(f"inode {inode.ino} is a directory")
    if inode.retention:
        raise NotPermitted(f"inode {inode.ino} is retained")
    inode = dropped_link(change, inode)
    change.set(changed_directory(change, remove_entry(change, directory, entry)))
    return change.set(changed(change, inode))


def rmdir(change: Change, dir_ino: int, name: bytes, expected: int | None = None) -> Inode:
    """Remove an empty directory; return its inode, an orphan now.  Raises as `unlink` does, NotADirectory, NotEmpty."""
    directory, inode, entry = _opened(change, dir_ino, name, expected)
    if not inode.is_directory:
        raise NotADirectory(f"inode {inode.ino} is no directory")
    if inode.size:
        raise NotEmpty(f"directory {inode.ino} has entries")
    inode = dropped_link(change, inode)
    directory = remove_entry(change, directory, entry)
    change.set(changed_directory(change, directory._replace(nlink=directory.nlink - 1)))
    return change.set(changed(change, inode))


def dropped_link(change: Change, inode: Inode) -> Inode:
    """Return an inode with one name less, and no link at all if it is a directory; note that it is an orphan then."""
    nlink = 0 if inode.is_directory else inode.nlink - 1
    if not nlink:
        change.set_orphan(inode.ino, orphan=True)
    return inode._replace(nlink=nlink)


def _opened(change: Change, dir_ino: int, name: bytes, expected: int | None) -> tuple[Inode, Inode, DirEntry]:
    """Return directory, inode and entry of a name.  A guess of the inode has all locks asked for at once."""
    inos = (dir_ino,) if expected is None else (dir_ino, expected)
    directory = change.open(*inos)[0]
    entry = present(change, directory, name)
    return directory, change.open(entry.ino)[0], entry
