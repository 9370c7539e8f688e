"""The socket on which umount follows a mount."""

from __future__ import annotations

import json
from pathlib import Path

import trio

from mount.sockets import listening_socket
from mount.watchers import Watchers


async def lines_of(stream: trio.SocketStream, count: int) -> list[dict[str, object]]:
    data = b""
    while data.count(b"\n") < count:
        data += bytes(await stream.receive_some(1000))
    return [json.loads(line) for line in data.splitlines()]


async def test_followers_are_told_what_there_is_to_know(tmp_path: Path):
    watchers = Watchers(lambda: [17, 18], lambda: None)
    sock = listening_socket(tmp_path / "s")
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watchers.serve, sock)
            async with await trio.open_unix_socket(str(tmp_path / "s")) as first:
                assert await lines_of(first, 1) == [{"pids": [17, 18]}]
                watchers.say("waits for slot 2")
                assert await lines_of(first, 1) == [{"say": "waits for slot 2"}]
                # who comes later is told too
                async with await trio.open_unix_socket(str(tmp_path / "s")) as second:
                    assert await lines_of(second, 2) == [{"pids": [17, 18]}, {"say": "waits for slot 2"}]
            watchers.say("nobody listens")
            nursery.cancel_scope.cancel()


async def test_abandon(tmp_path: Path):
    asked = trio.Event()
    watchers = Watchers(list, asked.set)
    sock = listening_socket(tmp_path / "s")
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watchers.serve, sock)
            async with await trio.open_unix_socket(str(tmp_path / "s")) as stream:
                for garbage in (b"what\n", b"[]\n", b'{"do": "dance"}\n', b"[" * 2000 + b"\n", b'{"do": "aban'):
                    await stream.send_all(garbage)
                assert not asked.is_set()
                await stream.send_all(b'don"}\n')
                await asked.wait()
            nursery.cancel_scope.cancel()


async def test_a_flood_is_cut_off(tmp_path: Path):
    watchers = Watchers(list, lambda: None)
    sock = listening_socket(tmp_path / "s")
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watchers.serve, sock)
            async with await trio.open_unix_socket(str(tmp_path / "s")) as stream:
                try:
                    while True:
                        await stream.send_all(b"x" * 10_000)
                except trio.BrokenResourceError:
                    nursery.cancel_scope.cancel()
