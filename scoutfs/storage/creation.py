"""A new volume: the blocks it consists of, and the order in which they are written (spec 01 §6.3, §6.4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from format.alloc import build_list_block
from format.block import (
    DATA_START_BLKNO,
    LARGE_BLOCK_SIZE,
    NO_REF,
    QUORUM_MAX_SLOTS,
    SMALL_BLOCK_SIZE,
    SUPER_BLKNO,
    Magic,
    Ref,
    build,
    seal,
)
from format.btree import (
    ITEM_SIZE,
    ITEMS_OFFSET,
    LEAF_HASH_OFFSET,
    NODE_BASE,
    BtreeBlock,
    BtreeItem,
    item_bytes,
)
from format.extent import Extent, free_extent_keys
from format.hashes import LEAF_BUCKETS, leaf_bucket
from format.inode import FIRST_READDIR_POS, build_inode
from format.keys import FsType, InodeIndexType, Key, Zone
from format.quorum import QuorumBlock, QuorumConfig, SlotAddress, config_to_struct
from format.superblock import ROOT_INO, SuperBlockStruct, SuperFlag
from scoutfs.storage.device import Device
from scoutfs.storage.volume import QUORUM_OFFSET, SUPER_OFFSET

FIRST_FREE_INO = 1024
"""Numbers below it share a lock with the root directory."""

META_BLOCKS_MIN = 1033
"""64 KiB blocks of the smallest volume: one free block for each of the two allocators."""
DATA_BLOCKS_MIN = DATA_START_BLKNO + 1
"""4 KiB blocks of the smallest volume: one free block."""

_FS_ROOT = 2
_SERVER_LIST = 3
_LIST_START, _LIST_LENGTH = 4, 1024
_DATA_ALLOC = _LIST_START + _LIST_LENGTH
_META_ALLOCS = (_DATA_ALLOC + 1, _DATA_ALLOC + 2)
_FREE_START = _DATA_ALLOC + 3
_SEQ = 1
_ROOT_MODE = 0o040755
_ZERO_INODE_FIELDS = (
    *("size", "meta_seq", "data_seq", "data_version", "online_blocks", "offline_blocks", "next_xattr_id", "version"),
    *("uid", "gid", "rdev", "flags", "proj"),
)
_NODE_OF_ITEM = (ITEMS_OFFSET - NODE_BASE, ITEMS_OFFSET + ITEM_SIZE - NODE_BASE)


@dataclass(frozen=True, slots=True)
class NewVolume:
    """What makes a new volume: equal inputs give equal blocks.

    `uuid` is 16 bytes, `created` nanoseconds since the epoch, `meta_blocks` (64 KiB) and `data_blocks` (4 KiB) count
    from the start of each device, `zone_blocks` is the option data_alloc_zone_blocks or 0.
    """

    fsid: int
    uuid: bytes
    created: int
    fmt_vers: int
    meta_blocks: int
    data_blocks: int
    slots: Mapping[int, SlotAddress]
    zone_blocks: int = 0

    @property
    def quorum_config(self) -> QuorumConfig:
        """The slots, as the super blocks hold them."""
        return QuorumConfig(1, self.slots)

    def super_block(self, *, is_meta: bool) -> bytes:
        """Return the super block of the metadata or the data device, 4096 bytes; only a flag tells them apart."""
        first, second = self._free_meta()
        header = {"crc": 0, "magic": Magic.SUPER, "fsid": self.fsid, "seq": _SEQ, "blkno": SUPER_BLKNO}
        no_list = {"ref": NO_REF._asdict(), "total_nr": 0, "first_nr": 0, "flags": 0}
        server_list = {
            "ref": Ref(_SERVER_LIST, _SEQ)._asdict(),
            "total_nr": _LIST_LENGTH,
            "first_nr": _LIST_LENGTH,
            "flags": 0,
        }
        fields = {
            "hdr": header,
            "id": 0,
            "fmt_vers": self.fmt_vers,
            "flags": SuperFlag.IS_META_BDEV if is_meta else 0,
            "uuid": self.uuid,
            "seq": 1,
            "next_ino": FIRST_FREE_INO,
            "inode_count": 1,
            "total_meta_blocks": self.meta_blocks,
            "total_data_blocks": self.data_blocks,
            "qconf": config_to_struct(self.quorum_config),
            "meta_alloc": [
                _alloc_root(_META_ALLOCS[0], first.length),
                _alloc_root(_META_ALLOCS[1], second.length),
            ],
            "data_alloc": _alloc_root(_DATA_ALLOC, self._free_data().length),
            "server_meta_avail": [server_list, no_list],
            "server_meta_freed": [no_list, no_list],
            "fs_root": _tree_root(_FS_ROOT),
            "logs_root": _NO_TREE,
            "log_merge": _NO_TREE,
            "mounted_clients": _NO_TREE,
            "srch_root": _NO_TREE,
            "volopt": {
                "set_bits": 1 if self.zone_blocks else 0,
                "data_alloc_zone_blocks": self.zone_blocks,
                "future_expansion": [0] * 63,
            },
        }
        return seal(build(SuperBlockStruct, fields, "super block"), SMALL_BLOCK_SIZE)

    def metadata_blocks(self) -> list[tuple[int, bytes]]:
        """Return (byte, contents) of everything on the metadata device but the super block."""
        first, second = self._free_meta()
        blknos = range(_LIST_START, _LIST_START + _LIST_LENGTH)
        large = {
            _FS_ROOT: self._leaf(_FS_ROOT, self._root_inode_items()),
            _SERVER_LIST: build_list_block(self.fsid, Ref(_SERVER_LIST, _SEQ), blknos),
            _DATA_ALLOC: self._leaf(_DATA_ALLOC, _extent_items(self._free_data())),
            _META_ALLOCS[0]: self._leaf(_META_ALLOCS[0], _extent_items(first)),
            _META_ALLOCS[1]: self._leaf(_META_ALLOCS[1], _extent_items(second)),
        }
        quorum = b"".join(QuorumBlock(self.fsid, slot).build() for slot in range(QUORUM_MAX_SLOTS))
        return [(blkno * LARGE_BLOCK_SIZE, block) for blkno, block in large.items()] + [(QUORUM_OFFSET, quorum)]

    def _free_meta(self) -> tuple[Extent, Extent]:
        length = self.meta_blocks - _FREE_START
        first = (length + 1) // 2
        return Extent(_FREE_START, first), Extent(_FREE_START + first, length - first)

    def _free_data(self) -> Extent:
        return Extent(DATA_START_BLKNO, self.data_blocks - DATA_START_BLKNO)

    def _root_inode_items(self) -> Sequence[tuple[Key, bytes]]:
        sec, nsec = divmod(self.created, 1_000_000_000)
        time = {"sec": sec, "nsec": nsec}
        fields: dict[str, Any] = dict.fromkeys(_ZERO_INODE_FIELDS, 0)
        fields |= dict.fromkeys(("atime", "ctime", "mtime", "crtime"), time)
        fields |= {"next_readdir_pos": FIRST_READDIR_POS, "nlink": 2, "mode": _ROOT_MODE}
        index = Key(Zone.INODE_INDEX, 0, InodeIndexType.META_SEQ, 0, ROOT_INO)
        return (index, b""), (Key(Zone.FS, ROOT_INO, FsType.INODE), build_inode(fields, self.fmt_vers))

    def _leaf(self, blkno: int, items: Sequence[tuple[Key, bytes]]) -> bytes:
        """Build a leaf of two items, given in the order of their keys.

        The second is the root of the AVL tree.  The heights are those that volumes have always been made with: swapped,
        which no reader minds.
        """
        first_node, second_node = _NODE_OF_ITEM
        nodes = (
            {"parent": second_node, "left": 0, "right": 0, "height": 1},
            {"parent": 0, "left": first_node, "right": 0, "height": 0},
        )
        block = bytearray(LARGE_BLOCK_SIZE)
        buckets = [0] * LEAF_BUCKETS
        lowest = LEAF_HASH_OFFSET
        for index, ((key, value), node) in enumerate(zip(items, nodes, strict=True)):
            lowest -= item_bytes(len(value)) - ITEM_SIZE
            block[lowest : lowest + len(value)] = value
            raw_key = key.build()
            fields = {
                "node": node,
                "key": _key_fields(key),
                "seq": _SEQ,
                "val_off": lowest if value else 0,
                "val_len": len(value),
                "flags": 0,
            }
            offset = ITEMS_OFFSET + index * ITEM_SIZE
            block[offset : offset + ITEM_SIZE] = build(BtreeItem, fields, "item")
            bucket = leaf_bucket(raw_key)
            while buckets[bucket]:
                bucket = (bucket + 1) % LEAF_BUCKETS
            buckets[bucket] = offset
        block[LEAF_HASH_OFFSET:] = b"".join(bucket.to_bytes(2, "little") for bucket in buckets)
        head = {
            "hdr": {"crc": 0, "magic": Magic.BTREE, "fsid": self.fsid, "seq": _SEQ, "blkno": blkno},
            "item_root": {"node": second_node},
            "nr_items": len(items),
            "total_item_bytes": sum(item_bytes(len(value)) for _, value in items),
            "mid_free_len": lowest - ITEMS_OFFSET - len(items) * ITEM_SIZE,
            "level": 0,
        }
        block[:ITEMS_OFFSET] = build(BtreeBlock, head, "btree block")
        return seal(block, LARGE_BLOCK_SIZE)


def write_volume(meta: Device, data: Device, new: NewVolume) -> None:
    """Write a new volume over whatever the devices hold; raises DeviceError.

    Interrupted at any point it leaves nothing that opens: what is at the places of the super blocks goes first and
    durably, so that no old super block meets new blocks.  The new ones come last, that of the metadata after all else.
    """
    invalidate(meta)
    invalidate(data)
    for offset, block in new.metadata_blocks():
        meta.write(offset, block)
    meta.flush()
    data.write(SUPER_OFFSET, new.super_block(is_meta=False))
    data.flush()
    meta.write(SUPER_OFFSET, new.super_block(is_meta=True))
    meta.flush()


def invalidate(device: Device) -> None:
    """Make sure that the device has no super block, durably; raises DeviceError."""
    device.write(SUPER_OFFSET, bytes(SMALL_BLOCK_SIZE), durable=True)


def _extent_items(extent: Extent) -> Sequence[tuple[Key, bytes]]:
    by_location, by_order = free_extent_keys(extent)
    return (by_location, b""), (by_order, b"")


def _key_fields(key: Key) -> dict[str, int]:
    names = ("zone", "first", "type", "second", "third", "fourth")
    return {name: getattr(key, name) for name in names}


_NO_TREE = {"ref": NO_REF._asdict(), "height": 0}


def _tree_root(blkno: int) -> dict[str, Any]:
    return {"ref": Ref(blkno, _SEQ)._asdict(), "height": 1}


def _alloc_root(blkno: int, total_len: int) -> dict[str, Any]:
    return {"total_len": total_len, "flags": 0, "root": _tree_root(blkno)}
