"""A client and its servers over sockets that lose, cut and delay: what may never happen, whatever the schedule."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import example, given, settings
from hypothesis import strategies as st

from format.net import Command, Greeting
from scoutfs.network.framing import Decoder, Frame, Side, greeting_response
from scoutfs.network.session import ClientSession, Request, Response, ServerSession

FSID, RID = 1, 2
FROM_CLIENT, FROM_SERVER = Command.STATFS, Command.SYNC_LOG_TREES


@dataclass
class Socket:
    """Bytes under way in both directions, and what each end has decoded so far."""

    server: Server
    up: bytearray = field(default_factory=bytearray)
    down: bytearray = field(default_factory=bytearray)
    at_server: Decoder = field(default_factory=lambda: Decoder(Side.SERVER))
    at_client: Decoder = field(default_factory=lambda: Decoder(Side.CLIENT))
    session: ServerSession | None = None


@dataclass
class Server:
    term: int
    session: ServerSession | None = None
    pending: list[Request] = field(default_factory=list)
    executed: list[int] = field(default_factory=list)
    asked: dict[int, bytes] = field(default_factory=dict)
    answered: dict[int, bytes] = field(default_factory=dict)


class World:
    def __init__(self) -> None:
        self.client = ClientSession()
        self.server = Server(1)
        self.socket: Socket | None = None
        self.wish = Greeting(FSID, 2, 0, RID)
        self.asked: list[int] = []
        self.answers: dict[int, bytes] = {}
        self.pending: list[Request] = []
        self.executed: list[tuple[int, int]] = []

    # -- what a schedule does ------------------------------------------------------------------------------------

    def ask(self) -> None:
        self.asked.append(self.client.request(FROM_CLIENT, b"question %d" % len(self.asked)))

    def ask_client(self) -> None:
        session = self.server.session
        if session is not None:
            payload = b"term %d question %d" % (self.server.term, len(self.server.asked))
            self.server.asked[session.request(FROM_SERVER, payload)] = payload

    def serve(self, which: int) -> None:
        """A handler of the server finishes, in any order."""
        if self.server.pending:
            request = self.server.pending.pop(which % len(self.server.pending))
            assert self.server.session is not None
            assert self.server.session.respond(request, b"answer to " + request.payload)

    def serve_at_client(self, which: int) -> None:
        if self.pending:
            request = self.pending.pop(which % len(self.pending))
            self.client.respond(request, b"answer to " + request.payload)

    def connect(self) -> None:
        if self.socket is None:
            self.socket = Socket(self.server)
            self.wish = Greeting(FSID, 2, self.client.server_term, RID)
            self.socket.up += self.client.greet(self.wish)

    def cut(self) -> None:
        if self.socket is not None:
            self.client.detach()
            if self.socket.session is not None and self.socket.session is self.server.session:
                self.socket.session.detach()
            self.socket = None

    def elect(self) -> None:
        """The server dies with all it knew; another one starts."""
        self.cut()
        self.server = Server(self.server.term + 1)

    def move(self, up: int, down: int) -> None:
        """Deliver some bytes each way; the rest stays under way, or is lost when the socket is cut."""
        socket = self.socket
        if socket is None:
            return
        if socket.session is not None:
            socket.down += socket.session.take().data
        socket.up += self.client.take().data
        arrived, socket.up = socket.up[:up], socket.up[up:]
        socket.at_server.feed(bytes(arrived))
        while self.socket is socket and (frame := socket.at_server.next_frame()) is not None:
            self.server_receives(socket, frame)
        arrived, socket.down = socket.down[:down], socket.down[down:]
        socket.at_client.feed(bytes(arrived))
        while self.socket is socket and (frame := socket.at_client.next_frame()) is not None:
            self.client_receives(frame)

    # -- what each end makes of it -------------------------------------------------------------------------------

    def server_receives(self, socket: Socket, frame: Frame) -> None:
        server = self.server
        if frame.header.command is Command.GREETING:
            wish = Greeting.parse(frame.payload)
            if wish.server_term != server.term or server.session is None:
                assert wish.server_term != server.term, "the client knows our term, we do not know the client"
                server.session = ServerSession(frame.header.id)
            server.session.attach()
            socket.session = server.session
            socket.down += greeting_response(frame.header, Greeting(FSID, 2, server.term, RID).build())
            return
        assert socket.session is server.session
        assert server.session is not None
        got = server.session.receive(frame)
        if isinstance(got, Request):
            assert got.id not in server.executed, "executed twice by one server"
            assert server.executed == [] or got.id > server.executed[-1], "out of order"
            server.executed.append(got.id)
            server.pending.append(got)
        elif isinstance(got, Response):
            assert got.id not in server.answered
            assert got.payload == b"answer to " + server.asked[got.id], "the answer to another server's question"
            server.answered[got.id] = got.payload

    def client_receives(self, frame: Frame) -> None:
        if frame.header.command is Command.GREETING:
            self.client.greeted(frame, self.wish)
            return
        got = self.client.receive(frame)
        if isinstance(got, Response):
            assert got.id not in self.answers, "answered twice"
            assert got.payload == b"answer to question %d" % self.asked.index(got.id)
            self.answers[got.id] = got.payload
        elif isinstance(got, Request):
            assert (self.client.server_term, got.id) not in self.executed, "executed twice by the client"
            self.executed.append((self.client.server_term, got.id))
            self.pending.append(got)

    def settle(self) -> None:
        """No more faults: everything asked of whoever lives now must be answered."""
        self.connect()
        for _ in range(3 * (len(self.asked) + len(self.server.asked)) + 5):
            self.move(1 << 20, 1 << 20)
            self.serve(0)
            self.serve_at_client(0)
        assert sorted(self.answers) == self.asked
        assert set(self.server.answered) == set(self.server.asked)
        assert self.client.waiting == ()


SIZES = st.sampled_from([0, 1, 20, 31, 32, 33, 40, 72, 100, 1 << 20])
STEPS = st.one_of(
    st.tuples(st.sampled_from(["ask", "ask_client", "connect", "cut"])),
    st.tuples(st.sampled_from(["serve", "serve_at_client"]), st.integers(0, 5)),
    st.tuples(st.just("move"), SIZES, SIZES),
    st.tuples(st.just("move"), st.just(1 << 20), st.just(1 << 20)),
    st.tuples(st.just("elect")),
)


@settings(max_examples=400, deadline=None)
@given(st.lists(STEPS, max_size=60))
@example([("connect",), ("move", 1 << 20, 0), ("cut",)])  # the very first greeting response is lost
@example(
    [("connect",), ("move", 1 << 20, 1 << 20), ("ask",), ("move", 1 << 20, 0), ("cut",), ("serve", 0), ("connect",)]
)
def test_every_request_is_executed_once_by_each_server_and_answered_once(steps: list[tuple[object, ...]]) -> None:
    world = World()
    for name, *arguments in steps:
        getattr(world, str(name))(*arguments)
    world.settle()
