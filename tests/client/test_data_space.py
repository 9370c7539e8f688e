"""The data blocks of a transaction: none twice, none lost (spec 04 §6.5)."""

from __future__ import annotations

import random
from contextlib import suppress

import pytest

from format.extent import Extent
from scoutfs.client.data_space import CACHED_BLOCKS, LOW, MountSpace
from scoutfs.files.store import CommitNeeded
from scoutfs.metadata.blocks import NotCached
from scoutfs.metadata.extents import InvalidExtent
from scoutfs.metadata.free_extents import NO_EXTENTS, FreeExtents
from scoutfs.metadata.writer import NoSpace
from scoutfs.storage import Device
from tests.memory import Image, MemoryIO
from tests.metadata.writing import Device as MetaDevice
from tests.metadata.writing import Pool

TOTAL = 1 << 20


class World:
    """A space of some extents."""

    def __init__(self, *extents: tuple[int, int], flags: int = 0) -> None:
        writer, allocator = MetaDevice().writer(), Pool()
        self.avail = FreeExtents(writer, allocator, NO_EXTENTS._replace(flags=flags))
        self.freed = FreeExtents(writer, allocator)
        for extent in extents:
            self.avail.insert(Extent(*extent))
        io = MemoryIO({"data": Image(TOTAL << 12)})
        self.space = MountSpace(Device.open("data", writable=True, io=io), self.avail, self.freed)


def blocks(extents: FreeExtents) -> set[int]:
    return {block for extent in extents.extents() for block in range(extent.start, extent.start + extent.length)}


@pytest.mark.parametrize("seed", range(5))
def test_every_block_is_in_one_place(seed: int) -> None:
    rng = random.Random(seed)
    world = World((64, 5000), (6000, 300), (7000, 9000))
    everything, used, let_go = blocks(world.avail), set[int](), set[int]()
    for _ in range(300):
        if rng.random() < 0.6:
            taken: list[tuple[int, int]] = []
            with suppress(CommitNeeded):
                while len(taken) < 3:
                    taken.append(world.space.allocate(rng.choice((1, 7, 300, 3000))))
            if rng.random() < 0.3:
                for start, count in reversed(taken):
                    world.space.give_back(start, count)
                continue
            for start, count in taken:
                new = set(range(start, start + count))
                assert not new & used
                assert new <= everything
                used |= new
        elif used:
            start = rng.choice(sorted(used))
            count = next(count for count in range(1, 1 << 20) if start + count not in used or count == 50)
            world.space.free(start, count)
            gone = set(range(start, start + count))
            used -= gone
            let_go |= gone
        assert world.space.available == len(everything - used - let_go)
    avail, freed = world.space.finish()
    assert blocks(world.avail) == everything - used - let_go
    assert blocks(world.freed) == let_go
    assert (avail.total_len, freed.total_len) == (len(everything - used - let_go), len(let_go))


def test_small_requests_are_neighbours() -> None:
    space = World((64, 1 << 16)).space
    assert [space.allocate(10) for _ in range(4)] == [(64, 10), (74, 10), (84, 10), (94, 10)]
    start, count = space.allocate(CACHED_BLOCKS)
    assert (start, count) == (64 + CACHED_BLOCKS, CACHED_BLOCKS)
    space.give_back(start, count)
    assert space.allocate(1) == (start, 1)


@pytest.mark.parametrize(("flags", "error"), [(0, CommitNeeded), (LOW, NoSpace)])
def test_what_the_server_said_of_the_rest_decides(flags: int, error: type[Exception]) -> None:
    space = World((64, 10), flags=flags).space
    assert space.allocate(100) == (64, 10)
    with pytest.raises(error):
        space.allocate(1)


def test_blocks_that_are_let_go_of_twice_are_noticed() -> None:
    world = World((64, 100))
    world.space.free(1000, 5)
    world.space.free(1003, 1)
    with pytest.raises(InvalidExtent):
        world.space.finish()


def test_nothing_waits_for_the_device_in_the_loop() -> None:
    space = World((64, 10)).space
    with space.only_memory():
        with pytest.raises(NotCached):
            space.write(64, bytes(4096))
        with pytest.raises(NotCached):
            space.read(64, 1)
    space.write(64, b"x" * 8192)
    assert space.read(65, 1) == b"x" * 4096
