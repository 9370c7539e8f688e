"""What tests of writers write to, and how they check the trees that were written."""

from __future__ import annotations

import errno
import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from format.block import LARGE_BLOCK_SIZE, BlockError, Magic, Ref, verify_block
from format.btree_check import check_items
from format.btree_columns import Leaf
from format.keys import Key
from scoutfs.metadata.btree import Root, TreeItem
from scoutfs.metadata.writer import BlockWriter, NoSpace
from scoutfs.storage.device import DeviceError
from tests.metadata.building import FSID, Blocks


class Device(Blocks):
    """A device that can be written; `writes` has (byte, bytes) of each write, `flushes` counts them.

    `before_write` is called with the byte of each write.
    """

    def __init__(self, size: int = 1 << 40) -> None:
        super().__init__(size)
        self.writes: list[tuple[int, int]] = []
        self.flushes = 0
        self.before_write: Callable[[int], None] = lambda offset: None

    def write(self, offset: int, data: bytes, *, durable: bool = False) -> None:
        """Store whole blocks."""
        self.before_write(offset)
        assert offset % LARGE_BLOCK_SIZE == len(data) % LARGE_BLOCK_SIZE == 0
        self.writes.append((offset, len(data)))
        for place in range(0, len(data), LARGE_BLOCK_SIZE):
            self.contents[(offset + place) // LARGE_BLOCK_SIZE] = data[place : place + LARGE_BLOCK_SIZE]

    def flush(self) -> None:
        """Count."""
        self.flushes += 1

    def writer(self) -> BlockWriter:
        """Return a writer on the device; its seqs count from a million."""
        return BlockWriter(self.reader(), itertools.count(1_000_000).__next__)


def unreadable(nth: int) -> Callable[[int], None]:
    """Return what makes the n-th read from now on fail, for `Blocks.before_read`; none if it is 0."""
    left = itertools.count(nth - 1, -1)

    def before_read(blkno: int) -> None:
        if next(left) == 0:
            raise DeviceError("/dev/meta", f"reading block {blkno}", errno.EIO)

    return before_read


def io_error(offset: int) -> None:
    """Fail as a device does."""
    raise DeviceError("/dev/meta", f"writing at {offset}", errno.EIO)


@dataclass
class Pool:
    """An allocator that never runs out, whatever it says; the `fails_at`-th call from now on fails."""

    next_blkno: int = 1000
    used: set[int] = field(default_factory=set)
    freed: set[int] = field(default_factory=set)
    fails_at: int = 0
    remaining_avail: int = 8185
    remaining_freed: int = 8185

    def is_low(self, blocks: int) -> bool:
        """As what it says."""
        return min(self.remaining_avail, self.remaining_freed) < blocks

    def exchange(self, count: int, freed: Sequence[int] = ()) -> list[int]:
        """Take and give back blocks; no block comes twice."""
        if self.fails_at:
            self.fails_at -= 1
            if not self.fails_at:
                raise NoSpace("none left")
        assert len(set(freed)) == len(freed)
        assert self.freed.isdisjoint(freed), "freed twice"
        self.used -= set(freed)
        self.freed |= set(freed)
        taken = list(range(self.next_blkno, self.next_blkno + count))
        self.next_blkno += count
        self.used |= set(taken)
        return taken


def contents_of(device: Blocks, writer: BlockWriter | None) -> dict[int, bytes]:
    """Return the blocks of a device as they will be when the dirty ones are written."""
    contents = dict(device.contents)
    for offset, data in writer.encoded() if writer else ():
        for place in range(0, len(data), LARGE_BLOCK_SIZE):
            contents[(offset + place) // LARGE_BLOCK_SIZE] = data[place : place + LARGE_BLOCK_SIZE]
    return contents


@dataclass
class Checked:
    """What a tree consists of; `blocks` are (level, items, total_item_bytes, mid_free_len), parents first."""

    items: list[TreeItem] = field(default_factory=list)
    blknos: set[int] = field(default_factory=set)
    blocks: list[tuple[int, int, int, int]] = field(default_factory=list)
    parent_keys: list[str] = field(default_factory=list)

    @property
    def leaves(self) -> list[tuple[int, int, int]]:
        """(items, total_item_bytes, mid_free_len) of each leaf."""
        return [block[1:] for block in self.blocks if not block[0]]


def check_tree(device: Blocks, root: Root, writer: BlockWriter | None = None, *, subtree: bool = False) -> Checked:
    """Check each block of a tree, dirty or not, its crc, its place in the tree; return what is in it."""
    contents = contents_of(device, writer)
    found = Checked()
    if root.height == 0:
        assert root == Root()
        return found

    def walk(ref: Ref, level: int, start: Key, end: Key, is_root: bool) -> None:
        what = f"block {ref.blkno}"
        data = contents[ref.blkno]
        verify_block(what, data, LARGE_BLOCK_SIZE, Magic.BTREE, fsid=FSID, blkno=ref.blkno, seq=ref.seq)
        block = check_items(data, what, start=start, end=end)
        assert block.level == level
        assert ref.blkno not in found.blknos, "twice in the tree"
        found.blknos.add(ref.blkno)
        found.blocks.append((level, len(block.items), block.total_item_bytes, block.mid_free_len))
        if not level:
            assert block.items or not is_root
            found.items += [TreeItem(item.key.sort_bytes, item.seq, item.flags, item.value) for item in block.items]
            return
        if not (is_root and subtree):
            assert block.items[-1].key == end, "the last child does not go to the end"
        assert len(block.items) > 1, "an only child"
        for item in block.items:
            found.parent_keys.append(str(item.key))
            walk(item.ref, level - 1, start, item.key, False)
            start = item.key.increment()

    walk(root.ref, root.height - 1, Key.ZEROS, Key.ONES, True)
    keys = [item.key for item in found.items]
    if keys != sorted(set(keys)):
        raise BlockError("tree", "order")
    return found


def columns(items: Iterable[tuple[bytes, int, int, bytes]]) -> Leaf:
    """Return items (key, seq, flags, value) as columns."""
    rows = list(items)
    return Leaf(*map(list, zip(*rows))) if rows else Leaf((), (), (), ())
