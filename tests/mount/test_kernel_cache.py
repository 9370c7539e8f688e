"""How long the kernel may keep what, and what it is told when a lock is lost (spec 05 §10.5 to §10.8)."""

from __future__ import annotations

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from format.payloads import LockMode
from mount.kernel_cache import CONTENDED, FOLLOW_UPS, KEPT, KernelCache, KnownInode
from scoutfs.files.store import inode_request
from tests.mount.memory_client import MemoryClient

INO = 1030
DIRECTORY = 2050


class Kernel:
    """Notes what it is told; `unknown` inodes it does not know yet, `locked` ones have pages with requests."""

    def __init__(self) -> None:
        self.told: list[tuple[object, ...]] = []
        self.unknown: set[int] = set()
        self.locked: set[int] = set()
        self.knows_epochs = True

    def forget_names(self) -> None:
        self.told.append(("names",))

    def forget_attributes(self, ino: int) -> bool:
        self.told.append(("attributes", ino))
        return ino not in self.unknown

    def forget_pages(self, ino: int, start: int, length: int) -> None:
        if ino in self.locked:
            trio.from_thread.run(self.until_unlocked, ino)
        self.told.append(("pages", ino, start, length))

    def forget_unused(self, inos: list[int]) -> None:
        self.told.append(("unused", *inos))

    async def until_unlocked(self, ino: int) -> None:
        while ino in self.locked:
            await trio.sleep(0.001)


class World:
    def __init__(self) -> None:
        self.client, self.kernel = MemoryClient(), Kernel()
        self.cache = KernelCache(self.client, self.kernel)

    def attributes(self, ino: int = INO, *, named: bool = True) -> float:
        return self.cache.attribute_timeout(ino, self.client.generation(ino), named=named)

    def names(self, ino: int = DIRECTORY, *, listed: bool = False) -> float:
        return self.cache.name_timeout(ino, self.client.generation(ino), listed=listed)

    async def lose(self, ino: int, mode: LockMode = LockMode.NULL) -> list[tuple[object, ...]]:
        self.kernel.told.clear()
        await self.client.lose(ino, mode)
        return self.kernel.told


@pytest.fixture
def world() -> World:
    return World()


async def test_what_was_answered_under_a_lock_is_forgotten_when_it_is_lost(world):
    world.cache.remember(INO)
    world.cache.remember(INO + 1)
    world.cache.remember(INO + 5000)
    assert world.attributes() == world.attributes(INO + 5000) == KEPT
    assert world.names() == KEPT
    assert await world.lose(INO) == [("attributes", INO)]
    assert await world.lose(DIRECTORY) == [("names",)]
    assert world.attributes() == world.names() == 0


async def test_nothing_is_kept_of_what_was_read_before_the_lock_was_lost(world):
    world.cache.remember(INO)
    before = world.client.generation(INO)
    await world.lose(INO)
    world.client.grant(INO)
    assert world.cache.attribute_timeout(INO, before, named=True) == 0
    assert world.cache.name_timeout(INO, before) == 0
    assert world.attributes() == KEPT


async def test_nothing_that_has_to_be_forgotten_for_readers_elsewhere(world):
    world.cache.remember(INO)
    assert world.attributes() == KEPT
    world.cache.opened(INO, writes=False)
    world.cache.known(INO).add_pages(0, 8192)
    assert await world.lose(INO, LockMode.READ) == []
    assert world.attributes() == KEPT
    assert await world.lose(INO) == [("pages", INO, 0, 8192), ("attributes", INO)]


async def test_pages_that_a_mapping_may_change_go_even_if_they_may_be_read(world):
    world.cache.remember(INO)
    assert not world.cache.opened(INO, writes=True)
    assert world.cache.opened(INO, writes=True)
    world.cache.known(INO).add_pages(4096, 8192)
    world.cache.known(INO).add_pages(12288, 16384)
    assert await world.lose(INO, LockMode.READ) == [("pages", INO, 4096, 12288)]
    world.client.grant(INO)
    assert await world.lose(INO, LockMode.READ) == []


async def test_contended_locks_are_answered_by_stricter_rules(world, autojump_clock):
    world.cache.remember(INO)
    world.cache.remember(DIRECTORY)
    assert world.attributes(named=False) == world.names(listed=True) == KEPT
    for ino in (INO, DIRECTORY):
        await world.lose(ino)
        world.client.grant(ino)
    # the kernel may not know the inode yet, or take a name for newer than it is
    assert world.attributes(named=False) == world.names() == world.names(listed=True) == 0
    assert world.attributes() == KEPT
    assert world.attributes(named=False) == KEPT, "it has named the inode"
    await trio.sleep(CONTENDED + 1)
    assert world.names() == KEPT


async def test_the_kernel_is_told_again_of_what_it_may_not_have_known_yet(world, nursery, autojump_clock):
    nursery.start_soon(world.cache.run)
    world.cache.remember(INO)
    assert world.attributes(named=False) == KEPT
    world.kernel.unknown.add(INO)
    assert await world.lose(INO) == [("attributes", INO), ("names",)]
    world.kernel.told.clear()
    await trio.sleep(FOLLOW_UPS[-1] + 0.1)
    # one of them is sent from a thread, for which the clock of tests does not wait
    while len(world.kernel.told) <= 2 * len(FOLLOW_UPS):
        await trio.sleep(0.01)
    again = [told for told in world.kernel.told if told[0] != "unused"]
    assert again == [("names",), ("attributes", INO)] * len(FOLLOW_UPS)
    assert ("unused", INO) in world.kernel.told


async def test_without_epochs_no_names_are_kept(world):
    world.kernel.knows_epochs = False
    assert world.names() == 0


async def test_pages_that_wait_for_the_lock_are_left_out(world):
    world.cache.remember(INO)
    known = world.cache.known(INO)
    known.add_pages(0, 40960)
    known.reading += ((8192, 12288), (36864, 45056))
    known.writing += ((0, 4096),)
    # what is written can be let through under the old mode
    assert await world.lose(INO) == [("pages", INO, 0, 8192), ("pages", INO, 12288, 24576)]
    known.add_pages(0, 40960)
    world.client.grant(INO, LockMode.READ)
    assert await world.lose(INO) == [("pages", INO, 4096, 4096), ("pages", INO, 12288, 24576)]


async def test_pages_that_a_write_was_waiting_with_are_dropped_when_it_is_done(world, nursery, autojump_clock):
    nursery.start_soon(world.cache.run)
    world.cache.opened(INO, writes=True)
    world.client.grant(INO, LockMode.READ)

    async def write(through):
        while not world.client.is_free(inode_request(INO // 1024)):
            await world.client.changed.wait()
        return 10

    async def request() -> None:
        await world.cache.write_pages(INO, 4096, 8192, write)

    async with trio.open_nursery() as writing:
        writing.start_soon(request)
        await trio.sleep(1)
        assert await world.lose(INO) == []
        world.client.grant(INO)
    while ("pages", INO, 4096, 4096) not in world.kernel.told:
        await trio.sleep(0.01)


@given(st.tuples(st.integers(0, 9), st.integers(0, 9)), st.lists(st.tuples(st.integers(0, 12), st.integers(1, 5))))
def test_exactly_the_pages_that_nobody_waits_with_are_dropped(pages: tuple[int, int], waiting: list[tuple[int, int]]):
    known = KnownInode()
    known.add_pages(pages[0], pages[0] + pages[1])
    known.reading = tuple((start, start + length) for start, length in waiting)
    locked = {page for start, length in waiting for page in range(start, start + length)}
    dropped = [page for start, length in known.take_pages(written=True) for page in range(start, start + length)]
    assert sorted(dropped) == [page for page in range(pages[0], pages[0] + pages[1]) if page not in locked]
    assert known.take_pages(written=True) == []


@pytest.mark.parametrize("writes", [False, True])
async def test_a_request_that_keeps_a_page_locked_is_let_through(writes):
    world = World()
    world.cache.remember(INO)
    world.cache.opened(INO, writes=writes)
    world.cache.known(INO).add_pages(0, 8192)
    world.kernel.locked.add(INO)
    done = []

    async def request() -> None:
        await trio.sleep(0.02)
        if writes:

            async def write(through):
                if through is world.client:
                    await trio.sleep_forever()
                return "written"

            done.append(await world.cache.write_pages(INO, 0, 4096, write))
        else:
            async with world.cache.page_lock(INO, 0, 4096) as held:
                done.append(held)
        world.kernel.locked.clear()

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(request)
            await world.client.lose(INO)
    assert len(done) == 1
    assert world.client.modes[INO // 1024] == LockMode.NULL


async def test_who_waits_for_a_page_gets_the_lock_when_it_is_granted(world, autojump_clock):
    world.cache.remember(INO)
    await world.lose(INO)
    got = []

    async def request() -> None:
        async with world.cache.page_lock(INO, 0, 4096):
            got.append(world.client.users[INO // 1024])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(request)
        await trio.sleep(1)
        assert (got, world.cache.known(INO).reading) == ([], ((0, 4096),))
        world.client.grant(INO)
    assert (got, world.client.users[INO // 1024], world.cache.known(INO).reading) == ([1], 0, ())


async def test_whoever_gives_up_waiting_leaves_nothing_behind(world, autojump_clock):
    world.cache.remember(INO)
    await world.lose(INO)
    with trio.move_on_after(1) as scope:
        async with world.cache.page_lock(INO, 0, 4096):
            pass
    assert scope.cancelled_caught
    assert world.cache.known(INO).reading == ()
    world.client.grant(INO)
    assert world.client.users.get(INO // 1024, 0) == 0


async def test_inodes_are_kept_as_long_as_the_kernel_knows_them_or_they_are_open(world):
    assert world.client.kept == {1}
    world.cache.remember(INO)
    world.cache.remember(INO)
    world.cache.opened(INO, writes=True)
    world.cache.forget(INO, 1)
    world.cache.forget(INO, 1)
    assert world.client.kept == {1, INO}
    world.cache.closed(INO, writes=True)
    assert world.client.kept == {1}
    world.cache.forget(1, 5)
    assert world.client.kept == {1}


async def test_the_kernel_is_asked_to_drop_what_it_has_known_for_longest(world, nursery, monkeypatch):
    monkeypatch.setattr("mount.kernel_cache.KNOWN_MAX", 100)
    monkeypatch.setattr("mount.kernel_cache.DROPPED_AT_ONCE", 20)
    world = World()
    nursery.start_soon(world.cache.run)
    world.cache.opened(INO, writes=False)
    for ino in range(2000, 2100):
        world.cache.remember(ino)
    with trio.fail_after(20):
        while not world.kernel.told:
            await trio.sleep(0.001)
    # the root directory and the open file are not dropped
    assert world.kernel.told == [("unused", *range(2000, 2018))]
    for ino in range(2000, 2018):
        world.cache.forget(ino, 1)
    for ino in range(3000, 3010):
        world.cache.remember(ino)
    assert len(world.kernel.told) == 1
