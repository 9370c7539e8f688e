"""Changes are whole or not there, whatever fails, and those that share a commit with one that fails are made."""

from __future__ import annotations

import errno
import functools
import itertools

import pytest

from format.quorum import SlotAddress
from scoutfs.errors import ScoutfsError
from scoutfs.metadata.commit import ServerVolume
from scoutfs.server.committed_volume import Change, Transactions, VolumeLost
from scoutfs.server.inode_numbers import allocate_inodes
from scoutfs.server.items import Refused
from scoutfs.server.log_trees import next_trees, open_transaction
from scoutfs.server.mounted_clients import RecordedMount, record, recorded_mounts
from scoutfs.storage.volume import SUPER_OFFSET, Volume
from tests.memory import Image
from tests.metadata.servers import Recording, damage
from tests.server.mounts import copied, new_images


@functools.cache
def _new() -> dict[str, Image]:
    return new_images(1 << 30, 1 << 30)


class World:
    def __init__(self) -> None:
        self.images = copied(_new())
        self.io = Recording(self.images)
        self.volume = Volume.open("data", "meta", io=self.io)
        self.transactions = Transactions(self.volume, new_seq=itertools.count(1).__next__)

    def run(self, *makes) -> list[Change]:
        changes = [Change(make) for make in makes]
        self.transactions.run(changes)
        return changes

    def rids(self) -> list[int]:
        """What is on the device."""
        return [mount.rid for mount in recorded_mounts(Transactions(self.volume).current)]

    @property
    def seq(self) -> int:
        return self.transactions.stable.raw.hdr.seq


def mount(rid: int):
    def make(volume: ServerVolume) -> int:
        record(volume, RecordedMount(rid, True, SlotAddress("10.0.0.9", 1)))
        return rid

    return make


def broken(volume: ServerVolume) -> None:
    mount(99)(volume)
    volume.next_ino += 1000
    open_transaction(volume, next_trees(99, None), 1)
    raise ScoutfsError("the middle of a change", errno.EIO)


def refused(volume: ServerVolume) -> None:
    raise Refused("no", errno.ENOENT)


def test_changes_share_a_commit() -> None:
    world = World()
    seq = world.seq
    changes = world.run(*map(mount, range(1, 20)))
    assert [change.result for change in changes] == list(range(1, 20))
    assert world.seq == seq + 1
    assert world.rids() == list(range(1, 20))


def test_one_that_is_refused_does_not_concern_the_others() -> None:
    world = World()
    one, two, three = world.run(mount(1), refused, mount(2))
    assert (one.error, two.error.errno, three.error) == (None, errno.ENOENT, None)
    assert world.rids() == [1, 2]


def test_one_that_fails_in_the_middle_is_undone_and_the_others_are_made() -> None:
    world = World()
    seq = world.seq
    changes = world.run(mount(1), functools.partial(allocate_inodes, count=5), broken, mount(2))
    assert [change.error is None for change in changes] == [True, True, False, True]
    assert world.rids() == [1, 2]
    assert world.seq == seq + 1
    assert world.transactions.stable.raw.next_ino == 1029
    assert damage(world.images) == []


def test_nothing_is_written_when_nothing_changes() -> None:
    world = World()
    world.io.log.clear()
    world.run(recorded_mounts, refused)
    assert world.io.log == []


def test_numbers_are_not_given_again_by_a_change_that_is_undone() -> None:
    world = World()
    seen: list[int] = []

    def number(volume: ServerVolume) -> None:
        seen.append(volume.next_seq())
        mount(1)(volume)
        if len(seen) == 1:
            raise ScoutfsError("once", errno.EIO)

    world.run(number)
    world.run(number)
    assert seen[1] > seen[0]
    assert world.transactions.stable.raw.seq >= seen[1]


def test_many_changes_take_as_many_commits_as_there_is_room_for() -> None:
    world = World()

    def large(rid: int, volume: ServerVolume) -> None:
        open_transaction(volume, next_trees(rid, None), 40)

    changes = world.run(*(functools.partial(large, rid) for rid in range(1, 41)))
    assert [change.error for change in changes] == [None] * 40
    assert damage(world.images) == []


@pytest.mark.parametrize("fails_at", range(1, 8))
def test_a_commit_that_fails_has_changed_nothing_or_all(fails_at: int) -> None:
    world = World()
    world.run(mount(1))
    seq = world.seq
    world.io.fails_at = fails_at
    (change,) = world.run(mount(2))
    world.io.fails_at = 0
    assert world.rids() == ([1] if change.error else [1, 2])
    assert world.seq == seq + (change.error is None)
    assert damage(world.images) == []
    (change,) = world.run(mount(3))
    assert change.error is None
    assert world.rids() == ([1, 3] if world.seq == seq + 1 else [1, 2, 3])
    assert damage(world.images) == []


def test_a_super_block_that_was_written_though_that_failed_counts() -> None:
    world = World()
    write = world.io.pwrite

    def fails_late(fd, buffer, offset, *, durable=False):
        write(fd, buffer, offset, durable=durable)
        if offset == SUPER_OFFSET:
            raise OSError(errno.EIO, "Input/output error")
        return len(buffer)

    world.io.pwrite = fails_late  # type: ignore[method-assign]
    (change,) = world.run(mount(2))
    world.io.pwrite = write  # type: ignore[method-assign]
    assert change.error is None
    assert world.rids() == [2]
    world.run(mount(3))
    assert world.rids() == [2, 3]
    assert damage(world.images) == []


def test_nothing_is_written_any_more_when_another_has_written_the_super_block() -> None:
    world = World()
    other = Transactions(world.volume, new_seq=itertools.count(1000).__next__)
    for rid in (5, 6, 7):
        other.run([Change(mount(rid))])
    world.io.fails_at = 1
    with pytest.raises(VolumeLost, match="another server"):
        world.run(mount(1))


def test_a_mistake_in_the_program_commits_nothing() -> None:
    world = World()

    def wrong(volume: ServerVolume) -> None:
        mount(9)(volume)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        world.run(mount(1), wrong)
    assert world.rids() == []
