"""Where printed text goes, and what could not be printed."""

from __future__ import annotations

from collections.abc import Callable

from format.block import LARGE_BLOCK_SIZE, SMALL_BLOCK_SIZE
from scoutfs.storage.device import Device, DeviceError


class Output:
    """Takes text as it is made, and counts what is missing in it.

    `write` takes text that ends anywhere, `report` one line without its end; both are called as things happen.
    """

    def __init__(self, write: Callable[[str], object], report: Callable[[str], object]) -> None:
        self.write = write
        self._report = report
        self.problems = 0

    def problem(self, text: str) -> None:
        """Say that something could not be read or followed."""
        self.problems += 1
        self._report(text)


class Blocks:
    """The blocks of a metadata device, as they are: nothing is verified."""

    def __init__(self, device: Device) -> None:
        self._device = device

    def small(self, blkno: int) -> bytes:
        """Return a block of 4096 bytes; raises DeviceError."""
        return self._device.read(blkno * SMALL_BLOCK_SIZE, SMALL_BLOCK_SIZE)

    def large(self, blkno: int) -> bytes:
        """Return a block of 65536 bytes; raises DeviceError."""
        return self._device.read(blkno * LARGE_BLOCK_SIZE, LARGE_BLOCK_SIZE)

    def large_or_none(self, blkno: int, what: str, output: Output) -> bytes | None:
        """Return a block of 65536 bytes; None, and a word about it, if it cannot be read.  `what` names it."""
        try:
            return self.large(blkno)
        except DeviceError as error:
            output.problem(f"{what} {blkno}: incomplete pread: {error}")
            return None


class BlockSet:
    """Numbers of blocks that a walk has met: blocks of a damaged volume may refer to each other in circles.

    A bit for each block, in words: the leaves of a large volume would not fit into a set of numbers.
    """

    _BITS = 4096

    def __init__(self) -> None:
        self._words: dict[int, int] = {}

    def add(self, blkno: int) -> bool:
        """Add a block; return False if it was there."""
        index, bit = divmod(blkno, self._BITS)
        word = self._words.get(index, 0)
        if word >> bit & 1:
            return False
        self._words[index] = word | 1 << bit
        return True
