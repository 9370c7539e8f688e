"""One transaction of a mount: what it writes, from the blocks that the server gave it (spec 04 §9.3).

Blocks on the metadata device.  Nothing of it counts before the server has recorded what `finish` returns; until then
nothing that the server knows refers to any block that is written here.
"""

from __future__ import annotations

from format.block import Magic, Ref
from format.btree_build import LEAF_SPACE
from format.btree_columns import Leaf, Parent
from format.hashes import bloom_bits
from format.keys import Key
from format.logs import LogTrees, bloom_set
from format.srch import ENTRY_MAX_SIZE, Entry
from scoutfs.client.data_space import LOW, MountSpace
from scoutfs.client.item_cache import ItemCache
from scoutfs.client.search_log import SearchLog
from scoutfs.metadata.allocator import ListAllocator
from scoutfs.metadata.block_lists import ListHead
from scoutfs.metadata.blocks import NotCached
from scoutfs.metadata.btree import Root
from scoutfs.metadata.btree_writer import BtreeWriter
from scoutfs.metadata.free_extents import AllocatorRoot, FreeExtents
from scoutfs.metadata.totals import DELTA_FIRST, DELTA_LAST
from scoutfs.metadata.writer import BlockWriter, RawBlock
from scoutfs.storage.volume import Volume

RESERVE = 16
"""Blocks that one operation may need at most beside those for its items."""


FANOUT = 910
"""Children that a block of a tree has at most."""


class BloomedLocks:
    """The locks whose bits the bloom block of a log tree has already: another log tree has none of them."""

    def __init__(self) -> None:
        self._nr = 0
        self._starts: set[bytes] = set()

    def missing(self, nr: int, starts: list[bytes]) -> list[bytes]:
        """Return those of the locks whose bits the log tree with this number has not."""
        if nr != self._nr:
            self._nr, self._starts = nr, set()
        return [start for start in starts if start not in self._starts]

    def add(self, starts: list[bytes]) -> None:
        """Their bits are set."""
        self._starts.update(starts)


class MountTransaction:
    """The transaction that `opened`, the 472 bytes of a `format.logs.LogTrees`, gives room for.

    Implements `scoutfs.files.store.Transaction`; `space` is its `DataSpace`.  `writer` has no dirty blocks.
    """

    def __init__(self, volume: Volume, writer: BlockWriter, opened: bytes, bloomed: BloomedLocks) -> None:
        parsed = LogTrees.parse(opened)
        self._parsed, self._bloomed, self._writer = parsed, bloomed, writer
        self._volume = volume
        avail_head, freed_head = ListHead.of(parsed.meta_avail), ListHead.of(parsed.meta_freed)
        self.allocator = ListAllocator(writer, avail_head, freed_head, volume.super.total_meta_blocks)
        self._tree = BtreeWriter(writer, self.allocator, Root.of(parsed.item_root))
        avail, freed = (
            FreeExtents(writer, self.allocator, AllocatorRoot.of(parsed[name])) for name in ("data_avail", "data_freed")
        )
        self.space = MountSpace(volume.data, avail, freed)
        self.seq: int = parsed.get_trans_seq
        self.low = bool(parsed.meta_avail.flags & LOW)
        self._inodes = 0
        self._search = SearchLog(writer, self.allocator, parsed.srch_file)
        self._entries: list[Entry] = []
        self._tree_leaves: int | None = None
        self._payload = b""
        self._deltas_done = 0

    # -- while it is open --------------------------------------------------------------------------------------------

    def add_inodes(self, count: int) -> None:
        """Count inodes created, or deleted if negative."""
        self._inodes += count

    def add_search_entry(self, entry: Entry) -> None:
        """Log an entry for those who search attributes by name."""
        self._entries.append(entry)

    def is_full(self, cache: ItemCache) -> bool:
        """Whether what has been done so far should be committed before anything is added.

        A transaction in which nothing was done is never full: the next one would have no more room.
        """
        if self.space.wants_commit:
            return True
        worth = cache.dirty_count or self._entries or self.space.let_go or self._writer.dirty_bytes
        return bool(worth) and self.allocator.is_low(self.blocks_needed(cache) + RESERVE)

    def blocks_needed(self, cache: ItemCache) -> int:
        """Estimate how many blocks the commit will take, beside those that are taken already; rather too many."""
        new_leaves = 2 * cache.dirty_bytes // LEAF_SPACE + 1
        leaves = min(cache.dirty_count, self._leaves) + new_leaves
        parents = leaves // 100 + self._tree.root.height + 1
        search = 2 + len(self._entries) * ENTRY_MAX_SIZE // LEAF_SPACE
        extents = 4 + 4 * min(self.space.let_go, 1 + self.space.let_go // 200)
        return leaves + parents + search + extents + 3

    @property
    def _leaves(self) -> int:
        """How many leaves the log tree has, at most."""
        root = self._tree.root
        if self._tree_leaves is None:
            if root.height < 2:
                self._tree_leaves = root.height
            else:
                self._tree_leaves = self._children(root) * FANOUT ** (root.height - 2)
        return self._tree_leaves

    def _children(self, root: Root) -> int:
        """How many children the root has, at most: this must not wait for the device."""
        try:
            with self._writer.reader.only_cached():
                block = self._writer.btree_block(root.ref, root.height - 1)
        except NotCached:
            return FANOUT
        assert isinstance(block, Parent)
        return len(block.refs)

    # -- its end -----------------------------------------------------------------------------------------------------

    def finish(self, cache: ItemCache) -> bytes:
        """Write all that was changed, and what refers to it; return the payload of COMMIT_LOG_TREES.

        Everything, data too, is on stable storage then.  Raises DeviceError, DamagedBlock, NoSpace: it may be called
        again, and goes on.  Nothing may be changed any more once it was called.
        """
        if not self._payload:
            self._payload = self._prepared(cache)
        self._writer.write()
        self._volume.data.flush()
        self._volume.meta.flush()
        return self._payload

    def _prepared(self, cache: ItemCache) -> bytes:
        """Make everything dirty that is to be written.  Each step can be done again, or is noted once it is done."""
        parsed = self._parsed
        items = cache.dirty_items()
        if items.keys:
            self._set_bloom_bits(cache.dirty_locks())
        self._insert(items)
        while self._entries:
            self._search.append(self._entries[0])
            del self._entries[0]
        avail, freed = self.space.finish()
        meta_avail, meta_freed = self.allocator.prepare()
        parsed.update(
            {
                "item_root": self._tree.root.fields(),
                "srch_file": self._search.fields(),
                "meta_avail": meta_avail.fields(),
                "meta_freed": meta_freed.fields(),
                "data_avail": avail.fields(),
                "data_freed": freed.fields(),
            }
        )
        parsed.inode_count_delta += self._inodes
        parsed.max_item_seq = max([parsed.max_item_seq, *items.seqs])
        return LogTrees.build(parsed)

    def _set_bloom_bits(self, starts: list[bytes]) -> None:
        parsed = self._parsed
        missing = self._bloomed.missing(parsed.nr, starts)
        if not missing:
            return
        ref = Ref(parsed.bloom_ref.blkno, parsed.bloom_ref.seq)
        bloom = self._writer.find(ref, RawBlock, "bloom block") if ref.blkno else None
        if bloom is None:
            data = self._writer.read(ref, Magic.BLOOM, "bloom block") if ref.blkno else None
            bloom = RawBlock(Magic.BLOOM, data)
            parsed.bloom_ref.update(self._writer.replace(ref, bloom, self.allocator)._asdict())
        for start in missing:
            bloom_set(bloom.data, bloom_bits(Key.from_sort_bytes(start).build()))
        self._bloomed.add(missing)

    def _insert(self, items: Leaf) -> None:
        """Insert items into the log tree.  Doing it again does no harm but for differences, which are added."""
        start, stop = items.span(DELTA_FIRST, DELTA_LAST)
        self._tree.insert_list(_part(items, 0, start))
        self._tree.insert_list(_part(items, stop, len(items.keys)))
        for index in range(start + self._deltas_done, stop):
            self._tree.insert_list(_part(items, index, index + 1))
            self._deltas_done += 1


def _part(items: Leaf, start: int, stop: int) -> Leaf:
    span = slice(start, stop)
    return Leaf(items.keys[span], items.seqs[span], items.flags[span], items.values[span])
