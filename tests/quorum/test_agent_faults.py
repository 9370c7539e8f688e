"""The n-th failure: whichever operation of an agent fails, it ends with one clear line or goes on, with a valid block.

Two agents of three slots elect a leader, go on for a while and leave; the n-th operation of the first fails, for
n = 1, 2, 3 ... until a run has none left to fail.  The first is the one that leads, or the one that follows.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest
import trio
import trio.testing

from format.quorum import Event
from tests.faults import NthFails
from tests.quorum.members import Disk, Member, free_config, inline, running, until

Clock = trio.testing.MockClock
RUNS_MAX = 400


class NthSocket(socket.socket):
    """The n-th send or receive (from 1) goes wrong; one that finds nothing to receive counts too."""

    def __init__(self, sock: socket.socket, n: int, kind: str) -> None:
        super().__init__(fileno=sock.detach())
        self.n, self.kind, self.count = n, kind, 0

    @property
    def happened(self) -> bool:
        return self.count >= self.n

    def _is_it(self) -> bool:
        self.count += 1
        return self.count == self.n

    def recvfrom(self, size):
        if not self._is_it():
            return super().recvfrom(size)
        if self.kind in ("EBADF", "ECONNREFUSED"):
            raise OSError(getattr(errno, self.kind), os.strerror(getattr(errno, self.kind)))
        data, source = super().recvfrom(size)
        return (data[:-1], source) if self.kind == "short" else (b"", source)

    def sendto(self, data, address):
        if not self._is_it():
            return super().sendto(data, address)
        if self.kind == "nothing":
            return len(data)  # lost on its way
        if self.kind == "short":
            return super().sendto(data[:-1], address)
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))


class Slow(Random):
    """Always the longest of all timeouts."""

    def randrange(self, stop: int) -> int:  # type: ignore[override]
        return stop - 1


def pair(disk: Disk, first_leads: bool, **options: Any) -> tuple[Member, Member]:
    """Return two members, of which the first, with the options, leads or follows unless something goes wrong."""
    config = free_config()
    first = Member(disk, config, 0, heartbeat_timeout=2.0, random=Random(1) if first_leads else Slow(), **options)
    second = Member(
        disk, config, 1, heartbeat_timeout=2.0, random=Slow() if first_leads else Random(1), run_sync=inline
    )
    return first, second


async def run(disk: Disk, first: Member, second: Member, stay: float) -> None:
    """Elect, go on for `stay` seconds after FENCE, leave; then check what is left."""
    async with running(first, second):
        members = [first, second]

        def done() -> bool:
            alive = [m for m in members if m.result == "running"]
            return len(alive) < 2 or any(m.published and m.status.server_event == 3 for m in alive)

        await until(done, 60)
        await trio.sleep(stay)
        for member in members:
            member.agent.leave()
        await until(lambda: all(m.result != "running" for m in members), 60)
    assert second.result is None
    for member in members:
        check(disk, member)


def check(disk: Disk, member: Member) -> None:
    block = disk.block(member.slot)
    records = list(block.events.values())
    assert block.write_nr == max((record.write_nr for record in records), default=0)
    assert all(record.rid == member.rid for record in records)
    assert block.event(Event.STOP).term <= block.greatest_term
    errors = [text for level, text in member.lines if level == logging.ERROR]
    if member.result is None:
        assert not block.agent_may_run
        assert block.leader is None
        assert member.server.log[-1:] in ([], ["stop"])
    else:
        assert "\n" not in member.result
        assert errors[-1].startswith(member.result)
        assert errors[-1].endswith("This mount no longer takes part in quorum; remount it to restore that.")
        # no server goes on behind a silent agent
        assert member.server.log[-1:] in ([], ["stop"])
        assert not any("Traceback" in text for text in errors)


@pytest.mark.parametrize("leads", [True, False])
@pytest.mark.parametrize("kind", ["EIO", "short", "nothing", "delayed"])
def test_every_disk_operation_may_fail(tmp_path: Path, kind: str, leads: bool) -> None:
    ended = 0
    for n in range(1, RUNS_MAX):
        disk = Disk(tmp_path)
        io = NthFails(RUNS_MAX, kind)
        delays = Delays(n if kind == "delayed" else RUNS_MAX)

        async def main(disk: Disk = disk, io: NthFails = io, delays: Delays = delays, n: int = n) -> Member:
            first, second = pair(disk, leads, run_sync=delays, io=io)
            # what was needed to open the volume is not the agent's
            io.count, io.n = 0, n if kind != "delayed" else RUNS_MAX
            await run(disk, first, second, stay=1.2)
            return first

        member = trio.run(main, clock=Clock(autojump_threshold=0))
        ended += member.result is not None
        if io.happened is None and delays.count < delays.n:
            break
    assert n > 4
    # a transfer of a part is completed, and a delay only takes time
    assert (ended > 0) == (kind in ("EIO", "nothing"))


class Delays:
    """Runs disk operations at once, but the n-th (from 1) after 3 seconds."""

    def __init__(self, n: int) -> None:
        self.n, self.count = n, 0

    async def __call__(self, function: Callable[[], object]) -> object:
        self.count += 1
        if self.count == self.n:
            await trio.sleep(3)
        return await inline(function)


@pytest.mark.parametrize(
    ("kind", "leads"),
    [("EBADF", True), ("EBADF", False), ("ECONNREFUSED", True), ("short", True), ("nothing", True), ("nothing", False)],
)
def test_every_socket_operation_may_fail(tmp_path: Path, kind: str, leads: bool) -> None:
    ended = 0
    for n in range(1, RUNS_MAX):
        disk = Disk(tmp_path)

        async def main(disk: Disk = disk, n: int = n) -> Member:
            first, second = pair(disk, leads, run_sync=inline, wrap=partial(NthSocket, n=n, kind=kind))
            await run(disk, first, second, stay=0.15)
            return first

        member = trio.run(main, clock=Clock(autojump_threshold=0))
        ended += member.result is not None
        sock = member.agent._sock
        assert isinstance(sock, NthSocket)
        if not sock.happened:
            break
    assert n > 10
    # only a socket that is broken for good ends an agent
    assert (ended > 0) == (kind == "EBADF")
