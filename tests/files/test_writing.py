"""Contents of files: extents, allocation ahead, truncation, what is offline."""

from __future__ import annotations

import errno
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from format.extent import ExtentFlag
from format.inode import InodeFlag
from scoutfs.errors import ScoutfsError
from scoutfs.files.allocation import Preallocation
from scoutfs.files.attr_x import NewAttrX, set_attr_x
from scoutfs.files.caller import ROOT, Caller, Capability
from scoutfs.files.change import Change
from scoutfs.files.data import DataExtent
from scoutfs.files.deletion import delete_some
from scoutfs.files.errors import FileError, NoSpace, OfflineError, TruncatePending
from scoutfs.files.extents_writing import insert_extent, set_extent
from scoutfs.files.linking import unlink
from scoutfs.files.move_blocks import Move, move_blocks
from scoutfs.files.truncate import finish_truncate, set_size
from scoutfs.files.writing import RUNS_MAX, SIZE_MAX, preallocate, write
from scoutfs.metadata.extents import InvalidExtent
from tests.files.world import BLOCK, ROOT_INO, World

SINGLE = Preallocation(1)


def block(number: int) -> bytes:
    """Return contents that tell which block they are."""
    return bytes([number % 255 + 1]) * BLOCK


def put(world: World, ino: int, start: int, length: int, blkno: int, flags: int, *, insert: bool = False) -> None:
    """Change extents as the primitives do."""

    def operation(change: Change) -> None:
        (inode,) = change.open(ino)
        change.set((insert_extent if insert else set_extent)(change, inode, DataExtent(start, length, blkno, flags)))

    world.perform(operation)


def archived(size: int = 10 * BLOCK) -> tuple[World, int]:
    """Return a file that is in the archive."""
    world = World()
    ino = world.make(b"f")
    world.perform(set_attr_x, ino, NewAttrX(size=size, data_version=3, size_offline=True), ROOT)
    return world, ino


def test_the_sequence_of_the_specification() -> None:
    """Spec 06 §13: results of the original's functions."""
    world = World()
    ino = world.make(b"f")
    for number, (change, expected) in enumerate(
        (
            ((0, 8, 100, 2), [(0, 8, 100, 2)]),
            ((0, 1, 100, 0), [(0, 1, 100, 0), (1, 7, 101, 2)]),
            ((1, 1, 101, 0), [(0, 2, 100, 0), (2, 6, 102, 2)]),
            ((7, 1, 107, 0), [(0, 2, 100, 0), (2, 5, 102, 2), (7, 1, 107, 0)]),
            ((2, 3, 102, 0), [(0, 5, 100, 0), (5, 2, 105, 2), (7, 1, 107, 0)]),
            ((2, 3, 0, 1), [(0, 2, 100, 0), (2, 3, 0, 1), (5, 2, 105, 2), (7, 1, 107, 0)]),
            ((5, 3, 0, 1), None),
            ((0, 2, 0, 1), [(0, 5, 0, 1), (5, 2, 105, 2), (7, 1, 107, 0)]),
            ((3, 1, 0, 0), [(0, 3, 0, 1), (4, 1, 0, 1), (5, 2, 105, 2), (7, 1, 107, 0)]),
            ((3, 1, 500, 0), [(0, 3, 0, 1), (3, 1, 500, 0), (4, 1, 0, 1), (5, 2, 105, 2), (7, 1, 107, 0)]),
            ((2, 3, 0, 0), None),
        )
    ):
        if expected is None:
            with pytest.raises(InvalidExtent):
                put(world, ino, *change)
            continue
        put(world, ino, *change)
        assert world.extents(ino) == expected, number
        inode = world.inode(ino)
        assert inode.online_blocks == sum(length for _, length, blkno, flags in expected if blkno and not flags & 2)
        assert inode.offline_blocks == sum(length for _, length, _, flags in expected if flags & 1)
    with pytest.raises(InvalidExtent):
        put(world, ino, 3, 1, 0, 1, insert=True)


def lengths(options: Preallocation, order: list[int]) -> list[int]:
    """Return the extents of a file of which blocks are written in this order, each behind one of another file."""
    world = World()
    files = [world.make(name) for name in (b"a", b"b")]
    for number in order:
        for ino in files:
            world.perform(write, ino, number * BLOCK, block(number), ROOT, options)
    world.check()
    for ino in files:
        assert world.contents(ino) == b"".join(map(block, sorted(order)))
    runs: list[list[int]] = []
    for extent in world.extents(files[0]):
        if runs and extent.blkno and runs[-1][0] + runs[-1][1] == extent.blkno:
            runs[-1][1] += extent.length
        else:
            runs.append([extent.blkno, extent.length])
    return [length for _, length in runs]


def test_what_is_allocated_ahead() -> None:
    """Spec 06 §5.7: what the original's tests print."""
    ahead = Preallocation(32)
    assert lengths(ahead, list(range(64))) == [1, 1, 2, 4, 8, 16, 32]
    assert len(lengths(ahead, list(range(128)))) == 9
    assert len(lengths(ahead, list(range(32))[::-1])) == 32
    regions = Preallocation(16, contig_only=False)
    assert lengths(regions, list(range(64))) == [1, 1, 2, 4, 8, 16, 16, 16]
    assert len(lengths(regions, list(range(64))[::-1])) == 8


def test_a_write_of_many_blocks_has_one_extent() -> None:
    world = World()
    ino = world.make(b"f")
    data = b"".join(map(block, range(256)))
    assert world.perform(write, ino, 0, data, ROOT).length == len(data)
    assert [(extent.length, extent.flags) for extent in world.extents(ino)] == [(256, 0)]
    assert world.contents(ino) == data


def test_counters_and_times() -> None:
    """Spec 06 §5.6."""
    world = World()
    ino = world.make(b"f")
    created = world.inode(ino)
    world.commit()
    now = world.tick()
    world.perform(write, ino, 0, block(0), ROOT)
    written = world.inode(ino)
    assert (written.data_version, written.data_seq, written.meta_seq, written.version) == (1, 6, 6, 2)
    assert (written.mtime, written.ctime, written.atime) == (now, now, created.atime)
    assert (written.size, written.online_blocks, written.offline_blocks) == (BLOCK, 1, 0)
    world.commit()
    world.tick()
    assert world.perform(preallocate, ino, 0, 10 * BLOCK) == 10 * BLOCK
    ahead = world.inode(ino)
    assert ahead == written._replace(meta_seq=7, data_version=2, version=3, size=10 * BLOCK)
    world.perform(preallocate, ino, 10 * BLOCK, BLOCK + 5, keep_size=True)
    assert world.inode(ino) == ahead
    assert [extent[::3] for extent in world.extents(ino)] == [(0, 0), (1, ExtentFlag.UNWRITTEN)]
    now = world.tick()
    world.perform(set_size, ino, 10 * BLOCK, ROOT)
    truncated = world.inode(ino)
    assert (truncated.data_version, truncated.data_seq, truncated.mtime, truncated.ctime) == (2, 7, now, now)
    assert truncated.flags == InodeFlag.TRUNCATE
    assert world.steps(finish_truncate, ino) == 1
    assert [extent.end for extent in world.extents(ino)] == [1, 10]
    world.perform(set_size, ino, 10 * BLOCK + 1, ROOT)
    assert (world.inode(ino).data_version, world.inode(ino).flags) == (3, 0)
    world.check()


def test_a_truncation_that_is_pending() -> None:
    world = World()
    ino = world.make(b"f")
    world.space.run_max = 1
    world.scribble(1)
    for number in range(0, 40, 2):
        world.perform(write, ino, number * BLOCK, block(number), ROOT, SINGLE)
    world.perform(set_size, ino, BLOCK + 7, ROOT)
    world.check()
    for operation, arguments in (
        (write, (0, b"x", ROOT)),
        (set_size, (0, ROOT)),
        (preallocate, (0, 1)),
    ):
        with pytest.raises(TruncatePending):
            world.perform(operation, ino, *arguments)
    assert world.steps(finish_truncate, ino) == 3
    assert [extent.start for extent in world.extents(ino)] == [0]
    assert world.inode(ino).flags == 0
    assert world.perform(finish_truncate, ino)
    world.check()


def test_nothing_comes_back_when_a_file_grows() -> None:
    world = World()
    ino = world.make(b"f")
    world.perform(write, ino, 0, b"x" * 3 * BLOCK, ROOT)
    world.perform(set_size, ino, 5000, ROOT)
    world.steps(finish_truncate, ino)
    world.perform(set_size, ino, 20_000, ROOT)
    assert world.contents(ino) == b"x" * 5000 + bytes(15_000)
    world.perform(write, ino, 15_000, b"y", ROOT)
    assert world.contents(ino) == b"x" * 5000 + bytes(10_000) + b"y" + bytes(4999)


def test_garbage_behind_the_end_is_not_kept() -> None:
    world = World()
    ino = world.make(b"f")
    world.perform(write, ino, 0, b"x" * 100, ROOT)
    (extent,) = world.extents(ino)
    world.space.pages[extent.blkno] = b"x" * 100 + b"garbage".ljust(BLOCK - 100, b"!")
    world.perform(write, ino, 200, b"y", ROOT)
    assert world.contents(ino) == b"x" * 100 + bytes(100) + b"y"


@pytest.mark.parametrize("kind", ["size", "size in the block", "write", "preallocate", "move to", "move from"])
def test_garbage_behind_the_end_does_not_come_up_when_the_file_grows(kind: str) -> None:
    world = World()
    ino, other = world.make(b"f"), world.make(b"g")
    world.perform(write, ino, 0, b"x" * 100, ROOT)
    (extent,) = world.extents(ino)
    world.space.pages[extent.blkno] = b"x" * 100 + b"garbage".ljust(BLOCK - 100, b"!")
    match kind:
        case "size":
            world.perform(set_size, ino, 3 * BLOCK, ROOT)
        case "size in the block":
            world.perform(set_size, ino, 200, ROOT)
        case "write":
            world.perform(write, ino, 2 * BLOCK, bytes(BLOCK), ROOT)
        case "preallocate":
            world.perform(preallocate, ino, BLOCK, BLOCK)
        case "move to":
            world.perform(write, other, 0, bytes(BLOCK), ROOT)
            world.perform(move_blocks, Move(other, 0, BLOCK, ino, BLOCK))
        case "move from":
            world.perform(set_size, other, 2 * BLOCK, ROOT)
            world.perform(move_blocks, Move(ino, 0, 100, other, 0))
            ino = other
    contents = world.contents(ino)
    assert len(contents) > 100
    assert contents == (b"x" * 100).ljust(len(contents), b"\0")


@given(st.lists(st.tuples(st.integers(0, 40_000), st.integers(1, 9000), st.integers(1, 255)), max_size=8), st.data())
def test_writes_and_a_model(writes: list[tuple[int, int, int]], data: st.DataObject) -> None:
    world = World()
    world.scribble(data.draw(st.integers(0, 99)))
    options = Preallocation(data.draw(st.sampled_from([1, 4, 16])), data.draw(st.booleans()))
    ino, model = world.make(b"f"), bytearray()
    for offset, length, byte in writes:
        model.extend(bytes(max(0, offset + length - len(model))))
        model[offset : offset + length] = bytes([byte]) * length
        at = offset
        while at < offset + length:
            at += world.perform(write, ino, at, bytes([byte]) * (offset + length - at), ROOT, options).length
        assert world.contents(ino) == model
    world.check()


def test_a_hold_is_bounded() -> None:
    world = World()
    world.space.run_max = 1
    world.scribble(3)
    ino = world.make(b"f")
    done = world.perform(write, ino, 0, bytes(100 * BLOCK), ROOT, SINGLE)
    assert done.length == RUNS_MAX * BLOCK
    assert world.inode(ino).size == done.length
    assert world.perform(preallocate, ino, 0, 100 * BLOCK) == (RUNS_MAX + 8) * BLOCK
    assert world.inode(ino).size == (RUNS_MAX + 8) * BLOCK


def test_a_full_data_device() -> None:
    world = World()
    world.space.available = [(64, 2)]
    ino, other = world.make(b"f"), world.make(b"g")
    assert world.perform(write, ino, 0, bytes(5 * BLOCK), ROOT).length == 2 * BLOCK
    for operation, arguments in ((write, (2 * BLOCK, b"x", ROOT)), (preallocate, (2 * BLOCK, 1))):
        with pytest.raises(NoSpace):
            world.perform(operation, ino, *arguments)
    assert world.perform(write, ino, BLOCK, b"x", ROOT).length == 1
    world.perform(set_size, ino, 0, ROOT)
    world.perform(finish_truncate, ino)
    seq = world.seq
    # What was freed can be had after a commit.
    assert world.perform(write, other, 0, b"x", ROOT).length == 1
    assert world.seq == seq + 1
    world.check()


def test_sizes_that_are_impossible() -> None:
    world = World()
    ino = world.make(b"f")
    for operation, arguments, number in (
        (write, (SIZE_MAX, b"x", ROOT), errno.EFBIG),
        (set_size, (SIZE_MAX + 1, ROOT), errno.EFBIG),
        (set_size, (-1, ROOT), errno.EINVAL),
        (preallocate, (SIZE_MAX, 1), errno.EFBIG),
        (preallocate, (-1, 1), errno.EINVAL),
    ):
        with pytest.raises(FileError) as refused:
            world.perform(operation, ino, *arguments)
        assert refused.value.errno == number
    assert world.perform(write, ino, SIZE_MAX - 1, b"xyz", ROOT).length == 1
    world.perform(set_size, ino, SIZE_MAX, ROOT)
    assert world.inode(ino).size == SIZE_MAX
    world.steps(finish_truncate, ino)
    assert world.perform(write, ino, 0, b"", ROOT).length == 0


@pytest.mark.parametrize(("name", "number"), [(b"d", errno.EISDIR), (b"p", errno.EINVAL)])
def test_what_has_no_contents(name: bytes, number: int) -> None:
    world = World()
    ino = world.make(name, 0o040755 if name == b"d" else 0o010644)
    operations: list[tuple[Any, ...]] = [(write, 0, b"x", ROOT), (set_size, 0, ROOT), (preallocate, 0, 1)]
    for operation, *arguments in operations:
        with pytest.raises(FileError) as refused:
            world.perform(operation, ino, *arguments)
        assert refused.value.errno == number


def test_contents_in_the_archive() -> None:
    world, ino = archived()
    with pytest.raises(OfflineError) as refused:
        world.perform(write, ino, 20 * BLOCK, b"x", ROOT)
    assert (refused.value.offset, refused.value.length) == (0, 10 * BLOCK)
    with pytest.raises(OfflineError):
        world.perform(set_size, ino, 1, ROOT)
    before = world.inode(ino)
    world.perform(set_size, ino, 10 * BLOCK, ROOT)
    world.steps(finish_truncate, ino)
    assert world.inode(ino).offline_blocks == 10
    assert world.inode(ino).data_version == before.data_version
    world.perform(preallocate, ino, 0, 2 * BLOCK)
    assert [extent[::3] for extent in world.extents(ino)] == [(0, 3), (2, 1)]
    assert world.inode(ino).offline_blocks == 10
    world.check()
    world.perform(set_size, ino, 0, ROOT)
    world.steps(finish_truncate, ino)
    assert world.extents(ino) == []
    assert world.inode(ino)[5:7] == (0, 0)
    world.check()


def test_writing_takes_privileges() -> None:
    someone = Caller(5, 6, frozenset({6}), Capability(0))
    world = World()
    for mode, after in ((0o6777, 0o777), (0o2767, 0o767), (0o1777, 0o1777)):
        ino = world.make(b"f%o" % mode, 0o100000 | mode)
        world.perform(write, ino, 0, b"x", ROOT)
        assert world.inode(ino).mode & 0o7777 == mode
        world.perform(write, ino, 0, b"x", someone)
        assert world.inode(ino).mode & 0o7777 == after
    ino = world.make(b"g", 0o104777)
    world.perform(set_size, ino, 0, someone)
    assert world.inode(ino).mode == 0o100777


def test_deletion_goes_on_where_it_was() -> None:
    """Each step is a transaction; whoever comes after a crash does the rest."""
    world = World()
    ino = world.make(b"f")
    world.scribble(2)
    world.space.run_max = 1
    for number in range(0, 40, 2):
        world.perform(write, ino, number * BLOCK, block(number), ROOT, SINGLE)
    assert world.perform(delete_some, ino)
    assert world.exists(ino)
    world.perform(unlink, ROOT_INO, b"f")
    count = 0
    while not world.perform(delete_some, ino):
        count += 1
        world.check()
        assert world.exists(ino)
        world.commit()
    assert count == 2
    assert not world.exists(ino)
    assert world.inode_count == 1
    assert world.perform(delete_some, ino)
    world.check()
    assert not world.space.used


def test_data_is_written_before_items() -> None:
    """A device that fails leaves the volume as it was."""
    world = World()
    ino = world.make(b"f")

    def fail(blkno: int, data: bytes) -> None:
        raise ScoutfsError("broken", errno.EIO)

    world.space.write = fail  # type: ignore[method-assign]
    with pytest.raises(ScoutfsError, match="broken"):
        world.perform(write, ino, 0, b"x", ROOT)
    assert world.inode(ino).size == 0
