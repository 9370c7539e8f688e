"""Questions to the files of a volume: when they wait, for what, and what ends that."""

from __future__ import annotations

import errno
import threading

import pytest
import trio

from mount.reading import LOOK_INTERVAL, SOON, UNCHANGING_TIMEOUT, VolumeReader
from scoutfs.errors import ScoutfsError
from scoutfs.metadata.blocks import DamagedBlock
from scoutfs.metadata.btree import Root
from scoutfs.metadata.forest import super_roots
from scoutfs.metadata.snapshot import Roots
from scoutfs.storage.volume import Volume
from tests import images
from tests.memory import MemoryIO
from tests.server.fakes import RecordedLog


class Source:
    """A server that tests command: `answer` is roots, an error, or None for none at all."""

    def __init__(self, answer: Roots | ScoutfsError | None, *, unchanging: bool = False) -> None:
        self.answer, self.unchanging = answer, unchanging
        self.connected = True
        self.asked = 0

    async def roots(self) -> Roots:
        self.asked += 1
        while self.answer is None:
            await trio.sleep(0.01)
        if isinstance(self.answer, ScoutfsError):
            raise self.answer
        return self.answer


class World:
    def __init__(self, *, unchanging: bool = False) -> None:
        io = MemoryIO({role: images.load("v2-1slot", role) for role in ("meta", "data")})
        self.volume = Volume.open("data", "meta", io=io)
        self.roots = super_roots(self.volume)
        self.source = Source(self.roots, unchanging=unchanging)
        self.log = RecordedLog()
        self.interrupted: set[int] = set()
        self.reader = VolumeReader(self.volume, self.source, self.log, lambda pid: pid in self.interrupted)

    async def root(self, pid: int = 7):
        return await self.reader.ask(pid, self.reader.files.inode, 1)


async def test_what_is_cached_is_answered_without_a_thread(monkeypatch):
    world = World()
    assert (await world.root()).ino == 1

    async def no_thread(*_, **__):
        raise AssertionError("a thread")

    monkeypatch.setattr(trio.to_thread, "run_sync", no_thread)
    assert (await world.root()).ino == 1


async def test_roots_are_asked_for_at_most_once_in_an_interval(autojump_clock):
    world = World()
    for _ in range(10):
        await world.root()
    assert world.source.asked == 1
    await trio.sleep(LOOK_INTERVAL)
    assert world.source.asked == 1, "nobody asks, so nobody looks"
    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(world.root)
    assert world.source.asked == 2
    assert (world.reader.generation, world.reader.timeout) == (0, LOOK_INTERVAL)


async def test_new_roots_are_gone_by(autojump_clock):
    world = World()
    world.source.answer = Roots(Root())
    with pytest.raises(ScoutfsError) as caught:
        await world.root()
    assert caught.value.errno == errno.ENOENT
    world.source.answer = world.roots
    await trio.sleep(LOOK_INTERVAL)
    assert (await world.root()).ino == 1
    assert world.reader.generation == 1
    assert world.log.lines == []


async def test_a_change_of_what_nobody_changes_is_said_once(autojump_clock):
    world = World(unchanging=True)
    await world.root()
    assert (world.reader.timeout, world.reader.unchanging) == (UNCHANGING_TIMEOUT, True)
    for seq in range(2):
        world.source.answer = world.roots._replace(srch_root=Root((7, seq), 1))
        await trio.sleep(LOOK_INTERVAL)
        await world.root()
    assert (world.reader.timeout, world.reader.unchanging, world.reader.generation) == (LOOK_INTERVAL, False, 2)
    [line] = world.log.lines
    assert line.startswith("somebody writes the volume")


def stale(roots: Roots) -> Roots:
    """Return roots whose blocks were reused."""
    ref = roots.fs_root.ref
    return roots._replace(fs_root=roots.fs_root._replace(ref=ref._replace(seq=ref.seq + 1)))


async def test_stale_roots_are_renewed_at_once():
    world = World()
    world.source.answer = stale(world.roots)
    with pytest.raises(DamagedBlock):
        await world.root()
    assert world.source.asked == 2, "the same roots again mean damage"
    world.reader._due = trio.current_time() + 1000
    world.source.answer = world.roots
    assert (await world.root()).ino == 1
    assert world.reader.generation == 1


async def test_an_error_of_the_server_is_that_of_the_question():
    world = World()
    world.source.answer = ScoutfsError("no", errno.ECONNABORTED)
    with pytest.raises(ScoutfsError, match="no"):
        await world.root()
    world.source.answer = world.roots
    assert (await world.root()).ino == 1


@pytest.mark.parametrize("ready", [False, True])
async def test_waiting_for_a_server_can_be_interrupted(ready):
    """While it looks whether roots are new, and while it needs newer ones."""
    world = World()
    if ready:
        world.source.answer = stale(world.roots)
        await world.reader.fresh(7)
        world.reader._due = trio.current_time() + 1000
    world.source.answer = None
    caught: list[OSError] = []

    async def ask() -> None:
        try:
            await world.root(7)
        except OSError as error:
            caught.append(error)

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            while not world.source.asked > ready:
                await trio.sleep(0.01)
            assert caught == []
            world.interrupted.add(7)
    assert caught[0].errno == errno.EINTR
    world.source.answer = world.roots
    assert (await world.root(8)).ino == 1


async def test_who_is_cancelled_leaves_the_thread_to_itself():
    world = World()
    await world.root()
    world.reader.files.blocks.forget()
    began, go_on = threading.Event(), threading.Event()
    running = [0]

    def slow():
        world.reader.files.inode(1)
        running[0] += 1
        assert running[0] == 1
        began.set()
        go_on.wait(10)
        running[0] -= 1

    async def ask() -> None:
        await world.reader.ask(7, slow)

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            while not began.is_set():
                await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
        assert await world.reader.ask_soon(7, slow) is None
        world.interrupted.add(8)
        with pytest.raises(OSError, match="Interrupted"):
            await world.reader.ask(8, slow)
        go_on.set()
        assert (await world.root()).ino == 1


async def test_who_needs_an_answer_soon_does_without(autojump_clock):
    world = World()
    world.source.answer = None
    start = trio.current_time()
    assert await world.reader.ask_soon(7, world.reader.files.inode, 1) is None
    assert trio.current_time() - start == pytest.approx(SOON)
    world.source.connected = False
    assert await world.reader.ask_soon(7, world.reader.files.inode, 1) is None
    assert trio.current_time() - start == pytest.approx(SOON)
    world.source.connected, world.source.answer = True, world.roots
    # into the cache: this clock does not wait for threads
    await world.root()
    assert (await world.reader.ask_soon(7, world.reader.files.inode, 1)).ino == 1
    world.source.connected = False
    assert (await world.reader.ask_soon(7, world.reader.files.inode, 1)).ino == 1, "its roots are good for a while"


async def test_waiting_for_a_change(autojump_clock):
    world = World()
    await world.root()
    with trio.move_on_after(10 * LOOK_INTERVAL) as scope:
        await world.reader.wait_for_change(7, 0)
    assert scope.cancelled_caught
    world.source.answer = Roots(Root())
    await world.reader.wait_for_change(7, 0)
    assert world.reader.generation == 1
    world.interrupted.add(7)
    with pytest.raises(OSError, match="Interrupted"):
        await world.reader.wait_for_change(7, 1)
