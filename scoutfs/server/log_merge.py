"""Merging finalized log trees into the volume's tree: parts given to mounts and taken back (spec 03 §8.5, §8.14,
§8.15; spec 04 §12).

A merge has one status; ranges of keys that nobody works on; requests, each a range and the part of the tree that it is
merged into; and completions, which are put into the tree when no request is out.
"""

from __future__ import annotations

import errno
from typing import Any

from format.keys import Zone
from format.logs import (
    LogMergeComplete,
    LogMergeRange,
    LogMergeRequest,
    LogMergeStatus,
    MergeCompleteFlag,
    MergeRequestFlag,
)
from scoutfs.metadata.btree import FIRST_KEY, LAST_KEY, Btree, Root, after, before
from scoutfs.metadata.btree_writer import ItemExists
from scoutfs.metadata.commit import ServerVolume
from scoutfs.server.client_space import Lists, give_metadata, take_back_lists
from scoutfs.server.items import Refused, merge_key, parsed, range_key, sort_form, stored_key, zone_bounds
from scoutfs.server.log_trees import all_log_trees, is_finalized

PARTS_MAX = 8
"""Requests and completions that there may be at one time."""

STATUS_KEY = merge_key(Zone.LOG_MERGE_STATUS)
_NO_LIST = {"ref": {"blkno": 0, "seq": 0}, "total_nr": 0, "first_nr": 0, "flags": 0}


def read_status(volume: ServerVolume) -> Any | None:
    """Return the parsed status of the merge that runs, None if none does."""
    item = volume.log_merge.lookup(STATUS_KEY)
    return None if item is None else parsed(LogMergeStatus, item, volume)


def store_status(volume: ServerVolume, status: Any) -> None:
    """Write the status of a merge."""
    volume.log_merge.force(STATUS_KEY, LogMergeStatus.build(status))


def start_merge(volume: ServerVolume) -> None:
    """Begin to merge everything that is finalized."""
    insert_range(volume, FIRST_KEY, LAST_KEY)
    status = {"next_range_key": stored_key(FIRST_KEY), "nr_requests": 0, "nr_complete": 0, "seq": volume.next_seq()}
    store_status(volume, status)


def insert_range(volume: ServerVolume, first: bytes, last: bytes) -> None:
    """Add keys that are still to be merged; raises ItemExists if another range has the same key but for its zone."""
    value = LogMergeRange.build({"start": stored_key(first), "end": stored_key(last)})
    volume.log_merge.insert(range_key(first), value)


def ranges(volume: ServerVolume) -> list[tuple[bytes, bytes]]:
    """Return first and last key of all ranges, in ascending order: that of their items is another one."""
    found = (parsed(LogMergeRange, item, volume) for item in volume.log_merge.items(*zone_bounds(Zone.LOG_MERGE_RANGE)))
    return sorted((sort_form(each.start), sort_form(each.end)) for each in found)


def inputs(volume: ServerVolume, status: Any) -> list[Any]:
    """Return the parsed `LogTrees` that a merge works on."""
    return [trees for trees in all_log_trees(volume) if is_finalized(trees) and trees.finalize_seq < status.seq]


def request_of(volume: ServerVolume, rid: int) -> bytes | None:
    """Return the part that a mount has and did not complete: it does not know of it, if it asks for another one."""
    first, last = merge_key(Zone.LOG_MERGE_REQUEST, rid), zone_bounds(Zone.LOG_MERGE_REQUEST, rid)[1]
    item = volume.log_merge.next(first, last)
    if item is None:
        return None
    parsed(LogMergeRequest, item, volume)
    return item.value


def next_request(volume: ServerVolume, rid: int, status: Any) -> bytes | None:
    """Give a mount the next part of a merge; None if there is nothing to do now.  Returns the 208 bytes."""
    trees = [root for each in inputs(volume, status) if (root := Root.of(each.item_root)).height]
    for first, last in ranges(volume):
        if first < sort_form(status.next_range_key):
            continue
        if status.nr_requests + status.nr_complete >= PARTS_MAX:
            return None
        items = (Btree(volume.writer, root).next(first, last) for root in trees)
        key = min((item.key for item in items if item is not None), default=None)
        volume.log_merge.delete(range_key(first))
        if key is not None:
            return _request(volume, rid, status, key, last)
    return None


def _request(volume: ServerVolume, rid: int, status: Any, key: bytes, last: bytes) -> bytes:
    fs_root = volume.fs_root
    part_last = fs_root.parent_range(key)[1]
    end = min(last, part_last)
    if end < last:
        try:
            insert_range(volume, after(end), last)
        except ItemExists:
            # Two ranges whose first keys differ in nothing but their zones have one key: begin this one elsewhere.
            end = before(end) if end > key else end
            insert_range(volume, after(end), last)
    request = LogMergeRequest.parse(bytes(LogMergeRequest.sizeof()))
    lists = Lists(request)
    give_metadata(volume, lists, volume.targets.merge, volume.targets.merge)
    lists.store(request)
    request.logs_root = volume.logs_root.root.fields()
    request.root = fs_root.subtree(key).fields()
    request.start, request.end = stored_key(key), stored_key(end)
    request.input_seq, request.rid, request.seq = status.seq, rid, volume.next_seq()
    request.flags = int(MergeRequestFlag.SUBTREE) if fs_root.root.height > 2 else 0
    value = LogMergeRequest.build(request)
    volume.log_merge.insert(merge_key(Zone.LOG_MERGE_REQUEST, rid, request.seq), value)
    status.next_range_key = stored_key(part_last if part_last == LAST_KEY else after(part_last))
    status.nr_requests += 1
    store_status(volume, status)
    return value


def complete(volume: ServerVolume, rid: int, completed: Any) -> None:
    """Take back a part from a mount; `completed` is a parsed `LogMergeComplete`.  Raises Refused (ENOENT)."""
    status = read_status(volume)
    key = merge_key(Zone.LOG_MERGE_REQUEST, rid, completed.seq)
    item = None if status is None else volume.log_merge.lookup(key)
    if status is None or item is None:
        raise Refused(f"mount {rid:016x} completes part {completed.seq} of a merge, which it has not", errno.ENOENT)
    request = parsed(LogMergeRequest, item, volume)
    if completed.flags & MergeCompleteFlag.ERROR:
        _cancel(volume, status, key, request)
    else:
        if (completed.rid, completed.start, completed.end) != (rid, request.start, request.end):
            raise Refused(f"mount {rid:016x} completes another part of a merge than it was given", errno.EINVAL)
        volume.log_merge.delete(key)
        value = LogMergeComplete.build(completed)
        volume.log_merge.insert(merge_key(Zone.LOG_MERGE_COMPLETE, completed.seq), value)
        status.nr_complete += 1
    status.nr_requests -= 1
    store_status(volume, status)


def cancel_requests(volume: ServerVolume, rid: int) -> None:
    """Give the parts that a mount has to others: it is gone."""
    status = read_status(volume)
    if status is None:
        return
    bounds = zone_bounds(Zone.LOG_MERGE_REQUEST, rid)
    for item in list(volume.log_merge.items(*bounds)):
        _cancel(volume, status, item.key, parsed(LogMergeRequest, item, volume))
        status.nr_requests -= 1
    store_status(volume, status)


def _cancel(volume: ServerVolume, status: Any, key: bytes, request: Any) -> None:
    volume.log_merge.delete(key)
    first, last = sort_form(request.start), sort_form(request.end)
    while True:
        try:
            insert_range(volume, first, last)
            break
        except ItemExists:
            # As in `_request`; it may begin where nothing is to be merged.
            first = before(first)
            if any(Btree(volume.writer, Root.of(trees.item_root)).lookup(first) for trees in inputs(volume, status)):
                raise
    take_back_lists(volume, request)
