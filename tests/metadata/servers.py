"""A server and its clients, as far as they change metadata, on devices in memory whose writes are recorded."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from typing import Any

from format.block import Magic, Ref
from format.hashes import bloom_bits
from format.keys import InodeIndexType, Key, Zone
from format.logs import LogTrees, bloom_set
from scoutfs.fsck.check import check_volume
from scoutfs.fsck.kinds import Severity
from scoutfs.metadata.allocator import (
    DATA_FILL_LOW,
    DATA_FILL_TARGET,
    META_FILL_LOW,
    META_FILL_TARGET,
    ListAllocator,
)
from scoutfs.metadata.block_lists import BlockList, ListHead
from scoutfs.metadata.blocks import BlockReader
from scoutfs.metadata.btree import FIRST_KEY, LAST_KEY, NO_ROOT, Btree, Root
from scoutfs.metadata.btree_freeing import free_blocks
from scoutfs.metadata.btree_writer import BtreeWriter
from scoutfs.metadata.commit import ServerVolume
from scoutfs.metadata.free_extents import AllocatorRoot, FreeExtents, move_extents
from scoutfs.metadata.lock_ranges import index_lock
from scoutfs.metadata.merge import merge
from scoutfs.metadata.writer import BlockWriter, RawBlock
from scoutfs.storage import Device
from scoutfs.storage.creation import NewVolume, write_volume
from scoutfs.storage.volume import SUPER_OFFSET, read_super_block
from tests.memory import PAGE, Image, MemoryIO
from tests.metadata.writing import columns

DATA_BLOCKS = 1 << 24
LOCK = index_lock(InodeIndexType.META_SEQ, 0)

_STRUCTURE = ("BLOCK", "DATA", "TREE", "LIST", "ALLOC", "FREE", "SUPER", "LOG", "BLOOM", "MERGE", "ITEM", "SRCH")
"""Kinds of damage that these volumes must not have; what their items say of files makes no sense."""


class Recording(MemoryIO):
    """Devices in memory; `log` has (byte, bytes) for each write to "meta", None for a flush.

    The `fails_at`-th write or flush from now on fails.
    """

    def __init__(self, images: dict[str, Image]) -> None:
        super().__init__(images)
        self.log: list[tuple[int, bytes] | None] = []
        self.fails_at = 0

    def _step(self) -> None:
        if self.fails_at:
            self.fails_at -= 1
            if not self.fails_at:
                raise OSError(5, "Input/output error")

    def pwrite(self, fd, buffer, offset, *, durable=False):
        self._step()
        if self._opened[fd] == "meta":
            self.log.append((offset, bytes(buffer)))
        count = super().pwrite(fd, buffer, offset, durable=durable)
        if durable:
            self.log.append(None)
        return count

    def flush(self, fd):
        self._step()
        self.log.append(None)


def new_volume(meta_blocks: int) -> dict[str, Image]:
    """Return both devices of a new volume."""
    images = {"meta": Image(meta_blocks << 16), "data": Image(DATA_BLOCKS << 12)}
    io = MemoryIO(images)
    with Device.open("meta", writable=True, io=io) as meta, Device.open("data", writable=True, io=io) as data:
        write_volume(meta, data, NewVolume(0x5C0FF5, bytes(16), 0, 2, meta_blocks, DATA_BLOCKS, {}))
    return images


def damage(images: dict[str, Image]) -> list[str]:
    """Return what is wrong with the structure of a volume."""
    io = MemoryIO(images)
    with Device.open("meta", io=io) as meta:
        report = check_volume(meta, None).report
    return [
        finding.text
        for finding in report.findings()
        if finding.kind.severity is Severity.ERROR and finding.kind.name.startswith(_STRUCTURE)
    ]


class Cluster:
    """A server, and clients by number."""

    def __init__(self, images: dict[str, Image], seed: int = 0) -> None:
        self.images = images
        self.io = Recording(images)
        self.meta = Device.open("meta", writable=True, io=self.io)
        self.random = random.Random(seed)
        self._seqs = itertools.count(1 + seed * 1_000_000)
        self.server = ServerVolume(self._reader(), read_super_block(self.meta), self._seqs.__next__)

    def _reader(self) -> BlockReader:
        super_block = read_super_block(self.meta)
        return BlockReader(self.meta, super_block.fsid)

    def commit(self) -> None:
        """Commit what the server has changed."""
        self.server.commit(3)

    def log_trees(self, rid: int) -> Any:
        """Return the parsed item of a client, a new one if there is none."""
        item = self.server.logs_root.lookup(_log_key(rid))
        parsed = LogTrees.parse(bytes(LogTrees.sizeof()) if item is None else item.value)
        parsed.rid, parsed.nr = rid, 1
        return parsed

    def _store(self, parsed: Any) -> None:
        self.server.logs_root.force(_log_key(parsed.rid), LogTrees.build(parsed))

    def open(self, rid: int) -> None:
        """Give a client what it needs for a transaction (spec 04 §11.1, steps 6 to 11)."""
        server, parsed = self.server, self.log_trees(rid)
        avail, freed = (BlockList(ListHead.of(parsed[name])) for name in ("meta_avail", "meta_freed"))
        data = [self._extents(server.writer, server.allocator, parsed[name]) for name in ("data_avail", "data_freed")]
        server.allocator.take_back(freed)
        server.allocator.fill(avail, META_FILL_LOW, META_FILL_TARGET)
        if data[1].total_len:
            move_extents(server.data_alloc, data[1], data[1].total_len, server.allocator, budget=250)
        if data[0].total_len < DATA_FILL_LOW:
            move_extents(data[0], server.data_alloc, DATA_FILL_TARGET, server.allocator)
        parsed.get_trans_seq = server.next_seq()
        _put(parsed, meta_avail=avail.head, meta_freed=freed.head, data_avail=data[0].root, data_freed=data[1].root)
        self._store(parsed)

    def transaction(self, rid: int, majors: list[int]) -> None:
        """Have a client write index items and use data, and tell the server (spec 04 §9.3, §11.2)."""
        parsed = self.log_trees(rid)
        writer = BlockWriter(self._reader(), self._seqs.__next__)
        heads = (ListHead.of(parsed[name]) for name in ("meta_avail", "meta_freed"))
        allocator = ListAllocator(writer, *heads, self.meta.size >> 16)
        tree = BtreeWriter(writer, allocator, Root.of(parsed.item_root))
        ref = Ref(**{name: parsed.bloom_ref[name] for name in ("blkno", "seq")})
        bloom = RawBlock(Magic.BLOOM, writer.read(ref, Magic.BLOOM, "bloom block") if ref.blkno else None)
        ref = writer.replace(ref, bloom, allocator)
        bloom_set(bloom.data, bloom_bits(LOCK.start.build()))
        tree.insert_list(columns((index_key(major), parsed.get_trans_seq, 0, b"") for major in sorted(set(majors))))
        avail, freed = (self._extents(writer, allocator, parsed[name]) for name in ("data_avail", "data_freed"))
        for _ in range(3):
            freed.insert(avail.allocate(self.random.randrange(1, 3000)))
        avail_head, freed_head = allocator.prepare()
        writer.write()
        self.meta.flush()
        _put(parsed, meta_avail=avail_head, meta_freed=freed_head, data_avail=avail.root, data_freed=freed.root)
        parsed.item_root, parsed.bloom_ref = tree.root.fields(), ref._asdict()
        parsed.commit_trans_seq = parsed.max_item_seq = parsed.get_trans_seq
        self._store(parsed)

    def merge(self, rid: int) -> None:
        """Merge the log tree of a client into the volume's, and free it."""
        server, parsed = self.server, self.log_trees(rid)
        root = Root.of(parsed.item_root)
        if not root.height:
            return
        inputs = [Btree(server.writer, root)]
        assert merge(server.fs_root, inputs, FIRST_KEY, LAST_KEY, subtree=False) is None
        assert free_blocks(server.writer, server.allocator, root, FIRST_KEY, 400) == LAST_KEY
        server.allocator.exchange(0, [parsed.bloom_ref.blkno])
        parsed.item_root, parsed.bloom_ref = NO_ROOT.fields(), {"blkno": 0, "seq": 0}
        self._store(parsed)

    def _extents(self, writer: BlockWriter, allocator: Any, parsed: Any) -> FreeExtents:
        return FreeExtents(writer, allocator, AllocatorRoot.of(parsed))

    def work(self) -> None:
        """Let two clients do something, merge one of them, and commit in between."""
        for rid in (1, 2):
            self.open(rid)
        self.commit()
        for rid in (1, 2):
            self.transaction(rid, [self.random.randrange(1024) for _ in range(300)])
        self.commit()
        self.merge(self.random.choice((1, 2)))
        self.commit()


def index_key(major: int) -> bytes:
    """Return the key of an index item under the one lock that clients have."""
    return Key(Zone.INODE_INDEX, 0, InodeIndexType.META_SEQ, major, 5).sort_bytes


def crashes(base: Image, log: list[tuple[int, bytes] | None], seed: int) -> Iterator[tuple[int, Image]]:
    """Yield, for each place in a log, what a device may hold after a crash there.

    What was written since the last flush may be there or not, or in part, but for the super block's one page.
    """
    rng = random.Random(seed)
    stable, pending = base.copy(), list[tuple[int, bytes]]()
    for place, entry in enumerate([*log, None]):
        image = stable.copy()
        for offset, data in rng.sample(pending, rng.randint(0, len(pending))):
            pages = range(0, len(data), PAGE)
            for start in pages if rng.random() < 0.5 else rng.sample(pages, rng.randint(0, len(pages))):
                image.write(offset + start, data[start : start + PAGE])
        yield place, image
        if entry is None:
            for offset, data in pending:
                stable.write(offset, data)
            pending.clear()
        else:
            pending.append(entry)


def super_seq(image: Image) -> int:
    """Return the version of the super block."""
    return int.from_bytes(image.read(SUPER_OFFSET + 16, 8), "little")


def _put(parsed: Any, **roots: ListHead | AllocatorRoot) -> None:
    for name, root in roots.items():
        parsed[name] = root.fields()


def _log_key(rid: int) -> bytes:
    return Key(Zone.LOG_TREES, rid, 0, 1).sort_bytes
