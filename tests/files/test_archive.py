"""Releasing, staging, punching and moving; expectations are what the kernel stored of files made alike."""

from __future__ import annotations

import errno
import stat
from typing import Any

import pytest

from scoutfs.errors import ScoutfsError
from scoutfs.files.allocation import Preallocation, request
from scoutfs.files.archive import punch_offline, release, release_behind_end, stage
from scoutfs.files.attr_x import NewAttrX, set_attr_x
from scoutfs.files.caller import ROOT
from scoutfs.files.change import Change
from scoutfs.files.extents_writing import extent_at
from scoutfs.files.move_blocks import Move, move_blocks
from scoutfs.files.truncate import finish_truncate, set_size
from scoutfs.files.writing import preallocate, write
from tests.files.world import BLOCK, ROOT_INO, World


def written(world: World, name: bytes, size: int) -> int:
    """Write a file block by block, as the kernel did; its version is the number of blocks."""
    ino = world.make(name)
    for offset in range(0, size, BLOCK):
        piece = bytes([offset // BLOCK % 250 + 1]) * min(BLOCK, size - offset)
        world.perform(write, ino, offset, piece, ROOT)
    return ino


def through(world: World, operation: Any, ino: int, offset: int, length: int, *arguments: Any) -> int:
    """Run the steps of an operation on a range; return how many they were."""
    end, count = offset + length, 0
    while offset < end:
        offset = world.perform(operation, ino, offset, end - offset, *arguments)
        world.commit()
        count += 1
    return count


def layout(world: World, ino: int) -> list[tuple[int, int, int]]:
    """Return start, length and flags of the extents of a file."""
    return [(extent.start, extent.length, extent.flags) for extent in world.extents(ino)]


def refused(world: World, operation: Any, *arguments: Any) -> int:
    """Return the errno that an operation is refused with."""
    with pytest.raises(ScoutfsError) as error:
        world.perform(operation, *arguments)
    return error.value.errno


def test_the_files_of_a_recorded_volume() -> None:
    """`archive` of the volume rich-v2-merged: extents and counters."""
    world = World()
    all_of_it = written(world, b"rel_all", 100_000)
    before = world.inode(all_of_it)
    world.tick()
    through(world, release, all_of_it, 0, 25 * BLOCK, 25)
    assert world.steps(release_behind_end, all_of_it)
    after = world.inode(all_of_it)
    assert layout(world, all_of_it) == [(0, 25, 1)]
    assert after == before._replace(online_blocks=0, offline_blocks=25, meta_seq=after.meta_seq)
    tail = written(world, b"rel_tail", 50_001)
    through(world, release, tail, 10 * BLOCK, 3 * BLOCK, 13)
    assert world.perform(release_behind_end, tail)
    assert layout(world, tail) == [(0, 10, 0), (10, 3, 1), (13, 3, 2)]
    part = written(world, b"rel_part_staged", 163_840)
    contents = world.contents(part)
    through(world, release, part, 0, 40 * BLOCK, 40)
    world.steps(release_behind_end, part)
    before = world.inode(part)
    assert world.perform(stage, part, 8 * BLOCK, contents[8 * BLOCK : 20 * BLOCK], 40) == 12 * BLOCK
    assert layout(world, part) == [(0, 8, 1), (8, 12, 0), (20, 20, 3)]
    after = world.inode(part)
    expected = {"online_blocks": 12, "offline_blocks": 28, "version": before.version + 1, "meta_seq": after.meta_seq}
    assert after == before._replace(**expected)
    for offset, end in ((0, 8), (20, 40)):
        world.perform(stage, part, offset * BLOCK, contents[offset * BLOCK : end * BLOCK], 40)
    assert (layout(world, part), world.contents(part)) == ([(0, 8, 0), (8, 32, 0)], contents)
    punched = written(world, b"punched", 81_920)
    through(world, release, punched, 0, 20 * BLOCK, 20)
    world.steps(release_behind_end, punched)
    through(world, punch_offline, punched, 4 * BLOCK, 6 * BLOCK, 20)
    assert layout(world, punched) == [(0, 4, 1), (10, 10, 1)]
    assert world.inode(punched).version == 21
    world.check()


def test_the_end_of_a_file_is_staged_with_zeros() -> None:
    world = World()
    ino = written(world, b"f", 10_000)
    through(world, release, ino, 0, 3 * BLOCK, 3)
    world.steps(release_behind_end, ino)
    assert world.perform(stage, ino, 0, b"x" * 10_000, 3) == 10_000
    assert world.contents(ino) == b"x" * 10_000
    assert world.inode(ino).data_version == 3


def test_releasing_in_pieces() -> None:
    world = World()
    world.scribble(4)
    world.space.run_max = 1
    ino = world.make(b"f")
    for number in range(0, 40, 2):
        world.perform(write, ino, number * BLOCK, b"x" * BLOCK, ROOT, Preallocation(1))
    world.perform(preallocate, ino, 100 * BLOCK, 4 * BLOCK, keep_size=True)
    version = world.inode(ino).data_version
    assert through(world, release, ino, 0, 64 * BLOCK, version) == 3
    assert (world.inode(ino).online_blocks, world.inode(ino).offline_blocks) == (0, 20)
    world.steps(release_behind_end, ino)
    assert not world.space.used
    assert through(world, punch_offline, ino, 0, 64 * BLOCK, version) == 1
    assert layout(world, ino) == []
    world.check()


def test_what_the_archive_is_refused() -> None:
    world = World()
    ino, pipe = written(world, b"f", 5000), world.make(b"p", stat.S_IFIFO)
    huge = 2**64 - BLOCK
    for operation, arguments, expected in (
        (release, (ino, 0, BLOCK, 1), errno.ESTALE),
        (release, (ino, 1, BLOCK, 2), errno.EINVAL),
        (release, (ino, huge, BLOCK, 2), errno.EINVAL),
        (release, (pipe, 0, BLOCK, 0), errno.EINVAL),
        (stage, (ino, 0, b"x" * BLOCK, 1), errno.ESTALE),
        (stage, (ino, 1, b"x", 2), errno.EINVAL),
        (stage, (ino, 0, b"x", 2), errno.EINVAL),
        (stage, (ino, 0, b"x" * 2 * BLOCK, 2), errno.EINVAL),
        (stage, (pipe, 0, b"", 0), errno.EINVAL),
        (punch_offline, (ino, 0, BLOCK, 1), errno.ESTALE),
        (punch_offline, (ino, 1, BLOCK, 2), errno.EOVERFLOW),
        (punch_offline, (ino, huge, BLOCK, 2), errno.EOVERFLOW),
        (punch_offline, (ino, 0, BLOCK, 2), errno.EINVAL),
        (punch_offline, (pipe, 0, BLOCK, 0), errno.EINVAL),
    ):
        assert refused(world, operation, *arguments) == expected, (operation, arguments)
    for operation in (release, punch_offline):
        assert world.perform(operation, ino, 7, 0, 99) == 7
    assert world.perform(stage, ino, 0, b"", 2) == 0
    world.perform(set_attr_x, ino, NewAttrX(retention=True), ROOT)
    assert refused(world, punch_offline, ino, 0, BLOCK, 2) == errno.EPERM
    through(world, release, ino, 0, 2 * BLOCK, 2)
    assert world.perform(stage, ino, 0, b"x" * 5000, 2) == 5000


def test_moving() -> None:
    """`files/mv_from` and `files/mv_to` of the volume rich-v2-merged, made of 16 blocks."""
    world = World()
    source, target = written(world, b"from", 65_536), world.make(b"to")
    contents = world.contents(source)
    now = world.tick()
    assert world.perform(move_blocks, Move(source, 2 * BLOCK, 8 * BLOCK, target, 0)) == 8 * BLOCK
    assert [extent[:2] for extent in layout(world, source)] == [(0, 2), (10, 6)]
    assert layout(world, target) == [(0, 8, 0)]
    assert world.contents(target) == contents[2 * BLOCK : 10 * BLOCK]
    assert world.contents(source) == contents[: 2 * BLOCK] + bytes(8 * BLOCK) + contents[10 * BLOCK :]
    from_inode, to_inode = world.inode(source), world.inode(target)
    assert (from_inode.size, from_inode.version, from_inode.data_version, from_inode.online_blocks) == (
        65_536,
        18,
        17,
        8,
    )
    assert (to_inode.size, to_inode.version, to_inode.data_version, to_inode.online_blocks) == (32_768, 2, 1, 8)
    assert {from_inode.mtime, to_inode.mtime, from_inode.ctime, to_inode.ctime} == {now}
    world.check()


def test_moving_what_comes_back_from_the_archive() -> None:
    world = World()
    archived, source = world.make(b"f"), written(world, b"new", 10_000)
    world.perform(set_attr_x, archived, NewAttrX(size=10_000, data_version=7, size_offline=True), ROOT)
    before = world.inode(archived)
    world.tick()
    move = Move(source, 0, 10_000, archived, 0, stage=True, data_version=7)
    assert refused(world, move_blocks, move._replace(data_version=6)) == errno.ESTALE
    assert world.perform(move_blocks, move) == 10_000
    after = world.inode(archived)
    assert after == before._replace(online_blocks=3, offline_blocks=0, meta_seq=after.meta_seq)
    assert world.contents(archived) == bytes([1]) * BLOCK + bytes([2]) * BLOCK + bytes([3]) * (10_000 - 2 * BLOCK)
    other = written(world, b"other", 10_000)
    assert refused(world, move_blocks, move._replace(from_ino=other)) == errno.EINVAL
    assert refused(world, move_blocks, move._replace(from_ino=other, to_offset=8 * BLOCK)) == errno.ENOENT
    world.check()


def test_moving_in_pieces() -> None:
    world = World()
    world.scribble(5)
    world.space.run_max = 1
    source, target = world.make(b"from"), world.make(b"to")
    for number in range(0, 40, 2):
        world.perform(write, source, number * BLOCK, bytes([number + 1]) * BLOCK, ROOT, Preallocation(1))
    contents = world.contents(source)
    done = count = 0
    while done < 39 * BLOCK:
        done += world.perform(move_blocks, Move(source, done, 39 * BLOCK - done, target, BLOCK + done))
        world.commit()
        count += 1
        world.check()
    assert count == 2
    assert world.contents(target) == bytes(BLOCK) + contents
    assert world.contents(source) == bytes(39 * BLOCK)


def test_what_moving_is_refused() -> None:
    """In the order of spec 06 §6.1."""
    world = World()
    source, target, archived = written(world, b"a", 10_000), written(world, b"b", 5000), world.make(b"c")
    world.perform(set_attr_x, archived, NewAttrX(size=10_000, data_version=7, size_offline=True), ROOT)
    directory, retained = world.make(b"d", stat.S_IFDIR), written(world, b"r", BLOCK)
    pipe = world.make(b"p", stat.S_IFIFO)
    world.perform(set_attr_x, retained, NewAttrX(retention=True), ROOT)
    move = Move(source, 0, BLOCK, target, 2 * BLOCK)
    for changes, expected in (
        ({"length": 2**64}, errno.EOVERFLOW),
        ({"to_ino": source}, errno.EINVAL),
        ({"to_ino": retained, "from_offset": 1}, errno.EPERM),
        ({"from_ino": retained, "from_offset": 1}, errno.EPERM),
        ({"from_offset": 1}, errno.EINVAL),
        ({"to_offset": 1}, errno.EINVAL),
        ({"length": 5}, errno.EINVAL),
        ({"from_ino": ROOT_INO}, errno.EISDIR),
        ({"to_ino": directory}, errno.EISDIR),
        ({"to_ino": pipe}, errno.EINVAL),
        ({"from_ino": archived}, errno.ENODATA),
        ({"to_ino": archived}, errno.ENODATA),
        ({"to_offset": 0}, errno.EINVAL),
    ):
        assert refused(world, move_blocks, move._replace(**changes)) == expected, changes
    assert world.perform(move_blocks, move._replace(length=0)) == 0
    assert world.perform(move_blocks, move._replace(from_offset=3 * BLOCK)) == BLOCK
    world.perform(set_size, target, 100, ROOT)
    assert refused(world, move_blocks, move) == errno.EAGAIN
    world.steps(finish_truncate, target)
    assert world.perform(move_blocks, move._replace(from_offset=2 * BLOCK, length=10_000 - 2 * BLOCK)) == 1808
    assert world.inode(target).size == 2 * BLOCK + 1808


def test_regions() -> None:
    """Spec 06 §5.7: what is asked for stays within a region, and before what is there."""
    world = World()
    ino = world.make(b"f")
    options = Preallocation(16, contig_only=False)
    for number in (3, 40, 44):
        world.perform(write, ino, number * BLOCK, b"x", ROOT, Preallocation(1))

    def asked(change: Change, block: int, online: int) -> tuple[int, int]:
        (inode,) = change.open(ino)
        return request(change, inode._replace(online_blocks=online), block, extent_at(change, ino, block), options)

    for block, online, expected in (
        (20, 100, (16, 16)),
        (20, 5, (16, 5)),
        (20, 0, (16, 1)),
        (2, 100, (0, 3)),
        (5, 100, (5, 11)),
        (42, 100, (42, 2)),
        (47, 100, (47, 1)),
        (33, 100, (32, 8)),
    ):
        assert world.perform(asked, block, online) == expected, block
