"""Dirty blocks: copies under new numbers, written together, kept when writing fails."""

from __future__ import annotations

import pytest

from format.block import LARGE_BLOCK_SIZE, Magic, Ref, verify_block
from format.keys import Key
from scoutfs.metadata.blocks import DamagedBlock, StaleBlockError
from scoutfs.metadata.nodes import LeafNode
from scoutfs.metadata.writer import RUN_BLOCKS, NoSpace, RawBlock
from scoutfs.storage.device import DeviceError
from tests.format.blocks import Given
from tests.metadata.building import FSID
from tests.metadata.writing import Device, Pool, io_error

KEY = Key(16, 5, 4).sort_bytes


def changed_leaf(device: Device, pool: Pool):
    """A leaf of one item with a second one, dirty: (old ref, new ref, writer)."""
    old = device.add_btree(0, [Given(Key(16, 1, 4), b"one")])
    writer = device.writer()
    node = writer.leaf(old)
    new = writer.replace(old, node, pool)
    node.insert(1, KEY, 7, 1, b"two")
    return old, new, writer


def test_a_changed_block_gets_a_new_number_and_seq() -> None:
    device, pool = Device(), Pool()
    old, new, writer = changed_leaf(device, pool)
    assert new.blkno in pool.used
    assert pool.freed == {old.blkno}
    assert new.seq != old.seq
    assert writer.leaf(new) is writer.leaf(new)
    assert writer.replace(new, writer.leaf(new), pool) == new
    assert len(pool.used) == 1
    assert device.writes == []
    assert list(writer.btree_block(new, 0).keys) == [Key(16, 1, 4).sort_bytes, KEY]
    assert len(device.reader().btree_block(old, 0).keys) == 1
    assert len(writer.btree_block(old, 0).keys) == 1


def test_what_is_written_is_read_again_and_cached() -> None:
    device, pool = Device(), Pool()
    _, new, writer = changed_leaf(device, pool)
    raw = RawBlock(Magic.BLOOM)
    raw.data[500] = 9
    bloom = writer.add(40, raw)
    writer.write()
    assert writer.dirty_bytes == 0
    reads = device.reads
    kept = writer.btree_block(new, 0)
    data = writer.read(bloom, Magic.BLOOM, "bloom block")
    assert device.reads == reads
    fresh = device.reader()
    assert fresh.btree_block(new, 0).keys == tuple(kept.keys)
    assert fresh.btree_block(new, 0).values == tuple(kept.values)
    assert fresh.read(bloom, Magic.BLOOM, "bloom block") == data
    assert data[500] == 9
    verify_block("bloom", data, LARGE_BLOCK_SIZE, Magic.BLOOM, fsid=FSID, blkno=40, seq=bloom.seq)


def test_a_clean_block_is_not_changed_in_place() -> None:
    device, pool = Device(), Pool()
    _, new, writer = changed_leaf(device, pool)
    writer.write()
    node = writer.leaf(new)
    newer = writer.replace(new, node, pool)
    node.delete(0)
    assert newer.blkno != new.blkno
    assert len(writer.btree_block(new, 0).keys) == 2
    assert len(writer.btree_block(newer, 0).keys) == 1


def test_neighbours_are_written_at_once() -> None:
    device = Device()
    writer = device.writer()
    numbers = [*range(50, 50 + RUN_BLOCKS + 3), 200, 202, 203]
    for blkno in reversed(numbers):
        writer.add(blkno, LeafNode())
    assert writer.dirty_bytes == len(numbers) * LARGE_BLOCK_SIZE
    writer.write()
    runs = sorted((offset // LARGE_BLOCK_SIZE, size // LARGE_BLOCK_SIZE) for offset, size in device.writes)
    assert runs == [(50, RUN_BLOCKS), (50 + RUN_BLOCKS, 3), (200, 1), (202, 2)]


@pytest.mark.parametrize("blocks", [1, 40])
def test_all_stay_dirty_if_one_cannot_be_written(blocks: int) -> None:
    device = Device()
    writer = device.writer()
    refs = [writer.add(100 + 2 * number, LeafNode()) for number in range(blocks)]
    device.before_write = lambda offset: io_error(offset) if offset == 100 * LARGE_BLOCK_SIZE else None
    with pytest.raises(DeviceError):
        writer.write()
    assert len(device.writes) == blocks - 1
    assert all(writer.is_dirty(ref) for ref in refs)
    device.before_write = lambda offset: None
    writer.write()
    assert not any(writer.is_dirty(ref) for ref in refs)
    for ref in refs:
        assert device.reader().btree_block(ref, 0).keys == ()


def test_nothing_changes_without_a_block() -> None:
    device, pool = Device(), Pool(fails_at=1)
    old = device.add_btree(0, [Given(Key(16, 1, 4))])
    writer = device.writer()
    with pytest.raises(NoSpace):
        writer.replace(old, writer.leaf(old), pool)
    assert writer.dirty_bytes == 0
    assert pool.freed == set()


def test_references_that_mean_something_else() -> None:
    device, pool = Device(), Pool()
    _, new, writer = changed_leaf(device, pool)
    with pytest.raises(StaleBlockError):
        writer.btree_block(Ref(new.blkno, new.seq + 1), 0)
    with pytest.raises(DamagedBlock):
        writer.btree_block(new, 1)
    with pytest.raises(DamagedBlock):
        writer.read(new, Magic.BLOOM, "bloom block")


def test_dropped_blocks_are_not_written() -> None:
    device, pool = Device(), Pool()
    _, new, writer = changed_leaf(device, pool)
    other = writer.add(40, LeafNode())
    writer.drop(new.blkno)
    writer.write()
    assert [offset for offset, _ in device.writes] == [40 * LARGE_BLOCK_SIZE]
    writer.replace(other, writer.leaf(other), pool)
    writer.discard()
    assert writer.dirty_bytes == 0
