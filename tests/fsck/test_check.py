"""Volumes in use, devices that fail, and what a check needs."""

from __future__ import annotations

import errno
import struct
import tracemalloc

import pytest

from format.block import seal
from format.btree import read_items
from scoutfs.errors import ScoutfsError
from scoutfs.fsck.check import ATTEMPTS_MAX, Progress, check_volume
from scoutfs.fsck.kinds import Kind
from scoutfs.fsck.report import Report
from scoutfs.storage.device import Device
from tests import images
from tests.fsck.corruption import LARGE, SMALL, SUPER, Corruption
from tests.fsck.damage.registry import first_leaf
from tests.memory import MemoryIO

MADE_BY_MKFS = (
    *("v1-1slot", "v2-1slot", "v2-3slot", "v1-15slot", "v2-15slot", "v2-smallest", "v2-odd-sizes", "v2-limited"),
    *("v1-changed-to-v2", "v2-raw-slot-bytes", "v2-zone-4G"),
)


@pytest.mark.parametrize("name", MADE_BY_MKFS)
def test_a_new_volume_is_clean(name):
    io = MemoryIO({"m": images.load(name, "meta"), "d": images.load(name, "data")})
    with Device.open("m", io=io) as meta, Device.open("d", io=io) as data:
        report = check_volume(meta, data).report
    assert not report.counts


class _Changing(MemoryIO):
    """A volume on which somebody commits just when the first leaf is about to be read, so many times.

    The leaf and its parent get new sequence numbers, or stay as they are: something else was changed.
    """

    def __init__(self, volume: Corruption, *, times: int, moves_the_leaf: bool) -> None:
        super().__init__({"meta": volume.meta})
        self._volume, self._times, self._moves_the_leaf = volume, times, moves_the_leaf
        self._root, self._leaf = volume.path()

    def pread(self, fd, buffer, offset):
        if offset == self._leaf * LARGE and self._times:
            self._times -= 1
            self._commit(1000 + self._times)
        return super().pread(fd, buffer, offset)

    def _commit(self, seq: int) -> None:
        volume = self._volume
        if self._moves_the_leaf:
            place = read_items(volume.block(self._root), "").items[0].val_off
            volume.poke(self._leaf, 16, "Q", seq)
            volume.poke(self._root, place + 8, "Q", seq)
            volume.poke(self._root, 16, "Q", seq)
        volume.change_super(lambda parsed: parsed.hdr.update({"seq": parsed.hdr.seq + 1}))
        if self._moves_the_leaf:
            volume.change_super(lambda parsed: parsed.fs_root.ref.update({"seq": seq}))


def check_changing(times, *, damaged=False):
    volume = Corruption(SMALL)
    if damaged:
        volume.change_block(first_leaf(volume), lambda data: data.__setitem__(4000, data[4000] ^ 1), sealed=False)
    with Device.open("meta", io=_Changing(volume, times=times, moves_the_leaf=not damaged)) as meta:
        return check_volume(meta, None)


def test_a_volume_that_changes_is_checked_anew():
    outcome = check_changing(2)
    assert outcome.attempts == 3
    assert not outcome.report.errors


def test_damage_is_found_while_the_volume_changes():
    outcome = check_changing(10 * ATTEMPTS_MAX, damaged=True)
    assert outcome.report.counts[Kind.BLOCK_CHECKSUM] == 1
    assert outcome.attempts == 2


def test_a_volume_that_changes_all_the_time_is_given_up():
    with pytest.raises(ScoutfsError, match="changes faster than it can be checked") as caught:
        check_changing(10 * ATTEMPTS_MAX)
    assert caught.value.errno == errno.EBUSY


class _Failing(MemoryIO):
    """A device of which one block cannot be read."""

    def __init__(self, volume, blkno):
        super().__init__({"meta": volume.meta})
        self._offset = blkno * LARGE

    def pread(self, fd, buffer, offset):
        if offset == self._offset:
            raise OSError(errno.EIO, "Input/output error")
        return super().pread(fd, buffer, offset)


def test_a_block_that_cannot_be_read_is_named():
    volume = Corruption(SMALL)
    blkno = first_leaf(volume)
    with Device.open("meta", io=_Failing(volume, blkno)) as meta:
        report = check_volume(meta, None).report
    found = [finding for finding in report.findings() if finding.kind is Kind.BLOCK_UNREADABLE]
    assert [(finding.where, finding.details["blkno"]) for finding in found] == [("fs_root", blkno)]
    assert report.errors == 1


def test_very_many_wrong_blocks_of_data_are_one_finding(monkeypatch):
    monkeypatch.setattr("scoutfs.fsck.reconcile._DETAILED_BUCKETS", 0)
    volume = Corruption(SMALL)
    volume.change_super(lambda parsed: parsed.data_alloc.root.update({"height": 0}))
    volume.change_super(lambda parsed: parsed.data_alloc.root.ref.update({"blkno": 0}))
    report = volume.check().report
    assert report.counts[Kind.DATA_UNACCOUNTED] == 1


def test_without_a_super_block_there_is_no_volume():
    volume = Corruption("mkfs-v2")
    volume.meta.write(SUPER, bytes(4096))
    with pytest.raises(ScoutfsError, match="there is no ScoutFS super block"):
        volume.check()


def test_a_later_format_version_is_refused():
    volume = Corruption("mkfs-v2")
    block = bytearray(volume.meta.read(SUPER, 4096))
    block[40] = 3
    volume.meta.write(SUPER, seal(block, 4096))
    with pytest.raises(ScoutfsError, match="does not know that format version"):
        volume.check()


def test_who_shares_a_block_is_said():
    volume = Corruption(SMALL)
    head = volume.super.server_meta_avail[0]
    leaf = first_leaf(volume)
    start = struct.unpack_from("<I", volume.block(head.ref.blkno), 48)[0]
    volume.poke(head.ref.blkno, 56 + 8 * start, "Q", leaf)
    texts = [finding.text for finding in volume.check().report.findings()]
    assert f"metadata: block {leaf} belongs to fs_root and server_meta_avail[0]" in texts


def test_progress_goes_up_to_what_was_read():
    seen: list[Progress] = []
    volume = Corruption(SMALL)
    io = MemoryIO({"meta": volume.meta})
    with Device.open("meta", io=io) as meta:
        outcome = check_volume(meta, None, progress=seen.append)
    assert [progress.blocks for progress in seen] == list(range(1, outcome.summary["metadata_blocks_read"] + 1))
    assert all(0 < progress.blocks <= progress.expected for progress in seen)


def test_a_report_keeps_a_few_and_counts_all():
    report = Report(keep=3)
    for ino in range(10):
        report.add(Kind.ORPHAN, f"inode {ino}")
    report.add(Kind.INODE_NLINK, "inode 5", stored=1, expected=2)
    assert next(finding.text for finding in report.findings()) == "inode 5: nlink is 1, 2 would be right"
    assert len(report.findings()) == 4
    assert (report.counts[Kind.ORPHAN], report.errors) == (10, 1)


def test_little_memory_is_needed():
    volume = Corruption("crash1-D_merge")
    volume.check()
    tracemalloc.start()
    try:
        volume.check()
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()
