"""A mount is killed at any moment: once it is fenced, others go on with all that it had synced."""

from __future__ import annotations

import random

import pytest
import trio

from scoutfs.client import background
from scoutfs.server import service, transactions
from tests.client.cut_checks import History, damage, nearest
from tests.client.file_trees import State, Tree, found_tree
from tests.client.memory_cluster import MemoryCluster, MemoryMount, cluster_on, new_images, snapshot
from tests.memory import MemoryIO

DEAD = 0xA000


@pytest.fixture(autouse=True)
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Merge and compact all the time, and give up mounts at once."""
    monkeypatch.setattr(transactions, "LEVELS_OF_LARGE_TREE", 0)
    monkeypatch.setattr(background, "MERGE_INTERVAL", 0.01)
    monkeypatch.setattr(background, "COMPACTION_INTERVAL", 0.02)
    monkeypatch.setattr(service, "RECONNECT_TIMEOUT", 0.01)


class Work:
    """What a mount does in a tree of its own until it is killed."""

    def __init__(self, name: bytes, seed: int) -> None:
        self.tree, self.history = Tree(name, seed), History(name)
        self.synced = 0

    async def run(self, mount: MemoryMount, steps: int) -> None:
        """Do `steps` things; sync now and then."""
        await self.tree.begin(mount.files)
        self.history.states.append(self.tree.state())
        for step in range(steps):
            # what is begun may be done, although nobody gets to know
            await self.tree.step(mount.files)
            self.history.states.append(self.tree.state())
            if step % 5 == 2:
                count = len(self.history.states) - 1
                await mount.files.sync()
                self.synced = count

    def check(self, found: State, last: int) -> None:
        """The tree must be as after an operation, none before the last sync; `last` was the last that returned."""
        numbers = [number for number in self.history.with_shape(found.shape) if self.synced <= number <= last]
        assert numbers, nearest(self.history, found)


async def fenced(cluster: MemoryCluster) -> None:
    """Fence the mount that is dead, as an agent does that knows it."""
    while DEAD not in [view.rid for view in cluster.server.fences.pending()]:
        await trio.sleep(0.002)
    cluster.server.fences.mark_fenced(DEAD)
    while DEAD in cluster.server.clients.clients:
        await trio.sleep(0.002)


@pytest.mark.parametrize("seed", range(12))
async def test_others_go_on_after_a_mount_was_killed(seed: int) -> None:
    rng = random.Random(seed)
    io = MemoryIO(new_images())
    async with cluster_on(io) as cluster:
        dying, living = await cluster.mount(DEAD), await cluster.mount(0xB000)
        works = [Work(b"a", seed), Work(b"b", seed + 100)]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(works[1].run, living, 60)
            async with trio.open_nursery() as ending:
                ending.start_soon(works[0].run, dying, 10_000)
                enough = rng.randrange(3, 40)
                while len(works[0].history.states) < enough:
                    await trio.sleep(0)
                await trio.sleep(rng.random() * 0.02)
                ending.cancel_scope.cancel()
                dying.kill()
            await fenced(cluster)
            # Another mount takes over its tree, while its log tree may not be merged yet.
            await living.files.sync()
            found = found_tree(living.volume, snapshot(living.volume), b"a")
            states = works[0].history.states
            states.append(works[0].tree.state())
            works[0].check(found.state, len(states) - 1)
            tree = Tree.of(b"a", seed, found.root, found.state)
            if found.root:
                for _ in range(20):
                    await tree.step(living.files)
                await living.files.sync()
                assert found_tree(living.volume, snapshot(living.volume), b"a").state == tree.state()
        await living.files.sync()
        assert found_tree(living.volume, snapshot(living.volume), b"b").state == works[1].tree.state()
        assert living.log.errors == []
    assert damage(io.images) == []
