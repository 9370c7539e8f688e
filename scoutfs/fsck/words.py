"""Keys, names, extents and types in words."""

from __future__ import annotations

import stat
from collections.abc import Callable, Mapping
from types import MappingProxyType

from format.dirent import DirentType
from format.extent import Extent, free_extent
from format.keys import FsType, InodeIndexType, Key, SrchType, Zone
from format.xattr import indx_entry

_FS_WORDS: Mapping[int, Callable[[Key], str]] = MappingProxyType(
    {
        FsType.INODE: lambda key: f"inode {key.first}",
        FsType.XATTR: lambda key: f"part {key.fourth} of attribute {key.third} of inode {key.first}",
        FsType.DIRENT: lambda key: f"the entry at position {key.third} of directory {key.first}",
        FsType.READDIR: lambda key: f"the listing of position {key.second} of directory {key.first}",
        FsType.LINK_BACKREF: lambda key: f"the link of inode {key.first} to directory {key.second}",
        FsType.SYMLINK: lambda key: f"part {key.second} of the target of link {key.first}",
        FsType.DATA_EXTENT: lambda key: f"the extent of inode {key.first} that ends at block {key.second}",
    }
)
_ZONE_WORDS: Mapping[int, Callable[[Key], str]] = MappingProxyType(
    {
        Zone.INODE_INDEX: lambda key: f"inode {key.third} at {key.second} in the {index_name(key.type)} index",
        Zone.ORPHAN: lambda key: f"the orphan inode {key.second}",
        Zone.QUOTA: lambda key: f"the quota rule {key.second:016x}",
        Zone.XATTR_TOTL: lambda key: f"the total {key.first}.{key.second}.{key.third}",
        Zone.XATTR_INDX: lambda key: f"the attribute index {indx_words(key)}",
        Zone.FS: lambda key: _FS_WORDS[key.type](key),
        Zone.LOG_TREES: lambda key: f"the log tree {key.second} of mount {key.first:016x}",
        Zone.MOUNTED_CLIENT: lambda key: f"the record of mount {key.first:016x}",
        Zone.SRCH: lambda key: f"the search file or compaction {_srch_type(key.type)} {key.second}",
        Zone.FREE_EXTENT_BLKNO: lambda key: f"the free extent {extent_words(free_extent(key))}",
        Zone.FREE_EXTENT_ORDER: lambda key: f"the free extent {extent_words(free_extent(key))}, by its size",
        Zone.LOG_MERGE_STATUS: lambda key: "the status of the merge",
        Zone.LOG_MERGE_RANGE: lambda key: "a range that is to be merged",
        Zone.LOG_MERGE_REQUEST: lambda key: f"the merge request {key.second} of mount {key.first:016x}",
        Zone.LOG_MERGE_COMPLETE: lambda key: f"the merge completion {key.first}",
        Zone.LOG_MERGE_FREEING: lambda key: f"the merged log tree {key.first}",
    }
)
_TYPES: Mapping[int, str] = MappingProxyType(
    {
        stat.S_IFIFO: "fifo",
        stat.S_IFCHR: "character device",
        stat.S_IFDIR: "directory",
        stat.S_IFBLK: "block device",
        stat.S_IFREG: "regular file",
        stat.S_IFLNK: "symbolic link",
        stat.S_IFSOCK: "socket",
    }
)


def key_words(key: Key) -> str:
    """Return what a key stands for, and the key."""
    try:
        return f"{_ZONE_WORDS[key.zone](key)} ({key})"
    except KeyError:
        return f"item {key}"


def extent_words(extent: Extent) -> str:
    """Return `first-last`, or one number."""
    return f"{extent.start}-{extent.last}" if extent.length > 1 else str(extent.start)


def blocks_words(extent: Extent, verb: str = "") -> str:
    """Return `block N VERBs` or `blocks N-M VERB`, without a verb the form of `to be`."""
    one = extent.length == 1
    word = verb + ("s" if one and verb else "") or ("is" if one else "are")
    return f"{'block' if one else 'blocks'} {extent_words(extent)} {word}"


def name_words(name: bytes) -> str:
    """Return a name in quotes, bytes that are not printable ASCII as escapes."""
    return repr(name)[1:]


def mode_words(mode: int) -> str:
    """Return the type of an inode."""
    return _TYPES.get(stat.S_IFMT(mode), f"thing of unknown type {stat.S_IFMT(mode):#o}")


def dirent_type_words(type: int) -> str:
    """Return the type in a directory entry."""
    try:
        return DirentType(type).name
    except ValueError:
        return f"type {type}"


def index_name(type: int) -> str:
    """Return the name of an inode index, as `walk-inodes` has it."""
    try:
        return InodeIndexType(type).name.lower()
    except ValueError:
        return f"unknown ({type})"


def indx_words(key: Key) -> str:
    """Return `major.minor.ino` of an item of the attribute index, and the id of the attribute."""
    entry = indx_entry(key)
    return f"{entry.major}.{entry.minor}.{entry.ino} (attribute id {entry.xid})"


def _srch_type(type: int) -> str:
    try:
        return SrchType(type).name
    except ValueError:
        return str(type)
