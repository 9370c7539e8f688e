"""Searching inodes by the name of an attribute in the search files (spec 06 §8.1, §8.2)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from format.block import LARGE_BLOCK_SIZE, BlockError, Magic, Ref
from format.hashes import hash64
from format.keys import Key, SrchType, Zone
from format.srch import PARENT_REFS, Entry, SrchBlock, SrchFile, read_entries, read_parent
from scoutfs.files.items import NUMBER_MAX
from scoutfs.files.tags import BadTag, parse_tags
from scoutfs.metadata.blocks import BlockReader, DamagedBlock
from scoutfs.metadata.btree import Btree
from scoutfs.metadata.log_trees import wrong_size
from scoutfs.metadata.snapshot import Snapshot

MEMBERS_MAX = 1_000_000
"""Entries that a search keeps in memory; it goes on behind them when it has handed them out."""

_HEIGHT_MAX = 7
"""Levels of parents that 2^64 blocks can need, and the blocks themselves."""
_HEAD_SIZE = 112
_PARENT = "srch parent block"
_FILE_SIZE = SrchFile.sizeof()
_FIRST_FILE = Key(Zone.SRCH, 0, SrchType.LOG).sort_bytes
_LAST_FILE = Key(Zone.SRCH, 0, SrchType.BLOCKS, NUMBER_MAX, NUMBER_MAX, 255).sort_bytes

Run = Callable[[Callable[[Snapshot], "_Found"]], "_Found"]
"""`Forest.run`."""


class _Found(NamedTuple):
    members: list[Entry]
    end: Entry


def search_xattrs(
    run: Run, name: bytes, first_ino: int = 0, last_ino: int = NUMBER_MAX, *, members_max: int = MEMBERS_MAX
) -> Iterator[int]:
    """Yield the inodes from `first_ino` to `last_ino` that probably have the attribute called `name`, ascending.

    `run` is that of a forest.  An inode may have lost the attribute meanwhile: look.  Raises BadTag for a name without
    srch tag, DamagedBlock, and what reading items raises.
    """
    if not parse_tags(name).srch:
        raise BadTag(
            f"attribute {name.decode(errors='backslashreplace')}: only names with the tag srch can be searched"
        )
    hash = hash64(name)
    start, final = Entry(hash, first_ino, 0), Entry(hash, last_ino, NUMBER_MAX)
    previous = None
    while start <= final:
        found = run(lambda snapshot, start=start: _search(snapshot, start, final, members_max))  # type: ignore[misc]
        for member in found.members:
            if member.ino != previous:
                yield member.ino
            previous = member.ino
        if found.end >= final:
            return
        start = _after(found.end)


def _search(snapshot: Snapshot, start: Entry, final: Entry, members_max: int) -> _Found:
    """Return what is found from `start` up to an end, which is before `final` if there is too much."""
    members: set[Entry] = set()
    end = final
    for file, sorted_entries in _files(snapshot):
        for entry in file.entries(start, end, sorted_entries):
            if not start <= entry <= end:
                continue
            members ^= {entry}
            if len(members) > 2 * members_max:
                kept = sorted(members)
                end = min(end, _before(kept[members_max]))
                members = set(kept[:members_max])
    kept = sorted(members)
    if len(kept) > members_max:
        end = min(end, _before(kept[members_max]))
    return _Found([entry for entry in kept if entry <= end], end)


def _files(snapshot: Snapshot) -> Iterator[tuple[SearchFile, bool]]:
    """Yield all search files, and whether their entries are sorted."""
    blocks = snapshot.blocks
    for key, _, _, value in Btree(blocks, snapshot.roots.srch_root).items(_FIRST_FILE, _LAST_FILE):
        if len(value) != _FILE_SIZE:
            raise wrong_size(blocks.device.path, key, value, _FILE_SIZE)
        yield SearchFile(blocks, value), Key.from_sort_bytes(key).type == SrchType.BLOCKS
    for tree in snapshot.log_trees:
        yield SearchFile(blocks, tree.srch_file), False


class SearchFile:
    """A search file, from the 88 bytes of its `format.srch.SrchFile`; block numbers in it count from 0."""

    def __init__(self, blocks: BlockReader, value: bytes) -> None:
        self._blocks = blocks
        parsed = SrchFile.parse(value)
        self._ref, self._height, self._count = Ref(parsed.ref.blkno, parsed.ref.seq), parsed.height, parsed.blocks
        self._first, self._last = _entry(parsed.first), _entry(parsed.last)
        self._parents: dict[int, tuple[Ref, dict[int, Ref]]] = {}

    def entries(self, first: Entry, last: Entry, sorted_entries: bool) -> Iterator[Entry]:
        """Yield at least the entries from `first` to `last`."""
        if not self._ref.blkno or last < self._first or first > self._last:
            return
        self.check()
        for number in range(self._first_block(first) if sorted_entries else 0, self._count):
            ref, data = self.block(number)
            what = self._blocks.name(ref, "srch block")
            try:
                for entry, _ in read_entries(data, what):
                    if sorted_entries and entry > last:
                        return
                    yield entry
            except BlockError as error:
                raise DamagedBlock(str(error)) from error

    def check(self) -> None:
        """Raise DamagedBlock if there cannot be so many blocks below the root."""
        most = min(PARENT_REFS ** (self._height - 1), self._blocks.device.size // LARGE_BLOCK_SIZE)
        if not 0 < self._height <= _HEIGHT_MAX or self._count > most:
            text = f"a search file of height {self._height} with {self._count} blocks"
            raise DamagedBlock(f"{self._blocks.name(self._ref, 'srch block')}: {text}")

    def refs(self, level: int, start: int = 0) -> Iterator[Ref]:
        """Yield what the parents of a level refer to, from the one with the number `start` on; the root is not one."""
        if level < self._height:
            count = -(-self._count // PARENT_REFS ** (level - 1))
            for number in range(start, count):
                yield self._ref_of(number * PARENT_REFS ** (level - 1), level - 1)

    def _first_block(self, first: Entry) -> int:
        """Return the first block of a sorted file whose last entry is not before `first`."""
        low, high = 0, self._count
        while low < high:
            middle = (low + high) // 2
            _, data = self.block(middle)
            head = SrchBlock.parse(data[:_HEAD_SIZE])
            if head.entry_nr and _entry(head.last) < first:
                low = middle + 1
            else:
                high = middle
        return low

    def block(self, number: int) -> tuple[Ref, bytes]:
        """Return the reference to a block of entries, and its 64 KiB.  Raises DamagedBlock."""
        ref = self._ref_of(number, 0)
        return ref, self._blocks.read(ref, Magic.SRCH_BLOCK, "srch block")

    def _ref_of(self, number: int, lowest: int) -> Ref:
        """Return the reference to the block of level `lowest` that the block of entries is, or is below."""
        ref = self._ref
        for level in range(self._height - 1, lowest, -1):
            index = number // PARENT_REFS ** (level - 1) % PARENT_REFS
            child = self._children(ref, level).get(index)
            if child is None:
                raise DamagedBlock(f"{self._blocks.name(ref, _PARENT)}: there is no block {index} below it")
            ref = child
        return ref

    def _children(self, ref: Ref, level: int) -> dict[int, Ref]:
        """Return what is below a parent; of each level the parent used last is kept."""
        known, children = self._parents.get(level, (None, {}))
        if known != ref:
            what = self._blocks.name(ref, _PARENT)
            children = read_parent(self._blocks.read(ref, Magic.SRCH_PARENT, _PARENT), what)
            if len(set(children.values())) != len(children):
                raise DamagedBlock(f"{what}: refers to a block twice")
            self._parents[level] = ref, children
        return children


def _entry(parsed: Any) -> Entry:
    return Entry(parsed.hash, parsed.ino, parsed.id)


def _after(entry: Entry) -> Entry:
    number = _number(entry) + 1
    return Entry(number >> 128, number >> 64 & NUMBER_MAX, number & NUMBER_MAX)


def _before(entry: Entry) -> Entry:
    number = _number(entry) - 1
    return Entry(number >> 128, number >> 64 & NUMBER_MAX, number & NUMBER_MAX)


def _number(entry: Entry) -> int:
    return entry.hash << 128 | entry.ino << 64 | entry.id
