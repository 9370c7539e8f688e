"""How much free space a server hands out: as much as the original on volumes as large as the original's, less on
smaller ones (spec 03 §7.5, spec 04 §6.6).

The original gives every mount 8185 blocks of metadata and 4 GiB of data, whatever the volume has.  Clients use what
they get, so a server may give less: what counts is that everything shrinks together, and that a client is only told
that space is low when a new transaction would not bring more.
"""

from __future__ import annotations

from dataclasses import dataclass

from scoutfs.metadata.allocator import (
    DATA_COMMIT_LOW,
    DATA_FILL_LOW,
    DATA_FILL_TARGET,
    MERGE_FILL_TARGET,
    META_FILL_LOW,
    META_FILL_TARGET,
    reserved_blocks,
)

FULL_META_BLOCKS = 1 << 20
"""64 KiB blocks from which on everything is as with the original: 64 GiB, the least that its mkfs makes."""

_DATA_SHARE = 8
"""A mount gets at most this fraction of a small data device."""
_SERVER_LEAST = 512
_CLIENT_LEAST = 128
_MERGE_LEAST = 96
_TINY_SHARE = 8
"""On volumes smaller than the least targets make sense on, a list gets at most this fraction of the blocks."""


@dataclass(frozen=True, slots=True)
class FillTargets:
    """What lists and pools are filled up to, in blocks of 64 KiB for metadata, 4 KiB for data.

    `of_change` is how many blocks a change of the server may take, and as many may it free; `move_budget` how many it
    uses for moving free extents; `meta_blocks` is the size that the reserve goes by.
    """

    server: int = META_FILL_TARGET
    client: int = META_FILL_TARGET
    merge: int = MERGE_FILL_TARGET
    data: int = DATA_FILL_TARGET
    data_low: int = DATA_FILL_LOW
    of_change: int = 500
    move_budget: int = 250
    meta_blocks: int = FULL_META_BLOCKS

    @classmethod
    def of_volume(cls, meta_blocks: int, data_blocks: int) -> FillTargets:
        """Return what fits a volume of this size."""

        def scaled(full: int, least: int) -> int:
            return max(min(full * meta_blocks // FULL_META_BLOCKS, full), min(least, meta_blocks // _TINY_SHARE))

        server = scaled(META_FILL_TARGET, _SERVER_LEAST)
        data = min(DATA_FILL_TARGET, max(data_blocks // _DATA_SHARE, 2 * DATA_COMMIT_LOW))
        of_change = min(500, server // 2)
        return cls(
            server,
            scaled(META_FILL_TARGET, _CLIENT_LEAST),
            scaled(MERGE_FILL_TARGET, _MERGE_LEAST),
            data,
            max(data // 4, DATA_COMMIT_LOW),
            of_change,
            of_change // 2,
            min(meta_blocks, FULL_META_BLOCKS),
        )

    @property
    def server_low(self) -> int:
        """A list of the server with fewer blocks is filled."""
        return _low(self.server)

    @property
    def client_low(self) -> int:
        """A list of a client with fewer blocks is filled."""
        return _low(self.client)

    def reserved(self, clients: int) -> int:
        """Return how many metadata blocks are kept for so many clients to delete with when space runs out."""
        return reserved_blocks(clients) * self.meta_blocks // FULL_META_BLOCKS

    def data_wanted(self, had: int, free: int) -> int:
        """Return how many blocks to give a client that has `had` for data, when `free` are free.

        Never more than half of them while that is worth a transaction: others want some too.
        """
        if had >= self.data_low:
            return 0
        return min(self.data - had, free if free <= DATA_COMMIT_LOW // _DATA_SHARE else free // 2)


ORIGINAL_TARGETS = FillTargets()
"""What the original uses for volumes of any size."""


def _low(target: int) -> int:
    return META_FILL_LOW * target // META_FILL_TARGET
