"""What the mount and its member say to each other over a socketpair: lines of JSON, each `[kind, payload]`.

From the member: `started`, `failed` (errno, text), `status` (a `QuorumStatus`), `counters` (values that changed),
`fences` (the requests that `fence/` shows), `server` (what the server tells of itself), `log` (level, text) and `left`
(why, or null if it was asked to).  From the mount: `leave`, `option` (name, value) and `fence` (rid, what was written).

Neither side ever waits for the other: what is only worth knowing in its latest form replaces what was not sent yet.
"""

from __future__ import annotations

import json
import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

import trio

from scoutfs.errors import ScoutfsError
from scoutfs.quorum.fencing import FenceView
from scoutfs.quorum.status import QuorumStatus

LINE_MAX = 1 << 20
"""Bytes of a line at most, its newline included."""

QUEUE_MAX = 1000
"""Queued log lines at most; further ones are counted."""

_CHUNK = 65536


class LinkError(ScoutfsError):
    """The other side sent what it cannot mean, or is gone."""


class Entry(NamedTuple):
    """One thing that was said."""

    kind: str
    payload: Any


class Decoder:
    """Turns bytes as they come into entries.  Pure."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Entry]:
        """Return the entries that `data` completes; raises LinkError."""
        self._buffer += data
        *lines, rest = self._buffer.split(b"\n")
        self._buffer = bytearray(rest)
        if max(map(len, [*lines, rest])) >= LINE_MAX:
            raise LinkError(f"a line of the link is longer than {LINE_MAX} bytes")
        return [_decode(line) for line in lines]


def encode(kind: str, payload: Any = None) -> bytes:
    """Return the line that says `payload`."""
    return json.dumps([kind, payload], separators=(",", ":")).encode() + b"\n"


class Outbox:
    """What is still to be sent.  Any thread may put something in; one task sends it.

    `put` keeps only the latest of a kind and makes its payload when it is sent; `append` keeps all, in order, up to a
    limit for log lines.  Everything appended goes out before everything put.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._queue: deque[bytes] = deque()
        self._latest: dict[str, Callable[[], Any]] = {}
        self._lost = 0
        self._token: trio.lowlevel.TrioToken | None = None
        self._wake = trio.Event()
        self._closed = False

    def put(self, kind: str, produce: Callable[[], Any]) -> None:
        """Say what `produce` returns, instead of an earlier one of this kind that was not sent yet."""
        with self._lock:
            self._latest[kind] = produce
        self._notify()

    def append(self, kind: str, payload: Any = None) -> None:
        """Say `payload` after everything appended before."""
        with self._lock:
            if len(self._queue) < QUEUE_MAX or kind != "log":
                self._queue.append(encode(kind, payload))
            else:
                self._lost += 1
        self._notify()

    def close(self) -> None:
        """Nothing more will be put in: `send_all` returns once everything is sent."""
        self._closed = True
        self._notify()

    def take(self) -> bytes:
        """Return what is to be sent now, empty if there is nothing."""
        with self._lock:
            lines = list(self._queue)
            self._queue.clear()
            if self._lost:
                lines.append(encode("log", [logging.WARNING, f"{self._lost} log lines of the member were lost"]))
                self._lost = 0
            latest, self._latest = self._latest, {}
        lines += [encode(kind, produce()) for kind, produce in latest.items()]
        return b"".join(lines)

    async def send_all(self, stream: trio.SocketStream) -> None:
        """Send until cancelled or closed; raises LinkError when the other side is gone."""
        self._token = trio.lowlevel.current_trio_token()
        while True:
            wake = self._wake
            data = self.take()
            if data:
                await _send(stream, data)
            elif self._closed:
                return
            else:
                await wake.wait()

    def _notify(self) -> None:
        if self._token is None:
            return  # nobody waits yet: `send_all` begins by taking
        try:
            self._token.run_sync_soon(self._rouse, idempotent=True)
        except trio.RunFinishedError:
            return  # the loop is over, nothing can be sent any more

    def _rouse(self) -> None:
        self._wake.set()
        self._wake = trio.Event()


async def receive(stream: trio.SocketStream, decoder: Decoder) -> list[Entry]:
    """Return the next entries, at least one; raises LinkError at the end or if what came has no meaning."""
    while True:
        try:
            data = await stream.receive_some(_CHUNK)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise LinkError("the link is broken") from error
        if not data:
            raise LinkError("the link has ended")
        if entries := decoder.feed(bytes(data)):
            return entries


def encode_fences(views: tuple[FenceView, ...]) -> list[list[Any]]:
    """Return what `decode_fences` takes."""
    return [[view.rid, view.address, view.reason, view.started, view.fenced, view.error] for view in views]


def decode_fences(payload: Any) -> tuple[FenceView, ...]:
    """Return the fence requests of a `fences` entry; raises LinkError."""
    try:
        return tuple(
            FenceView(int(rid), str(address), str(reason), float(started), bool(fenced), bool(error))
            for rid, address, reason, started, fenced, error in payload
        )
    except (TypeError, ValueError, OverflowError) as error:
        raise LinkError(f"bad fence requests: {error}") from error


def decode_status(payload: Any) -> QuorumStatus:
    """Return the snapshot of a `status` entry; raises LinkError."""
    try:
        return QuorumStatus.from_dict(payload)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise LinkError(f"bad status: {error!r}") from error


def decode_counters(payload: Any) -> dict[str, int]:
    """Return the values of a `counters` entry; raises LinkError."""
    if not isinstance(payload, dict) or not all(isinstance(value, int) for value in payload.values()):
        raise LinkError("bad counters")
    return payload


def decode_pair(payload: Any, first: type, second: type) -> tuple[Any, Any]:
    """Return a payload of two values of the given types; raises LinkError."""
    if not isinstance(payload, list) or len(payload) != 2:
        raise LinkError(f"{payload!r} is not a pair")
    if not isinstance(payload[0], first) or not isinstance(payload[1], second):
        raise LinkError(f"{payload!r} is not a pair of {first.__name__} and {second.__name__}")
    return payload[0], payload[1]


def _decode(line: bytearray) -> Entry:
    try:
        said = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise LinkError(f"bad line: {error}") from error
    if not isinstance(said, list) or len(said) != 2 or not isinstance(said[0], str):
        raise LinkError("a line is no kind with a payload")
    return Entry(*said)


async def _send(stream: trio.SocketStream, data: bytes) -> None:
    try:
        await stream.send_all(data)
    except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
        raise LinkError("the link is broken") from error
