"""Every block and item of volumes that the kernel wrote is read, fits its neighbours, and says what the kernel says."""

from __future__ import annotations

import base64
import json
import lzma
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from format.block import Magic, Ref
from format.btree import Item
from format.clients import MountedClient
from format.dirent import DirEntry, DirentType
from format.extent import DataExtent, Extent, ExtentFlag, data_extent, data_extent_key, free_extent, free_extent_keys
from format.hashes import bloom_bits, dirent_name_hash, hash64, xattr_name_hash
from format.inode import build_inode, parse_inode
from format.keys import FsType, InodeIndexType, Key, SrchType, Zone
from format.logs import LogTrees, bloom_has
from format.quorum import Event, QuorumBlock, address_from_struct
from format.quota import QuotaRule
from format.srch import SrchFile
from format.symlink import join_target
from format.timespec import seconds_from_disk
from format.xattr import XattrTotl, indx_entry, indx_key, join_xattr, split_xattr
from tests.format.kernel_volumes import DATA, LARGE, KernelVolume, unpack

NAMES = ["fresh-v2", "rich-v1", "rich-v2-merged", "multi3-M2_killed"]
LEAKED = {"rich-v2-merged": {66500}}
"""The kernel never frees the level-1 blocks of a merged log tree (spec 04, trap 35)."""


@dataclass
class Contents:
    """What the trees of a volume hold; `log_items` are those of each log tree, `entries` those of search files."""

    volume: KernelVolume
    free_meta: list[int] = field(default_factory=list)
    data_extents: list[Extent] = field(default_factory=list)
    fs_items: list[Item] = field(default_factory=list)
    log_items: list[list[Item]] = field(default_factory=list)
    log_trees: list[Any] = field(default_factory=list)
    clients: list[Item] = field(default_factory=list)
    quorum: list[QuorumBlock] = field(default_factory=list)
    entries: set[tuple[int, int, int]] = field(default_factory=set)

    def newest(self) -> dict[Key, Item]:
        """The items of the filesystem: of each key the one with the greatest seq, without deletions and deltas."""
        found: dict[Key, Item] = {}
        for item in [*self.fs_items, *(item for items in self.log_items for item in items)]:
            if item.key not in found or item.seq >= found[item.key].seq:
                found[item.key] = item
        return {key: item for key, item in sorted(found.items()) if not item.deleted}


def free_extents(volume: KernelVolume, root: Any, what: str) -> list[Extent]:
    """Return the extents of an allocator's tree, which holds each of them twice."""
    items = volume.tree(root.root, what)
    by_zone: dict[int, list[Key]] = defaultdict(list)
    for item in items:
        assert item.value == b""
        by_zone[item.key.zone].append(item.key)
    extents = [free_extent(key) for key in by_zone[Zone.FREE_EXTENT_BLKNO]]
    assert sorted(free_extent(key) for key in by_zone[Zone.FREE_EXTENT_ORDER]) == extents
    assert [item.key for item in items] == sorted(key for extent in extents for key in free_extent_keys(extent))
    assert sum(extent.length for extent in extents) == root.total_len
    return extents


def read_log_trees(contents: Contents, item: Item) -> None:
    """Follow everything that a log_trees item refers to."""
    volume = contents.volume
    log = LogTrees.parse(item.value)
    assert LogTrees.build(log) == item.value
    assert item.key == Key(Zone.LOG_TREES, log.rid, 0, log.nr)
    contents.log_trees.append(log)
    contents.free_meta += volume.list(log.meta_avail, "lt_meta_avail")
    contents.free_meta += volume.list(log.meta_freed, "lt_meta_freed")
    for name in ("data_avail", "data_freed"):
        contents.data_extents += free_extents(volume, log[name], name)
    contents.entries.update(volume.srch(log.srch_file, "srch log"))
    items = volume.tree(log.item_root, "log items")
    contents.log_items.append(items)
    assert max((item.seq for item in items), default=0) <= log.max_item_seq
    if log.bloom_ref.blkno:
        bloom = volume.block(Ref(log.bloom_ref.blkno, log.bloom_ref.seq), Magic.BLOOM, "bloom")
        assert int.from_bytes(bloom[32:40], "little") == sum(byte.bit_count() for byte in bloom[40:])
        for key in {lock_start(item.key) for item in items}:
            assert bloom_has(bloom, bloom_bits(key.build()))


def lock_start(key: Key) -> Key:
    """Return the start of the range that is locked for an item (spec 01 §4.5)."""
    if key.zone == Zone.FS:
        return Key(Zone.FS, key.first & ~1023)
    if key.zone == Zone.INODE_INDEX:
        return Key(Zone.INODE_INDEX, 0, key.type, key.second & ~1023)
    if key.zone == Zone.ORPHAN:
        return Key(Zone.ORPHAN, 0, key.type)
    return Key(key.zone)


@pytest.fixture(scope="module")
def contents_of(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Contents]]:
    """Return a function that reads all of a volume, once."""
    cache: dict[str, Contents] = {}

    def read(name: str) -> Contents:
        if name not in cache:
            path = unpack(name, tmp_path_factory.mktemp(name))
            try:
                cache[name] = read_everything(path)
            finally:
                path.unlink()
        return cache[name]

    yield read
    cache.clear()


def read_everything(path: Path) -> Contents:
    """Follow every reference from the super block on."""
    volume = KernelVolume(path)
    contents, raw = Contents(volume), volume.super.raw
    assert volume.super.build() == volume.bytes(LARGE, 4096)
    for slot in range(15):
        data = volume.bytes(LARGE + 4096 * (1 + slot), 4096)
        contents.quorum.append(QuorumBlock.parse(data, fsid=volume.super.fsid, slot=slot))
        assert contents.quorum[slot].build() == data
    for head in (*raw.server_meta_avail, *raw.server_meta_freed):
        contents.free_meta += volume.list(head, "server list")
    for root in raw.meta_alloc:
        for extent in free_extents(volume, root, "meta_alloc"):
            contents.free_meta += range(extent.start, extent.last + 1)
    contents.data_extents += free_extents(volume, raw.data_alloc, "data_alloc")
    for item in volume.tree(raw.srch_root, "srch_root"):
        assert item.key.type in (SrchType.LOG, SrchType.BLOCKS)
        contents.entries.update(volume.srch(SrchFile.parse(item.value), "srch file"))
    for item in volume.tree(raw.logs_root, "logs_root"):
        read_log_trees(contents, item)
    contents.clients = volume.tree(raw.mounted_clients, "clients")
    contents.fs_items = volume.tree(raw.fs_root, "fs_root")
    assert volume.tree(raw.log_merge, "log_merge") == []
    return contents


@pytest.mark.parametrize("name", NAMES)
def test_every_block_has_one_owner(contents_of: Callable[[str], Contents], name: str) -> None:
    contents = contents_of(name)
    owned = [*contents.free_meta, *contents.volume.blocks]
    assert len(set(owned)) == len(owned)
    all_blocks = set(range(2, contents.volume.super.total_meta_blocks))
    assert all_blocks - set(owned) == LEAKED.get(name, set())
    assert not set(owned) - all_blocks
    used = sorted(extent for items in [contents.newest()] for extent in stored_extents(items))
    extents = sorted([*contents.data_extents, *used])
    position = 64
    for extent in extents:
        assert extent.start == position
        position += extent.length
    assert position == contents.volume.super.total_data_blocks


def stored_extents(items: dict[Key, Item]) -> Iterator[Extent]:
    """Yield the blocks of the data device that files have."""
    for key, item in items.items():
        if key.zone == Zone.FS and key.type == FsType.DATA_EXTENT:
            blkno = DataExtent.parse(item.value).blkno
            if blkno:
                yield Extent(blkno, key.third)


@pytest.mark.parametrize("name", NAMES)
def test_every_item_is_what_its_key_says(contents_of: Callable[[str], Contents], name: str) -> None:
    contents = contents_of(name)
    fmt_vers = contents.volume.super.fmt_vers
    lengths = set()
    for items in (contents.fs_items, *contents.log_items):
        for index, item in enumerate(items):
            if item.deleted:
                assert item.value == b""
                continue
            if index % 16 == 0 or not is_common(item.key):
                check_item(item, fmt_vers)
            if (item.key.zone, item.key.type) == (Zone.FS, FsType.INODE):
                lengths.add(len(item.value))
    assert lengths == {160 if fmt_vers == 1 else 168}


def is_common(key: Key) -> bool:
    """Whether volumes hold thousands of such items, of which some will do."""
    common = (FsType.INODE, FsType.DIRENT, FsType.READDIR, FsType.LINK_BACKREF)
    return key.zone == Zone.INODE_INDEX or (key.zone == Zone.FS and key.type in common)


def check_item(item: Item, fmt_vers: int) -> None:
    """Decode a value, hold it against its key, and build it again."""
    key, value, what = item.key, item.value, f"item {item.key}"
    if key.zone in (Zone.INODE_INDEX, Zone.ORPHAN):
        assert value == b""
        assert key.type in tuple(InodeIndexType)
    elif key.zone == Zone.QUOTA:
        rule = QuotaRule.parse(value)
        assert QuotaRule.build(rule) == value
        assert hash64(value) == key.second
    elif key.zone == Zone.XATTR_TOTL:
        assert XattrTotl.build(XattrTotl.parse(value)) == value
    elif key.zone == Zone.XATTR_INDX:
        assert indx_key(indx_entry(key)) == key
    else:
        assert key.zone == Zone.FS
        check_fs_item(key, value, what, fmt_vers)


def check_fs_item(key: Key, value: bytes, what: str, fmt_vers: int) -> None:
    """The same for the items of inodes."""
    if key.type == FsType.INODE:
        assert build_inode(parse_inode(value, fmt_vers, what), fmt_vers) == value
    elif key.type in (FsType.DIRENT, FsType.READDIR, FsType.LINK_BACKREF):
        entry = DirEntry.parse(value, what)
        assert entry.build() == value
        assert entry.hash == dirent_name_hash(entry.name)
        if key.type == FsType.DIRENT:
            assert (key.second, key.third) == (entry.hash, entry.pos)
        elif key.type == FsType.READDIR:
            assert (key.second, key.third) == (entry.pos, 0)
        else:
            assert (key.first, key.third) == (entry.ino, entry.pos)
    elif key.type == FsType.DATA_EXTENT:
        assert DataExtent.build(DataExtent.parse(value)) == value
        assert data_extent_key(key.first, data_extent(key)) == key
    else:
        assert key.type in (FsType.XATTR, FsType.SYMLINK)


def xattrs_of(items: dict[Key, Item]) -> dict[int, dict[bytes, bytes]]:
    """Return the attributes of each inode."""
    parts: dict[tuple[int, int, int], list[bytes]] = defaultdict(list)
    for key, item in items.items():
        if key.zone == Zone.FS and key.type == FsType.XATTR:
            assert key.fourth == len(parts[key.first, key.second, key.third])
            parts[key.first, key.second, key.third].append(item.value)
    found: dict[int, dict[bytes, bytes]] = defaultdict(dict)
    for (ino, name_hash, _), values in parts.items():
        xattr = join_xattr(values, f"xattr of {ino}")
        assert xattr_name_hash(xattr.name) == name_hash
        assert split_xattr(xattr) == values
        found[ino][xattr.name] = xattr.value
    return found


def paths_of(items: dict[Key, Item]) -> dict[bytes, int]:
    """Return the inode of each path, by walking down from the root."""
    entries: dict[int, list[DirEntry]] = defaultdict(list)
    for key, item in items.items():
        if key.zone == Zone.FS and key.type == FsType.READDIR:
            entries[key.first].append(DirEntry.parse(item.value, "entry"))
    found = {b".": 1}
    pending = [(b".", 1)]
    while pending:
        path, ino = pending.pop()
        for entry in entries[ino]:
            found[path + b"/" + entry.name] = entry.ino
            if entry.type == DirentType.DIR:
                pending.append((path + b"/" + entry.name, entry.ino))
    return found


def nanoseconds(timespec: Any) -> int:
    """Return a time as the manifest gives it."""
    return seconds_from_disk(timespec.sec) * 1_000_000_000 + timespec.nsec


def check_attributes(path: dict[str, Any], inode: Any, items: dict[Key, Item]) -> None:
    """Hold an inode against what the kernel said of one of its paths."""
    assert (path["nlink"], path["uid"], path["gid"]) == (inode.nlink, inode.uid, inode.gid)
    assert (path["size"], int(path["mode"], 8)) == (inode.size, inode.mode)
    assert path["blocks"] == 8 * (inode.online_blocks + inode.offline_blocks)
    for name in ("atime", "ctime", "mtime"):
        assert path[f"{name}_ns"] == nanoseconds(inode[name])
    if "rdev" in path:
        assert path["rdev"] == [inode.rdev >> 20, inode.rdev & 0xFFFFF]
    for name, text in path.get("attr_x", {}).items():
        if name in ("data_seq", "data_version", "meta_seq", "offline_blocks", "online_blocks", "size"):
            assert inode[name] == int(text)
        elif name == "project_id":
            assert inode.proj == int(text)
        elif name == "crtime":
            sec, nsec = text.split(".")
            assert (seconds_from_disk(inode.crtime.sec), inode.crtime.nsec) == (int(sec), int(nsec))
    if "target_b64" in path:
        parts = [item.value for key, item in items.items() if key.type == FsType.SYMLINK]
        assert join_target(parts, inode.size, "target") == base64.b64decode(path["target_b64"])
    if "fiemap" in path:
        found = [mapped(key, item) for key, item in items.items() if key.type == FsType.DATA_EXTENT]
        for last in found[-1:]:
            last[3] |= FIEMAP_LAST
        assert found == path["fiemap"]


FIEMAP_LAST, FIEMAP_OFFLINE, FIEMAP_UNWRITTEN = 0x1, 0x6, 0x800
"""What the kernel says of extents; spec 06 §5.9."""


def mapped(key: Key, item: Item) -> list[int]:
    """Return logical and physical offset, length and flags of an extent, as fiemap gives them."""
    extent, value = data_extent(key), DataExtent.parse(item.value)
    flags = FIEMAP_UNWRITTEN if value.flags & ExtentFlag.UNWRITTEN else 0
    physical = 4096 * value.blkno
    if value.flags & ExtentFlag.OFFLINE:
        flags, physical = FIEMAP_OFFLINE, 0
    return [4096 * extent.start, physical, 4096 * extent.length, flags]


@pytest.mark.parametrize("name", ["rich-v1", "rich-v2-merged"])
def test_inodes_say_what_the_kernel_said(contents_of: Callable[[str], Contents], name: str) -> None:
    contents = contents_of(name)
    items = contents.newest()
    by_inode: dict[int, dict[Key, Item]] = defaultdict(dict)
    for key, item in items.items():
        if key.zone == Zone.FS:
            by_inode[key.first][key] = item
    paths, xattrs = paths_of(items), xattrs_of(items)
    manifest = lzma.decompress((DATA / name / "manifest.jsonl.xz").read_bytes()).decode("utf-8", "surrogateescape")
    fmt_vers = contents.volume.super.fmt_vers
    seen = set()
    for line in manifest.splitlines():
        path = json.loads(line)
        raw = base64.b64decode(path["path_b64"]) if "path_b64" in path else path["path"].encode()
        seen.add(raw)
        assert paths[raw] == path["ino"]
        if raw.startswith(b"./dirs/big/") and path["ino"] % 16:
            continue  # thousands of the same kind
        own = by_inode[path["ino"]]
        inode = parse_inode(own[Key(Zone.FS, path["ino"], FsType.INODE)].value, fmt_vers, "inode")
        check_attributes(path, inode, own)
        if "attr_x" in path:
            said = {**path.get("xattrs", {}), **path.get("hidden_xattrs", {})}
            assert xattrs[path["ino"]] == {name.encode(): bytes.fromhex(value) for name, value in said.items()}
    if name == "rich-v2-merged":
        assert seen == set(paths)
    assert len(seen) > 5000


def test_totals_and_indexes_say_what_the_kernel_said(contents_of: Callable[[str], Contents]) -> None:
    items = contents_of("rich-v2-merged").newest()
    said = (DATA / "rich-v2-merged" / "xattr-totals-index.txt").read_text()
    totals = []
    for key, item in items.items():
        if key.zone == Zone.XATTR_TOTL:
            value = XattrTotl.parse(item.value)
            totals.append(f"{key.first}.{key.second}.{key.third} = {value.total}, {value.count}")
    entries = [indx_entry(key) for key in items if key.zone == Zone.XATTR_INDX]
    index = sorted({f"{entry.major}.{entry.minor} = {entry.ino}" for entry in entries})
    before, after = said.split("== read-xattr-index 0.0.0 255.-1.-1\n")
    assert totals == before.splitlines()[1:]
    assert index == sorted(set(after.splitlines()))


def test_searches_find_what_the_kernel_found(contents_of: Callable[[str], Contents]) -> None:
    contents = contents_of("rich-v2-merged")
    xattrs = xattrs_of(contents.newest())
    text = (DATA / "rich-v2-merged" / "search-xattrs.txt").read_text()
    searches = re.findall(r"== search-xattrs (\S+)\n((?:\d+\n)*)", text)
    assert len(searches) >= 3
    for name, lines in searches:
        inodes = {ino for hash_, ino, _ in contents.entries if hash_ == hash64(name.encode())}
        found = {ino for ino in inodes if name.encode() in xattrs[ino]}
        assert found == set(map(int, lines.split()))


def test_a_killed_cluster(contents_of: Callable[[str], Contents]) -> None:
    contents = contents_of("multi3-M2_killed")
    clients = contents.clients
    printed = lzma.decompress((DATA / "multi3-M2_killed" / "print-crashed.txt.xz").read_bytes()).decode()
    rids = re.findall(r"^    rid (\w+) ipv4_addr ([\d.]+) flags 0x(\w+)$", printed, re.MULTILINE)
    found = []
    for item in clients:
        client = MountedClient.parse(item.value)
        address = address_from_struct(client.addr)
        assert address is not None
        assert item.key == Key(Zone.MOUNTED_CLIENT, item.key.first)
        found.append((f"{item.key.first:016x}", address.address, f"{client.flags:x}"))
    assert found == rids
    assert len(found) == 3
    leader = contents.quorum[0]
    assert leader.leader == leader.event(Event.ELECT)
    assert (leader.event(Event.FENCE).term, leader.event(Event.STOP).term, leader.agent_may_run) == (1, 0, True)
    assert len(contents.log_trees) == 3
    assert {f"{log.rid:016x}" for log in contents.log_trees} == {rid for rid, _, _ in rids}
