"""Bytes of one socket cut into messages (spec 03 §1).  Pure: bytes in, messages out.

A header is judged as soon as its 32 bytes are there, before any of its payload: what cannot be valid never fills
memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from format.net import HEADER_SIZE, Command, Header, NetError, NetHeaderError


class Side(Enum):
    """Which end of the connection we are."""

    CLIENT = "client"
    SERVER = "server"


@dataclass(frozen=True, slots=True)
class Frame:
    """One whole message as it was on the wire."""

    header: Header
    payload: bytes

    def build(self) -> bytes:
        """Encode the message: 32 bytes and the payload."""
        return self.header.build() + self.payload


class Decoder:
    """Decodes what one socket receives.

    A socket starts with one greeting, a request at the server and a response at the client; nothing comes before it,
    and no other follows (spec 03 §1.4).  After an error the decoder is spent: every later call raises the same error.
    """

    def __init__(self, side: Side) -> None:
        self._side = side
        self._buffer = bytearray()
        self._header: Header | None = None
        self._greeted = False
        self._error: NetHeaderError | None = None

    def feed(self, data: bytes) -> None:
        """Add received bytes; take all messages with `next_frame` before feeding more."""
        self._buffer += data

    def next_frame(self) -> Frame | None:
        """Return the next message, None until more bytes come.  Raises NetHeaderError: close the connection."""
        if self._error is not None:
            raise self._error
        if self._header is None:
            if len(self._buffer) < HEADER_SIZE:
                return None
            self._header = self._judged()
        header, end = self._header, HEADER_SIZE + self._header.data_len
        if len(self._buffer) < end:
            return None
        payload = bytes(self._buffer[HEADER_SIZE:end])
        del self._buffer[:end]
        self._header = None
        return Frame(header, payload)

    @property
    def buffered(self) -> int:
        """Bytes that belong to messages not returned yet."""
        return len(self._buffer)

    def _judged(self) -> Header:
        try:
            header = Header.parse(bytes(self._buffer[:HEADER_SIZE]))
            self._check_greeting(header)
        except NetHeaderError as error:
            self._error = error
            self._buffer.clear()
            raise
        return header

    def _check_greeting(self, header: Header) -> None:
        if header.command is not Command.GREETING:
            if not self._greeted:
                raise NetHeaderError(f"{header.command.name} before a greeting")
            return
        if self._greeted:
            raise NetHeaderError("a second greeting")
        if header.response is not (self._side is Side.CLIENT):
            raise NetHeaderError(f"a greeting {'response' if header.response else 'request'} to the {self._side.value}")
        self._greeted = True


def greeting_response(greeting: Header, payload: bytes, error: NetError = NetError.NONE) -> bytes:
    """Encode the answer to a greeting request, message 1 of its socket (spec 03 §3.3).  An error takes no payload."""
    payload = b"" if error else payload
    return Frame(Header(1, 0, greeting.id, len(payload), Command.GREETING, True, error), payload).build()
