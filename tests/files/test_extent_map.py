"""Maps of the data of files, against the same blocks one by one."""

from __future__ import annotations

import itertools
import random
import struct
from collections.abc import Iterator

import pytest

from format.keys import FsType
from scoutfs.files import extent_map
from scoutfs.files.errors import OfflineError
from scoutfs.files.extent_map import Piece, read_map, read_pieces
from scoutfs.files.items import fs_key

INO, TOTAL = 5, 1 << 40
BLOCK = 4096


class Items:
    """Extents as a sorted list of items."""

    def __init__(self, extents: list[tuple[int, int, int, int]]) -> None:
        self.all = [
            (fs_key(INO, FsType.DATA_EXTENT, start + length - 1, length), struct.pack("<QB7x", blkno, flags))
            for start, length, blkno, flags in extents
        ]

    def items(self, first: bytes, last: bytes) -> Iterator[tuple[bytes, bytes]]:
        return (item for item in self.all if first <= item[0] <= last)


def random_extents(draw: random.Random) -> list[tuple[int, int, int, int]]:
    """Return extents: written, contiguous with the one before or not, and unwritten, with holes between some."""
    extents, at, blkno = [], 0, 100
    for _ in range(draw.randrange(40)):
        at += draw.choice((0, 0, 0, 1, 7))
        length = draw.randint(1, 5)
        blkno += draw.choice((0, 0, 50))
        extents.append((at, length, blkno, draw.choice((0, 0, 0, 2))))
        at, blkno = at + length, blkno + length
    return extents


def blocks_of(extents: list[tuple[int, int, int, int]]) -> dict[int, int]:
    return {start + i: blkno + i for start, length, blkno, flags in extents if not flags for i in range(length)}


@pytest.mark.parametrize("seed", range(30))
def test_pieces_are_those_of_single_blocks(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = random.Random(seed)
    extents = random_extents(draw)
    blocks, items = blocks_of(extents), Items(extents)
    monkeypatch.setattr(extent_map, "EXTENTS_MAX", draw.randint(1, 10))
    for _ in range(50):
        first = draw.randrange(200)
        last = first + draw.randrange(60)
        known = read_map(items, INO, TOTAL, draw.randint(0, first), last)
        assert known.covers(first, last)
        pieces = known.pieces(first, last)
        found = [blkno + i if blkno else 0 for blkno, length in pieces for i in range(length)]
        assert found == [blocks.get(block, 0) for block in range(first, last + 1)]
        joined = [
            (a.blkno + a.length == b.blkno) if a.blkno and b.blkno else a.blkno == b.blkno
            for a, b in itertools.pairwise(pieces)
        ]
        assert not any(joined), "neighbours are one piece"


def test_a_map_of_many_extents_is_read_in_parts() -> None:
    items = Items([(2 * i, 1, 1000 + 5 * i, 0) for i in range(3 * extent_map.EXTENTS_MAX)])
    known = read_map(items, INO, TOTAL, 100, 200)
    assert known.covers(100, 100 + 2 * extent_map.EXTENTS_MAX - 2)
    assert not known.covers(99, 100)
    assert not known.covers(100, 100 + 2 * extent_map.EXTENTS_MAX - 1)
    rest = read_map(items, INO, TOTAL, 5 * extent_map.EXTENTS_MAX, 5 * extent_map.EXTENTS_MAX)
    assert rest.covers(1 << 45, (1 << 52) - 1)


def test_offline_parts_are_an_error_with_what_was_asked_for_of_them() -> None:
    items = Items([(0, 4, 100, 0), (4, 4, 0, 1), (8, 4, 200, 3), (12, 4, 300, 0)])
    known = read_map(items, INO, TOTAL, 0, 20)
    assert known.pieces(0, 3) == [Piece(100, 4)]
    assert known.pieces(12, 17) == [Piece(300, 4), Piece(0, 2)]
    for first, last, offset, length in ((0, 5, 4, 2), (6, 6, 6, 1), (7, 20, 7, 1), (9, 20, 9, 3)):
        with pytest.raises(OfflineError) as caught:
            known.pieces(first, last)
        assert (caught.value.offset, caught.value.length) == (offset * BLOCK, length * BLOCK)


class Device:
    def read(self, offset: int, length: int) -> bytes:
        return b"".join(struct.pack("<Q", offset + i) for i in range(0, length, 8))

    def read_into(self, offset: int, buffer: memoryview) -> None:
        buffer[:] = self.read(offset, len(buffer))


def contents(*pieces: Piece) -> bytes:
    buffer = memoryview(bytearray(b"x" * BLOCK * sum(piece.length for piece in pieces)))
    read_pieces(Device(), pieces, buffer)  # type: ignore[arg-type]
    return bytes(buffer)


def test_contents_of_pieces() -> None:
    expected = Device().read(3 * BLOCK, 2 * BLOCK)
    assert contents(Piece(3, 2)) == expected
    assert contents(Piece(0, 1), Piece(3, 2), Piece(0, 3)) == bytes(BLOCK) + expected + bytes(3 * BLOCK)
