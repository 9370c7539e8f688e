"""Volumes that the kernel wrote, changed: what it stored is what operations would store, and all of it can go."""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest

from format.acl import ACCESS_NAME, DEFAULT_NAME, build_acl, parse_acl
from format.keys import FsType, Zone
from scoutfs.files.acl_inheritance import inherit
from scoutfs.files.attr_x import NewAttrX, set_attr_x
from scoutfs.files.attributes import NewAttributes, set_attributes
from scoutfs.files.caller import ROOT
from scoutfs.files.change import Change, Surroundings
from scoutfs.files.create import write_target
from scoutfs.files.deletion import delete_some
from scoutfs.files.directory import list_directory
from scoutfs.files.entries import add_entry
from scoutfs.files.filesystem import Filesystem
from scoutfs.files.indexes import orphans
from scoutfs.files.inode import encode_inode
from scoutfs.files.items import fs_key, key_fields
from scoutfs.files.linking import rmdir, unlink
from scoutfs.files.rename import Names, rename
from scoutfs.files.store import ItemChange, LockRequest
from scoutfs.files.symlink import read_target
from scoutfs.files.writing import preallocate, write
from scoutfs.files.xattr_writing import add_xattr
from tests.files.world import BLOCK, ROOT_INO, Held, World

VOLUMES = ("rich-v2-merged", "crash1-D_merge", "multi3-M2_killed")
Open = Callable[[str], Filesystem]


def load(volume: Filesystem) -> World:
    """Return a volume's items to be changed."""
    world = World(volume.volume.fmt_vers)
    world.space.total_blocks = volume.volume.data.size // BLOCK
    world.load(volume.forest.items(), seq=10**6)
    return world


def inos_of(items: Iterable[bytes]) -> list[int]:
    """Return the numbers of all inodes that have items with these keys."""
    fields = map(key_fields, items)
    return [ino for zone, ino, type, *_ in fields if (zone, type) == (Zone.FS, FsType.INODE)]


def remove_all(world: World, dir_ino: int = ROOT_INO) -> None:
    """Remove what a directory has, and delete it."""
    for entry in list(list_directory(world.reader(), dir_ino, 2)):
        inode = world.inode(entry.ino)
        if inode.is_directory:
            remove_all(world, entry.ino)
            world.perform(rmdir, dir_ino, entry.name, entry.ino)
        else:
            if inode.retention:
                world.perform(set_attr_x, entry.ino, NewAttrX(retention=False), ROOT)
            world.perform(unlink, dir_ino, entry.name, entry.ino)
        if not world.inode(entry.ino).nlink:
            world.steps(delete_some, entry.ino)


@pytest.mark.parametrize("name", VOLUMES)
def test_everything_can_be_removed(name: str, opened: Open) -> None:
    world = load(opened(name))
    world.check()
    for ino in list(orphans(world.reader())):
        world.steps(delete_some, ino)
    world.check()
    remove_all(world)
    world.check()
    root = world.inode(ROOT_INO)
    assert (root.size, root.nlink, world.inode_count) == (0, 2, 1)
    assert not world.space.used
    left = [key_fields(key) for key in world.store.keys]
    zones = {zone for zone, *_ in left}
    assert zones <= {Zone.FS, Zone.INODE_INDEX, Zone.QUOTA}
    assert {first for zone, first, *_ in left if zone == Zone.FS} == {ROOT_INO}


def test_everything_can_be_changed(opened: Open) -> None:
    world = load(opened("rich-v2-merged"))
    for ino in inos_of(world.store.keys):
        inode = world.inode(ino)
        if inode.retention or inode.is_symlink:
            continue
        world.perform(set_attributes, ino, NewAttributes(mode=0o700), ROOT)
        if inode.is_directory:
            for entry in list(list_directory(world.reader(), ino, 2))[:50]:
                if not world.inode(entry.ino).retention:
                    world.perform(rename, Names(ino, entry.name, ino, entry.name[:100] + b" moved"))
    world.check()


class Collector(Held):
    """Takes every change, under any lock."""

    blocks = None

    def __init__(self) -> None:
        super().__init__()
        self.table: dict[bytes, bytes] = {}

    def holds(self, request: LockRequest) -> bool:
        """Whether the lock is held."""
        return True

    def apply(self, changes: Sequence[ItemChange]) -> None:
        """Take changes."""
        for change in changes:
            assert change.key not in self.table
            self.table[change.key] = change.value


@pytest.mark.parametrize("name", ["rich-v2-merged", "rich-v1"])
def test_the_kernel_stores_the_same(name: str, opened: Open) -> None:
    """Encoding what was decoded, or making it anew with the same id or position, gives the kernel's items."""
    volume, made = opened(name), Collector()
    stored = dict(volume.forest.items())
    world: Any = World(volume.volume.fmt_vers)
    for ino in inos_of(stored):
        inode = volume.inode(ino)
        assert encode_inode(inode, world.fmt_vers) == stored[fs_key(ino, FsType.INODE)]
        surroundings = Surroundings(made, made, world, world.space, world, world.fmt_vers)  # type: ignore[arg-type]
        with Change(surroundings, now=0) as change:
            for xattr in volume.xattr_names(ino):
                value = volume.getxattr(ino, xattr.name)
                add_xattr(change, inode._replace(next_xattr_id=xattr.id), xattr.name, value)
            for entry in list_directory(volume.forest, ino, 2):
                mode = volume.inode(entry.ino).mode
                add_entry(change, inode._replace(next_readdir_pos=entry.pos), entry.name, entry.ino, mode)
            if inode.is_symlink:
                write_target(change, ino, read_target(volume.forest, inode))
    kinds = (FsType.XATTR, FsType.DIRENT, FsType.READDIR, FsType.LINK_BACKREF, FsType.SYMLINK)
    expected = {key: value for key, value in stored.items() if key[0] == Zone.FS and key_fields(key)[2] in kinds}
    assert made.table == expected
    assert len(expected) > 10_000


def paged(world: World, ino: int, first: int, length: int, offset: int = 0) -> None:
    """Write pages one by one, the last one in part, as the kernel does."""
    for start in range(first * BLOCK, first * BLOCK + length, BLOCK):
        piece = min(BLOCK, first * BLOCK + length - start)
        world.perform(write, ino, start + offset, bytes(piece), ROOT)


def append(world: World, ino: int, count: int, length: int) -> None:
    """Append as many times."""
    for number in range(count):
        world.perform(write, ino, None, b"x" * (length // count + (number < length % count)), ROOT)


FILES: dict[bytes, Callable[[World, int], object]] = {
    b"files/empty": lambda world, ino: None,
    b"files/one": lambda world, ino: paged(world, ino, 0, 1),
    b"files/sz4095": lambda world, ino: paged(world, ino, 0, 4095),
    b"files/sz4096": lambda world, ino: paged(world, ino, 0, 4096),
    b"files/sz4097": lambda world, ino: paged(world, ino, 0, 4097),
    b"files/sz65536": lambda world, ino: paged(world, ino, 0, 65536),
    b"files/sz1048589": lambda world, ino: paged(world, ino, 0, 1048589),
    b"files/maxsize": lambda world, ino: world.perform(write, ino, 2251799813685246 * BLOCK, bytes(BLOCK), ROOT),
    b"files/prealloc": lambda world, ino: world.perform(preallocate, ino, 0, 1 << 20),
    b"files/append": lambda world, ino: append(world, ino, 501, 5390),
    b"files/holes_alternate": lambda world, ino: (
        [paged(world, ino, 2 * i, BLOCK) for i in range(149)] and paged(world, ino, 298, 4096)
    ),
    b"files/prealloc_keep": lambda world, ino: (
        world.perform(preallocate, ino, 0, 1 << 20, keep_size=True),
        paged(world, ino, 0, 5000),
    ),
    b"files/prealloc_part": lambda world, ino: (
        world.perform(preallocate, ino, 0, 1 << 18),
        paged(world, ino, 10, 8192),
        paged(world, ino, 60, 4096),
    ),
}
"""How files of a recorded volume were made, as far as their counters and extents tell."""


@pytest.mark.parametrize("path", FILES)
def test_files_of_the_kernel_made_again(path: bytes, opened: Open) -> None:
    volume, world = opened("rich-v2-merged"), World()
    ino = world.make(b"f", mode=stat.S_IFREG | 0o644)
    FILES[path](world, ino)
    theirs, ours = volume.resolve(path), world.inode(ino)
    for field in ("size", "version", "data_version", "online_blocks", "offline_blocks", "nlink", "flags"):
        assert getattr(ours, field) == getattr(theirs, field), field
    layouts = [[(start, length, flags) for start, length, _, flags in found] for found in
               (volume.extents(theirs.ino), world.extents(ino))]  # fmt: skip
    assert layouts[0] == layouts[1]


@pytest.mark.parametrize("name", [b"inhdir", b"inherited"])
def test_lists_that_the_kernel_has_inherited(name: bytes, opened: Open) -> None:
    volume = opened("rich-v2-merged")
    parent = volume.resolve(b"xattrs/acldir")
    child = volume.resolve(b"xattrs/acldir/" + name)
    default = parse_acl(volume.getxattr(parent.ino, DEFAULT_NAME), "")
    inherited = inherit(child.mode, 0o077, default)
    assert inherited.mode == child.mode
    assert inherited.access is not None
    assert build_acl(inherited.access) == volume.getxattr(child.ino, ACCESS_NAME)
    names = {found.name: found.id for found in volume.xattr_names(child.ino)}
    if child.is_directory:
        assert inherited.default is not None
        assert build_acl(inherited.default) == volume.getxattr(child.ino, DEFAULT_NAME)
        assert names == {DEFAULT_NAME: 0, ACCESS_NAME: 1}
