"""Volumes written by the kernel: a reader that follows every reference and checks all that it meets."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from format.alloc import ListBlock, read_list_block
from format.block import Magic, Ref, verify_block
from format.btree import Item, ItemBlock
from format.btree_check import check_items
from format.keys import Key
from format.srch import Entry, read_entries, read_parent
from format.superblock import SuperBlock

DATA = Path(__file__).parent.parent / "data" / "kernel" / "img"
LARGE = 65536


def unpack(name: str, directory: Path) -> Path:
    """Write the metadata device of volume `name` into `directory`, sparse; return its path."""
    with tarfile.open(DATA / name / "volume.tar.xz") as archive:
        archive.extract("meta.img", directory, filter="data")
    return directory / "meta.img"


@dataclass
class KernelVolume:
    """The metadata of a volume; `blocks` are the large blocks that were met, by number."""

    path: Path
    blocks: dict[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.super = SuperBlock.parse(self.bytes(LARGE, 4096))

    def bytes(self, offset: int, size: int) -> bytes:
        with self.path.open("rb") as device:
            device.seek(offset)
            return device.read(size)

    def block(self, ref: Ref, magic: Magic, what: str) -> bytes:
        """Read the block that `ref` refers to, and note that it is used."""
        assert ref.blkno not in self.blocks, f"{what} and {self.blocks[ref.blkno]} share block {ref.blkno}"
        self.blocks[ref.blkno] = what
        data = self.bytes(ref.blkno * LARGE, LARGE)
        verify_block(what, data, LARGE, magic, fsid=self.super.fsid, blkno=ref.blkno, seq=ref.seq)
        return data

    def tree(self, root: Any, what: str) -> list[Item]:
        """Return the items of a tree in order, after checking each of its blocks."""
        if not root.height:
            assert Ref(root.ref.blkno, root.ref.seq) == Ref()
            return []
        ref = Ref(root.ref.blkno, root.ref.seq)
        return [item for block in self._leaves(ref, root.height - 1, Key.ZEROS, Key.ONES, what) for item in block.items]

    def _leaves(self, ref: Ref, level: int, start: Key, end: Key, what: str) -> Iterator[ItemBlock]:
        data = self.block(ref, Magic.BTREE, what)
        heights = self.block_was_changed(ref)
        block = check_items(data, f"{what} block {ref.blkno}", start=start, end=end, heights=heights)
        assert block.level == level
        if not level:
            yield block
            return
        for item in block.items:
            yield from self._leaves(item.ref, level - 1, start, item.key, what)
            start = item.key.increment()

    @staticmethod
    def block_was_changed(ref: Ref) -> bool:
        """Blocks that mkfs wrote have the seq 1, and wrong heights in their trees."""
        return ref.seq != 1

    def list(self, head: Any, what: str) -> list[int]:
        """Return the block numbers of a chain of list blocks, after checking its counts."""
        found: list[int] = []
        ref, first = Ref(head.ref.blkno, head.ref.seq), True
        while ref.blkno:
            block: ListBlock = read_list_block(self.block(ref, Magic.ALLOC_LIST, what), what)
            assert len(block.blknos) == head.first_nr or not first
            found += block.blknos
            ref, first = block.next, False
        assert len(found) == head.total_nr
        return found

    def srch(self, file: Any, what: str) -> list[Entry]:
        """Return the entries of a search file, after checking its counts and ends."""
        if not file.ref.blkno:
            return []
        found = list(self._srch(Ref(file.ref.blkno, file.ref.seq), file.height - 1, what))
        assert len(found) == file.entries
        assert (min(found), max(found)) == (Entry(**_plain(file.first)), Entry(**_plain(file.last)))
        return found

    def _srch(self, ref: Ref, level: int, what: str) -> Iterator[Entry]:
        if level:
            for child in read_parent(self.block(ref, Magic.SRCH_PARENT, what), what).values():
                yield from self._srch(child, level - 1, what)
            return
        for entry, _ in read_entries(self.block(ref, Magic.SRCH_BLOCK, what), what):
            yield entry


def _plain(container: Any) -> dict[str, int]:
    return {name: value for name, value in container.items() if not name.startswith("_")}
