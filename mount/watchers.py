"""The socket on which umount.scoutfs follows a mount that leaves, and on which it can have it abandoned.

Lines of JSON.  To whoever connects: `{"pids": [...]}`, then `{"say": text}` whenever there is something to know.  From
it: `{"do": "abandon"}`.  The end of the connection is the end of the mount process.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
from collections.abc import Callable, Iterable

import trio

_REQUEST_MAX = 4096


class Watchers:
    """Everybody who follows; `abandon` is called when one of them asks for that."""

    def __init__(self, pids: Callable[[], Iterable[int]], abandon: Callable[[], None]) -> None:
        self._pids, self._abandon = pids, abandon
        self._streams: dict[trio.SocketStream, trio.MemorySendChannel[str]] = {}
        self._last = ""

    def say(self, text: str) -> None:
        """Tell everybody who follows, now or later, until there is something else to tell."""
        self._last = text
        for channel in self._streams.values():
            # somebody who does not read misses lines, and nobody waits for him
            with contextlib.suppress(trio.WouldBlock):
                channel.send_nowait(text)

    async def serve(self, sock: socket.socket) -> None:
        """Accept on a listening socket until cancelled."""
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(sock))
        await trio.serve_listeners(self._follow, [listener])

    async def _follow(self, stream: trio.SocketStream) -> None:
        async with stream:
            if not _may_ask(stream):
                return
            send, receive = trio.open_memory_channel[str](100)
            self._streams[stream] = send
            try:
                if self._last:
                    send.send_nowait(self._last)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._tell, stream, receive)
                    await self._obey(stream)
                    nursery.cancel_scope.cancel()
            finally:
                del self._streams[stream]

    async def _tell(self, stream: trio.SocketStream, lines: trio.MemoryReceiveChannel[str]) -> None:
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await stream.send_all(_line({"pids": list(self._pids())}))
            async for text in lines:
                await stream.send_all(_line({"say": text}))

    async def _obey(self, stream: trio.SocketStream) -> None:
        received = b""
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while len(received) < _REQUEST_MAX and (data := await stream.receive_some(_REQUEST_MAX)):
                *lines, received = (received + bytes(data)).split(b"\n")
                for line in lines:
                    if _wants_abandon(line):
                        self._abandon()


def _may_ask(stream: trio.SocketStream) -> bool:
    """Whether the process at the other end is root's or our owner's."""
    credentials = stream.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _, uid, _ = struct.unpack("3i", credentials)
    return uid in (0, os.geteuid())


def _wants_abandon(line: bytes) -> bool:
    with contextlib.suppress(ValueError, RecursionError):
        request = json.loads(line)
        return isinstance(request, dict) and request.get("do") == "abandon"
    return False


def _line(message: dict[str, object]) -> bytes:
    return json.dumps(message).encode() + b"\n"
