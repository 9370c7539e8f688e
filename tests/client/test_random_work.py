"""Mounts that do anything to the same files, while servers die; each looks at what the others have done."""

from __future__ import annotations

import random
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio

from scoutfs.files.acl_writing import set_attribute
from scoutfs.files.caller import ROOT
from scoutfs.files.errors import TruncatePending
from scoutfs.files.linking import link
from scoutfs.files.rename import Names
from scoutfs.files.truncate import finish_truncate, set_size
from scoutfs.files.xattr import find_xattr
from tests.client.cluster import ROOT_INO, Cluster, Mount, mounted


class Table:
    """What the volume must hold: files by (directory, name), their contents and attributes by number."""

    def __init__(self, cluster: Cluster, seed: int) -> None:
        self.cluster = cluster
        self.random = random.Random(seed)
        self.directories: list[int] = []
        self.names: dict[tuple[int, bytes], int] = {}
        self.contents: dict[int, bytearray] = {}
        self.attributes: dict[int, bytes] = {}
        self.busy: set[tuple[int, bytes]] = set()
        self.done = 0

    def mount(self) -> Mount:
        """Return any mount that lives."""
        return self.random.choice([mount for mount in self.cluster.mounts if not mount.client.abandoned])

    def free(self) -> tuple[int, bytes]:
        """Choose a name that nobody else is doing something with, and keep it."""
        while True:
            name = self.random.choice(self.directories), b"f%d" % self.random.randrange(12)
            if name not in self.busy:
                self.busy.add(name)
                return name

    async def step(self, mount: Mount) -> None:
        """Do something to a file."""
        name = self.free()
        try:
            ino = self.names.get(name)
            if ino is None:
                await self.create(mount, name)
            else:
                action = self.random.choice(
                    (self.write, self.write, self.append, self.truncate, self.remove, self.move, self.name, self.look)
                )
                await action(mount, name, ino)
            self.done += 1
        finally:
            self.busy.discard(name)

    async def create(self, mount: Mount, name: tuple[int, bytes]) -> None:
        data = self.random.randbytes(self.random.choice((0, 10, 5000, 20_000)))
        ino = await mount.make(name[1], data, at=name[0])
        self.names[name], self.contents[ino] = ino, bytearray(data)

    async def write(self, mount: Mount, name: tuple[int, bytes], ino: int) -> None:
        offset, data = self.random.randrange(15_000), self.random.randbytes(self.random.randrange(9000))
        await untruncated(mount, ino, lambda: mount.write(ino, offset, data))
        contents = self.contents[ino]
        if data:
            contents.extend(bytes(max(0, offset - len(contents))))
            contents[offset : offset + len(data)] = data

    async def append(self, mount: Mount, name: tuple[int, bytes], ino: int) -> None:
        data = self.random.randbytes(100)
        await untruncated(mount, ino, lambda: mount.write(ino, None, data))
        self.contents[ino] += data

    async def truncate(self, mount: Mount, name: tuple[int, bytes], ino: int) -> None:
        size = self.random.randrange(20_000)
        await untruncated(mount, ino, lambda: mount.files.perform(set_size, ino, size, ROOT))
        contents = self.contents[ino]
        del contents[size:]
        contents.extend(bytes(size - len(contents)))

    async def remove(self, mount: Mount, name: tuple[int, bytes], ino: int) -> None:
        await mount.remove(name[1], at=name[0])
        del self.names[name]

    async def move(self, mount: Mount, name: tuple[int, bytes], ino: int) -> None:
        other = self.free()
        try:
            await mount.files.rename(Names(*name, *other), 0)
            del self.names[name]
            self.names[other] = ino
        finally:
            self.busy.discard(other)

    async def name(self, mount: Mount, name: tuple[int, bytes], ino: int) -> None:
        value = b"%d" % self.random.randrange(1000)
        tag = self.random.choice((b"user.a", b"scoutfs.totl.t.1.2.3", b"scoutfs.srch.s", b"scoutfs.indx.1.7"))
        await mount.files.perform(set_attribute, ino, tag, b"" if b"indx" in tag else value, ROOT)
        self.attributes[ino] = await mount.ask(ino, find_xattr, ino, tag)

    async def look(self, mount: Mount, name: tuple[int, bytes], ino: int) -> None:
        assert await mount.lookup(name[1], at=name[0]) == ino
        assert await mount.contents(ino) == bytes(self.contents[ino])

    async def check(self, mount: Mount) -> None:
        """Compare everything, while nobody does anything."""
        for directory in self.directories:
            names = {name[1] for name in self.names if name[0] == directory}
            assert {name for name in await mount.names(directory) if name.startswith(b"f")} == names
        for name, ino in self.names.items():
            await self.look(mount, name, ino)


async def untruncated(mount: Mount, ino: int, work: Callable[[], Awaitable[object]]) -> None:
    """Do something; finish an earlier truncation first if it must be."""
    while True:
        try:
            await work()
            return
        except TruncatePending:
            while not await mount.files.perform(finish_truncate, ino):
                pass


async def prepared(cluster: Cluster, seed: int) -> Table:
    table = Table(cluster, seed)
    for number in range(2):
        table.directories.append(await cluster.mounts[0].make(b"d%d" % number, mode=stat.S_IFDIR | 0o755))
    table.directories.append(ROOT_INO)
    return table


@pytest.mark.parametrize("seed", range(3))
async def test_everything_at_once_while_servers_die(seed: int, tmp_path: Path) -> None:
    async with mounted(tmp_path, 3) as cluster:
        table = await prepared(cluster, seed)
        working = True
        if seed % 2:
            for mount in cluster.mounts:
                mount.files.locks.idle_count = 2  # all but those that are in use are given back all the time

        async def work(mount: Mount) -> None:
            while working:
                await table.step(mount)

        async with trio.open_nursery() as nursery:
            for mount in cluster.mounts * 2:
                nursery.start_soon(work, mount)
            for leader in (1, 2, 0):
                enough = table.done + 40
                while table.done < enough:
                    await trio.sleep(0.005)
                await cluster.kill()
                await cluster.elect(leader)
            enough = table.done + 40
            while table.done < enough:
                await trio.sleep(0.005)
            working = False
        for mount in cluster.mounts:
            await table.check(mount)
        await cluster.leave()
        assert cluster.errors() == []
    assert cluster.problems() == []


async def test_hard_links_from_everywhere(tmp_path: Path) -> None:
    async with mounted(tmp_path, 3) as cluster:
        ino = await cluster.mounts[0].make(b"file", b"x")
        for number in range(9):
            await cluster.mounts[number % 3].files.perform(link, ino, ROOT_INO, b"link%d" % number)
        for mount in cluster.mounts:
            inode = await mount.inode(ino)
            assert inode is not None
            assert inode.nlink == 10
        for number in range(9):
            await cluster.mounts[-number % 3].remove(b"link%d" % number)
        assert [await mount.names() for mount in cluster.mounts] == [[b"file"]] * 3
        await cluster.leave()
    assert cluster.problems() == []
