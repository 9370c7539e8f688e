"""Kinds of damage, each done to a real volume with every checksum right, and what a check has to say of it.

What is expected besides the damage itself are its documented consequences (docs/fsck.md).
"""

from __future__ import annotations

import stat
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from format.block import seal
from format.btree import read_items
from format.dirent import DirentType
from format.extent import Extent, free_extent, free_extent_keys
from format.hashes import dirent_name_hash
from format.keys import FsType, Key, SrchType, Zone
from format.logs import LogMergeRange, LogMergeStatus
from format.srch import SrchFile, encode_entry, read_entries
from tests.format.blocks import Given, btree_block
from tests.fsck.corruption import LARGE, QUORUM, SMALL, SUPER, Corruption

RICH, CRASHED = SMALL, "crash1-D_merge"

SIZE, META_SEQ, ONLINE, OFFLINE, NEXT_POS, NEXT_XATTR, NLINK, MODE, FLAGS = 0, 8, 32, 40, 48, 56, 72, 84, 92
"""Where fields are in an inode."""
DIRENT_HASH, DIRENT_POS, DIRENT_TYPE, DIRENT_NAME = 8, 16, 24, 32


@dataclass(frozen=True)
class Damage:
    """`do` changes the volume; the errors that a check must report are `errors`, and `notes` are among its notes."""

    name: str
    volume: str
    do: Callable[[Corruption], None]
    errors: frozenset[str]
    notes: frozenset[str]


DAMAGE: dict[str, Damage] = {}


def damage(
    *errors: str, notes: tuple[str, ...] = (), volume: str = RICH
) -> Callable[[Callable[[Corruption], None]], Callable[[Corruption], None]]:
    """Enter a function that does damage."""

    def enter(do: Callable[[Corruption], None]) -> Callable[[Corruption], None]:
        DAMAGE[do.__name__] = Damage(do.__name__, volume, do, frozenset(errors), frozenset(notes))
        return do

    return enter


def inode_key(ino: int) -> Key:
    """The key of an inode."""
    return Key(Zone.FS, ino, FsType.INODE)


def number(value: bytes, offset: int, form: str = "Q") -> int:
    """A number in a value."""
    return int(struct.unpack_from("<" + form, value, offset)[0])


def inodes(c: Corruption, kind: int, *, having: FsType | None = None, nlink: int = 0) -> list[int]:
    """Inodes of a type, maybe with items of a type, maybe with so many links; the root is left out."""
    having_inos = {key.first for key in c.items() if key.zone == Zone.FS and key.type == having}
    return [
        key.first
        for key, stored in c.items().items()
        if key.zone == Zone.FS
        and key.type == FsType.INODE
        and key.first > 1
        and stat.S_IFMT(number(stored.value, MODE, "I")) == kind
        and (having is None or key.first in having_inos)
        and (not nlink or number(stored.value, NLINK, "I") == nlink)
    ]


def a_file(c: Corruption, **wanted: Any) -> int:
    """A regular file."""
    return inodes(c, stat.S_IFREG, **wanted)[0]


def a_mapped_file(c: Corruption) -> int:
    """A regular file whose first extent has one written block or more on the device."""
    for ino in inodes(c, stat.S_IFREG, having=FsType.DATA_EXTENT, nlink=1):
        value = c.items()[c.of(ino, FsType.DATA_EXTENT)[0]].value
        if number(value, 0) and not value[8]:
            return ino
    raise LookupError


def a_directory(c: Corruption) -> int:
    """A directory with entries that is not the root."""
    return inodes(c, stat.S_IFDIR, having=FsType.DIRENT)[0]


def an_entry(c: Corruption, kind: DirentType = DirentType.REG, *, nlink: int = 1) -> tuple[Key, Key, Key]:
    """The three items of an entry whose inode has so many links: by name, by position, by inode."""
    for key, stored in c.items().items():
        if key.zone != Zone.FS or key.type != FsType.DIRENT or stored.value[DIRENT_TYPE] != kind or key.first == 1:
            continue
        ino = number(stored.value, 0)
        if nlink and number(c.items()[inode_key(ino)].value, NLINK, "I") != nlink:
            continue
        return key, *others(key, ino)
    raise LookupError


def others(key: Key, ino: int) -> tuple[Key, Key]:
    """The keys of the listing and of the link that belong to an entry."""
    readdir = Key(Zone.FS, key.first, FsType.READDIR, key.third)
    return readdir, Key(Zone.FS, ino, FsType.LINK_BACKREF, key.first, key.third)


def add(c: Corruption, ino: int, offset: int, change: int, form: str = "Q") -> None:
    """Add to a field of an inode, whatever was changed before."""
    key = inode_key(ino)
    blkno = c.items()[key].blkno

    def change_item(items: dict[Key, Given]) -> None:
        value = bytearray(items[key].value)
        struct.pack_into("<" + form, value, offset, number(value, offset, form) + change)
        items[key] = Given(key, bytes(value), items[key].seq)

    c.rewrite(blkno, change_item)


def first_leaf(c: Corruption) -> int:
    """The first leaf of the volume's tree: items of the inode index."""
    return c.path()[-1]


def item_offset(c: Corruption, blkno: int, place: int) -> int:
    """Where in a block the item is that is number `place` by key."""
    return read_items(c.block(blkno), "").items[place].offset


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


# Free space


@damage("alloc-flags")
def alloc_flags(c: Corruption) -> None:
    c.change_super(lambda parsed: parsed.meta_alloc[0].update({"flags": 2}))


@damage("free-total")
def free_total(c: Corruption) -> None:
    c.change_super(lambda parsed: parsed.data_alloc.update({"total_len": 1}))


def _free_extents(c: Corruption) -> tuple[Any, list[Extent]]:
    root = c.super.data_alloc.root
    return root, [free_extent(key) for key in c.items(root) if key.zone == Zone.FREE_EXTENT_BLKNO]


def _replace_extents(c: Corruption, old: list[Extent], new: list[Extent]) -> None:
    root = c.super.data_alloc.root

    def change(items: dict[Key, Given]) -> None:
        for extent in old:
            for key in free_extent_keys(extent):
                del items[key]
        for extent in new:
            items.update({key: Given(key) for key in free_extent_keys(extent)})

    c.rewrite(c.path(root)[-1], change)
    grown = sum(extent.length for extent in new) - sum(extent.length for extent in old)
    c.change_super(lambda parsed: parsed.data_alloc.update({"total_len": parsed.data_alloc.total_len + grown}))


@damage("free-extent-range", "data-leaked")
def free_extent_beyond_the_device(c: Corruption) -> None:
    _, extents = _free_extents(c)
    _replace_extents(c, extents[-1:], [Extent(1 << 40, extents[-1].length)])


@damage("free-extent-overlap", "data-shared")
def overlapping_free_extents(c: Corruption) -> None:
    _, extents = _free_extents(c)
    one, other = extents[0], extents[1]
    _replace_extents(c, [one], [Extent(one.start, other.start - one.start + 1)])


@damage("free-extent-touching")
def touching_free_extents(c: Corruption) -> None:
    _, extents = _free_extents(c)
    last = extents[-1]
    _replace_extents(c, [last], [Extent(last.start, 5), Extent(last.start + 5, last.length - 5)])


@damage("free-extent-order")
def order_of_a_free_extent(c: Corruption) -> None:
    root, _ = _free_extents(c)
    key = next(key for key in c.items(root) if key.zone == Zone.FREE_EXTENT_ORDER)
    c.move(key, Key(key.zone, key.first - 1, key.type, key.second, key.third), root)


@damage("free-extent-half")
def free_extent_without_its_size(c: Corruption) -> None:
    root, extents = _free_extents(c)
    c.remove(free_extent_keys(extents[0])[1], root)


@damage("free-extent-half", "free-total", "data-leaked")
def free_extent_without_its_place(c: Corruption) -> None:
    root, extents = _free_extents(c)
    c.remove(free_extent_keys(extents[0])[0], root)


# Log trees and merges


@damage("log-item", volume=CRASHED)
def log_of_another_number(c: Corruption) -> None:
    c.change_log(0, lambda parsed: parsed.update({"nr": 9}))


@damage("log-seqs", volume=CRASHED)
def log_committed_before_it_began(c: Corruption) -> None:
    c.change_log(1, lambda parsed: parsed.update({"commit_trans_seq": parsed.get_trans_seq + 1}))


@damage("log-seqs", volume=CRASHED)
def finalized_without_a_seq(c: Corruption) -> None:
    c.change_log(0, lambda parsed: parsed.update({"finalize_seq": 0}))


@damage("log-unfinalized", volume=CRASHED)
def log_that_was_not_finalized(c: Corruption) -> None:
    c.change_log(0, lambda parsed: parsed.update({"flags": 0, "finalize_seq": 0}))


@damage("log-finalized-space", volume=CRASHED)
def finalized_log_with_free_space(c: Corruption) -> None:
    c.change_log(1, lambda parsed: parsed.update({"flags": 1, "finalize_seq": parsed.get_trans_seq}))


@damage(notes=("log-abandoned",), volume=CRASHED)
def log_of_a_mount_that_is_gone(c: Corruption) -> None:
    c.rewrite(c.path(c.super.mounted_clients)[0], lambda items: items.clear())


@damage("bloom-missing", volume=CRASHED)
def empty_bloom_block(c: Corruption) -> None:
    c.change_block(c.logs()[0].bloom_ref.blkno, lambda data: data.__setitem__(slice(32, LARGE), bytes(LARGE - 32)))


@damage("bloom-count", volume=CRASHED)
def bloom_count(c: Corruption) -> None:
    c.poke(c.logs()[0].bloom_ref.blkno, 32, "Q", 5)


@damage("merge-count", volume=CRASHED)
def merge_requests(c: Corruption) -> None:
    root = c.super.log_merge
    parsed = LogMergeStatus.parse(c.items(root)[Key(Zone.LOG_MERGE_STATUS)].value)
    parsed.nr_requests = 1
    c.put(Key(Zone.LOG_MERGE_STATUS), LogMergeStatus.build(parsed), root, seq=0)


@damage("merge-item", volume=CRASHED)
def merge_range_backwards(c: Corruption) -> None:
    root = c.super.log_merge
    key = Key(Zone.LOG_MERGE_RANGE)
    parsed = LogMergeRange.parse(c.items(root)[key].value)
    parsed.start.zone, parsed.end.zone = 9, 8
    c.put(key, LogMergeRange.build(parsed), root, seq=0)


@damage("merge-item", volume=CRASHED)
def merge_without_a_status(c: Corruption) -> None:
    c.remove(Key(Zone.LOG_MERGE_STATUS), c.super.log_merge)


# Search files


def _srch(c: Corruption) -> tuple[Any, Key, Any]:
    root = c.super.srch_root
    key, stored = next(iter(c.items(root).items()))
    return root, key, SrchFile.parse(stored.value)


@damage("srch-item")
def search_file_under_another_key(c: Corruption) -> None:
    root, key, _ = _srch(c)
    c.move(key, Key(Zone.SRCH, 0, SrchType.LOG, 12345), root)


@damage("srch-file")
def search_file_entries(c: Corruption) -> None:
    root, key, file = _srch(c)
    file.entries += 1
    c.put(key, SrchFile.build(file), root)


@damage("srch-block")
def search_block_tail(c: Corruption) -> None:
    _, _, file = _srch(c)
    c.poke(file.ref.blkno, 80, "Q", 1)


@damage("srch-block", notes=("files-unchecked",))
def search_block_bytes(c: Corruption) -> None:
    _, _, file = _srch(c)
    c.poke(file.ref.blkno, 108, "I", LARGE)


@damage("srch-order")
def unsorted_file_among_the_sorted(c: Corruption) -> None:
    root, key, file = _srch(c)
    c.move(key, Key(Zone.SRCH, 0, SrchType.BLOCKS, file.blocks, file.ref.blkno), root)


def _reencode(c: Corruption, change: Callable[[list[Any]], object]) -> None:
    root, key, file = _srch(c)
    data = bytearray(c.block(file.ref.blkno))
    entries = [entry for entry, _ in read_entries(data, "")]
    change(entries)
    coded, base = b"", (0, 0, 0)
    for entry in entries:
        coded += encode_entry(entry, base)  # type: ignore[arg-type]
        base = entry
    ends = (min(entries), max(entries), entries[-1])
    struct.pack_into("<9QII", data, 32, *ends[0], *ends[1], *ends[2], len(entries), len(coded))
    data[112:] = coded.ljust(LARGE - 112, b"\0")
    c.meta.write(file.ref.blkno * LARGE, seal(data, LARGE))
    file.entries = len(entries)
    for name, entry in (("first", ends[0]), ("last", ends[1])):
        file[name].hash, file[name].ino, file[name].id = entry
    c.put(key, SrchFile.build(file), root)


@damage("srch-missing")
def attribute_that_is_not_found(c: Corruption) -> None:
    def forget(entries: list[Any]) -> None:
        entries.remove(next(entry for entry in entries if entries.count(entry) == 1))

    _reencode(c, forget)


@damage(notes=("srch-stale",))
def search_entry_of_nothing(c: Corruption) -> None:
    _reencode(c, lambda entries: entries.append(type(entries[0])(1, 2, 3)))


# Inodes


@damage("root-missing", "inode-missing", "index-stale", "inode-count")
def root_inode(c: Corruption) -> None:
    c.remove(inode_key(1))


@damage("inode-missing", "index-stale", "inode-count")
def inode_item(c: Corruption) -> None:
    c.remove(inode_key(a_mapped_file(c)))


@damage("inode-field")
def inode_flags(c: Corruption) -> None:
    c.field(inode_key(a_file(c)), FLAGS, "I", 0x80)


@damage("inode-field")
def inode_mode_bits(c: Corruption) -> None:
    add(c, a_file(c), MODE, 1 << 20, "I")


@damage("inode-nlink")
def file_nlink(c: Corruption) -> None:
    add(c, a_file(c), NLINK, 1, "I")


@damage("inode-nlink")
def directory_nlink(c: Corruption) -> None:
    add(c, a_directory(c), NLINK, 1, "I")


@damage("inode-unnamed")
def file_without_a_name(c: Corruption) -> None:
    keys = an_entry(c)
    size = len(c.items()[keys[0]].value) - DIRENT_NAME
    for key in keys:
        c.remove(key)
    add(c, keys[0].first, SIZE, -size)


@damage("inode-size")
def directory_size(c: Corruption) -> None:
    add(c, a_directory(c), SIZE, 1)


@damage("inode-blocks")
def online_blocks(c: Corruption) -> None:
    add(c, a_mapped_file(c), ONLINE, 1)


@damage("inode-blocks")
def offline_blocks(c: Corruption) -> None:
    add(c, a_mapped_file(c), OFFLINE, 1)


@damage("inode-next-pos")
def next_readdir_pos(c: Corruption) -> None:
    c.field(inode_key(a_directory(c)), NEXT_POS, "Q", 2)


@damage("inode-next-xattr")
def next_xattr_id(c: Corruption) -> None:
    c.field(inode_key(a_file(c, having=FsType.XATTR)), NEXT_XATTR, "Q", 0)


@damage("inode-wrong-items")
def directory_with_extents(c: Corruption) -> None:
    c.put(Key(Zone.FS, a_directory(c), FsType.DATA_EXTENT, 4, 5), struct.pack("<QQ", 0, 1))


@damage("index-missing")
def index_item(c: Corruption) -> None:
    c.remove(list(c.items())[10])


@damage("index-stale")
def index_item_of_nothing(c: Corruption) -> None:
    c.put(Key(Zone.INODE_INDEX, 0, 4, 1, 77))


@damage("index-missing", "index-stale")
def inode_meta_seq(c: Corruption) -> None:
    add(c, a_file(c), META_SEQ, -1)


@damage("orphan-missing", volume=CRASHED)
def orphan_item(c: Corruption) -> None:
    root = c.logs()[0].item_root
    dead = {
        key.first
        for key, stored in c.items(root).items()
        if (key.zone, key.type) == (Zone.FS, FsType.INODE) and stored.value and not number(stored.value, NLINK, "I")
    }
    key = next(key for key in c.items(root) if key.zone == Zone.ORPHAN and key.second in dead)
    c.remove(key, root)


@damage("orphan-stale")
def orphan_that_has_a_name(c: Corruption) -> None:
    c.put(Key(Zone.ORPHAN, 0, 4, a_file(c)))


@damage(notes=("truncate-pending",))
def interrupted_truncation(c: Corruption) -> None:
    c.field(inode_key(a_file(c)), FLAGS, "I", 1)


# Directories


def _edit_copies(c: Corruption, keys: tuple[Key, ...], offset: int, form: str, new: int) -> None:
    for key in keys:
        c.field(key, offset, form, new)


@damage("entry-hash")
def hash_of_a_name(c: Corruption) -> None:
    keys = an_entry(c)
    wrong = keys[0].second ^ 1
    _edit_copies(c, keys, DIRENT_HASH, "Q", wrong)
    value = bytearray(c.items()[keys[0]].value)
    struct.pack_into("<Q", value, DIRENT_HASH, wrong)
    c.remove(keys[0])
    c.put(Key(Zone.FS, keys[0].first, FsType.DIRENT, wrong, keys[0].third), bytes(value))


@damage("entry-key")
def position_in_an_entry(c: Corruption) -> None:
    keys = an_entry(c)
    _edit_copies(c, keys, DIRENT_POS, "Q", keys[0].third + 1)


@damage("entry-copies")
def listing_of_an_entry(c: Corruption) -> None:
    c.remove(an_entry(c)[1])


@damage("entry-copies")
def name_of_an_entry(c: Corruption) -> None:
    c.remove(an_entry(c)[0])


@damage("entry-copies", "inode-unnamed")
def link_of_an_entry(c: Corruption) -> None:
    c.remove(an_entry(c)[2])


@damage("entry-copies")
def different_copies_of_an_entry(c: Corruption) -> None:
    c.field(an_entry(c)[1], 0, "Q", 4711)


def _enter(c: Corruption, directory: int, ino: int, name: bytes, type_: DirentType) -> None:
    """Add an entry, with all that belongs to it."""
    pos = number(c.items()[inode_key(directory)].value, NEXT_POS)
    hash_ = dirent_name_hash(name)
    value = struct.pack("<QQQB7x", ino, hash_, pos, type_) + name
    key = Key(Zone.FS, directory, FsType.DIRENT, hash_, pos)
    for other in (key, *others(key, ino)):
        c.put(other, value)
    add(c, directory, NEXT_POS, 1)
    add(c, directory, SIZE, len(name))
    if type_ == DirentType.DIR:
        add(c, directory, NLINK, 1, "I")
    else:
        add(c, ino, NLINK, 1, "I")


@damage("entry-twice")
def name_twice(c: Corruption) -> None:
    key, _, _ = an_entry(c)
    value = c.items()[key].value
    _enter(c, key.first, number(value, 0), value[DIRENT_NAME:], DirentType.REG)


@damage("entry-type")
def type_in_an_entry(c: Corruption) -> None:
    _edit_copies(c, an_entry(c), DIRENT_TYPE, "B", DirentType.FIFO)


@damage("directory-parents")
def directory_with_two_names(c: Corruption) -> None:
    key, _, _ = an_entry(c, DirentType.DIR, nlink=0)
    _enter(c, 1, number(c.items()[key].value, 0), b"second name", DirentType.DIR)


@damage("directory-unreachable")
def directory_in_itself(c: Corruption) -> None:
    keys = an_entry(c, DirentType.DIR, nlink=0)
    value = c.items()[keys[0]].value
    ino, name = number(value, 0), value[DIRENT_NAME:]
    for key in keys:
        c.remove(key)
    add(c, keys[0].first, SIZE, -len(name))
    add(c, keys[0].first, NLINK, -1, "I")
    _enter(c, ino, ino, name, DirentType.DIR)


# Links, attributes, extents, rules


@damage("symlink")
def end_of_a_target(c: Corruption) -> None:
    ino = inodes(c, stat.S_IFLNK)[0]
    c.edit(c.of(ino, FsType.SYMLINK)[-1], lambda value: value.__setitem__(-1, 65))


@damage("symlink")
def size_of_a_link(c: Corruption) -> None:
    add(c, inodes(c, stat.S_IFLNK)[0], SIZE, 1)


def _attribute(c: Corruption, prefix: bytes) -> Key:
    for key, stored in c.items().items():
        if (key.zone, key.type, key.fourth) == (Zone.FS, FsType.XATTR, 0) and stored.value[8:].startswith(prefix):
            return key
    raise LookupError


@damage("xattr-parts")
def part_of_an_attribute(c: Corruption) -> None:
    c.remove(next(key for key in c.items() if (key.zone, key.type, key.fourth) == (Zone.FS, FsType.XATTR, 1)))


@damage("xattr-hash")
def hash_of_an_attribute(c: Corruption) -> None:
    key = _attribute(c, b"user.")
    c.move(key, Key(key.zone, key.first, key.type, key.second ^ 1, key.third))


@damage("xattr-twice")
def attribute_twice(c: Corruption) -> None:
    key = next(
        key
        for key in c.items()
        if (key.zone, key.type, key.fourth) == (Zone.FS, FsType.XATTR, 0)
        and c.items()[key].value[8:].startswith(b"user.")
        and Key(key.zone, key.first, key.type, key.second, key.third, 1) not in c.items()
    )
    new = number(c.items()[inode_key(key.first)].value, NEXT_XATTR)
    c.put(Key(key.zone, key.first, key.type, key.second, new), c.items()[key].value)
    add(c, key.first, NEXT_XATTR, 1)


@damage("xattr-tag", "total-wrong")
def value_of_a_total(c: Corruption) -> None:
    c.edit(_attribute(c, b"scoutfs.totl."), lambda value: value.__setitem__(-1, ord("x")))


@damage("total-wrong")
def total(c: Corruption) -> None:
    key = next(key for key in c.items() if key.zone == Zone.XATTR_TOTL)
    c.edit(key, lambda value: value.__setitem__(0, value[0] ^ 1))


@damage("total-wrong")
def total_of_nothing(c: Corruption) -> None:
    c.put(Key(Zone.XATTR_TOTL, 97, 0, 98, 99), struct.pack("<QQ", 5, 1))


@damage("indx-missing")
def indx_item(c: Corruption) -> None:
    c.remove(next(key for key in c.items() if key.zone == Zone.XATTR_INDX))


@damage("indx-stale")
def indx_item_of_nothing(c: Corruption) -> None:
    c.put(Key(Zone.XATTR_INDX, 1, 0, 2, 3, 4))


@damage("extent-range", "data-leaked")
def extent_beyond_the_device(c: Corruption) -> None:
    c.field(c.of(a_mapped_file(c), FsType.DATA_EXTENT)[0], 0, "Q", 1 << 50)


@damage("extent-overlap")
def overlapping_extents(c: Corruption) -> None:
    ino = a_mapped_file(c)
    key = c.of(ino, FsType.DATA_EXTENT)[-1]
    c.put(Key(Zone.FS, ino, FsType.DATA_EXTENT, key.second + 1, key.third + 1), struct.pack("<QQ", 0, 1))
    add(c, ino, OFFLINE, key.third + 1)


@damage("extent-flags")
def flags_of_an_extent(c: Corruption) -> None:
    c.field(c.of(a_mapped_file(c), FsType.DATA_EXTENT)[0], 8, "B", 0x80)


@damage("data-shared", "data-leaked")
def two_files_share_blocks(c: Corruption) -> None:
    keys = [
        key
        for key, stored in c.items().items()
        if (key.zone, key.type) == (Zone.FS, FsType.DATA_EXTENT) and number(stored.value, 0) and key.third == 1
    ]
    c.field(keys[0], 0, "Q", number(c.items()[keys[1]].value, 0))


@damage("data-shared")
def file_blocks_are_free(c: Corruption) -> None:
    key = c.of(a_mapped_file(c), FsType.DATA_EXTENT)[0]
    _, extents = _free_extents(c)
    used = Extent(number(c.items()[key].value, 0), key.third)
    free = min((extent for extent in extents if extent.start > used.start), key=lambda extent: extent.start)
    _replace_extents(c, [free], [Extent(free.start - 1, free.length + 1)])


@damage("data-leaked")
def lost_extent(c: Corruption) -> None:
    ino = a_mapped_file(c)
    key = c.of(ino, FsType.DATA_EXTENT)[0]
    c.remove(key)
    add(c, ino, ONLINE, -key.third)


@damage("quota-rule")
def quota_rule(c: Corruption) -> None:
    key = next(key for key in c.items() if key.zone == Zone.QUOTA)
    c.field(key, 33, "B", 9)
