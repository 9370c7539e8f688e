"""Mounts that write to a volume in memory through the server's requests, and what their crashes leave."""

from __future__ import annotations

import errno
import itertools
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import trio

from format.block import Magic, Ref
from format.hashes import bloom_bits
from format.keys import InodeIndexType, SrchType
from format.logs import LogTrees
from format.net import Command
from format.payloads import NetInodeAlloc
from format.quorum import SlotAddress
from format.srch import Entry, SrchCompact, SrchFile
from scoutfs.client.compaction_work import compact
from scoutfs.client.merge_work import merge_part
from scoutfs.client.search_log import SearchLog
from scoutfs.errors import ScoutfsError
from scoutfs.files.search import SearchFile
from scoutfs.metadata.allocator import ListAllocator
from scoutfs.metadata.block_lists import ListHead
from scoutfs.metadata.blocks import BlockReader
from scoutfs.metadata.btree import Btree, Root
from scoutfs.metadata.btree_writer import BtreeWriter
from scoutfs.metadata.free_extents import AllocatorRoot, FreeExtents
from scoutfs.metadata.lock_ranges import index_lock
from scoutfs.metadata.snapshot import Roots, Snapshot
from scoutfs.metadata.writer import BlockWriter, RawBlock
from scoutfs.server.committed_volume import CommittedVolume, Transactions
from scoutfs.server.items import KEY_MAX, srch_key
from scoutfs.server.mounted_clients import RecordedMount
from scoutfs.server.requests import Requests
from scoutfs.storage import Device
from scoutfs.storage.creation import NewVolume, write_volume
from scoutfs.storage.volume import Volume
from tests.memory import Image
from tests.metadata.servers import Recording, damage, index_key
from tests.metadata.writing import columns
from tests.server.world import run_here

Ask = Callable[[Command, bytes], Awaitable[bytes]]
GIB = 1 << 30
FIRST, LAST = index_key(0), index_key((1 << 64) - 1)


def new_images(meta_bytes: int = 2 * GIB, data_bytes: int = 4 * GIB) -> dict[str, Image]:
    """Return both devices of a new volume."""
    images = {"meta": Image(meta_bytes), "data": Image(data_bytes)}
    io = Recording(images)
    with Device.open("meta", writable=True, io=io) as meta, Device.open("data", writable=True, io=io) as data:
        write_volume(meta, data, NewVolume(0x5C0FF5, bytes(16), 0, 2, meta_bytes >> 16, data_bytes >> 12, {}))
    return images


def copied(images: dict[str, Image]) -> dict[str, Image]:
    """Return independent images."""
    return {name: image.copy() for name, image in images.items()}


class Server:
    """The part of a server that works on the volume; mounts ask it without a network."""

    def __init__(self, images: dict[str, Image], seed: int = 0) -> None:
        self.images, self.io = images, Recording(images)
        self.device_volume = Volume.open("data", "meta", io=self.io)
        self.seqs = itertools.count(1 + seed * 1_000_000)
        self.mounts: set[int] = set()
        self.synced: list[int] = []
        transactions = Transactions(self.device_volume, lambda: len(self.mounts), self.seqs.__next__)
        self.volume = CommittedVolume(transactions, run_here)
        size = self.device_volume.data.size
        self.requests = Requests(self.volume, lambda: len(self.mounts), self.synced.append, size)
        self.requests.recovered.set()

    @asynccontextmanager
    async def running(self):
        """Serve."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.volume.run)
            nursery.start_soon(self.requests.free_merged_trees)
            yield self
            nursery.cancel_scope.cancel()

    async def mounted(self, rid: int, seed: int = 0) -> Mount:
        """Record a mount."""
        await self.requests.record(RecordedMount(rid, True, SlotAddress("10.0.0.9", 50000)))
        self.mounts.add(rid)
        return self.mount(rid, seed)

    def mount(self, rid: int, seed: int = 0) -> Mount:
        """Return a mount that is recorded already."""
        self.mounts.add(rid)

        async def ask(command: Command, payload: bytes = b"") -> bytes:
            return await self.requests.answer(rid, command, payload)

        return Mount(rid, ask, self.device_volume, seed)

    def items(self) -> list[bytes]:
        """Return the keys of the index as readers see them in what is committed."""
        raw = self.volume.stable.raw
        roots = Roots(*(Root.of(raw[name]) for name in Roots._fields))
        reader = BlockReader(self.device_volume.meta, self.device_volume.fsid)
        return [key for key, _ in Snapshot(reader, roots).items(FIRST, LAST)]

    def search_files(self, type: SrchType) -> list[list[Entry]]:
        """Return the entries of all committed search files of a type."""
        reader = BlockReader(self.device_volume.meta, self.device_volume.fsid)
        tree = Btree(reader, Root.of(self.volume.stable.raw.srch_root))
        files = [SearchFile(reader, item.value) for item in tree.items(srch_key(type, 0), srch_key(type, KEY_MAX))]
        everything = Entry(), Entry(KEY_MAX, KEY_MAX, KEY_MAX)
        return [list(file.entries(*everything, False)) for file in files]

    def damage(self) -> list[str]:
        """Return what the checker finds."""
        return damage(self.images)


class Mount:
    """What a mount does with its transactions; `trees` is its parsed `LogTrees`, its transaction open."""

    def __init__(self, rid: int, ask: Ask, volume: Volume, seed: int = 0) -> None:
        self.rid, self.ask, self.volume = rid, ask, volume
        self.random = random.Random(f"{rid} {seed}")
        self._seqs = itertools.count((rid << 40) + (seed << 20) + 1)
        self.trees: Any = None

    async def begin(self) -> None:
        """Get a transaction."""
        self.trees = LogTrees.parse(await self.ask(Command.GET_LOG_TREES, b""))
        assert self.trees.rid == self.rid
        assert self.trees.get_trans_seq > self.trees.commit_trans_seq

    async def transaction(self, *majors: int, data_blocks: int = 0, entries: Sequence[Entry] = ()) -> None:
        """Write index items, commit them, and begin the next transaction."""
        self.write(majors, data_blocks, entries)
        await self.commit()
        await self.begin()

    async def commit(self) -> None:
        """Tell the server what was written."""
        await self.ask(Command.COMMIT_LOG_TREES, LogTrees.build(self.trees))

    def write(self, majors: tuple[int, ...], data_blocks: int = 0, entries: Sequence[Entry] = ()) -> None:
        """Write index items to the device, use and free data, log entries for searches (spec 04 §9.3)."""
        trees, device = self.trees, self.volume.meta
        writer = BlockWriter(BlockReader(device, self.volume.fsid), self._seqs.__next__)
        heads = (ListHead.of(trees[name]) for name in ("meta_avail", "meta_freed"))
        allocator = ListAllocator(writer, *heads, device.size >> 16)
        if majors:
            tree = BtreeWriter(writer, allocator, Root.of(trees.item_root))
            ref = Ref(trees.bloom_ref.blkno, trees.bloom_ref.seq)
            bloom = RawBlock(Magic.BLOOM, writer.read(ref, Magic.BLOOM, "bloom block") if ref.blkno else None)
            ref = writer.replace(ref, bloom, allocator)
            locks = {index_lock(InodeIndexType.META_SEQ, major).start.build() for major in majors}
            for bit in {bit for start in locks for bit in bloom_bits(start)}:
                bloom.data[40 + bit // 8] |= 1 << bit % 8
            bloom.data[32:40] = sum(map(int.bit_count, bloom.data[40:])).to_bytes(8, "little")
            seq = trees.get_trans_seq
            tree.insert_list(columns((index_key(major), seq, 0, b"") for major in sorted(set(majors))))
            trees.item_root, trees.bloom_ref, trees.max_item_seq = tree.root.fields(), ref._asdict(), seq
        if entries:
            search_log = SearchLog(writer, allocator, trees.srch_file)
            for entry in entries:
                search_log.append(entry)
            trees.srch_file = SrchFile.parse(SrchFile.build(search_log.fields()))
        avail, freed = (
            FreeExtents(writer, allocator, AllocatorRoot.of(trees[name])) for name in ("data_avail", "data_freed")
        )
        left = data_blocks
        while left:
            extent = avail.allocate(min(left, self.random.randrange(1, max(3000, data_blocks // 50))))
            freed.insert(extent)
            left -= extent.length
        trees.data_avail, trees.data_freed = avail.root.fields(), freed.root.fields()
        trees.meta_avail, trees.meta_freed = (head.fields() for head in allocator.prepare())
        writer.write()
        device.flush()

    async def merge(self) -> int:
        """Do parts of a merge until there is nothing to do; return how many."""
        parts = 0
        while (request := await self.merge_request()) is not None:
            await self.ask(Command.COMMIT_LOG_MERGE, self.merged(request))
            parts += 1
        return parts

    async def merge_request(self) -> bytes | None:
        """Ask for a part of a merge."""
        try:
            return await self.ask(Command.GET_LOG_MERGE, b"")
        except ScoutfsError as error:
            if error.errno != errno.ENOENT:
                raise
            return None

    def merged(self, request: bytes) -> bytes:
        """Do a part."""
        errors: list[str] = []
        answer = merge_part(self.volume.meta, self.volume.fsid, request, self._seqs.__next__, errors.append)
        assert errors == []
        return answer

    async def compact(self) -> int:
        """Do compactions until there is nothing to do; return how many requests that took."""
        requests = 0
        while SrchCompact.parse(work := await self.ask(Command.SRCH_GET_COMPACT, b"")).nr:
            await self.ask(Command.SRCH_COMMIT_COMPACT, self.compacted(work))
            requests += 1
        return requests

    def compacted(self, work: bytes) -> bytes:
        """Do a compaction, or a part of one."""
        errors: list[str] = []
        answer = compact(self.volume.meta, self.volume.fsid, work, self._seqs.__next__, errors.append)
        assert errors == []
        return answer

    async def inodes(self, count: int) -> range:
        """Get numbers for inodes."""
        found = NetInodeAlloc.parse(await self.ask(Command.ALLOC_INODES, count.to_bytes(8, "little")))
        return range(found.ino, found.ino + found.nr)
