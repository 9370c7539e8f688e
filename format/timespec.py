"""Points in time (spec 01 §3.1)."""

from __future__ import annotations

from construct import Int32ul, Int64ul, Padding, Struct

Timespec = Struct("sec" / Int64ul, "nsec" / Int32ul, "pad" / Padding(4))
"""16 bytes: seconds and nanoseconds.

Inodes count seconds from the epoch, and numbers from 2^63 up are times before it: see `seconds_from_disk`.  Quorum
blocks hold the monotonic clock of the host that wrote them.
"""


def seconds_from_disk(sec: int) -> int:
    """Return the signed seconds that the unsigned field of an inode's timespec stands for."""
    return sec - 2**64 if sec >= 2**63 else sec


def seconds_to_disk(seconds: int) -> int:
    """Return the unsigned field for signed seconds; they wrap at 64 bits."""
    return seconds % 2**64
