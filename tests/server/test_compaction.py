"""Search files from the logs of mounts to one sorted file (spec 03 §8.13, spec 06 §8.3)."""

from __future__ import annotations

import functools
import random

import pytest
from trio.testing import MockClock

from format.keys import SrchType
from format.net import Command
from format.srch import Entry, SrchCompact, SrchCompactFlag
from scoutfs.client import compaction_work
from scoutfs.errors import ScoutfsError
from scoutfs.server import log_trees
from scoutfs.server.statfs import count_free
from tests.memory import Image
from tests.server.mounts import GIB, Mount, Server, copied, new_images


@functools.cache
def _new(meta: int) -> dict[str, Image]:
    return new_images(meta)


def images(meta: int = 2 * GIB) -> dict[str, Image]:
    return copied(_new(meta))


@pytest.fixture(autouse=True)
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every log compacted, however short it is."""
    monkeypatch.setattr(log_trees, "LOG_BLOCK_LIMIT", 1)


def entries(seed: int, count: int = 300) -> list[Entry]:
    source = random.Random(seed)
    return [Entry(source.getrandbits(64), source.randrange(1 << 20), source.randrange(100)) for _ in range(count)]


async def logs(mount: Mount, *batches: list[Entry]) -> None:
    for batch in batches:
        await mount.transaction(1, entries=batch)


async def test_four_logs_become_one_sorted_file(autojump_clock: MockClock) -> None:
    async with Server(images()).running() as server:
        mount = await server.mounted(1)
        await mount.begin()
        batches = [entries(seed) for seed in range(4)]
        await logs(mount, *batches[:3])
        assert await mount.compact() == 0, "three are too few"
        # what is logged twice was removed again
        await logs(mount, batches[3] + batches[0][:100])
        assert server.damage() == []
        assert await mount.compact() == 2
        assert server.damage() == []
        assert server.search_files(SrchType.LOG) == []
        expected = sorted(set().union(*batches) - set(batches[0][:100]))
        assert server.search_files(SrchType.BLOCKS) == [expected]


async def test_sorted_files_of_about_one_size_are_merged(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Server(images()).running() as server:
        mount = await server.mounted(1)
        await mount.begin()
        batches = [entries(seed, 200) for seed in range(16)]
        await logs(mount, *batches)
        assert server.damage() == []
        monkeypatch.setattr(compaction_work, "DIRTY_MAX", 1)
        monkeypatch.setattr(compaction_work, "_Compaction", Slow)
        assert await mount.compact() > 12
        assert server.damage() == []
        assert server.search_files(SrchType.LOG) == []
        assert server.search_files(SrchType.BLOCKS) == [sorted(set().union(*batches))]
        assert Slow.stops > 2


class Slow(compaction_work._Compaction):
    """Stops sorted merges now and then."""

    stops = 0

    def _merge_sorted(self) -> bool:
        steps = 0
        is_low = self._allocator.is_low

        def soon(blocks: int) -> bool:
            nonlocal steps
            steps += 1
            return steps > 600 or is_low(blocks)

        self._allocator.is_low = soon  # type: ignore[method-assign]
        compaction_work.DIRTY_MAX = 1 << 30
        done = super()._merge_sorted()
        Slow.stops += not done
        return done


async def test_what_compactions_use_comes_back(autojump_clock: MockClock) -> None:
    async with Server(images()).running() as server:
        mount = await server.mounted(1)
        await mount.begin()
        free = []
        for cycle in range(12):
            batch = entries(cycle, 50)
            await logs(mount, batch, batch, [], entries(0, 3), entries(0, 3))
            await mount.compact()
            free.append(count_free(server.volume.reader, server.volume.stable).free_meta_blocks)
        assert server.damage() == []
        assert max(free) - min(free) < 10, free


async def test_a_compaction_that_fails_or_is_not_answered(autojump_clock: MockClock) -> None:
    async with Server(images()).running() as server:
        one, two = [await server.mounted(rid) for rid in (1, 2)]
        await one.begin()
        batches = [entries(seed) for seed in range(4)]
        await logs(one, *batches)
        work = await one.ask(Command.SRCH_GET_COMPACT, b"")
        assert SrchCompact.parse(work).flags == SrchCompactFlag.LOG
        assert await one.ask(Command.SRCH_GET_COMPACT, b"") == work, "what it has and does not know of"
        assert SrchCompact.parse(await two.ask(Command.SRCH_GET_COMPACT, b"")).nr == 0
        failed = SrchCompact.parse(work)
        failed.flags |= SrchCompactFlag.ERROR
        await one.ask(Command.SRCH_COMMIT_COMPACT, SrchCompact.build(failed))
        assert server.damage() == []
        with pytest.raises(ScoutfsError) as raised:
            await one.ask(Command.SRCH_COMMIT_COMPACT, work)
        assert raised.value.errno == 2
        answer = two.compacted(await two.ask(Command.SRCH_GET_COMPACT, b""))
        await two.ask(Command.SRCH_COMMIT_COMPACT, answer)
        assert server.damage() == []
        work = await two.ask(Command.SRCH_GET_COMPACT, b"")
        assert SrchCompact.parse(work).flags == SrchCompactFlag.DELETE
        await server.requests.reclaim(2)
        assert server.damage() == [], "nothing but this work knows the blocks of its inputs"
        assert await one.compact() == 1
        assert server.damage() == []
        assert server.search_files(SrchType.BLOCKS) == [sorted(set().union(*batches))]


async def test_a_mount_dies_while_it_merges_a_large_file_in_parts(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Server(images()).running() as server:
        one, two = [await server.mounted(rid) for rid in (1, 2)]
        await one.begin()
        batches = [entries(seed, 4000) for seed in range(16)]
        for start in range(0, 16, 4):
            await logs(one, *batches[start : start + 4])
            for _ in ("merge", "delete"):
                work = await one.ask(Command.SRCH_GET_COMPACT, b"")
                await one.ask(Command.SRCH_COMMIT_COMPACT, one.compacted(work))
        monkeypatch.setattr(compaction_work, "DIRTY_MAX", 1 << 19)
        work = await two.ask(Command.SRCH_GET_COMPACT, b"")
        assert SrchCompact.parse(work).flags == SrchCompactFlag.SORTED
        await two.ask(Command.SRCH_COMMIT_COMPACT, two.compacted(work))
        work = SrchCompact.parse(await two.ask(Command.SRCH_GET_COMPACT, b""))
        assert work.out.ref.blkno, "it goes on with what it has written"
        await server.requests.reclaim(2)
        assert server.damage() == []
        assert await one.compact() > 1
        assert server.damage() == []
        assert server.search_files(SrchType.BLOCKS) == [sorted(set().union(*batches))]


async def test_blocks_of_inputs_are_freed_bit_by_bit(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Server(images()).running() as server:
        mount = await server.mounted(1)
        await mount.begin()
        batches = [entries(seed, 9000) for seed in range(4)]
        await logs(mount, *batches)
        work = await mount.ask(Command.SRCH_GET_COMPACT, b"")
        await mount.ask(Command.SRCH_COMMIT_COMPACT, mount.compacted(work))
        room = iter([False] * 5 + [True] + [False] * 100)
        monkeypatch.setattr(compaction_work.ListAllocator, "is_low", lambda self, blocks: next(room))
        work = await mount.ask(Command.SRCH_GET_COMPACT, b"")
        answer = mount.compacted(work)
        monkeypatch.undo()
        assert not SrchCompact.parse(answer).flags & SrchCompactFlag.DONE
        await mount.ask(Command.SRCH_COMMIT_COMPACT, answer)
        assert server.damage() == []
        assert await mount.compact() == 1
        assert server.damage() == []
