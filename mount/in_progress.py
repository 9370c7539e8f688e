"""Requests that are not answered yet: who waits, what for, since when, and whether he still wants the answer.

The kernel tells a FUSE server when a caller is interrupted, but the binding does not pass that on, and a caller whose
request was read waits for the answer whatever kills it.  So one task looks, every now and then, at the callers of all
requests that have waited for some time.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any

import trio

from mount.interrupts import PendingSignal, pending_signal

LOOK_INTERVAL = 0.05
"""Seconds between two looks at those who wait."""
FATAL_AFTER = 0.05
"""Seconds after which a request ends that somebody waits for who is being killed."""
CAUGHT_AFTER = 1.0
"""The same for somebody with a handler for the signal, and then with EINTR: a timer that ticks, as that of git's
progress, must not end requests that are only slow."""
LOOK_AGAIN = 0.5
"""Seconds between two looks at the same caller."""
TOLD_AFTER = 30.0
"""Seconds after which a request that waits is worth a line in the log."""
SHOWN_MAX = 200
"""Requests that `text` shows; of the others it tells the number."""

Log = Callable[[int, str], None]


class InProgress:
    """The requests in progress of a mount.

    `connection_lost` tells whether the kernel has ended the connection, so that nobody wants answers; `waiting_for`
    what keeps requests waiting, as far as that is known.
    """

    def __init__(
        self,
        log: Log,
        *,
        connection_lost: Callable[[], bool] = lambda: False,
        waiting_for: Callable[[], str] = str,
        pending: Callable[[int], PendingSignal] = pending_signal,
    ) -> None:
        self._log, self._connection_lost, self._waiting_for, self._pending = log, connection_lost, waiting_for, pending
        # In the order in which they began.
        self._requests: dict[int, _Request] = {}

    def request(self, name: str, arguments: tuple[Any, ...], pid: int) -> AbstractContextManager[None]:
        """Do something for a request, which `arguments` describe, of the thread `pid`, in a `with`.

        Raises OSError (EINTR) if that was cancelled because the thread does not want to wait any longer.
        """
        return _Request(self._requests, name, arguments, pid)

    def text(self, now: float) -> str:
        """A line for each request that has waited for some time: how long, for what, which request, which thread."""
        waiting = [request for request in self._requests.values() if now - request.since >= LOOK_INTERVAL]
        why = self._waiting_for()
        lines = [f"{now - it.since:.1f} s: {it.text} of thread {it.pid}{why and f': {why}'}" for it in waiting]
        if len(lines) > SHOWN_MAX:
            lines[SHOWN_MAX:] = [f"and {len(lines) - SHOWN_MAX} more"]
        return "".join(f"{line}\n" for line in lines)

    async def watch(self) -> None:
        """Look at those who wait, for as long as the mount lives."""
        while True:
            await trio.sleep(LOOK_INTERVAL)
            self._look(trio.current_time())

    def _look(self, now: float) -> None:
        lost = self._connection_lost() if self._requests else False
        for request in list(self._requests.values()):
            age = now - request.since
            if age < FATAL_AFTER and not lost:
                # those behind it are younger
                break
            if lost or self._is_unwanted(request, age, now):
                request.scope.cancel()
            if age >= TOLD_AFTER and not request.told:
                request.told = True
                why = self._waiting_for()
                text = f"{request.text} of thread {request.pid} has waited for {age:.0f} s"
                self._log(logging.WARNING, f"{text}: {why}" if why else text)

    def _is_unwanted(self, request: _Request, age: float, now: float) -> bool:
        if now < request.next_look:
            return False
        request.next_look = now + min(age, LOOK_AGAIN)
        signal = self._pending(request.pid)
        return signal is PendingSignal.FATAL or (signal is PendingSignal.CAUGHT and age >= CAUGHT_AFTER)


def shown(name: str, arguments: tuple[Any, ...]) -> str:
    """Return a request as logs show it."""
    return f"{name}({', '.join(repr(argument) for argument in arguments if isinstance(argument, int | bytes))})"


class _Request:
    """One request; a class since a generator would take twice the time, for each request."""

    __slots__ = ("_requests", "arguments", "name", "next_look", "pid", "scope", "since", "told")

    def __init__(self, requests: dict[int, _Request], name: str, arguments: tuple[Any, ...], pid: int) -> None:
        self._requests = requests
        self.name, self.arguments, self.pid = name, arguments, pid
        self.scope = trio.CancelScope()
        self.since = trio.current_time()
        self.next_look, self.told = 0.0, False

    def __enter__(self) -> None:
        self.scope.__enter__()
        self._requests[id(self)] = self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        del self._requests[id(self)]
        suppressed = self.scope.__exit__(kind, error, trace)
        if self.scope.cancelled_caught:
            raise OSError(errno.EINTR, os.strerror(errno.EINTR))
        return suppressed

    @property
    def text(self) -> str:
        return shown(self.name, self.arguments)
