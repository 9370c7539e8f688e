"""Sockets: their options, what is read and written, what a hostile peer can make of them."""

from __future__ import annotations

import errno
import resource
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from format.net import MAX_DATA_LEN, Command, Greeting, Header
from format.quorum import SlotAddress
from scoutfs.counters import Counters
from scoutfs.network.connection import Connection, configure, connect, endpoints
from scoutfs.network.framing import Frame, Side, greeting_response
from scoutfs.network.listener import GREETING_TIMEOUT, UNGREETED_MAX, Listener, listen
from scoutfs.network.session import UNACKNOWLEDGED_MAX, Request, ServerSession
from tests.network import vectors
from tests.server.fakes import RecordedLog, free_port

DEADLINE = 20.0
SOMEWHERE = SlotAddress("127.0.0.1", 1)


class Server:
    """Accepts greetings of anybody and answers every request with its own payload."""

    def __init__(self, keepalive_ms: int = 24000, greeting_timeout: float = GREETING_TIMEOUT) -> None:
        self.greeting_timeout = greeting_timeout
        self.address = SlotAddress("127.0.2.1", free_port("127.0.2.1"))
        self.log, self.counters = RecordedLog(), Counters()
        self.sock = listen(self.address)
        self.listener = Listener(self.sock, self.counters, self.log, lambda: keepalive_ms)
        self.connections: list[Connection] = []
        self.received = 0

    async def handle(self, connection: Connection) -> None:
        self.connections.append(connection)

        def on_frame(frame: Frame) -> None:
            if frame.header.command is Command.GREETING:
                connection.greet(greeting_response(frame.header, frame.payload))
                session = ServerSession(frame.header.id)
                session.attach()
                connection.attach(session)
                self.listener.greeted(connection)
                return
            received = connection.receive(frame)
            if isinstance(received, Request) and connection.session is not None:
                self.received += 1
                connection.session.respond(received, received.payload)
                connection.wake()

        await connection.run(on_frame, greeting_timeout=self.greeting_timeout)


@asynccontextmanager
async def listening(keepalive_ms: int = 24000) -> AsyncIterator[Server]:
    server = Server(keepalive_ms)
    with trio.fail_after(DEADLINE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.listener.serve, server.handle)
            try:
                yield server
            finally:
                server.listener.close()
            nursery.cancel_scope.cancel()


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what the server does after the client can see its effect; the caller has a deadline."""
    while not condition():
        await trio.sleep(0.002)


OPTIONS = {
    "TCP_KEEPCNT": (socket.IPPROTO_TCP, socket.TCP_KEEPCNT),
    "TCP_KEEPIDLE": (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE),
    "TCP_KEEPINTVL": (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL),
    "TCP_USER_TIMEOUT": (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT),
    "SO_KEEPALIVE": (socket.SOL_SOCKET, socket.SO_KEEPALIVE),
    "TCP_NODELAY": (socket.IPPROTO_TCP, socket.TCP_NODELAY),
}


@pytest.mark.parametrize(
    ("keepalive_ms", "idle"),
    [(24000, 21), (60000, 57), (5999, 2), (3001, 1)],
    ids=["default", "minute", "rounded down", "least allowed"],
)
async def test_both_ends_break_when_the_peer_is_silent_for_the_time_of_the_option(keepalive_ms: int, idle: int) -> None:
    """Spec 03 §1.5; the kernel takes no idle time below a second."""
    async with listening(keepalive_ms) as server:
        stream, local, peer = await connect(server.address, keepalive_ms)
        assert peer == server.address
        await stream.send_all(vectors.GREETING)
        await stream.receive_some(1)
        theirs = server.connections[0]
        assert (theirs.local, theirs.peer) == (peer, local)
        assert isinstance(stream, trio.SocketStream)
        for sock in (stream.socket, theirs._stream.socket):
            found = {name: sock.getsockopt(*option) for name, option in OPTIONS.items()}
            assert found == {
                "TCP_KEEPCNT": 3,
                "TCP_KEEPIDLE": idle,
                "TCP_KEEPINTVL": 1,
                "TCP_USER_TIMEOUT": keepalive_ms,
                "SO_KEEPALIVE": 1,
                "TCP_NODELAY": 1,
            }
        await stream.aclose()


async def test_the_listening_socket() -> None:
    address = SlotAddress("127.0.2.1", free_port("127.0.2.1"))
    sock = listen(address)
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR) == 1
    with pytest.raises(OSError) as raised:
        listen(address)
    assert raised.value.errno == errno.EADDRINUSE
    # clients can connect and greet before anybody accepts
    stream, *_ = await connect(address, 24000)
    await stream.send_all(vectors.GREETING)
    await stream.aclose()
    sock.close()


async def test_nobody_listens() -> None:
    with pytest.raises(ConnectionRefusedError):
        await connect(SlotAddress("127.0.2.1", free_port("127.0.2.1")), 24000)


async def test_a_host_that_does_not_answer_is_given_up_after_a_second(autojump_clock: MockClock) -> None:
    """A full backlog answers nothing, as a host without power."""
    with socket.socket() as sock:
        sock.bind(("127.0.2.1", 0))
        sock.listen(0)
        waiting = []
        for _ in range(4):
            other = socket.socket()
            other.setblocking(False)
            other.connect_ex(sock.getsockname())
            waiting.append(other)
        with pytest.raises(TimeoutError):
            await connect(SlotAddress(*sock.getsockname()), 24000)
        assert trio.current_time() == 1.0
        for other in waiting:
            other.close()


async def test_everything_that_is_sent_arrives_whatever_its_pieces() -> None:
    async with listening() as server:
        stream, *_ = await connect(server.address, 24000)
        requests = [Frame(Header(n, n, n, n, Command.GET_ROOTS), bytes(n)) for n in range(1, 40)]
        wire = vectors.GREETING + b"".join(frame.build() for frame in requests)
        for start in range(0, len(wire), 7):
            await stream.send_all(wire[start : start + 7])
        answers = b""
        while len(answers) < len(wire):
            answers += await stream.receive_some(65536)
        await until(lambda: server.counters.snapshot()["net_send_bytes"] >= len(wire))
        counted = server.counters.snapshot()
        assert server.received == len(requests)
        assert counted["net_recv_bytes"] == counted["net_send_bytes"] == len(wire)
        assert counted["net_recv_messages"] == counted["net_send_messages"] == len(requests) + 1
        await stream.aclose()


# -- hostile peers -----------------------------------------------------------------------------------------------------


@contextmanager
def little_memory(mebibytes: int) -> Iterator[None]:
    """The process does not grow by more than this; more than an allocator keeps, far less than what is sent."""

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    before = resident()
    yield
    assert resident() - before < mebibytes << 20


async def send_junk(stream: trio.abc.SendStream, piece: bytes, size: int) -> int:
    """Send up to `size` bytes; return how many were taken before the peer broke the connection."""
    sent = 0
    try:
        while sent < size:
            await stream.send_all(piece)
            sent += len(piece)
    except trio.BrokenResourceError:
        pass
    return sent


@pytest.mark.parametrize("greeting", [b"", vectors.GREETING], ids=["at once", "after a greeting"])
async def test_junk_ends_the_connection_at_its_first_header(greeting: bytes) -> None:
    async with listening() as server:
        stream, *_ = await connect(server.address, 24000)
        await stream.send_all(greeting)
        with little_memory(8):
            sent = await send_junk(stream, b"\xa5" * 65536, 512 << 20)
        assert sent < 64 << 20
        await stream.aclose()
        await until(lambda: server.counters.snapshot()["net_recv_invalid_message"] == 1)


async def test_valid_messages_without_end_take_no_memory() -> None:
    """Duplicates of the greatest size are read and dropped."""
    async with listening() as server:
        stream, *_ = await connect(server.address, 24000)
        first = Frame(Header(1, 1, 1, 0, Command.STATFS), b"").build()
        duplicate = Frame(Header(1, 1, 1, MAX_DATA_LEN, Command.STATFS), bytes(MAX_DATA_LEN)).build()
        await stream.send_all(vectors.GREETING + first)
        with little_memory(8):
            assert await send_junk(stream, duplicate * 57, 64 << 20) >= 64 << 20
        await stream.aclose()
        assert server.received == 1


async def test_a_peer_that_asks_and_never_reads_or_acknowledges_is_cut() -> None:
    async with listening() as server:
        stream, *_ = await connect(server.address, 24000)
        await stream.send_all(vectors.GREETING)
        with little_memory(24):
            for n in range(1, 20_000, 100):
                burst = (Frame(Header(m, 0, m, 1000, Command.GET_ROOTS), bytes(1000)) for m in range(n, n + 100))
                try:
                    await stream.send_all(b"".join(frame.build() for frame in burst))
                except trio.BrokenResourceError:
                    break
        await until(lambda: server.connections[0].closed)
        assert server.received == UNACKNOWLEDGED_MAX
        await stream.aclose()


async def test_w12_silent_connections_are_dropped_in_time() -> None:
    async with listening() as server:
        server.greeting_timeout = 0.3
        stream, *_ = await connect(server.address, 24000)
        before = trio.current_time()
        assert await stream.receive_some(1) == b""
        assert trio.current_time() - before > 0.2
        await stream.aclose()
        await until(lambda: server.log.has("no greeting in time"))


async def test_of_too_many_silent_connections_the_oldest_go() -> None:
    async with listening() as server:
        streams = [(await connect(server.address, 24000)).stream for _ in range(UNGREETED_MAX + 20)]
        greeted = [(await connect(server.address, 24000)).stream for _ in range(5)]
        for stream in greeted:
            await stream.send_all(vectors.GREETING)
            assert await stream.receive_some(100) != b""
        for stream in streams[:20]:
            assert await stream.receive_some(1) == b""
        still_open = [connection for connection in server.connections if not connection.closed]
        assert len(still_open) <= UNGREETED_MAX + 5
        await until(lambda: len([text for text in server.log.lines if "dropped" in text]) == 1)
        for stream in streams + greeted:
            await stream.aclose()


async def test_no_descriptors_left_is_waited_out(monkeypatch: pytest.MonkeyPatch) -> None:
    async with listening() as server:
        accept, failures = server.sock.accept, [errno.EMFILE, errno.ENFILE, errno.ECONNABORTED]

        async def failing():
            if failures:
                await trio.lowlevel.checkpoint()
                raise OSError(failures.pop(), "not now")
            return await accept()

        monkeypatch.setattr(type(server.sock), "accept", lambda sock: failing())
        # the accept that waits now is the real one
        first, *_ = await connect(server.address, 24000)
        second, *_ = await connect(server.address, 24000)
        await second.send_all(vectors.GREETING)
        assert await second.receive_some(100) != b""
        assert not failures
        await until(lambda: server.log.has("cannot accept connections"))
        await first.aclose()
        await second.aclose()


async def test_a_listening_socket_that_fails_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server()

    async def failing():
        await trio.lowlevel.checkpoint()
        raise OSError(errno.EIO, "failed")

    monkeypatch.setattr(type(server.sock), "accept", lambda sock: failing())
    with pytest.raises(OSError, match="failed"):
        await server.listener.serve(server.handle)
    server.sock.close()


# -- ending ------------------------------------------------------------------------------------------------------------


def pair() -> tuple[Connection, trio.abc.HalfCloseableStream]:
    ours, theirs = memory_stream_pair()
    return Connection(ours, Side.SERVER, Counters(), SOMEWHERE, SOMEWHERE), theirs


async def test_a_finished_connection_sends_what_is_queued_and_ignores_what_comes(autojump_clock: MockClock) -> None:
    connection, theirs = pair()
    seen = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(connection.run, seen.append)
        connection.greet(b"the answer")
        connection.finish("no more")
        await theirs.send_all(vectors.GREETING * 1000)
        assert await theirs.receive_some(100) == b"the answer"
        assert await theirs.receive_some(100) == b""
        await theirs.aclose()
    assert seen == []
    assert connection._decoder.buffered == 0
    assert connection.reason == "no more"
    assert trio.current_time() < 0.5


async def test_a_finished_connection_does_not_wait_long_for_the_peer(autojump_clock: MockClock) -> None:
    connection, _theirs = pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(connection.run, lambda frame: None)
        await wait_all_tasks_blocked()
        connection.finish("no more")
    assert trio.current_time() == 1.0


async def test_a_closed_connection_takes_nothing_from_its_session_any_more() -> None:
    """The session may be attached to another connection by then: a message must not go into the dying socket."""
    connection, _theirs = pair()
    session = ServerSession(1)
    session.attach()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(connection.run, lambda frame: None)
        connection.attach(session)
        await wait_all_tasks_blocked()
        session.request(Command.LOCK_RECOVER, bytes(32))
        connection.wake()  # the writer is about to run
        connection.close("superseded")
    assert session.has_unsent


async def test_endpoints_of_a_peer_that_is_gone() -> None:
    server = Server()
    client = socket.create_connection((server.address.address, server.address.port))
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
    sock, _ = await server.sock.accept()
    client.close()  # a reset
    await trio.lowlevel.wait_readable(sock)
    configure(sock, 24000)
    with pytest.raises(OSError):
        endpoints(sock)
    sock.close()
    server.sock.close()


async def test_the_greeting_that_a_server_reads_is_the_one_that_a_client_writes() -> None:
    connection, theirs = pair()
    seen: list[Frame] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(connection.run, seen.append)
        await theirs.send_all(vectors.GREETING)
        await wait_all_tasks_blocked()
        connection.close("enough")
    assert Greeting.parse(seen[0].payload).rid == vectors.RID
