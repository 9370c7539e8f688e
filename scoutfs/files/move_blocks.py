"""Moving blocks from one file to another without copying them (spec 06 §6.1)."""

from __future__ import annotations

from typing import NamedTuple

from format.extent import ExtentFlag
from format.inode import InodeFlag
from scoutfs.files.change import Change
from scoutfs.files.data import DataExtent
from scoutfs.files.errors import (
    BadRange,
    IsADirectory,
    NoAttribute,
    NotFound,
    NotPermitted,
    Refused,
    Stale,
    TruncatePending,
    WrongType,
)
from scoutfs.files.extents_writing import extent_at, insert_extent, set_extent
from scoutfs.files.inode import BLOCK_SIZE, Inode
from scoutfs.files.items import NUMBER_MAX
from scoutfs.files.writing import changed_contents, clear_behind_end

EXTENTS_MAX = 16
"""Extents that one transaction moves at most."""


class Move(NamedTuple):
    """`length` bytes from `from_offset` of one file on are to be those from `to_offset` of another one on.

    With `stage` they are contents of version `data_version` that come back from the archive.
    """

    from_ino: int
    from_offset: int
    length: int
    to_ino: int
    to_offset: int
    stage: bool = False
    data_version: int = 0


def move_blocks(change: Change, move: Move) -> int:
    """Move blocks, as far as one transaction may; return the bytes to go on behind, `move.length` at the end.

    The file they come from keeps its size and has a hole then.  Raises Refused for a range that does not fit,
    InvalidExtent where the other one has blocks, BadRange, IsADirectory, WrongType, NotPermitted for retained files,
    Stale, NotFound where contents cannot be staged, NoAttribute if anything is offline (ENODATA), TruncatePending, and
    as `Change` does.
    """
    if not move.length:
        return 0
    if max(move.from_offset, move.to_offset) + move.length > NUMBER_MAX or min(move) < 0:
        raise BadRange(f"{move.length} bytes from {move.from_offset} to {move.to_offset}")
    if move.from_ino == move.to_ino:
        raise Refused(f"inode {move.from_ino} cannot move blocks to itself")
    source, target = change.open(move.from_ino, move.to_ino, data=True)
    _check_range(source, target, move)
    if move.from_offset >= source.size:
        return move.length
    _check_files(source, target, move)
    for inode in (source, target):
        clear_behind_end(change, inode)
    source, target, done = _move(change, source, target, move)
    change.set(changed_contents(change, source))
    if move.stage:
        change.set(target)
    else:
        change.set(changed_contents(change, target))
    return done


def _check_range(source: Inode, target: Inode, move: Move) -> None:
    if source.retention or (target.retention and not move.stage):
        raise NotPermitted("blocks of retained files cannot move")
    end = move.from_offset + move.length
    if (move.from_offset | move.to_offset) % BLOCK_SIZE or (move.length % BLOCK_SIZE and end != source.size):
        raise Refused(f"{move.length} bytes from {move.from_offset} to {move.to_offset} are no whole blocks")
    if move.stage and target.data_version != move.data_version:
        raise Stale(f"inode {target.ino} has contents of version {target.data_version}, not {move.data_version}")


def _check_files(source: Inode, target: Inode, move: Move) -> None:
    for inode in (source, target):
        if inode.is_directory:
            raise IsADirectory(f"inode {inode.ino} is a directory")
        if not inode.is_regular:
            raise WrongType(f"inode {inode.ino} is no regular file")
        if inode.flags & InodeFlag.TRUNCATE:
            raise TruncatePending(inode.ino)
    if source.offline_blocks or (target.offline_blocks and not move.stage):
        raise NoAttribute("contents in the archive cannot move")


def _move(change: Change, source: Inode, target: Inode, move: Move) -> tuple[Inode, Inode, int]:
    """Move extents; return both inodes, and the bytes behind which to go on."""
    first, to_first = move.from_offset // BLOCK_SIZE, move.to_offset // BLOCK_SIZE
    end = -(-min(move.from_offset + move.length, source.size) // BLOCK_SIZE)
    block = first
    for _ in range(EXTENTS_MAX):
        found = extent_at(change, source.ino, block)
        if found is None or found.start >= end:
            return source, target, move.length
        start, stop = max(found.start, block), min(found.end, end)
        at = to_first + start - first
        moved = DataExtent(at, stop - start, found.blkno + start - found.start, found.flags)
        if move.stage:
            _check_staged(change, target.ino, moved)
            target = set_extent(change, target, moved)
        else:
            target = insert_extent(change, target, moved)
        source = set_extent(change, source, DataExtent(start, stop - start, 0, 0))
        size = (at + stop - start) * BLOCK_SIZE - max(0, stop * BLOCK_SIZE - source.size)
        target = target._replace(size=max(target.size, size))
        block = stop
    done = block >= end
    return source, target, move.length if done else (block - first) * BLOCK_SIZE


def _check_staged(change: Change, ino: int, moved: DataExtent) -> None:
    """Have the blocks be in one extent that is offline."""
    there = extent_at(change, ino, moved.start)
    if there is None:
        raise NotFound(f"inode {ino} has no extent at block {moved.start}")
    inside = there.start <= moved.start and moved.end <= there.end
    if not inside or there.flags != ExtentFlag.OFFLINE:
        raise Refused(f"inode {ino}: blocks from {moved.start} on are not in one extent that is offline")
