"""Writing the contents of files, and having blocks for them ahead (spec 06 §5.4, §5.9)."""

from __future__ import annotations

from typing import NamedTuple

from format.checksum import Buffer
from format.extent import ExtentFlag
from format.inode import InodeFlag
from format.quota import QuotaOp
from scoutfs.files.allocation import DEFAULT_PREALLOCATION, Preallocation, allocate
from scoutfs.files.attributes import mode_after_writing
from scoutfs.files.caller import Caller
from scoutfs.files.change import Change
from scoutfs.files.data import BLOCK_MAX, DataExtent
from scoutfs.files.entries import changed
from scoutfs.files.errors import (
    FileTooLarge,
    IsADirectory,
    NoSpace,
    NotPermitted,
    Refused,
    TruncatePending,
    WrongType,
)
from scoutfs.files.extents_writing import check_online, extent_at, set_extent
from scoutfs.files.inode import BLOCK_SIZE, Inode
from scoutfs.files.quota_check import Attributes, check_quota
from scoutfs.files.store import CommitNeeded

SIZE_MAX = (1 << 63) - 1
"""Bytes of the largest file."""
RUNS_MAX = 32
"""Extents that one transaction writes at most."""
ALLOCATED_EXTENTS_MAX = 8
ALLOCATED_BLOCKS_MAX = 32768
"""Extents that one transaction allocates ahead at most, and the blocks of each."""


class Written(NamedTuple):
    """Where the bytes went, how many of them have been written, and the inode."""

    offset: int
    length: int
    inode: Inode


def write(
    change: Change,
    ino: int,
    offset: int | None,
    data: Buffer,
    caller: Caller,
    options: Preallocation = DEFAULT_PREALLOCATION,
) -> Written:
    """Write bytes into a regular file, at its end if `offset` is None.

    As much as one transaction may hold is written, at least one byte: write the rest again, at the offset behind it.
    Raises IsADirectory, WrongType, NotPermitted for a retained file, FileTooLarge, QuotaExceeded, NoSpace, CommitNeeded
    and TruncatePending, OfflineError if anything of the file is offline, DeviceError, and as `Change` does.
    """
    (inode,) = change.open(ino, data=True)
    check_changeable(inode)
    offset = inode.size if offset is None else offset
    if not data:
        return Written(offset, 0, inode)
    if not 0 <= offset < SIZE_MAX:
        raise FileTooLarge(f"inode {ino}: byte {offset} is beyond the end of all files")
    data = data[: SIZE_MAX - offset]
    check_quota(change, QuotaOp.DATA, Attributes(inode.proj, inode.uid, inode.gid))
    check_online(change, inode, inode.size)
    change.need_space()
    if offset // BLOCK_SIZE > inode.size // BLOCK_SIZE:
        clear_behind_end(change, inode)
    inode, count = write_blocks(change, inode, offset, data, options)
    inode = inode._replace(size=max(inode.size, offset + count), mode=mode_after_writing(inode, caller))
    return Written(offset, count, change.set(changed_contents(change, inode)))


def preallocate(change: Change, ino: int, offset: int, length: int, *, keep_size: bool = False) -> int:
    """Have blocks for bytes of a file, which are zeros if they are read, as fallocate(2) does.

    Does what one transaction may hold; returns the offset at which to go on, at least `offset` + `length` at the end.
    Raises Refused, NotPermitted for a retained file, and as `write` does.
    """
    (inode,) = change.open(ino)
    check_changeable(inode)
    if offset < 0 or length < 0:
        raise Refused(f"{length} bytes from {offset} on")
    end = offset + length
    if end > SIZE_MAX:
        raise FileTooLarge(f"inode {ino}: byte {end} is beyond the end of all files")
    if not length:
        return end
    check_quota(change, QuotaOp.DATA, Attributes(inode.proj, inode.uid, inode.gid))
    change.need_space()
    block, last = offset // BLOCK_SIZE, (end - 1) // BLOCK_SIZE
    allocated = 0
    while block <= last and allocated < ALLOCATED_EXTENTS_MAX:
        found = extent_at(change, ino, block)
        here = found if found is not None and found.start <= block else None
        if here is not None and here.blkno:
            block = here.end
            continue
        stop = here.end if here is not None else found.start if found is not None else BLOCK_MAX + 1
        try:
            blkno, got = change.allocate(min(stop - block, last + 1 - block, ALLOCATED_BLOCKS_MAX))
        except (NoSpace, CommitNeeded):
            if not allocated:
                raise
            break
        flags = (here.flags if here is not None else 0) | ExtentFlag.UNWRITTEN
        inode = set_extent(change, inode, DataExtent(block, got, blkno, flags))
        block += got
        allocated += 1
    size = min(block * BLOCK_SIZE, end)
    if not keep_size and size > inode.size:
        clear_behind_end(change, inode)
        inode = inode._replace(size=size, data_version=inode.data_version + 1, version=inode.version + 1)
    change.set(inode)
    return max(block * BLOCK_SIZE, offset)


def check_changeable(inode: Inode) -> None:
    """Raise IsADirectory, WrongType, NotPermitted or TruncatePending if the contents of an inode cannot be changed."""
    if inode.is_directory:
        raise IsADirectory(f"inode {inode.ino} is a directory")
    if not inode.is_regular:
        raise WrongType(f"inode {inode.ino} is no regular file")
    if inode.retention:
        raise NotPermitted(f"inode {inode.ino} is retained")
    if inode.flags & InodeFlag.TRUNCATE:
        raise TruncatePending(inode.ino)


def changed_contents(change: Change, inode: Inode) -> Inode:
    """Return an inode whose contents have changed: new data_version, data_seq, version, mtime and ctime."""
    inode = changed(change, inode)
    return inode._replace(mtime=change.now, data_seq=change.transaction.seq, data_version=inode.data_version + 1)


def write_blocks(change: Change, inode: Inode, offset: int, data: Buffer, options: Preallocation) -> tuple[Inode, int]:
    """Write bytes, as far as one transaction may; return the inode with other counts, and how many they were.

    Size, versions and times are left to the caller.  Raises NoSpace, CommitNeeded, DeviceError, and as reading does.
    """
    before, end = inode, offset + len(data)
    block, last = offset // BLOCK_SIZE, (end - 1) // BLOCK_SIZE
    for run in range(RUNS_MAX):
        found = extent_at(change, inode.ino, block)
        here = found if found is not None and found.start <= block else None
        stop = here.end if here is not None else found.start if found is not None else BLOCK_MAX + 1
        count = min(stop, last + 1) - block
        written = here if here is not None and here.written else None
        if here is not None and here.blkno:
            blkno = here.blkno + block - here.start
            if written is None:
                inode = set_extent(change, inode, DataExtent(block, count, blkno, 0))
        else:
            try:
                inode, blkno, count = allocate(change, inode, block, count, found, options)
            except (NoSpace, CommitNeeded):
                if not run:
                    raise
                break
        change.write(blkno, _contents(change, before, written, block, count, offset, data))
        block += count
        if block > last:
            break
    return inode, min(block * BLOCK_SIZE, end) - offset


def clear_behind_end(change: Change, inode: Inode) -> None:
    """Write zeros behind the end of a file that grows: a write of which only its data is left may have been there.

    Raises DeviceError, and as reading does.
    """
    block, kept = divmod(inode.size, BLOCK_SIZE)
    extent = extent_at(change, inode.ino, block) if kept else None
    if extent is not None and extent.start <= block and extent.written:
        blkno = extent.blkno + block - extent.start
        contents = change.space.read(blkno, 1)
        if any(contents[kept:]):
            change.write(blkno, contents[:kept] + bytes(BLOCK_SIZE - kept))


def read_block(change: Change, inode: Inode, extent: DataExtent, block: int) -> bytearray:
    """Return what a written block of a file has, zeros behind the end of the file.  Raises DeviceError."""
    contents = bytearray(change.space.read(extent.blkno + block - extent.start, 1))
    kept = min(max(inode.size - block * BLOCK_SIZE, 0), BLOCK_SIZE)
    contents[kept:] = bytes(BLOCK_SIZE - kept)
    return contents


def _contents(
    change: Change, inode: Inode, written: DataExtent | None, block: int, count: int, offset: int, data: Buffer
) -> bytes:
    """Return all bytes of a run of blocks: those that are written, and around them what is there, or zeros."""
    start, stop = block * BLOCK_SIZE, (block + count) * BLOCK_SIZE
    first, last = max(offset, start), min(offset + len(data), stop)
    middle = memoryview(data)[first - offset : last - offset]
    head, tail = b"", b""
    old = b""
    if first > start:
        old = _old(change, inode, written, block)
        head = old[: first - start]
    if last < stop:
        if count > 1 or not old:
            old = _old(change, inode, written, block + count - 1)
        tail = old[last - stop :]
    return b"".join((head, middle, tail)) if head or tail else bytes(middle)


def _old(change: Change, inode: Inode, written: DataExtent | None, block: int) -> bytes:
    return bytes(BLOCK_SIZE) if written is None else bytes(read_block(change, inode, written, block))
