"""A simulated cluster under a script of faults, with its timeline."""

from __future__ import annotations

from typing import Any

from format.message import Message, MessageType
from format.quorum import Event, QuorumBlock
from scoutfs.quorum.election import ServerStatus
from scoutfs.simulation.cluster import Cluster, ClusterConfig
from scoutfs.simulation.faults import Fault, Kind, inject
from scoutfs.simulation.member import Member
from scoutfs.simulation.timeline import Line

LONG = 1e6
"""Seconds: for ever."""


class Scene(Cluster):
    """A cluster that remembers what it told; `config` are fields of ClusterConfig."""

    def __init__(self, seed: int, **config: Any) -> None:
        self.lines: list[Line] = []
        super().__init__(ClusterConfig(**config), seed, lambda *line: self.lines.append(Line(*line)))

    def fault(self, kind: Kind, slot: int = 0, seconds: float = LONG, **values: Any) -> None:
        """Let one fault happen now."""
        inject(self, [Fault(0.0, kind, slot, seconds=seconds, **values)])
        self.run(0.0)

    def lead(self, *, calm: float = 2.0) -> Member:
        """Mount all slots, and return the leader that they have `calm` seconds after its server was up."""
        self.start_all()
        self.until(lambda: self.serving_leader is not None, 30.0)
        self.run(calm)
        leader = self.serving_leader
        assert leader is not None
        return leader

    def until(self, condition: Any, seconds: float) -> float:
        """Let time pass until the condition holds; return how long that took."""
        begun = self.now
        assert self.run_until(condition, seconds), f"not within {seconds} s"
        return self.now - begun

    def until_other_leads(self, old: Member, seconds: float) -> float:
        """Let time pass until another mount than `old` leads."""
        return self.until(lambda: any(leader is not old for leader in self.leaders), seconds)

    def until_other_serves(self, old: Member, seconds: float) -> Member:
        """Let time pass until the server of another mount than `old` is up; return that mount."""
        self.until(lambda: any(member is not old for member in self.servers), seconds)
        return next(member for member in self.servers if member is not old)

    def followers(self) -> list[Member]:
        """The members that do not lead, by slot."""
        return [member for _, member in sorted(self.members.items()) if member not in self.leaders]

    def block(self, member: Member) -> QuorumBlock:
        """The block of a member's slot."""
        return self.disk.blocks[member.slot]

    def has_stopped(self, member: Member, term: int) -> bool:
        """Whether a member's server is down and STOP says so for `term`."""
        stop = self.block(member).event(Event.STOP)
        return member.server.status is ServerStatus.DOWN and (stop.term, stop.rid) == (term, member.rid)

    def texts(self, slot: int, kind: str, since: float = 0.0) -> list[str]:
        """What a slot told of one kind since a time."""
        return [line.text for line in self.lines if line.slot == slot and line.kind == kind and line.time >= since]

    def forge(self, kind: MessageType, term: int, sender: int) -> None:
        """Let everybody else receive a message that names `sender`."""
        for slot in self.slots:
            if slot != sender:
                self.network.send(sender, slot, Message(term, kind, sender))
        self.run(0.1)
