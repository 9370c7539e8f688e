"""The blocks of the quorum slots (spec 02 §5), and the slots (spec 02 §2.2)."""

from __future__ import annotations

from format.block import QUORUM_MAX_SLOTS, BlockError
from format.quorum import Event, QuorumBlock, QuorumConfig
from scoutfs.errors import ScoutfsError
from scoutfs.fsck.kinds import Kind
from scoutfs.fsck.report import Report
from scoutfs.quorum.slots import verify_slots
from scoutfs.storage.device import Device, DeviceError
from scoutfs.storage.volume import read_quorum_block


def check_config(config: QuorumConfig, report: Report) -> None:
    """Check that a member could run in each slot."""
    try:
        verify_slots(config, min(config.slots, default=0))
    except ScoutfsError as error:
        report.add(Kind.QUORUM_CONFIG, "super block", problem=str(error))


def check_blocks(meta: Device, fsid: int, config: QuorumConfig, report: Report) -> None:
    """Check the blocks of all slots, whether the slots are in use or not."""
    for slot in range(QUORUM_MAX_SLOTS):
        where = f"quorum slot {slot}"
        try:
            block = read_quorum_block(meta, fsid, slot)
        except (BlockError, DeviceError) as error:
            # The next to write it may just have been half done.
            try:
                block = read_quorum_block(meta, fsid, slot)
            except (BlockError, DeviceError):
                report.add(Kind.QUORUM_BLOCK_DAMAGED, where, problem=str(error))
                continue
        _check_events(block, where, report)
        if block.agent_may_run and slot in config.slots:
            report.add(Kind.QUORUM_SLOT_USED, where, rid=block.event(Event.BEGIN).rid)


def _check_events(block: QuorumBlock, where: str, report: Report) -> None:
    greatest = max((record.write_nr for record in block.events.values()), default=0)
    if greatest != block.write_nr:
        text = f"write_nr is {block.write_nr}, the last event has {greatest}"
        report.add(Kind.QUORUM_BLOCK_EVENTS, where, problem=text)
    began = max(block.event(Event.BEGIN).term, block.event(Event.TERM).term)
    for event in (Event.ELECT, Event.FENCE, Event.STOP):
        term = block.event(event).term
        if term > began:
            text = f"{event.name} is of term {term}, later than {began}, the last term of the slot"
            report.add(Kind.QUORUM_BLOCK_EVENTS, where, problem=text)
