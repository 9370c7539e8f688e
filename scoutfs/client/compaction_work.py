"""A mount's part in keeping searches fast: search files are merged into larger, sorted ones (spec 06 §8.3)."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from format.block import LARGE_BLOCK_SIZE, BlockError
from format.srch import Entry, SrchCompact, SrchCompactFlag, SrchFile, read_entries
from scoutfs.client.search_log import SearchLog
from scoutfs.errors import ScoutfsError
from scoutfs.files.search import SearchFile
from scoutfs.metadata.allocator import ListAllocator
from scoutfs.metadata.block_lists import ListHead
from scoutfs.metadata.blocks import BlockReader, DamagedBlock
from scoutfs.metadata.writer import BlockWriter, NoSpace
from scoutfs.storage.device import Device

DIRTY_MAX = 32 << 20
"""Bytes of changed blocks with which merging sorted files stops, to go on with another request."""

_BLOCKS_OF_APPEND = 20
"""More than one more entry, and the end of a transaction, may take."""


def compact(device: Device, fsid: int, work: bytes, new_seq: Callable[[], int], log: Callable[[str], None]) -> bytes:
    """Do what a `SrchCompact` of 584 bytes asks for; return what is to be answered, of the same form.

    Blocks on the metadata device; what was written is on stable storage then.  An error is part of the answer, and
    told to `log`; nothing that was written counts then.
    """
    asked = SrchCompact.parse(work)
    try:
        return _Compaction(device, fsid, asked, new_seq).run()
    except ScoutfsError as error:
        log(f"compacting search files failed: {error}")
        asked = SrchCompact.parse(work)
        asked.flags |= SrchCompactFlag.ERROR
        return SrchCompact.build(asked)


class _Compaction:
    def __init__(self, device: Device, fsid: int, asked: Any, new_seq: Callable[[], int]) -> None:
        self._asked = asked
        self._inputs = list(asked["in"])[: asked.nr]
        self._reader = BlockReader(device, fsid)
        self._writer = BlockWriter(self._reader, new_seq)
        avail, freed = ListHead.of(asked.meta_avail), ListHead.of(asked.meta_freed)
        self._allocator = ListAllocator(self._writer, avail, freed, device.size // LARGE_BLOCK_SIZE)

    def run(self) -> bytes:
        asked, allocator = self._asked, self._allocator
        if asked.flags & SrchCompactFlag.DELETE:
            done = self._delete()
        elif asked.flags & SrchCompactFlag.LOG:
            done = self._merge_logs()
        else:
            done = self._merge_sorted()
        avail, freed = allocator.prepare()
        self._writer.write()
        self._reader.device.flush()
        asked.meta_avail, asked.meta_freed = avail.fields(), freed.fields()
        if done:
            asked.flags |= SrchCompactFlag.DONE
        return SrchCompact.build(asked)

    def _merge_logs(self) -> bool:
        entries = sorted(entry for each in self._inputs for entry, _, _ in self._entries(each))
        out = SearchLog(self._writer, self._allocator, self._asked.out)
        for entry in _without_pairs(entries):
            if self._allocator.is_low(_BLOCKS_OF_APPEND):
                raise NoSpace("too few free metadata blocks for the entries of these search files")
            out.append(entry)
        self._asked.out = out.fields()
        return True

    def _merge_sorted(self) -> bool:
        out = SearchLog(self._writer, self._allocator, self._asked.out)
        pending: Entry | None = None
        done = True
        streams = [self._placed(each) for each in self._inputs]
        for entry, each, blk, pos in heapq.merge(*streams, key=lambda found: found[0]):
            if self._writer.dirty_bytes >= DIRTY_MAX or self._allocator.is_low(_BLOCKS_OF_APPEND):
                done = False
                break
            if pending == entry:
                pending = None
            else:
                if pending is not None:
                    out.append(pending)
                pending = entry
            each.blk, each.pos = blk, pos
        if pending is not None:
            out.append(pending)
        self._asked.out = out.fields()
        return done

    def _placed(self, each: Any) -> Iterator[tuple[Entry, Any, int, int]]:
        """Yield what is left of a file: each entry, the file, and the place behind the entry."""
        for entry, blk, pos in self._entries(each):
            yield entry, each, blk, pos

    def _entries(self, each: Any) -> Iterator[tuple[Entry, int, int]]:
        """Yield the entries of a file from its place on, each with the place of the next one."""
        file = self._file(each)
        start = each.pos
        for number in range(each.blk, each.sfl.blocks):
            ref, data = file.block(number)
            name = self._reader.name(ref, "srch block")
            try:
                found = list(read_entries(data, name))
            except BlockError as error:
                raise DamagedBlock(str(error)) from error
            offset = 0
            for index, (entry, size) in enumerate(found, 1):
                offset += size
                if offset > start:
                    yield entry, *((number, offset) if index < len(found) else (number + 1, 0))
            start = 0

    def _delete(self) -> bool:
        """Free the blocks of entries, as many as there is room for; in the end all above them at once."""
        for each in self._inputs:
            each.pos = max(each.pos, 1)
            if each.sfl.height > 1:
                for ref in self._file(each).refs(1, each.blk):
                    if self._allocator.is_low(_BLOCKS_OF_APPEND):
                        return False
                    self._allocator.exchange(0, [ref.blkno])
                    each.blk += 1
        for each in self._inputs:
            file = self._file(each)
            for level in range(2, each.sfl.height):
                self._allocator.exchange(0, [ref.blkno for ref in file.refs(level)])
            self._allocator.exchange(0, [each.sfl.ref.blkno])
        return True

    def _file(self, each: Any) -> SearchFile:
        file = SearchFile(self._reader, SrchFile.build(each.sfl))
        file.check()
        return file


def _without_pairs(entries: Iterable[Entry]) -> Iterator[Entry]:
    """Yield sorted entries; two equal ones are nothing: an attribute was made and removed."""
    pending: Entry | None = None
    for entry in entries:
        if pending == entry:
            pending = None
        else:
            if pending is not None:
                yield pending
            pending = entry
    if pending is not None:
        yield pending
