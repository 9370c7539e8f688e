"""TCP messages: the header, the greeting and the codes (spec 03 §1, §3.1)."""

from __future__ import annotations

import errno
import struct as _struct
from dataclasses import dataclass
from enum import IntEnum, IntFlag

from construct import Bytes, Int8ul, Int16ul, Int64ul, Padding, Struct

from format.block import FormatError, build

HEADER_SIZE = 32
MAX_DATA_LEN = 1100
RESPONSE = 0x01
"""The only flag of a header."""


class Command(IntEnum):
    """`cmd` of a header (spec 03 §1.2)."""

    GREETING = 0
    ALLOC_INODES = 1
    GET_LOG_TREES = 2
    COMMIT_LOG_TREES = 3
    SYNC_LOG_TREES = 4
    GET_ROOTS = 5
    GET_LAST_SEQ = 6
    LOCK = 7
    LOCK_RECOVER = 8
    SRCH_GET_COMPACT = 9
    SRCH_COMMIT_COMPACT = 10
    GET_LOG_MERGE = 11
    COMMIT_LOG_MERGE = 12
    OPEN_INO_MAP = 13
    GET_VOLOPT = 14
    SET_VOLOPT = 15
    CLEAR_VOLOPT = 16
    RESIZE_DEVICES = 17
    STATFS = 18
    FAREWELL = 19


class NetError(IntEnum):
    """`error` of a header (spec 03 §1.3); an errno without a code travels as EINVAL."""

    NONE = 0
    ENOENT = 1
    ENOMEM = 2
    EIO = 3
    ENOSPC = 4
    EINVAL = 5
    ENOLINK = 6

    @classmethod
    def from_errno(cls, number: int) -> NetError:
        """Return the wire code of a positive errno, 0 for none."""
        if number == 0:
            return cls.NONE
        return cls.__members__.get(errno.errorcode.get(number, ""), cls.EINVAL)

    @property
    def errno(self) -> int:
        """The positive errno, 0 for none."""
        return 0 if self is NetError.NONE else int(getattr(errno, self.name))


class GreetingFlag(IntFlag):
    """`flags` of a greeting."""

    NONE = 0
    FAREWELL = 1
    QUORUM = 2


NetHeader = Struct(
    "seq" / Int64ul,
    "recv_seq" / Int64ul,
    "id" / Int64ul,
    "data_len" / Int16ul,
    "cmd" / Int8ul,
    "flags" / Int8ul,
    "error" / Int8ul,
    "pad" / Padding(3),
)
"""The 32 bytes in front of every payload (spec 03 §1.1)."""

_HEADER = _struct.Struct("<QQQHBBB3x")
"""`NetHeader` again, for every message that comes in: ten times as fast."""

NetGreeting = Struct(
    "fsid" / Int64ul,
    "fmt_vers" / Int64ul,
    "server_term" / Int64ul,
    "rid" / Int64ul,
    "flags" / Int64ul,
)
"""Payload of a greeting and of its response (spec 03 §3.1)."""

NetStatfs = Struct(
    "uuid" / Bytes(16),
    "free_meta_blocks" / Int64ul,
    "total_meta_blocks" / Int64ul,
    "free_data_blocks" / Int64ul,
    "total_data_blocks" / Int64ul,
    "inode_count" / Int64ul,
)
"""Payload of a STATFS response: metadata in 64 KiB, data in 4 KiB blocks (spec 03 §5.4)."""


class NetHeaderError(FormatError):
    """A header that breaks the connection (spec 03 §1.4)."""


@dataclass(frozen=True, slots=True)
class Header:
    """A decoded, valid header.  `data_len` bytes of payload follow it."""

    seq: int
    recv_seq: int
    id: int
    data_len: int
    command: Command
    response: bool = False
    error: NetError = NetError.NONE

    def build(self) -> bytes:
        """Encode the header: 32 bytes.  Raises FormatError for a number out of range."""
        fields = {
            "seq": self.seq,
            "recv_seq": self.recv_seq,
            "id": self.id,
            "data_len": self.data_len,
            "cmd": self.command,
            "flags": RESPONSE if self.response else 0,
            "error": self.error,
        }
        return build(NetHeader, fields, "header")

    @classmethod
    def parse(cls, data: bytes | bytearray | memoryview) -> Header:
        """Decode 32 bytes.  Raises NetHeaderError for what spec 03 §1.4 items 1 to 4 refuse."""
        if len(data) != HEADER_SIZE:
            raise NetHeaderError(f"header of {len(data)} bytes, expected {HEADER_SIZE}")
        seq, recv_seq, id, data_len, cmd, flags, error = _HEADER.unpack(data)
        if seq == 0 or id == 0:
            raise NetHeaderError(f"header with seq {seq} and id {id}: neither may be 0")
        if cmd > Command.FAREWELL:
            raise NetHeaderError(f"unknown command {cmd}")
        if flags & ~RESPONSE:
            raise NetHeaderError(f"unknown flags {flags:#x}")
        if error > NetError.ENOLINK:
            raise NetHeaderError(f"unknown error {error}")
        if data_len > MAX_DATA_LEN:
            raise NetHeaderError(f"payload of {data_len} bytes, at most {MAX_DATA_LEN} are allowed")
        response = bool(flags & RESPONSE)
        if error and not response:
            raise NetHeaderError(f"request with error {error}")
        return cls(seq, recv_seq, id, data_len, Command(cmd), response, NetError(error))


@dataclass(frozen=True, slots=True)
class Greeting:
    """A decoded greeting or greeting response."""

    fsid: int
    fmt_vers: int
    server_term: int
    rid: int
    flags: GreetingFlag = GreetingFlag.NONE

    def build(self) -> bytes:
        """Encode the greeting: 40 bytes.  Raises FormatError for a number out of range."""
        fields = {
            "fsid": self.fsid,
            "fmt_vers": self.fmt_vers,
            "server_term": self.server_term,
            "rid": self.rid,
            "flags": self.flags,
        }
        return build(NetGreeting, fields, "greeting")

    @classmethod
    def parse(cls, data: bytes | bytearray | memoryview) -> Greeting:
        """Decode exactly 40 bytes; unknown flag bits are ignored.  Raises FormatError for another length."""
        if len(data) != NetGreeting.sizeof():
            raise FormatError(f"greeting of {len(data)} bytes, expected {NetGreeting.sizeof()}")
        raw = NetGreeting.parse(bytes(data))
        flags = GreetingFlag(raw.flags & (GreetingFlag.FAREWELL | GreetingFlag.QUORUM))
        return cls(raw.fsid, raw.fmt_vers, raw.server_term, raw.rid, flags)
