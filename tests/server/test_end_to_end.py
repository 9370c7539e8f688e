"""Servers in their threads, one after the other, with mounts that write through real sockets."""

from __future__ import annotations

import trio

from format.net import Command
from scoutfs.errors import ScoutfsError
from scoutfs.fsck.check import check_volume
from scoutfs.fsck.kinds import Severity
from scoutfs.metadata.blocks import BlockReader
from scoutfs.metadata.snapshot import Snapshot
from scoutfs.network.connection import connect
from scoutfs.network.roots import parse_roots
from scoutfs.network.session import Request
from tests.metadata.servers import index_key
from tests.network.peer import Peer
from tests.server.mounts import FIRST, LAST, Mount
from tests.server.test_lifecycle import DEADLINE, DOWN, STARTING, STOPPING, UP, US, Member, member

__all__ = ["member"]

_SYNTHETIC = ("INDEX", "INODE", "LINK", "COUNT")
"""Kinds of findings about files: the items that these mounts write are of none."""


class NetworkMount:
    """A mount whose requests go to whichever server there is."""

    def __init__(self, member: Member, rid: int) -> None:
        self.member, self.rid = member, rid
        self.peer: Peer | None = None
        self.mount = Mount(rid, self.ask, member.volume.volume)

    async def greet(self) -> None:
        stream = (await connect(self.member.address, 24000)).stream
        session = None if self.peer is None else self.peer.session
        self.peer = Peer(stream, self.rid, fsid=self.member.volume.fsid, session=session)
        await self.peer.greet()

    async def ask(self, command: Command, payload: bytes = b"") -> bytes:
        assert self.peer is not None
        id = await self.peer.ask(command, payload)
        while True:
            frame = await self.peer.frame()
            assert frame is not None, "closed without an answer"
            received = self.peer.session.receive(frame)
            if isinstance(received, Request):
                answer = bytes(8) if received.command is Command.LOCK_RECOVER else b""
                self.peer.session.respond(received, answer)
                await self.peer.flush()
            elif received is not None and received.id == id:
                if received.error:
                    raise ScoutfsError(command.name, received.error.errno)
                return received.payload

    async def close(self) -> None:
        assert self.peer is not None
        await self.peer.close()


def findings(member: Member) -> list[str]:
    report = check_volume(member.volume.meta, None).report
    return [
        finding.text
        for finding in report.findings()
        if finding.kind.severity is Severity.ERROR and not finding.kind.name.startswith(_SYNTHETIC)
    ]


async def test_mounts_write_through_two_servers(member: Member) -> None:
    with trio.fail_after(3 * DEADLINE):
        member.start(5)
        member.reaches(STARTING, UP)
        mounts = [NetworkMount(member, rid) for rid in (US, 0x22)]
        for each in mounts:
            await each.greet()
            await each.mount.begin()

        async def work(each: NetworkMount, start: int) -> None:
            for number in range(start, start + 10):
                await each.mount.transaction(*range(number, 2000, 100 + each.rid % 50), data_blocks=200)

        async with trio.open_nursery() as nursery:
            for each in mounts:
                nursery.start_soon(work, each, 0)
        assert findings(member) == []
        member.server.stop()
        for each in mounts:
            assert each.peer is not None
            assert await each.peer.is_closed()
            await each.close()
        await trio.to_thread.run_sync(member.reaches, STOPPING, DOWN)
        member.start(6)
        await trio.to_thread.run_sync(member.reaches, STARTING, UP)
        for each in mounts:
            await each.greet()
        async with trio.open_nursery() as nursery:
            for each in mounts:
                nursery.start_soon(work, each, 10)
        roots = parse_roots(await mounts[0].ask(Command.GET_ROOTS))
        snapshot = Snapshot(BlockReader(member.volume.meta, member.volume.fsid), roots)
        expected = {
            index_key(major)
            for each in mounts
            for number in range(20)
            for major in range(number, 2000, 100 + each.rid % 50)
        }
        assert [key for key, _ in snapshot.items(FIRST, LAST)] == sorted(expected)
        # two of three slots: the last members leave together
        async with trio.open_nursery() as nursery:
            for each in mounts:
                nursery.start_soon(each.ask, Command.FAREWELL)
        for each in mounts:
            await each.close()
        assert findings(member) == []
        assert member.volume.read_super().raw.mounted_clients.ref.blkno == 0
        assert member.log.errors == []
