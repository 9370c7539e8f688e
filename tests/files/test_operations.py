"""Every row of spec 06 §3.4: items, counters and times of what changes directories."""

from __future__ import annotations

import errno
import os
import stat

import pytest

from format.keys import FsType, Key, Zone
from scoutfs.errors import ScoutfsError
from scoutfs.files.caller import ROOT
from scoutfs.files.create import create, create_unlinked, symlink
from scoutfs.files.linking import link, rmdir, unlink
from scoutfs.files.symlink import read_target
from tests.files.world import ROOT_INO, World

DIR, REG = stat.S_IFDIR, stat.S_IFREG
TYPES = {
    stat.S_IFIFO: 0,
    stat.S_IFCHR: 1,
    stat.S_IFDIR: 2,
    stat.S_IFBLK: 3,
    stat.S_IFREG: 4,
    stat.S_IFSOCK: 6,
}


def keys(world: World) -> set[tuple[int, ...]]:
    """Return all keys as tuples of zone, first, type, second, third."""
    found = (Key.from_sort_bytes(key) for key in world.store.keys)
    return {(key.zone, key.first, key.type, key.second, key.third) for key in found}


@pytest.mark.parametrize("type", TYPES)
def test_create(type: int) -> None:
    world = World()
    world.tick()
    before = keys(world)
    device = os.makedev(0x123, 0x45678)
    made = world.perform(create, ROOT_INO, b"name", 1500, type | 0o1640, ROOT, device=device)
    inode, root = world.inode(1500), world.inode(ROOT_INO)
    assert made == inode
    is_dir = type == DIR
    assert inode._asdict() == {
        **dict.fromkeys(("size", "data_version", "online_blocks", "offline_blocks", "next_xattr_id", "flags"), 0),
        **dict.fromkeys(("uid", "gid", "proj"), 0),
        **dict.fromkeys(("atime", "ctime", "mtime", "crtime"), world.now),
        "ino": 1500,
        "meta_seq": 5,
        "data_seq": 5,
        "next_readdir_pos": 2,
        "version": 1,
        "nlink": 2 if is_dir else 1,
        "mode": type | 0o1640,
        "rdev": 0x123 << 20 | 0x45678 if type in (stat.S_IFCHR, stat.S_IFBLK) else 0,
    }
    assert (root.size, root.nlink, root.next_readdir_pos, root.version) == (4, 2 + is_dir, 3, 1)
    assert (root.mtime, root.ctime, root.meta_seq) == (world.now, world.now, 5)
    assert root.atime == root.crtime == world.now - 1_000_000_007
    hash = 0x6E616D65_00000000 + 0x8D39BDE6
    expected = {
        (16, 1500, 4, 0, 0),
        (16, ROOT_INO, 12, hash, 2),
        (16, ROOT_INO, 16, 2, 0),
        (16, 1500, 20, ROOT_INO, 2),
        (4, 0, 4, 5, 1500),
        (4, 0, 4, 5, ROOT_INO),
        *([(4, 0, 8, 5, 1500)] if type == REG else []),
    }
    assert keys(world) - before == expected
    assert before - keys(world) == {(4, 0, 4, 0, ROOT_INO)}
    value = world.store.table[Key(Zone.FS, 1500, FsType.LINK_BACKREF, ROOT_INO, 2).sort_bytes]
    assert value[24] == TYPES[type]
    world.check()


def test_symlink() -> None:
    world = World()
    world.tick()
    world.perform(symlink, ROOT_INO, b"s", 1500, b"t" * 900, ROOT)
    inode = world.inode(1500)
    assert (inode.size, inode.mode, inode.nlink) == (901, 0o120777, 1)
    assert {inode.atime, inode.mtime, inode.ctime, inode.crtime} == {world.now}
    parts = [len(world.store.table[Key(Zone.FS, 1500, FsType.SYMLINK, part).sort_bytes]) for part in range(2)]
    assert parts == [896, 5]
    assert read_target(world.reader(), inode) == b"t" * 900
    world.check()


def test_link_and_unlink() -> None:
    world = World()
    ino = world.make(b"f")
    old = world.inode(ino)
    world.commit()
    world.tick()
    world.perform(link, ino, ROOT_INO, b"other")
    inode, root = world.inode(ino), world.inode(ROOT_INO)
    assert (inode.nlink, inode.ctime, inode.mtime, inode.version) == (2, world.now, old.mtime, old.version + 1)
    assert (inode.meta_seq, inode.data_seq) == (6, 5)
    assert (root.size, root.mtime, root.ctime, root.version) == (6, world.now, world.now, 2)
    world.check()
    world.tick()
    world.perform(unlink, ROOT_INO, b"f", ino)
    inode, root = world.inode(ino), world.inode(ROOT_INO)
    assert (inode.nlink, inode.ctime, inode.version) == (1, world.now, old.version + 2)
    assert (root.size, root.mtime, root.ctime, root.version, root.next_readdir_pos) == (5, world.now, world.now, 3, 4)
    assert (8, 0, 4, ino, 0) not in keys(world)
    world.check()
    world.perform(unlink, ROOT_INO, b"other")
    assert world.inode(ino).nlink == world.inode(ROOT_INO).size == 0
    assert (8, 0, 4, ino, 0) in keys(world)
    world.check()


def test_rmdir() -> None:
    world = World()
    ino = world.make(b"dir", DIR | 0o755)
    world.tick()
    world.perform(rmdir, ROOT_INO, b"dir")
    inode, root = world.inode(ino), world.inode(ROOT_INO)
    assert (inode.nlink, inode.ctime, inode.version) == (0, world.now, 2)
    assert (root.nlink, root.size, root.mtime, root.ctime, root.version) == (2, 0, world.now, world.now, 2)
    assert (8, 0, 4, ino, 0) in keys(world)
    world.check()


def test_a_file_without_name() -> None:
    world = World()
    old = world.inode(ROOT_INO)
    world.tick()
    world.perform(create_unlinked, ROOT_INO, 1500, 0o640, ROOT)
    inode, root = world.inode(1500), world.inode(ROOT_INO)
    assert (inode.nlink, inode.mode) == (0, REG | 0o640)
    assert {inode.atime, inode.mtime, inode.ctime, inode.crtime} == {world.now}
    assert root == old._replace(meta_seq=5)
    assert {(8, 0, 4, 1500, 0), (4, 0, 4, 5, ROOT_INO)} < keys(world)
    world.check()
    with pytest.raises(ScoutfsError) as refused:
        world.perform(link, 1500, ROOT_INO, b"name")
    assert refused.value.errno == errno.ENOENT
    world.perform(link, 1500, ROOT_INO, b"name", revive=True)
    assert (8, 0, 4, 1500, 0) not in keys(world)
    assert world.inode(1500).nlink == 1
    world.check()
