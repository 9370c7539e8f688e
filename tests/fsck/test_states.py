"""States of servers' work that no recorded volume is in, made from those that are: none of them is damage."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from format.alloc import AllocListHead, build_list_block
from format.block import Ref, seal
from format.keys import Key, SrchType, Zone
from format.logs import LogMergeComplete, LogMergeFreeing, LogMergeRequest, LogMergeStatus
from format.srch import SrchCompact, SrchCompactFlag, SrchFile, read_entries
from scoutfs.fsck.kinds import Severity
from tests.format.blocks import Given, btree_block
from tests.fsck.corruption import LARGE, SMALL, Corruption

CRASHED = "crash1-D_merge"
NO_KEY = {"first": 0, "second": 0, "third": 0, "fourth": 0, "zone": 0, "type": 0}
NO_REF = {"blkno": 0, "seq": 0}
NO_LIST = {"ref": NO_REF, "total_nr": 0, "first_nr": 0, "flags": 0}
NO_ENTRY = {"hash": 0, "ino": 0, "id": 0}
NO_FILE = {"first": NO_ENTRY, "last": NO_ENTRY, "ref": NO_REF, "blocks": 0, "entries": 0, "height": 0}


def errors(c: Corruption) -> dict[str, list[str]]:
    """The damage that a check finds, by kind."""
    found: dict[str, list[str]] = {}
    for finding in c.check().report.findings():
        if finding.kind.severity is Severity.ERROR:
            found.setdefault(finding.kind.code, []).append(finding.text)
    return found


def take_blocks(c: Corruption, count: int) -> list[int]:
    """Take free blocks from a list of the server."""
    blkno = c.super.server_meta_avail[0].ref.blkno
    start, nr = struct.unpack_from("<II", c.block(blkno), 48)
    taken = struct.unpack_from(f"<{count}Q", c.block(blkno), 56 + 8 * start)
    c.poke(blkno, 48, "II", start + count, nr - count)

    def forget(parsed: Any) -> None:
        head = parsed.server_meta_avail[0]
        head.total_nr, head.first_nr = head.total_nr - count, head.first_nr - count

    c.change_super(forget)
    return list(taken)


def put_list(c: Corruption, blkno: int, entries: list[int]) -> dict[str, Any]:
    """Write a list block; return the head of its list."""
    c.meta.write(blkno * LARGE, build_list_block(c.super.hdr.fsid, Ref(blkno, 5), entries))
    return {"ref": {"blkno": blkno, "seq": 5}, "total_nr": len(entries), "first_nr": len(entries), "flags": 0}


def count_merge(c: Corruption, field: str) -> None:
    """Count one more request or completion in the status of the merge."""
    key, root = Key(Zone.LOG_MERGE_STATUS), c.super.log_merge
    parsed = LogMergeStatus.parse(c.items(root)[key].value)
    parsed[field] += 1
    c.put(key, LogMergeStatus.build(parsed), root, seq=0)


def test_a_merged_subtree_that_is_not_spliced_yet():
    # The client has replaced the only leaf: the old one is freed, and still part of the volume's tree.
    c = Corruption(CRASHED)
    old = c.super.fs_root.ref.blkno
    leaf, freed, avail, spare = take_blocks(c, 4)
    items = [Given(key, stored.value, stored.seq) for key, stored in c.items().items()]
    c.meta.write(leaf * LARGE, seal(btree_block(0, items, fsid=c.super.hdr.fsid, blkno=leaf, seq=5), LARGE))
    fields = {
        "meta_avail": put_list(c, avail, [spare]),
        "meta_freed": put_list(c, freed, [old]),
        "root": {"ref": {"blkno": leaf, "seq": 5}, "height": 1},
        "start": NO_KEY,
        "end": NO_KEY,
        "remain": NO_KEY,
        "rid": 7,
        "seq": 9,
        "flags": 0,
    }
    c.put(Key(Zone.LOG_MERGE_COMPLETE, 9), LogMergeComplete.build(fields), c.super.log_merge, seq=0)
    count_merge(c, "nr_complete")
    assert errors(c) == {}


def test_a_merge_that_a_client_works_on():
    c = Corruption(CRASHED)
    avail, spare = take_blocks(c, 2)
    root = c.super.fs_root
    fields = {
        "meta_avail": put_list(c, avail, [spare]),
        "meta_freed": NO_LIST,
        "logs_root": {"ref": {"blkno": 77, "seq": 1}, "height": 1},
        "root": {"ref": {"blkno": root.ref.blkno, "seq": root.ref.seq}, "height": root.height},
        "start": NO_KEY,
        "end": NO_KEY,
        "input_seq": 5,
        "rid": 7,
        "seq": 9,
        "flags": 0,
    }
    c.put(Key(Zone.LOG_MERGE_REQUEST, 7, 0, 9), LogMergeRequest.build(fields), c.super.log_merge, seq=0)
    count_merge(c, "nr_requests")
    assert errors(c) == {}


@pytest.mark.parametrize("progress", [False, True])
def test_a_merged_log_tree_that_is_being_freed(progress):
    # Without its items the files do not agree: only who owns which block is looked at.
    c = Corruption(CRASHED)
    log = c.logs()[0]
    bloom = log.bloom_ref.blkno
    first = next(iter(c.items(log.item_root).values())).blkno
    bound = next(key for key, stored in c.items(log.item_root).items() if stored.blkno != first)
    c.remove(next(iter(c.items(c.super.logs_root))), c.super.logs_root)
    key = {**NO_KEY, **{name: getattr(bound, name) for name in NO_KEY}} if progress else NO_KEY
    fields = {"root": log.item_root, "key": key, "seq": 9}
    c.put(Key(Zone.LOG_MERGE_FREEING, 9), LogMergeFreeing.build(fields), c.super.log_merge, seq=0)
    found = errors(c)
    assert "block-shared" not in found
    # The bloom block should have been freed with the item, and leaves in front of the key before it moved on.
    leaked = sorted([bloom, first] if progress else [bloom])
    assert sorted(text.split()[2] for text in found["block-leaked"]) == [str(block) for block in leaked]


def _compaction(c: Corruption, flags: SrchCompactFlag, file: Any, **changes: Any) -> bytes:
    avail, spare = take_blocks(c, 2)
    inputs = [{"sfl": file, "blk": 0, "pos": 0}, *({"sfl": NO_FILE, "blk": 0, "pos": 0} for _ in range(3))]
    fields = {
        "meta_avail": put_list(c, avail, [spare]),
        "meta_freed": NO_LIST,
        "id": 66,
        "nr": 1,
        "flags": flags,
        "out": NO_FILE,
        "in": inputs,
        **changes,
    }
    return bytes(SrchCompact.build(fields))


def _log_file(c: Corruption) -> tuple[Key, Any]:
    key, stored = next(iter(c.items(c.super.srch_root).items()))
    return key, SrchFile.parse(stored.value)


@pytest.mark.parametrize("key", [Key(Zone.SRCH, 0, SrchType.PENDING, 66), Key(Zone.SRCH, 0, SrchType.BUSY, 7, 66)])
def test_a_compaction_whose_inputs_are_still_searched(key):
    c = Corruption(SMALL)
    _, file = _log_file(c)
    c.put(key, _compaction(c, SrchCompactFlag.LOG, file), c.super.srch_root, seq=0)
    assert errors(c) == {}


def test_a_compaction_with_a_part_of_its_output():
    c = Corruption(SMALL)
    _, file = _log_file(c)
    (blkno,) = take_blocks(c, 1)
    data = bytearray(c.block(file.ref.blkno))
    struct.pack_into("<QQ", data, 16, 5, blkno)
    c.meta.write(blkno * LARGE, seal(data, LARGE))
    out = {**file, "ref": {"blkno": blkno, "seq": 5}}
    value = _compaction(c, SrchCompactFlag.SORTED, file, out=out)
    c.put(Key(Zone.SRCH, 0, SrchType.PENDING, 66), value, c.super.srch_root, seq=0)
    assert errors(c) == {}


def test_a_compaction_that_deletes_its_inputs():
    c = Corruption(SMALL)
    key, file = _log_file(c)
    c.remove(key, c.super.srch_root)
    value = _compaction(c, SrchCompactFlag.DELETE, file)
    blkno = c.items(c.super.srch_root)[key].blkno
    c.rewrite(blkno, lambda items: items.update({Key(): Given(Key(Zone.SRCH, 0, SrchType.PENDING, 66), value)}))
    assert set(errors(c)) == {"srch-missing"}


def test_a_sorted_file_below_a_parent():
    c = Corruption(SMALL)
    key, file = _log_file(c)
    (blkno,) = take_blocks(c, 1)
    data = bytearray(c.block(file.ref.blkno))
    # One entry is sorted; the others are then found missing, which is not what this is about.
    entries = [(entry, size) for entry, size in read_entries(data, "")]
    entry, size = entries[0]
    struct.pack_into("<9QII", data, 32, *entry, *entry, *entry, 1, size)
    c.meta.write(file.ref.blkno * LARGE, seal(data, LARGE))
    parent = struct.pack("<IIQQQQQ", 0, 0xB23A2A05, c.super.hdr.fsid, 5, blkno, file.ref.blkno, file.ref.seq)
    c.meta.write(blkno * LARGE, seal(parent, LARGE))
    ends = dict(zip(("hash", "ino", "id"), entry, strict=True))
    new = {**file, "first": ends, "last": ends, "ref": {"blkno": blkno, "seq": 5}, "entries": 1, "height": 2}
    c.remove(key, c.super.srch_root)
    c.put(Key(Zone.SRCH, 0, SrchType.BLOCKS, 1, blkno), SrchFile.build(new), c.super.srch_root, seq=0)
    assert set(errors(c)) <= {"srch-missing"}


def test_a_list_of_several_blocks():
    c = Corruption(SMALL)
    one, other, *entries = take_blocks(c, 6)
    second = put_list(c, other, entries[2:])["ref"]
    data = build_list_block(c.super.hdr.fsid, Ref(one, 5), entries[:2], next=Ref(second["blkno"], second["seq"]))
    c.meta.write(one * LARGE, data)
    head = AllocListHead.parse(AllocListHead.build({**put_list(c, other, entries[2:]), "total_nr": 4, "first_nr": 2}))
    head.ref = {"blkno": one, "seq": 5}
    c.change_super(lambda parsed: parsed.server_meta_freed.__setitem__(0, head))
    assert errors(c) == {}
