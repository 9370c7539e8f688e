"""Agents on a real volume and real UDP sockets, with servers that only do what a test tells them."""

from __future__ import annotations

import contextlib
import lzma
import socket
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from pathlib import Path
from random import Random

import trio

from format.message import Message, MessageType
from format.quorum import Event, EventRecord, QuorumBlock, QuorumConfig, SlotAddress
from scoutfs.counters import Counters
from scoutfs.quorum.actions import STRICT_RULES, Rules
from scoutfs.quorum.agent import Agent, RunSync, bind_socket
from scoutfs.quorum.election import ServerStatus
from scoutfs.quorum.status import QuorumStatus, Role
from scoutfs.storage.system import SystemIO
from scoutfs.storage.volume import Volume
from tests import images


def free_config(slots: Iterable[int] = (0, 1, 2)) -> QuorumConfig:
    """Slots at 127.0.0.1, 127.0.0.2 ... with ports that were free a moment ago."""
    addresses = {}
    for number, slot in enumerate(slots, 1):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind((f"127.0.0.{number}", 0))
            addresses[slot] = SlotAddress(*probe.getsockname())
    return QuorumConfig(1, addresses)


class Disk:
    """The super and quorum blocks of a volume of the original in sparse files; each member opens it for itself."""

    def __init__(self, directory: Path, name: str = "v2-3slot") -> None:
        self.meta, self.data = directory / "m", directory / "d"
        recorded = images.manifest()[name]
        for role, path in (("meta", self.meta), ("data", self.data)):
            with lzma.open(images.DIRECTORY / recorded[role]["file"]) as stored, path.open("wb") as image:
                image.write(stored.read(32 * 4096))
                image.truncate(recorded[role]["device_bytes"])
        with contextlib.closing(self.open()) as volume:
            self.fsid = volume.fsid

    def open(self, io: SystemIO | None = None) -> Volume:
        return Volume.open(self.data, self.meta, io=io)

    def block(self, slot: int) -> QuorumBlock:
        """The block of `slot`, read past everything that the tests put in between."""
        with self.meta.open("rb") as file:
            file.seek((17 + slot) * 4096)
            return QuorumBlock.parse(file.read(4096), fsid=self.fsid, slot=slot)

    def raw(self) -> bytes:
        """The bytes of the super block and of all quorum blocks."""
        with self.meta.open("rb") as file:
            file.seek(16 * 4096)
            return file.read(16 * 4096)

    def change(self, slot: int, *events: tuple[Event, int, int]) -> None:
        """Write (event, rid, term) into the block of `slot` as another host would."""
        block = self.block(slot)
        for event, rid, term in events:
            block = block.updated(event, rid, term, 0)
        with self.meta.open("r+b") as file:
            file.seek((17 + slot) * 4096)
            file.write(block.build())

    def terms(self, slot: int) -> dict[str, int]:
        """Terms by event name, of the events that happened."""
        return {event.name: record.term for event, record in self.block(slot).events.items()}


class FakeServer:
    """Comes up and goes down at once, unless `ups` or `downs` are False; checks that its ELECT is on disk."""

    def __init__(self, disk: Disk, slot: int) -> None:
        self.disk, self.slot = disk, slot
        self.ups = self.downs = True
        self.log: list[str] = []
        self.status = ServerStatus.DOWN
        self.agent: Agent
        self.overwritten: tuple[tuple[int, EventRecord], ...] = ()

    def start(self, term: int, overwritten: tuple[tuple[int, EventRecord], ...] = ()) -> None:
        assert self.status is ServerStatus.DOWN
        assert self.disk.block(self.slot).event(Event.ELECT).term == term
        self.log.append(f"start {term}")
        self.overwritten = overwritten
        self.become(ServerStatus.STARTING)
        if self.ups:
            self.become(ServerStatus.UP)

    def stop(self) -> None:
        self.log.append("stop")
        if self.status is not ServerStatus.DOWN:
            self.become(ServerStatus.STOPPING)
            if self.downs:
                self.become(ServerStatus.DOWN)

    def become(self, status: ServerStatus) -> None:
        self.status = status
        self.agent.server_changed(status)


class Member:
    """An agent with all that it needs; `result` is what `Agent.run` returned, "running" until then."""

    def __init__(
        self,
        disk: Disk,
        config: QuorumConfig,
        slot: int,
        *,
        rid: int = 0,
        heartbeat_timeout: float = 10.0,
        rules: Rules = STRICT_RULES,
        run_sync: RunSync,
        io: SystemIO | None = None,
        wrap: Callable[[socket.socket], socket.socket] = lambda sock: sock,
        random: Random | None = None,
    ) -> None:
        self.slot, self.rid = slot, rid or 0xA000 + slot
        self.lines: list[tuple[int, str]] = []
        self.published: list[tuple[float, QuorumStatus]] = []
        self.counters = Counters()
        self.server = FakeServer(disk, slot)
        self.volume = disk.open(io)
        self.result: str | None = "running"
        self.scope = trio.CancelScope()
        self.agent = Agent(
            self.volume,
            config,
            slot=slot,
            rid=self.rid,
            heartbeat_timeout=heartbeat_timeout,
            sock=wrap(bind_socket(slot, config.slots[slot])),
            server=self.server,
            log=lambda level, text: self.lines.append((level, text)),
            counters=self.counters,
            publish=lambda status: self.published.append((trio.current_time(), status)),
            random=random or Random(slot),
            rules=rules,
            run_sync=run_sync,
        )
        self.server.agent = self.agent

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        try:
            with self.scope:
                self.result = await self.agent.run(task_status)
        finally:
            self.volume.close()

    def kill(self) -> None:
        """What SIGKILL leaves: nothing further is sent or written."""
        self.scope.cancel()

    @property
    def status(self) -> QuorumStatus:
        return self.published[-1][1]

    @property
    def leads(self) -> bool:
        return bool(self.published) and self.status.role is Role.LEADER and self.result == "running"

    def counted(self) -> dict[str, int]:
        return {name: value for name, value in self.counters.snapshot().items() if value}


async def inline(function: Callable[[], object]) -> object:
    """Disk operations take no time: with a mock clock no real thread may be waited for."""
    await trio.lowlevel.checkpoint()
    return function()


@contextlib.asynccontextmanager
async def running(*members: Member, deadline: float = 300.0) -> AsyncIterator[trio.Nursery]:
    """Run the agents of `members` for the time of the block."""
    with trio.fail_after(deadline):
        async with trio.open_nursery() as nursery:
            for member in members:
                await nursery.start(member.run)
            yield nursery
            nursery.cancel_scope.cancel()


async def until(condition: Callable[[], object], seconds: float = 60.0, step: float = 0.01) -> float:
    """Wait for a condition; returns the seconds it took, fails after `seconds`."""
    start = trio.current_time()
    while not condition():
        assert trio.current_time() - start < seconds, "the condition was not met in time"
        await trio.sleep(step)
    return trio.current_time() - start


@contextlib.contextmanager
def peer(config: QuorumConfig, slot: int) -> Iterator[socket.socket]:
    """A socket at the address of a slot that has no agent."""
    with contextlib.closing(bind_socket(slot, config.slots[slot])) as sock:
        yield sock


def datagram(disk: Disk, kind: MessageType, term: int, sender: int) -> bytes:
    return Message(term, kind, sender).build(disk.fsid)
