"""Quorum: slots in the super block, and the block in which a slot records its events (spec 02 §2, §5)."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Any

from construct import Array, Bytes, Container, Int16ul, Int32ul, Int64ul, Padding, Struct

from format.block import (
    QUORUM_BLKNO,
    QUORUM_MAX_SLOTS,
    SMALL_BLOCK_SIZE,
    BlockHeader,
    FormatError,
    Magic,
    build,
    seal,
    verify_block,
)
from format.checksum import Buffer
from format.timespec import Timespec


class AddressFamily(IntEnum):
    """`family` of an address: only IPV4 makes a slot present (spec 01 §3.2)."""

    NONE = 0
    IPV4 = 1
    IPV6 = 2


InetAddr4 = Struct("family" / Int16ul, "port" / Int16ul, "addr" / Int32ul, "garbage" / Bytes(24))
"""IPv4 form of the 32-byte address union; the last 24 bytes mean nothing (spec 01 §3.2)."""

InetAddr6 = Struct(
    "family" / Int16ul,
    "port" / Int16ul,
    "addr" / Bytes(16),
    "flow_info" / Int32ul,
    "scope_id" / Int32ul,
    "pad" / Padding(4),
)
"""IPv6 form of the union: reserved, recognised and refused."""

QuorumConfigStruct = Struct("version" / Int64ul, "slots" / Array(QUORUM_MAX_SLOTS, InetAddr4))
"""488 bytes at offset 112 of the super block (spec 01 §3.3)."""

QuorumBlockEvent = Struct("write_nr" / Int64ul, "rid" / Int64ul, "term" / Int64ul, "ts" / Timespec)

QuorumBlockStruct = Struct("hdr" / BlockHeader, "write_nr" / Int64ul, "events" / Array(6, QuorumBlockEvent))
"""The first 280 bytes of a quorum block (spec 01 §3.4)."""


class Event(IntEnum):
    """What a slot's block records (spec 02 §5.3), in the order on disk."""

    BEGIN = 0
    TERM = 1
    ELECT = 2
    FENCE = 3
    STOP = 4
    END = 5


@dataclass(frozen=True, slots=True)
class SlotAddress:
    """Where a slot's agent (UDP) and server (TCP) listen: dotted quad and port."""

    address: str
    port: int

    def __str__(self) -> str:
        return f"{self.address}:{self.port}"


@dataclass(frozen=True, slots=True)
class QuorumConfig:
    """The quorum slots of a volume: only present slots are in `slots`, by slot number, ascending.

    `ipv6_slots` are slots whose address has the reserved IPv6 form: members refuse such a volume (spec 02 §2.1).
    """

    version: int
    slots: Mapping[int, SlotAddress]
    ipv6_slots: tuple[int, ...] = ()

    @property
    def votes_needed(self) -> int:
        """Votes that make a leader, own vote included (spec 02 §2.3)."""
        return 1 if len(self.slots) < 3 else len(self.slots) // 2 + 1


def address_from_struct(parsed: Container[Any]) -> SlotAddress | None:
    """Return the address of a parsed `InetAddr4`, None unless its family is IPv4."""
    if parsed.family != AddressFamily.IPV4:
        return None
    return SlotAddress(str(ipaddress.IPv4Address(parsed.addr)), parsed.port)


def address_to_struct(address: SlotAddress | None) -> dict[str, Any]:
    """Return what builds an `InetAddr4`; None builds an absent one.  Raises FormatError for a bad address or port."""
    if address is None:
        return {"family": AddressFamily.NONE, "port": 0, "addr": 0, "garbage": bytes(24)}
    try:
        number = int(ipaddress.IPv4Address(address.address))
    except ValueError as error:
        raise FormatError(f"'{address.address}' is not an IPv4 address") from error
    if not 0 <= address.port <= 65535:
        raise FormatError(f"port {address.port} is not between 0 and 65535")
    return {"family": AddressFamily.IPV4, "port": address.port, "addr": number, "garbage": bytes(24)}


def config_from_struct(parsed: Container[Any]) -> QuorumConfig:
    """Return the typed form of a parsed `QuorumConfigStruct`."""
    slots = {nr: address for nr, slot in enumerate(parsed.slots) if (address := address_from_struct(slot))}
    ipv6 = tuple(nr for nr, slot in enumerate(parsed.slots) if slot.family == AddressFamily.IPV6)
    return QuorumConfig(parsed.version, slots, ipv6)


def config_to_struct(config: QuorumConfig) -> dict[str, Any]:
    """Return what builds a `QuorumConfigStruct`, with zeros behind each address."""
    return {
        "version": config.version,
        "slots": [address_to_struct(config.slots.get(nr)) for nr in range(QUORUM_MAX_SLOTS)],
    }


@dataclass(frozen=True, slots=True)
class EventRecord:
    """One event of a quorum block; all zero if it never happened.

    `ts` is nanoseconds of the writing host's monotonic clock: informational, never compare it.
    """

    write_nr: int = 0
    rid: int = 0
    term: int = 0
    ts: int = 0


_NEVER = EventRecord()


@dataclass(frozen=True, slots=True)
class QuorumBlock:
    """The decoded block of one slot (spec 02 §5.1)."""

    fsid: int
    slot: int
    write_nr: int = 0
    events: Mapping[Event, EventRecord] = field(default_factory=dict)
    seq: int = 1

    def event(self, event: Event) -> EventRecord:
        """Return the record of `event`, a zero one if it never happened."""
        return self.events.get(event, _NEVER)

    @property
    def greatest_term(self) -> int:
        """Greatest term of the events that a mount wrote, 0 if there are none (spec 02 §4.2)."""
        return max((record.term for record in self.events.values() if record.rid), default=0)

    @property
    def leader(self) -> EventRecord | None:
        """The ELECT record if its server may still run: ELECT.term > STOP.term (spec 02 §5.3)."""
        elect = self.event(Event.ELECT)
        return elect if elect.term > self.event(Event.STOP).term else None

    @property
    def agent_may_run(self) -> bool:
        """BEGIN.write_nr > END.write_nr: what offline tools ask."""
        return self.event(Event.BEGIN).write_nr > self.event(Event.END).write_nr

    def updated(self, event: Event, rid: int, term: int, ts: int) -> QuorumBlock:
        """Return the block with `event` written once more (spec 02 §5.2)."""
        write_nr = self.write_nr + 1
        record = EventRecord(write_nr, rid, term, ts)
        return replace(self, write_nr=write_nr, events={**self.events, event: record})

    @classmethod
    def parse(cls, data: Buffer, *, fsid: int, slot: int) -> QuorumBlock:
        """Decode the 4096 bytes of the block of `slot`; raises BlockError (crc, magic, fsid, blkno in this order)."""
        what = f"quorum block {QUORUM_BLKNO + slot}"
        verify_block(what, data, SMALL_BLOCK_SIZE, Magic.QUORUM, fsid=fsid, blkno=QUORUM_BLKNO + slot)
        parsed = QuorumBlockStruct.parse(bytes(data))
        events = {
            event: EventRecord(record.write_nr, record.rid, record.term, record.ts.sec * 1_000_000_000 + record.ts.nsec)
            for event, record in zip(Event, parsed.events, strict=True)
        }
        never = {event: record for event, record in events.items() if record != _NEVER}
        return cls(fsid, slot, parsed.write_nr, never, parsed.hdr.seq)

    def build(self) -> bytes:
        """Encode the block: 4096 bytes with a valid checksum.  Raises FormatError for a number out of range."""
        events = []
        for event in Event:
            record = self.event(event)
            sec, nsec = divmod(record.ts, 1_000_000_000)
            ts = {"sec": sec, "nsec": nsec}
            events.append({"write_nr": record.write_nr, "rid": record.rid, "term": record.term, "ts": ts})
        header = {
            "crc": 0,
            "magic": Magic.QUORUM,
            "fsid": self.fsid,
            "seq": self.seq,
            "blkno": QUORUM_BLKNO + self.slot,
        }
        fields = {"hdr": header, "write_nr": self.write_nr, "events": events}
        return seal(build(QuorumBlockStruct, fields, f"quorum block {header['blkno']}"), SMALL_BLOCK_SIZE)
