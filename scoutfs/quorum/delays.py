"""The histogram of late heartbeats that `quorum/status` shows (spec 02 §9.4)."""

from __future__ import annotations

from collections.abc import Mapping

from scoutfs.quorum.status import Delay

BUCKETS = 60
WORTH_A_LINE = 3
"""Seconds from which a new longest delay is logged."""


class HeartbeatDelays:
    """Counts, per whole second, how often a heartbeat came, or went, that long after the one before."""

    def __init__(self) -> None:
        self._delays: dict[int, Delay] = {}
        self._previous: float | None = None

    def iteration(self, beat: bool, now: float) -> int | None:
        """Take one iteration of the agent; return the delay in seconds if it is a new longest one worth a line.

        An iteration without a heartbeat breaks the run: only the time between two consecutive ones counts.
        """
        previous, self._previous = self._previous, now if beat else None
        if not beat or previous is None:
            return None
        late = int((now - previous) * 1000) // 1000
        if not 0 < late < BUCKETS:
            return None
        longest = max(self._delays, default=0)
        known = self._delays.get(late)
        self._delays[late] = Delay(known.occurrences + 1 if known else 1, now)
        return late if late > longest and late >= WORTH_A_LINE else None

    def clear(self) -> None:
        """Start anew: elected, deposed, or the server stopped under a leader."""
        self._delays.clear()
        self._previous = None

    def snapshot(self) -> Mapping[int, Delay]:
        """Return a copy, by seconds."""
        return dict(self._delays)
