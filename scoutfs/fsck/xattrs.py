"""Extended attributes of one inode, and what their names promise about indexes and totals (spec 06 §4, §8)."""

from __future__ import annotations

from dataclasses import dataclass

from format.block import BlockError
from format.hashes import xattr_name_hash
from format.keys import Key
from format.xattr import IndxEntry, indx_key, join_xattr, xattr_name, xattr_size
from scoutfs.files.tags import BadTag, indx_name, parse_number, parse_tags, totl_name
from scoutfs.fsck.kinds import Kind
from scoutfs.fsck.report import Report
from scoutfs.fsck.words import name_words


@dataclass(frozen=True, slots=True)
class Attribute:
    """An attribute as far as indexes go: `srch` if search files have it, its total and what it adds, its index key."""

    name: bytes
    id: int
    srch: bool = False
    total: tuple[int, int, int] | None = None
    value: int = 0
    indx: Key | None = None


class Attributes:
    """Takes the parts of the attributes of inode `ino`, in order; `found` and `greatest_id` tell of whole ones.

    While an inode is being deleted its attributes are incomplete (`deleting`), and that is no damage.
    """

    def __init__(self, ino: int, report: Report, *, deleting: bool) -> None:
        self.greatest_id = -1
        self._ino, self._report, self._deleting = ino, report, deleting
        self._place: tuple[int, int] | None = None
        self._parts: list[bytes] = []
        self._numbers: list[int] = []
        self._hash = -1
        self._names: set[bytes] = set()

    def part(self, key: Key, value: bytes) -> Attribute | None:
        """Take a part; returns the attribute before it if that is complete."""
        done = None
        if (key.second, key.third) != self._place:
            done = self.finish()
            self._place = key.second, key.third
        self._parts.append(value)
        self._numbers.append(key.fourth)
        return done

    def finish(self) -> Attribute | None:
        """Return the last attribute; None if there is none or it is damaged."""
        if self._place is None:
            return None
        (hash_, id_), parts, numbers = self._place, self._parts, self._numbers
        self._place, self._parts, self._numbers = None, [], []
        self.greatest_id = max(self.greatest_id, id_)
        if numbers[0]:
            self._wrong(Kind.XATTR_PARTS, f"with id {id_}", problem="its first part is missing")
            return None
        try:
            name = xattr_name(parts[0], "part 0")
        except BlockError as error:
            self._wrong(Kind.XATTR_PARTS, f"with id {id_}", problem=str(error))
            return None
        self._check_parts(name, parts, numbers)
        expected = xattr_name_hash(name)
        if hash_ != expected:
            self._wrong(Kind.XATTR_HASH, name_words(name), stored=hash_, expected=expected)
        if hash_ != self._hash:
            self._hash, self._names = hash_, set()
        if name in self._names:
            self._wrong(Kind.XATTR_TWICE, name_words(name))
        self._names.add(name)
        return self._tagged(name, id_, parts[0])

    def _check_parts(self, name: bytes, parts: list[bytes], numbers: list[int]) -> None:
        if self._deleting:
            return
        try:
            if numbers != list(range(len(parts))):
                raise BlockError("the numbers of its parts", "sequence")
            join_xattr(parts, "it")
        except BlockError as error:
            self._wrong(Kind.XATTR_PARTS, name_words(name), problem=str(error))

    def _tagged(self, name: bytes, id_: int, first: bytes) -> Attribute:
        total = indx = None
        amount = 0
        try:
            tags = parse_tags(name)
            if tags.totl:
                total, amount = totl_name(name), parse_number(first[8 + len(name) : xattr_size(first, "")])
            if tags.indx:
                indx = indx_key(IndxEntry(*indx_name(name), self._ino, id_))
        except BadTag as error:
            self._wrong(Kind.XATTR_TAG, name_words(name), problem=str(error))
            return Attribute(name, id_)
        return Attribute(name, id_, tags.srch, total, amount, indx)

    def _wrong(self, kind: Kind, name: str, **details: object) -> None:
        if not (self._deleting and kind is Kind.XATTR_PARTS):
            self._report.add(kind, f"inode {self._ino}", name=name, **details)
