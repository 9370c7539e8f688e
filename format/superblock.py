"""The super block, one on each device (spec 01 §3.3)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntFlag
from typing import Any

from construct import Array, Bytes, Container, Int64ul, Struct

from format.alloc import AllocListHead, AllocRoot
from format.block import (
    SMALL_BLOCK_SIZE,
    SUPER_BLKNO,
    BlockError,
    BlockHeader,
    Magic,
    build,
    seal,
    verify_block,
)
from format.btree import BtreeRoot
from format.checksum import Buffer
from format.quorum import QuorumConfig, QuorumConfigStruct, config_from_struct

FORMAT_VERSION_MIN = 1
FORMAT_VERSION_MAX = 2
ROOT_INO = 1


class SuperFlag(IntFlag):
    """`flags` of a super block."""

    IS_META_BDEV = 1


VolumeOptions = Struct(
    "set_bits" / Int64ul,
    "data_alloc_zone_blocks" / Int64ul,
    "future_expansion" / Array(63, Int64ul),
)
"""520 bytes: bit n of `set_bits` says that option n, the n-th number behind it, is set."""

SuperBlockStruct = Struct(
    "hdr" / BlockHeader,
    "id" / Int64ul,
    "fmt_vers" / Int64ul,
    "flags" / Int64ul,
    "uuid" / Bytes(16),
    "seq" / Int64ul,
    "next_ino" / Int64ul,
    "inode_count" / Int64ul,
    "total_meta_blocks" / Int64ul,
    "total_data_blocks" / Int64ul,
    "qconf" / QuorumConfigStruct,
    "meta_alloc" / Array(2, AllocRoot),
    "data_alloc" / AllocRoot,
    "server_meta_avail" / Array(2, AllocListHead),
    "server_meta_freed" / Array(2, AllocListHead),
    "fs_root" / BtreeRoot,
    "logs_root" / BtreeRoot,
    "log_merge" / BtreeRoot,
    "mounted_clients" / BtreeRoot,
    "srch_root" / BtreeRoot,
    "volopt" / VolumeOptions,
)
"""The first 1488 bytes; the rest of the 4096 are zero."""


@dataclass(frozen=True, slots=True)
class SuperBlock:
    """A verified super block: its parsed structure in `raw`, and the fields that most readers want, typed."""

    raw: Container[Any]

    @property
    def fsid(self) -> int:
        """Random 64-bit id in every block header of the volume."""
        return int(self.raw.hdr.fsid)

    @property
    def uuid(self) -> bytes:
        """16 bytes in printed order."""
        return bytes(self.raw.uuid)

    @property
    def fmt_vers(self) -> int:
        """Format version, 1 or 2 once checked."""
        return int(self.raw.fmt_vers)

    @property
    def is_meta(self) -> bool:
        """True on the metadata device."""
        return bool(self.raw.flags & SuperFlag.IS_META_BDEV)

    @property
    def total_meta_blocks(self) -> int:
        """64 KiB blocks of the metadata device, counted from byte 0."""
        return int(self.raw.total_meta_blocks)

    @property
    def total_data_blocks(self) -> int:
        """4 KiB blocks of the data device, counted from byte 0."""
        return int(self.raw.total_data_blocks)

    @property
    def quorum_config(self) -> QuorumConfig:
        """The quorum slots."""
        return config_from_struct(self.raw.qconf)

    @classmethod
    def parse(cls, data: Buffer, what: str = "super block") -> SuperBlock:
        """Decode 4096 bytes; raises BlockError.

        Checks length, crc, magic, blkno and format version.  Whether the totals fit the devices and the flag fits the
        role is for the opener of the volume to check (spec 01 §9).
        """
        verify_block(what, data, SMALL_BLOCK_SIZE, Magic.SUPER, blkno=SUPER_BLKNO)
        raw = SuperBlockStruct.parse(bytes(data))
        if not FORMAT_VERSION_MIN <= raw.fmt_vers <= FORMAT_VERSION_MAX:
            raise BlockError(what, "fmt_vers", raw.fmt_vers)
        return cls(raw)

    def build(self) -> bytes:
        """Encode the block: 4096 bytes with a valid checksum.  Raises FormatError for a field out of range."""
        return seal(build(SuperBlockStruct, self.raw, "super block"), SMALL_BLOCK_SIZE)
