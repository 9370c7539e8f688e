"""A mount's part in merging log trees: the items of a request go into a copy of a part of the tree (spec 04 §12.2)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from format.block import LARGE_BLOCK_SIZE
from format.keys import Key
from format.logs import LogMergeComplete, LogMergeRequest, MergeCompleteFlag, MergeRequestFlag
from scoutfs.errors import ScoutfsError
from scoutfs.metadata.allocator import ListAllocator
from scoutfs.metadata.block_lists import ListHead
from scoutfs.metadata.blocks import BlockReader
from scoutfs.metadata.btree import Btree, Root
from scoutfs.metadata.btree_writer import BtreeWriter
from scoutfs.metadata.log_trees import read_log_trees
from scoutfs.metadata.merge import merge
from scoutfs.metadata.writer import BlockWriter
from scoutfs.storage.device import Device

DIRTY_MAX = 64 << 20
"""Bytes of changed blocks with which a part ends, and leaves the rest to another one."""

_BLOCKS_OF_STEP = 10


def merge_part(
    device: Device, fsid: int, request: bytes, new_seq: Callable[[], int], log: Callable[[str], None]
) -> bytes:
    """Do what a `LogMergeRequest` of 208 bytes asks for; return the `LogMergeComplete` to answer it with.

    Blocks on the metadata device; what was written is on stable storage then.  An error is part of the answer, and
    told to `log`; nothing that was written counts then.
    """
    asked = LogMergeRequest.parse(request)
    answer = {name: asked[name] for name in ("meta_avail", "meta_freed", "root", "start", "end", "rid", "seq")}
    answer |= {"remain": asked.end, "flags": 0}
    try:
        answer |= _merged(device, fsid, asked, new_seq)
    except ScoutfsError as error:
        log(f"merging log trees failed: {error}")
        answer["flags"] = int(MergeCompleteFlag.ERROR)
    return LogMergeComplete.build(answer)


def _merged(device: Device, fsid: int, asked: Any, new_seq: Callable[[], int]) -> dict[str, Any]:
    reader = BlockReader(device, fsid)
    writer = BlockWriter(reader, new_seq)
    avail, freed = ListHead.of(asked.meta_avail), ListHead.of(asked.meta_freed)
    allocator = ListAllocator(writer, avail, freed, device.size // LARGE_BLOCK_SIZE)
    tree = BtreeWriter(writer, allocator, Root.of(asked.root))
    inputs = [
        Btree(reader, log.item_root)
        for log in read_log_trees(reader, Root.of(asked.logs_root))
        if log.finalized and log.finalize_seq < asked.input_seq and log.item_root.ref.blkno
    ]

    def may_go_on() -> bool:
        return writer.dirty_bytes < DIRTY_MAX and not allocator.is_low(_BLOCKS_OF_STEP)

    first, last = _sort_form(asked.start), _sort_form(asked.end)
    subtree = bool(asked.flags & MergeRequestFlag.SUBTREE)
    remain = merge(tree, inputs, first, last, subtree=subtree, may_go_on=may_go_on)
    avail, freed = allocator.prepare()
    writer.write()
    device.flush()
    done: dict[str, Any] = {
        "meta_avail": avail.fields(),
        "meta_freed": freed.fields(),
        "root": tree.root.fields(),
    }
    if remain is not None:
        key = Key.from_sort_bytes(remain)
        names = ("first", "second", "third", "fourth", "zone", "type")
        done |= {"remain": {name: getattr(key, name) for name in names}, "flags": int(MergeCompleteFlag.REMAIN)}
    return done


def _sort_form(key: Any) -> bytes:
    return Key(key.zone, key.first, key.type, key.second, key.third, key.fourth).sort_bytes
