"""What an election agent shows of itself: a snapshot and its text in `quorum/status` (spec 02 §9.2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, NamedTuple

_NANOSECONDS = 1_000_000_000
PAGE_SIZE = 4096


class Role(IntEnum):
    """Role of a member in its term."""

    FOLLOWER = 0
    CANDIDATE = 1
    LEADER = 2


class Exchange(NamedTuple):
    """The last message sent to or received from a slot; `time` is absolute monotonic seconds."""

    term: int
    type: int
    time: float


class Delay(NamedTuple):
    """How often a heartbeat was a whole number of seconds late, and when last (absolute monotonic seconds)."""

    occurrences: int
    time: float


@dataclass(frozen=True, slots=True)
class QuorumStatus:
    """An immutable snapshot of one agent; times are absolute seconds of its monotonic clock.

    `server_event` is 0, 2 (ELECT) or 3 (FENCE); `vote_for` is a slot or -1; `votes` is a bit mask of slots;
    `delays` is keyed by whole seconds.
    """

    slot: int
    term: int
    role: Role
    vote_for: int
    votes: int
    timeout: float
    server_start_term: int = 0
    server_event: int = 0
    last_send: Mapping[int, Exchange] = field(default_factory=dict)
    last_recv: Mapping[int, Exchange] = field(default_factory=dict)
    delays: Mapping[int, Delay] = field(default_factory=dict)

    @property
    def is_leader(self) -> bool:
        """What `quorum/is_leader` shows."""
        return self.role is Role.LEADER

    def shifted(self, seconds: float) -> QuorumStatus:
        """Return the snapshot with `seconds` added to every time: to another clock with the same rate."""
        return QuorumStatus(
            self.slot,
            self.term,
            self.role,
            self.vote_for,
            self.votes,
            self.timeout + seconds,
            self.server_start_term,
            self.server_event,
            {slot: e._replace(time=e.time + seconds) for slot, e in self.last_send.items()},
            {slot: e._replace(time=e.time + seconds) for slot, e in self.last_recv.items()},
            {late: d._replace(time=d.time + seconds) for late, d in self.delays.items()},
        )

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can carry; `from_dict` is the inverse."""
        return {
            "slot": self.slot,
            "term": self.term,
            "role": int(self.role),
            "vote_for": self.vote_for,
            "votes": self.votes,
            "timeout": self.timeout,
            "server_start_term": self.server_start_term,
            "server_event": self.server_event,
            "last_send": [[slot, *exchange] for slot, exchange in self.last_send.items()],
            "last_recv": [[slot, *exchange] for slot, exchange in self.last_recv.items()],
            "delays": [[late, *delay] for late, delay in self.delays.items()],
        }

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> QuorumStatus:
        """Rebuild a snapshot; raises KeyError, TypeError or ValueError for what `to_dict` cannot have made."""
        return cls(
            slot=int(fields["slot"]),
            term=int(fields["term"]),
            role=Role(fields["role"]),
            vote_for=int(fields["vote_for"]),
            votes=int(fields["votes"]),
            timeout=float(fields["timeout"]),
            server_start_term=int(fields["server_start_term"]),
            server_event=int(fields["server_event"]),
            last_send={int(slot): Exchange(int(a), int(b), float(c)) for slot, a, b, c in fields["last_send"]},
            last_recv={int(slot): Exchange(int(a), int(b), float(c)) for slot, a, b, c in fields["last_recv"]},
            delays={int(late): Delay(int(count), float(time)) for late, count, time in fields["delays"]},
        )


def format_status(status: QuorumStatus, now: float) -> str:
    """Return the text of `quorum/status` with times relative to `now`, at most one page (spec 02 §9.2).

    Lines that would not fit into 4096 bytes are left out, never cut in two.
    """
    lines = [
        f"quorum_slot_nr {status.slot}",
        f"term {status.term}",
        f"server_start_term {status.server_start_term}",
        f"server_event {status.server_event}",
        f"role {int(status.role)} ({status.role.name.lower()})",
        f"vote_for {status.vote_for}",
        f"vote_bits 0x{status.votes:x} (count {status.votes.bit_count()})",
        f"timeout_in_secs {_seconds(status.timeout - now)}",
    ]
    for label, exchanges in (("last_send to", status.last_send), ("last_recv from", status.last_recv)):
        lines += [
            f"{label} {slot} term {term} type {type_} secs_since {_seconds(now - time)}"
            for slot, (term, type_, time) in sorted(exchanges.items())
            if term != 0
        ]
    if status.delays:
        lines.append("HB Delay(s)      Count  Secs Since")
        lines += [
            f"{late:11d}  {count:9d}  {_seconds(now - time)}" for late, (count, time) in sorted(status.delays.items())
        ]
    text = ""
    for line in lines:
        if len(text) + len(line) + 1 > PAGE_SIZE:
            break
        text += line + "\n"
    return text


def _seconds(interval: float) -> str:
    """Seconds towards minus infinity, then positive nanoseconds: -0.4 s is -1.600000000."""
    whole, nanoseconds = divmod(round(interval * _NANOSECONDS), _NANOSECONDS)
    return f"{whole}.{nanoseconds:09d}"
