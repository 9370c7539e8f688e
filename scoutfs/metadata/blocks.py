"""Reading blocks of 64 KiB from the metadata device: verified, and kept in a cache of bounded size (spec 04 §2.1).

Other mounts rewrite blocks under a reader: a block that is not the one that was referred to means that the reference is
old, not that the volume is damaged.  Who holds the root the reference came from starts again from a newer root then,
and calls it damage only if the root is still the same.
"""

from __future__ import annotations

import errno
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

from format.block import LARGE_BLOCK_SIZE, BlockError, Magic, Ref, verify_block
from format.btree_columns import Leaf, Parent, decode_block
from scoutfs.errors import ScoutfsError
from scoutfs.storage.device import Device

DEFAULT_CACHE_BYTES = 32 << 20
"""Bytes that a reader keeps in memory unless told otherwise."""

_ITEM_COST = 160
"""Bytes of memory that an item of a decoded block takes beside its value, about."""

_T = TypeVar("_T")


def btree_cost(block: Leaf | Parent) -> int:
    """Return about how many bytes of memory a decoded block takes."""
    values = sum(map(len, block.values)) if isinstance(block, Leaf) else 0
    return _ITEM_COST * (1 + len(block.keys)) + values


class StaleBlockError(ScoutfsError):
    """A block is not the one that was referred to (ESTALE): the reference is old, or the block is damaged."""

    def __init__(self, text: str) -> None:
        super().__init__(text, errno.ESTALE)


class DamagedBlock(ScoutfsError):
    """A block of the volume cannot be what the writer of its reference meant (EIO).

    The text names device, block and field.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text, errno.EIO)


class NotCached(Exception):
    """A block would have to be read from the device, and that is not wanted now; see `BlockReader.only_cached`."""


class _Cached(NamedTuple):
    seq: int
    magic: Magic
    content: Any
    cost: int


class BlockReader:
    """Reads blocks by reference, through a cache of the least recently used ones.

    It only reads, from `device`, the metadata device of the volume `fsid`, which others may be writing.  Decoded blocks
    count in the cache as about what they take in memory; the one read last is kept even if it alone is too large.
    Every call may block on the device.  Not for several threads at once: give each a reader of its own.
    """

    def __init__(self, device: Device, fsid: int, *, cache_bytes: int = DEFAULT_CACHE_BYTES) -> None:
        self.device = device
        self.fsid = fsid
        self.cache_bytes = cache_bytes
        self.used_bytes = 0
        """What the cache holds now."""
        self.device_reads = 0
        """Blocks read from the device so far."""
        self._cache: OrderedDict[int, _Cached] = OrderedDict()
        self._may_read = True

    def name(self, ref: Ref, kind: str = "btree block") -> str:
        """Return how texts name the block: by device, kind and number."""
        return f"{self.device.path}: {kind} {ref.blkno}"

    def read(self, ref: Ref, magic: Magic, kind: str) -> bytes:
        """Return the 64 KiB that `ref` refers to; `kind` says in texts what it should be.

        Crc, magic, fsid, blkno and seq are right.  Raises StaleBlockError, or DeviceError.
        """
        return self._cached(ref, magic, kind, lambda data: (data, LARGE_BLOCK_SIZE))

    def btree_block(self, ref: Ref, level: int) -> Leaf | Parent:
        """Return the decoded btree block that `ref` refers to, a `Leaf` at level 0.

        Raises StaleBlockError, DeviceError; DamagedBlock if its contents make no sense or are of another level.
        """

        def decode(data: bytes) -> tuple[Leaf | Parent, int]:
            try:
                block = decode_block(data, self.name(ref))
            except BlockError as error:
                raise DamagedBlock(str(error)) from error
            return block, btree_cost(block)

        block = self._cached(ref, Magic.BTREE, "btree block", decode)
        found = block.level if isinstance(block, Parent) else 0
        if found != level:
            raise DamagedBlock(f"{self.name(ref)}: level is {found}, expected {level}")
        return block

    @contextmanager
    def only_cached(self) -> Iterator[None]:
        """Never block for the time of a `with`: what is not in the cache raises NotCached."""
        self._may_read = False
        try:
            yield
        finally:
            self._may_read = True

    def keep(self, ref: Ref, magic: Magic, content: Any, cost: int) -> None:
        """Put into the cache what was just written as the block that `ref` refers to.

        `content` is what `read` or `btree_block` would return for it, and `cost` the bytes of memory that it takes.
        """
        self.drop(ref.blkno)
        self._cache[ref.blkno] = _Cached(ref.seq, magic, content, cost)
        self.used_bytes += cost
        while self.used_bytes > self.cache_bytes and len(self._cache) > 1:
            self.drop(next(iter(self._cache)))

    def forget(self) -> None:
        """Empty the cache."""
        self._cache.clear()
        self.used_bytes = 0

    def drop(self, blkno: int) -> None:
        """Read the block from the device when it is wanted again: somebody is known to have written it."""
        cached = self._cache.pop(blkno, None)
        if cached is not None:
            self.used_bytes -= cached.cost

    def _cached(self, ref: Ref, magic: Magic, kind: str, decode: Callable[[bytes], tuple[_T, int]]) -> _T:
        cached = self._cache.get(ref.blkno)
        if cached is not None:
            if cached.seq == ref.seq and cached.magic == magic:
                self._cache.move_to_end(ref.blkno)
                return cached.content
            self.drop(ref.blkno)
        content, cost = decode(self._verified(ref, magic, kind))
        self.keep(ref, magic, content, cost)
        return content

    def _verified(self, ref: Ref, magic: Magic, kind: str) -> bytes:
        """Read the block; what is being replaced may be half old and half new, so once more if it is not right."""
        if not self._may_read:
            raise NotCached
        what = self.name(ref, kind)
        if not 0 < ref.blkno < self.device.size // LARGE_BLOCK_SIZE:
            raise StaleBlockError(f"{what}: blkno is beyond the end of the device")
        try:
            return self._read_once(ref, magic, what)
        except BlockError:
            pass
        try:
            return self._read_once(ref, magic, what)
        except BlockError as error:
            raise StaleBlockError(str(error)) from error

    def _read_once(self, ref: Ref, magic: Magic, what: str) -> bytes:
        self.device_reads += 1
        data = self.device.read(ref.blkno * LARGE_BLOCK_SIZE, LARGE_BLOCK_SIZE)
        verify_block(what, data, LARGE_BLOCK_SIZE, magic, fsid=self.fsid, blkno=ref.blkno, seq=ref.seq)
        return data
