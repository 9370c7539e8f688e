"""What the metadata device tells of a cluster: slots, their mounts, who may lead, what is wrong (spec 02 §5.3).  Pure.

It is what was recorded, not what is: a member that has lost power looks like one that runs.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from format.quorum import Event, EventRecord, QuorumBlock, QuorumConfig, SlotAddress
from format.superblock import SuperBlock
from scoutfs.errors import ScoutfsError
from scoutfs.quorum.leaders import Leader, find_server, greatest_fence, greatest_term, previous_leaders
from scoutfs.quorum.slots import verify_slots

_ANY_TERM = 2**64 - 1
_NOBODY = 0
_NANOSECONDS = 1_000_000_000


class SlotState(StrEnum):
    """What the block of a slot says of its latest mount, the most important thing first."""

    UNREADABLE = "unreadable"
    UNUSED = "unused"
    SERVER = "server"
    """Its mount was elected, and nothing says that its server has stopped: clients try it."""
    MEMBER = "member"
    """A member may be running that is not the server."""
    FENCED = "fenced"
    """Its mount led, never stopped, and was fenced by a later leader."""
    LEFT = "left"
    """Its mount has left."""


@dataclass(frozen=True, slots=True)
class SlotView:
    """A slot and its block; `error` says why there is no block."""

    slot: int
    address: SlotAddress
    state: SlotState
    block: QuorumBlock | None
    error: str = ""
    fenced_below: int = 0

    @property
    def rid(self) -> int:
        """The mount that began last in the slot, 0 if none ever did."""
        return self.block.event(Event.BEGIN).rid if self.block else 0

    @property
    def agent_may_run(self) -> bool:
        """Whether a member may be running in the slot."""
        return self.block is not None and self.block.agent_may_run and self.state is not SlotState.FENCED

    @property
    def text(self) -> str:
        """What is known of the slot, in words."""
        if self.block is None:
            return f"unreadable: {self.error}"
        if self.state is SlotState.UNUSED:
            return "never used"
        parts = []
        elect = self.block.leader
        if elect is not None:
            who = "" if elect.rid == self.rid else f"earlier mount {elect.rid:016x} "
            if self.state is SlotState.SERVER:
                parts.append(f"{who}leads term {elect.term}, its server may run")
            elif elect.term < self.fenced_below:
                parts.append(f"{who}led term {elect.term}, did not stop, was fenced")
            else:
                parts.append(f"{who}led term {elect.term}, did not stop, is not fenced")
        if not self.block.agent_may_run:
            parts.append("has left")
        elif self.agent_may_run and (elect is None or elect.rid != self.rid or self.state is not SlotState.SERVER):
            parts.append("a member may run")
        return "; ".join(parts)


@dataclass(frozen=True, slots=True)
class Overview:
    """The quorum of a volume as its metadata device tells it.

    `to_fence` are the mounts that a new leader would have to see fenced, the present server among them.  `problems`
    are lines for people; `unreadable` counts present slots without a valid block.
    """

    fsid: int
    uuid: bytes
    config: QuorumConfig
    slots: tuple[SlotView, ...]
    greatest_term: int
    fenced_below: int
    server: Leader | None
    to_fence: tuple[Leader, ...]
    mounts_recorded: bool
    problems: tuple[str, ...]

    @property
    def unreadable(self) -> int:
        """How many slots have no valid block."""
        return sum(slot.state is SlotState.UNREADABLE for slot in self.slots)

    @property
    def members(self) -> tuple[int, ...]:
        """Slots in which a member may be running."""
        return tuple(slot.slot for slot in self.slots if slot.agent_may_run)

    def to_dict(self) -> dict[str, Any]:
        """Return what `--json` prints: rids and fsid as 16 hexadecimal digits, events by name in lower case."""
        return {
            "fsid": f"{self.fsid:016x}",
            "uuid": str(uuid.UUID(bytes=self.uuid)),
            "config_version": self.config.version,
            "votes_needed": self.config.votes_needed,
            "greatest_term": self.greatest_term,
            "fenced_below_term": self.fenced_below,
            "server": self._leader_dict(self.server) if self.server else None,
            "members": list(self.members),
            "to_fence": [self._leader_dict(leader) for leader in self.to_fence],
            "mounts_recorded": self.mounts_recorded,
            "slots": [_slot_dict(slot) for slot in self.slots],
            "problems": list(self.problems),
        }

    def _leader_dict(self, leader: Leader) -> dict[str, Any]:
        address = self.config.slots.get(leader.slot)
        return {
            "slot": leader.slot,
            "term": leader.term,
            "rid": f"{leader.rid:016x}",
            "address": str(address) if address else None,
        }


def overview(super_block: SuperBlock, blocks: Mapping[int, QuorumBlock | str]) -> Overview:
    """Return the overview of a volume; `blocks` has the block of every slot 0..14, or the reason why there is none."""
    config = super_block.quorum_config
    readable = {
        slot: block if isinstance(block, QuorumBlock) else None
        for slot, block in blocks.items()
        if slot in config.slots
    }
    fenced_below = greatest_fence(readable)
    server = find_server(readable)
    slots = tuple(
        _slot_view(slot, address, blocks[slot], server, fenced_below) for slot, address in sorted(config.slots.items())
    )
    return Overview(
        fsid=super_block.fsid,
        uuid=super_block.uuid,
        config=config,
        slots=slots,
        greatest_term=greatest_term(readable),
        fenced_below=fenced_below,
        server=server,
        to_fence=tuple(previous_leaders(readable, _NOBODY, _ANY_TERM)),
        mounts_recorded=super_block.raw.mounted_clients.ref.blkno != 0,
        problems=tuple(_problems(config, slots, blocks)),
    )


def _slot_view(
    slot: int, address: SlotAddress, block: QuorumBlock | str, server: Leader | None, fenced_below: int
) -> SlotView:
    if isinstance(block, str):
        return SlotView(slot, address, SlotState.UNREADABLE, None, block)
    return SlotView(slot, address, _state(slot, block, server, fenced_below), block, "", fenced_below)


def _state(slot: int, block: QuorumBlock, server: Leader | None, fenced_below: int) -> SlotState:
    if not block.events:
        return SlotState.UNUSED
    if server is not None and server.slot == slot:
        return SlotState.SERVER
    elect = block.leader
    if elect is not None and elect.term < fenced_below and elect.rid == block.event(Event.BEGIN).rid:
        return SlotState.FENCED
    return SlotState.MEMBER if block.agent_may_run else SlotState.LEFT


def _problems(config: QuorumConfig, slots: tuple[SlotView, ...], blocks: Mapping[int, QuorumBlock | str]) -> list[str]:
    problems = []
    try:
        verify_slots(config, min(config.slots, default=0))
    except ScoutfsError as error:
        problems.append(f"no member can be mounted: {error}")
    if len(config.slots) == 2:
        problems.append("with two slots each member elects itself: both may lead at once until one fences the other")
    for view in slots:
        if view.block is None:
            problems.append(
                f"slot {view.slot}: its block cannot be used ({view.error}): until that is repaired no server starts, "
                "and clients find none"
            )
            continue
        greatest = max((record.write_nr for record in view.block.events.values()), default=0)
        if view.block.write_nr != greatest:
            problems.append(
                f"slot {view.slot}: its block was written {view.block.write_nr} times, but its last event is {greatest}"
            )
    for slot, block in sorted(blocks.items()):
        if slot not in config.slots and isinstance(block, QuorumBlock) and block.agent_may_run:
            problems.append(f"slot {slot} is not configured, but a member may still be running in it")
    return problems


def _slot_dict(view: SlotView) -> dict[str, Any]:
    block = view.block
    return {
        "slot": view.slot,
        "address": view.address.address,
        "port": view.address.port,
        "state": str(view.state),
        "text": view.text,
        "rid": f"{view.rid:016x}" if view.rid else None,
        "member_may_run": view.agent_may_run,
        "server_may_run": view.state is SlotState.SERVER,
        "write_nr": block.write_nr if block else None,
        "events": {
            event.name.lower(): _event_dict(block.event(event)) for event in Event if block and event in block.events
        },
        "error": view.error or None,
    }


def _event_dict(record: EventRecord) -> dict[str, Any]:
    return {
        "write_nr": record.write_nr,
        "term": record.term,
        "rid": f"{record.rid:016x}",
        "monotonic_seconds": record.ts / _NANOSECONDS,
    }
