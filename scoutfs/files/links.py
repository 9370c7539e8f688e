"""The names of an inode: from its links back to the directories (spec 06 §3.1, §6.1)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from format.block import BlockError
from format.dirent import DirEntry
from format.keys import FsType
from format.superblock import ROOT_INO
from scoutfs.files.errors import TooManyLinks
from scoutfs.files.items import Items, damaged, fs_key, fs_range, key_fields


class Link(NamedTuple):
    """A name of inode `ino`: the entry at position `pos` of directory `dir_ino`, `type` a `DirentType`."""

    dir_ino: int
    pos: int
    ino: int
    type: int
    name: bytes


def links(items: Items, ino: int, dir_ino: int = 0, pos: int = 0) -> Iterator[Link]:
    """Yield the links of inode `ino` from (`dir_ino`, `pos`) on, in that order; the root has none.

    Raises DamagedItem, and what reading items raises.
    """
    _, last = fs_range(ino, FsType.LINK_BACKREF)
    for key, value in items.items(fs_key(ino, FsType.LINK_BACKREF, dir_ino, pos), last):
        try:
            entry = DirEntry.parse(value, "link")
        except BlockError as error:
            damaged(items, key, error)
        _, _, _, in_dir, at, _ = key_fields(key)
        yield Link(in_dir, at, ino, entry.type, entry.name)


def parent(items: Items, ino: int) -> int | None:
    """Return the directory that holds the first link of `ino`, None if it has no link.  Raises as `links` does."""
    first = next(links(items, ino), None)
    return None if first is None else first.dir_ino


def paths(items: Items, ino: int, dir_ino: int = 0, pos: int = 0) -> Iterator[tuple[bytes, Link]]:
    """Yield the paths of inode `ino`, relative to the root and without leading slash, each with its link.

    Starts with the link at or behind (`dir_ino`, `pos`).  Raises TooManyLinks where parents do not lead to the root;
    otherwise as `links`.
    """
    for link in links(items, ino, dir_ino, pos):
        yield b"/".join([*_names_up_to(items, link.dir_ino), link.name]), link


def _names_up_to(items: Items, dir_ino: int) -> list[bytes]:
    """Return the names from the root to directory `dir_ino`, the root's own, which it has not, left out."""
    names: list[bytes] = []
    passed = set()
    while dir_ino != ROOT_INO:
        link = next(links(items, dir_ino), None)
        if link is None or dir_ino in passed:
            raise TooManyLinks(f"the parents of directory {dir_ino} do not lead to the root")
        passed.add(dir_ino)
        names.append(link.name)
        dir_ino = link.dir_ino
    return names[::-1]
