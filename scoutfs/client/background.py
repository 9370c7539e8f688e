"""What a mount does when nobody asks: merging, compacting, deleting what has no name (spec 04 §12.2, 05 §6.6)."""

from __future__ import annotations

import errno
import logging
import random
from collections.abc import Awaitable, Callable

import trio

from format.net import Command
from format.srch import SrchCompact
from scoutfs.client.compaction_work import compact
from scoutfs.client.deletion import Deletions
from scoutfs.client.merge_work import merge_part
from scoutfs.client.transactions import Log
from scoutfs.client.volume_client import VolumeClient, new_seq
from scoutfs.errors import ScoutfsError
from scoutfs.metadata.blocks import StaleBlockError

MERGE_INTERVAL = 5.0
COMPACTION_INTERVAL = 10.0
LAST_DELETIONS = 5.0
"""Seconds that deleting inodes may keep a mount from leaving."""
ORPHAN_SCAN_DEFAULT_MS = 10_000
"""Milliseconds between two looks at the inodes without names, give or take a fifth."""


class Background:
    """Works for a mount in the background until it is stopped; no error ends it.

    `orphan_scan_delay_ms` may be changed at any time, for the next time.
    """

    def __init__(self, files: VolumeClient, log: Log) -> None:
        self.orphan_scan_delay_ms = ORPHAN_SCAN_DEFAULT_MS
        self.deletions = Deletions(files)
        self.scans = 0
        """Looks at the inodes without names."""
        self._files, self._log = files, log
        self._said: set[str] = set()
        self._scope = trio.CancelScope()
        self._ended: trio.Event | None = None
        files.worker = self

    async def stop(self) -> None:
        """End, and return when nothing is being done any more.

        What was dropped last is deleted, if that does not take long: else it waits for another mount.
        """
        with trio.move_on_after(LAST_DELETIONS):
            while self._files.client.connected and (dropped := self._files.take_dropped()):
                for ino in dropped:
                    await self._delete(ino)
        self._scope.cancel()
        if self._ended is not None:
            await self._ended.wait()

    async def run(self) -> None:
        """Work."""
        self._ended = trio.Event()
        try:
            with self._scope:
                await self._run()
        finally:
            self._ended.set()

    async def _run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._repeat, "merging", self._merge, lambda: MERGE_INTERVAL)
            nursery.start_soon(self._repeat, "compacting search files", self._compact, lambda: COMPACTION_INTERVAL)
            nursery.start_soon(self._repeat, "looking for inodes to delete", self._scan, self._scan_delay)
            nursery.start_soon(self._repeat, "deleting an inode", self._delete_dropped, lambda: 0.0)

    async def _repeat(self, what: str, work: Callable[[], Awaitable[bool]], delay: Callable[[], float]) -> None:
        """Do something again and again: at once where it says that there is more, else after a pause."""
        more = False
        while True:
            if not more:
                await trio.sleep(delay())
            try:
                await self._files.client.wait_usable()
                more = await work()
                self._said.discard(what)
            except ScoutfsError as error:
                more = False
                if what not in self._said:
                    self._said.add(what)
                    self._log(logging.ERROR, f"{what} failed: {error}")
                await trio.sleep(1.0)

    async def _merge(self) -> bool:
        files = self._files
        try:
            request = await files.client.ask(Command.GET_LOG_MERGE)
        except ScoutfsError as error:
            if error.errno == errno.ENOENT:
                return False
            raise
        volume = files.volume
        answer = await files.offload(merge_part, volume.meta, volume.fsid, request, new_seq, self._failed)
        await self._hand_in(Command.COMMIT_LOG_MERGE, answer)
        return True

    async def _compact(self) -> bool:
        files = self._files
        work = await files.client.ask(Command.SRCH_GET_COMPACT)
        if len(work) != SrchCompact.sizeof() or not SrchCompact.parse(work).nr:
            return False
        volume = files.volume
        answer = await files.offload(compact, volume.meta, volume.fsid, work, new_seq, self._failed)
        await self._hand_in(Command.SRCH_COMMIT_COMPACT, answer)
        return True

    async def _hand_in(self, command: Command, answer: bytes) -> None:
        """Give the server what was made of its request; one that has come after it does not want it."""
        try:
            await self._files.client.ask(command, answer)
        except ScoutfsError as error:
            if error.errno != errno.ENOENT:
                raise

    async def _scan(self) -> bool:
        try:
            await self.deletions.delete_orphans(await self._files.client.roots())
        except StaleBlockError:
            return False  # the blocks are in use for something newer by now: look next time
        self.scans += 1
        return False

    async def _delete_dropped(self) -> bool:
        for ino in await self._files.dropped():
            await self.deletions.delete(ino)
        return True

    async def _delete(self, ino: int) -> None:
        try:
            await self.deletions.delete(ino)
        except ScoutfsError as error:
            self._failed(f"deleting an inode failed: {error}")

    def _scan_delay(self) -> float:
        return random.uniform(0.8, 1.2) * self.orphan_scan_delay_ms / 1000

    def _failed(self, text: str) -> None:
        """Called from threads."""
        self._log(logging.ERROR, text)
