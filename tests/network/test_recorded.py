"""A kernel mount's conversations with its two servers, said again by our sessions."""

from __future__ import annotations

import pytest

from format.net import Command, Greeting, NetError
from scoutfs.network.framing import Decoder, Frame, Side
from scoutfs.network.session import ClientSession, Request, Response, ServerSession, Session
from tests.network.capture import Message, messages, tcp_streams


class Replay:
    """Our client and server sessions made to say what the mount and its server said, in an order that causes allow.

    The only freedom is `recv_seq`, which depends on when a sender looked: no message may acknowledge what had not come.
    """

    def __init__(self, client: ClientSession, up: list[Frame], down: list[Frame]) -> None:
        self.client, self.server = client, ServerSession(up[0].header.id)
        self.up, self.down = up, down
        self.asked_by_server: dict[int, Request] = {}
        self.asked_by_client: dict[int, Request] = {}

    def greet(self) -> None:
        hello, answer = self.up.pop(0), self.down.pop(0)
        wish = Greeting.parse(hello.payload)
        assert wish.server_term == self.client.server_term
        assert numbers(read(Side.SERVER, self.client.greet(wish))[0]) == numbers(hello)
        self.client.greeted(answer, wish)
        self.server.attach()

    def run(self) -> None:
        while self.up or self.down:
            if self.up and self.may_come(self.up[0]):
                self.client_says(self.up.pop(0))
            else:
                self.server_says(self.down.pop(0))
        self.client.detach()

    def may_come(self, frame: Frame) -> bool:
        """After what it acknowledges; a response after its request."""
        if frame.header.recv_seq > self.client.recv_seq:
            return False
        return not frame.header.response or frame.header.id in self.asked_by_server

    def client_says(self, frame: Frame) -> None:
        if frame.header.response:
            self.client.respond(self.asked_by_server.pop(frame.header.id), frame.payload, frame.header.error)
        elif not self.client.has_unsent:  # else it is said again
            self.client.request(frame.header.command, frame.payload)
        assert numbers(said(self.client)) == numbers(frame)
        got = self.server.receive(frame)
        if isinstance(got, Request):
            self.asked_by_client[got.id] = got
        else:
            assert isinstance(got, Response)

    def server_says(self, frame: Frame) -> None:
        if frame.header.response:
            self.server.respond(self.asked_by_client.pop(frame.header.id), frame.payload, frame.header.error)
        else:
            self.server.request(frame.header.command, frame.payload)
        assert numbers(said(self.server)) == numbers(frame)
        assert frame.header.recv_seq <= self.server.recv_seq
        got = self.client.receive(frame)
        if isinstance(got, Request):
            self.asked_by_server[got.id] = got
        else:
            assert isinstance(got, Response)


def read(side: Side, data: bytes) -> list[Frame]:
    decoder = Decoder(side)
    decoder.feed(data)
    frames = []
    while (frame := decoder.next_frame()) is not None:
        frames.append(frame)
    return frames


def numbers(frame: Frame | Message) -> tuple[object, ...]:
    """Everything but what was acknowledged."""
    if isinstance(frame, Message):
        return frame.seq, frame.id, frame.cmd, bool(frame.flags), frame.error, frame.payload
    header = frame.header
    return header.seq, header.id, header.command, header.response, header.error, frame.payload


def said(session: Session) -> Message:
    batch = session.take(1)
    assert batch.messages == 1
    (message,) = messages(batch.data)
    return message


@pytest.mark.parametrize("ports", [(33064, 52272), (33078, 52286)], ids=["mount 52f896", "mount 24fa06"])
def test_a_recorded_mount_and_its_servers_use_the_numbers_that_we_would(ports: tuple[int, int]) -> None:
    """From the first greeting through the leader's death to the farewell to the next: 133 and 137 messages each way."""
    streams = tcp_streams("cluster3/lo")
    client = ClientSession()
    for port in ports:
        (up,) = [read(Side.SERVER, stream.data) for stream in streams if stream.source[1] == port]
        (down,) = [read(Side.CLIENT, stream.data) for stream in streams if stream.target[1] == port]
        hello = up[0].header.seq
        # what the mount asks before it greets: what it asked the server that died, and what it queued meanwhile
        for frame in up[1:]:
            if frame.header.seq < hello and frame.header.id not in client.waiting:
                client.request(frame.header.command, frame.payload)
        replay = Replay(client, up, down)
        replay.greet()
        replay.run()
    assert client.waiting == ()
    assert client.server_term == 13  # spec 02 §5.4: slot 2 was elected with term 13


def test_an_error_of_the_recorded_server_is_read_as_one() -> None:
    """The one error in the captures: ENOENT of GET_LOG_MERGE."""
    errors = {
        (frame.header.command, frame.header.error)
        for capture in ("cluster3/lo", "three-guests/br0")
        for stream in tcp_streams(capture)
        if stream.source[1] in (19700, 19701, 19702)
        for frame in read(Side.CLIENT, stream.data)
        if frame.header.error
    }
    assert errors == {(Command.GET_LOG_MERGE, NetError.ENOENT)}
