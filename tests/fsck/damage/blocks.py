"""Damage of super blocks, quorum blocks, references and trees."""

from __future__ import annotations

import struct
from typing import Any

from format.block import seal
from format.btree import read_items
from format.keys import FsType, Key, Zone
from tests.format.blocks import Given, btree_block
from tests.fsck.corruption import LARGE, QUORUM, SUPER, Corruption
from tests.fsck.damage.registry import CRASHED, a_file, damage, first_leaf, inode_key, item_offset, number

# Super blocks and quorum blocks


@damage("super-damaged")
def super_checksum(c: Corruption) -> None:
    data = bytearray(c.meta.read(SUPER, 4096))
    data[100] ^= 1
    c.meta.write(SUPER, data)


@damage("super-damaged")
def data_super_checksum(c: Corruption) -> None:
    data = bytearray(c.data.read(SUPER, 4096))
    data[100] ^= 1
    c.data.write(SUPER, data)


@damage("super-role")
def data_super_says_metadata(c: Corruption) -> None:
    c.change_super(lambda parsed: parsed.update({"flags": 1}), device="data")


@damage("super-mismatch")
def data_super_of_another_volume(c: Corruption) -> None:
    c.change_super(lambda parsed: parsed.update({"uuid": bytes(16)}), device="data")


@damage("super-mismatch")
def interrupted_change_of_version(c: Corruption) -> None:
    c.change_super(lambda parsed: parsed.update({"fmt_vers": 1}), device="data")


@damage("super-total")
def truncated_data_device(c: Corruption) -> None:
    c.change_super(lambda parsed: parsed.update({"total_data_blocks": parsed.total_data_blocks + 1}), device="data")


@damage("super-reserved")
def super_id(c: Corruption) -> None:
    c.change_super(lambda parsed: parsed.update({"id": 1}))


@damage("super-reserved")
def super_tail(c: Corruption) -> None:
    c.change_small(SUPER, lambda data: data.__setitem__(2000, 1))


@damage("next-ino-low")
def next_ino(c: Corruption) -> None:
    c.change_super(lambda parsed: parsed.update({"next_ino": 1024}))


@damage("inode-count")
def inode_count(c: Corruption) -> None:
    c.change_super(lambda parsed: parsed.update({"inode_count": parsed.inode_count + 1}))


@damage("volume-option")
def zone_option(c: Corruption) -> None:
    c.change_super(lambda parsed: parsed.volopt.update({"set_bits": 1, "data_alloc_zone_blocks": 7}))


@damage("quorum-config")
def port_zero(c: Corruption) -> None:
    c.change_super(lambda parsed: parsed.qconf.slots[0].update({"port": 0}))


@damage("quorum-config")
def no_slots(c: Corruption) -> None:
    c.change_super(lambda parsed: [slot.update({"family": 0}) for slot in parsed.qconf.slots])


@damage("quorum-block-damaged")
def quorum_checksum(c: Corruption) -> None:
    data = bytearray(c.meta.read(QUORUM + 4096, 4096))
    data[50] ^= 1
    c.meta.write(QUORUM + 4096, data)


@damage("quorum-block-damaged")
def quorum_block_of_another_slot(c: Corruption) -> None:
    c.meta.write(QUORUM, c.meta.read(QUORUM + 4096, 4096))


@damage("quorum-block-events")
def quorum_write_number(c: Corruption) -> None:
    c.change_small(QUORUM, lambda data: struct.pack_into("<Q", data, 32, 99999))


@damage("quorum-block-events")
def quorum_term(c: Corruption) -> None:
    c.change_small(QUORUM, lambda data: struct.pack_into("<Q", data, 120 + 16, 99999))


@damage(notes=("quorum-slot-used",))
def slot_in_use(c: Corruption) -> None:
    def begin(data: bytearray) -> None:
        write_nr = number(data, 32) + 1
        struct.pack_into("<Q", data, 32, write_nr)
        struct.pack_into("<QQ", data, 40, write_nr, 77)

    c.change_small(QUORUM, begin)


# Blocks


@damage("block-checksum", notes=("files-unchecked", "space-unchecked"))
def leaf_checksum(c: Corruption) -> None:
    c.change_block(first_leaf(c), lambda data: data.__setitem__(100, data[100] ^ 1), sealed=False)


@damage("block-type", notes=("files-unchecked",))
def leaf_magic(c: Corruption) -> None:
    c.poke(first_leaf(c), 4, "I", 0x31995604)


@damage("block-volume", notes=("files-unchecked",))
def leaf_of_another_volume(c: Corruption) -> None:
    c.poke(first_leaf(c), 8, "Q", 1)


@damage("block-sequence", notes=("files-unchecked",))
def lost_write(c: Corruption) -> None:
    c.poke(first_leaf(c), 16, "Q", 12345)


@damage("block-number", notes=("files-unchecked",))
def misplaced_write(c: Corruption) -> None:
    c.poke(first_leaf(c), 24, "Q", 12345)


def _child(c: Corruption, place: int, blkno: int, seq: int) -> None:
    root = c.path()[0]
    c.poke(root, read_items(c.block(root), "").items[place].val_off, "QQ", blkno, seq)


@damage("block-reference", notes=("files-unchecked",))
def reference_beyond_the_device(c: Corruption) -> None:
    _child(c, 0, 1 << 40, 1)


@damage("block-shared", notes=("files-unchecked", "space-unchecked"))
def two_references_to_a_leaf(c: Corruption) -> None:
    _child(c, 1, *read_items(c.block(c.path()[0]), "").items[0].ref)


@damage("block-shared", notes=("files-unchecked",))
def tree_that_loops(c: Corruption) -> None:
    root = c.super.fs_root
    _child(c, 0, root.ref.blkno, root.ref.seq)


def _list(c: Corruption) -> tuple[int, int]:
    blkno = c.super.server_meta_avail[0].ref.blkno
    return blkno, 56 + 8 * number(c.block(blkno), 48, "I")


@damage("block-shared", "block-leaked")
def block_twice_in_a_list(c: Corruption) -> None:
    blkno, offset = _list(c)
    c.poke(blkno, offset, "Q", number(c.block(blkno), offset + 8))


@damage("block-shared", "block-leaked")
def block_in_use_is_listed_as_free(c: Corruption) -> None:
    blkno, offset = _list(c)
    c.poke(blkno, offset, "Q", first_leaf(c))


@damage("block-leaked")
def leaked_block(c: Corruption) -> None:
    blkno, _ = _list(c)
    start, count = struct.unpack_from("<II", c.block(blkno), 48)
    c.poke(blkno, 48, "II", start + 1, count - 1)

    def forget(parsed: Any) -> None:
        head = parsed.server_meta_avail[0]
        head.total_nr, head.first_nr = head.total_nr - 1, head.first_nr - 1

    c.change_super(forget)


@damage("list-entry", "block-leaked")
def list_entry(c: Corruption) -> None:
    blkno, offset = _list(c)
    c.poke(blkno, offset, "Q", 1)


@damage("list-block", notes=("space-unchecked",))
def list_block(c: Corruption) -> None:
    blkno, _ = _list(c)
    c.poke(blkno, 52, "I", 9000)


@damage("list-count")
def list_first(c: Corruption) -> None:
    c.change_super(lambda parsed: parsed.server_meta_avail[0].update({"first_nr": 1}))


@damage("list-count")
def list_total(c: Corruption) -> None:
    c.change_super(lambda parsed: parsed.server_meta_avail[0].update({"total_nr": 1}))


# Trees


@damage("tree-root", notes=("files-unchecked",))
def root_of_no_height(c: Corruption) -> None:
    c.change_super(lambda parsed: parsed.fs_root.update({"height": 0}))


@damage("tree-level", notes=("files-unchecked",))
def leaf_level(c: Corruption) -> None:
    c.poke(first_leaf(c), 40, "B", 3)


@damage("tree-items", notes=("files-unchecked",))
def number_of_items(c: Corruption) -> None:
    c.poke(first_leaf(c), 34, "H", 2000)


@damage("tree-key-range", notes=("files-unchecked",))
def item_in_the_wrong_leaf(c: Corruption) -> None:
    c.rewrite(first_leaf(c), lambda items: items.update({Key.ONES: Given(Key(Zone.FS, 1 << 60, FsType.INODE))}))


@damage("tree-key-twice", "index-missing")
def key_twice(c: Corruption) -> None:
    leaf = first_leaf(c)
    data = c.block(leaf)
    one, other = item_offset(c, leaf, 3), item_offset(c, leaf, 4)
    c.change_block(leaf, lambda new: new.__setitem__(slice(other + 8, other + 40), data[one + 8 : one + 40]))


@damage("tree-avl")
def avl_link(c: Corruption) -> None:
    leaf = first_leaf(c)
    c.poke(leaf, 32 + number(c.block(leaf), 32, "H") + 2, "H", 0)


@damage("tree-avl")
def avl_parent(c: Corruption) -> None:
    leaf = first_leaf(c)
    c.poke(leaf, 32 + number(c.block(leaf), 32, "H"), "H", 16)


@damage("tree-avl-height")
def avl_height(c: Corruption) -> None:
    leaf = first_leaf(c)
    c.poke(leaf, item_offset(c, leaf, 5) + 6, "B", 40)


@damage("tree-hash")
def hash_bucket(c: Corruption) -> None:
    leaf = first_leaf(c)
    data = c.block(leaf)
    used = next(offset for offset in range(62512, LARGE, 2) if number(data, offset, "H"))
    c.poke(leaf, used, "H", 0)


@damage("tree-values")
def value_of_an_empty_item(c: Corruption) -> None:
    leaf = first_leaf(c)
    c.poke(leaf, item_offset(c, leaf, 5) + 48, "H", 8)


@damage("tree-item-bytes")
def total_item_bytes(c: Corruption) -> None:
    leaf = first_leaf(c)
    c.poke(leaf, 36, "H", number(c.block(leaf), 36, "H") + 8)


@damage("tree-free-space")
def mid_free_len(c: Corruption) -> None:
    c.poke(first_leaf(c), 38, "H", 65000)


@damage("tree-padding")
def key_padding(c: Corruption) -> None:
    leaf = first_leaf(c)
    c.poke(leaf, item_offset(c, leaf, 5) + 36, "B", 1)


@damage("tree-item-flags")
def item_flags(c: Corruption) -> None:
    leaf = first_leaf(c)
    c.poke(leaf, item_offset(c, leaf, 5) + 52, "B", 2)


@damage("tree-children")
def parent_of_one(c: Corruption) -> None:
    root = c.super.fs_root
    leaked = 66500
    items = [Given(Key.ONES, struct.pack("<QQ", root.ref.blkno, root.ref.seq))]
    c.meta.write(leaked * LARGE, seal(btree_block(2, items, fsid=c.super.hdr.fsid, blkno=leaked, seq=9), LARGE))

    def grow(parsed: Any) -> None:
        parsed.fs_root.ref.update({"blkno": leaked, "seq": 9})
        parsed.fs_root.height += 1

    c.change_super(grow)


@damage("tree-last-key")
def last_key(c: Corruption) -> None:
    root = c.path()[0]
    c.poke(root, item_offset(c, root, -1) + 8 + 25, "B", 200)


@damage("tree-foreign-item")
def foreign_item(c: Corruption) -> None:
    c.put(Key(Zone.LOG_TREES, 1, 0, 1))


@damage("tree-item-value")
def value_of_an_orphan_item(c: Corruption) -> None:
    c.put(Key(Zone.ORPHAN, 0, 4, 99999), b"x")


@damage("tree-deletion")
def deletion_in_the_volume_tree(c: Corruption) -> None:
    c.put(Key(Zone.ORPHAN, 0, 4, 99999), flags=1)


@damage("item-seq")
def item_seq(c: Corruption) -> None:
    key = inode_key(a_file(c))
    c.put(key, c.items()[key].value, seq=1 << 60)


@damage("item-seq", volume=CRASHED)
def item_seq_in_a_log(c: Corruption) -> None:
    c.change_log(0, lambda parsed: parsed.update({"max_item_seq": parsed.max_item_seq - 1}))
