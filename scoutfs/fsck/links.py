"""What inodes promise about each other and about indexes: entries, orphans, seqs, attributes (spec 06 §12)."""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_left
from collections.abc import Hashable, Iterator
from typing import Any

from format.btree import Item
from format.hashes import hash64
from format.keys import InodeIndexType, Key, Zone
from format.srch import Entry
from scoutfs.files.inode import Inode
from scoutfs.fsck.forest import Total
from scoutfs.fsck.kinds import Kind
from scoutfs.fsck.reconcile import Reconciliation
from scoutfs.fsck.report import Report
from scoutfs.fsck.words import index_name, indx_words, name_words
from scoutfs.fsck.xattrs import Attribute

_DIRENT = struct.Struct("<QQQB7x")
_ROOT = 1


class Links:
    """Adds up both sides of each promise.  Takes 4 MiB, and 16 bytes for each directory.

    Search files are left out unless `srch_is_whole`.  After a walk `agree` says whether all is well.  If not: call
    `begin_walk` with details, walk again, and call `report_all`.
    """

    def __init__(self) -> None:
        self.listings, self.backrefs = Reconciliation(), Reconciliation()
        self.index, self.orphans, self.indx = Reconciliation(), Reconciliation(), Reconciliation()
        self.totals, self.numbers = Reconciliation(modulus=2**64), Reconciliation(modulus=2**64)
        self.srch = Reconciliation(modulus=2)
        self._existing_srch: dict[Hashable, bytes] = {}
        self.srch_is_whole = True
        self._begin()

    def _begin(self) -> None:
        self._directories, self._parents = array("Q"), array("Q")
        self.inode_count = self.greatest_ino = 0
        self.has_root = False

    @property
    def _all(self) -> tuple[Reconciliation, ...]:
        fields = (self.listings, self.backrefs, self.index, self.orphans, self.indx, self.totals, self.numbers)
        return (*fields, self.srch) if self.srch_is_whole else fields

    @property
    def agree(self) -> bool:
        """Whether all promises are kept."""
        return all(reconciliation.agrees for reconciliation in self._all)

    def begin_walk(self, *, details: bool) -> None:
        """Begin another walk; with `details` to find what differs."""
        if details:
            for reconciliation in self._all:
                reconciliation.begin_details()
        self._begin()

    def inode(self, inode: Inode) -> None:
        """An inode exists."""
        self.inode_count += 1
        self.greatest_ino = max(self.greatest_ino, inode.ino)
        self.has_root |= inode.ino == _ROOT and inode.is_directory
        self.index.add((InodeIndexType.META_SEQ, inode.meta_seq, inode.ino))
        if inode.is_regular:
            self.index.add((InodeIndexType.DATA_SEQ, inode.data_seq, inode.ino))
        if not inode.nlink:
            self.orphans.add(inode.ino)

    def directory(self, ino: int, parent: int) -> None:
        """A directory says in which one it is; they come in the order of their numbers."""
        self._directories.append(ino)
        self._parents.append(parent)

    def entry(self, directory: int, pos: int, value: bytes) -> None:
        """An entry is found by its name."""
        self.listings.add((directory, pos, value))
        self.backrefs.add((directory, pos, value))

    def listing(self, directory: int, pos: int, value: bytes) -> None:
        """An entry is found by its position."""
        self.listings.add((directory, pos, value), -1)

    def backref(self, directory: int, pos: int, value: bytes) -> None:
        """An entry is found by its inode."""
        self.backrefs.add((directory, pos, value), -1)

    def attribute(self, ino: int, attribute: Attribute) -> None:
        """An attribute exists."""
        if attribute.srch:
            entry = Entry(hash64(attribute.name), ino, attribute.id)
            self.srch.add(entry)
            if self.srch.may_differ(entry):
                self._existing_srch[entry] = attribute.name
        if attribute.total is not None:
            self.totals.add(attribute.total, attribute.value)
            self.numbers.add(attribute.total, 1)
        if attribute.indx is not None:
            self.indx.add(attribute.indx)

    def item(self, item: Item) -> None:
        """An item of an index exists."""
        key = item.key
        if key.zone == Zone.INODE_INDEX:
            self.index.add((key.type, key.second, key.third), -1)
        elif key.zone == Zone.ORPHAN:
            self.orphans.add(key.second, -1)
        else:
            self.indx.add(key, -1)

    def total(self, key: Key, total: Total) -> None:
        """A total is recorded."""
        name = (key.first, key.second, key.third)
        self.totals.add(name, -total.total)
        self.numbers.add(name, -total.number)

    def search_entry(self, entry: Entry) -> None:
        """A search file has an entry; one that is there twice says that its attribute is gone."""
        self.srch.add(entry)

    def report_all(self, report: Report) -> None:
        """Report what differs."""
        self._report_entries(report)
        self._report_indexes(report)
        for name, total, number in self._wrong_totals():
            where = "total {}.{}.{}".format(*name)
            report.add(Kind.TOTAL_WRONG, where, total=total, count=number)
        member: Any
        for member, weight in self.indx.differences().items():
            kind = Kind.INDX_MISSING if weight > 0 else Kind.INDX_STALE
            report.add(kind, "attribute index", entry=indx_words(member))
        for member in self.srch.differences() if self.srch_is_whole else ():
            attribute = self._existing_srch.get(member)
            where = f"inode {member.ino}"
            if attribute is None:
                report.add(Kind.SRCH_STALE, where, id=member.id, hash=member.hash)
            else:
                report.add(Kind.SRCH_MISSING, where, name=name_words(attribute), id=member.id)

    def report_directories(self, report: Report) -> None:
        """Report directories that are below themselves."""
        state = bytearray(len(self._directories))
        for start in range(len(state)):
            path = []
            index: int | None = start
            while index is not None and not state[index]:
                state[index] = 1
                path.append(index)
                index = self._index(self._parents[index])
            if index is not None and state[index] == 1 and index in path:
                where = min(self._directories[place] for place in path[path.index(index) :])
                report.add(Kind.DIRECTORY_UNREACHABLE, f"inode {where}", parent=self._parents[self._index(where) or 0])
            for place in path:
                state[place] = 2

    def _index(self, ino: int) -> int | None:
        if ino == _ROOT:
            return None
        index = bisect_left(self._directories, ino)
        return index if index < len(self._directories) and self._directories[index] == ino else None

    def _report_entries(self, report: Report) -> None:
        places: dict[tuple[int, int], dict[bytes, list[bool]]] = {}
        # By name: lacks a listing, lacks a link.  By position only, by inode only: the weights are negative.
        member: Any
        for number, reconciliation in enumerate((self.listings, self.backrefs)):
            for member, weight in reconciliation.differences().items():
                directory, pos, value = member
                found = places.setdefault((directory, pos), {}).setdefault(value, [False] * 4)
                found[number + (0 if weight > 0 else 2)] = True
        for (directory, pos), copies in sorted(places.items()):
            name = name_words(next(iter(copies))[_DIRENT.size :])
            problem = "; ".join(sorted(_copy_words(value, found) for value, found in copies.items()))
            report.add(Kind.ENTRY_COPIES, f"directory {directory}", name=name, pos=pos, problem=problem)

    def _report_indexes(self, report: Report) -> None:
        member: Any
        for member, weight in self.index.differences().items():
            type_, seq, ino = member
            kind = Kind.INDEX_MISSING if weight > 0 else Kind.INDEX_STALE
            report.add(kind, f"inode {ino}", index=index_name(type_), seq=seq)
        for member, weight in self.orphans.differences().items():
            if weight > 0:
                report.add(Kind.ORPHAN_MISSING, f"inode {member}")
            else:
                report.add(Kind.ORPHAN_STALE, f"inode {member}", problem="it does not exist, or has a name")

    def _wrong_totals(self) -> Iterator[tuple[tuple[int, ...], int, int]]:
        totals: dict[Any, int] = {**self.totals.differences()}
        numbers: dict[Any, int] = {**self.numbers.differences()}
        for name in sorted({*totals, *numbers}):
            yield name, -_signed(totals.get(name, 0)), -_signed(numbers.get(name, 0))


def _copy_words(value: bytes, found: list[bool]) -> str:
    no_listing, no_backref, listing_only, backref_only = found
    ino, _, _, type_ = _DIRENT.unpack_from(value)
    what = f"inode {ino} of type {type_}, {name_words(value[_DIRENT.size :])}"
    if no_listing or no_backref:
        missing = " and ".join(
            text for text, missing in (("by its position", no_listing), ("by its inode", no_backref)) if missing
        )
        return f"is found by its name ({what}), but not {missing}"
    present = " and ".join(
        text for text, there in (("by its position", listing_only), ("by its inode", backref_only)) if there
    )
    return f"is found {present} ({what}), but not by its name"


def _signed(number: int) -> int:
    return number - 2**64 if number >= 2**63 else number
