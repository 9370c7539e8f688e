"""Updates of a slot's own block: read, verified, changed, written (spec 02 §5.2)."""

from __future__ import annotations

import contextlib
import errno
import struct
import time
from pathlib import Path

import pytest

from format.quorum import Event
from scoutfs.quorum.blocks import QuorumBlockError, update_block
from tests.faults import BadSectors
from tests.quorum.members import Disk

RID = 0xA1A2A3A4A5A6A7A8
BLOCK_OF_2 = range(19 * 4096, 20 * 4096)


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path)


def test_updates_are_on_disk_as_the_specification_lays_them_out(disk: Disk) -> None:
    before = disk.raw()
    start = time.monotonic_ns()
    with contextlib.closing(disk.open()) as volume:
        update_block(volume, 2, Event.BEGIN, RID, 0)
        update_block(volume, 2, Event.TERM, RID, 7)
        update_block(volume, 2, Event.ELECT, RID, 7)
        update_block(volume, 2, Event.TERM, RID, 9)
    after = disk.raw()
    block = after[3 * 4096 : 4 * 4096]
    assert after[: 3 * 4096] + after[4 * 4096 :] == before[: 3 * 4096] + before[4 * 4096 :]
    magic, fsid, seq, blkno, write_nr = struct.unpack_from("<4xIQQQQ", block)
    assert (magic, fsid, seq, blkno, write_nr) == (0xBC310868, disk.fsid, 1, 19, 4)
    events = [struct.unpack_from("<QQQQI", block, 40 + 40 * nr) for nr in range(6)]
    assert [event[:3] for event in events] == [(1, RID, 0), (4, RID, 9), (3, RID, 7), (0, 0, 0), (0, 0, 0), (0, 0, 0)]
    times = [events[nr][3] * 1_000_000_000 + events[nr][4] for nr in (0, 2, 1)]
    assert start <= times[0] <= times[1] <= times[2] <= time.monotonic_ns()
    disk.block(2)  # verifies the checksum


@pytest.mark.parametrize("event", [event for event in Event if event is not Event.BEGIN])
def test_an_event_is_refused_once_another_mount_has_begun(disk: Disk, event: Event) -> None:
    with contextlib.closing(disk.open()) as volume:
        update_block(volume, 2, Event.BEGIN, RID, 0)
        disk.change(2, (Event.BEGIN, 0xBEEF, 0))
        before = disk.raw()
        with pytest.raises(QuorumBlockError, match="several mounts configured with this slot") as caught:
            update_block(volume, 2, event, RID, 1)
        assert caught.value.errno == errno.EIO
        assert "000000000000beef" in str(caught.value)
        assert disk.raw() == before


def test_begin_takes_the_slot_of_an_earlier_mount(disk: Disk) -> None:
    disk.change(2, (Event.BEGIN, 0xBEEF, 3), (Event.ELECT, 0xBEEF, 4))
    with contextlib.closing(disk.open()) as volume:
        update_block(volume, 2, Event.BEGIN, RID, 4)
    block = disk.block(2)
    assert (block.write_nr, block.event(Event.BEGIN).rid, block.event(Event.ELECT).rid) == (3, RID, 0xBEEF)


@pytest.mark.parametrize("event", Event)
def test_a_damaged_block_is_never_overwritten(disk: Disk, event: Event) -> None:
    with disk.meta.open("r+b") as file:
        file.seek(BLOCK_OF_2.start + 100)
        file.write(b"x")
    before = disk.raw()
    with contextlib.closing(disk.open()) as volume:
        with pytest.raises(QuorumBlockError, match=r"error reading quorum block 19 of slot 2 for event .*: crc is "):
            update_block(volume, 2, event, RID, 1)
    assert disk.raw() == before


@pytest.mark.parametrize(("reads", "doing"), [(True, "reading"), (False, "writing")])
def test_errors_of_the_device_name_event_and_term(disk: Disk, reads: bool, doing: str) -> None:
    with contextlib.closing(disk.open(BadSectors(BLOCK_OF_2, reads=reads, writes=not reads))) as volume:
        with pytest.raises(QuorumBlockError) as caught:
            update_block(volume, 2, Event.BEGIN, RID, 6)
    assert caught.value.errno == errno.EIO
    assert f"error {doing} quorum block 19 of slot 2 for event BEGIN of term 6" in str(caught.value)
    assert "Input/output error" in str(caught.value)


@pytest.mark.parametrize("term", [2**64, -1])
def test_terms_that_do_not_fit_are_refused(disk: Disk, term: int) -> None:
    before = disk.raw()
    with contextlib.closing(disk.open()) as volume:
        with pytest.raises(QuorumBlockError, match="used up"):
            update_block(volume, 2, Event.BEGIN, RID, term)
    assert disk.raw() == before


def test_the_greatest_term_fits(disk: Disk) -> None:
    with contextlib.closing(disk.open()) as volume:
        update_block(volume, 2, Event.BEGIN, 2**64 - 1, 2**64 - 1)
    assert disk.block(2).event(Event.BEGIN).term == 2**64 - 1
