"""Questions that may never be answered: to a mount whose process was stopped, to a device that hangs."""

from __future__ import annotations

import errno
import queue
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from format.block import FormatError
from scoutfs.errors import ScoutfsError

_Answer = TypeVar("_Answer")
_Error = ScoutfsError | FormatError | OSError


class NoAnswer(ScoutfsError):
    """A question has not been answered in time."""


class Poller(Generic[_Answer]):
    """Asks one question again and again, each time in a thread that nothing waits for longer than it wants.

    No second question is asked before the first is answered.  `what` names who is asked.
    """

    def __init__(self, what: str, question: Callable[[], _Answer]) -> None:
        self._what = what
        self._question = question
        self._outcomes: queue.SimpleQueue[_Answer | _Error | None] = queue.SimpleQueue()
        self._asked: float | None = None

    def ask(self) -> None:
        """Ask, unless an answer is still awaited."""
        if self._asked is None:
            self._asked = time.monotonic()
            threading.Thread(target=self._run, daemon=True).start()

    def answer(self, deadline: float) -> _Answer:
        """Return the answer to what was asked, awaited until `deadline` (`time.monotonic`).

        Raises NoAnswer, or the ScoutfsError, FormatError or OSError that the question raised.
        """
        self.ask()
        asked = self._asked or 0.0
        try:
            outcome = self._outcomes.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            waited = time.monotonic() - asked
            text = f"{self._what}: no answer for {waited:.1f} s; its process may be stopped, or a device hang"
            raise NoAnswer(text, errno.ETIMEDOUT) from None
        self._asked = None
        if outcome is None:
            raise NoAnswer(f"{self._what}: the question failed", errno.EIO)
        if isinstance(outcome, ScoutfsError | FormatError | OSError):
            raise outcome
        return outcome

    def _run(self) -> None:
        outcome: _Answer | _Error | None = None
        try:
            outcome = self._question()
        except (ScoutfsError, FormatError, OSError) as error:
            outcome = error
        finally:
            self._outcomes.put(outcome)
