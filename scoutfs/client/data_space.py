"""The data blocks that a mount may use in a transaction, and those it has let go of (spec 04 §6.5)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from format.extent import Extent
from scoutfs.files.inode import BLOCK_SIZE
from scoutfs.files.store import CommitNeeded
from scoutfs.metadata.allocator import DATA_COMMIT_LOW
from scoutfs.metadata.blocks import NotCached
from scoutfs.metadata.free_extents import AllocatorRoot, FreeExtents
from scoutfs.metadata.writer import NoSpace
from scoutfs.storage.device import Device

CACHED_BLOCKS = 2048
"""Blocks that are taken out of the tree at once for small requests; larger ones are served from the tree."""

LOW = 1
"""The flag by which the server says that a commit will not bring more."""


class MountSpace:
    """Implements `scoutfs.files.store.DataSpace` on `device`, with trees that only this mount changes.

    Reading and writing block, unless `only_memory` forbids that.
    """

    def __init__(self, device: Device, avail: FreeExtents, freed: FreeExtents) -> None:
        self.total_blocks = device.size // BLOCK_SIZE
        self._device = device
        self._avail, self._freed = avail, freed
        self._cached: list[Extent] = []
        self._let_go: list[Extent] = []
        self._taken = False
        self._may_block = True

    @property
    def available(self) -> int:
        """How many blocks are left."""
        return self._avail.total_len + sum(extent.length for extent in self._cached)

    @property
    def let_go(self) -> int:
        """How many extents wait to be put into the tree of those that were let go of."""
        return len(self._let_go)

    @property
    def wants_commit(self) -> bool:
        """Whether so little is left that the next transaction should bring more."""
        return self._taken and self.available < DATA_COMMIT_LOW and not self._avail.flags & LOW

    @contextmanager
    def only_memory(self) -> Iterator[None]:
        """Never block for the time of a `with`: reading and writing raise NotCached."""
        self._may_block = False
        try:
            yield
        finally:
            self._may_block = True

    def allocate(self, count: int) -> tuple[int, int]:
        """Return the first of at most `count` neighbouring free blocks, and how many they are."""
        if not self.available:
            if self._avail.flags & LOW:
                raise NoSpace("no free data block is left")
            raise CommitNeeded
        self._taken = True
        if count >= CACHED_BLOCKS and self._avail.total_len:
            return tuple(self._avail.allocate(count))  # type: ignore[return-value]
        if not self._cached:
            self._cached.append(self._avail.allocate(CACHED_BLOCKS))
        start, length = self._cached.pop()
        got = min(count, length)
        if got < length:
            self._cached.append(Extent(start + got, length - got))
        return start, got

    def give_back(self, blkno: int, count: int) -> None:
        """Take back blocks just allocated that nothing was done with."""
        if self._cached and self._cached[-1].start == blkno + count:
            count += self._cached.pop().length
        self._cached.append(Extent(blkno, count))

    def free(self, blkno: int, count: int) -> None:
        """Free blocks that the open transaction has let go of; they are put into their tree when it ends."""
        self._let_go.append(Extent(blkno, count))

    def read(self, blkno: int, count: int) -> bytes:
        """Return the contents of blocks.  Raises DeviceError."""
        if not self._may_block:
            raise NotCached
        return self._device.read(blkno * BLOCK_SIZE, count * BLOCK_SIZE)

    def write(self, blkno: int, data: bytes) -> None:
        """Write whole blocks; whoever commits has to flush the device.  Raises DeviceError."""
        if not self._may_block:
            raise NotCached
        self._device.write(blkno * BLOCK_SIZE, data)

    def finish(self) -> tuple[AllocatorRoot, AllocatorRoot]:
        """Put everything into the trees; return their roots, of what is available and what was let go of.

        Raises what changing trees raises: then some is in the trees, and the rest follows when this is called again.
        """
        while self._cached:
            self._avail.insert(self._cached[-1])
            self._cached.pop()
        self._let_go = _joined(self._let_go)
        while self._let_go:
            self._freed.insert(self._let_go[-1])
            self._let_go.pop()
        return self._avail.root, self._freed.root


def _joined(extents: list[Extent]) -> list[Extent]:
    """Return the same blocks in as few extents as possible, from the end of the device to its start."""
    joined: list[Extent] = []
    for extent in sorted(extents, reverse=True):
        if joined and extent.last + 1 == joined[-1].start:
            extent = Extent(extent.start, extent.length + joined.pop().length)
        joined.append(extent)
    return joined
