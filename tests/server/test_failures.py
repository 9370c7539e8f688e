"""Every operation of a starting server, and of a client that looks for it, fails once: the n-th, for every n."""

from __future__ import annotations

import errno
import os
import queue
import socket
from types import SimpleNamespace

import pytest
import trio

from format.quorum import Event
from scoutfs.client.client import Client
from scoutfs.counters import Counters
from scoutfs.errors import ScoutfsError
from scoutfs.network import listener
from scoutfs.quorum.blocks import update_block
from scoutfs.quorum.election import ServerStatus
from scoutfs.quorum.fencing import FenceRequests
from scoutfs.server.lifecycle import ServerThread
from scoutfs.server.statfs import read_statfs
from scoutfs.storage.volume import Volume
from tests import images
from tests.faults import KINDS, NthFails
from tests.memory import Image, MemoryIO
from tests.server.fakes import RecordedLog, quorum_config

RID = 0xA1
DEADLINE = 10.0


class Faulty(NthFails, MemoryIO):
    """Devices in memory; nothing fails until `arm`."""

    def __init__(self, images: dict[str, Image]) -> None:
        MemoryIO.__init__(self, images)
        NthFails.__init__(self, 0, "EIO")

    def arm(self, n: int, kind: str) -> None:
        self.n, self.kind, self.count, self.happened = n, kind, 0, None


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Image]:
    meta, data = images.unpack_volume("v2-3slot", tmp_path_factory.mktemp("volume"))
    return {"m": Image.of_file(meta), "d": Image.of_file(data)}


def open_volume(recorded: dict[str, Image]) -> tuple[Volume, Faulty]:
    io = Faulty({path: image.copy() for path, image in recorded.items()})
    volume = Volume.open("d", "m", io=io)
    for event in (Event.BEGIN, Event.TERM, Event.ELECT):
        update_block(volume, 0, event, RID, 1)
    return volume, io


@pytest.mark.parametrize("kind", KINDS)
def test_a_server_that_cannot_read_does_not_come_up_and_the_next_one_does(
    kind: str, recorded: dict[str, Image]
) -> None:
    config = quorum_config(3)
    failed = 0
    for n in range(1, 100):
        volume, io = open_volume(recorded)
        log, statuses = RecordedLog(), queue.Queue[ServerStatus]()
        server = ServerThread(
            volume,
            config,
            0,
            RID,
            2,
            fences_factory=lambda nursery, log=log: FenceRequests(nursery, log),
            log=log,
            counters=Counters(),
            on_status=statuses.put,
        )
        before = {path: image.copy() for path, image in io.images.items()}
        io.arm(n, kind)
        server.start(1)
        seen = []
        while not seen or seen[-1] not in (ServerStatus.UP, ServerStatus.DOWN):
            seen.append(statuses.get(timeout=DEADLINE))
        if seen[-1] is ServerStatus.UP:
            server.stop()
            while statuses.get(timeout=DEADLINE) is not ServerStatus.DOWN:
                pass
        assert io.images == before, "a server writes nothing"
        if io.happened is None:
            assert seen[-1] is ServerStatus.UP
            break
        if kind == "short":
            assert seen[-1] is ServerStatus.UP  # the rest is read with the next call
        else:
            assert seen[-1] is ServerStatus.DOWN
            (error,) = log.errors
            assert error.startswith("server failed to ")
            assert "m: reading 4096 bytes at" in error
            failed += 1
    assert io.happened is None
    assert failed >= (0 if kind == "short" else 3 + 1), "three quorum blocks and the super block"


@pytest.mark.parametrize("kind", ["EIO", "nothing"])
def test_statfs_fails_once_and_works_again(kind: str, recorded: dict[str, Image]) -> None:
    volume, io = open_volume(recorded)
    expected = read_statfs(volume)
    io.arm(0, kind)
    read_statfs(volume)
    operations = io.count
    assert operations >= 1
    for n in range(1, operations + 1):
        io.arm(n, kind)
        with pytest.raises(ScoutfsError, match="m: reading") as raised:
            read_statfs(volume)
        assert raised.value.errno == errno.EIO
        assert read_statfs(volume) == expected


async def test_a_client_looks_again_whatever_failed(recorded: dict[str, Image]) -> None:
    """Nothing listens, so that all it does is to look: every look ends in the next one."""
    volume, io = open_volume(recorded)
    log = RecordedLog()
    for n in range(1, 8):
        async with trio.open_nursery() as nursery:
            client = Client(volume, RID, member=True, keepalive_ms=24000, log=log, counters=Counters())
            io.arm(n, "EIO")
            await nursery.start(client.run)
            with trio.fail_after(DEADLINE):
                while io.happened is None or "slot 0 at" not in client.waiting_for:
                    await trio.sleep(0.01)
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("call", ["setsockopt", "bind", "listen"])
def test_a_socket_that_fails(call: str, recorded: dict[str, Image], monkeypatch: pytest.MonkeyPatch) -> None:
    volume, _ = open_volume(recorded)
    log, statuses = RecordedLog(), queue.Queue[ServerStatus]()
    config = quorum_config(3)
    server = ServerThread(
        volume,
        config,
        0,
        RID,
        2,
        fences_factory=lambda nursery: FenceRequests(nursery, log),
        log=log,
        counters=Counters(),
        on_status=statuses.put,
    )

    class Failing(socket.socket):
        pass

    def fail(*arguments: object) -> None:
        raise OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS))

    setattr(Failing, call, fail)
    monkeypatch.setattr(listener, "_socket", SimpleNamespace(**{**vars(socket), "socket": Failing}))
    server.start(1)
    assert [statuses.get(timeout=DEADLINE) for _ in range(3)][-1] is ServerStatus.DOWN
    number = errno.ENOBUFS
    assert log.errors == [f"server failed to bind to {config.slots[0]}: {os.strerror(number)}, error -{number}"]
