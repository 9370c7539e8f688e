"""Whatever bytes come in, a server serves the clients that make sense, and a client goes on looking for a server."""

from __future__ import annotations

import random

import trio
from trio.testing import MockClock, memory_stream_pair

from format.net import Command, Greeting, GreetingFlag, Header
from format.quorum import SlotAddress
from scoutfs.network.connection import Dialled
from scoutfs.network.framing import Frame
from tests.client.test_client import SLOTS, US, B, mounted
from tests.network.capture import tcp_streams
from tests.server.fakes import RecordedLog, record_mount
from tests.server.world import FREE, FSID, serving

CASES = 1200


def damaged(source: random.Random, data: bytes, changes: int) -> bytes:
    """Some bytes changed, cut out and put in."""
    wire = bytearray(data)
    for _ in range(changes):
        at = source.randrange(len(wire))
        match source.randrange(4):
            case 0:
                wire[at] ^= 1 << source.randrange(8)
            case 1:
                del wire[at : at + source.randrange(1, 40)]
            case 2:
                wire[at:at] = source.randbytes(source.randrange(1, 40))
            case 3:
                wire[at : at + 8] = source.choice((0, 1, 2**64 - 1, 2**63)).to_bytes(8, "little")
        wire = wire or bytearray(1)
    return bytes(wire)


def to_server(source: random.Random) -> bytes:
    """A greeting that is accepted, and any requests and responses behind it."""
    rid, wire = source.randrange(1, 50), b""
    flags = source.choice((GreetingFlag.NONE, GreetingFlag.QUORUM, GreetingFlag.FAREWELL))
    greeting = Greeting(FSID, 2, source.choice((0, 0, 6, 7)), rid, flags)
    wire += Frame(Header(1, 0, source.randrange(1, 9), 40, Command.GREETING), greeting.build()).build()
    for seq in range(2, source.randrange(3, 12)):
        command = source.choice(list(Command)[1:])
        payload = source.randbytes(source.choice((0, 0, 0, 8, 32, 48, 1100)))
        response = source.random() < 0.2
        wire += Frame(Header(seq, source.randrange(12), seq, len(payload), command, response), payload).build()
    return wire


async def test_a_server_outlives_any_bytes(autojump_clock: MockClock) -> None:
    source = random.Random(5)
    recorded = [stream.data for stream in tcp_streams("three-guests/br0") if stream.target[1] == 19700]
    async with serving() as world:
        sane = await world.mounted(0x5A9E)
        for case in range(CASES):
            stream = world.dialled().stream
            wire = to_server(source) if case % 3 else source.choice(recorded)[:2000]
            wire = damaged(source, wire, source.randrange(3))
            size = source.randrange(1, 500)
            try:
                for start in range(0, len(wire), size):
                    await stream.send_all(wire[start : start + size])
            except trio.BrokenResourceError:
                pass
            if source.random() < 0.5:
                await trio.sleep(0.01)
            await stream.aclose()
            for view in world.fences.pending():
                world.fences.mark_fenced(view.rid)
        assert (await sane.call(Command.STATFS)).payload == FREE.build()
        assert not world.ended.is_set()
        assert len(world.log.lines) < 10 * CASES
        assert world.counters.snapshot()["net_recv_invalid_message"] > CASES // 30


class HostileServer:
    """Answers every greeting with a damaged conversation of a recorded server."""

    def __init__(self, fsid: int, nursery: trio.Nursery) -> None:
        self._source = random.Random(6)
        self._fsid, self._nursery = fsid, nursery
        streams = [stream for stream in tcp_streams("three-guests/br0") if stream.source[1] == 19700]
        self._recorded = [stream.data[72:2000] for stream in streams]
        self.connections = 0

    def dialled(self) -> Dialled:
        ours, theirs = memory_stream_pair()
        self.connections += 1
        self._nursery.start_soon(self._answer, theirs)
        return Dialled(ours, SlotAddress("10.0.0.9", 1), SlotAddress("127.0.0.2", 1))

    async def _answer(self, stream: trio.abc.HalfCloseableStream) -> None:
        source = self._source
        try:
            hello = await stream.receive_some(65536)
            id = int.from_bytes(hello[16:24], "little")
            greeting = Greeting(self._fsid, 2, source.randrange(1, 4), 1).build()
            wire = Frame(Header(1, 0, id, 40, Command.GREETING, True), greeting).build()
            wire = damaged(source, wire + source.choice(self._recorded), source.randrange(4))
            await stream.send_all(wire)
            await trio.sleep(0.05)
        except trio.BrokenResourceError:
            pass
        await stream.aclose()


async def test_a_client_outlives_any_server(autojump_clock: MockClock) -> None:
    async with mounted() as cluster, trio.open_nursery() as nursery:
        hostile = HostileServer(cluster.volume.fsid, nursery)
        record_mount(cluster.volume.volume, US)
        cluster.volume.elected(1, B, 5)
        cluster.worlds[SLOTS[1]] = hostile  # type: ignore[assignment]
        while hostile.connections < CASES:
            await trio.sleep(1)
        assert isinstance(cluster.log, RecordedLog)
        assert cluster.log.errors == []
        async with cluster.server(2, 0xC3, 6):
            with trio.fail_after(10):
                while cluster.client.server is None or cluster.client.server[1] != 6:
                    await trio.sleep(0.1)
                assert await cluster.client.statfs() == FREE
