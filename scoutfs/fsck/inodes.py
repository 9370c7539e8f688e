"""The items of one inode after the other (spec 06 §2 to §5, §12)."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from types import MappingProxyType

from format.block import DATA_START_BLKNO, BlockError, FormatError
from format.btree import Item
from format.dirent import LINK_MAX, DirentType
from format.extent import Extent, ExtentFlag, data_extent
from format.hashes import dirent_name_hash
from format.inode import InodeFlag
from format.keys import FsType, Key
from format.symlink import join_target
from scoutfs.files.inode import Inode, decode_inode
from scoutfs.fsck.kinds import Kind
from scoutfs.fsck.links import Links
from scoutfs.fsck.report import Report
from scoutfs.fsck.space import DataSpace
from scoutfs.fsck.words import dirent_type_words, extent_words, mode_words, name_words
from scoutfs.fsck.xattrs import Attribute, Attributes

_DIRENT = struct.Struct("<QQQB7x")
_EXTENT = struct.Struct("<QB7x")
_BLOCKS_MAX = 1 << 52
_NSEC_MAX = 1_000_000_000
_FIRST_POS = 2
_MODE_MAX = 0o177777
_ROOT = 1
_SYMLINK_PARTS_MAX = 6
_LEGAL_FLAGS = {
    True: (0, ExtentFlag.UNWRITTEN, ExtentFlag.UNWRITTEN | ExtentFlag.OFFLINE),
    False: (ExtentFlag.OFFLINE,),
}
"""Flags of extents with and without blocks (spec 06 §5.1)."""
_ITEM_WORDS: Mapping[int, str] = MappingProxyType(
    {
        FsType.XATTR: "attributes",
        FsType.DIRENT: "entries",
        FsType.READDIR: "entries",
        FsType.LINK_BACKREF: "links",
        FsType.SYMLINK: "a target",
        FsType.DATA_EXTENT: "extents",
    }
)


class InodeItems:
    """Takes the items of inode `ino` in order, and checks them; `finish` checks what all of them together say.

    What they promise about other inodes goes to `links`, the blocks of extents to `space`.
    """

    def __init__(
        self, ino: int, report: Report, links: Links, space: DataSpace, data_total: int, fmt_vers: int
    ) -> None:
        self.ino = ino
        self._where = f"inode {ino}"
        self._report, self._links, self._space = report, links, space
        self._data_total, self._fmt_vers = data_total, fmt_vers
        self._inode: Inode | None = None
        self._seen: dict[int, None] = {}
        self._attributes: Attributes | None = None
        self._hash, self._names = -1, set[bytes]()
        # Number, length of names, and directories among the entries by name and by position.
        self._by_name, self._by_position = [0, 0, 0], [0, 0, 0]
        self._last_pos = self._backrefs = self._first_parent = 0
        self._symlink: list[bytes] = []
        self._symlink_gap = False
        self._extent: Extent | None = None
        self._blocks = {"online_blocks": 0, "offline_blocks": 0}
        self._take: dict[int, Callable[[Key, bytes], None]] = {
            FsType.INODE: self._take_inode,
            FsType.XATTR: self._take_xattr,
            FsType.DIRENT: self._take_dirent,
            FsType.READDIR: self._take_readdir,
            FsType.LINK_BACKREF: self._take_backref,
            FsType.SYMLINK: self._take_symlink,
            FsType.DATA_EXTENT: self._take_extent,
        }

    def take(self, item: Item) -> None:
        """Take the next item."""
        type_ = item.key.type
        self._seen[type_] = None
        self._take[type_](item.key, item.value)

    def finish(self) -> None:
        """Check the inode, after its last item."""
        inode = self._inode
        if self._attributes is not None:
            self._promise(self._attributes.finish())
        if inode is None:
            what = ", ".join(dict.fromkeys(_ITEM_WORDS[type_] for type_ in self._seen if type_ in _ITEM_WORDS))
            if what:
                self._add(Kind.INODE_MISSING, what=what)
            return
        self._links.inode(inode)
        self._check_fields(inode)
        self._check_types(inode)
        if inode.is_directory:
            self._check_directory(inode)
        self._check_nlink(inode)
        if inode.is_symlink:
            self._check_symlink(inode)
        if inode.is_regular and inode.nlink:
            for field, found in self._blocks.items():
                stored = getattr(inode, field)
                if stored != found:
                    self._add(Kind.INODE_BLOCKS, field=field, stored=stored, expected=found)
        greatest = self._attributes.greatest_id if self._attributes is not None else -1
        if greatest >= inode.next_xattr_id:
            self._add(Kind.INODE_NEXT_XATTR, next_id=inode.next_xattr_id, id=greatest)

    def _add(self, kind: Kind, **details: object) -> None:
        self._report.add(kind, self._where, **details)

    def _take_inode(self, key: Key, value: bytes) -> None:
        try:
            self._inode = decode_inode(self.ino, value, self._fmt_vers)
        except BlockError as error:
            self._add(Kind.INODE_FIELD, field="the length of the item", value=error.stored)

    def _take_xattr(self, key: Key, value: bytes) -> None:
        if self._attributes is None:
            deleting = self._inode is not None and not self._inode.nlink
            self._attributes = Attributes(self.ino, self._report, deleting=deleting)
        self._promise(self._attributes.part(key, value))

    def _promise(self, attribute: Attribute | None) -> None:
        if attribute is not None:
            self._links.attribute(self.ino, attribute)

    def _take_dirent(self, key: Key, value: bytes) -> None:
        _, hash_, pos, type_ = _DIRENT.unpack_from(value)
        name = value[_DIRENT.size :]
        self._links.entry(self.ino, key.third, value)
        self._count(self._by_name, name, type_)
        self._last_pos = max(self._last_pos, key.third)
        expected = dirent_name_hash(name)
        if key.second != expected:
            self._add(Kind.ENTRY_HASH, name=name_words(name), stored=key.second, expected=expected)
        for field, stored, wanted in (("hash", hash_, key.second), ("position", pos, key.third)):
            if stored != wanted:
                text = f"its {field} is {stored}, but it is kept at {wanted}"
                self._add(Kind.ENTRY_KEY, name=name_words(name), problem=text)
        if key.third < _FIRST_POS:
            text = f"position {key.third} is that of . or .."
            self._add(Kind.ENTRY_KEY, name=name_words(name), problem=text)
        if type_ > max(DirentType):
            self._add(Kind.ENTRY_KEY, name=name_words(name), problem=f"its type {type_} is unknown")
        if key.second != self._hash:
            self._hash, self._names = key.second, set()
        if name in self._names:
            self._add(Kind.ENTRY_TWICE, name=name_words(name))
        self._names.add(name)

    def _take_readdir(self, key: Key, value: bytes) -> None:
        self._links.listing(self.ino, key.second, value)
        self._count(self._by_position, value[_DIRENT.size :], value[24])
        self._last_pos = max(self._last_pos, key.second)

    def _take_backref(self, key: Key, value: bytes) -> None:
        target, _, pos, type_ = _DIRENT.unpack_from(value)
        name = name_words(value[_DIRENT.size :])
        self._links.backref(key.second, key.third, value)
        if not self._backrefs:
            self._first_parent = key.second
        self._backrefs += 1
        for what, stored, wanted in (("inode", target, self.ino), ("position", pos, key.third)):
            if stored != wanted:
                text = f"in directory {key.second} is of {what} {stored}, but its link is that of {what} {wanted}"
                self._add(Kind.ENTRY_KEY, name=name, problem=text)
        if self._inode is not None and type_ <= max(DirentType):
            try:
                expected = DirentType.from_mode(self._inode.mode)
            except FormatError:
                return
            if type_ != expected:
                details = {"stored": dirent_type_words(type_), "expected": expected.name}
                self._add(Kind.ENTRY_TYPE, name=name, dir=key.second, **details)

    def _take_symlink(self, key: Key, value: bytes) -> None:
        self._symlink_gap |= key.second != len(self._symlink)
        if len(self._symlink) < _SYMLINK_PARTS_MAX:
            self._symlink.append(value)

    def _take_extent(self, key: Key, value: bytes) -> None:
        extent = data_extent(key)
        blkno, flags = _EXTENT.unpack(value)
        words = extent_words(extent)
        if not extent.length or extent.start > extent.last or extent.last >= _BLOCKS_MAX:
            words = f"{extent.start}+{extent.length}"
            self._add(Kind.EXTENT_RANGE, extent=words, problem="no file has these blocks")
            return
        if self._extent is not None and extent.start <= self._extent.last:
            self._add(Kind.EXTENT_OVERLAP, extent=extent_words(self._extent), other=words)
        self._extent = extent
        if flags not in _LEGAL_FLAGS[bool(blkno)]:
            problem = "with" if blkno else "without"
            self._add(Kind.EXTENT_FLAGS, extent=words, flags=flags, problem=f"{problem} blocks on the device")
        if blkno:
            stored = Extent(blkno, extent.length)
            if stored.start >= DATA_START_BLKNO and stored.last < self._data_total:
                self._space.claim(stored, f"{self._where}, its blocks {words}")
            else:
                text = f"blocks {extent_words(stored)} of the device, which are {DATA_START_BLKNO} to"
                self._add(Kind.EXTENT_RANGE, extent=words, problem=f"{text} {self._data_total - 1}")
        if blkno and not flags & ExtentFlag.UNWRITTEN:
            self._blocks["online_blocks"] += extent.length
        elif flags & ExtentFlag.OFFLINE:
            self._blocks["offline_blocks"] += extent.length

    @staticmethod
    def _count(counts: list[int], name: bytes, type_: int) -> None:
        counts[0] += 1
        counts[1] += len(name)
        counts[2] += type_ == DirentType.DIR

    def _check_fields(self, inode: Inode) -> None:
        known = int(InodeFlag.TRUNCATE) | (int(InodeFlag.RETENTION) if self._fmt_vers >= 2 else 0)
        impossible: list[tuple[str, object]] = []
        try:
            DirentType.from_mode(inode.mode)
        except FormatError:
            impossible.append(("mode", f"{inode.mode:#o}"))
        else:
            if inode.mode > _MODE_MAX:
                impossible.append(("mode", f"{inode.mode:#o}"))
        if inode.nlink > LINK_MAX:
            impossible.append(("nlink", inode.nlink))
        if inode.flags & ~known:
            impossible.append(("flags", f"{inode.flags:#x}"))
        if inode.next_readdir_pos < _FIRST_POS:
            impossible.append(("next_readdir_pos", inode.next_readdir_pos))
        for field, value in impossible:
            self._add(Kind.INODE_FIELD, field=field, value=value)
        if inode.flags & InodeFlag.TRUNCATE:
            self._add(Kind.TRUNCATE_PENDING)

    def _check_types(self, inode: Inode) -> None:
        allowed = {FsType.INODE, FsType.XATTR, FsType.LINK_BACKREF}
        if inode.is_directory:
            allowed |= {FsType.DIRENT, FsType.READDIR}
        elif inode.is_regular:
            allowed |= {FsType.DATA_EXTENT}
        elif inode.is_symlink:
            allowed |= {FsType.SYMLINK}
        wrong = dict.fromkeys(_ITEM_WORDS[type_] for type_ in self._seen if type_ not in allowed)
        if wrong:
            self._add(Kind.INODE_WRONG_ITEMS, type=mode_words(inode.mode), what=", ".join(wrong))

    def _check_directory(self, inode: Inode) -> None:
        by_name, by_position = self._by_name, self._by_position
        # An entry that lacks one of its items is reported as such; what the directory counts may follow either.
        if inode.size not in (by_name[1], by_position[1]):
            self._add(Kind.INODE_SIZE, stored=inode.size, expected=by_name[1])
        if inode.nlink and inode.nlink not in (2 + by_name[2], 2 + by_position[2]):
            self._add(Kind.INODE_NLINK, stored=inode.nlink, expected=2 + by_name[2])
        if self._last_pos >= inode.next_readdir_pos >= _FIRST_POS:
            self._add(Kind.INODE_NEXT_POS, next_pos=inode.next_readdir_pos, pos=self._last_pos)
        if self._backrefs > 1:
            self._add(Kind.DIRECTORY_PARENTS, count=self._backrefs)
        if self._backrefs:
            self._links.directory(self.ino, self._first_parent)

    def _check_nlink(self, inode: Inode) -> None:
        if self.ino == _ROOT and inode.is_directory:
            return
        if not inode.nlink:
            if self._backrefs:
                self._add(Kind.INODE_NLINK, stored=0, expected=self._backrefs)
            else:
                self._add(Kind.ORPHAN)
        elif not self._backrefs:
            self._add(Kind.INODE_UNNAMED, nlink=inode.nlink)
        elif not inode.is_directory and inode.nlink != self._backrefs:
            self._add(Kind.INODE_NLINK, stored=inode.nlink, expected=self._backrefs)

    def _check_symlink(self, inode: Inode) -> None:
        try:
            if self._symlink_gap:
                raise BlockError("the numbers of its parts", "sequence")
            join_target(self._symlink, inode.size, "it")
        except BlockError as error:
            self._add(Kind.SYMLINK, problem=str(error))
