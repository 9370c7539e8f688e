"""Whether a file is claimed."""

from __future__ import annotations

import fcntl


def can_lock(path):
    """Whether nobody on the host claims the file."""
    with open(path, "rb") as probe:
        try:
            fcntl.flock(probe, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True
