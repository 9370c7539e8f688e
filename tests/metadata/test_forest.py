"""Log trees merged with the volume's tree, against a model; roots that change under a reader."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from format.keys import Key, Zone
from scoutfs.metadata.blocks import DamagedBlock, StaleBlockError
from scoutfs.metadata.btree import FIRST_KEY, LAST_KEY, NO_ROOT, after, before
from scoutfs.metadata.forest import Forest
from scoutfs.metadata.lock_ranges import bloom_key, lock_of
from scoutfs.metadata.snapshot import Roots, Snapshot
from tests.format.blocks import Given
from tests.metadata.building import Blocks

DELETION = 1
FINALIZED = 1

inodes = st.sampled_from([1, 2, 1023, 1024, 5000])
small = st.integers(0, 3)
other_keys = st.one_of(
    st.builds(Key, st.just(16), inodes, st.sampled_from([4, 8, 28]), small, small),
    st.builds(Key, st.just(4), st.just(0), st.sampled_from([4, 8]), inodes, small),
    st.builds(Key, st.just(14), small, st.just(0), small),
)
versions = st.tuples(st.binary(max_size=12), st.integers(0, 6), st.sampled_from([0, 0, DELETION]))
totl_keys = st.builds(Key, st.just(12), small, st.just(0), small)
numbers = st.integers(-3, 3)
deltas = st.tuples(
    st.builds(lambda total, count: struct.pack("<qq", total, count), numbers, numbers), st.integers(1, 6)
)
trees = st.tuples(
    st.dictionaries(other_keys, versions, max_size=25),
    st.dictionaries(totl_keys, deltas, max_size=6),
    st.sampled_from(["bits", "none"]),
    st.sampled_from([0, FINALIZED]),
    st.integers(1, 4),
)
keys = st.one_of(other_keys, totl_keys, st.just(Key.ZEROS), st.just(Key.ONES)).map(lambda key: key.sort_bytes)


class Model:
    """The rules of spec 04 §7.2 and §13 over dictionaries."""

    def __init__(self, merge_seq: int) -> None:
        self.merge_seq = merge_seq
        self.newest: dict[bytes, tuple[bytes, int, int]] = {}
        self.buckets: dict[bytes, dict[str, list[tuple[int, int, int]]]] = {}

    def visit(self, others: dict[Key, Any], totals: dict[Key, Any], bucket: str) -> None:
        for key, version in others.items():
            known = self.newest.get(key.sort_bytes)
            if known is None or version[1] > known[1]:
                self.newest[key.sort_bytes] = version
        for key, (value, seq) in totals.items():
            buckets = self.buckets.setdefault(key.sort_bytes, {"fs": [], "input": [], "log": []})
            buckets[bucket].append((seq, *struct.unpack("<qq", value)))

    def result(self) -> dict[bytes, bytes]:
        found = {key: value for key, (value, _, flags) in self.newest.items() if not flags}
        for key, buckets in self.buckets.items():
            counted = buckets["fs"] + buckets["log"]
            fs_seq = max((seq for seq, *_ in buckets["fs"]), default=0)
            input_seq = max((seq for seq, *_ in buckets["input"]), default=0)
            input_count = sum(count for *_, count in buckets["input"])
            if (fs_seq and input_seq > fs_seq) or (not fs_seq and input_count > 0):
                counted += buckets["input"]
            total, count = sum(total for _, total, _ in counted), sum(count for *_, count in counted)
            if (total, count) != (0, 0):
                found[key] = struct.pack("<qq", total, count)
        return dict(sorted(found.items()))


def tree_items(others: dict[Key, Any], totals: dict[Key, Any]) -> list[Given]:
    items = [Given(key, b"" if flags else value, seq, flags) for key, (value, seq, flags) in others.items()]
    items += [Given(key, value, seq) for key, (value, seq) in totals.items()]
    return sorted(items, key=lambda item: item.key)


@settings(max_examples=300)
@given(trees, st.lists(trees, max_size=4), st.integers(0, 3), st.tuples(keys, keys, keys), st.data())
def test_the_merged_trees_are_the_model(fs_tree, logs, merge_seq, wanted, data) -> None:
    device, model = Blocks(), Model(merge_seq)
    live = {key: (value, seq, 0) for key, (value, seq, _) in fs_tree[0].items()}
    model.visit(live, fs_tree[1], "fs")
    fs_root = device.add_tree(tree_items(live, fs_tree[1]), leaf=fs_tree[4], fanout=2)
    described = []
    for number, (others, totals, bloom, flags, leaf) in enumerate(logs):
        finalize_seq = data.draw(st.integers(0, 4)) if flags else 0
        items = tree_items(others, totals)
        described.append(
            {
                "rid": number // 2 + 1,
                "nr": number,
                "root": device.add_tree(items, leaf=leaf, fanout=3),
                "flags": flags,
                "finalize_seq": finalize_seq,
                **({"bloom": device.add_bloom(item.key for item in items)} if bloom == "bits" else {}),
            }
        )
        is_input = flags and (merge_seq == 0 or finalize_seq < merge_seq)
        model.visit(others, totals, "input" if is_input else "log")
    merge = device.add_merge(merge_seq) if merge_seq else NO_ROOT
    roots = Roots(fs_root, device.add_logs(described), NO_ROOT, merge)
    forest = Forest(device.reader(), lambda: roots)

    expected = model.result()
    order = list(expected)
    assert dict(forest.items()) == expected
    assert [key for key, _ in forest.items()] == order
    assert list(forest.items_reversed()) == list(expected.items())[::-1]
    first, last, key = wanted
    ranged = [(at, value) for at, value in expected.items() if first <= at <= last]
    assert list(forest.items(first, last)) == ranged
    assert list(forest.items_reversed(first, last)) == ranged[::-1]
    assert [item for batch in forest.batches(first, last) for item in zip(batch.keys, batch.values)] == ranged
    for wanted_key in (key, first, *order[:3], *(model.newest.keys() - expected.keys())):
        assert forest.lookup(wanted_key) == expected.get(wanted_key)
        assert forest.next(wanted_key) == next(((at, expected[at]) for at in order if at >= wanted_key), None)
        assert forest.previous(wanted_key) == next(((at, expected[at]) for at in order[::-1] if at <= wanted_key), None)


def one_log(device: Blocks, items: list[Given], **fields: Any) -> Roots:
    tree = {"rid": 1, "nr": 1, "root": device.add_tree(items), **fields}
    return Roots(NO_ROOT, device.add_logs([tree]))


def test_a_log_tree_that_its_bloom_filter_excludes_is_not_read() -> None:
    device = Blocks()
    roots = one_log(device, [Given(Key(16, 5, 4), b"5")], bloom=device.add_bloom([Key(16, 5)]))
    snapshot = Snapshot(device.reader(), roots)
    assert snapshot.lookup(Key(16, 1024, 4).sort_bytes) is None
    assert device.reads == 2, "the log trees and the bloom block"
    assert snapshot.lookup(Key(16, 6, 4).sort_bytes) is None
    assert device.reads == 3
    assert snapshot.lookup(Key(16, 5, 4).sort_bytes) == b"5"
    assert device.reads == 3
    assert list(snapshot.items()) == [(Key(16, 5, 4).sort_bytes, b"5")], "ranges over several locks are not excluded"


def test_a_log_tree_without_bloom_filter_is_read() -> None:
    device = Blocks()
    roots = one_log(device, [Given(Key(16, 5, 4), b"5")])
    assert Snapshot(device.reader(), roots).lookup(Key(16, 5, 4).sort_bytes) == b"5"


def test_a_log_tree_without_items_is_not_missed() -> None:
    device = Blocks()
    roots = one_log(device, [], bloom=device.add_bloom([Key(16, 5)]))
    assert list(Snapshot(device.reader(), roots).items()) == []


def test_which_keys_share_a_lock() -> None:
    """The table of spec 04 §7.4."""
    for key, start in (
        (Key(16, 1023, 4), "16.0.0.0.0.0"),
        (Key(16, 1024, 28, 7, 8, 9), "16.1024.0.0.0.0"),
        (Key(12, 1, 0, 2, 3), "12.0.0.0.0.0"),
        (Key(4, 0, 4, 1023, 9), "4.0.4.0.0.0"),
        (Key(8, 0, 4, 5), "8.0.4.0.0.0"),
        (Key(10, 0, 4, 5), "10.0.0.0.0.0"),
        (Key(14, 9), "14.0.0.0.0.0"),
    ):
        lock = lock_of(key)
        assert lock
        assert lock.start == Key.from_text(start)
        assert lock.start <= key <= lock.end
        assert bloom_key(key, key) == lock.start.build()
        assert bloom_key(key, lock.end.increment()) is None
    assert lock_of(Key(Zone.LOCK)) is None
    assert lock_of(Key(4, 0, 5)) is None
    assert lock_of(Key(8, 1, 4)) is None


def test_values_of_the_wrong_size_are_damage() -> None:
    device = Blocks()
    roots = Roots(NO_ROOT, device.add_tree([Given(Key(Zone.LOG_TREES, 1, 0, 1), bytes(471))]))
    with pytest.raises(DamagedBlock, match=r"item 24\.1\.0\.1\.0\.0: a value of 471 bytes, expected 472"):
        Snapshot(device.reader(), roots).lookup(FIRST_KEY)
    roots = Roots(device.add_tree([Given(Key(12, 1), bytes(15), seq=1)]))
    with pytest.raises(DamagedBlock, match=r"item 12\.1\.0\.0\.0\.0: a value of 15 bytes, expected 16"):
        list(Snapshot(device.reader(), roots).items())
    merge = device.add_tree([Given(Key(Zone.LOG_MERGE_STATUS), bytes(55))])
    roots = one_log(device, [Given(Key(12, 1), bytes(16), seq=1)], flags=FINALIZED)._replace(log_merge=merge)
    with pytest.raises(DamagedBlock, match=r"item 44\.0\.0\.0\.0\.0: a value of 55 bytes, expected 56"):
        list(Snapshot(device.reader(), roots).items())


class Changing:
    """A volume of 40 items whose blocks are all replaced by new ones when a test says so."""

    def __init__(self) -> None:
        self.device = Blocks()
        self.versions: list[Roots] = []
        self.fetched = 0
        self.write(b"old")

    def write(self, value: bytes) -> None:
        """Reuse all blocks; what old roots lead to is gone."""
        blknos = list(self.device.contents)
        items = [Given(Key(16, number), value, seq=len(self.versions)) for number in range(40)]
        self.versions.append(Roots(self.device.add_tree(items, leaf=4, fanout=3)))
        for blkno in blknos:
            self.device.contents[blkno] = self.device.contents[self.device.next_blkno]

    def get_roots(self) -> Roots:
        self.fetched += 1
        return self.versions[-1]

    def forest(self) -> Forest:
        return Forest(self.device.reader(cache_bytes=1), self.get_roots)


def test_everything_is_read_from_the_roots_of_the_last_refresh() -> None:
    volume = Changing()
    forest = Forest(volume.device.reader(), volume.get_roots)
    assert {value for _, value in forest.items()} == {b"old"}
    volume.write(b"new")
    assert {value for _, value in forest.items()} == {b"old"}, "from the cache"
    assert volume.fetched == 1
    forest.refresh()
    assert {value for _, value in forest.items()} == {b"new"}
    forest.refresh()
    assert volume.fetched == 3


def test_blocks_that_were_reused_are_read_from_newer_roots() -> None:
    volume = Changing()
    forest = volume.forest()
    assert forest.lookup(Key(16, 3).sort_bytes) == b"old"
    volume.write(b"new")
    assert forest.lookup(Key(16, 30).sort_bytes) == b"new"
    assert forest.next(Key(16, 30).sort_bytes) == (Key(16, 30).sort_bytes, b"new")
    assert volume.fetched == 2


@pytest.mark.parametrize("backwards", [False, True])
def test_iterators_go_on_from_newer_roots(backwards: bool) -> None:
    volume = Changing()
    walk = volume.forest().items_reversed() if backwards else volume.forest().items()
    found = [next(walk) for _ in range(10)]
    volume.write(b"new")
    found += walk
    numbers = [Key.from_sort_bytes(key).first for key, _ in found]
    assert numbers == sorted(range(40), reverse=backwards)
    values = [value for _, value in found]
    assert values == [b"old"] * values.count(b"old") + [b"new"] * values.count(b"new")
    assert values.count(b"old") < 16


def test_an_operation_is_begun_again_as_a_whole() -> None:
    volume = Changing()
    forest = volume.forest()
    changes = iter([b"1", b"2", b"3"])

    def read_all(snapshot: Snapshot) -> set[bytes]:
        found = set()
        for at, (_, value) in enumerate(snapshot.items()):
            found.add(value)
            if at == 20 and (change := next(changes, None)):
                volume.write(change)
        return found

    assert forest.run(read_all) == {b"3"}
    assert volume.fetched == 4


def test_blocks_that_present_roots_do_not_lead_to_are_damage() -> None:
    volume = Changing()
    forest = volume.forest()
    victim = volume.versions[-1].fs_root.ref.blkno
    volume.device.contents[victim] = bytes(65536)
    for read in (
        lambda: forest.lookup(FIRST_KEY),
        lambda: list(forest.items()),
        lambda: list(forest.items_reversed()),
        lambda: forest.previous(LAST_KEY),
    ):
        volume.fetched = 0
        with pytest.raises(DamagedBlock, match=f"/dev/meta: btree block {victim}: crc"):
            read()
        assert volume.fetched <= 2
    with pytest.raises(StaleBlockError):
        forest.snapshot.lookup(FIRST_KEY)


def test_damage_behind_what_was_read_is_found_there() -> None:
    volume = Changing()
    last_leaf = max(blkno for blkno, data in volume.device.contents.items() if data[40] == 0)
    volume.device.contents[last_leaf] = bytes(65536)
    walk = volume.forest().items()
    found = [next(walk) for _ in range(36)]
    assert len(found) == 36
    with pytest.raises(DamagedBlock):
        next(walk)


def neighbours(items: list[bytes]) -> Iterator[bytes]:
    for key in items:
        yield from (before(key), key, after(key))


def test_points_around_every_item() -> None:
    device = Blocks()
    items = [Given(Key(16, number * 2), b"x") for number in range(30)]
    roots = Roots(
        device.add_tree(items[::2], leaf=2, fanout=2),
        device.add_logs([{"rid": 1, "nr": 1, "root": device.add_tree(items[1::2], leaf=3)}]),
    )
    snapshot = Snapshot(device.reader(), roots)
    order = [item.key.sort_bytes for item in items]
    for key in neighbours(order):
        following = snapshot.next(key)
        assert (following[0] if following else None) == next((at for at in order if at >= key), None)
        assert (snapshot.lookup(key) is not None) == (key in order)
