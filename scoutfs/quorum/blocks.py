"""The quorum block of a slot as its agent updates it (spec 02 §5.2)."""

from __future__ import annotations

import errno
import time

from format.block import QUORUM_BLKNO, BlockError
from format.quorum import Event, QuorumBlock
from scoutfs.errors import ScoutfsError
from scoutfs.storage.volume import Volume

_U64_MAX = 2**64 - 1


class QuorumBlockError(ScoutfsError):
    """The block of a slot could not be read, verified or written (EIO, or the errno of the device)."""


def update_block(volume: Volume, slot: int, event: Event, rid: int, term: int, *, named: int = 0) -> QuorumBlock:
    """Record `event` with `term` in the block of `slot` for the mount `rid`; durable when it returns.  Blocks.

    Reads, verifies, changes and writes the block.  The time recorded is this host's monotonic clock.  Every event but
    BEGIN asks that the slot is still ours: that its BEGIN has our rid.  The record names `named` if that is not 0: a
    mount that led in this slot before us.  Raises QuorumBlockError.
    """
    what = f"quorum block {QUORUM_BLKNO + slot} of slot {slot} for event {event.name} of term {term}"
    try:
        block = volume.read_quorum_block(slot)
    except (ScoutfsError, BlockError) as error:
        raise QuorumBlockError(f"error reading {what}: {error}", _errno_of(error)) from error
    begun_by = block.event(Event.BEGIN).rid
    if event is not Event.BEGIN and begun_by != rid:
        raise QuorumBlockError(
            f"error updating {what}: it was begun by mount {begun_by:016x}, this is {rid:016x}: "
            "are several mounts configured with this slot?",
            errno.EIO,
        )
    if block.write_nr >= _U64_MAX or not 0 <= term <= _U64_MAX:
        raise QuorumBlockError(f"error updating {what}: numbers of 64 bits are used up", errno.EIO)
    updated = block.updated(event, named or rid, term, time.monotonic_ns())
    try:
        volume.write_quorum_block(updated)
    except (ScoutfsError, BlockError) as error:
        raise QuorumBlockError(f"error writing {what}: {error}", _errno_of(error)) from error
    return updated


def _errno_of(error: ScoutfsError | BlockError) -> int:
    return error.errno if isinstance(error, ScoutfsError) else errno.EIO
