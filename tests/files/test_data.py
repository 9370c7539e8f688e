"""Contents of files: extents of every kind, and those that cannot be."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from format.keys import FsType
from scoutfs.files.data import BLOCK_MAX, DataExtent, read_extents
from scoutfs.files.errors import DamagedItem, OfflineError, WrongType
from scoutfs.files.items import fs_key
from tests.files.table import DATA_BLOCKS, Table

WRITTEN, OFFLINE, UNWRITTEN = 0, 1, 2
REGULAR = 0o100644


def file(size: int, *extents: tuple[int, int, int, int]) -> Table:
    items = Table()
    items.add_inode(5, REGULAR, size=size)
    for extent in extents:
        items.add_extent(5, *extent)
    return items


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 4), st.sampled_from([WRITTEN, UNWRITTEN]), st.integers(1, 3))),
    st.integers(0, 60_000),
    st.integers(0, 70_000),
    st.integers(0, 70_000),
)
def test_any_range_of_any_extents(pieces, size: int, offset: int, length: int) -> None:
    """Against the bytes of the whole file, block by block."""
    whole = bytearray(70_000)
    extents = []
    block = 0
    for gap, count, flags, blkno in pieces:
        start = block + gap
        extents.append((start, count, blkno * 100, flags))
        block = start + count
        if flags == WRITTEN:
            for at in range(count):
                whole[(start + at) * 4096 : (start + at + 1) * 4096] = bytes([(blkno * 100 + at) % 256]) * 4096
    expected = bytes(whole).ljust(200_000, b"\0")[:size][offset : offset + length]
    assert file(size, *extents).filesystem().read(5, offset, length) == expected


def test_neighbours_on_the_device_are_read_at_once() -> None:
    files = file(20 * 4096, (0, 2, 100, 0), (2, 3, 102, 0), (5, 1, 300, 0), (7, 1, 301, 0)).filesystem()
    reads = []
    read = files.volume.data.read
    files.volume.data.read = lambda offset, length: reads.append((offset, length)) or read(offset, length)
    found = files.read(5, 4096, 8 * 4096)
    assert reads == [(101 * 4096, 4 * 4096), (300 * 4096, 4096), (301 * 4096, 4096)]
    assert found[::4096] == bytes([101, 102, 103, 104, 300 % 256, 0, 301 % 256, 0])


@pytest.mark.parametrize(("blkno", "flags"), [(0, OFFLINE), (50, OFFLINE | UNWRITTEN)])
def test_reading_what_is_offline(blkno: int, flags: int) -> None:
    files = file(10 * 4096, (0, 2, 100, 0), (2, 4, blkno, flags), (6, 4, 102, 0)).filesystem()
    assert len(files.read(5, 0, 8192)) == 8192
    assert len(files.read(5, 6 * 4096, 99999)) == 4 * 4096
    with pytest.raises(OfflineError, match="inode 5: 4096 bytes from 8192 on are offline") as raised:
        files.read(5, 8191, 2)
    assert (raised.value.ino, raised.value.offset, raised.value.length) == (5, 8192, 4096)
    with pytest.raises(OfflineError) as raised:
        files.read(5, 0, 10 * 4096)
    assert (raised.value.offset, raised.value.length) == (8192, 4 * 4096)
    assert list(files.data_segments(5)) == [(0, 10 * 4096)], "offline parts are data"
    assert list(files.fiemap(5)) == [
        (0, 100 * 4096, 8192, 0),
        (8192, 0, 4 * 4096, 0x6),
        (6 * 4096, 102 * 4096, 4 * 4096, 0x1),
    ]


def test_offline_blocks_behind_the_end_hinder_nobody() -> None:
    files = file(5000, (0, 2, 100, 0), (2, 4, 0, OFFLINE)).filesystem()
    assert len(files.read(5, 0, 100_000)) == 5000


def test_segments() -> None:
    extents = (0, 1, 100, 0), (1, 1, 500, 0), (3, 2, 200, UNWRITTEN), (5, 2, 300, 0), (9, 5, 400, 0), (20, 1, 600, 0)
    files = file(10 * 4096 + 1, *extents).filesystem()
    assert list(files.data_segments(5)) == [(0, 8192), (5 * 4096, 8192), (9 * 4096, 4097)]
    pieces = list(files.contents(5))
    assert [(offset, len(piece)) for offset, piece in pieces] == [(0, 8192), (5 * 4096, 8192), (9 * 4096, 4097)]


def test_the_end_of_the_largest_file() -> None:
    last = 2**63 // 4096 - 1
    files = file(2**63 - 1, (last, 1, 77, 0)).filesystem()
    assert files.read(5, 2**63 - 2, 100) == b"\x4d"
    assert files.read(5, 2**63 - 4097, 3) == b"\0\x4d\x4d"
    assert files.read(5, 2**63, 10) == b""


def test_only_regular_files_have_contents() -> None:
    items = Table()
    items.add_inode(5, 0o040755, size=100)
    with pytest.raises(WrongType):
        items.filesystem().read(5, 0, 10)


@pytest.mark.parametrize(
    ("blkno", "flags"), [(0, WRITTEN), (0, UNWRITTEN), (0, 3), (7, OFFLINE), (7, 4), (DATA_BLOCKS - 1, 0)]
)
def test_impossible_extents(blkno: int, flags: int) -> None:
    items = file(8192, (0, 2, blkno, flags))
    with pytest.raises(DamagedItem, match=r"^/dev/meta: item 16\.5\.28\.1\.2\.0: "):
        list(read_extents(items, 5, DATA_BLOCKS))


def test_extents_that_overlap_or_have_no_place() -> None:
    def extents(*keys: tuple[int, int], value: bytes = struct.pack("<QB7x", 9, 0)) -> list[DataExtent]:
        items = Table({fs_key(5, FsType.DATA_EXTENT, last, length): value for last, length in keys})
        return list(read_extents(items, 5, DATA_BLOCKS))

    assert extents((3, 4), (6, 3)) == [(0, 4, 9, 0), (4, 3, 9, 0)]
    for keys in (((3, 4), (6, 4)), ((3, 0),), ((3, 5),), ((BLOCK_MAX + 1, 1),)):
        with pytest.raises(DamagedItem):
            extents(*keys)
    with pytest.raises(DamagedItem):
        extents((3, 4), value=bytes(15))
