"""A simulated cluster under the commands of a transcript, and the lines that it puts out."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from scoutfs.errors import ScoutfsError
from scoutfs.simulation.cluster import Cluster, ClusterConfig
from scoutfs.simulation.invariants import Violation
from scoutfs.simulation.member import Member

_SENDS = re.compile(r"((?:\(mount \w+\) )?sends \w+ \d+ to )(\d+)")


class CommandError(ScoutfsError):
    """A command that nobody understands, or that cannot be done now."""


class _Entry(NamedTuple):
    """A line of output before it is written: `who` is empty for the world, or for what is no event at `time`."""

    time: float | None
    who: str
    text: str


class _Beats(NamedTuple):
    """When a heartbeat was repeated, and to whom; both in order."""

    times: dict[float, None]
    destinations: dict[str, None]


class Stage:
    """A cluster under commands, and what they have put out since the last look."""

    def __init__(self) -> None:
        self._cluster: Cluster | None = None
        self._without: tuple[str, ...] = ()
        self.over = False
        self._heals = 0
        self._lines: list[_Entry] = []
        self._beats: dict[tuple[int, str], _Beats] = {}
        self._beating: set[tuple[int, str]] = set()

    @property
    def is_set(self) -> bool:
        """Whether there is a cluster."""
        return self._cluster is not None

    def violated(self, violation: Violation) -> None:
        """Put out a violation if the cluster lacks a rule: nothing can follow.  Raise it if it has all rules."""
        if not self._without:
            raise violation
        self.over = True
        self.say(str(violation))

    def taken(self) -> list[str]:
        """Return the output since the last call, without newlines."""
        self._count_beats()
        lines, self._lines = [_format(entry) for entry in self._lines], []
        return lines

    def say(self, text: str) -> None:
        """Put out a line that is no event."""
        self._count_beats()
        self._lines.append(_Entry(None, "", text))

    # -- what commands need ------------------------------------------------------------------------------------------

    @property
    def cluster(self) -> Cluster:
        """The cluster."""
        assert self._cluster is not None
        return self._cluster

    def make(self, config: ClusterConfig, seed: int, without: tuple[str, ...]) -> None:
        """Make the cluster, once."""
        if self._cluster is not None:
            raise CommandError("there is a cluster already")
        self._without = without
        self._cluster = Cluster(config, seed, self._tell)

    def slots(self, words: Sequence[str]) -> list[int]:
        """Return the slots that words name: numbers, `all`, `leader` or `followers`; raises ValueError if none."""
        cluster = self.cluster
        found: list[int] = []
        names = [name for name in ",".join(words).split(",") if name]
        if not names:
            raise ValueError("no slot")
        for name in names:
            if name == "all":
                found += cluster.slots
            elif name == "leader":
                found.append(self._leader())
            elif name == "followers":
                leader = self._leader()
                found += [slot for slot in cluster.members if slot != leader]
            elif int(name) in cluster.slots:
                found.append(int(name))
            else:
                raise CommandError(f"there is no slot {name}")
        return found

    def members(self, words: Sequence[str]) -> list[Member]:
        """Return the mounts of the named slots."""
        found = []
        for slot in self.slots(words):
            member = self.cluster.members.get(slot)
            if member is None:
                raise CommandError(f"slot {slot} is not mounted")
            found.append(member)
        return found

    def later(self, seconds: float | None, undo: Callable[[], object]) -> None:
        """Undo a fault after a while, unless everything is healed before; None is never."""
        if seconds is None:
            return
        heals = self._heals

        def end(_: None, __: None) -> None:
            if heals == self._heals:
                undo()

        self.cluster.schedule.at(self.cluster.now + seconds, end)

    def healed(self) -> None:
        """Forget all that `later` was asked for."""
        self._heals += 1

    # -- helpers -----------------------------------------------------------------------------------------------------

    def _leader(self) -> int:
        leaders = self.cluster.leaders
        if len(leaders) != 1:
            raise CommandError(f"there are {len(leaders)} leaders, not one")
        return leaders[0].slot

    def _tell(self, time: float, slot: int, kind: str, text: str) -> None:
        who = "" if slot < 0 else f"slot {slot}"
        sends = _SENDS.fullmatch(text)
        if sends is None:
            self._lines.append(_Entry(time, who, text))
            return
        start, destination = sends.groups()
        key = (slot, start)
        if kind == "beat" and key in self._beating and not self._continues(time, who, start):
            beats = self._beats.setdefault(key, _Beats({}, {}))
            beats.times[time] = None
            beats.destinations[destination] = None
            return
        self._beating.add(key)
        if self._continues(time, who, start):
            text = f"{self._lines.pop().text}, {destination}"
        self._lines.append(_Entry(time, who, text))

    def _count_beats(self) -> None:
        """Put out how often each heartbeat was repeated since it was last counted."""
        for (slot, start), beats in self._beats.items():
            times = "once" if len(beats.times) == 1 else f"{len(beats.times)} times"
            text = f"{start.replace('sends', 'repeats')}{', '.join(beats.destinations)} {times}"
            self._lines.append(_Entry(None, f"slot {slot}", text))
        self._beats = {}

    def _continues(self, time: float, who: str, start: str) -> bool:
        """Whether the last line is the same datagram to another slot."""
        last = self._lines[-1] if self._lines else None
        return last is not None and last.time == time and last.who == who and last.text.startswith(start)


def _format(entry: _Entry) -> str:
    if entry.time is None:
        return f"{'':12}{entry.who:<8}{entry.text}" if entry.who else entry.text
    return f"{entry.time:9.3f} s {entry.who:<8}{entry.text}"
