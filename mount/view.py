"""What a running mount shows of itself in its control directory."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from mount.control import Member, RunningOptions
from mount.daemon import MountLog
from scoutfs.counters import Counters
from scoutfs.storage.volume import Volume

_ZONE_BLOCKS_BIT = 1
"""`set_bits` of the volume options: `data_alloc_zone_blocks` is set."""


class Connection(Protocol):
    """What the client knows of its connection; `server` is address and term, `waiting_for` why there is none."""

    @property
    def server(self) -> tuple[object, int] | None: ...
    @property
    def waiting_since(self) -> float | None: ...
    @property
    def waiting_for(self) -> str: ...


class MemberProcess(Member, Protocol):
    """What is shown of the process of the member, beside its status."""

    @property
    def pid(self) -> int: ...
    @property
    def alive(self) -> bool: ...
    @property
    def left(self) -> str | None: ...
    @property
    def counters(self) -> Mapping[str, int]: ...


@dataclass
class MountView:
    """State of a mount as texts; `leaving` is set when it begins to leave.  All of it comes from memory."""

    volume: Volume
    rid: int
    options: RunningOptions
    connection: Connection
    member: MemberProcess | None
    own_counters: Counters
    log: MountLog
    control_path: str
    errors_text: Callable[[], str] = str
    requests_text: Callable[[], str] = str
    leaving: bool = False

    @property
    def device(self) -> tuple[int, int]:
        """Major and minor number of the data device."""
        return self.volume.data.major_minor

    @property
    def fmt_vers(self) -> int:
        """Format version of the volume."""
        return self.volume.fmt_vers

    @property
    def fsid(self) -> int:
        """Id of the volume."""
        return self.volume.fsid

    @property
    def metadata_path(self) -> str:
        """Path of the metadata device; of the one device if there is only one."""
        return self.options.given.metadev_path or self.volume.metadata_path

    @property
    def data_alloc_zone_blocks(self) -> int | None:
        """The volume option as it was at the mount, None if it is not set."""
        volopt = self.volume.super.raw.volopt
        return int(volopt.data_alloc_zone_blocks) if volopt.set_bits & _ZONE_BLOCKS_BIT else None

    def now(self) -> float:
        """Return the time by which the status of the member goes."""
        return time.monotonic()

    def counters(self) -> Mapping[str, int]:
        """Return the counters of this process and of the member together."""
        counted = self.own_counters.snapshot()
        if self.member is not None:
            for name, value in self.member.counters.items():
                counted[name] = counted.get(name, 0) + value
        return counted

    def pids(self) -> list[int]:
        """Return the processes of the mount."""
        return [os.getpid(), *([self.member.pid] if self.member is not None and self.member.alive else [])]

    def pids_text(self) -> str:
        """A line for each process: `mount PID`, and for a member `member PID`."""
        return "".join(f"{role} {pid}\n" for role, pid in zip(("mount", "member"), self.pids(), strict=False))

    def connection_text(self) -> str:
        """Two lines: `server ADDRESS:PORT` or `server none`, and `term TERM`."""
        server = self.connection.server
        return "server none\nterm 0\n" if server is None else f"server {server[0]}\nterm {server[1]}\n"

    def waiting_text(self) -> str:
        """One line: what the mount waits for, how long, and why as far as this member knows; empty if nothing."""
        since = self.connection.waiting_since
        if since is None:
            return ""
        whys = [why for why in (self.connection.waiting_for, self._role()) if why]
        return f"waiting for a server for {max(0.0, self.now() - since):.1f} s: {'; '.join(whys)}\n"

    def log_text(self) -> str:
        """The latest lines of the log."""
        return self.log.text()

    def control_text(self) -> str:
        """Path of the socket for umount, empty if there is none."""
        return f"{self.control_path}\n" if self.control_path else ""

    def _role(self) -> str:
        """What this member knows of the election; empty if it is none."""
        if self.member is None:
            return ""
        if not self.member.alive:
            return f"the member process of this mount is gone ({self.member.left})"
        status = self.member.status
        if status is None:
            return ""
        role = f"this member is {status.role.name.lower()} in term {status.term}"
        if status.votes:
            votes_needed = self.volume.super.quorum_config.votes_needed
            return f"{role} with {status.votes.bit_count()} of {votes_needed} votes needed"
        return role
