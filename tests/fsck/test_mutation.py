"""Whatever is on the devices, a check ends, and either says what is wrong or refuses with a reason."""

from __future__ import annotations

import functools
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from format.block import seal
from scoutfs.errors import ScoutfsError
from scoutfs.fsck.check import check_volume
from scoutfs.storage.device import Device
from tests.fsck.corruption import LARGE, SMALL, SUPER, Corruption
from tests.memory import MemoryIO

VOLUMES = ("crash1-D_merge", "multi3-M3_reclaimed", SMALL)


class _Recorder(MemoryIO):
    def __init__(self, images):
        super().__init__(images)
        self.read = set()

    def pread(self, fd, buffer, offset):
        if len(buffer) == LARGE:
            self.read.add(offset // LARGE)
        return super().pread(fd, buffer, offset)


@functools.cache
def blocks_in_use(name: str) -> list[int]:
    """The blocks that a check of the volume reads."""
    volume = Corruption(name)
    io = _Recorder({"meta": volume.meta})
    with Device.open("meta", io=io) as meta:
        check_volume(meta, None)
    return sorted(io.read)


NUMBERS = st.one_of(st.sampled_from([0, 1, 2, 0xFF, 0xFFFF, 2**32 - 1, 2**63, 2**64 - 1]), st.integers(0, 2**64 - 1))
# Most of a block is empty: what is at its start and at the start of its items matters more.
OFFSETS = st.one_of(st.integers(32, 600), st.integers(4, LARGE - 8))


@pytest.mark.parametrize("name", VOLUMES)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_changed_blocks(name, data):
    volume = Corruption(name)
    used = blocks_in_use(name)
    for _ in range(data.draw(st.integers(1, 4))):
        blkno = data.draw(st.sampled_from(used))
        size = data.draw(st.sampled_from([1, 2, 4, 8]))
        new = data.draw(NUMBERS).to_bytes(8, "little")[:size]
        offset = data.draw(OFFSETS)
        volume.change_block(blkno, lambda block, at=offset, new=new: block.__setitem__(slice(at, at + len(new)), new))
    report = volume.check().report
    assert all(finding.text for finding in report.findings())


@settings(max_examples=25, deadline=None)
@given(offset=st.integers(32, 1480), number=NUMBERS, form=st.sampled_from("BHIQ"))
def test_changed_super_block(offset, number, form):
    volume = Corruption("crash1-D_merge")
    block = bytearray(volume.meta.read(SUPER, 4096))
    struct.pack_into("<" + form, block, offset, number % (1 << 8 * struct.calcsize(form)))
    volume.meta.write(SUPER, seal(block, 4096))
    if block[40:48] not in (b"\1" + bytes(7), b"\2" + bytes(7)):
        with pytest.raises(ScoutfsError, match="format version"):
            volume.check()
        return
    report = volume.check().report
    assert all(finding.text for finding in report.findings())


@pytest.mark.parametrize("name", VOLUMES)
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_swapped_blocks(name, data):
    volume = Corruption(name)
    used = blocks_in_use(name)
    one, other = data.draw(st.sampled_from(used)), data.draw(st.sampled_from(used))
    header = volume.block(one)[:32]
    body = volume.block(other)[32:]
    volume.meta.write(one * LARGE, seal(header + body, LARGE))
    report = volume.check().report
    assert all(finding.text for finding in report.findings())
