"""The 32-byte UDP message of the election (spec 02 §3.1)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from construct import Int8ul, Int32ul, Int64ul, Padding, Struct

from format.block import QUORUM_MAX_SLOTS, FormatError, build
from format.checksum import Buffer, checksum


class MessageType(IntEnum):
    """What a datagram says."""

    REQUEST_VOTE = 0
    VOTE = 1
    HEARTBEAT = 2
    RESIGNATION = 3


QuorumMessage = Struct(
    "fsid" / Int64ul,
    "version" / Int64ul,
    "term" / Int64ul,
    "type" / Int8ul,
    "from" / Int8ul,
    "pad" / Padding(2),
    "crc" / Int32ul,
)

MESSAGE_SIZE = 32
_CRC_OFFSET = 28


class MessageError(FormatError):
    """A datagram that is no message of this volume; `field` says why."""

    def __init__(self, field: str, text: str) -> None:
        self.field = field
        super().__init__(text)


@dataclass(frozen=True, slots=True)
class Message:
    """A message of one member's agent to another's; `sender` is a slot number."""

    term: int
    type: MessageType
    sender: int

    def build(self, fsid: int) -> bytes:
        """Encode the message: 32 bytes.  Raises FormatError for a number out of range."""
        fields = {"fsid": fsid, "version": 0, "term": self.term, "type": self.type, "from": self.sender, "crc": 0}
        body = build(QuorumMessage, fields, "message")[:_CRC_OFFSET]
        return body + checksum(body).to_bytes(4, "little")

    @classmethod
    def parse(cls, datagram: Buffer, fsid: int) -> Message:
        """Decode a datagram: its first 32 bytes count.  Raises MessageError.

        Checks length, crc, fsid, type and sender in this order (spec 02 §3.4); whether the sender's slot is present,
        and whether its address fits, is for the caller to check.
        """
        if len(datagram) < MESSAGE_SIZE:
            raise MessageError("length", f"datagram of {len(datagram)} bytes, a message has {MESSAGE_SIZE}")
        parsed = QuorumMessage.parse(bytes(datagram[:MESSAGE_SIZE]))
        calculated = checksum(datagram[:_CRC_OFFSET])
        if parsed.crc != calculated:
            raise MessageError("crc", f"crc {parsed.crc:08x} != calculated {calculated:08x}")
        if parsed.fsid != fsid:
            raise MessageError("fsid", f"fsid {parsed.fsid:016x} is another volume's")
        if parsed.type > MessageType.RESIGNATION:
            raise MessageError("type", f"unknown message type {parsed.type}")
        if parsed["from"] >= QUORUM_MAX_SLOTS:
            raise MessageError("from", f"sender slot {parsed['from']} is not below {QUORUM_MAX_SLOTS}")
        return cls(parsed.term, MessageType(parsed.type), parsed["from"])
