"""One TCP socket between a client and a server: options, connecting, reading and writing (spec 03 §1.5).

A thin shell: messages are cut by `framing` and kept by a `session`; here bytes are only moved.  Memory is bounded
whatever the peer does: a chunk of input, one incomplete message, one batch of output.
"""

from __future__ import annotations

import errno
import math
import os
import socket as _socket
from collections.abc import Callable
from typing import NamedTuple

import trio

from format.block import FormatError
from format.quorum import SlotAddress
from scoutfs.counters import Counters
from scoutfs.network.framing import Decoder, Frame, Side
from scoutfs.network.session import Batch, Request, Response, Session, SessionError

CONNECT_TIMEOUT = 1.0
"""Seconds that a client waits for one TCP connection."""

KEEPALIVE_DEFAULT_MS = 24_000

LINGER = 1.0
"""Seconds that the last messages of a connection get to arrive."""

_CHUNK = 65536
_KEEPALIVE_PROBES = 3
_KEEPALIVE_INTERVAL = 1

OnFrame = Callable[[Frame], None]


def configure(sock: trio.socket.SocketType, keepalive_ms: int) -> None:
    """Set the options of a connected socket: it breaks when the peer is silent for `keepalive_ms`.  Raises OSError."""
    idle = max(1, keepalive_ms // 1000 - _KEEPALIVE_PROBES * _KEEPALIVE_INTERVAL)
    sock.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_KEEPCNT, _KEEPALIVE_PROBES)
    sock.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_KEEPIDLE, idle)
    sock.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_KEEPINTVL, _KEEPALIVE_INTERVAL)
    sock.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_USER_TIMEOUT, keepalive_ms)
    sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_KEEPALIVE, 1)
    sock.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)


class Dialled(NamedTuple):
    """A connected socket, its own address and its peer's."""

    stream: trio.abc.HalfCloseableStream
    local: SlotAddress
    peer: SlotAddress


async def connect(address: SlotAddress, keepalive_ms: int, timeout: float = CONNECT_TIMEOUT) -> Dialled:
    """Connect to a server within `timeout` seconds.  Raises OSError."""
    sock = trio.socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)
    try:
        with trio.move_on_after(timeout) as scope:
            await sock.connect((address.address, address.port))
        if scope.cancelled_caught:
            raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
        configure(sock, keepalive_ms)
        return Dialled(trio.SocketStream(sock), *endpoints(sock))
    except BaseException:
        sock.close()
        raise


def endpoints(sock: trio.socket.SocketType) -> tuple[SlotAddress, SlotAddress]:
    """Return our address and the peer's.  Raises OSError when the peer is gone already."""
    return SlotAddress(*sock.getsockname()[:2]), SlotAddress(*sock.getpeername()[:2])


class Connection:
    """One connected socket.

    `run` reads until the connection ends and hands every message to `on_frame`, the greeting included; `attach` joins
    it to a session, whose messages go out from then on.  `reason` says why it ended.
    """

    def __init__(
        self,
        stream: trio.abc.HalfCloseableStream,
        side: Side,
        counters: Counters,
        local: SlotAddress,
        peer: SlotAddress,
    ) -> None:
        self.local, self.peer = local, peer
        self.session: Session | None = None
        self.reason = ""
        self._stream = stream
        self._decoder = Decoder(side)
        self._counters = counters
        self._greeting = b""
        self._finishing = False
        self._work = trio.Event()
        self._scope = trio.CancelScope()

    def __str__(self) -> str:
        return f"{self.local} -> {self.peer}"

    @property
    def closed(self) -> bool:
        """True once `close` was called or the socket is gone: nothing received after that counts."""
        return self._scope.cancel_called

    async def run(self, on_frame: OnFrame, *, greeting_timeout: float = math.inf) -> None:
        """Read and write until the connection ends; the socket is closed on return.

        Ends after `greeting_timeout` seconds unless a session was attached by then.
        """
        self._scope.deadline = trio.current_time() + greeting_timeout
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._write)
                    await self._read(on_frame)
                    self._scope.cancel()
            self.reason = self.reason or "no greeting in time"
        finally:
            self._scope.cancel()
            await trio.aclose_forcefully(self._stream)

    def greet(self, data: bytes) -> None:
        """Send the greeting or the answer to it, ahead of everything."""
        self._greeting += data
        self.wake()

    def attach(self, session: Session) -> None:
        """Send what `session` has to send, from now on."""
        self.session = session
        self._scope.deadline = math.inf
        self.wake()

    def receive(self, frame: Frame) -> Request | Response | None:
        """Take a message that is no greeting into the session; see `Session.receive`.  Raises SessionError."""
        session = self.session
        if session is None:
            raise SessionError(f"{frame.header.command.name} before the greeting was accepted")
        duplicates, unmatched = session.duplicates, session.unmatched
        received = session.receive(frame)
        if session.duplicates > duplicates:
            self._counters.add("net_recv_dropped_duplicate")
        if session.unmatched > unmatched:
            self._counters.add("net_dropped_response")
        return received

    def wake(self) -> None:
        """Something may have been queued in the session."""
        self._work.set()

    def close(self, reason: str) -> None:
        """End the connection now."""
        self.reason = self.reason or reason
        self._scope.cancel()

    def finish(self, reason: str) -> None:
        """Send what is queued, then end; at most `LINGER` seconds.  What still comes in is not looked at."""
        if self._finishing or self.closed:
            return
        self.reason = self.reason or reason
        self._finishing = True
        self._scope.deadline = trio.current_time() + LINGER
        self.wake()

    async def _read(self, on_frame: OnFrame) -> None:
        try:
            while data := await self._stream.receive_some(_CHUNK):
                self._counters.add("net_recv_bytes", len(data))
                if self._finishing:
                    continue
                self._decoder.feed(bytes(data))
                while not self.closed and not self._finishing and (frame := self._decoder.next_frame()) is not None:
                    self._counters.add("net_recv_messages")
                    on_frame(frame)
            self.reason = self.reason or "closed by the peer"
        except FormatError as error:
            self._counters.add("net_recv_invalid_message")
            self.reason = f"invalid message: {error}"
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self._counters.add("net_recv_error")
            self.reason = self.reason or _why(error)

    async def _write(self) -> None:
        try:
            while True:
                while (batch := self._next()).data:
                    await self._stream.send_all(batch.data)
                    self._counters.add("net_send_bytes", len(batch.data))
                    self._counters.add("net_send_messages", batch.messages)
                if self._finishing:
                    await self._stream.send_eof()
                    return
                self._work = trio.Event()
                await self._work.wait()
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self._counters.add("net_send_error")
            self.close(_why(error))

    def _next(self) -> Batch:
        """What to send now, the greeting first; once closed nothing: the session may be another connection's then."""
        if self._greeting:
            greeting, self._greeting = self._greeting, b""
            return Batch(greeting, 1)
        return Batch(b"", 0) if self.session is None or self.closed else self.session.take()


def _why(error: BaseException) -> str:
    cause = error.__cause__
    return os.strerror(cause.errno) if isinstance(cause, OSError) and cause.errno else "connection lost"
