"""How sets of extents change: what is taken out and put in so that neighbours that belong together are one extent.

The same rules serve free extents, which have neither blocks nor flags, and those of a file's data (spec 04 §6.2, §6.8).
A plan is made from what is found; carrying it out is undone if it fails half way.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import NamedTuple

from scoutfs.errors import ScoutfsError


class MappedExtent(NamedTuple):
    """`length` blocks from `start` on; `blkno` is the first of the blocks on the device that they map to, 0 for none.

    `flags` are those of `format.extent.ExtentFlag`.
    """

    start: int
    length: int
    blkno: int = 0
    flags: int = 0

    @property
    def end(self) -> int:
        """The block behind it."""
        return self.start + self.length

    @property
    def is_hole(self) -> bool:
        """Whether it says nothing: neither mapped nor flagged."""
        return not (self.blkno or self.flags)

    def part(self, start: int, end: int) -> MappedExtent:
        """Return the blocks from `start` up to `end`, not included."""
        return MappedExtent(start, end - start, self.blkno and self.blkno + start - self.start, self.flags)


class InvalidExtent(ScoutfsError):
    """Extents overlap that must not, or do not contain what they must (EINVAL)."""

    def __init__(self, text: str) -> None:
        super().__init__(text, errno.EINVAL)


class NoExtent(ScoutfsError):
    """There is no extent (ENOENT)."""

    def __init__(self, text: str) -> None:
        super().__init__(text, errno.ENOENT)


class Changes(NamedTuple):
    """Extents that are to be taken out of a set, and then those that are to be put in."""

    removed: list[MappedExtent]
    inserted: list[MappedExtent]


Find = Callable[[int], MappedExtent | None]
"""Returns the extent that contains a block, or the first one behind it; None if there is none."""

_Change = Callable[[MappedExtent], None]


def insertion(find: Find, extent: MappedExtent) -> Changes:
    """Plan to insert an extent; raises InvalidExtent if it overlaps another."""
    found = find(extent.start)
    if found is not None and found.start < extent.end:
        raise InvalidExtent(f"extent {_words(extent)} overlaps {_words(found)}")
    return _joined(find, extent, left=True, right=True)


def removal(find: Find, start: int, length: int) -> Changes:
    """Plan to remove blocks; raises NoExtent, or InvalidExtent if they are not all in one extent."""
    found = find(start)
    wanted = MappedExtent(start, length)
    if found is None:
        raise NoExtent(f"no extent contains {_words(wanted)}")
    if not _contains(found, wanted):
        raise InvalidExtent(f"extent {_words(found)} does not contain {_words(wanted)}")
    return Changes([found], _remainders(found, wanted))


def setting(find: Find, extent: MappedExtent) -> Changes:
    """Plan to give blocks a mapping and flags; without either they become a hole.

    The blocks must be all in one extent or in none; raises InvalidExtent otherwise.
    """
    found = find(extent.start)
    if found is None or found.start >= extent.end:
        return Changes([], []) if extent.is_hole else _joined(find, extent, left=True, right=True)
    if not _contains(found, extent):
        raise InvalidExtent(f"extent {_words(found)} does not contain {_words(extent)}")
    kept = _remainders(found, extent)
    if extent.is_hole:
        return Changes([found], kept)
    changes = _joined(find, extent, left=found.start == extent.start, right=found.end == extent.end)
    return Changes([found, *changes.removed], kept + changes.inserted)


def carry_out(changes: Changes, remove: _Change, insert: _Change) -> None:
    """Take out and put in what `changes` says; what was done is undone if one of them fails, whose error is raised."""
    done: list[tuple[_Change, MappedExtent]] = []
    try:
        for extent in changes.removed:
            remove(extent)
            done.append((insert, extent))
        for extent in changes.inserted:
            insert(extent)
            done.append((remove, extent))
    except ScoutfsError:
        for undo, extent in reversed(done):
            undo(extent)
        raise


def _joined(find: Find, extent: MappedExtent, *, left: bool, right: bool) -> Changes:
    """Plan to put in an extent together with its neighbours on those sides, where they belong together."""
    removed = []
    if left and extent.start > 0:
        found = find(extent.start - 1)
        if found is not None and _belong_together(found, extent):
            removed.append(found)
            extent = MappedExtent(found.start, found.length + extent.length, found.blkno, found.flags)
    if right:
        found = find(extent.end)
        if found is not None and _belong_together(extent, found):
            removed.append(found)
            extent = extent._replace(length=extent.length + found.length)
    return Changes(removed, [extent])


def _belong_together(left: MappedExtent, right: MappedExtent) -> bool:
    if left.end != right.start or left.flags != right.flags:
        return False
    if not left.blkno or not right.blkno:
        return left.blkno == right.blkno
    return left.blkno + left.length == right.blkno


def _contains(extent: MappedExtent, part: MappedExtent) -> bool:
    return extent.start <= part.start and part.end <= extent.end


def _remainders(extent: MappedExtent, part: MappedExtent) -> list[MappedExtent]:
    """Return what is left of an extent in front of and behind a part of it."""
    sides = (extent.part(extent.start, part.start), extent.part(part.end, extent.end))
    return [side for side in sides if side.length]


def _words(extent: MappedExtent) -> str:
    return f"{extent.start}+{extent.length}"
