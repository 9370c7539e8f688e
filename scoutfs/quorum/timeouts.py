"""How long an election agent waits for what (spec 02 §0, §4.1).  All times in seconds."""

from __future__ import annotations

from random import Random

ELECTION_TIMEOUT_MIN_MS = 250
ELECTION_TIMEOUT_VAR_MS = 100
HEARTBEAT_INTERVAL = 0.1
HEARTBEAT_TIMEOUT_MIN, HEARTBEAT_TIMEOUT_DEFAULT, HEARTBEAT_TIMEOUT_MAX = 2.0, 10.0, 60.0
HEARTBEAT_JITTER_MS = 150
WATCH_INTERVAL = 1.0
"""How often a leader looks at the other slots' blocks."""
LEASE = 1.0
"""A leader that sent, or a follower that heard, a heartbeat within this time declines a vote of a greater term."""
REPEAT_DELAY_MAX = 5.0
"""The longest pause between two requests of an isolated candidate."""

_DOUBLINGS_MAX = 8


class Timeouts:
    """Draws timeouts from `random`; `heartbeat_timeout` may be changed at any time and counts from the next draw."""

    def __init__(self, heartbeat_timeout: float, random: Random, *, jitter: bool) -> None:
        self.heartbeat_timeout = heartbeat_timeout
        self._random = random
        self._jitter = jitter

    def election(self) -> float:
        """250 to 349 ms, a new value each time."""
        return (ELECTION_TIMEOUT_MIN_MS + self._random.randrange(ELECTION_TIMEOUT_VAR_MS)) / 1000

    def heartbeat(self) -> float:
        """The heartbeat timeout, with jitter so that followers do not all expire together (remedy W14)."""
        jitter = self._random.randrange(HEARTBEAT_JITTER_MS) / 1000 if self._jitter else 0.0
        return self.heartbeat_timeout + jitter

    def repeated_election(self, repeats: int) -> float:
        """An election timeout doubled for each repeated request, up to REPEAT_DELAY_MAX."""
        delay = self.election()
        return min(delay * (1 << min(repeats, _DOUBLINGS_MAX)), max(delay, REPEAT_DELAY_MAX))
