"""What the quorum blocks of a volume say about its leaders (spec 02 §4.2, §5.3 to §5.5).  Pure.

Every function takes the blocks of the present slots by slot number; None stands for a block that could not be read or
verified.  Only terms are compared: never rids, times or the order of writes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from format.quorum import Event, EventRecord, QuorumBlock

Blocks = Mapping[int, QuorumBlock | None]


class Leader(NamedTuple):
    """A mount that was elected: its slot, the term and its rid."""

    slot: int
    term: int
    rid: int


def greatest_term(blocks: Blocks) -> int:
    """Return the greatest term that any mount recorded, 0 on a new volume; unreadable blocks are skipped (§4.2)."""
    return max((block.greatest_term for block in blocks.values() if block is not None), default=0)


def greatest_fence(blocks: Blocks) -> int:
    """Return the greatest FENCE term: every leader of a smaller term is fenced already (§5.3)."""
    return max((block.event(Event.FENCE).term for block in blocks.values() if block is not None), default=0)


def find_server(blocks: Blocks) -> Leader | None:
    """Return the leader whose server may run: the greatest ELECT that is neither stopped nor fenced (§5.4).

    Of equal terms the lowest slot wins.  A leader with a term below the greatest FENCE was fenced: its record stays on
    disk for ever, and the original takes it for a server at every cold start.
    """
    fenced_below = greatest_fence(blocks)
    found: Leader | None = None
    for slot, block in sorted(blocks.items()):
        elect = block.leader if block is not None else None
        if elect is None or elect.term < fenced_below:
            continue
        if found is None or elect.term > found.term:
            found = Leader(slot, elect.term, elect.rid)
    return found


def expects_leader(blocks: Blocks, own_slot: int | None) -> bool:
    """Whether the blocks show a leader whose heartbeats an agent should wait for at its start (§4.2).

    That is never the previous mount of `own_slot`.  Without `own_slot` every leader that did not stop is awaited, as by
    the original: one of our own slot, and those that were fenced.
    """
    if own_slot is None:
        return any(block is not None and block.leader is not None for block in blocks.values())
    leader = find_server(blocks)
    return leader is not None and leader.slot != own_slot


def may_have_started_in(blocks: Blocks, term: int, own_slot: int) -> bool:
    """Whether another member that may run started in `term` or later: until a greater term it does not vote."""
    return any(
        block is not None and slot != own_slot and block.agent_may_run and block.event(Event.BEGIN).term >= term
        for slot, block in blocks.items()
    )


def fenced_rids(blocks: Blocks) -> set[int]:
    """Return the mounts that led, never stopped, and were fenced by a later leader: they must not be let in again."""
    fenced_below = greatest_fence(blocks)
    return {
        record.rid
        for block in blocks.values()
        if block is not None
        for record in _unstopped_records(block)
        if 0 < record.term < fenced_below
    }


def previous_leaders(
    blocks: Blocks, rid: int, term: int, overwritten: Iterable[tuple[int, EventRecord]] = ()
) -> list[Leader]:
    """Return whom the server of `term` of the mount `rid` must see fenced before it reads anything (§5.5).

    In slot order; a rid is named once.  `overwritten` are (slot, record) that a new ELECT has replaced in a block
    since: the previous mount of our own slot may have led without having written FENCE (remedy W5).
    Unreadable blocks are the caller's to refuse: they may hide a leader.
    """
    fenced_below = greatest_fence(blocks)
    records: list[tuple[int, EventRecord]] = []
    for slot, block in sorted(blocks.items()):
        if block is not None:
            records += [(slot, record) for record in _unstopped_records(block)]
    records += overwritten
    found: dict[int, Leader] = {}
    for slot, record in records:
        if record.term == 0 or record.term < fenced_below or record.term > term or record.rid == rid:
            continue
        found.setdefault(record.rid, Leader(slot, record.term, record.rid))
    return list(found.values())


def later_leader(blocks: Blocks, term: int) -> Leader | None:
    """Return a leader of a greater term than ours whose server may run: ours must not (remedy W2).

    A FENCE of a greater term says the same of a leader that has stopped since: what it did, we have not read.
    """
    found: Leader | None = None
    for slot, block in sorted(blocks.items()):
        if block is None:
            continue
        for record in (block.leader, block.event(Event.FENCE)):
            if record is not None and record.term > term and (found is None or record.term > found.term):
                found = Leader(slot, record.term, record.rid)
    return found


def _unstopped_records(block: QuorumBlock) -> list[EventRecord]:
    """The latest leader of a slot if it did not stop, and an earlier one of the slot that fenced and never stopped."""
    elect, fence, stop = block.event(Event.ELECT), block.event(Event.FENCE), block.event(Event.STOP)
    records = []
    if elect.term > stop.term:
        records.append(elect)
    if stop.term < fence.term < elect.term:
        records.append(fence)
    return records
