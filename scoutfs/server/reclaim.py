"""What is done for a mount that is gone: it said farewell, or it was fenced (spec 03 §8.16)."""

from __future__ import annotations

from scoutfs.metadata.commit import ServerVolume
from scoutfs.server import compaction, log_merge, mounted_clients
from scoutfs.server.log_trees import finalize, is_finalized, newest


def reclaim(volume: ServerVolume, rid: int) -> bool:
    """Take everything back that the mount `rid` had, its record last; False if there is more to do in another change.

    The mount must not be able to write any more.  Doing it again is harmless.
    """
    trees = newest(volume, rid)
    if trees is not None and not is_finalized(trees) and not finalize(volume, trees, reclaim=True):
        return False
    compaction.cancel(volume, rid)
    log_merge.cancel_requests(volume, rid)
    mounted_clients.forget(volume, rid)
    return True
