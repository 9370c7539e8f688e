"""A mount on a volume in memory, whose server is the test: operations, transactions, and what is on the volume then."""

from __future__ import annotations

import itertools
import stat
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from format.block import LARGE_BLOCK_SIZE
from format.logs import LogTrees
from scoutfs.client.item_cache import ItemCache
from scoutfs.client.transaction import BloomedLocks, MountTransaction
from scoutfs.files.caller import ROOT
from scoutfs.files.change import Change, Surroundings
from scoutfs.files.create import create
from scoutfs.files.inode import Inode
from scoutfs.metadata.btree import Root
from scoutfs.metadata.forest import Forest
from scoutfs.metadata.snapshot import Roots, Snapshot
from scoutfs.metadata.writer import BlockWriter
from scoutfs.storage import Device
from tests.metadata.servers import Cluster, new_volume

META_BLOCKS = 60_000
ROOT_INO = 1
EVERY_LOCK = SimpleNamespace(holds=lambda request: True)
NO_QUOTAS = SimpleNamespace(rules=tuple, total=lambda name: None)


class Server:
    """A volume in memory and its server; `mounts` are by rid."""

    def __init__(self, meta_blocks: int = META_BLOCKS) -> None:
        self.images = new_volume(meta_blocks)
        self.cluster = Cluster(self.images)
        data = Device.open("data", writable=True, io=self.cluster.io)
        super_block = SimpleNamespace(total_meta_blocks=meta_blocks)
        self.volume: Any = SimpleNamespace(meta=self.cluster.meta, data=data, super=super_block)
        self.next_ino = 1024

    def roots(self) -> Roots:
        """Return the roots that are committed."""
        raw = self.cluster.server.stable.raw
        return Roots(*(Root.of(raw[name]) for name in ("fs_root", "logs_root", "srch_root", "log_merge")))

    def items(self) -> dict[bytes, bytes]:
        """Return all items that are committed."""
        return dict(Snapshot(self.cluster._reader(), self.roots()).items())

    def forest(self) -> Forest:
        """Return what reading functions want."""
        return Forest(self.cluster._reader(), self.roots)


class Mount:
    """A mount that holds every lock."""

    def __init__(self, server: Server, rid: int = 1) -> None:
        self.server, self.rid = server, rid
        self.reader = server.cluster._reader()
        self.cache = ItemCache(self.reader, lambda start: 0)
        self.writer = BlockWriter(self.reader, itertools.count(rid << 40).__next__)
        self.bloomed = BloomedLocks()
        self.now = 1_700_000_000_000_000_000
        self.transaction: MountTransaction
        self.open()

    def open(self) -> None:
        """Open a transaction."""
        cluster = self.server.cluster
        cluster.open(self.rid)
        cluster.commit()
        opened = LogTrees.build(cluster.log_trees(self.rid))
        self.transaction = MountTransaction(self.server.volume, self.writer, opened, self.bloomed)
        self.cache.transaction_seq = self.transaction.seq
        self.cache.install(self.server.roots(), 0, self.cache.barrier)

    def perform(self, operation: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
        """Run an operation."""
        self.now += 1_000_007
        transaction = self.transaction
        surroundings = Surroundings(self.cache, EVERY_LOCK, transaction, transaction.space, NO_QUOTAS, 2)
        with Change(surroundings, now=self.now) as change:
            return operation(change, *arguments, **keywords)

    def make(self, name: bytes, mode: int = stat.S_IFREG | 0o644, at: int = ROOT_INO) -> Inode:
        """Create something."""
        self.server.next_ino += 1
        inode = self.perform(create, at, name, self.server.next_ino - 1, mode, ROOT)
        assert isinstance(inode, Inode)
        return inode

    def commit(self) -> None:
        """Commit, and open the next transaction."""
        self.recorded(self.transaction.finish(self.cache))
        self.open()

    def recorded(self, payload: bytes) -> None:
        """The server records what the mount says of its log tree."""
        parsed = LogTrees.parse(payload)
        assert parsed.get_trans_seq == self.transaction.seq
        parsed.commit_trans_seq = parsed.get_trans_seq
        cluster = self.server.cluster
        cluster.server.next_ino = self.server.next_ino
        cluster._store(parsed)
        cluster.commit()
        assert len(payload) < LARGE_BLOCK_SIZE
        self.cache.committed()
