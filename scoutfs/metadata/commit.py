"""The volume as the server changes it, and how its changes become one new super block (spec 04 §10)."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from format.superblock import SuperBlock
from scoutfs.metadata.blocks import BlockReader
from scoutfs.metadata.btree import Root
from scoutfs.metadata.btree_writer import BtreeWriter
from scoutfs.metadata.fill_targets import ORIGINAL_TARGETS, FillTargets
from scoutfs.metadata.free_extents import AllocatorRoot, FreeExtents
from scoutfs.metadata.server_allocator import ServerAllocator
from scoutfs.metadata.writer import BlockWriter
from scoutfs.storage.volume import SUPER_OFFSET

_FIELDS = ("inode_count", "next_ino", "volopt", "total_meta_blocks", "total_data_blocks")
"""Fields of the super block that a `ServerVolume` has as they are to be."""


class SequenceNumbers:
    """The counter of sequence numbers of a server, for any of its threads."""

    def __init__(self, last: int = 0) -> None:
        self.last = last
        """The greatest number that was given out."""
        self._lock = threading.Lock()

    def next(self) -> int:
        """Return a number greater than all before."""
        with self._lock:
            self.last += 1
            return self.last

    def raise_to(self, number: int) -> None:
        """Have the next numbers be greater than `number`."""
        with self._lock:
            self.last = max(self.last, number)


class ServerVolume:
    """The trees and the free space of a volume as its server changes them.

    `stable` is the super block that was written last: what others are told of.  `inode_count`, `next_ino`, `volopt` and
    the numbers of blocks are as in the super block; `seqs` counts on from its seq.  Nobody sees what is changed before
    `commit`.
    """

    def __init__(
        self,
        reader: BlockReader,
        super_block: SuperBlock,
        new_seq: Callable[[], int],
        targets: FillTargets = ORIGINAL_TARGETS,
        seqs: SequenceNumbers | None = None,
    ) -> None:
        raw = super_block.raw
        self.stable = super_block
        self.targets = targets
        self.seqs = SequenceNumbers() if seqs is None else seqs
        self.seqs.raise_to(raw.seq)
        self.inode_count: int = raw.inode_count
        self.next_ino: int = raw.next_ino
        self.volopt = raw.volopt
        self.total_meta_blocks: int = raw.total_meta_blocks
        self.total_data_blocks: int = raw.total_data_blocks
        self.writer = BlockWriter(reader, new_seq)
        self.allocator = ServerAllocator(self.writer, raw, targets)
        self.fs_root = self._tree(raw.fs_root)
        self.logs_root = self._tree(raw.logs_root)
        self.log_merge = self._tree(raw.log_merge)
        self.mounted_clients = self._tree(raw.mounted_clients)
        self.srch_root = self._tree(raw.srch_root)
        self.data_alloc = FreeExtents(self.writer, self.allocator, AllocatorRoot.of(raw.data_alloc))

    @property
    def is_changed(self) -> bool:
        """Whether a commit would write anything but a new counter of sequence numbers."""
        raw = self.stable.raw
        return self.writer.dirty_bytes > 0 or any(getattr(self, name) != raw[name] for name in _FIELDS)

    def next_seq(self) -> int:
        """Return a new sequence number, greater than all before."""
        return self.seqs.next()

    def commit(self, clients: int) -> None:
        """Write everything that was changed, and then the super block that refers to it; `clients` are mounted.

        When this returns it is on stable storage and is `stable`.  If it raises, `stable` is as before; what was
        changed stays changed and goes out with the next commit.  Blocks on the device until it is done, and raises
        NoSpace if the volume is full, DeviceError, and what reading raises.
        """
        device = self.writer.reader.device
        self.allocator.prepare()
        self.writer.write()
        device.flush()
        super_block = self.next_super()
        device.write(SUPER_OFFSET, super_block.build(), durable=True)
        self.stable = super_block
        self.allocator.swap(clients)

    def next_super(self) -> SuperBlock:
        """Return the super block that refers to what is there now."""
        raw = self.stable.raw.copy()
        raw.hdr = raw.hdr.copy()
        raw.hdr.seq += 1
        raw.seq = self.seqs.last
        raw.update({name: getattr(self, name) for name in _FIELDS})
        changed: dict[str, Any] = self.allocator.fields()
        changed["data_alloc"] = self.data_alloc.root.fields()
        for name in ("fs_root", "logs_root", "log_merge", "mounted_clients", "srch_root"):
            changed[name] = getattr(self, name).root.fields()
        raw.update(changed)
        return SuperBlock.parse(SuperBlock(raw).build())

    def _tree(self, parsed: Any) -> BtreeWriter:
        return BtreeWriter(self.writer, self.allocator, Root.of(parsed))
