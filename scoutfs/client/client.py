"""The client of a mount: finds the server, greets it, asks it, says farewell (spec 02 §8, spec 03 §3.2, §3.6).

It goes on for as long as the mount lives, across any number of servers.  Only a forced unmount, or a farewell, ends it.
Everything here runs in one loop; the volume is read in worker threads.
"""

from __future__ import annotations

import errno
import logging
import os
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Protocol, TypeVar

import trio

from format.block import FormatError
from format.net import Command, Greeting, GreetingFlag
from format.quorum import SlotAddress
from scoutfs.client.answers import answer
from scoutfs.client.lookup import Quorum, Server, find, has_left, held_back_text, read_quorum
from scoutfs.counters import Counters
from scoutfs.errors import ScoutfsError
from scoutfs.metadata.snapshot import Roots
from scoutfs.network.connection import Connection, Dialled, connect
from scoutfs.network.framing import Frame, Side
from scoutfs.network.roots import parse_roots
from scoutfs.network.session import ClientSession, Request, Response
from scoutfs.network.statfs import Statfs
from scoutfs.offload import Offload
from scoutfs.storage.volume import Volume

RETRY_DELAY = 0.1
"""Seconds between two attempts to reach a server."""

PATIENCE = 1.0
"""Seconds without a server or an answer after which that is worth a line in the log, or a look at the disk."""

LOOK_INTERVAL = 1.0
EXPLAIN_INTERVAL = 2.0

_Answer = TypeVar("_Answer")

Log = Callable[[int, str], None]
Dial = Callable[[SlotAddress, int], Awaitable[Dialled]]


class Conversation(Protocol):
    """What the client of a mount does with messages that nobody waits for; called in the order in which they came."""

    def server_changed(self) -> None:
        """Another server than before has accepted us; it gets again what was not answered."""

    def asked(self, request: Request) -> bytes | None:
        """Return the payload that answers a request, None to answer it later.  Raises FormatError: it is no request."""

    def answered(self, response: Response) -> None:
        """Take the answer to what was sent with `Client.send`.  Raises FormatError: close the connection."""

    def abandoned(self) -> None:
        """The mount is given up: nothing is sent or answered any more."""


class _NoConversation:
    """A mount that has no locks and no transactions: nothing is sent, and everything is answered at once."""

    def server_changed(self) -> None:
        pass

    def asked(self, request: Request) -> bytes | None:
        return answer(request)

    def answered(self, response: Response) -> None:
        pass

    def abandoned(self) -> None:
        pass


class _Waiter:
    def __init__(self) -> None:
        self.since = trio.current_time()
        self.done = trio.Event()
        self.response: Response | None = None


class Client:
    """The client of the mount `rid`.

    `member` says whether the mount has a quorum slot.  `keepalive_ms` may be changed, for the next connection.  To be
    made and used in one trio loop.
    """

    unchanging = False
    """Other mounts may write the volume."""

    def __init__(
        self,
        volume: Volume,
        rid: int,
        *,
        member: bool,
        keepalive_ms: int,
        log: Log,
        counters: Counters,
        dial: Dial = connect,
        offload: Offload | None = None,
    ) -> None:
        self.keepalive_ms = keepalive_ms
        self._volume, self._rid, self._member = volume, rid, member
        self._log, self._counters = log, counters
        self._dial = dial
        self._offload = offload or Offload()
        self._session = ClientSession()
        self._connection: Connection | None = None
        self.conversation: Conversation = _NoConversation()
        self._waiters: dict[int, _Waiter] = {}
        self._sent: dict[int, float] = {}
        self._usable = trio.Event()
        self._waiting_since: float | None = trio.current_time()
        self._waiting_for = "not looked for one yet"
        self._said_waiting = False
        self._leaving = False
        self._left = trio.Event()
        self._abandoned = False
        self._life = trio.CancelScope()

    # -- what others see ---------------------------------------------------------------------------------------------

    @property
    def connected(self) -> bool:
        """Whether a server has accepted us and the connection stands."""
        return self._connection is not None and self._connection.session is not None

    @property
    def server(self) -> tuple[SlotAddress, int] | None:
        """Address and term of the server that we are connected to."""
        connection = self._connection
        return (connection.peer, self._session.server_term) if connection is not None and self.connected else None

    @property
    def waiting_since(self) -> float | None:
        """Since when there is no server, in seconds of `time.monotonic`; None while connected."""
        since = self._waiting_since
        return None if since is None else time.monotonic() - (trio.current_time() - since)

    @property
    def waiting_for(self) -> str:
        """Why there is no server, as far as is known; empty while connected."""
        return self._waiting_for

    # -- what others ask ---------------------------------------------------------------------------------------------

    async def statfs(self) -> Statfs:
        """Ask the server how much is free; waits for one as long as it takes.  Raises ScoutfsError."""
        return await self._ask(Command.STATFS, Statfs.parse)

    async def roots(self) -> Roots:
        """Ask the server for the roots of the trees; waits for one as long as it takes.  Raises ScoutfsError."""
        return await self._ask(Command.GET_ROOTS, parse_roots)

    async def wait_usable(self) -> None:
        """Wait until a server has accepted us.  Raises ScoutfsError (ENOLINK) once the mount is abandoned."""
        while not self.connected:
            if self._abandoned:
                raise ScoutfsError("the mount was given up", errno.ENOLINK)
            await self._usable.wait()

    async def farewell(self, hold_back: Callable[[str], None]) -> None:
        """Leave: return when no server minds any more, however long that takes.

        While it takes long, `hold_back` is told why and what to do, again when that changes.
        """
        if self._abandoned or self._session.server_term == 0:
            self._life.cancel()
            return
        self._leaving = True
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._say_farewell)
            nursery.start_soon(self._explain, hold_back)
            await self._left.wait()
            nursery.cancel_scope.cancel()
        self._life.cancel()

    @property
    def abandoned(self) -> bool:
        """Whether the mount was abandoned: nothing is answered any more."""
        return self._abandoned

    def abandon(self) -> None:
        """Forced unmount: nothing is sent any more, and whoever waits for an answer gets ECONNABORTED."""
        self._abandoned = True
        self._life.cancel()
        self._session.abandon()
        for waiter in self._waiters.values():
            waiter.done.set()
        self._usable.set()
        self.conversation.abandoned()
        self._left.set()

    async def ask(self, command: Command, payload: bytes = b"") -> bytes:
        """Return the payload of the answer to a request; waits for a server as long as it takes.

        Raises ScoutfsError: what the answer says, ENOLINK or ECONNABORTED once the mount is abandoned.
        """
        return (await self._request(command, payload)).payload

    def send(self, command: Command, payload: bytes) -> None:
        """Send a request whose answer `conversation` gets; nothing happens once the mount is abandoned."""
        if not self._abandoned:
            self._sent[self._session.request(command, payload)] = trio.current_time()
            self._wake()

    def answer(self, request: Request, payload: bytes) -> None:
        """Answer what `conversation` was asked, unless another server has accepted us since."""
        if not self._abandoned:
            self._session.respond(request, payload)
            self._wake()

    async def _ask(self, command: Command, parse: Callable[[bytes], _Answer]) -> _Answer:
        """Return what an answer says; one that cannot be understood is raised as ScoutfsError (EMSGSIZE)."""
        try:
            return parse(await self.ask(command))
        except FormatError as error:
            raise ScoutfsError(str(error), errno.EMSGSIZE) from error

    async def _request(self, command: Command, payload: bytes = b"") -> Response:
        """Ask and wait for the answer, across servers; an error in it is raised as ScoutfsError."""
        if self._abandoned:
            raise _error(errno.ENOLINK, command)
        id, waiter = self._session.request(command, payload), _Waiter()
        self._waiters[id] = waiter
        self._wake()
        try:
            await waiter.done.wait()
        finally:
            del self._waiters[id]
            self._session.forget(id)
        if waiter.response is None:
            raise _error(errno.ECONNABORTED, command)
        if waiter.response.error:
            raise _error(waiter.response.error.errno, command)
        return waiter.response

    def _wake(self) -> None:
        if self._connection is not None:
            self._connection.wake()

    async def _say_farewell(self) -> None:
        try:
            response = await self._request(Command.FAREWELL)
            if response.payload:
                raise _error(errno.EMSGSIZE, Command.FAREWELL)
        except ScoutfsError as error:
            if not self._abandoned:
                self._counters.add("client_farewell_error")
                self._log(logging.WARNING, f"client saw farewell error: {error}; the server may have to time it out")
        self._left.set()

    async def _explain(self, hold_back: Callable[[str], None]) -> None:
        said = ""
        await trio.sleep(PATIENCE)
        while True:
            quorum = await self._read_quorum()
            text = str(quorum)
            if isinstance(quorum, Quorum):
                text = held_back_text(quorum, self._rid, self._member, self._waiting_for)
            if text != said:
                said = text
                hold_back(text)
            await trio.sleep(EXPLAIN_INTERVAL)

    # -- the loop ----------------------------------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep finding and greeting servers until the farewell is done or the mount is abandoned."""
        task_status.started()
        delay = 0.0
        with self._life:
            while True:
                await trio.sleep(delay)
                if self._leaving and await self._offload(has_left, self._volume, self._rid):
                    self._left.set()
                    return
                delay = 0.0 if await self._connect_and_serve() else RETRY_DELAY

    async def _connect_and_serve(self) -> bool:
        """One connection from lookup to end; return whether to look for a server again at once."""
        quorum = await self._read_quorum()
        server = find(quorum) if isinstance(quorum, Quorum) else None
        if server is None:
            self._wait_for(_why_none(quorum))
            return False
        try:
            dialled = await self._dial(server.address, self.keepalive_ms)
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error)
            self._wait_for(f"the server of slot {server.leader.slot} at {server.address} does not answer: {reason}")
            return False
        connection = Connection(dialled.stream, Side.CLIENT, self._counters, dialled.local, dialled.peer)
        wish = Greeting(self._volume.fsid, self._volume.fmt_vers, self._session.server_term, self._rid, self._flags())
        connection.greet(self._session.greet(wish))
        started = trio.current_time()
        self._connection = connection
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._watch, connection, server)
                await connection.run(partial(self._received, connection, wish))
                nursery.cancel_scope.cancel()
        finally:
            accepted = self.connected
            self._connection = None
            self._session.detach()
            self._ended(connection, accepted)
        return accepted and trio.current_time() - started > RETRY_DELAY

    def _flags(self) -> GreetingFlag:
        flags = GreetingFlag.QUORUM if self._member else GreetingFlag.NONE
        return flags | GreetingFlag.FAREWELL if self._leaving else flags

    def _received(self, connection: Connection, wish: Greeting, frame: Frame) -> None:
        if frame.header.command is Command.GREETING:
            if self._session.greeted(frame, wish):
                self.conversation.server_changed()
            connection.attach(self._session)
            self._log(logging.INFO, f"client connected {connection}")
            self._found()
            return
        received = connection.receive(frame)
        if isinstance(received, Request):
            payload = self.conversation.asked(received)
            if payload is not None:
                self._session.respond(received, payload)
                connection.wake()
        elif received is not None and self._sent.pop(received.id, None) is not None:
            self.conversation.answered(received)
        elif received is not None:
            waiter = self._waiters[received.id]
            waiter.response = received
            waiter.done.set()

    def _ended(self, connection: Connection, accepted: bool) -> None:
        reason = connection.reason or "closed"
        if accepted:
            self._usable = trio.Event()
            why = "" if self._life.cancel_called or reason == "closed by the peer" else f": {reason}"
            self._log(logging.INFO, f"client disconnected {connection}{why}")
            self._wait_for(f"the connection to {connection.peer} is lost: {reason}")
        else:
            if reason == "closed by the peer":
                reason = "it closes the connection without an answer, as it does if this mount was fenced"
            self._wait_for(f"the server at {connection.peer} does not accept the greeting: {reason}")

    # -- waiting for a server ----------------------------------------------------------------------------------------

    def _wait_for(self, reason: str) -> None:
        """There is no server; if that lasts, say so once."""
        now = trio.current_time()
        if self._waiting_since is None:
            self._waiting_since = now
        self._waiting_for = reason
        if not self._said_waiting and now - self._waiting_since >= PATIENCE:
            self._said_waiting = True
            self._log(logging.INFO, f"waiting for a server: {reason}")

    def _found(self) -> None:
        if self._said_waiting and self._waiting_since is not None:
            self._log(logging.INFO, f"found a server after {trio.current_time() - self._waiting_since:.1f} s")
        self._waiting_since, self._waiting_for, self._said_waiting = None, "", False
        self._usable.set()

    async def _watch(self, connection: Connection, server: Server) -> None:
        """Leave a connection that does not answer once the blocks show a later leader: its server may be frozen."""
        connected, later_since = trio.current_time(), None
        while True:
            await trio.sleep(LOOK_INTERVAL)
            now = trio.current_time()
            if connection.session is None:
                oldest: float | None = connected
                self._wait_for(f"the server at {connection.peer} has not answered the greeting yet")
            else:
                times = [*(waiter.since for waiter in self._waiters.values()), *self._sent.values()]
                oldest = max(min(times), connected) if times else None
            if oldest is None or now - oldest < PATIENCE:
                later_since = None
                continue
            quorum = await self._read_quorum()
            found = find(quorum) if isinstance(quorum, Quorum) else None
            term = server.leader.term if connection.session is None else self._session.server_term
            if found is None or found.leader.term <= term:
                later_since = None
            elif later_since is None:
                later_since = now
            elif now - later_since >= PATIENCE:
                connection.close(f"slot {found.leader.slot} has a later leader, of term {found.leader.term}")
                return

    async def _read_quorum(self) -> Quorum | ScoutfsError:
        try:
            return await self._offload(read_quorum, self._volume)
        except ScoutfsError as error:
            return error


def _why_none(quorum: Quorum | ScoutfsError) -> str:
    if isinstance(quorum, ScoutfsError):
        return str(quorum)
    unreadable = "".join(f"; the block of slot {slot} cannot be read" for slot in quorum.unreadable)
    return f"no quorum slot has a leader{unreadable}"


def _error(number: int, command: Command) -> ScoutfsError:
    return ScoutfsError(f"{command.name}: {os.strerror(number)}", number)
