"""Mounts of one volume that change it through one server, and through others when that is gone."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from scoutfs.errors import ScoutfsError
from scoutfs.quorum.election import ServerStatus
from tests.client.cluster import Mount, mounted


async def test_what_one_mount_writes_the_other_reads(tmp_path: Path) -> None:
    async with mounted(tmp_path) as cluster:
        one, other = cluster.mounts
        ino = await one.make(b"file", b"contents" * 2000)
        assert await other.lookup(b"file") == ino
        assert await other.contents(ino) == b"contents" * 2000
        await other.write(ino, None, b"more")
        assert await one.contents(ino) == b"contents" * 2000 + b"more"
        assert await one.names() == await other.names() == [b"file"]
        await cluster.leave()
        assert cluster.errors() == []
    assert cluster.problems() == []


async def test_all_write_the_same_files_at_the_same_time(tmp_path: Path) -> None:
    """Spec 05 §9.2: every append lands behind the others, every name is there once."""
    async with mounted(tmp_path, 3) as cluster:
        ino = await cluster.mounts[0].make(b"shared")

        async def work(mount: Mount) -> None:
            for number in range(15):
                await mount.write(ino, None, bytes([mount.slot + 1]) * 1000)
                await mount.make(b"%d of %d" % (number, mount.slot), b"x" * 10)

        async with trio.open_nursery() as nursery:
            for mount in cluster.mounts:
                nursery.start_soon(work, mount)
        for mount in cluster.mounts:
            contents = await mount.contents(ino)
            blocks = [contents[start : start + 1000] for start in range(0, len(contents), 1000)]
            assert sorted(block[0] for block in blocks) == sorted([1, 2, 3] * 15)
            assert all(len(set(block)) == 1 for block in blocks)
            assert sorted(await mount.names()) == sorted(
                [b"shared", *(b"%d of %d" % (number, slot) for number in range(15) for slot in range(3))]
            )
        await cluster.leave()
        assert cluster.errors() == []
    assert cluster.problems() == []


async def test_nobody_notices_that_the_server_changes(tmp_path: Path) -> None:
    async with mounted(tmp_path, 3) as cluster:
        done = dict.fromkeys(range(3), 0)
        working = True

        async def work(mount: Mount) -> None:
            while working:
                name = b"%d of %d" % (done[mount.slot], mount.slot)
                ino = await mount.make(name, b"x" * 6000)
                other = cluster.mounts[(mount.slot + 1) % 3]
                assert await other.lookup(name) == ino
                assert await other.contents(ino) == b"x" * 6000
                done[mount.slot] += 1

        async def until_all_went_on() -> None:
            before = dict(done)
            while any(done[slot] < before[slot] + 2 for slot in done):
                await trio.sleep(0.01)

        async with trio.open_nursery() as nursery:
            for mount in cluster.mounts:
                nursery.start_soon(work, mount)
            await until_all_went_on()
            for leader in (1, 2, 0):
                await cluster.stop()
                await trio.sleep(0.1)  # let them ask nobody
                await cluster.elect(leader)
                await until_all_went_on()
            working = False
        names = {b"%d of %d" % (number, slot) for slot, count in done.items() for number in range(count)}
        for mount in cluster.mounts:
            assert set(await mount.names()) == names
        await cluster.leave()
        assert cluster.errors() == []
    assert cluster.problems() == []


async def until_gone(mount: Mount, ino: int) -> None:
    while await mount.inode(ino) is not None:
        await trio.sleep(0.05)


async def test_a_file_is_deleted_by_the_mount_that_used_it_last(tmp_path: Path) -> None:
    """Spec 05 §9.2, 14 to 17."""
    async with mounted(tmp_path) as cluster:
        one, other = cluster.mounts
        ino = await one.make(b"file", b"contents")
        other.files.keep_inode(ino)
        await one.remove(b"file")
        assert await other.lookup(b"file") is None
        assert not await one.background.deletions.delete(ino)
        assert await other.contents(ino) == b"contents"
        other.files.drop_inode(ino, unlinked=True)
        await until_gone(one, ino)
        ino = await one.make(b"another")
        one.files.keep_inode(ino)
        await one.remove(b"another")
        assert not await other.background.deletions.delete(ino)
        assert not await one.background.deletions.delete(ino)
        one.files.drop_inode(ino, unlinked=True)
        await until_gone(other, ino)
        await cluster.leave()
        assert cluster.errors() == []
    assert cluster.problems() == []


async def test_what_was_dropped_last_is_deleted_before_a_mount_leaves(tmp_path: Path) -> None:
    async with mounted(tmp_path) as cluster:
        one, other = cluster.mounts
        inos = [await one.make(b"file%d" % number) for number in range(3)]
        for number, ino in enumerate(inos):
            one.files.keep_inode(ino)
            await one.remove(b"file%d" % number)
        for ino in inos:
            one.files.drop_inode(ino, unlinked=True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.files.leave, lambda text: None)
            for ino in inos:
                await until_gone(other, ino)
            nursery.start_soon(other.files.leave, lambda text: None)
        assert cluster.errors() == []
    assert cluster.problems() == []


async def test_what_a_dead_mount_had_open_is_found_after_a_merge(tmp_path: Path) -> None:
    async with mounted(tmp_path, 3) as cluster:
        one, other, third = cluster.mounts
        ino = await one.make(b"file", b"contents")
        other.files.keep_inode(ino)
        await one.remove(b"file")
        other.files.drop_inode(ino, unlinked=False)  # as if it had not noticed
        await third.make(b"in the log of the third", b"x")
        await third.files.leave(lambda text: None)
        one.files.transactions.want_commit()  # its next transaction begins the merge of what the third has left
        await until_gone(other, ino)
        assert await one.lookup(b"in the log of the third") is not None
        async with trio.open_nursery() as nursery:
            for mount in (one, other):
                nursery.start_soon(mount.files.leave, lambda text: None)
        assert cluster.errors() == []
    assert cluster.problems() == []


async def test_others_go_on_when_a_member_that_leads_dies(tmp_path: Path) -> None:
    """Spec 05 §8: what it had committed stays, and nobody has seen the rest."""
    async with mounted(tmp_path, 3) as cluster:
        dead, one, other = cluster.mounts
        kept = await dead.make(b"kept", b"committed")
        await dead.files.sync()
        await dead.make(b"lost", b"not committed")
        dead.client.abandon()
        await cluster.kill(record=False)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cluster.elect, 1)
            while one.server.status is ServerStatus.DOWN or not one.server_fences():
                await trio.sleep(0.01)
            assert one.server_fences() == [dead.rid]
            one.server.answer_fence(dead.rid, "fenced")
        assert await one.lookup(b"lost") is None
        assert await other.contents(kept) == b"committed"
        await other.make(b"new", b"x")
        assert sorted(await one.names()) == [b"kept", b"new"]
        with pytest.raises(ScoutfsError):
            await dead.make(b"more")
        async with trio.open_nursery() as nursery:
            for mount in (one, other):
                nursery.start_soon(mount.files.leave, lambda text: None)
        assert one.log.errors == other.log.errors == []
    assert cluster.problems() == []
