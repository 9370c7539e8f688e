"""Drives one election machine by hand: its disk is a dictionary, its peers are whatever a test feeds."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random

from format.message import Message, MessageType
from format.quorum import Event, QuorumBlock
from scoutfs.quorum.actions import (
    STRICT_RULES,
    Action,
    Count,
    Left,
    ReadBlocks,
    Report,
    Rules,
    Send,
    StartServer,
    StopServer,
    WriteEvent,
)
from scoutfs.quorum.election import Election, ServerStatus

FSID = 0x0123456789ABCDEF
RID = 0xA000000000000001
OTHER = 0xB000000000000002


class FixedRandom(Random):
    """Election timeouts of exactly 300 ms, heartbeat timeouts without jitter unless `jitter` is given."""

    def __init__(self, jitter: int = 0) -> None:
        super().__init__(0)
        self.jitter = jitter

    def randrange(self, stop: int) -> int:  # type: ignore[override]
        return 50 if stop == 100 else self.jitter


class Machine:
    """An Election with a disk: updates are written at once unless `slow_disk`; `log` tells what was done in words."""

    def __init__(
        self,
        slot: int = 0,
        present: tuple[int, ...] = (0, 1, 2),
        blocks: Mapping[int, QuorumBlock | None] | None = None,
        rules: Rules = STRICT_RULES,
        heartbeat_timeout: float = 10.0,
        rid: int = RID,
        random: Random | None = None,
    ) -> None:
        self.now = 0.0
        self.slot, self.rid = slot, rid
        self.blocks: dict[int, QuorumBlock | None] = {nr: QuorumBlock(FSID, nr) for nr in present}
        self.blocks.update(blocks or {})
        self.log: list[str] = []
        self.reports: list[str] = []
        self.counters: dict[str, int] = {}
        self.started: list[StartServer] = []
        self.slow_disk = False
        self.slow_reads = False
        self.pending: WriteEvent | None = None
        self.left: str | bool | None = False
        self.election = Election(
            slot=slot,
            present=present,
            rid=rid,
            heartbeat_timeout=heartbeat_timeout,
            blocks=dict(self.blocks),
            now=0.0,
            random=random or FixedRandom(),
            rules=rules,
        )
        self.perform(self.election.start(0.0))

    def perform(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Send(to, message):
                    self.log.append(f"{message.type.name} {message.term} to {to}")
                    self.election.sent(to, message, self.now)
                case WriteEvent():
                    self.pending = action
                    if not self.slow_disk:
                        self.write()
                case ReadBlocks():
                    if not self.slow_reads:
                        self.perform(self.election.blocks_read(dict(self.blocks), self.now))
                case StartServer(term):
                    self.started.append(action)
                    self.log.append(f"start server {term}")
                    self.election.server = ServerStatus.STARTING
                case StopServer():
                    self.log.append("stop server")
                case Report(_, text):
                    self.reports.append(text)
                case Count(counter, number):
                    self.counters[counter] = self.counters.get(counter, 0) + number
                case Left(error):
                    self.left = error

    def write(self) -> None:
        assert self.pending is not None
        event, term, named = self.pending
        self.pending = None
        own = self.blocks[self.slot]
        assert own is not None
        self.blocks[self.slot] = own.updated(event, named or self.rid, term, int(self.now * 1e9))
        self.log.append(f"{event.name} {term}")
        self.perform(self.election.wrote(self.now))

    def fail_write(self, error: str = "Input/output error") -> None:
        self.pending = None
        self.perform(self.election.write_failed(error, self.now))

    def receive(self, kind: MessageType, term: int, sender: int) -> None:
        self.perform(self.election.received(Message(term, kind, sender), self.now))

    def server(self, status: ServerStatus) -> None:
        self.perform(self.election.server_changed(status, self.now))

    def advance(self, seconds: float) -> None:
        """Let time pass; every timer that comes due fires a little after its deadline."""
        end = self.now + seconds
        while self.election.deadline < end:
            self.now = max(self.now, self.election.deadline) + 1e-6
            self.perform(self.election.timer(self.now))
        self.now = end

    def taken(self) -> list[str]:
        """Return what was logged since the last call."""
        log, self.log = self.log, []
        return log


def block_with(slot: int, *events: tuple[Event, int, int]) -> QuorumBlock:
    """A block with (event, rid, term) written in this order."""
    block = QuorumBlock(FSID, slot)
    for event, rid, term in events:
        block = block.updated(event, rid, term, 0)
    return block
