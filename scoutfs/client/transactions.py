"""The transactions of a mount, one after the other: when they end, and how the server gets to know (spec 04 §9)."""

from __future__ import annotations

import errno
import logging
from collections.abc import Awaitable, Callable
from functools import partial

import trio

from format.net import Command
from scoutfs.client.exclusive import Exclusive
from scoutfs.client.item_cache import ItemCache
from scoutfs.client.transaction import BloomedLocks, MountTransaction
from scoutfs.errors import ScoutfsError
from scoutfs.metadata.writer import BlockWriter
from scoutfs.storage.volume import Volume

COMMIT_INTERVAL = 10.0
"""Seconds from the end of a commit to the next one, if nobody wants it earlier."""

RETRY_PAUSE = 2.0
"""Seconds before what has failed is done again."""

Ask = Callable[[Command, bytes], Awaitable[bytes]]
Log = Callable[[int, str], None]


class Server:
    """What transactions need of the connection: requests, and whether there is a server now."""

    def __init__(self, ask: Ask, wait_usable: Callable[[], Awaitable[None]], is_abandoned: Callable[[], bool]) -> None:
        self.ask, self.wait_usable, self.is_abandoned = ask, wait_usable, is_abandoned


class Transactions:
    """Opens transactions and commits them.

    `current` is the open one; while `is_open` is False nothing may be changed.  Whoever changes something is alone in
    `exclusive`.
    """

    def __init__(
        self, volume: Volume, writer: BlockWriter, cache: ItemCache, exclusive: Exclusive, server: Server, log: Log
    ) -> None:
        self.is_open = False
        self.current: MountTransaction | None = None
        self.commits = 0
        """Transactions that were committed."""
        self._volume, self._writer, self._cache = volume, writer, cache
        self._exclusive, self._server, self._log = exclusive, server, log
        self._bloomed = BloomedLocks()
        self._scope = trio.CancelScope()
        self._committing = False
        self._opened = trio.Event()
        self._wanted = trio.Event()
        self._done = trio.Event()
        self._failure: ScoutfsError | None = None
        self._doing = ""
        self._doing_since = 0.0

    @property
    def waiting_for(self) -> str:
        """What a commit waits for, and for how long; empty if none does."""
        if not self._doing:
            return ""
        return f"{self._doing} for {trio.current_time() - self._doing_since:.0f} s"

    async def wait_open(self) -> MountTransaction:
        """Return the open transaction, once there is one.  Raises ScoutfsError once the mount is abandoned."""
        while not self.is_open:
            self._check()
            await self._opened.wait()
        self._check()
        assert self.current is not None
        return self.current

    def want_commit(self) -> None:
        """Have a commit begin soon."""
        self._wanted.set()

    async def commit(self) -> None:
        """Have everything that was done so far committed; while no transaction is open that is so already.

        A commit that is going on will do: nothing can have been done since it began.  Raises ScoutfsError once the
        mount is abandoned.
        """
        self._check()
        if not (self.is_open or self._committing):
            return
        done = self._done
        if not self._committing:
            self._wanted.set()
        await done.wait()
        self._check()

    async def end(self) -> None:
        """Commit for the last time; an empty transaction is open then and stays so.  Raises as `commit` does.

        Nothing is sent to the server after that: it takes back what the mount had as soon as that has left.
        """
        await self.commit()
        await self.wait_open()
        self._scope.cancel()

    async def run(self) -> None:
        """Open the first transaction, and commit and open others until cancelled, ended or abandoned."""
        try:
            with self._scope:
                await self._open()
                while True:
                    with trio.move_on_after(COMMIT_INTERVAL):
                        await self._wanted.wait()
                    await self._commit()
        except ScoutfsError as error:
            self.fail(error)

    def fail(self, error: ScoutfsError) -> None:
        """Nothing can be changed or committed any more: whoever waits for that gets to know."""
        self._failure = self._failure or error
        self._tell_done()
        self._opened.set()

    def _check(self) -> None:
        if self._failure is not None:
            raise ScoutfsError(f"nothing can be changed any more: {self._failure}", errno.EIO) from self._failure

    def _tell_done(self) -> None:
        done, self._done = self._done, trio.Event()
        done.set()

    async def _commit(self) -> None:
        transaction = self.current
        assert transaction is not None
        self.is_open, self._committing = False, True
        self._opened = trio.Event()
        async with self._exclusive.alone():
            self._wanted = trio.Event()  # whatever was done before is part of it
        self._now_doing(f"commit of transaction {transaction.seq} waits for a server")
        await self._server.wait_usable()
        await self._insist("commit", partial(self._commit_once, transaction))
        async with self._exclusive.alone():
            self._cache.committed()
            self.commits += 1
        self._committing = False
        self._tell_done()
        await self._open()

    async def _commit_once(self, transaction: MountTransaction) -> None:
        self._now_doing(f"commit of transaction {transaction.seq} writes blocks")
        async with self._exclusive.alone():
            payload = await self._exclusive.in_thread(transaction.finish, self._cache)
        self._now_doing(f"commit of transaction {transaction.seq} waits for the server")
        await self._server.ask(Command.COMMIT_LOG_TREES, payload)

    async def _open(self) -> None:
        self._now_doing("waiting for the server to open a transaction")
        await self._insist("opening a transaction", self._open_once)
        self._now_doing("")
        self.is_open = True
        self._opened.set()

    async def _open_once(self) -> None:
        opened = await self._server.ask(Command.GET_LOG_TREES, b"")
        async with self._exclusive.alone():
            self.current = MountTransaction(self._volume, self._writer, opened, self._bloomed)
            self._exclusive.space = self.current.space
            self._cache.transaction_seq = self.current.seq

    async def _insist(self, what: str, function: Callable[[], Awaitable[None]]) -> None:
        """Do something until it succeeds; raises ScoutfsError only once the mount is abandoned."""
        said = ""
        while True:
            try:
                await function()
                return
            except ScoutfsError as error:
                if self._server.is_abandoned():
                    raise
                if str(error) != said:
                    said = str(error)
                    text = f"{what} failed and is tried again every {RETRY_PAUSE:.0f} s: {error}"
                    self._log(logging.ERROR, text)
            await trio.sleep(RETRY_PAUSE)

    def _now_doing(self, what: str) -> None:
        self._doing, self._doing_since = what, trio.current_time()
