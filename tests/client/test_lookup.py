"""What a client concludes from the blocks: which server, whether it is gone, what holds it back."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from format.quorum import Event, QuorumConfig, SlotAddress
from scoutfs.client.lookup import Quorum, find, has_left, held_back_text, read_quorum
from scoutfs.errors import ScoutfsError
from tests import images
from tests.memory import Image
from tests.server.fakes import FakeVolume
from tests.server.test_statfs import SYNTHETIC, MetadataOnly

US, B, C = 0xA1, 0xB2, 0xC3


def volume_of(slots: int) -> FakeVolume:
    return FakeVolume(QuorumConfig(1, {slot: SlotAddress(f"10.0.0.{slot + 1}", 12345) for slot in range(slots)}))


def quorum_of(volume: FakeVolume) -> Quorum:
    return read_quorum(volume)


def test_the_latest_leader_is_the_server() -> None:
    volume = volume_of(3)
    assert find(quorum_of(volume)) is None
    volume.elected(0, US, 3)
    volume.elected(2, C, 5)
    server = find(quorum_of(volume))
    assert server is not None
    assert (server.leader.slot, server.leader.term, str(server.address)) == (2, 5, "10.0.0.3:12345")
    volume.record(2, Event.STOP, C, 5)
    assert find(quorum_of(volume)) is None, "the older one was fenced"


def test_w11_an_unreadable_block_is_no_obstacle_if_another_slot_answers() -> None:
    volume = volume_of(3)
    volume.elected(0, US, 3)
    volume.break_block(1)
    quorum = quorum_of(volume)
    assert find(quorum) is not None
    assert quorum.unreadable == [1]


def test_an_unreadable_super_block_is_one() -> None:
    volume = volume_of(3)
    volume.super_error = ScoutfsError("/dev/meta: gone", errno.EIO)
    with pytest.raises(ScoutfsError):
        read_quorum(volume)


def test_what_cannot_be_read_says_nothing() -> None:
    volume = volume_of(3)
    volume.super_error = ScoutfsError("gone", errno.EIO)
    assert not has_left(volume, US)


def test_a_mount_is_gone_when_its_record_is(tmp_path: Path) -> None:
    """A server records every mount before it accepts it (spec 03 §11 I6)."""
    volume = MetadataOnly(Image.of_file(images.unpack(SYNTHETIC, "meta", tmp_path / "m")))
    assert not has_left(volume, 0x0011223344556677)
    assert has_left(volume, 0x1234)
    volume.write(1120 * 65536 + 3000, b"x")
    assert not has_left(volume, 0x1234), "a stale block says nothing"


def test_the_reasons_for_being_held_back() -> None:
    volume = volume_of(3)
    for slot, rid in enumerate((US, B, C)):
        volume.record(slot, Event.BEGIN, rid, 1)
    volume.record(2, Event.END, C, 1)
    quorum = quorum_of(volume)
    assert held_back_text(quorum, US, True, "") == (
        "the last 2 quorum members leave together, after every mount without a quorum slot: "
        "unmount slot 1 at 10.0.0.2 too, as far as it still runs"
    )
    assert held_back_text(quorum, 0x99, False, "") == "the server has not answered yet"
    assert "no quorum slot has a leader" in held_back_text(quorum, US, True, "no quorum slot has a leader")
    volume.record(1, Event.END, B, 1)
    assert "the last quorum member leaves after every mount" in held_back_text(quorum_of(volume), US, True, "")
