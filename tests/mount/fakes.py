"""A mount that exists only in memory: what the control directory shows, set by tests."""

from __future__ import annotations

from dataclasses import dataclass, field

from mount.control import RunningOptions
from mount.options import parse_options
from scoutfs.quorum.fencing import FenceView
from scoutfs.quorum.status import QuorumStatus


@dataclass
class FakeMember:
    status: QuorumStatus | None = None
    is_leader: bool = False
    fences: tuple[FenceView, ...] = ()
    answers: list[tuple[int, str]] = field(default_factory=list)

    def answer_fence(self, rid, answer):
        self.answers.append((rid, answer))


class FakeMount:
    def __init__(self, options: str = "", member: FakeMember | None = None) -> None:
        self.logged: list[tuple[int, str]] = []
        self.changes: list[tuple[str, int]] = []
        self.options = RunningOptions(parse_options(options), self.log, lambda *change: self.changes.append(change))
        self.member = member
        self.device = (253, 1)
        self.fmt_vers = 2
        self.fsid = 0xE55DD113BCB49A2B
        self.rid = 0xC9E76D255F984B63
        self.metadata_path = "/dev/mapper/m0"
        self.data_alloc_zone_blocks = None
        self.leaving = False
        self.time = 1000.0
        self.values: dict[str, int] = {}

    def now(self):
        return self.time

    def counters(self):
        return self.values

    def log(self, level, text):
        self.logged.append((level, text))

    def connection_text(self):
        return "server 127.0.0.1:23450\nterm 11\n"

    def waiting_text(self):
        return ""

    def pids_text(self):
        return "mount 17\n"

    def log_text(self):
        return "a line\n"

    def errors_text(self):
        return ""

    def requests_text(self):
        return ""

    def control_text(self):
        return "/run/scoutfs/x.socket\n"
