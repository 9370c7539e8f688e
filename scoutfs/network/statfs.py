"""The payload that answers STATFS (spec 03 §5.4)."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from format.block import FormatError
from format.net import NetStatfs


@dataclass(frozen=True, slots=True)
class Statfs:
    """How much of a volume is free: metadata in 64 KiB blocks, data in 4 KiB blocks; `uuid` is 16 bytes."""

    uuid: bytes
    free_meta_blocks: int
    total_meta_blocks: int
    free_data_blocks: int
    total_data_blocks: int
    inode_count: int

    def build(self) -> bytes:
        """Encode the payload: 56 bytes; sums of a damaged volume are cut to 64 bits."""
        fields = {name: value if name == "uuid" else value & 0xFFFFFFFFFFFFFFFF for name, value in asdict(self).items()}
        return NetStatfs.build(fields)

    @classmethod
    def parse(cls, payload: bytes) -> Statfs:
        """Decode exactly 56 bytes.  Raises FormatError for another length."""
        if len(payload) != NetStatfs.sizeof():
            raise FormatError(f"statfs of {len(payload)} bytes, expected {NetStatfs.sizeof()}")
        raw = NetStatfs.parse(payload)
        return cls(
            bytes(raw.uuid),
            raw.free_meta_blocks,
            raw.total_meta_blocks,
            raw.free_data_blocks,
            raw.total_data_blocks,
            raw.inode_count,
        )
