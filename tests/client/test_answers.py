"""What a client without locks, log trees and open inodes answers to its server."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from format.net import Command
from scoutfs.client.answers import answer
from scoutfs.network.session import Request, SessionError
from tests.network import vectors


def test_no_locks_to_recover() -> None:
    """Spec 03 §13, V8 and V9."""
    assert answer(Request(Command.LOCK_RECOVER, 1, vectors.LOCK_RECOVER[32:])) == vectors.LOCK_RECOVER_RESPONSE[32:]


def test_nothing_to_sync() -> None:
    assert answer(Request(Command.SYNC_LOG_TREES, 3, b"")) == b""


def test_no_inodes_open() -> None:
    args = bytes.fromhex("01000000000000000700000000000000")
    assert answer(Request(Command.OPEN_INO_MAP, 1, args)) == args + bytes(128)


@given(command=st.sampled_from(Command), payload=st.binary(max_size=1100))
def test_anything_else_breaks_the_connection(command: Command, payload: bytes) -> None:
    sizes = {Command.LOCK_RECOVER: 32, Command.SYNC_LOG_TREES: 0, Command.OPEN_INO_MAP: 16}
    request = Request(command, 1, payload)
    if sizes.get(command) == len(payload):
        assert len(answer(request)) in (0, 8, 144)
    else:
        with pytest.raises(SessionError):
            answer(request)
