"""Search files, and compactions of them (spec 06 §8)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from format.block import BlockError, Magic, Ref
from format.keys import Key, SrchType, Zone
from format.srch import (
    COMPACT_FILES,
    PARENT_REFS,
    Entry,
    SrchBlock,
    SrchCompact,
    SrchCompactFlag,
    SrchFile,
    read_entries,
    read_parent,
)
from scoutfs.fsck.blocks import Blocks
from scoutfs.fsck.kinds import Kind
from scoutfs.fsck.tree import FOREIGN, Tree, Walker
from scoutfs.fsck.words import key_words

_FILE, _COMPACT = SrchFile.sizeof(), SrchCompact.sizeof()
_SIZES = {SrchType.LOG: _FILE, SrchType.BLOCKS: _FILE, SrchType.PENDING: _COMPACT, SrchType.BUSY: _COMPACT}
_HEIGHT_MAX = 7
_ENTRIES_OFFSET = 112


def _problem_of(item: Any) -> str | None:
    size = _SIZES.get(item.key.type) if item.key.zone == Zone.SRCH else None
    if size is None:
        return FOREIGN
    return None if len(item.value) == size else f"{len(item.value)} bytes, expected {size}"


_SRCH = Tree("srch_root", _problem_of)


class SearchFiles:
    """Checks search files; `take` is given each entry of each."""

    def __init__(self, blocks: Blocks, walker: Walker, take: Callable[[Entry], None]) -> None:
        self._blocks, self._walker, self._take = blocks, walker, take
        self._report = blocks.report

    def tree(self, root: Any) -> list[Any]:
        """Check the tree of search files, and the files; return its parsed compactions."""
        compactions = []
        for item in self._walker.items(root, _SRCH):
            key = item.key
            if key.type in (SrchType.PENDING, SrchType.BUSY):
                compactions.append(self._compaction(key, SrchCompact.parse(item.value)))
                continue
            file = SrchFile.parse(item.value)
            expected = (file.ref.blkno, 0) if key.type == SrchType.LOG else (file.blocks, file.ref.blkno)
            if (key.second, key.third) != expected:
                self._wrong_item(key, f"its value belongs to {expected[0]}.{expected[1]}")
            self.file(file, key_words(key), is_sorted=key.type == SrchType.BLOCKS)
        return compactions

    def file(self, file: Any, name: str, *, is_sorted: bool = False) -> None:
        """Check a parsed `SrchFile`, sorted or not."""
        if not file.ref.blkno:
            if file.blocks or file.entries or file.height:
                self._wrong_file(name, "blocks", file.blocks, 0)
            return
        if not 0 < file.height <= _HEIGHT_MAX:
            self._wrong_file(name, "height", file.height, f"1 to {_HEIGHT_MAX}")
            return
        lost = self._blocks.lost
        blocks = entries = 0
        first = last = previous = None
        for index, (number, blkno, data) in enumerate(self._leaves(file, name)):
            if number != index and lost == self._blocks.lost:
                self._report.add(Kind.SRCH_FILE, name, field="block", stored=number, expected=index)
            blocks += 1
            found = self._block(data, blkno, name)
            entries += len(found)
            if not found:
                continue
            if is_sorted and ([*found] != sorted(found) or (previous is not None and found[0] < previous)):
                self._report.add(Kind.SRCH_ORDER, name, blkno=blkno)
            previous = found[-1]
            first = min(found) if first is None else min(first, *found)
            last = max(found) if last is None else max(last, *found)
            for entry in found:
                self._take(entry)
        if lost != self._blocks.lost:
            return
        for field, stored, expected in (
            ("blocks", file.blocks, blocks),
            ("entries", file.entries, entries),
            ("first", _entry(file.first), first or Entry()),
            ("last", _entry(file.last), last or Entry()),
        ):
            if stored != expected:
                self._wrong_file(name, field, _text(stored), _text(expected))

    def claim_output(self, compaction: Any) -> None:
        """Claim the blocks of what a compaction has made so far; of what it is deleting, what may be left."""
        name = f"search compaction {compaction.id:#x}"
        if not compaction.flags & SrchCompactFlag.DELETE:
            if compaction.out.ref.blkno:
                for _ in self._leaves(compaction.out, name):
                    pass
            return
        for index in range(min(compaction.nr, COMPACT_FILES)):
            self._claim_deleted(compaction["in"][index])

    def _claim_deleted(self, deleted: Any) -> None:
        """Claim the blocks of a file that are not freed: below parents of level `pos` those before number `blk` are."""
        file = deleted.sfl
        waiting = [(Ref(file.ref.blkno, file.ref.seq), file.height - 1, 0)] if file.ref.blkno else []
        while waiting:
            ref, level, number = waiting.pop()
            data = self._blocks.read_softly(ref, Magic.SRCH_PARENT if level > 0 else Magic.SRCH_BLOCK)
            if data is None or level <= 0:
                continue
            for index, child in read_parent(data, "").items():
                place = number * PARENT_REFS + index
                if level > deleted.pos or (level == deleted.pos and place >= deleted.blk):
                    waiting.append((child, level - 1, place))

    def _compaction(self, key: Key, parsed: Any) -> Any:
        known = sum(SrchCompactFlag)
        if parsed.nr > COMPACT_FILES or parsed.flags & ~known:
            self._wrong_item(key, f"{parsed.nr} input files, flags {parsed.flags:#x}")
        elif parsed.id != (key.second if key.type == SrchType.PENDING else key.third):
            self._wrong_item(key, f"its value belongs to compaction {parsed.id}")
        return parsed

    def _leaves(self, file: Any, name: str) -> Iterator[tuple[int, int, bytes]]:
        """Yield the number in the file, the block number and the contents of each block, in order."""
        waiting = [(Ref(file.ref.blkno, file.ref.seq), file.height - 1, 0)]
        while waiting:
            ref, level, number = waiting.pop()
            magic = Magic.SRCH_PARENT if level else Magic.SRCH_BLOCK
            data = self._blocks.read(ref, magic, name)
            if data is None:
                continue
            if not level:
                yield number, ref.blkno, data
                continue
            children = [
                (child, level - 1, number + index * PARENT_REFS ** (level - 1))
                for index, child in read_parent(data, name).items()
            ]
            waiting += reversed(children)

    def _block(self, data: bytes, blkno: int, name: str) -> list[Entry]:
        head = SrchBlock.parse(data[:_ENTRIES_OFFSET])
        entries: list[Entry] = []
        size = 0
        try:
            for entry, length in read_entries(data, "entries"):
                entries.append(entry)
                size += length
        except BlockError as error:
            self._report.add(Kind.SRCH_BLOCK, name, blkno=blkno, problem=str(error))
            self._blocks.lost += 1
            return entries
        expected = (min(entries), max(entries), entries[-1]) if entries else (Entry(), Entry(), Entry())
        for field, wanted in zip(("first", "last", "tail"), expected):
            if entries and _entry(head[field]) != wanted:
                text = f"{field} is {_text(_entry(head[field]))}, its entries have {_text(wanted)}"
                self._report.add(Kind.SRCH_BLOCK, name, blkno=blkno, problem=text)
        if size != head.entry_bytes:
            text = f"entry_bytes is {head.entry_bytes}, its entries take {size}"
            self._report.add(Kind.SRCH_BLOCK, name, blkno=blkno, problem=text)
        return entries

    def _wrong_item(self, key: Key, problem: str) -> None:
        self._report.add(Kind.SRCH_ITEM, "srch_root", key=key_words(key), problem=problem)

    def _wrong_file(self, name: str, field: str, stored: Any, expected: Any) -> None:
        self._report.add(Kind.SRCH_FILE, name, field=field, stored=stored, expected=expected)


def _entry(parsed: Any) -> Entry:
    return Entry(parsed.hash, parsed.ino, parsed.id)


def _text(value: Any) -> Any:
    return f"{value.hash:016x}.{value.ino}.{value.id}" if isinstance(value, Entry) else value
