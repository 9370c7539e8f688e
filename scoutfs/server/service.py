"""A server that is up: its connections, and what clients ask (spec 03 §2, §3, §8, §10)."""

from __future__ import annotations

import errno
import logging
import math
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import TypeVar

import trio

from format.net import Command, Greeting, NetError
from format.quorum import SlotAddress
from scoutfs.counters import Counters
from scoutfs.errors import ScoutfsError
from scoutfs.metadata.snapshot import Roots
from scoutfs.network.connection import LINGER, Connection
from scoutfs.network.framing import Frame, greeting_response
from scoutfs.network.listener import GREETING_TIMEOUT, Listener
from scoutfs.network.roots import SIZE as ROOTS_SIZE
from scoutfs.network.roots import build_roots
from scoutfs.network.session import Request, Response, ServerSession, SessionError
from scoutfs.network.statfs import Statfs
from scoutfs.quorum.fencing import FenceReason, FenceRequests
from scoutfs.server.clients import RECOVERY_TIME, Clients, Farewell, Verdict, Welcome
from scoutfs.server.committed_volume import CommittedVolume
from scoutfs.server.conversations import Conversations
from scoutfs.server.items import Refused
from scoutfs.server.requests import MERGE_WAIT_DEFAULT_MS, Requests

RECONNECT_TIMEOUT = 20.0
"""Seconds that a client whose connection broke has to come back; then it is fenced."""

RECLAIM_INTERVAL = 1.0

AWAITED_INTERVAL = 1.0
"""Seconds between two looks at the blocks of members that are awaited after a failover."""

Log = Callable[[int, str], None]

_Read = TypeVar("_Read")


class _Reading:
    """What is read from the volume for anybody who asks; `name` says in logs what it is."""

    def __init__(self, name: str, read: Callable[[], Awaitable[_Read]], build: Callable[[_Read], bytes]) -> None:
        self.name = name
        self._read, self._build = read, build
        self._wanted = trio.Event()
        self._requests: list[tuple[ServerSession, Request]] = []

    def ask(self, session: ServerSession, request: Request) -> None:
        self._requests.append((session, request))
        self._wanted.set()

    async def requests(self) -> list[tuple[ServerSession, Request]]:
        """Wait until somebody asks, and return all who did."""
        await self._wanted.wait()
        self._wanted = trio.Event()
        requests, self._requests = self._requests, []
        return requests

    async def payload(self) -> bytes:
        """Read; raises ScoutfsError."""
        return self._build(await self._read())


class Service:
    """Serves clients until it is told to stop.

    `volume` is what requests read and change, `data_size` the size of the data device in bytes.  `statfs` counts what
    is free, `roots` reads the roots of the trees.  `running_members` tells the members that may run now, rid to slot,
    or None if that cannot be read; `changed` is called whenever what `clients` or `connected` tell has changed.
    """

    def __init__(
        self,
        clients: Clients,
        listener: Listener,
        fences: FenceRequests,
        volume: CommittedVolume,
        data_size: int,
        statfs: Callable[[], Awaitable[Statfs]],
        roots: Callable[[], Awaitable[Roots]],
        running_members: Callable[[], Awaitable[Mapping[int, int] | None]],
        log: Log,
        counters: Counters,
        changed: Callable[[], None],
        merge_wait_ms: Callable[[], int] = lambda: MERGE_WAIT_DEFAULT_MS,
    ) -> None:
        self.clients = clients
        self._listener = listener
        self._fences = fences
        self._volume = volume
        self._conversations = Conversations(volume.seqs, clients.recorded, self._session)
        self._requests = Requests(volume, lambda: len(clients.clients), self._ask_to_commit, data_size, merge_wait_ms)
        self._running_members = running_members
        self._readings = {
            Command.STATFS: _Reading("statfs", statfs, Statfs.build),
            Command.GET_ROOTS: _Reading("reading the roots", roots, build_roots),
        }
        self._log, self._counters = log, counters
        self._changed = changed
        self._connections: dict[int, Connection] = {}
        self._rids: dict[Connection, int] = {}
        self._timers_due = trio.Event()
        self._leaving: list[Farewell] = []
        self._farewells_due = trio.Event()
        self._idle = trio.Event()
        self._idle.set()
        self._disconnection = trio.Event()
        self._failure: ScoutfsError | None = None
        self._recovering = 0
        self._said: set[object] = set()
        self._lost: set[int] = set()
        self._nursery: trio.Nursery

    def connected(self, rid: int) -> bool:
        """Whether the client has a connection now."""
        return rid in self._connections

    async def run(self, stopped: trio.Event) -> None:
        """Serve until `stopped`, then send what is queued and close.  Raises ScoutfsError when the server must stop."""
        tasks: list[Callable[[], Awaitable[None]]] = [
            self._accept,
            self._volume.run,
            self._reclaim_forever,
            self._part_forever,
            self._requests.free_merged_trees,
            self._recover,
            self._watch_time,
            self._watch_awaited,
        ]
        tasks += [partial(self._answer, reading) for reading in self._readings.values()]
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            for task in tasks:
                nursery.start_soon(self._guarded, task)
            await stopped.wait()
            await self._close()
            nursery.cancel_scope.cancel()
        if self._failure is not None:
            raise self._failure

    async def _guarded(self, task: Callable[[], Awaitable[None]]) -> None:
        """Run a task whose failure ends the server."""
        try:
            await task()
        except ScoutfsError as error:
            self._failure = self._failure or error
            self._nursery.cancel_scope.cancel()

    async def _accept(self) -> None:
        try:
            await self._listener.serve(self._serve)
        except OSError as error:
            raise ScoutfsError(f"accepting connections: {error.strerror}", error.errno or errno.EIO) from error

    async def _close(self) -> None:
        """Let the last answers out: a farewell that is lost leaves a mount waiting for the next server."""
        self._listener.close()
        await self._idle.wait()
        for connection in self._rids:
            connection.finish("the server stops")
        with trio.move_on_after(LINGER + 0.5):
            while self._rids:
                self._disconnection = trio.Event()
                await self._disconnection.wait()

    # -- connections -------------------------------------------------------------------------------------------------

    async def _serve(self, connection: Connection) -> None:
        try:
            await connection.run(partial(self._received, connection), greeting_timeout=GREETING_TIMEOUT)
        finally:
            self._disconnected(connection)

    def _received(self, connection: Connection, frame: Frame) -> None:
        if frame.header.command is Command.GREETING:
            self._nursery.start_soon(self._greeted, connection, frame)
            return
        received = connection.receive(frame)
        session = connection.session
        if isinstance(received, Request) and isinstance(session, ServerSession):
            self._dispatch(self._rids[connection], session, received)
            connection.wake()
        elif isinstance(received, Response):
            self._conversations.answered(self._rids[connection], received)
            if received.command is Command.LOCK_RECOVER:
                self._follow_recovery()
                self._let_leave()
            self._wake_all()

    async def _greeted(self, connection: Connection, frame: Frame) -> None:
        """Answer a greeting; the session is joined to this connection, and to no older one, at once.

        A mount that no server has accepted is recorded before: that it is not recorded means that it has left.
        """
        recorded = True
        newcomer = self.clients.newcomer(frame.payload, connection.peer)
        if newcomer is not None:
            try:
                if newcomer.is_new:
                    await self._requests.record(newcomer.mount)
                else:
                    recorded = await self._requests.is_recorded(newcomer.mount.rid)
            except ScoutfsError as error:
                self._log(logging.ERROR, f"cannot record the mount at {connection.peer}: {error}")
                connection.greet(greeting_response(frame.header, b"", NetError.from_errno(error.errno)))
                connection.finish("the mount cannot be recorded")
                return
            if connection.closed:
                return
        welcome = self.clients.greet(frame.header, frame.payload, connection.peer, recorded=recorded)
        if welcome.verdict is Verdict.REFUSE:
            self._say_once("refused", logging.WARNING, f"refused a mount at {connection.peer}: {welcome.text}")
            connection.greet(greeting_response(frame.header, b"", NetError.EINVAL))
            connection.finish(welcome.text)
        elif welcome.session is None:
            text = f"dropped a connection from {connection.peer}: {welcome.text}"
            self._say_once(("dropped", welcome.rid), logging.WARNING, text)
            connection.close(welcome.text)
        else:
            self._accepted(connection, frame, welcome, welcome.session)

    def _accepted(self, connection: Connection, frame: Frame, welcome: Welcome, session: ServerSession) -> None:
        rid, clients = welcome.rid, self.clients
        self._listener.greeted(connection)
        older = self._connections.get(rid)
        if older is not None:
            older.close("a newer connection of the mount")
        self._connections[rid], self._rids[connection] = connection, rid
        self._log(logging.INFO, f"server accepted {connection}")
        answer = Greeting(clients.fsid, clients.fmt_vers, clients.term, rid)
        connection.greet(greeting_response(frame.header, answer.build()))
        if welcome.first_contact:
            self._conversations.greeted(rid)
        session.attach()
        connection.attach(session)
        self._follow_recovery()
        self._let_leave()

    def _session(self, rid: int) -> ServerSession | None:
        client = self.clients.clients.get(rid)
        return None if client is None else client.session

    def _ask_to_commit(self, rid: int) -> None:
        self._conversations.ask_to_commit(rid)
        self._wake_all()

    def _disconnected(self, connection: Connection) -> None:
        rid, session = self._rids.pop(connection, None), connection.session
        self._disconnection.set()
        self._timers_due.set()
        if rid is None or not isinstance(session, ServerSession):
            return
        why = "" if connection.reason in ("", "closed by the peer", "the server stops") else f": {connection.reason}"
        self._log(logging.INFO, f"server closing {connection}{why}")
        if self._connections.get(rid) is connection:
            del self._connections[rid]
            session.detach()
            self.clients.parked(rid, session, trio.current_time())
        self._changed()

    # -- requests ----------------------------------------------------------------------------------------------------

    def _dispatch(self, rid: int, session: ServerSession, request: Request) -> None:
        command = request.command
        if command in self._readings and not request.payload:
            self._readings[command].ask(session, request)
        elif command is Command.GET_ROOTS:
            # as the original: no error, but roots of nothing (spec 03 §4)
            session.respond(request, bytes(ROOTS_SIZE))
        elif command is Command.FAREWELL:
            if request.payload:
                raise SessionError(f"FAREWELL with {len(request.payload)} bytes of payload")
            self.clients.farewell(rid, session, request)
            self._let_leave()
        elif command in (Command.SYNC_LOG_TREES, Command.LOCK_RECOVER):
            self._counters.add("net_unknown_request")
            raise SessionError(f"{command.name} is no request to a server")
        elif command in (Command.LOCK, Command.OPEN_INO_MAP):
            self._conversations.request(rid, session, request, all_greeted=not self.clients.recorded)
            self._wake_all()
        elif self._requests.serves(command):
            self._nursery.start_soon(self._answer_request, rid, session, request)
        else:
            session.respond(request, error=NetError.EINVAL)

    async def _answer_request(self, rid: int, session: ServerSession, request: Request) -> None:
        """Answer from the volume, however long that takes; the session gets it whichever connection it has then."""
        payload, error = b"", NetError.NONE
        try:
            payload = await self._requests.answer(rid, request.command, request.payload)
        except SessionError as failure:
            connection = self._connections.get(rid)
            if connection is not None and connection.session is session:
                connection.close(str(failure))
            return
        except Refused as failure:
            error = NetError.from_errno(failure.errno)
        except ScoutfsError as failure:
            self._log(logging.ERROR, f"{request.command.name} of mount {rid:016x} failed: {failure}")
            error = NetError.from_errno(failure.errno)
        session.respond(request, payload, error)
        self._wake_all()

    async def _answer(self, reading: _Reading) -> None:
        """One reading answers everybody who asked before it began."""
        while True:
            requests = await reading.requests()
            payload, error = b"", NetError.NONE
            try:
                payload = await reading.payload()
            except ScoutfsError as failure:
                self._log(logging.ERROR, f"{reading.name} failed: {failure}")
                error = NetError.from_errno(failure.errno)
            for session, request in requests:
                session.respond(request, payload, error)
            self._wake_all()

    def _let_leave(self) -> None:
        """Let all mounts leave that may (spec 02 §8.3)."""
        leaving = self.clients.leaving(trio.current_time(), self._conversations.locks.recovering)
        if leaving:
            self._leaving += leaving
            if self._idle.is_set():
                self._idle = trio.Event()
            self._farewells_due.set()
        self._wake_all()
        self._timers_due.set()
        self._changed()

    async def _part_forever(self) -> None:
        """Take back what those who leave had, and only then answer any of them: the server may go with the last."""
        while True:
            await self._farewells_due.wait()
            self._farewells_due = trio.Event()
            leaving, self._leaving = self._leaving, []
            for farewell in leaving:
                await self._forget(farewell.rid)
            for farewell in leaving:
                farewell.session.respond(farewell.request)
            if not self._leaving:
                self._idle.set()
            self._follow_recovery()
            self._let_leave()

    async def _forget(self, rid: int) -> None:
        """A mount can do nothing any more: others get what it had."""
        self._conversations.leave(rid)
        self._wake_all()
        await self._requests.reclaim(rid)

    def _wake_all(self) -> None:
        for connection in self._connections.values():
            connection.wake()

    # -- time and fencing --------------------------------------------------------------------------------------------

    async def _watch_time(self) -> None:
        while True:
            now = trio.current_time()
            parked = [client for client in self.clients.clients.values() if client.parked_since is not None]
            late = [client for client in parked if now >= (client.parked_since or 0.0) + RECONNECT_TIMEOUT]
            for client in late:
                text = f"client {client.address} reconnect timed out, fencing rid {client.rid:016x}"
                self._log(logging.INFO, text)
                self.clients.give_up(client.rid)
                self._fences.start(client.rid, client.address.address, FenceReason.CLIENT_RECONNECT)
            self._follow_recovery()
            self._let_leave()
            times = [client.parked_since + RECONNECT_TIMEOUT for client in parked if client.parked_since is not None]
            deadline = self.clients.deadline(now)
            if deadline is not None:
                times.append(deadline)
            self._timers_due = trio.Event()
            with trio.move_on_at(min(times, default=math.inf)):
                await self._timers_due.wait()

    async def _watch_awaited(self) -> None:
        """A member that has left, or was mounted anew, need not be awaited for the whole recovery time."""
        while not self.clients.recovery_is_over(trio.current_time()):
            await trio.sleep(AWAITED_INTERVAL)
            if self.clients.awaited(trio.current_time()):
                running = await self._running_members()
                if running is not None:
                    self.clients.narrow(running)
                    self._follow_recovery()
                    self._let_leave()

    def _follow_recovery(self) -> None:
        """Say how many members of the previous server are awaited, and when that is over."""
        if not self.clients.recorded:
            self._conversations.all_greeted()
            self._wake_all()
        if not self._conversations.locks.recovering:
            self._requests.recovered.set()
        awaited = self.clients.awaited(trio.current_time())
        if awaited and not self._recovering:
            self._log(logging.INFO, f"waiting for {len(awaited)} clients to recover")
        if self._recovering and not awaited:
            lost = ", ".join(f"{rid:016x} in slot {slot}" for rid, slot in sorted(self.clients.expected.items()))
            if lost:
                text = f"recovery timeout expired for members {lost}: they no longer count as mounted"
                self._log(logging.WARNING, text)
            else:
                self._log(logging.INFO, "all clients recovered")
        self._recovering = len(awaited)

    async def _recover(self) -> None:
        """Fence the mounts of the previous server that do not come back: at once those that are known to be dead."""
        end = self.clients.started + RECOVERY_TIME
        if self.clients.recorded:
            text = f"waiting for {len(self.clients.recorded)} clients that the volume records"
            self._log(logging.INFO, text)
        while self.clients.recorded and trio.current_time() < end:
            for mount in list(self.clients.recorded.values()):
                if await self._fences.is_dead(mount.rid) and mount.rid in self.clients.recorded:
                    self._fence_lost(mount.rid, mount.address, "is dead")
            with trio.move_on_at(min(end, trio.current_time() + AWAITED_INTERVAL)):
                await trio.sleep_forever()
        await trio.sleep_until(end)
        for mount in self.clients.recorded.values():
            self._fence_lost(mount.rid, mount.address, "recovery timed out")
        for rid in self._conversations.locks.recovering:
            client = self.clients.clients.get(rid)
            if client is not None:
                self.clients.give_up(rid)
                self._fence_lost(rid, client.address, "recovery of locks timed out")

    def _fence_lost(self, rid: int, address: SlotAddress, why: str) -> None:
        if rid not in self._lost:
            self._lost.add(rid)
            self._log(logging.INFO, f"client {address} {why}, fencing rid {rid:016x}")
            self.clients.refused.add(rid)
            self._fences.start(rid, address.address, FenceReason.CLIENT_RECOVERY)

    async def _reclaim_forever(self) -> None:
        """Take back what fenced mounts had.  Raises ScoutfsError if one could not be fenced."""
        while True:
            while (view := self._fences.serviced()) is not None:
                if view.error:
                    raise ScoutfsError(f"fence error seen for rid {view.rid:016x}", errno.EIO)
                connection = self._connections.get(view.rid)
                if connection is not None:
                    connection.close("the mount is fenced")
                self.clients.refused.add(view.rid)
                await self._forget(view.rid)
                self.clients.fenced(view.rid)
                self._fences.remove(view.rid)
                self._log(logging.INFO, f"successfully reclaimed resources for fenced rid {view.rid:016x}")
                self._follow_recovery()
                self._let_leave()
            with trio.move_on_after(RECLAIM_INTERVAL):
                await self._fences.changed()

    def _say_once(self, what: object, level: int, text: str) -> None:
        """Bounded: hostile peers choose what there is to say."""
        if what not in self._said and len(self._said) < 100:
            self._said.add(what)
            self._log(level, text)
