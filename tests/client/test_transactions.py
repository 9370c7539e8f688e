"""When transactions end, and what happens when a commit fails: with a volume in memory, in virtual time."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from format.logs import LogTrees
from format.net import Command
from scoutfs.client.exclusive import Exclusive
from scoutfs.client.transactions import COMMIT_INTERVAL, RETRY_PAUSE, Server, Transactions
from scoutfs.errors import ScoutfsError
from scoutfs.files.inode import read_inode
from tests.client.mounted_volume import Mount
from tests.client.mounted_volume import Server as Volume
from tests.server.fakes import RecordedLog


class Inline(Exclusive):
    """Runs at once: virtual time must not pass meanwhile."""

    async def in_thread(self, function, *arguments):
        await trio.lowlevel.checkpoint()
        return function(*arguments)


class World:
    """A mount whose transactions are those of `transactions`; `asked` has (seconds, command), `failures` errors."""

    def __init__(self) -> None:
        self.mount = Mount(Volume())
        self.log = RecordedLog()
        self.asked: list[tuple[float, Command]] = []
        self.failures: list[int] = []
        self.abandoned = False
        self.answering = trio.Event()
        self.answering.set()
        self.transactions = Transactions(
            self.mount.server.volume,
            self.mount.writer,
            self.mount.cache,
            Inline(self.mount.reader),
            Server(self.ask, trio.lowlevel.checkpoint, lambda: self.abandoned),
            self.log,
        )

    async def ask(self, command: Command, payload: bytes) -> bytes:
        """Be the server."""
        self.asked.append((trio.current_time(), command))
        await self.answering.wait()
        if self.failures:
            raise ScoutfsError("it fails", self.failures.pop(0))
        if command is Command.COMMIT_LOG_TREES:
            parsed = LogTrees.parse(payload)
            parsed.commit_trans_seq = parsed.get_trans_seq
            self.mount.server.cluster.server.next_ino = self.mount.server.next_ino
            self.mount.server.cluster._store(parsed)
        else:
            self.mount.server.cluster.open(self.mount.rid)
        self.mount.server.cluster.commit()
        return LogTrees.build(self.mount.server.cluster.log_trees(self.mount.rid))

    async def make(self, name: bytes) -> int:
        """Create a file in the open transaction."""
        self.mount.transaction = await self.transactions.wait_open()
        return self.mount.make(name).ino

    def is_committed(self, ino: int) -> bool:
        """Whether a file is on the volume."""
        return read_inode(self.mount.server.forest(), ino, 2) is not None

    def count(self, command: Command) -> int:
        """Return how often the server was asked."""
        return [asked for _, asked in self.asked].count(command)


@asynccontextmanager
async def running() -> AsyncIterator[World]:
    with trio.fail_after(1000):
        async with trio.open_nursery() as nursery:
            world = World()
            nursery.start_soon(world.transactions.run)
            await world.transactions.wait_open()
            yield world
            nursery.cancel_scope.cancel()


async def test_an_idle_mount_commits_every_ten_seconds(autojump_clock: MockClock) -> None:
    async with running() as world:
        await trio.sleep(3.5 * COMMIT_INTERVAL)
        times = [time for time, command in world.asked if command is Command.COMMIT_LOG_TREES]
        assert [round(after - before) for before, after in pairwise(times)] == [10, 10]
        assert world.count(Command.GET_LOG_TREES) == 4


async def test_a_commit_has_all_that_was_done_and_is_shared(autojump_clock: MockClock) -> None:
    async with running() as world:
        ino = await world.make(b"file")
        before = trio.current_time()
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(world.transactions.commit)
        assert trio.current_time() - before < 1
        assert world.is_committed(ino)
        assert world.count(Command.COMMIT_LOG_TREES) == 1
        assert world.transactions.commits == 1


async def test_a_commit_that_has_begun_will_do(autojump_clock: MockClock) -> None:
    async with running() as world:
        ino = await world.make(b"file")
        world.answering = trio.Event()
        world.transactions.want_commit()
        while not world.count(Command.COMMIT_LOG_TREES):
            await trio.sleep(0.01)
        assert not world.transactions.is_open
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.transactions.commit)
            await trio.sleep(5)
            assert "waits for the server for 5 s" in world.transactions.waiting_for
            world.answering.set()
        assert world.is_committed(ino)
        await world.transactions.wait_open()
        assert world.count(Command.COMMIT_LOG_TREES) == 1
        assert world.transactions.waiting_for == ""


async def test_what_fails_is_tried_again_every_two_seconds(autojump_clock: MockClock) -> None:
    async with running() as world:
        ino = await world.make(b"file")
        world.failures = [errno.EIO] * 3
        await world.transactions.commit()
        times = [time for time, command in world.asked if command is Command.COMMIT_LOG_TREES]
        assert [round(after - before, 1) for before, after in pairwise(times)] == [RETRY_PAUSE] * 3
        assert world.is_committed(ino)
        assert world.log.errors == ["commit failed and is tried again every 2 s: it fails"]


async def test_a_commit_whose_answer_was_lost_is_done_once(autojump_clock: MockClock) -> None:
    """The next server finds it committed (spec 03 §8.3)."""
    async with running() as world:
        ino = await world.make(b"file")
        original, lost = world.ask, []

        async def ask(command: Command, payload: bytes) -> bytes:
            answer = await original(command, payload)
            if command is Command.COMMIT_LOG_TREES and not lost:
                lost.append(payload)
                raise ScoutfsError("the answer is lost", errno.EIO)
            if command is Command.COMMIT_LOG_TREES:
                assert payload == lost[0]
            return answer

        world.transactions._server.ask = ask
        await world.transactions.commit()
        assert world.is_committed(ino)
        assert world.mount.server.cluster.log_trees(1).inode_count_delta == 1


async def test_nothing_is_sent_after_the_end(autojump_clock: MockClock) -> None:
    async with running() as world:
        ino = await world.make(b"file")
        world.transactions.want_commit()
        await world.transactions.end()
        assert world.is_committed(ino)
        assert [command for _, command in world.asked[-2:]] == [Command.COMMIT_LOG_TREES, Command.GET_LOG_TREES]
        count = len(world.asked)
        world.transactions.want_commit()
        await trio.sleep(5 * COMMIT_INTERVAL)
        assert len(world.asked) == count


async def test_a_mount_that_is_abandoned_can_change_nothing(autojump_clock: MockClock) -> None:
    async with running() as world:
        ino = await world.make(b"file")
        world.abandoned, world.failures = True, [errno.ECONNABORTED]
        with pytest.raises(ScoutfsError):
            await world.transactions.commit()
        with pytest.raises(ScoutfsError):
            await world.transactions.wait_open()
        with pytest.raises(ScoutfsError):
            await world.transactions.commit()
        assert not world.is_committed(ino)


async def test_data_is_flushed_before_the_server_is_told(autojump_clock: MockClock) -> None:
    async with running() as world:
        events: list[Any] = []
        for name in ("data", "meta"):
            device = getattr(world.mount.server.volume, name)
            device.flush = lambda name=name: events.append(f"{name} is flushed")
        original = world.ask

        async def ask(command: Command, payload: bytes) -> bytes:
            events.append(command)
            return await original(command, payload)

        world.transactions._server.ask = ask
        await world.make(b"file")
        await world.transactions.commit()
        assert sorted(events[:2]) == ["data is flushed", "meta is flushed"]
        assert events[2] is Command.COMMIT_LOG_TREES
