"""Trees of files: what they must be after any number of operations, and what they are on a volume."""

from __future__ import annotations

import random
import stat
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from scoutfs.client.volume_client import VolumeClient
from scoutfs.errors import ScoutfsError
from scoutfs.files.acl_writing import remove_attribute, set_attribute
from scoutfs.files.attributes import NewAttributes, set_attributes
from scoutfs.files.caller import ROOT
from scoutfs.files.create import create, symlink
from scoutfs.files.data import DataExtent, read_data, read_extents
from scoutfs.files.directory import find_entry, list_directory
from scoutfs.files.errors import TruncatePending
from scoutfs.files.inode import BLOCK_SIZE, read_inode
from scoutfs.files.linking import link, rmdir, unlink
from scoutfs.files.rename import Names
from scoutfs.files.symlink import read_target
from scoutfs.files.truncate import finish_truncate, set_size
from scoutfs.files.writing import preallocate, write
from scoutfs.files.xattr import read_xattrs
from scoutfs.storage.volume import Volume

ROOT_INO = 1
XATTRS = (b"user.a", b"user.long", b"scoutfs.srch.s", b"scoutfs.totl.t.1.2.3", b"scoutfs.hide.h")


class State(NamedTuple):
    """A tree at some time: entries and inodes in `shape`, and what the files hold by number of their inodes."""

    shape: frozenset[tuple[Any, ...]]
    contents: dict[int, bytes]


ABSENT = State(frozenset(), {})


@dataclass
class Node:
    """An inode that has a name."""

    mode: int
    nlink: int = 1
    contents: bytes = b""
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
    names: dict[bytes, int] = field(default_factory=dict)

    def shape(self, ino: int) -> tuple[Any, ...]:
        """Return what is compared of it."""
        contents = self.contents if stat.S_ISLNK(self.mode) else len(self.contents)
        return ino, self.mode, self.nlink, contents, tuple(sorted(self.xattrs.items()))


class Tree:
    """What a tree under the name `name` in the root must be."""

    def __init__(self, name: bytes, seed: int) -> None:
        self.name = name
        self.random = random.Random(seed)
        self.root = 0
        self.nodes: dict[int, Node] = {}

    @classmethod
    def of(cls, name: bytes, seed: int, root: int, state: State) -> Tree:
        """Return the tree that was found on a volume."""
        tree = cls(name, seed)
        tree.root = root
        for fields in state.shape:
            if len(fields) == 5:
                ino, mode, nlink, contents, xattrs = fields
                contents = contents if stat.S_ISLNK(mode) else state.contents.get(ino, b"")
                tree.nodes[ino] = Node(mode, nlink, contents, dict(xattrs))
        for ino, child_name, child in (fields for fields in state.shape if len(fields) == 3):
            tree.nodes[ino].names[child_name] = child
        return tree

    def state(self) -> State:
        """Return what it must be now."""
        shape: set[tuple[Any, ...]] = {node.shape(ino) for ino, node in self.nodes.items()}
        shape |= {(ino, name, child) for ino, node in self.nodes.items() for name, child in node.names.items()}
        files = {ino: node.contents for ino, node in self.nodes.items() if stat.S_ISREG(node.mode)}
        return State(frozenset(shape), files)

    # -- operations --------------------------------------------------------------------------------------------------

    async def begin(self, files: VolumeClient) -> None:
        """Make its directory."""
        self.root = await files.new_ino(directory=True)
        mode = stat.S_IFDIR | 0o755
        await files.perform(create, ROOT_INO, self.name, self.root, mode, ROOT)
        self.nodes[self.root] = Node(mode, 2)

    async def step(self, files: VolumeClient) -> None:
        """Do anything."""
        rng = self.random
        many = len(self.nodes) > 16
        actions: list[Callable[[VolumeClient], Awaitable[None]]] = [self.unlink] * (6 if many else 1)
        actions += [self.write] * 3 + [self.append] * 2 + [self.rename] * 2
        actions += [self.create, self.mkdir, self.truncate, self.set_xattr, self.link, self.fail]
        actions += [self.symlink, self.chmod, self.remove_xattr, self.rmdir, self.preallocate]
        await rng.choice(actions)(files)

    def _pick(self, choose: Callable[[Node], bool]) -> int | None:
        found = [ino for ino, node in sorted(self.nodes.items()) if choose(node)]
        return self.random.choice(found) if found else None

    def _directory(self) -> int:
        found = self._pick(lambda node: stat.S_ISDIR(node.mode))
        assert found is not None
        return found

    def _file(self) -> int | None:
        return self._pick(lambda node: stat.S_ISREG(node.mode))

    def _entry(self, choose: Callable[[Node], bool]) -> tuple[int, bytes, int] | None:
        found = [
            (ino, name, child)
            for ino, node in sorted(self.nodes.items())
            for name, child in sorted(node.names.items())
            if choose(self.nodes[child])
        ]
        return self.random.choice(found) if found else None

    def _new_name(self, directory: int) -> bytes:
        while True:
            name = b"n%d" % self.random.randrange(1000)
            if name not in self.nodes[directory].names:
                return name

    async def create(self, files: VolumeClient) -> None:
        directory = self._directory()
        name, ino = self._new_name(directory), await files.new_ino(directory=False)
        mode = self.random.choice((stat.S_IFREG, stat.S_IFREG, stat.S_IFIFO)) | 0o640
        await files.perform(create, directory, name, ino, mode, ROOT)
        self.nodes[ino] = Node(mode)
        self.nodes[directory].names[name] = ino

    async def mkdir(self, files: VolumeClient) -> None:
        directory = self._directory()
        name, ino = self._new_name(directory), await files.new_ino(directory=True)
        mode = stat.S_IFDIR | 0o755
        await files.perform(create, directory, name, ino, mode, ROOT)
        self.nodes[ino] = Node(mode, 2)
        self.nodes[directory].names[name] = ino
        self.nodes[directory].nlink += 1

    async def symlink(self, files: VolumeClient) -> None:
        directory = self._directory()
        name, ino = self._new_name(directory), await files.new_ino(directory=False)
        target = b"t" * self.random.randrange(1, 3000)
        await files.perform(symlink, directory, name, ino, target, ROOT)
        self.nodes[ino] = Node(stat.S_IFLNK | 0o777, 1, target)
        self.nodes[directory].names[name] = ino

    async def fail(self, files: VolumeClient) -> None:
        """What is refused changes nothing."""
        entry = self._entry(lambda node: True)
        if entry is None:
            return
        ino = await files.new_ino(directory=False)
        try:
            await files.perform(create, entry[0], entry[1], ino, stat.S_IFREG | 0o600, ROOT)
        except ScoutfsError:
            return
        raise AssertionError("a name was made twice")

    async def link(self, files: VolumeClient) -> None:
        ino, directory = self._file(), self._directory()
        if ino is not None:
            name = self._new_name(directory)
            await files.perform(link, ino, directory, name)
            self.nodes[ino].nlink += 1
            self.nodes[directory].names[name] = ino

    async def unlink(self, files: VolumeClient) -> None:
        entry = self._entry(lambda node: not stat.S_ISDIR(node.mode))
        if entry is not None:
            await files.perform(unlink, *entry[:2])
            del self.nodes[entry[0]].names[entry[1]]
            self._dropped(files, entry[2])

    def _dropped(self, files: VolumeClient, ino: int) -> None:
        """A name of a file is gone."""
        node = self.nodes[ino]
        node.nlink -= 1
        if not node.nlink:
            del self.nodes[ino]
            files.drop_inode(ino, unlinked=True)

    async def rmdir(self, files: VolumeClient) -> None:
        entry = self._entry(lambda node: stat.S_ISDIR(node.mode) and not node.names)
        if entry is not None:
            await files.perform(rmdir, *entry[:2])
            self._dropped_directory(files, *entry)

    def _dropped_directory(self, files: VolumeClient, directory: int, name: bytes, ino: int) -> None:
        del self.nodes[directory].names[name]
        self.nodes[directory].nlink -= 1
        del self.nodes[ino]
        files.drop_inode(ino, unlinked=True)

    async def rename(self, files: VolumeClient) -> None:
        entry = self._entry(lambda node: not stat.S_ISDIR(node.mode))
        if entry is None:
            return
        directory, name, ino = entry
        target = self._entry(lambda node: not stat.S_ISDIR(node.mode))
        if target is not None and self.random.random() < 0.5 and target[2] != ino:
            await files.rename(Names(directory, name, *target[:2]), 0)
            new, replaced = target[:2], target[2]
        else:
            to = self._directory()
            new, replaced = (to, self._new_name(to)), 0
            await files.rename(Names(directory, name, *new), 0)
        del self.nodes[directory].names[name]
        self.nodes[new[0]].names[new[1]] = ino
        if replaced:
            self._dropped(files, replaced)

    async def write(self, files: VolumeClient) -> None:
        ino = self._file()
        if ino is not None:
            offset = self.random.choice((0, 4096, self.random.randrange(30_000)))
            data = self.random.randbytes(self.random.choice((1, 700, 4096, 9000)))
            await self._write(files, ino, offset, data)

    async def append(self, files: VolumeClient) -> None:
        ino = self._file()
        if ino is not None:
            await self._write(files, ino, None, self.random.randbytes(self.random.randrange(1, 5000)))

    async def _write(self, files: VolumeClient, ino: int, offset: int | None, data: bytes) -> None:
        written = await _truncated(files, ino, lambda: files.perform(write, ino, offset, data, ROOT))
        assert written.length == len(data)
        old = self.nodes[ino].contents
        start = len(old) if offset is None else offset
        assert written.offset == start
        self.nodes[ino].contents = old[:start].ljust(start, b"\0") + data + old[start + len(data) :]

    async def grow(self, files: VolumeClient) -> None:
        """Make all files longer."""
        for ino, node in list(self.nodes.items()):
            if stat.S_ISREG(node.mode):
                await self.resize(files, ino, len(node.contents) + 5000)

    async def truncate(self, files: VolumeClient) -> None:
        ino = self._file()
        if ino is not None:
            await self.resize(files, ino, self.random.choice((0, self.random.randrange(40_000))))
            while self.random.random() < 0.7 and not await files.perform(finish_truncate, ino):
                pass

    async def resize(self, files: VolumeClient, ino: int, size: int) -> None:
        """Give a file a size."""
        await _truncated(files, ino, lambda: files.perform(set_size, ino, size, ROOT))
        self.nodes[ino].contents = self.nodes[ino].contents[:size].ljust(size, b"\0")

    async def preallocate(self, files: VolumeClient) -> None:
        ino = self._file()
        if ino is not None:
            offset, length = self.random.randrange(20_000), self.random.randrange(1, 20_000)
            done = await _truncated(files, ino, lambda: files.perform(preallocate, ino, offset, length))
            assert done >= offset + length
            node = self.nodes[ino]
            node.contents = node.contents.ljust(offset + length, b"\0")

    async def set_xattr(self, files: VolumeClient) -> None:
        ino = self._pick(lambda node: stat.S_ISREG(node.mode) or stat.S_ISDIR(node.mode))
        if ino is not None:
            name = self.random.choice(XATTRS)
            length = 2000 if name == b"user.long" else 5
            value = b"%d" % self.random.randrange(99) if b"totl" in name else self.random.randbytes(length)
            await files.perform(set_attribute, ino, name, value, ROOT)
            self.nodes[ino].xattrs[name] = value

    async def remove_xattr(self, files: VolumeClient) -> None:
        ino = self._pick(lambda node: bool(node.xattrs))
        if ino is not None:
            name = self.random.choice(sorted(self.nodes[ino].xattrs))
            await files.perform(remove_attribute, ino, name, ROOT)
            del self.nodes[ino].xattrs[name]

    async def chmod(self, files: VolumeClient) -> None:
        ino = self._pick(lambda node: not stat.S_ISLNK(node.mode))
        if ino is not None:
            await self._chmod(files, ino)

    async def chmod_root(self, files: VolumeClient) -> None:
        """Change the directory of the tree."""
        await self._chmod(files, self.root)

    async def _chmod(self, files: VolumeClient, ino: int) -> None:
        mode = self.random.randrange(0o1000)
        await files.perform(set_attributes, ino, NewAttributes(mode=mode), ROOT)
        self.nodes[ino].mode = stat.S_IFMT(self.nodes[ino].mode) | mode


async def _truncated(files: VolumeClient, ino: int, work: Callable[[], Awaitable[Any]]) -> Any:
    """Do something to a file; finish an earlier truncation first if it must be."""
    while True:
        try:
            return await work()
        except TruncatePending:
            while not await files.perform(finish_truncate, ino):
                pass


class Found(NamedTuple):
    """A tree on a volume, and where the blocks of its files are: (inode, extent) of what was written."""

    root: int
    state: State
    extents: list[tuple[int, DataExtent]]


def found_tree(volume: Volume, items: Any, name: bytes) -> Found:
    """Return the tree with a name in the root of a volume."""
    entry = find_entry(items, ROOT_INO, name)
    if entry is None:
        return Found(0, ABSENT, [])
    shape: set[tuple[Any, ...]] = set()
    contents: dict[int, bytes] = {}
    extents: list[tuple[int, DataExtent]] = []
    waiting, seen = [entry.ino], {entry.ino}
    while waiting:
        ino = waiting.pop()
        inode = read_inode(items, ino, volume.fmt_vers)
        assert inode is not None, f"inode {ino} has a name only"
        xattrs = {xattr.name: xattr.value for xattr in read_xattrs(items, ino)}
        node = Node(inode.mode, inode.nlink, b"", xattrs)
        if inode.is_directory:
            for listed in list_directory(items, ino, 2):
                by_name = find_entry(items, ino, listed.name)
                assert by_name is not None
                assert by_name.ino == listed.ino
                shape.add((ino, listed.name, listed.ino))
                if listed.ino not in seen:
                    seen.add(listed.ino)
                    waiting.append(listed.ino)
        elif inode.is_regular:
            node.contents = contents[ino] = read_data(volume, items, inode, 0, inode.size)
            found = read_extents(items, ino, volume.data.size // BLOCK_SIZE)
            extents += [(ino, extent) for extent in found if extent.written]
        elif inode.is_symlink:
            node.contents = read_target(items, inode)
        shape.add(node.shape(ino))
    return Found(entry.ino, State(frozenset(shape), contents), extents)
