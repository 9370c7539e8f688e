"""Data of files: extents, and the bytes in them (spec 06 §5.1, §5.4, §5.9)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import IntFlag
from typing import NamedTuple

from format.extent import ExtentFlag
from format.keys import FsType
from scoutfs.files.errors import OfflineError, WrongType
from scoutfs.files.inode import BLOCK_SIZE, Inode
from scoutfs.files.items import Items, damaged, fs_key, fs_range, key_fields
from scoutfs.storage.volume import Volume

BLOCK_MAX = (1 << 52) - 1
"""The last block that a file can have."""

_VALUE = struct.Struct("<QB7x")


class DataExtent(NamedTuple):
    """`length` blocks of 4 KiB of a file from block `start` on; `blkno` is the first on the data device, 0 for none."""

    start: int
    length: int
    blkno: int
    flags: int

    @property
    def end(self) -> int:
        """The block behind it."""
        return self.start + self.length

    @property
    def offline(self) -> bool:
        """Whether its contents are in the archive, whatever blocks it has."""
        return bool(self.flags & ExtentFlag.OFFLINE)

    @property
    def unwritten(self) -> bool:
        """Whether it has blocks in which nothing was written."""
        return bool(self.flags & ExtentFlag.UNWRITTEN)

    @property
    def written(self) -> bool:
        """Whether its blocks hold the contents of the file."""
        return self.flags == 0


_LEGAL = {(True, 0), (True, 2), (True, 3), (False, 1)}
"""Whether an extent has blocks, and the flags that go with it."""


class FiemapFlag(IntFlag):
    """Flags of FS_IOC_FIEMAP that are used."""

    LAST = 0x1
    UNKNOWN = 0x2
    DELALLOC = 0x4
    UNWRITTEN = 0x800


class Mapping(NamedTuple):
    """An extent as FS_IOC_FIEMAP reports it, in bytes; `physical` counts from the start of the data device."""

    logical: int
    physical: int
    length: int
    flags: int


def read_extents(
    items: Items, ino: int, total_data_blocks: int, first: int = 0, last: int = BLOCK_MAX
) -> Iterator[DataExtent]:
    """Yield the extents of a file that have blocks from `first` to `last`, ascending, whole, and as they are stored.

    What is between them is a hole.  Neighbours may be contiguous.  Raises DamagedItem for an impossible extent, and
    what reading items raises.
    """
    end = 0
    for key, value in items.items(fs_key(ino, FsType.DATA_EXTENT, first), fs_range(ino, FsType.DATA_EXTENT)[1]):
        last_block, length = key_fields(key)[3:5]
        start = last_block + 1 - length
        if not length or start < end or last_block > BLOCK_MAX or len(value) != _VALUE.size:
            damaged(items, key, "no extent, or not behind the one before it")
        blkno, flags = _VALUE.unpack(value)
        if (bool(blkno), flags) not in _LEGAL:
            damaged(items, key, f"an extent with block {blkno} and flags {flags:#x}")
        if blkno + length > total_data_blocks and blkno:
            damaged(items, key, f"block {blkno + length - 1} is beyond the end of the data device")
        if start > last:
            return
        end = last_block + 1
        yield DataExtent(start, length, blkno, flags)


def read_data(volume: Volume, items: Items, inode: Inode, offset: int, size: int) -> bytes:
    """Return up to `size` bytes of a regular file from `offset` on, fewer only at its end; holes are zeros.

    Raises OfflineError if any of them is not on the volume, WrongType, DamagedItem, DeviceError, and what reading
    items raises.
    """
    if not inode.is_regular:
        raise WrongType(f"inode {inode.ino} is no regular file")
    stop = min(offset + size, inode.size)
    if offset < 0 or stop <= offset:
        return b""
    first, last = offset // BLOCK_SIZE, (stop - 1) // BLOCK_SIZE
    pieces: list[bytes] = []
    at = first
    for start, count, blkno in _runs(volume, items, inode, first, last):
        pieces.append(bytes((start - at) * BLOCK_SIZE))
        pieces.append(volume.data.read(blkno * BLOCK_SIZE, count * BLOCK_SIZE))
        at = start + count
    pieces.append(bytes((last + 1 - at) * BLOCK_SIZE))
    skipped = offset - first * BLOCK_SIZE
    return b"".join(pieces)[skipped : skipped + stop - offset]


def data_segments(items: Items, inode: Inode, total_data_blocks: int) -> Iterator[tuple[int, int]]:
    """Yield (offset, length) in bytes of what SEEK_DATA finds: written and offline parts, joined, up to the size.

    Raises as `read_extents` does.
    """
    begin = end = 0
    for extent in read_extents(items, inode.ino, total_data_blocks):
        if extent.unwritten and not extent.offline:
            continue
        start, stop = extent.start * BLOCK_SIZE, min(extent.end * BLOCK_SIZE, inode.size)
        if start >= inode.size:
            break
        if start != end:
            if begin < end:
                yield begin, end - begin
            begin = start
        end = stop
    if begin < end:
        yield begin, end - begin


def fiemap(items: Items, ino: int, total_data_blocks: int) -> Iterator[Mapping]:
    """Yield the extents of a file as FS_IOC_FIEMAP reports them, those behind its end too.

    Raises as `read_extents` does.
    """
    waiting: Mapping | None = None
    for extent in read_extents(items, ino, total_data_blocks):
        if waiting:
            yield waiting
        flags = FiemapFlag(0)
        if extent.offline:
            flags = FiemapFlag.DELALLOC | FiemapFlag.UNKNOWN
        elif extent.unwritten:
            flags = FiemapFlag.UNWRITTEN
        logical, physical, length = (
            number * BLOCK_SIZE for number in (extent.start, 0 if extent.offline else extent.blkno, extent.length)
        )
        waiting = Mapping(logical, physical, length, int(flags))
    if waiting:
        yield waiting._replace(flags=waiting.flags | FiemapFlag.LAST)


def _runs(volume: Volume, items: Items, inode: Inode, first: int, last: int) -> Iterator[tuple[int, int, int]]:
    """Yield (block of the file, number of blocks, block of the device) of what is to be read, neighbours joined."""
    run: tuple[int, int, int] | None = None
    for extent in read_extents(items, inode.ino, volume.data.size // BLOCK_SIZE, first, last):
        start, stop = max(extent.start, first), min(extent.end, last + 1)
        if extent.offline:
            raise OfflineError(inode.ino, start * BLOCK_SIZE, (stop - start) * BLOCK_SIZE)
        if extent.unwritten:
            continue
        blkno = extent.blkno + start - extent.start
        if run and run[0] + run[1] == start and run[2] + run[1] == blkno:
            run = run[0], run[1] + stop - start, run[2]
            continue
        if run:
            yield run
        run = start, stop - start, blkno
    if run:
        yield run
