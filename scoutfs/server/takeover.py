"""What a new server does before anything else: it sees every previous leader fenced (spec 02 §5.5).

Stricter than the original where the wire allows it: a later leader that appears meanwhile ends the start (W2), a
request that failed fails the start (W3), and a leader of our own slot is never given up (W4): the STOP that would
follow would hide its record from every later leader.  And kinder: a leader that may live gets a moment to stop by
itself, since two members that stand together can lead one after the other without any fault.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

import trio

from format.block import BlockError
from format.quorum import Event, EventRecord, QuorumBlock, QuorumConfig
from scoutfs.counters import Counters
from scoutfs.errors import ScoutfsError
from scoutfs.paths import mount_name
from scoutfs.quorum.fencing import LEADERS_TIMEOUT, FenceError, FenceReason, FenceRequests, FenceTimeout
from scoutfs.quorum.leaders import Leader, later_leader, previous_leaders
from scoutfs.storage.volume import Volume

STOPPING_PATIENCE = 0.5
"""Seconds that a leader gets to record its STOP before it is fenced, unless it is known to be dead."""

_STOPPING_POLL = 0.05

RETRY_PAUSE = 5.0
"""Seconds before a leader of our own slot that could not be fenced is asked for again."""

Log = Callable[[int, str], None]
Blocks = dict[int, QuorumBlock]
ReadBlocks = Callable[[], Awaitable[Blocks]]


@dataclass(frozen=True, slots=True)
class Leadership:
    """Who starts a server; `overwritten` are (slot, ELECT record) that the slot's block no longer shows."""

    slot: int
    rid: int
    term: int
    overwritten: tuple[tuple[int, EventRecord], ...] = ()


def read_all_blocks(volume: Volume, slots: Iterable[int]) -> Blocks:
    """Read the quorum blocks of `slots`, blocking.  Raises ScoutfsError (EIO) if one fails: it might hide a leader."""
    blocks: Blocks = {}
    for slot, block in volume.read_quorum_blocks(slots).items():
        if isinstance(block, (ScoutfsError, BlockError)):
            raise ScoutfsError(f"error reading quorum block of slot {slot}: {block}", errno.EIO) from block
        blocks[slot] = block
    return blocks


async def fence_previous_leaders(
    us: Leadership,
    config: QuorumConfig,
    fsid: int,
    read_blocks: ReadBlocks,
    fences: FenceRequests,
    log: Log,
    counters: Counters,
    *,
    stopping_patience: float = STOPPING_PATIENCE,
) -> Blocks:
    """Return the quorum blocks once every leader before us is fenced and none after us is recorded.

    Nothing else of the volume may be read before.  Leaders get `stopping_patience` seconds to stop by themselves.
    Raises ScoutfsError: EIO for a block or a fence request that failed, ETIMEDOUT for one that was not answered, ESTALE
    when there is a later leader.
    """
    asked: set[int] = set()
    unfenced: list[Leader] = []
    patience_ends = trio.current_time() + stopping_patience
    while True:
        blocks = await read_blocks()
        later = later_leader(blocks, us.term)
        if later is not None:
            text = f"slot {later.slot} has recorded a leader of term {later.term}, ours is {us.term}"
            raise ScoutfsError(text, errno.ESTALE)
        leaders = [
            leader for leader in previous_leaders(blocks, us.rid, us.term, us.overwritten) if leader.rid not in asked
        ]
        if not leaders and not unfenced:
            return blocks
        stopping = set()
        if trio.current_time() < patience_ends:
            stopping = {leader for leader in leaders if await _may_stop(us, leader, blocks, fences)}
        for leader in leaders:
            if leader in stopping:
                continue
            address = config.slots[leader.slot]
            name = mount_name(fsid, leader.rid)
            text = f"at term {leader.term} in slot {leader.slot} with address {address}"
            log(logging.INFO, f"fencing previous leader {name} {text}")
            counters.add("quorum_fence_leader")
            fences.start(leader.rid, address.address, FenceReason.QUORUM_BLOCK_LEADER)
            asked.add(leader.rid)
            unfenced.append(leader)
        if stopping:
            await trio.sleep(_STOPPING_POLL)
        else:
            await _until_fenced(us, unfenced, config, fences, log, counters)
            unfenced = []


async def _may_stop(us: Leadership, leader: Leader, blocks: Blocks, fences: FenceRequests) -> bool:
    """Whether a leader may still record its STOP: its block is its own, and it is not known to be dead."""
    owns_block = leader.slot != us.slot and blocks[leader.slot].event(Event.BEGIN).rid == leader.rid
    return owns_block and not await fences.is_dead(leader.rid)


async def _until_fenced(
    us: Leadership, leaders: list[Leader], config: QuorumConfig, fences: FenceRequests, log: Log, counters: Counters
) -> None:
    while True:
        started = trio.current_time()
        try:
            await fences.wait_all(LEADERS_TIMEOUT)
            return
        except (FenceError, FenceTimeout) as error:
            views = fences.pending()
            unfenced = {view.rid for view in views if view.error or not view.fenced}
            if not unfenced:
                return  # the last one was fenced as the time ran out
            counters.add("quorum_fence_error")
            hidden = [leader for leader in leaders if leader.slot == us.slot and leader.rid in unfenced]
            if not hidden:
                raise
            names = ", ".join(f"{leader.rid:016x} of term {leader.term}" for leader in hidden)
            log(
                logging.ERROR,
                f"{error}: trying again, since an earlier mount of this slot, rid {names}, may still lead and giving "
                "up would hide it from every later leader: make sure that it is dead, then write to its 'fenced' file",
            )
        with trio.move_on_at(started + RETRY_PAUSE):
            while any(view.error or not view.fenced for view in fences.pending()):
                await fences.changed()
        failed = {view.rid for view in fences.pending() if view.error}
        for leader in leaders:
            if leader.rid in failed:
                fences.remove(leader.rid)
                fences.start(leader.rid, config.slots[leader.slot].address, FenceReason.QUORUM_BLOCK_LEADER)
