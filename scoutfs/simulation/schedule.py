"""Virtual time: what happens next, in order."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any


class Schedule:
    """Callbacks by virtual time, in seconds; those of one instant run in the order in which they were added."""

    __slots__ = ("_heap", "_sequence", "events", "now")

    def __init__(self) -> None:
        self.now = 0.0
        self.events = 0
        self._sequence = 0
        self._heap: list[tuple[float, int, Callable[[Any, Any], None], Any, Any]] = []

    def at(self, time: float, callback: Callable[[Any, Any], None], first: Any = None, second: Any = None) -> None:
        """Call `callback(first, second)` at `time`, which must not be past."""
        self._sequence += 1
        heappush(self._heap, (time, self._sequence, callback, first, second))

    def run(self, until: float) -> None:
        """Let everything up to `until` happen; `now` is `until` afterwards."""
        heap = self._heap
        events = 0
        try:
            while heap and heap[0][0] <= until:
                time, _, callback, first, second = heappop(heap)
                self.now = time
                events += 1
                callback(first, second)
        finally:
            self.events += events
        self.now = until

    def run_while(self, condition: Callable[[], bool], until: float) -> bool:
        """Let one event after another happen while `condition()` holds; return whether it ended before `until`."""
        heap = self._heap
        while condition():
            if not heap or heap[0][0] > until:
                self.now = until
                return False
            time, _, callback, first, second = heappop(heap)
            self.now = time
            self.events += 1
            callback(first, second)
        return True
