"""Text of the items of files: those of `fs_root` and of the mounts' logs (spec 01 §7.6).

There are as many of them as a volume has names, attributes and extents, so they are read with `struct`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from types import MappingProxyType

from format.keys import ORPHAN_TYPE, QUOTA_RULE_TYPE, FsType, InodeIndexType, Key, Zone
from format.xattr import indx_entry
from scoutfs.tools.print import text
from scoutfs.tools.print.btree import Entry

_INODE = struct.Struct("<8QQ6IQI4xQI4xQI4x16x")
_PROJ = struct.Struct("<Q")
_DIRENT = struct.Struct("<QQQB7x")
_XATTR = struct.Struct("<HB5x")
_TOTL = struct.Struct("<qq")
_EXTENT = struct.Struct("<QB7x")
_QUOTA = struct.Struct("<3QQBBB3B3B7x")
_MASK = 2**64 - 1


def fs_item(entry: Entry, is_leaf: bool) -> str:
    """An item of `fs_root` or of a log's item tree."""
    if not is_leaf:
        return f"    {entry.key} 0 -\n"
    if entry.deleted:
        return f"    {entry.key} {entry.seq} d\n"
    item_text = _ITEMS.get((entry.zone, entry.type), _unknown)
    return f"    {entry.key} {entry.seq} -\n{item_text(entry)}"


def _unknown(entry: Entry) -> str:
    return f"      (unknown zone {entry.zone} type {entry.type})\n"


def _index(entry: Entry) -> str:
    return f"      index: major {entry.second} ino {entry.third}\n"


def _orphan(entry: Entry) -> str:
    return f"    orphan: ino {entry.second}\n"


def _quota(entry: Entry) -> str:
    line = f"    quota rule: hash 0x{entry.second:016x} coll_nr {entry.third}"
    if len(entry.value) < _QUOTA.size:
        return _short(line, "quota rule", entry)
    *values, limit, prio, op, rule_flags, s0, s1, s2, f0, f1, f2 = _QUOTA.unpack_from(entry.value)
    names = " ".join(
        f"{value},{source},{flags:x}" for value, source, flags in zip(values, (s0, s1, s2), (f0, f1, f2), strict=True)
    )
    return f"{line}\n      [{prio} {names} {op} {limit} {rule_flags:x}]\n"


def _totl(entry: Entry) -> str:
    line = f"    xattr totl: {entry.first}.{entry.second}.{entry.third}"
    if len(entry.value) < _TOTL.size:
        return _short(line, "xattr totl", entry)
    total, count = _TOTL.unpack_from(entry.value)
    return f"{line} = {total}, {count}\n"


def _indx(entry: Entry) -> str:
    found = indx_entry(Key(entry.zone, entry.first, entry.type, entry.second, entry.third, entry.fourth))
    # no newline: the original forgets it, and its text is compared
    return f"    xattr indx: major {found.major} minor {found.minor} ino {found.ino} xid {found.xid}"


def _inode(entry: Entry) -> str:
    line = f"    inode: ino {entry.first}"
    value = entry.value
    if len(value) < _INODE.size:
        return _short(line, "inode", entry)
    (
        size,
        meta_seq,
        data_seq,
        data_version,
        _,
        _,
        readdir_pos,
        _,
        version,
        nlink,
        uid,
        gid,
        mode,
        rdev,
        flags,
        *times,
    ) = _INODE.unpack_from(value)
    # the original takes what lies behind a value of 160 bytes for the project
    (proj,) = _PROJ.unpack_from(value, _INODE.size) if len(value) >= _INODE.size + _PROJ.size else (0,)
    atime, ctime, mtime = (text.time(sec, nsec) for sec, nsec in zip(times[::2], times[1::2], strict=True))
    return (
        f"{line} size {size} version {version} proj {proj} nlink {nlink}\n"
        f"      uid {uid} gid {gid} mode 0{mode:o} rdev 0x{rdev:x} flags 0x{flags:x}\n"
        f"      next_readdir_pos {readdir_pos} meta_seq {meta_seq} data_seq {data_seq} data_version {data_version}\n"
        f"      atime {atime} ctime {ctime}\n"
        f"      mtime {mtime}\n"
    )


def _xattr(entry: Entry) -> str:
    line = f"    xattr: ino {entry.first} name_hash {entry.second:08x} id {entry.third} part {entry.fourth}"
    if entry.fourth:
        return line + "\n"
    if len(entry.value) < _XATTR.size:
        return _short(line, "xattr", entry)
    val_len, name_len = _XATTR.unpack_from(entry.value)
    name = text.name(entry.value[_XATTR.size : _XATTR.size + name_len])
    return f"{line}\n      name_len {name_len} val_len {val_len} name {name}\n"


def _dirent(entry: Entry) -> str:
    line = f"    dirent: dir {entry.first}"
    if len(entry.value) < _DIRENT.size:
        return _short(line, "dirent", entry)
    ino, name_hash, pos, type_ = _DIRENT.unpack_from(entry.value)
    name = text.name(entry.value[_DIRENT.size :])
    return f"{line} hash {name_hash:016x} pos {pos} type {type_} ino {ino}\n      name {name}\n"


def _symlink(entry: Entry) -> str:
    target = text.name(entry.value.removesuffix(b"\0"))
    return f"    symlink: ino {entry.first} nr {entry.second}\n      target {target}\n"


def _data_extent(entry: Entry) -> str:
    line = f"    extent: ino {entry.first} iblock {(entry.second - entry.third + 1) & _MASK} len {entry.third}"
    if len(entry.value) < _EXTENT.size:
        return _short(line, "extent", entry)
    blkno, flags = _EXTENT.unpack_from(entry.value)
    return f"{line} blkno {blkno} flags {flags:x}\n"


def _short(line: str, what: str, entry: Entry) -> str:
    return f"{line} (short {what} value: val_len {entry.val_len})\n"


_INDEX_TYPES = range(InodeIndexType.META_SEQ, InodeIndexType.DATA_SEQ + 1)

_ITEMS: Mapping[tuple[int, int], Callable[[Entry], str]] = MappingProxyType(
    {
        **{(Zone.INODE_INDEX, type_): _index for type_ in _INDEX_TYPES},
        (Zone.ORPHAN, ORPHAN_TYPE): _orphan,
        (Zone.QUOTA, QUOTA_RULE_TYPE): _quota,
        (Zone.XATTR_TOTL, 0): _totl,
        (Zone.XATTR_INDX, 0): _indx,
        (Zone.FS, FsType.INODE): _inode,
        (Zone.FS, FsType.XATTR): _xattr,
        (Zone.FS, FsType.DIRENT): _dirent,
        (Zone.FS, FsType.READDIR): _dirent,
        (Zone.FS, FsType.LINK_BACKREF): _dirent,
        (Zone.FS, FsType.SYMLINK): _symlink,
        (Zone.FS, FsType.DATA_EXTENT): _data_extent,
    }
)
