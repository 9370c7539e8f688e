"""Paths, inodes and orphans; damage and change under a reader."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from format.block import BlockError
from format.dirent import DirentType
from format.inode import Inode as InodeStruct
from format.inode import InodeV1
from format.keys import FsType
from format.symlink import split_target
from format.timespec import seconds_from_disk
from scoutfs.files.errors import DamagedItem, NoAttribute, NotADirectory, NotFound, TooManyLinks, WrongType
from scoutfs.files.filesystem import Filesystem
from scoutfs.files.inode import decode_inode
from scoutfs.files.items import NUMBER_MAX, fs_key
from scoutfs.storage.volume import Volume
from tests import images, kernel_images
from tests.files.manifests import walk
from tests.files.table import Table
from tests.memory import PAGE, Image

Opened = Callable[[str], Filesystem]
DIRECTORY, LINK = 0o040755, 0o120777


@pytest.fixture
def tree() -> Filesystem:
    """/dir/file, /dir/sub, and links: /abs -> /dir, /rel -> dir/sub, /dir/sub/up -> ../file, /loop -> loop."""
    items = Table()
    for ino, mode in ((1, DIRECTORY), (10, DIRECTORY), (11, 0o100644), (12, DIRECTORY)):
        items.add_inode(ino, mode)
    entries = [(1, b"dir", 10), (10, b"file", 11), (10, b"sub", 12)]
    targets = [(1, b"abs", b"/dir"), (1, b"rel", b"dir/sub"), (12, b"up", b"../file"), (1, b"loop", b"loop")]
    for ino, (parent, name, target) in enumerate(targets, 20):
        items.add_inode(ino, LINK, size=len(target) + 1)
        for number, part in enumerate(split_target(target)):
            items[fs_key(ino, FsType.SYMLINK, number)] = part
        entries.append((parent, name, ino))
    for pos, (parent, name, ino) in enumerate(entries, 2):
        items.add_entry(parent, name, ino, pos, DirentType.DIR if ino in (10, 12) else DirentType.REG)
    return items.filesystem()


@pytest.mark.parametrize(
    ("path", "ino"),
    [
        (b"", 1),
        (b"/", 1),
        (b"//./.", 1),
        (b"..", 1),
        (b"dir/file", 11),
        (b"/dir//sub/../file", 11),
        (b"abs/file", 11),
        (b"rel/up", 11),
        (b"rel/..", 10),
        (b"rel/", 12),
        (b"dir/sub/./up", 11),
    ],
)
def test_paths_that_lead_somewhere(tree: Filesystem, path: bytes, ino: int) -> None:
    assert tree.resolve(path).ino == ino


def test_links_at_the_end_are_followed_when_wanted(tree: Filesystem) -> None:
    assert tree.resolve(b"rel", follow=False).ino == 21
    assert tree.resolve(b"abs/sub/up", follow=False).ino == 22
    assert tree.resolve(b"rel").ino == 12


@pytest.mark.parametrize(
    ("path", "error", "number"),
    [
        (b"dir/none", NotFound, errno.ENOENT),
        (b"dir/file/x", NotADirectory, errno.ENOTDIR),
        (b"dir/file/", NotADirectory, errno.ENOTDIR),
        (b"dir/file/..", NotADirectory, errno.ENOTDIR),
        (b"loop", TooManyLinks, errno.ELOOP),
        (b"loop/x", TooManyLinks, errno.ELOOP),
        (b"x" * 256, OSError, errno.ENAMETOOLONG),
    ],
)
def test_paths_that_lead_nowhere(tree: Filesystem, path: bytes, error: type, number: int) -> None:
    with pytest.raises(Exception) as raised:
        tree.resolve(path)
    assert getattr(raised.value, "errno", None) == number
    assert error is OSError or isinstance(raised.value, error)


def test_what_is_not_there(tree: Filesystem) -> None:
    for ino in (0, 2, -1, NUMBER_MAX, NUMBER_MAX + 1):
        with pytest.raises(NotFound):
            tree.inode(ino)
    with pytest.raises(NotFound):
        tree.readdir(99)
    with pytest.raises(NotADirectory):
        tree.readdir(11)
    with pytest.raises(WrongType):
        tree.readlink(11)
    with pytest.raises(NoAttribute):
        tree.getxattr(11, b"user.none")
    assert tree.acl(11) is None
    assert tree.listxattr(11) == []
    assert list(tree.orphans()) == []


@given(st.binary(min_size=168, max_size=168), st.sampled_from([160, 168]))
def test_inodes_are_what_the_declaration_says(value: bytes, size: int) -> None:
    declaration = InodeStruct if size == 168 else InodeV1
    expected = declaration.parse(value[:size])
    found = decode_inode(7, value[:size], 2)
    for field in (field.name for field in declaration.subcons):
        stored = expected[field]
        if field.endswith("time"):
            stored = seconds_from_disk(stored.sec) * 10**9 + stored.nsec
        assert getattr(found, field) == stored, field
    assert found.ino == 7
    assert size == 168 or found.proj == 0


def test_lengths_of_inodes() -> None:
    """Spec 06 §2.1: version 2 reads both lengths, version 1 only its own."""
    assert decode_inode(1, bytes(160), 1).proj == decode_inode(1, bytes(160), 2).proj == 0
    for size, fmt_vers in ((168, 1), (159, 1), (0, 1), (167, 2), (169, 2), (0, 2)):
        with pytest.raises(BlockError, match="length"):
            decode_inode(1, bytes(size), fmt_vers)
    items = Table({fs_key(5, FsType.INODE): bytes(3)})
    with pytest.raises(DamagedItem, match=r"^/dev/meta: item 16\.5\.4\.0\.0\.0: inode: length is 3"):
        items.filesystem().inode(5)


def test_device_numbers() -> None:
    node = decode_inode(1, bytes(160), 1)._replace(rdev=(4095 << 20) | 1048575)
    assert (os.major(node.device_number), os.minor(node.device_number)) == (4095, 1048575)


def test_orphans_are_found_and_can_be_read(opened: Opened) -> None:
    """20 files were unlinked while they were open, and one never had a name (README of the images)."""
    files = opened("crash1-B_openunlinked")
    found = list(files.orphans())
    assert len(found) == 21
    assert all(files.inode(ino).nlink == 0 for ino in found)
    assert all(list(files.paths(ino)) == [] for ino in found)
    assert list(files.orphans(found[5])) == found[5:]
    assert any(files.read(ino, 0, 10) for ino in found)


def test_a_new_volume_on_two_devices(tmp_path: Path) -> None:
    meta, data = images.unpack_volume("v2-3slot", tmp_path)
    with Filesystem.open(data, meta) as files:
        assert [entry.name for entry in files.readdir(1)] == [b".", b".."]
        assert files.inode(1).nlink == 2
        assert files.statfs().inode_count == 1


def test_blocks_replaced_under_a_reader_and_damage_that_stays(tmp_path: Path) -> None:
    meta, data = kernel_images.unpack_volume("rich-v1", tmp_path)
    with Filesystem.open(data, meta, cache_bytes=1) as files:
        names = [entry.name for entry in files.readdir(1)]
        snapshot = files.forest.snapshot
        old = snapshot.roots
        # roots of the past: nothing they lead to is there any more
        snapshot.roots = old._replace(fs_root=old.fs_root._replace(ref=old.fs_root.ref._replace(seq=1)))
        snapshot.blocks.forget()
        assert [entry.name for entry in files.readdir(1)] == names
        assert files.forest.snapshot.roots == old
        big = files.resolve(b"dirs/big").ino
        walk = files.readdir(big)
        list(islice(walk, 100))
        log = files.forest.snapshot.log_trees[0].item_root.ref.blkno
        with open(meta, "r+b") as device:
            device.seek(log * 65536 + 100)
            device.write(b"damage")
        with pytest.raises(Exception, match=f"block {log}: crc") as raised:
            list(walk)
        assert raised.value.errno == errno.EIO  # type: ignore[attr-defined]


def test_a_volume_given_by_its_open_devices(tmp_path: Path) -> None:
    meta, data = kernel_images.unpack_volume("fresh-v2", tmp_path)
    with Volume.open(data, meta, writable=False) as volume:
        files = Filesystem(volume)
        assert files.resolve(b"/").ino == 1


def test_a_volume_on_one_device(opened: Opened, tmp_path: Path) -> None:
    """The metadata, and the data behind them, as `mkfs` lays out a single device; contents lie at the other offset."""
    meta, data = kernel_images.unpack_volume("multi3-final", tmp_path)
    both = tmp_path / "both"
    size = meta.stat().st_size
    with both.open("wb") as target:
        target.truncate(size + data.stat().st_size)
        for source, start in ((Image.of_file(meta), 0), (Image.of_file(data), size)):
            for page, content in source.pages.items():
                target.seek(start + page * PAGE)
                target.write(content)
    expected = opened("multi3-final")
    with Filesystem.open(both) as files:
        assert files.volume.single_device
        found = dict(walk(files))
        assert found == dict(walk(expected))
        contents = {
            path: [files.read(inode.ino, 0, inode.size), expected.read(inode.ino, 0, inode.size)]
            for path, inode in found.items()
            if inode.is_regular
        }
    assert all(one == other for one, other in contents.values())
    assert any(one.strip(b"\0") for one, _ in contents.values())
