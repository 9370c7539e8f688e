"""Numbers for new inodes, which the server gives away in batches (spec 06 §2.4)."""

from __future__ import annotations

from scoutfs.metadata.lock_ranges import LOCK_GROUP

BATCH = 10 * LOCK_GROUP
"""Numbers to ask the server for at once."""


class InoPools:
    """Numbers that a mount has and nobody uses: those of directories apart, so that they share locks.

    `per_lock` numbers at most are used of each group of 1024; fewer than all of them make one pool of the two, and
    spread files over more locks.
    """

    def __init__(self, per_lock: int = LOCK_GROUP) -> None:
        self._per_lock = per_lock
        # First number and end of what is left of a batch.
        self._pools = {False: (0, 0), True: (0, 0)}

    def take(self, *, directory: bool) -> int | None:
        """Return a number, None if a batch has to be asked for and added first."""
        pool = directory and self._per_lock == LOCK_GROUP
        ino, end = self._pools[pool]
        if ino >= end:
            return None
        following = ino + 1
        if following % LOCK_GROUP >= self._per_lock:
            following = -(-following // LOCK_GROUP) * LOCK_GROUP
        self._pools[pool] = following, end
        return ino

    def add(self, first: int, count: int, *, directory: bool) -> None:
        """Take over a batch for which `take` of the same kind has asked; what was left of the one before is lost."""
        self._pools[directory and self._per_lock == LOCK_GROUP] = first, first + count
