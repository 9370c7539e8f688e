"""The root inode, read from volumes that the original made."""

from __future__ import annotations

import errno

import pytest

from format.block import LARGE_BLOCK_SIZE, seal
from mount.preparation import read_root
from scoutfs.errors import ScoutfsError
from scoutfs.storage.volume import Volume
from tests.images import unpack_volume


@pytest.mark.parametrize("name", ["v2-1slot", "v1-1slot"])
def test_recorded_root(name, tmp_path):
    meta, data = unpack_volume(name, tmp_path)
    with Volume.open(data, meta, writable=False) as volume:
        root = read_root(volume).inode
    # what mkfs writes: spec 01 §6.4; the time is the recorded one, equal in all four stamps
    assert (root.mode, root.nlink, root.uid, root.gid, root.size) == (0o40755, 2, 0, 0, 0)
    assert root.atime == root.mtime == root.ctime > 0


def damaged(tmp_path, change):
    """Return an open volume whose root leaf was changed by `change(bytearray)`, with a valid checksum."""
    meta, data = unpack_volume("v2-1slot", tmp_path)
    with Volume.open(data, meta, writable=False) as volume:
        blkno = volume.super.raw.fs_root.ref.blkno
    with meta.open("r+b") as file:
        file.seek(blkno * LARGE_BLOCK_SIZE)
        block = bytearray(file.read(LARGE_BLOCK_SIZE))
        change(block)
        file.seek(blkno * LARGE_BLOCK_SIZE)
        file.write(seal(bytes(block), LARGE_BLOCK_SIZE))
    return Volume.open(data, meta, writable=False)


def test_a_leaf_of_another_volume(tmp_path):
    def other_fsid(block):
        block[8] ^= 1

    with damaged(tmp_path, other_fsid) as volume, pytest.raises(ScoutfsError, match="fsid"):
        read_root(volume)


def test_no_root_inode(tmp_path):
    def no_items(block):
        block[34:36] = b"\0\0"

    with damaged(tmp_path, no_items) as volume, pytest.raises(ScoutfsError, match="root inode") as caught:
        read_root(volume)
    assert caught.value.errno == errno.EIO


def test_a_root_that_is_no_directory(tmp_path):
    def regular_file(block):
        mode = (0o40755).to_bytes(4, "little")
        offset = block.find(mode)
        assert offset > 0
        block[offset : offset + 4] = (0o100755).to_bytes(4, "little")

    with damaged(tmp_path, regular_file) as volume, pytest.raises(ScoutfsError, match="expected a directory"):
        read_root(volume)
