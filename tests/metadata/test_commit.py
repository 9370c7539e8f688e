"""Commits of a server: the original's first one, and volumes that are whole wherever writing was cut short."""

from __future__ import annotations

import functools

import pytest

from format.alloc import read_list_block
from format.block import LARGE_BLOCK_SIZE
from format.extent import Extent
from scoutfs.metadata.btree import Btree, Root, TreeItem
from scoutfs.metadata.writer import NoSpace
from scoutfs.storage.device import DeviceError
from tests.memory import Image
from tests.metadata.servers import Cluster, crashes, damage, index_key, new_volume, super_seq


@functools.cache
def _new(meta_blocks: int) -> dict[str, Image]:
    return new_volume(meta_blocks)


def cluster(meta_blocks: int = 1 << 16, seed: int = 0) -> Cluster:
    return Cluster({name: image.copy() for name, image in _new(meta_blocks).items()}, seed)


def entries(c: Cluster, blkno: int) -> tuple[int, list[int]]:
    """Return place and numbers of the entries of a list block on the device."""
    block = read_list_block(c.images["meta"].read(blkno * LARGE_BLOCK_SIZE, LARGE_BLOCK_SIZE), "list")
    return block.start, list(block.blknos)


def blocks_of(extent: Extent) -> range:
    return range(extent.start, extent.last + 1)


def test_the_first_commit_of_the_worked_example() -> None:
    # Spec 04 §17.8: a metadata device of 8 GiB.
    c = cluster(1 << 17)
    server = c.server
    assert [server.allocator.meta_avail.total_len, server.allocator.meta_freed.total_len] == [65021, 65020]
    server.commit(1)
    raw = server.stable.raw
    assert server.stable.raw.hdr.seq == 2
    assert raw.server_meta_avail[0].ref.blkno == 4
    assert entries(c, 4) == (5, list(range(9, 1028)))
    assert (raw.server_meta_avail[0].first_nr, raw.server_meta_avail[0].total_nr) == (1019, 1019)
    assert raw.server_meta_freed[0].ref.blkno == 5
    assert entries(c, 5) == (0, [3, 1029, 7])
    assert raw.server_meta_avail[1].ref.blkno == 6
    assert entries(c, 6) == (0, list(range(1031, 9216)))
    assert raw.server_meta_freed[1].ref.blkno == 0
    assert Root.of(raw.meta_alloc[0].root).ref.blkno == 8
    assert raw.meta_alloc[0].total_len == 56836
    assert damage(c.images) == []


def test_a_volume_that_is_too_small_cannot_be_led() -> None:
    # A little more than what its own blocks and first list take: the second list gets fewer than a change may need.
    c = cluster(1600)
    with pytest.raises(NoSpace, match="285 of 8185"):
        c.commit()
    assert c.server.allocator.other_avail.head.first_nr == 285
    assert super_seq(c.images["meta"]) == 1
    assert damage(c.images) == []


def test_a_list_that_cannot_be_filled_but_is_long_enough_is_used() -> None:
    # Spec 04 §17.8: 1 GiB, whose list gets 7677 entries, which is an error to the original.
    c = cluster(1 << 14)
    c.commit()
    assert c.server.allocator.remaining_avail == 7677
    assert super_seq(c.images["meta"]) == 2
    assert damage(c.images) == []


def test_the_pairs_and_the_trees_change_places() -> None:
    c = cluster()
    allocator = c.server.allocator
    first, second = allocator.meta_avail, allocator.meta_freed
    c.commit()
    # Less than twice what must be reserved for 3 clients is left, and the other tree has more (spec 04 §10, step 9).
    assert allocator.meta_avail is second
    assert allocator.remaining_avail == 8185
    c.open(1)
    c.commit()
    assert allocator.meta_avail is first
    # What the first commit has freed was turned into extents of the tree that gave nothing out in the second one.
    assert {3, 7, 1029} <= {block for extent in first.extents() if extent.length < 9 for block in blocks_of(extent)}
    again = Cluster(c.images, 1)
    raw = again.server.stable.raw
    active = int(raw.server_meta_avail[1].total_nr > raw.server_meta_avail[0].total_nr)
    assert again.server.allocator.remaining_avail == raw.server_meta_avail[active].first_nr
    assert again.server.allocator.meta_avail.total_len == max(root.total_len for root in raw.meta_alloc)


@pytest.mark.parametrize(("left", "others", "swaps"), [(0, 1, True), (0, 0, False), (1, 9, False), (-9, -9, False)])
def test_trees_change_places_when_one_runs_low(left: int, others: int, swaps: bool) -> None:
    # Spec 04 §10, step 9, for 2 clients: below 2 * (16370 + 2 * 18311) blocks, and only for a tree that has more.
    allocator = cluster().server.allocator
    first, second = allocator.meta_avail, allocator.meta_freed
    first.total_len = 2 * (16370 + 2 * 18311) - 1 + left
    second.total_len = first.total_len + others
    allocator.swap(2)
    assert allocator.meta_avail is (second if swaps else first)


def test_other_fields_of_the_super_block() -> None:
    c = cluster()
    old = c.server.stable.raw
    c.server.inode_count += 5
    c.server.next_ino += 7
    seqs = [c.server.next_seq(), c.server.next_seq()]
    c.commit()
    raw = Cluster(c.images, 1).server.stable.raw
    assert seqs == [old.seq + 1, old.seq + 2]
    assert (raw.seq, raw.inode_count, raw.next_ino) == (old.seq + 2, old.inode_count + 5, old.next_ino + 7)
    assert (raw.uuid, raw.qconf, raw.fmt_vers, raw.volopt) == (old.uuid, old.qconf, old.fmt_vers, old.volopt)
    assert (old.seq, old.hdr.seq) == (seqs[0] - 1, raw.hdr.seq - 1)


def test_work_of_clients_keeps_the_volume_whole() -> None:
    c = cluster()
    for _ in range(4):
        c.work()
        assert damage(c.images) == []
    assert c.server.stable.raw.hdr.seq == 13
    before = {item.key for item in c.server.fs_root.items()}
    assert len(before) > 300
    again = Cluster(c.images, 1)
    assert {item.key for item in again.server.fs_root.items()} == before
    again.work()
    assert damage(c.images) == []


def test_a_crash_at_any_point_leaves_the_old_or_the_new_volume() -> None:
    c = cluster()
    c.work()
    base = c.images["meta"].copy()
    c.io.log.clear()
    seq = c.server.stable.raw.hdr.seq
    c.work()
    log = list(c.io.log)
    supers = [place for place, entry in enumerate(log) if entry is not None and len(entry[1]) == 4096]
    assert len(supers) == 3
    seen = set()
    for place, image in crashes(base, log, seed=5):
        found = super_seq(image)
        done = sum(1 for written in supers if written + 1 < place)
        begun = sum(1 for written in supers if written < place)
        assert seq + done <= found <= seq + begun
        seen.add(found)
        assert damage({"meta": image}) == [], place
    assert seen == {seq, seq + 1, seq + 2, seq + 3}


def test_a_server_goes_on_where_another_one_died() -> None:
    c = cluster()
    c.work()
    base = c.images["meta"].copy()
    c.io.log.clear()
    c.work()
    for place, image in crashes(base, list(c.io.log), seed=6):
        if place % 9:
            continue
        successor = Cluster({"meta": image, "data": c.images["data"].copy()}, 7 + place)
        for rid in (1, 2):
            # Nothing that the clients wrote since counts: they go on with what the volume has.
            successor.open(rid)
        successor.commit()
        successor.transaction(1, [1, 2, 3])
        successor.commit()
        assert index_key(2) in {item.key for item in _log(successor, 1)}
        assert damage(successor.images) == []


def _log(c: Cluster, rid: int) -> list[TreeItem]:
    return list(Btree(c.server.writer, Root.of(c.log_trees(rid).item_root)).items())


@pytest.mark.parametrize("fails_at", range(1, 12))
def test_a_commit_that_fails_goes_out_with_the_next(fails_at: int) -> None:
    c = cluster()
    c.work()
    c.open(1)
    c.merge(2)
    seq = c.server.stable.raw.hdr.seq
    c.io.fails_at = fails_at
    try:
        c.commit()
    except DeviceError:
        assert c.server.stable.raw.hdr.seq == seq
        assert damage(c.images) == []
        c.open(2)
        c.io.fails_at = 0
        c.commit()
    else:
        c.io.fails_at = 0
    assert c.server.stable.raw.hdr.seq == seq + 1
    assert c.log_trees(1).get_trans_seq > c.log_trees(1).commit_trans_seq
    assert damage(c.images) == []
    c.commit()
    c.commit()
    assert damage(c.images) == []
