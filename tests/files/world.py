"""A volume in dictionaries that operations change, under locks that are taken as they ask for them."""

from __future__ import annotations

import random
import stat
import struct
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any, TypeVar

from format.hashes import hash64
from format.keys import FsType, Key, Zone
from format.payloads import LockMode
from format.srch import Entry
from scoutfs.files.caller import ROOT, Caller
from scoutfs.files.change import Change, Surroundings
from scoutfs.files.create import create
from scoutfs.files.data import DataExtent, read_extents
from scoutfs.files.directory import find_entry
from scoutfs.files.errors import NoSpace
from scoutfs.files.indexes import Total
from scoutfs.files.inode import Inode, encode_inode, read_inode
from scoutfs.files.items import fs_key, fs_range, key_of
from scoutfs.files.quota import Rule
from scoutfs.files.store import ChangeKind, CommitNeeded, ItemChange, ItemConflict, LockRequest, LocksNeeded
from scoutfs.files.tags import parse_tags
from scoutfs.files.xattr import list_xattrs
from scoutfs.fsck.forest import Total as TreeTotal
from scoutfs.fsck.inodes import InodeItems
from scoutfs.fsck.kinds import Severity
from scoutfs.fsck.links import Links
from scoutfs.fsck.report import Report
from scoutfs.fsck.space import DataSpace as ClaimedSpace
from scoutfs.metadata.btree import FIRST_KEY, LAST_KEY
from scoutfs.metadata.lock_ranges import inode_lock, lock_of
from scoutfs.metadata.snapshot import Batch

ROOT_INO = 1
FIRST_BLKNO = 64
BLOCK = 4096
_TOTL = struct.Struct("<QQ")
Result = TypeVar("Result")
_READABLE = (LockMode.READ, LockMode.WRITE)
_FORCED = (ChangeKind.CREATE_FORCE, ChangeKind.DELETE_FORCE, ChangeKind.DELTA)


class Store:
    """Items in a dictionary; refuses what no lock covers."""

    blocks: Any = SimpleNamespace(device=SimpleNamespace(path="/dev/meta"))

    def __init__(self, held: Held) -> None:
        self.held = held
        self.table: dict[bytes, bytes] = {}
        self.keys: list[bytes] = []
        self.applied: list[Sequence[ItemChange]] = []

    def lookup(self, key: bytes) -> bytes | None:
        """Return the value of `key`."""
        self._covered(key)
        return self.table.get(key)

    def items(self, first: bytes = FIRST_KEY, last: bytes = LAST_KEY) -> Iterator[tuple[bytes, bytes]]:
        """Yield key and value of the range."""
        lock = self._covered(first)
        assert last <= lock, "read beyond the end of the lock"
        yield from self.unlocked(first, last)

    def next(self, key: bytes, last: bytes = LAST_KEY) -> tuple[bytes, bytes] | None:
        """Return the first of the range."""
        return next(self.items(key, last), None)

    def batches(self, first: bytes = FIRST_KEY, last: bytes = LAST_KEY) -> Iterator[Batch]:
        """Yield the range."""
        for key, value in self.items(first, last):
            yield Batch([key], [0], [value])

    def apply(self, changes: Sequence[ItemChange]) -> None:
        """Change all or nothing, by the rules of the item cache."""
        assert len({change.key for change in changes}) == len(changes)
        for change in changes:
            self._check(change)
        for change in changes:
            if change.kind is ChangeKind.DELTA:
                self._add(change)
            elif change.kind in (ChangeKind.DELETE, ChangeKind.DELETE_FORCE):
                self._set(change.key, None)
            else:
                self._set(change.key, change.value)
        self.applied.append(changes)

    def unlocked(self, first: bytes = FIRST_KEY, last: bytes = LAST_KEY) -> Iterator[tuple[bytes, bytes]]:
        """Yield key and value of the range without looking at locks."""
        for key in self.keys[bisect_left(self.keys, first) : bisect_right(self.keys, last)]:
            yield key, self.table[key]

    def _check(self, change: ItemChange) -> None:
        lock = lock_of(Key.from_sort_bytes(change.key))
        assert lock is not None, change
        assert change.lock == lock.start.sort_bytes
        mode = self.held.modes.get(change.lock)
        assert mode == (LockMode.WRITE_ONLY if change.kind in _FORCED else LockMode.WRITE), change
        if change.primary is not None:
            assert self.held.modes[change.primary] == LockMode.WRITE
        zone, *numbers = _numbers(change.key)
        if zone in (Zone.INODE_INDEX, Zone.ORPHAN):
            ino = numbers[3] if zone == Zone.INODE_INDEX else numbers[2]
            assert change.primary == inode_lock(ino).start.sort_bytes
        there = change.key in self.table
        if (change.kind is ChangeKind.CREATE) == there and change.kind not in _FORCED:
            raise ItemConflict(f"{change}")

    def _add(self, change: ItemChange) -> None:
        old = _TOTL.unpack(self.table.get(change.key, bytes(16)))
        new = [(one + other) % 2**64 for one, other in zip(old, _TOTL.unpack(change.value))]
        self._set(change.key, _TOTL.pack(*new) if any(new) else None)

    def _set(self, key: bytes, value: bytes | None) -> None:
        if value is None:
            if self.table.pop(key, None) is not None:
                del self.keys[bisect_left(self.keys, key)]
            return
        if key not in self.table:
            insort(self.keys, key)
        self.table[key] = value

    def _covered(self, key: bytes) -> bytes:
        lock = lock_of(Key.from_sort_bytes(key))
        assert lock is not None
        assert self.held.modes.get(lock.start.sort_bytes) in _READABLE, f"{Key.from_sort_bytes(key)} without lock"
        return lock.end.sort_bytes


class Held:
    """Locks that are held."""

    def __init__(self) -> None:
        self.modes: dict[bytes, LockMode] = {}

    def holds(self, request: LockRequest) -> bool:
        """Whether the lock is held."""
        mode = self.modes.get(request.start)
        return mode == request.mode or (mode == LockMode.WRITE and request.mode == LockMode.READ)


class Space:
    """Data blocks: what was freed comes back after a commit; `run_max` at most are given at once."""

    def __init__(self, total_blocks: int = 1 << 20) -> None:
        self.total_blocks = total_blocks
        self.run_max = 1 << 20
        self.available = [(FIRST_BLKNO, total_blocks - FIRST_BLKNO)]
        self.freed: list[tuple[int, int]] = []
        self.used: set[int] = set()
        self.pages: dict[int, bytes] = {}

    def allocate(self, count: int) -> tuple[int, int]:
        """Return blocks from the start of the last free run."""
        assert count > 0
        if not self.available:
            raise CommitNeeded if self.freed else NoSpace("the data device is full")
        start, length = self.available.pop()
        got = min(count, length, self.run_max)
        if got < length:
            self.available.append((start + got, length - got))
        self.used.update(range(start, start + got))
        return start, got

    def give_back(self, blkno: int, count: int) -> None:
        """Have blocks free at once, joined with what they came from."""
        self.used.difference_update(range(blkno, blkno + count))
        if self.available and self.available[-1][0] == blkno + count:
            count += self.available.pop()[1]
        self.available.append((blkno, count))

    def free(self, blkno: int, count: int) -> None:
        """Have blocks free after a commit."""
        blocks = set(range(blkno, blkno + count))
        assert blocks <= self.used
        self.used -= blocks
        self.freed.append((blkno, count))

    def read(self, blkno: int, count: int) -> bytes:
        """Return blocks; what was never written is garbage."""
        return b"".join(self.pages.get(block, b"\xee" * BLOCK) for block in range(blkno, blkno + count))

    def write(self, blkno: int, data: bytes) -> None:
        """Write blocks, allocated ones only."""
        assert len(data) % BLOCK == 0
        for index in range(len(data) // BLOCK):
            assert blkno + index in self.used
            self.pages[blkno + index] = bytes(data[index * BLOCK : (index + 1) * BLOCK])

    def commit(self) -> None:
        """Have what was freed free, and its contents gone."""
        for start, length in self.freed:
            for block in range(start, start + length):
                self.pages.pop(block, None)
        self.available = self.freed + self.available
        self.freed = []


class World:
    """A volume with a root directory, and the transaction that is open; `perform` is the shell around operations."""

    def __init__(self, fmt_vers: int = 2, seq: int = 5) -> None:
        self.fmt_vers = fmt_vers
        self.held = Held()
        self.store = Store(self.held)
        self.space = Space()
        self.seq, self.low, self.now = seq, False, 10**18
        self.inode_count = 1
        self.search_entries: list[Entry] = []
        self.rule_list: Sequence[Rule] | None = ()
        self.next_ino = 1024
        self.runs = 0
        self.strict = True
        root = Inode(
            *(ROOT_INO, 0, 0, 0, 0, 0, 0, 2, 0, 0, 2, 0, 0, stat.S_IFDIR | 0o755, 0, 0),
            *(self.now,) * 4,
            proj=0,
        )
        self.store._set(fs_key(ROOT_INO, FsType.INODE), encode_inode(root, fmt_vers))
        self.store._set(key_of(Zone.INODE_INDEX, 0, 4, 0, ROOT_INO, 0), b"")

    def load(self, items: Iterator[tuple[bytes, bytes]], seq: int) -> None:
        """Replace all items; the blocks of extents are in use, and attributes in the search files."""
        self.store.table = dict(items)
        self.store.keys = list(self.store.table)
        self.seq, self.strict = seq, False
        self.space.used = _allocated(self)
        inos = [
            key for key in map(Key.from_sort_bytes, self.store.keys) if (key.zone, key.type) == (Zone.FS, FsType.INODE)
        ]
        self.inode_count = len(inos)
        for key in inos:
            for xattr in list_xattrs(self.reader(), key.first):
                if parse_tags(xattr.name).srch:
                    self.search_entries.append(Entry(hash64(xattr.name), key.first, xattr.id))
        self.next_ino = max(key.first for key in inos) + 1

    # `Transaction` and `Quotas`

    def add_inodes(self, count: int) -> None:
        """Count inodes."""
        self.inode_count += count

    def add_search_entry(self, entry: Entry) -> None:
        """Log an entry."""
        self.search_entries.append(entry)

    def rules(self) -> Sequence[Rule] | None:
        """Return the rules that are known."""
        return self.rule_list

    def remember(self, rules: Sequence[Rule]) -> None:
        """Know rules."""
        self.rule_list = rules

    def total(self, name: tuple[int, int, int]) -> Total | None:
        """Return a total."""
        value = self.store.table.get(key_of(Zone.XATTR_TOTL, name[0], 0, name[1], name[2], 0))
        return None if value is None else Total(name, *struct.unpack("<qq", value))

    # The shell

    def perform(self, operation: Callable[..., Result], *arguments: Any, **keywords: Any) -> Result:
        """Run an operation until it has its locks, and commits that it needs."""
        wanted: tuple[LockRequest, ...] = ()
        known = set[LockRequest]()
        while True:
            self.runs += 1
            assert list(wanted) == sorted(wanted)
            self.held.modes = {request.start: request.mode for request in wanted}
            before = (dict(self.store.table), set(self.space.used)) if self.strict else None
            try:
                with self.change() as change:
                    return operation(change, *arguments, **keywords)
            except LocksNeeded as needed:
                wanted = needed.locks
                if known.issuperset(wanted):
                    raise AssertionError("asks again for locks that were held") from needed
                known.update(wanted)
            except CommitNeeded:
                self.commit()
            except Exception:
                assert before in (None, (self.store.table, self.space.used)), "a refusal left something behind"
                raise
            finally:
                self.held.modes = {}

    def change(self) -> Change:
        """Return a change under the locks that are held."""
        return Change(Surroundings(self.store, self.held, self, self.space, self, self.fmt_vers), now=self.now)

    def steps(self, operation: Callable[..., bool], *arguments: Any) -> int:
        """Run the steps of an operation until nothing is left, each in a transaction; return how many they were."""
        for count in range(1, 10_000):
            if self.perform(operation, *arguments):
                return count
            self.commit()
        raise AssertionError("the operation does not end")

    def commit(self, more: int = 1) -> None:
        """Open the next transaction."""
        self.seq += more
        self.space.commit()

    def tick(self) -> int:
        """Let time pass."""
        self.now += 1_000_000_007
        return self.now

    def new_ino(self) -> int:
        """Return a number that was never in use."""
        self.next_ino += 1
        return self.next_ino - 1

    def make(self, name: bytes, mode: int = stat.S_IFREG | 0o644, at: int = ROOT_INO, caller: Caller = ROOT) -> int:
        """Create something; return its number."""
        return self.perform(create, at, name, self.new_ino(), mode, caller).ino

    # Looking

    def reader(self) -> Any:
        """Return the items without locks, as reading functions want them."""
        return SimpleNamespace(
            blocks=self.store.blocks,
            lookup=self.store.table.get,
            items=self.store.unlocked,
            next=lambda key, last=LAST_KEY: next(self.store.unlocked(key, last), None),
        )

    def inode(self, ino: int) -> Inode:
        """Return an inode."""
        found = read_inode(self.reader(), ino, self.fmt_vers)
        assert found is not None
        return found

    def exists(self, ino: int) -> bool:
        """Return whether there is anything of an inode."""
        first, last = fs_key(ino, FsType.INODE), fs_range(ino, FsType.DATA_EXTENT)[1]
        return next(self.store.unlocked(first, last), None) is not None

    def ino_of(self, name: bytes, at: int = ROOT_INO) -> int:
        """Return the number that a name has."""
        entry = find_entry(self.reader(), at, name)
        assert entry is not None
        return entry.ino

    def extents(self, ino: int) -> list[DataExtent]:
        """Return the extents of a file."""
        return list(read_extents(self.reader(), ino, self.space.total_blocks))

    def contents(self, ino: int) -> bytes:
        """Return what a file holds."""
        size = self.inode(ino).size
        contents = bytearray(-(-size // BLOCK) * BLOCK)
        for extent in self.extents(ino):
            assert not extent.offline
            if extent.written and extent.start * BLOCK < size:
                stop = min(extent.end, len(contents) // BLOCK)
                data = self.space.read(extent.blkno, stop - extent.start)
                contents[extent.start * BLOCK : stop * BLOCK] = data
        assert not any(contents[size:]), "something behind the end of the file"
        return bytes(contents[:size])

    def scribble(self, seed: int) -> None:
        """Have the free blocks in many short runs, in no order."""
        order = random.Random(seed)
        (start, _) = self.space.available[0]
        runs = []
        for _ in range(200):
            length = order.choice((1, 1, 2, 3, 8, 40))
            runs.append((start, length))
            start += length + 1
        order.shuffle(runs)
        self.space.available = runs

    def check(self) -> None:
        """Have the checker of volumes look at all items, and compare the blocks in use with those of extents."""
        problems = [finding.text for finding in check_items(self).findings() if finding.kind.severity is Severity.ERROR]
        assert problems == []
        assert _allocated(self) == self.space.used


def check_items(world: World) -> Report:
    """Return what the checker of volumes says of the items of a world."""
    report, links = Report(), Links()
    _walk(world, report, links)
    if not links.agree:
        muted = Report()
        links.begin_walk(details=True)
        _walk(world, muted, links)
        links.report_all(report)
    links.report_directories(report)
    assert links.inode_count == world.inode_count
    assert links.has_root
    return report


def _walk(world: World, report: Report, links: Links) -> None:
    space = ClaimedSpace(FIRST_BLKNO, world.space.total_blocks)
    inode: InodeItems | None = None
    for entry in world.search_entries:
        links.search_entry(entry)
    for sort_bytes, value in world.store.unlocked():
        key = Key.from_sort_bytes(sort_bytes)
        if key.zone == Zone.XATTR_TOTL:
            links.total(key, TreeTotal(*_TOTL.unpack(value)))
            continue
        item: Any = SimpleNamespace(key=key, value=value, seq=1, flags=0)
        if key.zone != Zone.FS:
            if key.zone != Zone.QUOTA:
                links.item(item)
            continue
        if inode is None or inode.ino != key.first:
            if inode is not None:
                inode.finish()
            inode = InodeItems(
                key.first, report, links, space, data_total=world.space.total_blocks, fmt_vers=world.fmt_vers
            )
        inode.take(item)
    if inode is not None:
        inode.finish()


def _allocated(world: World) -> set[int]:
    blocks: set[int] = set()
    for sort_bytes, value in world.store.unlocked():
        key = Key.from_sort_bytes(sort_bytes)
        if key.zone == Zone.FS and key.type == FsType.DATA_EXTENT:
            blkno = int.from_bytes(value[:8], "little")
            if blkno:
                here = set(range(blkno, blkno + key.third))
                assert not here & blocks, "a block of two extents"
                blocks |= here
    return blocks


def _numbers(key: bytes) -> tuple[int, ...]:
    parsed = Key.from_sort_bytes(key)
    return parsed.zone, parsed.first, parsed.type, parsed.second, parsed.third
