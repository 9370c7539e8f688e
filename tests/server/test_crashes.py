"""A server dies at any point of what it writes; the next one is asked the same again, and goes on."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable

import pytest
import trio
from trio.testing import MockClock

from format.logs import LogTrees
from scoutfs.server import transactions
from tests.memory import Image
from tests.metadata.servers import crashes, index_key
from tests.server.mounts import Mount, Server, copied, new_images

Script = Callable[[Server, Mount, Mount], Awaitable[None]]


@functools.cache
def _new() -> dict[str, Image]:
    return new_images()


@pytest.fixture(autouse=True)
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transactions, "LEVELS_OF_LARGE_TREE", 0)


async def get(server: Server, one: Mount, two: Mount) -> None:
    """GET_LOG_TREES, which finalizes, and begins a merge."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.begin)
        nursery.start_soon(two.begin)


async def commit(server: Server, one: Mount, two: Mount) -> None:
    """COMMIT_LOG_TREES."""
    await one.commit()
    await two.commit()


async def merge(server: Server, one: Mount, two: Mount) -> None:
    """GET_LOG_MERGE and COMMIT_LOG_MERGE, to the end of the merge."""
    await one.merge()


async def leave(server: Server, one: Mount, two: Mount) -> None:
    """FAREWELL, but for its answer."""
    await server.requests.reclaim(one.rid)


async def others(server: Server, one: Mount, two: Mount) -> None:
    """What hands out numbers, and greets."""
    await one.inodes(100)
    await server.mounted(77)


BEFORE: dict[Script, list[Script]] = {
    get: [commit],
    commit: [],
    merge: [commit, get],
    leave: [commit, get],
    others: [],
}


@pytest.mark.parametrize("script", BEFORE, ids=lambda script: script.__name__)
async def test_a_server_dies_and_is_asked_again(script: Script, autojump_clock: MockClock) -> None:
    async with Server(copied(_new())).running() as server:
        mounts = [await server.mounted(rid) for rid in (1, 2)]
        for mount in mounts:
            await mount.begin()
        for mount in mounts:
            mount.write((mount.rid, 5), data_blocks=2000)
        for earlier in BEFORE[script]:
            await earlier(server, *mounts)
        base, data = server.images["meta"].copy(), server.images["data"]
        known = [LogTrees.build(mount.trees) for mount in mounts]
        server.io.log.clear()
        await script(server, *mounts)
        log = list(server.io.log)
    assert len(log) > 3
    for place, image in crashes(base, log, seed=1):
        if len(log) > 30 and place % 3:
            continue
        async with Server({"meta": image, "data": data.copy()}, 1 + place).running() as successor:
            assert successor.damage() == [], place
            # What the mounts know has not changed, and none of what they wrote is lost.
            one, two = [successor.mount(rid, 1 + place) for rid in (1, 2)]
            one.trees, two.trees = map(LogTrees.parse, known)
            await script(successor, one, two)
            assert successor.damage() == [], place
            if script is not others:
                assert successor.items() == [index_key(major) for major in (1, 2, 5)], place
            if script in (get, merge):
                await one.transaction(7)
            if script is not others:
                await two.begin()
                await two.transaction(9)
                while await two.merge():
                    await two.begin()
                assert index_key(9) in successor.items()
            assert successor.damage() == [], place
