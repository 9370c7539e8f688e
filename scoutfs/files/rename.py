"""Renaming, between directories too (spec 06 §3.6)."""

from __future__ import annotations

from collections.abc import Generator
from enum import IntFlag
from typing import NamedTuple

from format.dirent import DirEntry
from format.superblock import ROOT_INO
from scoutfs.files.change import Change
from scoutfs.files.directory import find_entry
from scoutfs.files.entries import (
    add_entry,
    changed,
    changed_directory,
    check_directory,
    check_name,
    present,
    remove_entry,
)
from scoutfs.files.errors import (
    Exists,
    IsADirectory,
    NotADirectory,
    NotEmpty,
    NotFound,
    NotPermitted,
    Refused,
    TooManyLinks,
)
from scoutfs.files.inode import Inode
from scoutfs.files.linking import dropped_link
from scoutfs.files.store import RENAME_LOCK

ANCESTOR_TRIES = 10
"""How often the walk to the root begins anew because a directory on the way was removed."""


class RenameFlag(IntFlag):
    """Flags of renameat2(2)."""

    NOREPLACE = 1
    EXCHANGE = 2
    WHITEOUT = 4


class Names(NamedTuple):
    """What is renamed: the entry `old_name` of `old_dir` becomes the entry `new_name` of `new_dir`."""

    old_dir: int
    old_name: bytes
    new_dir: int
    new_name: bytes


class Kinship(NamedTuple):
    """How two directories are related: the one on the way to the root from each of them that is in the other one.

    None where the other one is not on the way.
    """

    below_old: int | None
    below_new: int | None


def rename(change: Change, names: Names, flags: int = 0, kinship: Kinship | None = None) -> None:
    """Rename, replacing what has the new name unless NOREPLACE is given.

    Between different directories `kinship` is needed: what `find_kinship` says of them, found out under the rename
    lock that is still held.  Two names of one inode stay as they are.  Raises Refused for other flags, for a directory
    that would be below itself and for one that would replace its parent; NotFound, NotADirectory, IsADirectory,
    NotEmpty, Exists, NameTooLong, NotPermitted, NoSpace, and as `Change` does.
    """
    if flags & ~int(RenameFlag.NOREPLACE):
        raise Refused(f"flags {flags:#x}: only NOREPLACE is possible")
    if names.old_dir != names.new_dir:
        change.need(RENAME_LOCK)
        if kinship is None:
            raise Refused("whether one directory is below the other one is unknown")
    old_dir, new_dir = change.open(names.old_dir, names.new_dir)
    old_entry, new_entry = _entries(change, old_dir, new_dir, names)
    inos = [entry.ino for entry in (old_entry, new_entry) if entry is not None]
    moved, *targets = change.open(*inos)
    if new_entry is not None and flags & RenameFlag.NOREPLACE:
        raise Exists(f"directory {new_dir.ino} has {names.new_name!r} already")
    if kinship is not None and {kinship.below_old, kinship.below_new} & set(inos):
        raise Refused("a directory cannot go below itself, or replace its parent")
    if targets and targets[0].ino == moved.ino:
        return
    for target in targets:
        _check_target(moved, target)
    for inode in (moved, *targets):
        if inode.retention:
            raise NotPermitted(f"inode {inode.ino} is retained")
    change.need_space()
    _move(change, names, old_entry, moved, new_entry, targets)


def find_kinship(old_dir: int, new_dir: int) -> Generator[int, int | None, Kinship]:
    """Find how two directories are related, one parent at a time, so that no two locks are held at once.

    Yields the number of a directory, and is to be sent that of the directory in which it is, None if it is in none.
    Raises NotFound if one of the two has been removed, TooManyLinks if the ways do not lead to the root.
    """
    below_old = yield from _below(new_dir, old_dir)
    below_new = None
    if below_old is None:
        below_new = yield from _below(old_dir, new_dir)
    return Kinship(below_old, below_new)


def _below(start: int, above: int) -> Generator[int, int | None, int | None]:
    """Return the directory in `above` that `start` is, or is below; None if it is not below it."""
    for _ in range(ANCESTOR_TRIES):
        at, passed = start, set[int]()
        while at != ROOT_INO and at not in passed:
            passed.add(at)
            parent = yield at
            if parent == above:
                return at
            if parent is None:
                if at == start:
                    raise NotFound(f"directory {start} was removed")
                break
            at = parent
        if at == ROOT_INO:
            return None
    raise TooManyLinks(f"the parents of directory {start} do not lead to the root")


def _entries(change: Change, old_dir: Inode, new_dir: Inode, names: Names) -> tuple[DirEntry, DirEntry | None]:
    old_entry = present(change, old_dir, names.old_name)
    check_name(names.new_name)
    check_directory(new_dir)
    return old_entry, find_entry(change, new_dir.ino, names.new_name)


def _check_target(moved: Inode, target: Inode) -> None:
    if moved.is_directory and not target.is_directory:
        raise NotADirectory(f"inode {target.ino} is no directory")
    if target.is_directory and not moved.is_directory:
        raise IsADirectory(f"inode {target.ino} is a directory")
    if target.is_directory and target.size:
        raise NotEmpty(f"directory {target.ino} has entries")


def _move(
    change: Change, names: Names, old_entry: DirEntry, moved: Inode, new_entry: DirEntry | None, targets: list[Inode]
) -> None:
    new_dir = change.inode(names.new_dir)
    if new_entry is not None:
        (target,) = targets
        new_dir = remove_entry(change, new_dir, new_entry)
        new_dir = new_dir._replace(nlink=new_dir.nlink - target.is_directory)
        change.set(changed(change, dropped_link(change, target)))
    new_dir = add_entry(change, new_dir, names.new_name, moved.ino, moved.mode)
    if names.old_dir == names.new_dir:
        change.set(changed_directory(change, remove_entry(change, new_dir, old_entry)))
    else:
        old_dir = remove_entry(change, change.inode(names.old_dir), old_entry)
        old_dir = old_dir._replace(nlink=old_dir.nlink - moved.is_directory)
        new_dir = new_dir._replace(nlink=new_dir.nlink + moved.is_directory)
        for directory in (old_dir, new_dir):
            change.set(changed_directory(change, directory))
    change.set(changed(change, moved))
