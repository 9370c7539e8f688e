"""Damage of inodes, directories, links, attributes, extents and quota rules."""

from __future__ import annotations

import stat
import struct

from format.dirent import DirentType
from format.extent import Extent
from format.hashes import dirent_name_hash
from format.keys import FsType, Key, Zone
from tests.fsck.corruption import Corruption
from tests.fsck.damage.registry import (
    CRASHED,
    DIRENT_HASH,
    DIRENT_NAME,
    DIRENT_POS,
    DIRENT_TYPE,
    FLAGS,
    META_SEQ,
    MODE,
    NEXT_POS,
    NEXT_XATTR,
    NLINK,
    OFFLINE,
    ONLINE,
    SIZE,
    a_directory,
    a_file,
    a_mapped_file,
    add,
    an_entry,
    damage,
    inode_key,
    inodes,
    number,
    others,
)
from tests.fsck.damage.space import free_extents, replace_extents

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
    _, extents = free_extents(c)
    used = Extent(number(c.items()[key].value, 0), key.third)
    free = min((extent for extent in extents if extent.start > used.start), key=lambda extent: extent.start)
    replace_extents(c, [free], [Extent(free.start - 1, free.length + 1)])


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
