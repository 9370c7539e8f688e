"""What a client concludes from the blocks: which server, whether it is gone, what holds it back."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from format.quorum import Event, QuorumConfig, SlotAddress
from scoutfs.client.lookup import Departure, Quorum, find, held_back_text, read_quorum
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


def test_a_mount_is_gone_when_all_other_members_have_left() -> None:
    volume = volume_of(3)
    volume.record(0, Event.BEGIN, US, 1)
    volume.record(1, Event.BEGIN, B, 1)
    departure = Departure(US, member=True)
    assert not departure.is_over(volume)
    volume.record(1, Event.END, B, 1)
    assert departure.is_over(volume)


def test_a_member_that_can_lead_alone_asks_its_own_server() -> None:
    volume = volume_of(2)
    volume.record(0, Event.BEGIN, US, 1)
    assert not Departure(US, member=True).is_over(volume)
    volume.record(0, Event.END, US, 1)
    assert Departure(C, member=False).is_over(volume)


@pytest.mark.parametrize("broken", ["block", "super"])
def test_what_cannot_be_read_says_nothing(broken: str) -> None:
    volume = volume_of(3)
    if broken == "block":
        volume.break_block(1)
    else:
        volume.super_error = ScoutfsError("gone", errno.EIO)
    assert not Departure(US, member=True).is_over(volume)


class Recorded(MetadataOnly):
    """The recorded volume with two mounted clients."""

    def read_quorum_blocks(self, slots):
        raise AssertionError("not asked while mounts are recorded")


def test_a_recorded_mount_is_gone_when_its_record_is(tmp_path: Path) -> None:
    """The rule of servers that keep records (spec 03 §3.2): absent after it was there, and only then."""
    volume = Recorded(Image.of_file(images.unpack(SYNTHETIC, "meta", tmp_path / "m")))
    present, absent = Departure(0x0011223344556677, member=True), Departure(0x1234, member=True)
    assert not present.is_over(volume)
    assert present.recorded
    assert not absent.is_over(volume), "never recorded: this server keeps no records"
    present.rid = 0x1234
    assert present.is_over(volume)
    volume.write(1120 * 65536 + 3000, b"x")
    assert not present.is_over(volume), "a stale block says nothing"


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
