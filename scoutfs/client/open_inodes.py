"""The inodes that a mount has in use: none of them may be deleted by another one (spec 05 §6).  Pure."""

from __future__ import annotations

from format.payloads import OpenInoMap
from scoutfs.metadata.lock_ranges import LOCK_GROUP


class OpenInodes:
    """A bit for each inode in use, in groups that are those of the locks."""

    def __init__(self) -> None:
        self._groups: dict[int, int] = {}

    def __contains__(self, ino: int) -> bool:
        return bool(self._groups.get(ino // LOCK_GROUP, 0) >> ino % LOCK_GROUP & 1)

    def add(self, ino: int) -> None:
        """An inode is in use from now on; called under its lock."""
        group = ino // LOCK_GROUP
        self._groups[group] = self._groups.get(group, 0) | 1 << ino % LOCK_GROUP

    def discard(self, ino: int) -> None:
        """An inode is not in use any more."""
        group = ino // LOCK_GROUP
        bits = self._groups.get(group, 0) & ~(1 << ino % LOCK_GROUP)
        if bits:
            self._groups[group] = bits
        else:
            self._groups.pop(group, None)

    def answer(self, group: int, req_id: int) -> bytes:
        """Return the payload that answers the question for a group."""
        bits = self._groups.get(group, 0)
        words = [bits >> 64 * index & (1 << 64) - 1 for index in range(16)]
        return OpenInoMap.build({"args": {"group_nr": group, "req_id": req_id}, "bits": words})


def open_elsewhere(payload: bytes) -> int:
    """Return what other mounts have in use of a group, bit n for the inode n of it, from an answer of the server."""
    found = OpenInoMap.parse(payload)
    return sum(word << 64 * index for index, word in enumerate(found.bits))
