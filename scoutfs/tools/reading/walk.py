"""Walks a tree of directories: parents before children, in memory that depends on its depth only."""

from __future__ import annotations

import heapq
import pickle
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from operator import attrgetter, itemgetter
from typing import BinaryIO, NamedTuple, TypeVar

from format.dirent import LAST_POS
from scoutfs.errors import ScoutfsError
from scoutfs.files.directory import Listed
from scoutfs.files.errors import NotFound
from scoutfs.files.filesystem import Filesystem
from scoutfs.files.inode import Inode

Report = Callable[[bytes, ScoutfsError], None]
"""Is told which path could not be read, and why."""

SORTED_IN_MEMORY = 20_000
"""Records that are sorted without a temporary file."""

_CHUNK = 512
_CHUNK_DEEP = 32
_DEEP = 16
"""Directories above one another from which on fewer entries of each are kept."""
_KEY = itemgetter(0)
_POS = attrgetter("pos")
_T = TypeVar("_T")


class Visited(NamedTuple):
    """A file on the way; `name` is its last component, `depth` 0 where the walk started.

    A directory comes once more, with `leaving`, behind all that is in it, if that was asked for.
    """

    path: bytes
    name: bytes
    inode: Inode
    depth: int
    leaving: bool = False


@dataclass(slots=True)
class _Frame:
    """A directory that is being walked; `pos` is where the next entries are, `waiting` those that were read."""

    visited: Visited
    pos: int = 0
    waiting: list[tuple[Listed, Inode]] = field(default_factory=list)


def join(directory: bytes, name: bytes) -> bytes:
    """Return the path of what is called `name` in a directory."""
    return directory + name if directory.endswith(b"/") else directory + b"/" + name


def walk(
    files: Filesystem,
    start: Inode,
    path: bytes,
    report: Report,
    *,
    descend: Callable[[Visited], bool] = lambda visited: True,
    leaving: bool = False,
) -> Iterator[Visited]:
    """Yield `start`, which is at `path`, and everything below it.

    Directories for which `descend` returns False are not entered.  What cannot be read is told to `report` and left
    out.
    """
    first = Visited(path, path.rstrip(b"/").rpartition(b"/")[2], start, 0)
    yield first
    stack: list[_Frame] = []
    above: set[int] = set()

    def enter(visited: Visited) -> None:
        if visited.inode.is_directory and descend(visited):
            if visited.inode.ino in above:
                report(visited.path, NotFound(f"directory {visited.inode.ino} is inside itself"))
                return
            above.add(visited.inode.ino)
            stack.append(_Frame(visited))
        elif leaving and visited.inode.is_directory:
            stack.append(_Frame(visited, -1))

    enter(first)
    while stack:
        frame = stack[-1]
        depth = len(stack)
        if not frame.waiting and frame.pos >= 0:
            frame.waiting, frame.pos = _more(files, frame, _CHUNK if depth < _DEEP else _CHUNK_DEEP, report)
            frame.waiting.reverse()
        if not frame.waiting:
            if frame.pos >= 0:
                continue
            stack.pop()
            above.discard(frame.visited.inode.ino)
            if leaving:
                yield frame.visited._replace(leaving=True)
            continue
        base = frame.visited.path
        prefix = base if base.endswith(b"/") else base + b"/"
        while frame.waiting:
            listed, inode = frame.waiting.pop()
            visited = Visited(prefix + listed.name, listed.name, inode, depth)
            yield visited
            if inode.is_directory:
                enter(visited)
                break


def entries(files: Filesystem, ino: int, path: bytes, report: Report) -> Iterator[Listed]:
    """Yield the entries of a directory in its own order; what cannot be read is told to `report`."""
    pos = 0
    while pos >= 0:
        batch, pos = _next_entries(files, ino, path, pos, _CHUNK, report)
        yield from batch


def with_inodes(
    files: Filesystem, directory: int, path: bytes, batch: Iterable[Listed], report: Report
) -> list[tuple[Listed, Inode]]:
    """Return entries of a directory, which is at `path`, with their inodes; those without are told to `report`."""
    batch = list(batch)
    found = files.inodes(listed.ino for listed in batch)
    pairs = []
    for listed in batch:
        inode = found.get(listed.ino)
        if isinstance(inode, Inode):
            pairs.append((listed, inode))
        elif inode is not None:
            report(join(path, listed.name), inode)
        elif (late := _looked_up_again(files, directory, join(path, listed.name), listed, report)) is not None:
            pairs.append((listed, late))
    return pairs


def sorted_within_bounds(records: Iterable[tuple[bytes, _T]]) -> Iterator[_T]:
    """Yield what comes with each key in the order of the keys.

    More than `SORTED_IN_MEMORY` go through temporary files.
    """
    with ExitStack() as stack:
        runs: list[Iterator[tuple[bytes, _T]]] = []
        held: list[tuple[bytes, _T]] = []
        for record in records:
            held.append(record)
            if len(held) >= SORTED_IN_MEMORY:
                held.sort(key=_KEY)
                runs.append(_spilled(stack.enter_context(tempfile.TemporaryFile()), held))
                held = []
        held.sort(key=_KEY)
        yield from map(itemgetter(1), heapq.merge(held, *runs, key=_KEY))


def _spilled(file: BinaryIO, records: list[tuple[bytes, _T]]) -> Iterator[tuple[bytes, _T]]:
    for record in records:
        pickle.dump(record, file)
    count = len(records)
    file.seek(0)
    return (pickle.load(file) for _ in range(count))


def _more(files: Filesystem, frame: _Frame, limit: int, report: Report) -> tuple[list[tuple[Listed, Inode]], int]:
    """Return the next entries of a directory with their inodes, and where it goes on, -1 at its end."""
    ino, path = frame.visited.inode.ino, frame.visited.path
    batch, pos = _next_entries(files, ino, path, frame.pos, limit, report)
    return with_inodes(files, ino, path, batch, report), pos


def _next_entries(
    files: Filesystem, ino: int, path: bytes, pos: int, limit: int, report: Report
) -> tuple[list[Listed], int]:
    """Return entries of a directory from `pos` on, and where it goes on, -1 at its end.

    What cannot be read is told to `report`; then the entries that are lost with it are looked for by their hashes.
    """
    try:
        batch = files.list_batch(ino, pos, limit)
        return batch, batch[-1].pos + 1 if batch else -1
    except ScoutfsError as error:
        report(path, error)
    behind = _readable_position(files, ino, pos)
    found = []
    try:
        for listed in files.list_by_hash(ino):
            if pos <= listed.pos and (behind < 0 or listed.pos < behind):
                found.append(listed)
    except ScoutfsError as error:
        report(path, error)
    return sorted(found, key=_POS), behind


def _readable_position(files: Filesystem, ino: int, pos: int) -> int:
    """Return the first position behind `pos`, which cannot be read, that can; -1 if there is none."""

    def is_readable(candidate: int) -> bool:
        try:
            files.list_batch(ino, candidate, 1)
        except ScoutfsError:
            return False
        return True

    step = 1
    while not is_readable(min(pos + step, LAST_POS)):
        if pos + step >= LAST_POS:
            return -1
        step *= 2
    low, high = pos + step // 2, min(pos + step, LAST_POS)
    while low + 1 < high:
        middle = (low + high) // 2
        low, high = (low, middle) if is_readable(middle) else (middle, high)
    return high


def _looked_up_again(files: Filesystem, directory: int, path: bytes, listed: Listed, report: Report) -> Inode | None:
    """Return the inode of an entry that had none; None if the file was removed meanwhile, or the volume is damaged."""
    try:
        files.refresh()
        entry = files.entry(directory, listed.name)
        if entry is None or entry.ino != listed.ino:
            return None
        return files.inode(listed.ino)
    except ScoutfsError as error:
        report(path, error)
        return None
