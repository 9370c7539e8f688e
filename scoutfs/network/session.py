"""What a client and a server owe each other, across any number of sockets (spec 03 §2, §3.2 to §3.5).  Pure.

A session counts messages, keeps requests until they are answered and responses until they are acknowledged, drops what
comes twice, and sends everything open again on the next socket.  Each side has one object of its own: `ClientSession`
lives as long as the mount and crosses servers; a server keeps one `ServerSession` for each client and term, to which
sockets are attached and from which they are detached, so that nothing needs to be moved when a client comes back.

Queueing never fails and never waits.  The shell transmits what `take` returns whenever a socket is attached.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

from format.block import FormatError
from format.net import MAX_DATA_LEN, Command, Greeting, Header, NetError
from scoutfs.network.framing import Frame

BATCH = 16
"""Messages of one `take`."""

UNACKNOWLEDGED_MAX = 4096
"""Responses kept for a peer that never says that it got any: more than a correct peer can have outstanding."""

UNANSWERED_MAX = 1024
"""Requests of a peer that may wait for their response at one time."""


class SessionError(FormatError):
    """A message that a correct peer does not send: close the connection."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request of the peer; answer it with `Session.respond`.  `epoch` binds it to the server that sent it."""

    command: Command
    id: int
    payload: bytes
    epoch: int = 0


@dataclass(frozen=True, slots=True)
class Response:
    """The answer to a request of ours with this `id`; no payload when there is an error."""

    command: Command
    id: int
    error: NetError
    payload: bytes


class Batch(NamedTuple):
    """Bytes to transmit, and of how many messages."""

    data: bytes
    messages: int


class _Queued(NamedTuple):
    command: Command
    id: int
    payload: bytes
    response: bool
    error: NetError


class Session:
    """What both sides have in common.

    `duplicates` counts messages that came again, `unmatched` responses that answered nothing.
    """

    def __init__(self, next_seq: int) -> None:
        self.recv_seq = 0
        self.attached = False
        self.epoch = 0
        self.duplicates = 0
        self.unmatched = 0
        self._next_seq = next_seq
        self._next_id = 1
        self._open: dict[int, _Queued] = {}
        self._requests: dict[int, int] = {}
        self._responses: deque[int] = deque()
        self._unsent: deque[int] = deque()
        self._unanswered = 0

    # -- sending -------------------------------------------------------------------------------------------------

    def request(self, command: Command, payload: bytes = b"") -> int:
        """Queue a request and return its id; it stays until `receive` returns its response, or `forget`."""
        id, self._next_id = self._next_id, self._next_id + 1
        self._requests[id] = self._queue(_Queued(command, id, payload, False, NetError.NONE))
        return id

    def forget(self, id: int) -> None:
        """Drop a request of ours; if it was sent already, its response will answer nothing."""
        seq = self._requests.pop(id, None)
        if seq is not None:
            self._open.pop(seq, None)

    def respond(self, request: Request, payload: bytes = b"", error: NetError = NetError.NONE) -> bool:
        """Queue the answer to a request; False if the server that sent it is no longer ours: then nobody wants it."""
        if request.epoch != self.epoch:
            return False
        self._unanswered -= 1
        payload = b"" if error else payload
        self._responses.append(self._queue(_Queued(request.command, request.id, payload, True, error)))
        return True

    def take(self, limit: int = BATCH) -> Batch:
        """Return up to `limit` messages to transmit, in order; empty when there is nothing, or no socket, to send.

        They count as handed to the socket.
        """
        parts: list[bytes] = []
        messages = 0
        while self.attached and self._unsent and messages < limit:
            seq = self._unsent.popleft()
            queued = self._open.get(seq)
            if queued is None:
                continue
            header = Header(
                seq,
                self.recv_seq,
                queued.id,
                len(queued.payload),
                queued.command,
                queued.response,
                queued.error,
            )
            parts += [header.build(), queued.payload]
            messages += 1
        return Batch(b"".join(parts), messages)

    @property
    def has_unsent(self) -> bool:
        """Whether `take` may return something."""
        return self.attached and bool(self._unsent)

    @property
    def waiting(self) -> tuple[int, ...]:
        """Ids of our requests that are not answered, the oldest first."""
        return tuple(self._requests)

    @property
    def unacknowledged(self) -> int:
        """Responses of ours that the peer has not acknowledged."""
        return len(self._responses)

    def _queue(self, queued: _Queued) -> int:
        if len(queued.payload) > MAX_DATA_LEN:
            raise FormatError(f"payload of {len(queued.payload)} bytes, at most {MAX_DATA_LEN} fit a message")
        seq, self._next_seq = self._next_seq, self._next_seq + 1
        self._open[seq] = queued
        if self.attached:
            self._unsent.append(seq)
        return seq

    # -- receiving -----------------------------------------------------------------------------------------------

    def receive(self, frame: Frame) -> Request | Response | None:
        """Take a message that is no greeting; None if there is nothing to do.  Raises SessionError.

        A request is returned exactly once, whatever is sent again; so is the response to each request of ours.
        """
        header = frame.header
        if header.seq <= self.recv_seq:
            self.duplicates += 1
            return None
        if not header.response and self._unanswered >= UNANSWERED_MAX:
            raise SessionError(f"more than {UNANSWERED_MAX} unanswered requests")
        if len(self._responses) >= UNACKNOWLEDGED_MAX and header.recv_seq < self._responses[0]:
            raise SessionError(f"more than {UNACKNOWLEDGED_MAX} responses were never acknowledged")
        self.recv_seq = header.seq
        self._acknowledged(header.recv_seq)
        if not header.response:
            self._unanswered += 1
            return Request(header.command, header.id, frame.payload, self.epoch)
        return self._answered(frame)

    def _acknowledged(self, recv_seq: int) -> None:
        while self._responses and self._responses[0] <= recv_seq:
            self._open.pop(self._responses.popleft(), None)

    def _answered(self, frame: Frame) -> Response | None:
        """Match a response with exactly the id and the command of a request."""
        header = frame.header
        seq = self._requests.get(header.id)
        if seq is None or self._open[seq].command is not header.command:
            self.unmatched += 1
            return None
        self.forget(header.id)
        return Response(header.command, header.id, header.error, frame.payload)

    # -- sockets -------------------------------------------------------------------------------------------------

    def attach(self) -> None:
        """A socket's greeting was accepted: everything open goes out again, in its first order."""
        self.attached = True
        self._unsent = deque(self._open)

    def detach(self) -> None:
        """The socket is gone; what was open stays open."""
        self.attached = False
        self._unsent.clear()


class ServerSession(Session):
    """A server's side of one client, for one term of the server.

    `greeting_id` is the id of the greeting that attached the newest socket: an older one must not take the session
    from it.
    """

    def __init__(self, greeting_id: int) -> None:
        super().__init__(next_seq=2)  # the greeting response was 1
        self.greeting_id = greeting_id


class ClientSession(Session):
    """A client's side, for the life of the mount.

    `server_term` is the term of the last server that accepted a greeting, 0 before the first.
    """

    def __init__(self) -> None:
        super().__init__(next_seq=1)
        self.server_term = 0
        self._greeting_id = 0

    def greet(self, greeting: Greeting) -> bytes:
        """Encode the greeting that starts a new socket; it takes numbers from the same counters as all requests.

        `greeting.server_term` should be `server_term`.
        """
        seq, self._next_seq = self._next_seq, self._next_seq + 1
        self._greeting_id, self._next_id = self._next_id, self._next_id + 1
        payload = greeting.build()
        return Frame(Header(seq, self.recv_seq, self._greeting_id, len(payload), Command.GREETING), payload).build()

    def greeted(self, frame: Frame, greeting: Greeting) -> bool:
        """Judge the response to `greeting`, attach the socket, and return whether this is another server than before.

        Another server starts from nothing: our responses belonged to the old one and are dropped, our requests go to
        the new one.  Raises SessionError for a response that refuses us or is of another volume or format.
        """
        header = frame.header
        if header.id != self._greeting_id:
            raise SessionError(f"greeting response {header.id} answers no greeting of ours")
        if header.error:
            raise SessionError(f"the server refused the greeting: {header.error.name}")
        answer = _parse_greeting(frame.payload)
        if answer.fsid != greeting.fsid:
            raise SessionError(f"the server is of volume {answer.fsid:016x}, this is {greeting.fsid:016x}")
        if answer.fmt_vers != greeting.fmt_vers:
            raise SessionError(f"the server uses format version {answer.fmt_vers}, this mount {greeting.fmt_vers}")
        if answer.server_term == 0:
            raise SessionError("the server says that its term is 0")
        is_new = answer.server_term != self.server_term
        if is_new:
            self._forget_responses()
            self.recv_seq = 0
            self.server_term = answer.server_term
            self.epoch += 1
            self._unanswered = 0
        self.attach()
        return is_new

    def abandon(self) -> list[int]:
        """Drop everything; return the ids of the requests that will never be answered."""
        ids = list(self.waiting)
        self.detach()
        self._open.clear()
        self._requests.clear()
        self._responses.clear()
        return ids

    def _forget_responses(self) -> None:
        for seq in self._responses:
            self._open.pop(seq, None)
        self._responses.clear()


def _parse_greeting(payload: bytes) -> Greeting:
    try:
        return Greeting.parse(payload)
    except FormatError as error:
        raise SessionError(str(error)) from error
