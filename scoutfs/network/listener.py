"""The server's listening socket (spec 03 §1.5), and what it lets in.

Anybody can connect, so a connection has to earn its place: one that does not greet within a few seconds is dropped, and
of too many that have not greeted the oldest goes first, so that silent ones cannot keep out a client.
"""

from __future__ import annotations

import errno
import logging
import socket as _socket
from collections.abc import Awaitable, Callable

import trio

from format.quorum import SlotAddress
from scoutfs.counters import Counters
from scoutfs.network.connection import Connection, configure, endpoints
from scoutfs.network.framing import Side

BACKLOG = 255

GREETING_TIMEOUT = 5.0
"""Seconds from the acceptance of a connection to its greeting; a client greets as soon as it is connected."""

UNGREETED_MAX = 64
"""Connections that may be open without a greeting."""

_RESOURCES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_PEER_GONE = frozenset(
    {errno.ECONNABORTED, errno.EPROTO, errno.ENETDOWN, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETUNREACH}
)
_PAUSE = 0.1

Log = Callable[[int, str], None]
Handle = Callable[[Connection], Awaitable[None]]


def listen(address: SlotAddress) -> trio.socket.SocketType:
    """Bind and listen; clients can connect from here on, and wait to be accepted.  Raises OSError."""
    sock = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)
    try:
        sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
        sock.bind((address.address, address.port))
        sock.listen(BACKLOG)
        return trio.socket.from_stdlib_socket(sock)
    except OSError:
        sock.close()
        raise


class Listener:
    """Accepts connections and gives each to a task of its own.

    `keepalive_ms` is asked for each socket, since the option may change.
    """

    def __init__(
        self, sock: trio.socket.SocketType, counters: Counters, log: Log, keepalive_ms: Callable[[], int]
    ) -> None:
        self._sock = sock
        self._counters = counters
        self._log = log
        self._keepalive_ms = keepalive_ms
        self._ungreeted: dict[Connection, None] = {}
        self._complained: set[int] = set()

    async def serve(self, handle: Handle) -> None:
        """Accept until `close`, then return when the last connection has ended; raises OSError when the socket fails.

        `handle` runs the connection and calls `greeted` once it has earned its place.
        """
        async with trio.open_nursery() as nursery:
            failure = await self._accept_all(nursery, handle)
            if failure is not None:
                nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure

    def close(self) -> None:
        """Stop listening, and drop who has not greeted; clients stay until their connections end."""
        self._sock.close()
        for connection in self._ungreeted:
            connection.close("the server stops")

    def greeted(self, connection: Connection) -> None:
        """The connection is a client's."""
        self._ungreeted.pop(connection, None)

    async def _accept_all(self, nursery: trio.Nursery, handle: Handle) -> OSError | None:
        while True:
            try:
                connection = await self._accept()
            except trio.ClosedResourceError:
                return None
            except OSError as error:
                return None if self._sock.fileno() < 0 else error
            if connection is not None:
                self._ungreeted[connection] = None
                self._limit_ungreeted()
                nursery.start_soon(self._run, handle, connection)

    async def _run(self, handle: Handle, connection: Connection) -> None:
        try:
            await handle(connection)
        finally:
            if connection in self._ungreeted:
                self._ungreeted.pop(connection)
                self._complain(logging.INFO, f"dropped a connection from {connection.peer}: {connection.reason}")

    async def _accept(self) -> Connection | None:
        try:
            sock, _ = await self._sock.accept()
        except OSError as error:
            if error.errno in _PEER_GONE:
                return None
            if error.errno not in _RESOURCES:
                raise
            self._complain(logging.WARNING, f"cannot accept connections: {error.strerror}")
            await trio.sleep(_PAUSE)
            return None
        try:
            configure(sock, self._keepalive_ms())
            return Connection(trio.SocketStream(sock), Side.SERVER, self._counters, *endpoints(sock))
        except OSError:
            sock.close()
            return None

    def _limit_ungreeted(self) -> None:
        """Only those that are still open count: a closed one leaves when its task ends."""
        still_open = [connection for connection in self._ungreeted if not connection.closed]
        if len(still_open) > UNGREETED_MAX:
            still_open[0].close("too many connections without a greeting")

    def _complain(self, level: int, text: str) -> None:
        """Once for each level: whoever connects without being a client can do so without end."""
        if level not in self._complained:
            self._complained.add(level)
            self._log(level, f"{text} (further ones are not logged)")
