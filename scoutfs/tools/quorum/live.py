"""What `scoutfs quorum watch` knows at one moment.  Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from format.message import MessageType
from scoutfs.quorum.overview import Overview
from scoutfs.quorum.status import Exchange, QuorumStatus


@dataclass(frozen=True, slots=True)
class FenceRequest:
    """A mount that the server of this member waits to see fenced; `elapsed` in whole seconds."""

    rid: int
    address: str
    reason: str
    elapsed: int
    fenced: bool
    error: bool

    @property
    def state(self) -> str:
        """What has become of the request."""
        if self.error:
            return "failed"
        return "fenced" if self.fenced else "waiting"


@dataclass(frozen=True, slots=True)
class MountView:
    """A mount as its control directory shows it.

    `slot` is -1 for a mount that is no member.  Times of `status` are seconds after the moment at which it was read,
    so mostly negative; it is None as long as the member has published none.  `notes` are lines of the mount about its
    connection and what it waits for, empty for kernel mounts.
    """

    path: str
    fsid: int
    rid: int
    slot: int
    status: QuorumStatus | None
    is_leader: bool
    fences: tuple[FenceRequest, ...] = ()
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return what `--json` prints: rids and fsid as 16 hexadecimal digits, ages in seconds."""
        return {
            "path": self.path,
            "fsid": f"{self.fsid:016x}",
            "rid": f"{self.rid:016x}",
            "slot": None if self.slot < 0 else self.slot,
            "is_leader": self.is_leader,
            "status": _status_dict(self.status) if self.status else None,
            "fence": [
                {
                    "rid": f"{fence.rid:016x}",
                    "address": fence.address,
                    "reason": fence.reason,
                    "elapsed_secs": fence.elapsed,
                    "fenced": fence.fenced,
                    "error": fence.error,
                }
                for fence in self.fences
            ],
            "notes": list(self.notes),
        }


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One look at a cluster: its metadata device, if that was asked for, and mounts of it on this host."""

    target: str
    time: str
    volume: Overview | None
    mounts: tuple[MountView, ...]
    problems: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        return {
            "time": self.time,
            "target": self.target,
            "volume": self.volume.to_dict() if self.volume else None,
            "mounts": [mount.to_dict() for mount in self.mounts],
            "problems": list(self.problems),
        }


def type_name(number: int) -> str:
    """Return the name of a message's type in words; unknown ones by their number."""
    try:
        return MessageType(number).name.lower().replace("_", " ")
    except ValueError:
        return f"type {number}"


def heard_from(slot: int, mounts: Iterable[MountView]) -> Exchange | None:
    """Return the latest message of `slot` that any of the mounts has received."""
    heard = [mount.status.last_recv[slot] for mount in mounts if mount.status and slot in mount.status.last_recv]
    return max(heard, key=lambda exchange: exchange.time, default=None)


def _status_dict(status: QuorumStatus) -> dict[str, Any]:
    return {
        "slot": status.slot,
        "term": status.term,
        "server_start_term": status.server_start_term,
        "server_event": status.server_event,
        "role": status.role.name.lower(),
        "vote_for": None if status.vote_for < 0 else status.vote_for,
        "votes": [slot for slot in range(64) if status.votes >> slot & 1],
        "timeout_in_secs": round(status.timeout, 9),
        "last_send": _exchanges(status.last_send),
        "last_recv": _exchanges(status.last_recv),
        "heartbeat_delays": [
            {"seconds": late, "count": delay.occurrences, "secs_since": round(-delay.time, 9)}
            for late, delay in sorted(status.delays.items())
        ],
    }


def _exchanges(exchanges: Mapping[int, Exchange]) -> list[dict[str, Any]]:
    return [
        {"slot": slot, "term": e.term, "type": type_name(e.type), "secs_since": round(-e.time, 9)}
        for slot, e in sorted(exchanges.items())
    ]
