"""What transactions of a mount leave on a volume: the checker has nothing to say, and readers find it."""

from __future__ import annotations

import random
import stat

import pytest

from format.block import Magic, Ref
from format.hashes import bloom_bits
from format.keys import Key
from format.logs import BLOOM_BITS_OFFSET, LogTrees, bloom_has
from format.srch import Entry
from scoutfs.client.transaction import RESERVE, BloomedLocks
from scoutfs.files.acl_writing import remove_attribute, set_attribute
from scoutfs.files.caller import ROOT
from scoutfs.files.deletion import delete_some
from scoutfs.files.inode import read_inode
from scoutfs.files.linking import unlink
from scoutfs.files.search import search_xattrs
from scoutfs.files.store import inode_request
from scoutfs.files.truncate import finish_truncate, set_size
from scoutfs.files.writing import write
from scoutfs.files.xattr import find_xattr
from scoutfs.metadata.allocator import DATA_FILL_TARGET
from scoutfs.metadata.lock_ranges import lock_of
from scoutfs.storage.device import DeviceError
from tests.client.mounted_volume import ROOT_INO, Mount, Server
from tests.files.test_whole_volumes import problems


@pytest.fixture
def mount() -> Mount:
    return Mount(Server())


def committed(mount: Mount) -> LogTrees:
    return mount.server.cluster.log_trees(mount.rid)


def test_an_empty_transaction_changes_nothing(mount: Mount) -> None:
    before = mount.server.items()
    for _ in range(3):
        mount.commit()
    assert mount.server.items() == before
    trees = committed(mount)
    assert (trees.bloom_ref.blkno, trees.item_root.height, trees.max_item_seq) == (0, 0, 0)
    assert problems(mount.server.images) == []


def test_files_are_there_after_the_commit_and_not_before(mount: Mount) -> None:
    inode = mount.make(b"file")
    mount.perform(write, inode.ino, 0, b"contents" * 1000, ROOT)
    assert read_inode(mount.server.forest(), inode.ino, 2) is None
    mount.commit()
    found = read_inode(mount.server.forest(), inode.ino, 2)
    assert found is not None
    assert found.size == 8000
    assert problems(mount.server.images) == []
    assert committed(mount).inode_count_delta == 1
    assert committed(mount).max_item_seq == committed(mount).commit_trans_seq


def filter_of(mount: Mount) -> bytes:
    trees = committed(mount)
    ref = Ref(trees.bloom_ref.blkno, trees.bloom_ref.seq)
    return mount.server.cluster._reader().read(ref, Magic.BLOOM, "bloom block")


def bloomed(mount: Mount, start: bytes) -> bool:
    return bloom_has(filter_of(mount), bloom_bits(Key.from_sort_bytes(start).build()))


def test_the_filter_knows_the_locks_of_all_items_and_no_others(mount: Mount) -> None:
    """Spec 04 §7.4: kernel mounts pass over log trees whose filter has not the bits of their lock."""
    groups = range(1, 5)
    for number in range(2):
        inode = mount.make(b"file%d" % number)
        if number:
            mount.perform(set_attribute, inode.ino, b"scoutfs.totl.t.1.2.3", b"5", ROOT)
        mount.server.next_ino += 1024
        mount.commit()
    written = {lock_of(Key.from_sort_bytes(key)).start for key in mount.server.items()}  # type: ignore[union-attr]
    assert len(written) == 6
    assert all(bloomed(mount, start.sort_bytes) for start in written)
    assert [bloomed(mount, inode_request(group).start) for group in groups] == [True, True, False, False]
    data = filter_of(mount)
    bits = sum(byte.bit_count() for byte in data[BLOOM_BITS_OFFSET:])
    assert bits == int.from_bytes(data[32:40], "little") == 3 * len(written)


def test_the_filter_of_another_log_tree_has_no_bits() -> None:
    bloomed = BloomedLocks()
    assert bloomed.missing(1, [b"a", b"b"]) == [b"a", b"b"]
    bloomed.add([b"a"])
    assert bloomed.missing(1, [b"a", b"b"]) == [b"b"]
    assert bloomed.missing(2, [b"a", b"b"]) == [b"a", b"b"]


@pytest.mark.parametrize("seed", range(3))
def test_many_transactions(seed: int, mount: Mount) -> None:
    rng, files = random.Random(seed), dict[bytes, int]()
    for round in range(4):
        for _ in range(80):
            name = b"f%d" % rng.randrange(30)
            if name not in files:
                files[name] = mount.make(name).ino
            ino, what = files[name], rng.randrange(6)
            if what == 0:
                mount.perform(unlink, ROOT_INO, name)
                del files[name]
                while not mount.perform(delete_some, ino):
                    pass
            elif what == 1:
                mount.perform(finish_truncate, ino)
                mount.perform(set_size, ino, rng.randrange(30_000), ROOT)
            elif what < 4:
                mount.perform(finish_truncate, ino)
                mount.perform(write, ino, rng.randrange(30_000), rng.randbytes(rng.randrange(9000)), ROOT)
            else:
                mount.perform(set_attribute, ino, b"scoutfs.totl.t.1.2.%d" % (ino % 3), b"%d" % ino, ROOT)
            if rng.randrange(20) == 0 and mount.cache.dirty_count:
                assert mount.transaction.blocks_needed(mount.cache) > 0
        mount.commit()
        assert problems(mount.server.images) == []
        if round == 2:
            mount.server.cluster.merge(mount.rid)
            mount.server.cluster.commit()
            assert problems(mount.server.images) == []
            mount.open()
    assert len(mount.server.items()) > 100


def test_the_commit_takes_no_more_blocks_than_was_estimated(mount: Mount) -> None:
    rng = random.Random(5)
    directory = mount.make(b"dir", stat.S_IFDIR | 0o755).ino
    for count in (1, 20, 1500, 40):
        for number in range(count):
            inode = mount.make(b"%d.%d" % (count, number), at=directory)
            if rng.randrange(2):
                mount.perform(write, inode.ino, 0, b"x" * 5000, ROOT)
        allocator = mount.transaction.allocator
        needed, before = mount.transaction.blocks_needed(mount.cache), allocator.remaining_avail
        payload = mount.transaction.finish(mount.cache)
        assert 0 < before - allocator.remaining_avail <= needed + RESERVE
        mount.recorded(payload)
        mount.open()


def test_a_commit_that_fails_goes_on_where_it_was(mount: Mount) -> None:
    """Differences above all are not added twice."""
    io = mount.server.cluster.io
    for round in range(2):
        inode = mount.make(b"file%d" % round)
        mount.perform(set_attribute, inode.ino, b"scoutfs.totl.t.1.2.3", b"5", ROOT)
        mount.perform(set_attribute, inode.ino, b"scoutfs.srch.s", b"", ROOT)
        mount.perform(write, inode.ino, 0, b"x" * 50_000, ROOT)
        failures = 0
        for fails_at in (1, 2, 3, 0):
            io.fails_at = fails_at
            mount.reader.forget()
            try:
                payload = mount.transaction.finish(mount.cache)
            except DeviceError:
                failures += 1
        io.fails_at = 0
        assert failures == 3
        mount.recorded(payload)
        mount.open()
        assert problems(mount.server.images) == []


def test_searches_find_what_was_logged(mount: Mount) -> None:
    inos = []
    for number in range(5):
        inode = mount.make(b"file%d" % number)
        mount.perform(set_attribute, inode.ino, b"scoutfs.srch.name", b"v", ROOT)
        inos.append(inode.ino)
        if number % 2:
            mount.commit()
    mount.perform(remove_attribute, inos[1], b"scoutfs.srch.name", ROOT)
    mount.commit()
    forest = mount.server.forest()
    found = [
        ino for ino in search_xattrs(forest.run, b"scoutfs.srch.name") if find_xattr(forest, ino, b"scoutfs.srch.name")
    ]
    assert found == [inos[0], *inos[2:]]


def test_a_search_log_of_many_blocks(mount: Mount) -> None:
    rng = random.Random(3)
    for _ in range(9000):
        mount.transaction.add_search_entry(Entry(rng.getrandbits(64), rng.getrandbits(64), rng.getrandbits(64)))
    mount.commit()
    file = committed(mount).srch_file
    assert (file.entries, file.blocks, file.height) == (9000, 4, 2)
    assert [text for text in problems(mount.server.images) if "srch" in text.lower() and "block" in text] == []


def test_a_transaction_is_full_before_the_blocks_run_out() -> None:
    mount = Mount(Server())
    directory = mount.make(b"dir", stat.S_IFDIR | 0o755).ino
    assert not mount.transaction.is_full(mount.cache)
    mount.transaction.allocator.exchange(mount.transaction.allocator.remaining_avail - 30)
    count = 0
    while not mount.transaction.is_full(mount.cache):
        mount.make(b"file %d" % count, at=directory)
        count += 1
        assert count < 100_000
    mount.transaction.finish(mount.cache)


def test_data_runs_low() -> None:
    mount = Mount(Server())
    space = mount.transaction.space
    assert space.available == DATA_FILL_TARGET
    assert not mount.transaction.is_full(mount.cache)
    space.allocate(DATA_FILL_TARGET - 65536 + 1)
    assert mount.transaction.is_full(mount.cache)
