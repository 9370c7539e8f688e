"""What mounts that offer to merge are answered (spec 03 §8.14)."""

from __future__ import annotations

import errno

from scoutfs.metadata.btree import FIRST_KEY
from scoutfs.metadata.commit import ServerVolume
from scoutfs.server.items import Refused, sort_form
from scoutfs.server.log_merge import PARTS_MAX, next_request, ranges, read_status, request_of
from scoutfs.server.merge_splicing import splice

AGAIN = b"again"
"""Another change is needed before there is an answer."""


def get_log_merge(volume: ServerVolume, rid: int) -> bytes | None:
    """Return a `LogMergeRequest` of 208 bytes for a mount, None when there is nothing to do now, or `AGAIN`.

    A mount that has one already, and does not know since its answer was lost, gets it once more.  Raises Refused
    (ENOENT) if there is no merge.
    """
    status = read_status(volume)
    if status is None:
        raise Refused("there is no merge", errno.ENOENT)
    known = request_of(volume, rid)
    if known is not None:
        return known
    while True:
        left = ranges(volume)
        next_key = sort_form(status.next_range_key)
        is_any_next = any(first >= next_key for first, _ in left)
        if not status.nr_requests and (not is_any_next or status.nr_complete >= PARTS_MAX):
            splice(volume, status, nothing_left=not left and next_key == FIRST_KEY)
            return AGAIN
        if not is_any_next:
            return None
        request = next_request(volume, rid, status)
        if request is not None or status.nr_requests:
            return request
