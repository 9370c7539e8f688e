"""Merges from the first finalized tree to the last freed block."""

from __future__ import annotations

import functools
import random

import pytest
import trio
from trio.testing import MockClock

from format.keys import Key, Zone
from format.logs import LogMergeComplete, LogMergeRequest, LogMergeStatus
from format.net import Command
from scoutfs.client import merge_work
from scoutfs.errors import ScoutfsError
from scoutfs.metadata.btree import LAST_KEY, Btree, Root
from scoutfs.metadata.btree_writer import BtreeWriter
from scoutfs.metadata.commit import ServerVolume
from scoutfs.server import transactions
from scoutfs.server.log_merge import STATUS_KEY, insert_range, ranges
from scoutfs.server.log_trees import all_log_trees
from scoutfs.server.mounted_clients import forget
from scoutfs.server.statfs import count_free
from tests.memory import Image
from tests.metadata.servers import index_key
from tests.metadata.writing import columns
from tests.server.mounts import FIRST, GIB, LAST, Mount, Server, copied, new_images


@functools.cache
def _new(meta: int, data: int) -> dict[str, Image]:
    return new_images(meta, data)


def images(meta: int = 2 * GIB, data: int = 4 * GIB) -> dict[str, Image]:
    return copied(_new(meta, data))


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every tree finalized that has anything in it: trees that are high enough are too large for tests."""
    monkeypatch.setattr(transactions, "LEVELS_OF_LARGE_TREE", 0)


async def turn(server: Server, mounts: list[Mount], *majors: int, data_blocks: int = 0) -> None:
    """Have every mount commit something and get its next transaction, all at once."""
    async with trio.open_nursery() as nursery:
        for mount in mounts:
            nursery.start_soon(functools.partial(mount.transaction, *majors, data_blocks=data_blocks))


def status(server: Server) -> object | None:
    item = server.volume._transactions.current.log_merge.lookup(STATUS_KEY)
    return None if item is None else LogMergeStatus.parse(item.value)


async def settled(server: Server) -> None:
    """Wait until merged trees are freed."""
    while server.volume.stable.raw.log_merge.ref.blkno:
        await trio.sleep(0.01)


async def test_a_merge_of_one_mount(eager: None, autojump_clock: MockClock) -> None:
    async with Server(images()).running() as server:
        mount = await server.mounted(1)
        await mount.begin()
        assert await mount.merge() == 0
        await mount.transaction(*range(0, 1000, 3))
        assert mount.trees.nr == 2
        assert status(server) is not None
        assert server.damage() == []
        assert await mount.merge() == 1
        assert status(server) is None
        await settled(server)
        assert server.damage() == []
        assert server.items() == [index_key(major) for major in range(0, 1000, 3)]
        assert [trees.nr for trees in await server.volume.change(all_log_trees)] == [2]
        raw = server.volume.stable.raw
        assert raw.log_merge.ref.blkno == 0
        assert Root.of(raw.fs_root).height > 0


async def test_no_mount_gets_a_transaction_before_all_are_finalized(eager: None, autojump_clock: MockClock) -> None:
    async with Server(images()).running() as server:
        one, two = [await server.mounted(rid) for rid in (1, 2)]
        await one.begin()
        await two.begin()
        one.write((1,))
        await one.commit()
        begun = trio.Event()

        async def begin() -> None:
            await one.begin()
            begun.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(begin)
            await trio.sleep(0.3)
            assert not begun.is_set()
            assert server.synced == [2], "it is asked once to commit"
            assert server.damage() == []
            await two.transaction(2)
        assert status(server) is not None
        assert (one.trees.nr, two.trees.nr) == (2, 2)
        finalized = [trees for trees in await server.volume.change(all_log_trees) if trees.flags]
        assert max(trees.finalize_seq for trees in finalized) < status(server).seq
        assert min(one.trees.get_trans_seq, two.trees.get_trans_seq) > max(trees.max_item_seq for trees in finalized)
        assert await two.merge() == 1
        assert server.items() == [index_key(1), index_key(2)]
        assert server.damage() == []


async def test_a_mount_that_does_not_commit_is_not_waited_for_long(eager: None, autojump_clock: MockClock) -> None:
    async with Server(images()).running() as server:
        one, two = [await server.mounted(rid) for rid in (1, 2)]
        await one.begin()
        await two.begin()
        before = trio.current_time()
        await one.transaction(1)
        assert 0.4 < trio.current_time() - before < 0.8
        assert status(server) is None
        assert one.trees.nr == 2
        await two.transaction(2)  # it sees a finalized tree, and waits for the first one in its turn
        assert status(server) is None
        await turn(server, [one, two], 3)
        assert status(server) is not None
        await one.merge()
        assert server.items() == [index_key(major) for major in (1, 2, 3)]
        assert server.damage() == []


async def test_the_tree_of_a_mount_that_nobody_knows_is_taken_back(eager: None, autojump_clock: MockClock) -> None:
    async with Server(images()).running() as server:
        one, two = [await server.mounted(rid) for rid in (1, 2)]
        await one.begin()
        await two.begin()
        await two.transaction()
        two.write((2,))
        await two.commit()
        await server.volume.change(lambda volume: forget(volume, 2))
        await one.transaction(1)
        assert status(server) is not None
        await one.merge()
        assert server.items() == [index_key(1), index_key(2)]
        assert server.damage() == []


async def test_answers_that_are_lost(eager: None, autojump_clock: MockClock) -> None:
    async with Server(images()).running() as server:
        mount = await server.mounted(1)
        await mount.begin()
        await mount.transaction(1, 2, 3)
        first = await mount.merge_request()
        assert first is not None
        assert server.damage() == []
    async with Server(server.images, 1).running() as server:
        mount = server.mount(1, 1)
        assert await mount.merge_request() == first, "the part that it has and does not know of"
        answer = mount.merged(first)
        await mount.ask(Command.COMMIT_LOG_MERGE, answer)
        assert server.damage() == []
    async with Server(server.images, 2).running() as server:
        mount = server.mount(1, 2)
        with pytest.raises(ScoutfsError) as raised:
            await mount.ask(Command.COMMIT_LOG_MERGE, answer)
        assert raised.value.errno == 2
        assert await mount.merge() == 0
        assert server.items() == [index_key(major) for major in (1, 2, 3)]
        await settled(server)
        assert server.damage() == []


async def test_a_part_that_fails_is_done_by_another(eager: None, autojump_clock: MockClock) -> None:
    async with Server(images()).running() as server:
        one, two = [await server.mounted(rid) for rid in (1, 2)]
        await one.begin()
        await two.begin()
        await turn(server, [one, two], 1, 2)
        request = await one.merge_request()
        assert await two.merge() == 0
        answer = LogMergeComplete.parse(one.merged(request))
        answer.flags = 1
        await one.ask(Command.COMMIT_LOG_MERGE, LogMergeComplete.build(answer))
        assert server.damage() == []
        request = await one.merge_request()
        await server.requests.reclaim(1)
        assert server.damage() == []
        assert await two.merge() == 1
        assert server.items() == [index_key(1), index_key(2)]
        assert server.damage() == []


async def test_a_part_that_is_too_large_is_done_bit_by_bit(
    eager: None, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merge_work, "DIRTY_MAX", 10 << 16)
    async with Server(images()).running() as server:
        mount = await server.mounted(1)
        await mount.begin()
        await mount.transaction(*range(50_000))
        assert await mount.merge() > 4
        assert server.items() == [index_key(major) for major in range(50_000)]
        await settled(server)
        assert server.damage() == []


def free_blocks(server: Server) -> int:
    return count_free(server.volume.reader, server.volume.stable).free_meta_blocks


async def test_a_volume_does_not_grow_by_being_used(eager: None, autojump_clock: MockClock) -> None:
    rng = random.Random(3)
    async with Server(images()).running() as server:
        mounts = [await server.mounted(rid) for rid in (1, 2, 3)]
        for mount in mounts:
            await mount.begin()
        free = []
        for cycle in range(200):
            await turn(server, mounts, *rng.sample(range(2000), 20), data_blocks=3000)
            await mounts[cycle % 3].merge()
            if cycle % 20 == 19:
                await settled(server)
                free.append(free_blocks(server))
        assert server.damage() == []
        assert max(free[1:]) - min(free[1:]) < 40, free
        assert [mount.trees.meta_avail.flags | mount.trees.data_avail.flags for mount in mounts] == [0, 0, 0]


async def test_parts_of_a_high_tree_are_merged_beside_each_other(eager: None, autojump_clock: MockClock) -> None:
    async with Server(images(16 * GIB, 4 * GIB)).running() as server:
        mounts = [await server.mounted(rid) for rid in (1, 2, 3)]
        for mount in mounts:
            await mount.begin()

        def grow(number: int, volume: ServerVolume) -> None:
            volume.fs_root.insert_list(
                columns((index_key(major), 1, 0, bytes(800)) for major in range(number, number + 1600))
            )

        for number in range(0, 120_000, 1600):
            await server.volume.change(functools.partial(grow, number))
        assert Root.of(server.volume.stable.raw.fs_root).height == 3
        await turn(server, mounts, *range(0, 120_000, 1009))
        requests = [await mount.merge_request() for mount in mounts]
        known = [LogMergeRequest.parse(request) for request in requests if request is not None]
        assert len(known) > 1
        assert all(request.flags == 1 for request in known)
        assert [text for text in server.damage() if "expected 0" not in text] == [], "but for what makes it high"
        for mount, request in zip(mounts, requests, strict=True):
            if request is not None:
                await mount.ask(Command.COMMIT_LOG_MERGE, mount.merged(request))
        for mount in mounts:
            await mount.merge()
        await settled(server)
        assert status(server) is None
        assert [text for text in server.damage() if "expected 0" not in text] == [], "but for what makes it high"
        reader = server.volume.reader
        merged = Btree(reader, Root.of(server.volume.stable.raw.fs_root))
        assert {item.key for item in merged.items(FIRST, LAST) if item.seq > 1} == {
            index_key(major) for major in range(0, 120_000, 1009)
        }


async def test_ranges_whose_first_keys_differ_only_in_their_zones(
    eager: None, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Spec 04 §16, trap 23: they have one key.
    async with Server(images()).running() as server:
        one, two = [await server.mounted(rid) for rid in (1, 2)]
        await one.begin()
        await two.begin()
        await turn(server, [one, two], 10, 20, 30)
        ends = Key.from_sort_bytes(index_key(20))
        monkeypatch.setattr(BtreeWriter, "parent_range", lambda self, key: (FIRST, index_key(20)))
        other = Key(
            Zone.FS, *(getattr(ends.increment(), name) for name in ("first", "type", "second", "third", "fourth"))
        )
        nothing = Key(Zone.FS, 5).sort_bytes
        await server.volume.change(lambda volume: insert_range(volume, other.sort_bytes, nothing))
        assert await one.merge_request() is not None
        monkeypatch.undo()
        left = ranges(server.volume._transactions.current)
        assert left[0] == (index_key(20), LAST_KEY)

        def in_the_way(volume: ServerVolume) -> None:
            start = Key.from_sort_bytes(index_key(10))
            key = Key(Zone.FS, start.first, start.type, start.second, start.third, start.fourth)
            insert_range(volume, key.sort_bytes, nothing)

        await server.volume.change(in_the_way)
        await server.requests.reclaim(1)
        assert ranges(server.volume._transactions.current)[0][0] < index_key(10)
        monkeypatch.setattr(transactions, "LEVELS_OF_LARGE_TREE", 9)
        while await two.merge():
            pass
        assert status(server) is None
        assert server.items() == [index_key(major) for major in (10, 20, 30)]
