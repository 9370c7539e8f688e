"""What a client answers to its server (spec 03 §4).  Pure.

A mount at this stage holds no locks, has no log trees and no open inodes, so every answer is that there is nothing.
"""

from __future__ import annotations

from collections.abc import Callable

from format.block import FormatError
from format.keys import KEY_SIZE
from format.net import Command
from format.payloads import OpenInoMap, OpenInoMapArgs, build_lock_recover, parse_payload
from scoutfs.network.session import Request, SessionError


def answer(request: Request) -> bytes:
    """Return the payload of the response to a server's request.  Raises SessionError for what no server asks us."""
    handler = _HANDLERS.get(request.command)
    if handler is None:
        raise SessionError(f"{request.command.name} is no request to this client")
    try:
        return handler(request.payload)
    except FormatError as error:
        raise SessionError(str(error)) from error


def _sync_log_trees(payload: bytes) -> bytes:
    _expect(payload, 0, "SYNC_LOG_TREES")
    return b""


def _lock_recover(payload: bytes) -> bytes:
    _expect(payload, KEY_SIZE, "LOCK_RECOVER")
    return build_lock_recover([])


def _open_ino_map(payload: bytes) -> bytes:
    args = parse_payload(OpenInoMapArgs, payload, "OPEN_INO_MAP")
    return OpenInoMap.build({"args": args, "bits": [0] * 16})


def _expect(payload: bytes, size: int, what: str) -> None:
    if len(payload) != size:
        raise FormatError(f"{what}: payload of {len(payload)} bytes, expected {size}")


_HANDLERS: dict[Command, Callable[[bytes], bytes]] = {
    Command.SYNC_LOG_TREES: _sync_log_trees,
    Command.LOCK_RECOVER: _lock_recover,
    Command.OPEN_INO_MAP: _open_ino_map,
}
