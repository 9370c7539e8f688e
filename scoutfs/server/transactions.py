"""GET_LOG_TREES: a mount gets its next transaction, and now and then a merge begins with that (spec 03 §8.2, §8.5).

Each step is a change of its own.  Between two of them, nothing of what the mount is to get is known to anybody.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from enum import Enum, auto

from format.alloc import AllocFlag
from format.logs import LogTrees
from scoutfs.metadata.commit import ServerVolume
from scoutfs.server.items import Refused
from scoutfs.server.log_merge import read_status, start_merge
from scoutfs.server.log_trees import (
    finalize,
    is_finalized,
    is_open,
    newest_of_each,
    next_trees,
    open_transaction,
)
from scoutfs.server.mounted_clients import is_recorded

LEVELS_OF_LARGE_TREE = 2
"""A log tree that is higher is finalized."""


class Next(Enum):
    """What comes after a step."""

    ANSWER = auto()
    """`Opened.item` is what the mount gets, once its `data_freed` is empty."""
    AGAIN = auto()
    """The same step once more."""
    WAIT = auto()
    """The same step, when mounts that are asked to commit have done so, or it takes too long."""


@dataclass(frozen=True, slots=True)
class Opened:
    """The outcome of a step; `active` are the mounts to wait for, each with the seq of its transaction."""

    next: Next
    item: bytes = b""
    active: tuple[tuple[int, int], ...] = ()


def get_log_trees(volume: ServerVolume, rid: int, clients: int, *, patient: bool) -> Opened:
    """Take one step; `patient` says that other mounts may be waited for.  Raises Refused (EINVAL)."""
    newest = newest_of_each(volume)
    ours = newest.get(rid)
    if ours is not None and ours.get_trans_seq < ours.commit_trans_seq:
        text = f"transaction {ours.get_trans_seq} of mount {rid:016x} was committed as {ours.commit_trans_seq}"
        raise Refused(text, errno.EINVAL)
    if ours is not None and not is_finalized(ours) and is_open(ours):
        return Opened(Next.ANSWER, LogTrees.build(ours))
    if read_status(volume) is None:
        active = {other: trees for other, trees in newest.items() if other != rid and not is_finalized(trees)}
        for other, trees in active.items():
            if not is_recorded(volume, other):
                finalize(volume, trees, reclaim=True)
                return Opened(Next.AGAIN)
        is_ours_active = ours is not None and not is_finalized(ours)
        if any(map(is_finalized, newest.values())) or (is_ours_active and _is_large(ours)):
            waiting = tuple((other, trees.get_trans_seq) for other, trees in active.items())
            if is_ours_active:
                is_done = finalize(volume, ours)
                return Opened(Next.WAIT if is_done and waiting and patient else Next.AGAIN, active=waiting)
            if waiting and patient:
                return Opened(Next.WAIT, active=waiting)
            if not waiting:
                start_merge(volume)
    if ours is None or is_finalized(ours):
        ours = next_trees(rid, ours)
    return Opened(Next.ANSWER, open_transaction(volume, ours, clients))


def _is_large(trees: object) -> bool:
    root, head = trees.item_root, trees.meta_avail  # type: ignore[attr-defined]
    return bool(root.height > LEVELS_OF_LARGE_TREE or head.flags & AllocFlag.LOW)
