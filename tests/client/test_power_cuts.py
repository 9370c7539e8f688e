"""Power cuts at any point of what a server and its clients write: nothing is damaged, and nothing synced is lost.

What was not synced is there up to some operation, those before it whole, those behind it not at all.  Only the contents
of blocks that had been written before are changed in place: see `cut_checks.Checker`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import pytest
import trio

from scoutfs.client import background
from scoutfs.client.volume_client import VolumeClient
from scoutfs.server import transactions
from tests.client.cut_checks import Checker, History, Opened, damage
from tests.client.file_trees import Tree, found_tree
from tests.client.memory_cluster import MemoryCluster, MemoryMount, cluster_on, new_images, snapshot
from tests.client.power_cuts import Flush, Recorded, Write, cuts
from tests.memory import Image, MemoryIO

CUTS = 5000
"""Cuts of all runs together."""


Script = Callable[[MemoryCluster, "list[Worker]", int], Awaitable[None]]


@dataclass
class Run:
    """What was written to the devices, and why."""

    base: dict[str, Image]
    log: list[Write | Flush]
    histories: list[History]


class Worker:
    """A tree, who works in it, and its history."""

    def __init__(self, io: Recorded, name: bytes, seed: int) -> None:
        self.io, self.tree, self.history = io, Tree(name, seed), History(name)
        self.busy = trio.Lock()
        self.last: VolumeClient | None = None
        self.done: dict[VolumeClient, int] = {}

    async def step(self, files: VolumeClient) -> None:
        """Do something, one at a time."""
        async with self.busy:
            if not self.tree.root:
                await self._do(self.tree.begin, files)
            elif self.last is not None and files is not self.last:
                # Both need the lock of the directory: the other mount has to commit first whatever it has done here.
                await self._do(self.tree.chmod_root, self.last)
                await self._do(self.tree.chmod_root, files)
            await self._do(self.tree.step, files)
            self.last = files
            self.done[files] = len(self.history.ended)

    async def _do(self, operation: Callable[[VolumeClient], Awaitable[None]], files: VolumeClient) -> None:
        self.history.begun.append(len(self.io.log))
        await operation(files)
        self.history.ended.append(len(self.io.log))
        self.history.states.append(self.tree.state())


async def one_mount(cluster: MemoryCluster, workers: list[Worker], steps: int) -> None:
    """A mount alone."""
    mount = await cluster.mount(0xA000)
    await _work(mount, workers[0], workers[0], steps)


async def two_mounts(cluster: MemoryCluster, workers: list[Worker], steps: int) -> None:
    """Two mounts, each in a tree of its own and both in a third."""
    async with trio.open_nursery() as nursery:
        for number in range(2):
            mount = await cluster.mount(0xA000 + number)
            nursery.start_soon(_work, mount, workers[number], workers[2], steps // 2)


async def another_server(cluster: MemoryCluster, workers: list[Worker], steps: int) -> None:
    """The same while the server dies twice."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(two_mounts, cluster, workers, steps)
        for fraction in (3, 2):
            while sum(len(worker.history.ended) for worker in workers) < steps // fraction:
                await trio.sleep(0.001)
            await cluster.kill_server()
            await cluster.serve()


async def _work(mount: MemoryMount, own: Worker, shared: Worker, steps: int) -> None:
    rng = own.tree.random
    mount.background.orphan_scan_delay_ms = 20
    for _ in range(steps):
        worker = shared if rng.random() < 0.3 else own
        await worker.step(mount.files)
        if rng.random() < 0.25:
            done = {worker: worker.done.get(mount.files, 0) for worker in (own, shared)}
            await mount.files.sync()
            for worker, count in done.items():
                worker.history.synced.append((len(worker.io.log), count))


async def recorded(script: Script, seed: int, steps: int) -> Run:
    """Return what a script does."""
    images = new_images()
    io = Recorded(images)
    async with cluster_on(io) as cluster:
        base = {name: image.copy() for name, image in images.items()}
        io.log.clear()
        workers = [Worker(io, name, seed + number) for number, name in enumerate((b"a", b"b", b"s"))]
        await script(cluster, workers, steps)
        assert cluster.errors() == []
        log = list(io.log)
    return Run(base, log, [worker.history for worker in workers])


@pytest.fixture(autouse=True)
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Merge and compact all the time."""
    monkeypatch.setattr(transactions, "LEVELS_OF_LARGE_TREE", 0)
    monkeypatch.setattr(background, "MERGE_INTERVAL", 0.01)
    monkeypatch.setattr(background, "COMPACTION_INTERVAL", 0.02)


@pytest.mark.parametrize(("script", "steps"), [(one_mount, 160), (two_mounts, 80), (another_server, 80)])
async def test_power_cuts(script: Script, steps: int) -> None:
    run = await recorded(script, 1, steps)
    checker = Checker(run.histories, sample=200)
    for cut in cuts(run.base, run.log, seed=1, random_cuts=5):
        await checker.check(cut)
        if checker.count % 200 == 0:
            await goes_on(await checker.reopened(cut), checker.count)
    assert checker.count >= CUTS / 3


async def goes_on(after: Opened, seed: int) -> None:
    """A volume that a server has recovered is used again."""
    async with cluster_on(MemoryIO(after.images)) as cluster:
        mount = await cluster.mount(0xC000)
        trees = [Tree.of(name, seed, found.root, found.state) for name, found in after.found.items() if found.root]
        for tree in trees:
            await tree.grow(mount.files)
            for _ in range(5):
                await tree.step(mount.files)
        await mount.files.sync()
        for tree in trees:
            assert found_tree(mount.volume, snapshot(mount.volume), tree.name).state == tree.state()
        assert cluster.errors() == []
    assert damage(after.images) == []
