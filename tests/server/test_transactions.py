"""Transactions of mounts, from the first to the last, as the volume has them after each step."""

from __future__ import annotations

import functools

import pytest
import trio
from trio.testing import MockClock

from format.net import Command
from scoutfs.errors import ScoutfsError
from scoutfs.server.log_trees import is_finalized, newest
from tests.memory import Image
from tests.metadata.servers import index_key
from tests.server.mounts import GIB, Server, copied, new_images


@functools.cache
def _new(meta: int, data: int) -> dict[str, Image]:
    return new_images(meta, data)


def images(meta: int = 2 * GIB, data: int = 4 * GIB) -> dict[str, Image]:
    return copied(_new(meta, data))


async def test_three_mounts_write_on_a_small_volume(autojump_clock: MockClock) -> None:
    async with Server(images()).running() as server:
        mounts = [await server.mounted(rid) for rid in (1, 2, 3)]
        assert server.damage() == []
        for mount in mounts:
            await mount.begin()
            assert server.damage() == []
        for mount in mounts:
            assert (mount.trees.meta_avail.flags, mount.trees.data_avail.flags) == (0, 0)
            assert mount.trees.data_avail.total_len >= 1 << 16, "a kernel mount would commit without end"
        for number in range(4):
            for mount in mounts:
                await mount.transaction(*range(mount.rid, 3000, number + 2), data_blocks=20000)
                assert server.damage() == []
        expected = {
            index_key(major) for mount in mounts for step in (2, 3, 4, 5) for major in range(mount.rid, 3000, step)
        }
        assert server.items() == sorted(expected)


async def test_what_a_transaction_uses_comes_back(autojump_clock: MockClock) -> None:
    async with Server(images()).running() as server:
        mount = await server.mounted(1)
        await mount.begin()
        free = server.volume.stable.raw.data_alloc.total_len + mount.trees.data_avail.total_len
        await mount.transaction(5, data_blocks=100_000)
        trees = mount.trees
        assert trees.data_freed.total_len == 0
        assert server.volume.stable.raw.data_alloc.total_len + trees.data_avail.total_len == free
        assert trees.data_avail.total_len > 1 << 16


async def test_inode_numbers_are_given_once(autojump_clock: MockClock) -> None:
    async with Server(images()).running() as server:
        mount = await server.mounted(1)
        assert await mount.inodes(10240) == range(1024, 11264)
        assert await mount.inodes(1) == range(11264, 11265)
        assert await mount.inodes(0) == range(11265, 11265)
    async with Server(server.images, 1).running() as server:
        assert await server.mount(1).inodes(5) == range(11265, 11270)


async def test_numbers_go_on_behind_those_of_items_that_only_the_mount_knew(autojump_clock: MockClock) -> None:
    """A lock of the previous server, given up before this one could ask for it (spec 05 §2.9)."""
    async with Server(images()).running() as server:
        mount = await server.mounted(1)
        await mount.begin()
        mount.write((5,))
        mount.trees.max_item_seq = 7000
        await mount.commit()
        await mount.begin()
        assert mount.trees.get_trans_seq > 7000


async def test_an_open_transaction_is_given_once_more_unchanged(autojump_clock: MockClock) -> None:
    async with Server(images()).running() as server:
        mount = await server.mounted(1)
        await mount.begin()
        first = mount.trees
        seq = server.volume.stable.raw.hdr.seq
        await mount.begin()
        assert mount.trees == first
        assert server.volume.stable.raw.hdr.seq == seq, "there was nothing to commit"
    async with Server(server.images, 1).running() as server:
        mount = server.mount(1)
        await mount.begin()
        assert mount.trees == first


async def test_a_commit_that_is_resent_is_recognised(autojump_clock: MockClock) -> None:
    async with Server(images()).running() as server:
        mount = await server.mounted(1)
        await mount.begin()
        mount.write((1, 2, 3))
        await mount.commit()
    async with Server(server.images, 1).running() as server:
        again = server.mount(1)
        again.trees = mount.trees
        await again.commit()
        assert server.items() == [index_key(major) for major in (1, 2, 3)]
        await again.begin()
        assert again.trees.get_trans_seq > mount.trees.get_trans_seq
        again.trees.get_trans_seq += 1
        with pytest.raises(ScoutfsError) as raised:
            await again.commit()
        assert raised.value.errno == 5
        again.trees.nr += 1
        with pytest.raises(ScoutfsError) as raised:
            await again.commit()
        assert raised.value.errno == 2
        other = await server.mounted(2)
        other.trees = again.trees
        with pytest.raises(ScoutfsError) as raised:
            await other.commit()
        assert raised.value.errno == 5
        assert server.damage() == []


async def test_what_a_mount_had_comes_back_when_it_is_gone(autojump_clock: MockClock) -> None:
    async with Server(images()).running() as server:
        mounts = [await server.mounted(rid) for rid in (1, 2)]
        for mount in mounts:
            await mount.begin()
        await mounts[0].transaction(1, 2, 3, data_blocks=5000)
        mounts[0].write((4,), 1000)  # written, and never committed
        total = server.device_volume.super.total_data_blocks
        await server.requests.reclaim(1)
        assert server.damage() == []
        assert server.items() == [index_key(major) for major in (1, 2, 3)]
        raw = server.volume.stable.raw
        assert raw.data_alloc.total_len + mounts[1].trees.data_avail.total_len == total - 64
        assert not await server.requests.is_recorded(1)
        trees = await server.volume.change(lambda volume: newest(volume, 1))
        assert is_finalized(trees)
        assert (trees.meta_avail.total_nr, trees.data_avail.total_len, trees.finalize_seq > 0) == (0, 0, True)
        await server.requests.reclaim(1)
        await server.requests.reclaim(77)
        with pytest.raises(ScoutfsError) as raised:
            await mounts[0].commit()
        assert raised.value.errno == 5, "whoever was taken for dead must not believe that this is on disk"


async def test_last_seq(autojump_clock: MockClock) -> None:
    async with Server(images()).running() as server:
        one, two = [await server.mounted(rid) for rid in (1, 2)]

        async def last() -> int:
            return int.from_bytes(await one.ask(Command.GET_LAST_SEQ, b""), "little")

        assert await last() == server.volume.seqs.last - 1
        await one.begin()
        await two.begin()
        assert await last() == one.trees.get_trans_seq - 1
        await one.transaction(1)
        assert await last() == two.trees.get_trans_seq - 1
        await server.requests.reclaim(2)
        assert await last() == one.trees.get_trans_seq - 1


async def test_requests_that_come_together_share_a_commit(autojump_clock: MockClock) -> None:
    async with Server(images()).running() as server:
        mounts = [await server.mounted(rid) for rid in range(1, 9)]
        seq = server.volume.stable.raw.hdr.seq
        async with trio.open_nursery() as nursery:
            for mount in mounts:
                nursery.start_soon(mount.inodes, 10)
        assert server.volume.stable.raw.hdr.seq == seq + 1
