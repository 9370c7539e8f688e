"""The shared metadata device as far as an election knows it: one quorum block a slot, and each host's way to them."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from format.quorum import QuorumBlock

READ_LATENCY = (0.001, 0.003)
"""Seconds that reading the blocks of all slots takes."""

UPDATE_LATENCY = (0.002, 0.010)
"""Seconds that one update of a block takes, its read included (spec 02 §12.1)."""


class Disk:
    """The blocks as the platters hold them.

    A block is written whole or not at all (assumption A4 of spec 02 §13.1); which of the two, for a write in flight
    when its host dies, is for the cluster to draw.
    """

    __slots__ = ("blocks",)

    def __init__(self, fsid: int, slots: tuple[int, ...]) -> None:
        self.blocks = {slot: QuorumBlock(fsid, slot) for slot in slots}


@dataclass(slots=True)
class DiskPath:
    """One host's way to the disk, with the faults it has at the moment.

    `slowness` multiplies every latency.  `stalled_until` is when an operation may complete at the earliest.
    `unreadable` are slots whose blocks this host cannot read; `flakiness` is the probability that any one read of a
    block fails; `unwritable` says that its updates fail.
    """

    slowness: float = 1.0
    stalled_until: float = 0.0
    unreadable: frozenset[int] = frozenset()
    flakiness: float = 0.0
    unwritable: bool = False

    def read_time(self, now: float, random: Random) -> float:
        """Return when a read of all blocks that begins now is complete."""
        return max(now + random.uniform(*READ_LATENCY) * self.slowness, self.stalled_until)

    def fails_to_read(self, slot: int, random: Random) -> bool:
        """Return whether one read of the block of `slot` fails."""
        return slot in self.unreadable or (self.flakiness > 0.0 and random.random() < self.flakiness)

    def update_time(self, now: float, random: Random) -> float:
        """Return when an update that begins now is complete."""
        return max(now + random.uniform(*UPDATE_LATENCY) * self.slowness, self.stalled_until)
