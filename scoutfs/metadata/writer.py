"""The blocks that one writer has changed and not written yet: copies of others under new numbers (spec 04 §2.2, §2.3).

Nothing refers to a dirty block but other dirty blocks, and roots that were not handed out yet: whoever reads the device
does not see them, and a writer that gives up leaves nothing behind.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

from format.block import LARGE_BLOCK_SIZE, Magic, Ref, seal
from format.btree_columns import Leaf, Parent
from scoutfs.errors import ScoutfsError
from scoutfs.metadata.blocks import BlockReader, DamagedBlock, StaleBlockError
from scoutfs.metadata.nodes import LeafNode, ParentNode

RUN_BLOCKS = 16
"""Blocks with neighbouring numbers that are written at once: 1 MiB."""
WRITES_IN_FLIGHT = 8

_HEADER_SIZE = 32


class NoSpace(ScoutfsError):
    """There are not enough free blocks (ENOSPC)."""

    def __init__(self, text: str) -> None:
        super().__init__(text, errno.ENOSPC)


class BlockAllocator(Protocol):
    """Where writers take block numbers from, and put those that they need no more."""

    def exchange(self, count: int, freed: Sequence[int] = ()) -> list[int]:
        """Take `count` blocks and give back `freed`, all or nothing.

        Nobody is given a freed block before what no longer refers to it is committed.  Raises NoSpace or another
        ScoutfsError.
        """


class Content(Protocol):
    """What a dirty block holds, decoded."""

    @property
    def magic(self) -> Magic:
        """The type of the block."""

    def encode(self, fsid: int, ref: Ref) -> bytes:
        """Return the 64 KiB of the block, sealed; called once for each time that the block is written."""

    def clean(self) -> tuple[Any, int]:
        """Return what a `BlockReader` keeps of the block that was written, and how many bytes of memory that takes."""


class RawBlock:
    """A block that is changed as bytes; `data` has 64 KiB, of which the header is filled in when it is written."""

    def __init__(self, magic: Magic, data: bytes | None = None) -> None:
        self.magic = magic
        self.data = bytearray(LARGE_BLOCK_SIZE) if data is None else bytearray(data)

    def encode(self, fsid: int, ref: Ref) -> bytes:
        """Return the block, sealed."""
        words = (fsid, ref.seq, ref.blkno)
        header = int(self.magic).to_bytes(4, "little") + b"".join(word.to_bytes(8, "little") for word in words)
        self.data[4:_HEADER_SIZE] = header
        self.data[:] = seal(self.data, LARGE_BLOCK_SIZE)
        return bytes(self.data)

    def clean(self) -> tuple[bytes, int]:
        """Return what a reader keeps."""
        return bytes(self.data), LARGE_BLOCK_SIZE


_C = TypeVar("_C", bound=Content)


class BlockWriter:
    """The dirty blocks of one writer, over the blocks that `reader` reads.

    `new_seq` returns a random number of 64 bits, the identity of a block's new version.  Reading through the writer
    finds dirty blocks by the references to them; the others come from `reader`.  Methods may block on the device and
    raise what `BlockReader` raises.  Not for several threads at once.
    """

    def __init__(self, reader: BlockReader, new_seq: Callable[[], int]) -> None:
        self.reader = reader
        self.fsid = reader.fsid
        self._new_seq = new_seq
        self._dirty: dict[int, tuple[Ref, Content]] = {}

    @property
    def dirty_bytes(self) -> int:
        """What a write would write."""
        return len(self._dirty) * LARGE_BLOCK_SIZE

    def name(self, ref: Ref, kind: str = "btree block") -> str:
        """Return how texts name the block: by device, kind and number."""
        return self.reader.name(ref, kind)

    def read(self, ref: Ref, magic: Magic, kind: str) -> bytes:
        """Return the 64 KiB that `ref` refers to, stable or a `RawBlock`; `kind` says in texts what it should be."""
        raw = self.find(ref, RawBlock, kind)
        return self.reader.read(ref, magic, kind) if raw is None else bytes(raw.data)

    def btree_block(self, ref: Ref, level: int) -> Leaf | Parent:
        """Return the btree block that `ref` refers to, dirty or not: a `Leaf` at level 0.

        It may change when something is done to the tree.
        """
        if not self.is_dirty(ref):
            return self.reader.btree_block(ref, level)
        return self.leaf(ref).block if level == 0 else self.parent(ref, level).block

    def is_dirty(self, ref: Ref) -> bool:
        """Whether the block is one of this writer's; raises StaleBlockError if another version of it is."""
        found = self._dirty.get(ref.blkno)
        if found is None:
            return False
        if found[0] != ref:
            raise StaleBlockError(f"{self.name(ref, 'block')}: seq is {found[0].seq:#x}, expected {ref.seq:#x}")
        return True

    def find(self, ref: Ref, content: type[_C], kind: str = "btree block") -> _C | None:
        """Return the content of the block if it is dirty; raises DamagedBlock if that is of another type."""
        if not self.is_dirty(ref):
            return None
        found = self._dirty[ref.blkno][1]
        if not isinstance(found, content):
            raise DamagedBlock(f"{self.name(ref, kind)}: is another block that is to be written")
        return found

    def leaf(self, ref: Ref) -> LeafNode:
        """Return the dirty leaf that `ref` refers to, or a new node with the items of a stable one."""
        found = self.find(ref, LeafNode)
        if found is None:
            block = self.reader.btree_block(ref, 0)
            assert isinstance(block, Leaf)
            found = LeafNode(block)
        return found

    def parent(self, ref: Ref, level: int) -> ParentNode:
        """Return the dirty parent that `ref` refers to, or a new node with the children of a stable one."""
        found = self.find(ref, ParentNode)
        if found is None:
            block = self.reader.btree_block(ref, level)
            assert isinstance(block, Parent)
            found = ParentNode(block)
        if found.level != level:
            raise DamagedBlock(f"{self.name(ref)}: level is {found.level}, expected {level}")
        return found

    def replace(self, ref: Ref, content: Content, allocator: BlockAllocator) -> Ref:
        """Make the block that `ref` refers to, of which `content` is a changeable copy, dirty under a new number.

        Returns the new reference; the old block is freed.  A block that is dirty stays what it is, and so does
        everything if `allocator` raises an error.
        """
        if self.is_dirty(ref):
            return ref
        (blkno,) = allocator.exchange(1, [ref.blkno] if ref.blkno else [])
        return self.add(blkno, content)

    def add(self, blkno: int, content: Content) -> Ref:
        """Make block `blkno`, which the caller has taken from an allocator, dirty with `content`; return its ref."""
        ref = Ref(blkno, self._new_seq())
        self._dirty[blkno] = (ref, content)
        return ref

    def drop(self, *blknos: int) -> None:
        """Forget the changes to blocks that were freed; harmless for blocks that are not dirty."""
        for blkno in blknos:
            self._dirty.pop(blkno, None)

    def discard(self) -> None:
        """Forget all changes."""
        self._dirty.clear()

    def encoded(self) -> Iterator[tuple[int, bytes]]:
        """Yield (byte of the device, contents) of all dirty blocks, neighbours together, in the order of the device."""
        start, run = 0, list[bytes]()
        for blkno in sorted(self._dirty):
            if run and (blkno != start + len(run) or len(run) == RUN_BLOCKS):
                yield start * LARGE_BLOCK_SIZE, b"".join(run)
                run = []
            if not run:
                start = blkno
            ref, content = self._dirty[blkno]
            run.append(content.encode(self.fsid, ref))
        if run:
            yield start * LARGE_BLOCK_SIZE, b"".join(run)

    def write(self) -> None:
        """Write all dirty blocks and wait for that; they are clean and in the reader's cache then.

        They may be in a volatile cache of the device.  If writing any of them fails, all stay dirty, and the first
        DeviceError is raised after all writes have ended.
        """
        if len(self._dirty) == 1:
            for offset, data in self.encoded():
                self.reader.device.write(offset, data)
        elif self._dirty:
            self._write_all()
        for ref, content in self._dirty.values():
            self.reader.keep(ref, content.magic, *content.clean())
        self._dirty.clear()

    def _write_all(self) -> None:
        errors: list[ScoutfsError] = []
        waiting: deque[Future[None]] = deque()

        def wait_for_oldest() -> None:
            try:
                waiting.popleft().result()
            except ScoutfsError as error:
                errors.append(error)

        with ThreadPoolExecutor(WRITES_IN_FLIGHT, "block writer") as pool:
            for offset, data in self.encoded():
                waiting.append(pool.submit(self.reader.device.write, offset, data))
                if len(waiting) == 2 * WRITES_IN_FLIGHT:
                    wait_for_oldest()
            while waiting:
                wait_for_oldest()
        if errors:
            raise errors[0]
