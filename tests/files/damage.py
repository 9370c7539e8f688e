"""Recorded volumes in memory whose blocks are damaged with valid checksums, and what is then read of them."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from itertools import islice
from types import SimpleNamespace
from typing import Any

from format.block import LARGE_BLOCK_SIZE, FormatError, Magic, seal
from format.btree_columns import decode_block
from format.keys import InodeIndexType, Zone
from scoutfs.errors import ScoutfsError
from scoutfs.files.data import read_data
from scoutfs.files.filesystem import Filesystem
from scoutfs.files.items import key_fields
from scoutfs.files.symlink import read_target
from scoutfs.metadata.btree import FIRST_KEY, Root
from scoutfs.metadata.forest import Forest
from scoutfs.metadata.snapshot import Roots
from scoutfs.storage.volume import Volume
from tests.metadata.building import Blocks

SEARCHED = b"scoutfs.hide.srch.common"
_TAKEN = 60
"""Items that are taken of each range."""


class DamagedVolume:
    """The trees of a recorded volume in memory; `damage` changes one block of them, `repair` undoes it."""

    def __init__(self, volume: Volume) -> None:
        self.blocks = Blocks(volume.meta.size)
        raw = volume.super.raw
        self.roots = Roots(*(Root.of(root) for root in (raw.fs_root, raw.logs_root, raw.srch_root, raw.log_merge)))
        data = SimpleNamespace(path="/dev/data", size=volume.data.size, read=lambda offset, length: bytes(length))
        fake: Any = SimpleNamespace(
            meta=self.blocks, data=data, fsid=volume.fsid, fmt_vers=volume.fmt_vers, metadata_path="/dev/meta"
        )
        fake.read_super = lambda: volume.super
        self.files = Filesystem(fake, get_roots=lambda: self.roots, cache_bytes=64 << 20)
        read = self.blocks.read

        def loading_read(offset: int, length: int) -> bytes:
            blkno = offset // LARGE_BLOCK_SIZE
            if blkno not in self.blocks.contents:
                self.blocks.contents[blkno] = volume.meta.read(offset, length)
            return read(offset, length)

        self.blocks.read = loading_read  # type: ignore[method-assign]
        self.inos = self._load()
        self.used = sorted(self.blocks.contents)

    def _load(self) -> list[int]:
        """Read everything once, so that all blocks in use are in memory; return the inodes."""
        files = self.files
        inos = sorted({key_fields(key)[1] for key, _ in files.forest.items() if key[0] == Zone.FS})
        list(files.search_xattrs(SEARCHED))
        for ino in inos[::50]:
            files.xattr_names(ino)
        return inos

    def damage(self, source: random.Random) -> int:
        """Change a block, its checksum too; return its number."""
        blkno = source.choice(self.used)
        original = self.blocks.contents[blkno]
        data = bytearray(original)
        source.choice(_CHANGES)(source, data, [self.blocks.contents[source.choice(self.used)]])
        self.damaged, self.original = blkno, original
        self._put(blkno, seal(data, LARGE_BLOCK_SIZE))
        return blkno

    def repair(self) -> None:
        """Undo the last damage."""
        self._put(self.damaged, self.original)

    def _put(self, blkno: int, data: bytes) -> None:
        self.blocks.contents[blkno] = data
        self.files.blocks.drop(blkno)
        # what snapshots have read of the log trees is of before
        self.files.forest = Forest(self.files.blocks, lambda: self.roots)
        self.files._committed = self.files.forest


def _some_bytes(source: random.Random, data: bytearray, others: list[bytes]) -> None:
    end = source.choice([48, 112, 48 + 56 * _count(data), LARGE_BLOCK_SIZE])
    for _ in range(source.choice([1, 1, 2, 8])):
        data[source.randrange(32, end)] = source.randrange(256)


def _a_number(source: random.Random, data: bytearray, others: list[bytes]) -> None:
    """Put an extreme number where one may be: in the head, an item, or a value."""
    size = source.choice([1, 2, 4, 8])
    start = source.choice([32, 80, 48 + 56 * source.randrange(_count(data)), 50_000])
    offset = min(start + source.randrange(60), LARGE_BLOCK_SIZE - size)
    number = source.choice([0, 1, 2 ** (8 * size) - 1, 2 ** (8 * size - 1), source.getrandbits(8 * size)])
    data[offset : offset + size] = number.to_bytes(size, "little")


def _a_value(source: random.Random, data: bytearray, others: list[bytes]) -> None:
    """Change what the value of an item holds, or its length."""
    item = 48 + 56 * source.randrange(_count(data))
    offset, length = (int.from_bytes(data[item + at : item + at + 2], "little") for at in (48, 50))
    if length and source.random() < 0.6:
        at = min(offset + source.randrange(min(length, 40)), LARGE_BLOCK_SIZE - 1)
        data[at : at + 1] = source.randbytes(1)
    else:
        data[item + 50 : item + 52] = source.choice([0, 1, 7, 16, length + 1, 896]).to_bytes(2, "little")


def _another_key(source: random.Random, data: bytearray, others: list[bytes]) -> None:
    """Change a field of a key by a little."""
    at = 48 + 56 * source.randrange(_count(data)) + 8 + source.choice([0, 1, 8, 9, 16, 17, 24, 25, 26])
    data[at] = (data[at] + source.choice([-4, -1, 1, 4])) % 256


def _of_another(source: random.Random, data: bytearray, others: list[bytes]) -> None:
    """Put a piece of another block, or all of it but the header, into the block."""
    start = source.choice([32, 48, source.randrange(32, LARGE_BLOCK_SIZE)])
    end = source.choice([LARGE_BLOCK_SIZE, source.randrange(start, LARGE_BLOCK_SIZE + 1)])
    data[start:end] = others[0][start:end]


def _count(data: bytearray) -> int:
    """Return how many items the block has, if it is one with items, and never 0."""
    return max(1, min(int.from_bytes(data[34:36], "little"), 1115))


_CHANGES: list[Callable[[random.Random, bytearray, list[bytes]], None]] = [
    _some_bytes,
    _a_number,
    _a_value,
    _another_key,
    _of_another,
]


def look_around(volume: DamagedVolume, blkno: int, source: random.Random) -> int:
    """Read what leads through block `blkno`, and return how many errors there were; only typed ones may be raised."""
    errors = 0
    for read in _reads(volume, blkno, source):
        try:
            read()
        except ScoutfsError:
            errors += 1
    return errors


def _reads(volume: DamagedVolume, blkno: int, source: random.Random) -> Iterator[Callable[[], object]]:
    files = volume.files
    data = volume.blocks.contents[blkno]
    magic = int.from_bytes(data[4:8], "little")
    if magic != Magic.BTREE:
        yield lambda: list(islice(files.search_xattrs(SEARCHED), _TAKEN))
        yield lambda: files.listxattr(source.choice(volume.inos))
        return
    keys: list[bytes] = []
    for state in (data, volume.original):
        with contextlib.suppress(FormatError):
            keys += [source.choice(block.keys)] if (block := decode_block(state, "block")).keys else []
    key = source.choice(keys or [FIRST_KEY])
    yield lambda: _take(files.forest.items(key))
    if source.random() < 0.3:
        yield lambda: _take(files.forest.items_reversed(last=key))
    zone, first = key_fields(key)[:2]
    ino = first if zone == Zone.FS else source.choice(volume.inos)
    yield from _file_reads(files, ino)
    if source.random() < 0.05:
        yield lambda: _take(files.walk_inodes(source.choice(list(InodeIndexType))))
        yield lambda: _take(files.totals())
        yield lambda: _take(files.xattr_index())
        yield lambda: _take(files.quota_rules())
        yield lambda: _take(files.orphans())
        yield lambda: files.statfs()


def _file_reads(files: Filesystem, ino: int) -> Iterator[Callable[[], object]]:
    yield lambda: files.inode(ino)
    yield lambda: _take(files.paths(ino))
    yield lambda: files.xattrs(ino)
    yield lambda: _take(files.fiemap(ino))
    try:
        inode = files.inode(ino)
    except ScoutfsError:
        return
    if inode.is_directory:
        yield lambda: [files.entry(ino, entry.name) for entry in _take(files.readdir(ino))[:5]]
    elif inode.is_symlink:
        yield lambda: read_target(files.forest, inode)
    else:
        yield lambda: read_data(files.volume, files.forest, inode, max(0, inode.size - 9000), 9000)
        yield lambda: _take(files.data_segments(ino))


def _take(things: Iterator[Any]) -> list[Any]:
    return list(islice(things, _TAKEN))
