"""Payloads of TCP messages behind the greeting (spec 03 §4, §5).

Payloads that are stored as well are declared where they are stored: `LogTrees`, `SrchCompact`, `LogMergeRequest`,
`LogMergeComplete`, `VolumeOptions`, `KeyStruct`; the greeting and `NetStatfs` are in `format.net`.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Any

from construct import Array, Bytes, Container, Int8ul, Int16ul, Int64ul, Struct

from format.block import FormatError, build
from format.btree import BtreeRoot
from format.checksum import Buffer
from format.keys import KeyStruct
from format.net import MAX_DATA_LEN

NetCount = Struct("count" / Int64ul)
"""8 bytes: how many inode numbers a client asks for."""

NetSeq = Struct("seq" / Int64ul)
"""8 bytes: the answer to GET_LAST_SEQ."""

NetInodeAlloc = Struct("ino" / Int64ul, "nr" / Int64ul)
"""16 bytes: a range of inode numbers handed out; `nr` 0 for none left."""

NetRoots = Struct("fs_root" / BtreeRoot, "logs_root" / BtreeRoot, "srch_root" / BtreeRoot)
"""72 bytes."""

NetResizeDevices = Struct("new_total_meta_blocks" / Int64ul, "new_total_data_blocks" / Int64ul)
"""16 bytes: 64 KiB and 4 KiB blocks, 0 for no change."""

OpenInoMapArgs = Struct("group_nr" / Int64ul, "req_id" / Int64ul)
"""16 bytes: which 1024 inodes, and the request that is answered."""

OpenInoMap = Struct("args" / OpenInoMapArgs, "bits" / Array(16, Int64ul))
"""144 bytes: a bitmap of the inodes, by their number modulo 1024, that some mount has open."""


class LockMode(IntEnum):
    """Modes of cluster locks."""

    NULL = 0
    READ = 1
    WRITE = 2
    WRITE_ONLY = 3


NetLock = Struct(
    "key" / KeyStruct,
    "write_seq" / Int64ul,
    "old_mode" / Int8ul,
    "new_mode" / Int8ul,
    "garbage" / Bytes(6),
)
"""48 bytes; kernel mounts leave `garbage`, and `write_seq` of requests, uninitialised.  Write zeros."""

NetLockRecover = Struct("nr" / Int16ul, "garbage" / Bytes(6))
"""The 8 bytes in front of `nr` locks."""

LOCK_RECOVER_MAX = (MAX_DATA_LEN - NetLockRecover.sizeof()) // NetLock.sizeof()
"""Locks of one recover response: 22."""


def parse_payload(declaration: Any, data: Buffer, what: str) -> Container[Any]:
    """Parse a payload, which must have exactly the bytes of its declaration.  Raises FormatError naming `what`."""
    if len(data) != declaration.sizeof():
        raise FormatError(f"{what}: payload of {len(data)} bytes, expected {declaration.sizeof()}")
    return declaration.parse(bytes(data))


def parse_lock_recover(data: Buffer) -> list[Container[Any]]:
    """Return the `NetLock`s of a recover response, none when the client has no more.

    Raises FormatError unless their number is at most 22 and fits the length exactly.
    """
    head, size = NetLockRecover.sizeof(), NetLock.sizeof()
    if len(data) < head:
        raise FormatError(f"lock recover payload of {len(data)} bytes, at least {head} are needed")
    nr = NetLockRecover.parse(bytes(data[:head])).nr
    if nr > LOCK_RECOVER_MAX or len(data) != head + size * nr:
        raise FormatError(f"lock recover payload of {len(data)} bytes for {nr} locks, at most {LOCK_RECOVER_MAX} fit")
    return list(Array(nr, NetLock).parse(bytes(data[head:])))


def build_lock_recover(locks: Sequence[dict[str, Any]]) -> bytes:
    """Encode a recover response.  Raises FormatError for more than 22 locks or a field out of range."""
    if len(locks) > LOCK_RECOVER_MAX:
        raise FormatError(f"{len(locks)} locks in a recover response, at most {LOCK_RECOVER_MAX} fit")
    head = build(NetLockRecover, {"nr": len(locks), "garbage": bytes(6)}, "lock recover")
    return head + b"".join(build(NetLock, lock, "lock") for lock in locks)
