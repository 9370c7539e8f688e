"""Numbers for new inodes (spec 03 §8.1)."""

from __future__ import annotations

from format.payloads import NetInodeAlloc
from scoutfs.metadata.commit import ServerVolume

_LAST = (1 << 64) - 1


def allocate_inodes(volume: ServerVolume, count: int) -> bytes:
    """Hand out up to `count` numbers that nobody ever had; return the payload of 16 bytes, `nr` 0 for none left."""
    nr = min(count, _LAST - volume.next_ino)
    payload = NetInodeAlloc.build({"ino": volume.next_ino, "nr": nr})
    volume.next_ino += nr
    return payload
