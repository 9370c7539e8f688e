"""Entries and inodes read many at once are those that are read one by one, on every recorded volume."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain

import pytest

from format.keys import InodeIndexType
from scoutfs.files.filesystem import Filesystem
from scoutfs.files.indexes import IndexedInode
from scoutfs.files.items import NUMBER_MAX
from tests import kernel_images
from tests.files.manifests import walk

VOLUMES = [name for name in kernel_images.KEPT if name != "mkfs-v2"]


@pytest.mark.parametrize("limit", [7, 100_000])
@pytest.mark.parametrize("name", VOLUMES)
def test_directories_in_batches(opened: Callable[[str], Filesystem], name: str, limit: int) -> None:
    files = opened(name)
    directories = [inode.ino for _, inode in walk(files) if inode.is_directory]
    for ino in directories:
        expected = [(entry.name, entry.ino, entry.type, entry.pos) for entry in files.readdir(ino, 2)]
        if limit == 7 and len(expected) > 1000:
            continue
        found = []
        pos = 0
        while batch := files.list_batch(ino, pos, limit):
            assert len(batch) <= limit
            found += batch
            pos = batch[-1].pos + 1
        assert found == expected


@pytest.mark.parametrize("name", VOLUMES)
def test_inodes_in_batches(opened: Callable[[str], Filesystem], name: str) -> None:
    files = opened(name)
    expected = {inode.ino: inode for _, inode in walk(files)}
    missing = {max(expected) + 1, NUMBER_MAX, 1025} - expected.keys()
    assert files.inodes([*expected, *missing]) == expected
    sparse = list(expected)[::97]
    assert files.inodes(sparse) == {ino: expected[ino] for ino in sparse}
    assert files.inodes([]) == {}


@pytest.mark.parametrize("name", VOLUMES)
def test_the_indexes_in_batches(opened: Callable[[str], Filesystem], name: str) -> None:
    files = opened(name)
    for index in InodeIndexType:
        expected = list(files.walk_inodes(index))
        middle = expected[len(expected) // 2] if expected else IndexedInode(1, 1)
        for first, last in (((0, 0), (NUMBER_MAX, NUMBER_MAX)), ((0, 0), middle), (middle, middle)):
            batches = list(files.walk_inode_batches(index, first, last))
            assert all(batches)
            assert list(chain.from_iterable(batches)) == [entry for entry in expected if first <= entry <= last]
