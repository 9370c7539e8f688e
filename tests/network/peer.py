"""A client at the other end of a stream, driven message by message."""

from __future__ import annotations

import trio

from format.net import Command, Greeting, GreetingFlag, NetError
from scoutfs.network.framing import Decoder, Frame, Side
from scoutfs.network.session import ClientSession, Request, Response


class Peer:
    """Speaks for a mount.  `session` may be handed on to the Peer of the mount's next connection."""

    def __init__(
        self,
        stream: trio.abc.HalfCloseableStream,
        rid: int,
        *,
        fsid: int,
        fmt_vers: int = 2,
        flags: GreetingFlag = GreetingFlag.QUORUM,
        session: ClientSession | None = None,
    ) -> None:
        self.stream, self.rid = stream, rid
        self.session = session or ClientSession()
        self.session.detach()
        self.flags = flags
        self._fsid, self._fmt_vers = fsid, fmt_vers
        self._decoder = Decoder(Side.CLIENT)
        self.requests: list[Request] = []

    async def say_hello(self, flags: GreetingFlag = GreetingFlag.NONE) -> Greeting:
        """Send a greeting without waiting for the answer."""
        wish = Greeting(self._fsid, self._fmt_vers, self.session.server_term, self.rid, self.flags | flags)
        await self.stream.send_all(self.session.greet(wish))
        return wish

    async def greet(self, flags: GreetingFlag = GreetingFlag.NONE) -> bool:
        """Greet; return whether the server is a new one."""
        wish = await self.say_hello(flags)
        frame = await self.frame()
        assert frame is not None, "closed without an answer"
        is_new = self.session.greeted(frame, wish)
        await self.flush()
        return is_new

    async def ask(self, command: Command, payload: bytes = b"") -> int:
        """Send a request and return its id."""
        id = self.session.request(command, payload)
        await self.flush()
        return id

    async def flush(self) -> None:
        while self.session.has_unsent:
            await self.stream.send_all(self.session.take().data)

    async def frame(self) -> Frame | None:
        """The next message; None at the end of the stream."""
        while (frame := self._decoder.next_frame()) is None:
            try:
                data = await self.stream.receive_some(65536)
            except trio.BrokenResourceError:
                return None
            if not data:
                return None
            self._decoder.feed(bytes(data))
        return frame

    async def answer(self) -> Response | None:
        """The next response; requests on the way are kept.  None at the end of the stream."""
        while (frame := await self.frame()) is not None:
            received = self.session.receive(frame)
            if isinstance(received, Response):
                return received
            if isinstance(received, Request):
                self.requests.append(received)
        return None

    async def call(self, command: Command, payload: bytes = b"") -> Response:
        """Send a request and wait for its response."""
        id = await self.ask(command, payload)
        response = await self.answer()
        assert response is not None, "closed without an answer"
        assert (response.id, response.command) == (id, command)
        return response

    async def is_closed(self) -> bool:
        """Whether the server ends the stream without another message."""
        return await self.frame() is None

    async def close(self) -> None:
        self.session.detach()
        await self.stream.aclose()


__all__ = ["NetError", "Peer"]
