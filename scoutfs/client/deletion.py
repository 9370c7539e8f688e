"""Deleting inodes without names, as soon as no mount uses them (spec 05 §6.3 to §6.6)."""

from __future__ import annotations

from format.net import Command
from format.payloads import OpenInoMapArgs
from scoutfs.client.lock_client import Holder
from scoutfs.client.open_inodes import open_elsewhere
from scoutfs.client.volume_client import VolumeClient
from scoutfs.files.change import Change
from scoutfs.files.deletion import delete_some
from scoutfs.files.indexes import orphans
from scoutfs.files.store import inode_request
from scoutfs.metadata.blocks import BlockReader
from scoutfs.metadata.lock_ranges import LOCK_GROUP
from scoutfs.metadata.snapshot import Roots, Snapshot

ORPHANS_MAX = 1024
"""Inodes that one look at those without names finds at most."""


class _InUse(Exception):
    """The inode is used here again."""


class Deletions:
    """Deletes inodes for a mount."""

    def __init__(self, files: VolumeClient) -> None:
        self._files = files
        self._trying: set[int] = set()
        self._maps: dict[int, tuple[int, int]] = {}
        self._reader = BlockReader(files.volume.meta, files.volume.fsid)
        self._next_orphan = 0

    async def delete(self, ino: int) -> bool:
        """Delete an inode unless it has a name or some mount uses it; return whether it is gone, or has a name.

        Raises ScoutfsError.
        """
        if ino in self._trying:
            return False
        self._trying.add(ino)
        holder = Holder()
        try:
            await self._files.take(holder, inode_request(ino // LOCK_GROUP))
            if await self._is_open_elsewhere(ino):
                return False
            while not await self._files.perform_under(holder, None, lambda change: self._step(change, ino)):
                pass
            return True
        except _InUse:
            return False
        finally:
            self._files.release(holder)
            self._trying.discard(ino)

    def _step(self, change: Change, ino: int) -> bool:
        if ino in self._files.open_inodes:
            raise _InUse
        return delete_some(change, ino)

    async def delete_orphans(self, roots: Roots) -> int:
        """Delete inodes that the volume's tree under `roots` lists as having no names; return how many are left.

        Only what has been merged into that tree is found: short-lived files are none of those.
        """
        snapshot = Snapshot(self._reader, Roots(roots.fs_root))
        found = await self._files.offload(self._some_orphans, snapshot)
        left, asked = 0, dict[int, int]()
        for ino in found:
            group = ino // LOCK_GROUP
            if ino not in self._files.open_inodes:
                if group not in asked:
                    asked[group] = await self._ask(group)
                if not asked[group] >> ino % LOCK_GROUP & 1 and await self.delete(ino):
                    continue
            left += 1
        return left

    def _some_orphans(self, snapshot: Snapshot) -> list[int]:
        """Return the next of those that are listed; from the start again after the last ones."""
        found = []
        for ino in orphans(snapshot, self._next_orphan):
            found.append(ino)
            if len(found) == ORPHANS_MAX:
                break
        self._next_orphan = found[-1] + 1 if len(found) == ORPHANS_MAX else 0
        return found

    async def _is_open_elsewhere(self, ino: int) -> bool:
        """Whether another mount uses it; one question serves as long as the lock of its group is held."""
        group = ino // LOCK_GROUP
        grant = self._files.locks.write_seq(inode_request(group).start)
        known = self._maps.get(group)
        if known is None or known[0] != grant:
            if len(self._maps) > ORPHANS_MAX:
                self._maps.clear()
            known = self._maps[group] = grant, await self._ask(group)
        return bool(known[1] >> ino % LOCK_GROUP & 1)

    async def _ask(self, group: int) -> int:
        args = OpenInoMapArgs.build({"group_nr": group, "req_id": 0})
        return open_elsewhere(await self._files.client.ask(Command.OPEN_INO_MAP, args))
