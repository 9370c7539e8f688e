"""Items of mounts against a dictionary: mounts that take turns under locks, commit, and have their logs merged."""

from __future__ import annotations

import random
from typing import Any

import pytest

from format.keys import FsType, InodeIndexType, Key, Zone
from scoutfs.client.item_cache import ItemCache, RootsNeeded
from scoutfs.errors import ScoutfsError
from scoutfs.files.items import fs_key
from scoutfs.files.store import (
    ORPHAN_LOCK,
    TOTALS_LOCK,
    ChangeKind,
    ItemChange,
    ItemConflict,
    index_request,
    inode_request,
)
from scoutfs.metadata.btree import NO_ROOT, Root
from scoutfs.metadata.lock_ranges import lock_of
from scoutfs.metadata.snapshot import Roots
from tests.format.blocks import Given
from tests.metadata.building import Blocks

GROUPS = (1, 2)
NAMES = [inode_request(group).start for group in GROUPS]


class Trees:
    """What is committed: the tree of the volume, and a log for each mount, as dictionaries of (seq, flags, value)."""

    def __init__(self) -> None:
        self.blocks = Blocks()
        self.fs: dict[bytes, tuple[int, int, bytes]] = {}
        self.logs: dict[int, dict[bytes, tuple[int, int, bytes]]] = {}
        self.roots = Roots(NO_ROOT)

    def commit(self, rid: int, cache: ItemCache) -> None:
        """Write what a mount has changed into its log."""
        log = self.logs.setdefault(rid, {})
        items = cache.dirty_items()
        assert list(items.keys) == sorted(set(items.keys))
        log.update(zip(items.keys, zip(items.seqs, items.flags, items.values)))
        cache.committed()
        self.publish()

    def merge(self) -> None:
        """Bring the newest version of everything into the tree of the volume."""
        newest = dict(self.fs)
        for log in self.logs.values():
            for key, item in log.items():
                if key not in newest or item[0] > newest[key][0]:
                    newest[key] = item
        self.fs = {key: item for key, item in newest.items() if not item[1]}
        self.logs.clear()
        self.publish()

    def publish(self) -> None:
        """Build the trees, as a commit of the server does."""
        logs = [
            {"rid": rid, "nr": 1, "root": self._tree(log), "bloom": self.blocks.add_bloom(keys_of(log))}
            for rid, log in self.logs.items()
            if log
        ]
        self.roots = Roots(self._tree(self.fs), self.blocks.add_logs(logs))

    def _tree(self, items: dict[bytes, tuple[int, int, bytes]]) -> Root:
        given = [
            Given(Key.from_sort_bytes(key), value, seq=seq, flags=flags)
            for key, (seq, flags, value) in sorted(items.items())
        ]
        return self.blocks.add_tree(given, leaf=5, fanout=4)


def keys_of(items: dict[bytes, Any]) -> list[Key]:
    return [Key.from_sort_bytes(key) for key in items]


class Mount:
    """A mount that has a lock while it changes anything; `grants` are the numbers of its grants."""

    def __init__(self, rid: int, trees: Trees) -> None:
        self.rid, self.trees = rid, trees
        self.grants: dict[bytes, int] = {}
        self.cache = ItemCache(trees.blocks.reader(), self.grants.__getitem__)
        self.gen = 0

    def refresh(self) -> None:
        """Fetch the roots."""
        self.cache.install(self.trees.roots, self.gen, self.cache.barrier)


def put(kind: ChangeKind, key: bytes, value: bytes = b"") -> ItemChange:
    found = lock_of(Key.from_sort_bytes(key))
    assert found is not None
    return ItemChange(kind, key, value, found.start.sort_bytes, None)


def a_mount(**grants: int) -> Mount:
    mount = Mount(1, Trees())
    for group, grant in zip((*GROUPS, 0), (7, 7, 7)):
        mount.grants[inode_request(group).start] = grant
    mount.grants |= {TOTALS_LOCK.start: 7, ORPHAN_LOCK.start: 7}
    mount.refresh()
    return mount


@pytest.mark.parametrize("seed", range(12))
def test_mounts_that_take_turns_see_what_a_dictionary_has(seed: int) -> None:
    rng = random.Random(seed)
    trees, table, seq = Trees(), dict[bytes, bytes](), 100
    mounts = [Mount(rid, trees) for rid in (1, 2)]
    owners: dict[bytes, Mount] = {}
    keys = [fs_key(group << 10 | ino, FsType.XATTR, n) for group in GROUPS for ino in (0, 5, 1023) for n in range(6)]
    for _ in range(150):
        start = rng.choice(NAMES)
        here = [key for key in keys if lock_of(Key.from_sort_bytes(key)).start.sort_bytes == start]  # type: ignore
        mount = rng.choice(mounts)
        if owners.get(start) is not mount:
            owner = owners.get(start)
            if owner is not None:
                if owner.cache.is_dirty(start):
                    trees.commit(owner.rid, owner.cache)
                    seq += 1
                    owner.cache.transaction_seq = seq
                owner.cache.forget(start)
            owners[start] = mount
            seq += 1
            mount.grants[start] = seq
            mount.gen += 1
        if mount.cache.known_gen < mount.gen:
            mount.refresh()
        action = rng.random()
        if action < 0.6:
            change_some(rng, mount, here, table)
        elif action < 0.7:
            trees.commit(mount.rid, mount.cache)
            seq += 1
            mount.cache.transaction_seq = seq
        elif action < 0.75 and not any(other.cache.dirty_count for other in mounts):
            trees.merge()
            mount.refresh()
        elif action < 0.8:
            mount.refresh()
        check(rng, mount, here, table)
    for mount in mounts:
        trees.commit(mount.rid, mount.cache)
    trees.merge()
    assert {key: item[2] for key, item in trees.fs.items()} == table
    assert all(mount.cache.dirty_bytes == 0 for mount in mounts)


def change_some(rng: random.Random, mount: Mount, keys: list[bytes], table: dict[bytes, bytes]) -> None:
    changes, after = [], dict(table)
    for key in rng.sample(keys, rng.randint(1, 3)):
        value = bytes(rng.randrange(256) for _ in range(rng.randint(0, 9)))
        if key not in table:
            changes.append(put(ChangeKind.CREATE, key, value))
            after[key] = value
        elif rng.random() < 0.5:
            changes.append(put(ChangeKind.UPDATE, key, value))
            after[key] = value
        else:
            changes.append(put(ChangeKind.DELETE, key))
            del after[key]
    if rng.random() < 0.2:
        wrong = next(key for key in keys if key not in {change.key for change in changes})
        kind = ChangeKind.CREATE if wrong in table else rng.choice((ChangeKind.UPDATE, ChangeKind.DELETE))
        with pytest.raises(ItemConflict):
            mount.cache.apply([*changes, put(kind, wrong)])
        return
    mount.cache.apply(changes)
    table.clear()
    table.update(after)


def check(rng: random.Random, mount: Mount, keys: list[bytes], table: dict[bytes, bytes]) -> None:
    key = rng.choice(keys)
    assert mount.cache.lookup(key) == table.get(key)
    first, last = sorted((rng.choice(keys), rng.choice(keys)))
    expected = [(key, table[key]) for key in sorted(table) if first <= key <= last]
    assert list(mount.cache.items(first, last)) == expected
    assert mount.cache.next(first, last) == (expected[0] if expected else None)
    assert all(batch.keys for batch in mount.cache.batches(first, last))


KEY = fs_key(GROUPS[0] << 10, FsType.XATTR, 1)


def test_what_comes_and_goes_within_a_transaction_leaves_nothing() -> None:
    mount = a_mount()
    mount.cache.apply([put(ChangeKind.CREATE, KEY, b"value")])
    assert (mount.cache.dirty_count, mount.cache.dirty_bytes) == (1, 93)
    mount.cache.apply([put(ChangeKind.DELETE, KEY)])
    assert (mount.cache.dirty_count, mount.cache.dirty_bytes) == (0, 0)
    assert mount.cache.dirty_locks() == []
    assert not mount.cache.is_dirty(NAMES[0])


def test_what_is_committed_takes_a_deletion() -> None:
    mount = a_mount()
    mount.cache.apply([put(ChangeKind.CREATE, KEY, b"value")])
    mount.trees.commit(1, mount.cache)
    mount.cache.apply([put(ChangeKind.DELETE, KEY)])
    assert mount.cache.lookup(KEY) is None
    assert (mount.cache.dirty_items().keys, mount.cache.dirty_items().flags) == ([KEY], [1])
    mount.trees.commit(1, mount.cache)
    mount.cache.apply([put(ChangeKind.CREATE, KEY, b"new")])
    mount.cache.apply([put(ChangeKind.DELETE, KEY)])
    assert mount.cache.dirty_items().flags == [1], "a tree has an older one"


def test_committed_changes_are_seen_until_roots_lead_to_them() -> None:
    """Spec 04 §8, the write barrier."""
    mount = a_mount()
    old, barrier = mount.trees.roots, mount.cache.barrier
    mount.cache.apply([put(ChangeKind.CREATE, KEY, b"value")])
    mount.trees.commit(1, mount.cache)
    mount.cache.install(old, 0, barrier)  # fetched before the commit, told after it
    assert mount.cache.lookup(KEY) == b"value"
    mount.refresh()
    assert mount.cache.lookup(KEY) == b"value"
    mount.trees.logs.clear()
    mount.trees.publish()
    mount.refresh()
    assert mount.cache.lookup(KEY) is None, "it was read from the tree"


def test_versions_are_above_the_transaction_and_all_grants() -> None:
    """Spec 05 §2.9."""
    mount = a_mount()
    index = index_request(InodeIndexType.META_SEQ, 0)
    key = Key(Zone.INODE_INDEX, 0, InodeIndexType.META_SEQ, 7, 5).sort_bytes
    for transaction, grant, primary, expected in ((50, 20, 30, 50), (10, 20, 30, 30), (10, 40, 30, 40)):
        mount.cache.transaction_seq = transaction
        mount.grants |= {index.start: grant, NAMES[0]: primary}
        mount.cache.apply([ItemChange(ChangeKind.CREATE_FORCE, key, b"", index.start, NAMES[0])])
        assert mount.cache.dirty_items().seqs == [expected]
    mount.cache.apply([ItemChange(ChangeKind.CREATE_FORCE, key, b"", index.start, None)])
    assert mount.cache.dirty_items().seqs == [40]


def test_differences_are_summed_and_gone_once_committed() -> None:
    mount = a_mount()
    key = Key(Zone.XATTR_TOTL, 1, 0, 2, 3).sort_bytes
    minus = (2**64 - 1).to_bytes(8, "little")

    def words(*numbers: int) -> bytes:
        return b"".join(number.to_bytes(8, "little") for number in numbers)

    mount.cache.apply([put(ChangeKind.DELTA, key, words(5, 1))])
    mount.cache.apply([put(ChangeKind.DELTA, key, minus + minus)])
    assert mount.cache.dirty_items().values == [words(4, 0)]
    mount.cache.apply([put(ChangeKind.DELTA, key, words(2**64 - 4, 0))])
    assert mount.cache.dirty_count == 0
    mount.cache.apply([put(ChangeKind.DELTA, key, words(7, 1))])
    mount.trees.commit(1, mount.cache)
    mount.cache.apply([put(ChangeKind.DELTA, key, words(1, 1))])
    assert mount.cache.dirty_items().values == [words(1, 1)]


def test_forced_deletions_are_always_written() -> None:
    mount = a_mount()
    key = Key(Zone.ORPHAN, 0, 4, 77).sort_bytes
    mount.cache.apply([put(ChangeKind.CREATE_FORCE, key)])
    mount.cache.apply([put(ChangeKind.DELETE_FORCE, key)])
    assert mount.cache.dirty_items().flags == [1]


def test_a_lock_is_not_lost_with_changes_that_are_not_committed() -> None:
    mount = a_mount()
    mount.cache.apply([put(ChangeKind.CREATE, KEY, b"value")])
    with pytest.raises(ScoutfsError, match="not committed"):
        mount.cache.forget(NAMES[0])


def test_nothing_is_read_without_roots() -> None:
    mount = a_mount()
    mount.cache.outdated()
    with pytest.raises(RootsNeeded):
        mount.cache.lookup(KEY)
    with pytest.raises(RootsNeeded):
        mount.cache.apply([put(ChangeKind.UPDATE, KEY, b"value")])
    assert mount.cache.dirty_count == 0


def test_dirty_items_of_all_locks_come_in_order() -> None:
    mount = a_mount()
    keys = [fs_key(ino, FsType.XATTR, n) for ino in (1024, 1500, 2048, 3000) for n in range(3)]
    for key in random.Random(1).sample(keys, len(keys)):
        mount.cache.apply([put(ChangeKind.CREATE, key, b"")])
    assert mount.cache.dirty_items().keys == keys
    assert mount.cache.dirty_locks() == NAMES
