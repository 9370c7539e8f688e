"""Waits that the signals of the waiting caller end.

The kernel tells a FUSE server when a caller is interrupted, but the binding does not pass that on, and a caller whose
request was read waits for the answer whatever kills it.  So a handler that has to wait looks by itself whether its
caller has a signal to act on.
"""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Awaitable, Callable
from enum import Enum
from typing import TypeVar

import trio

from scoutfs.errors import ScoutfsError

FIRST_LOOK = 0.05
"""Seconds until the caller is looked at for the first time; then it is looked at ever more rarely."""
LONGEST_PAUSE = 0.4

_Result = TypeVar("_Result")

# a job that is stopped waits on when it is continued
_NO_INTERRUPTS = sum(
    1 << number - 1
    for number in (signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGCONT, signal.SIGCHLD)
)


async def interruptible(
    pid: int, operation: Callable[[], Awaitable[_Result]], pending: Callable[[int], bool] | None = None
) -> _Result:
    """Return the result of `operation`, or raise OSError (EINTR) as soon as the thread `pid` has a signal to act on.

    `pending` tells whether it has one.  A pid that this process cannot see (0, or of another namespace) is waited with
    to the end.
    """
    pending = pending or has_pending_signal
    results: list[_Result] = []
    errors: list[OSError | ScoutfsError] = []

    async def watch(scope: trio.CancelScope) -> None:
        pause = FIRST_LOOK
        while not pending(pid):
            await trio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE)
        errors.append(OSError(errno.EINTR, os.strerror(errno.EINTR)))
        scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch, nursery.cancel_scope)
        try:
            results.append(await operation())
        except (OSError, ScoutfsError) as error:
            errors.append(error)
        nursery.cancel_scope.cancel()
    if results:
        return results[0]
    raise errors[0]


class PendingSignal(Enum):
    """What a thread has waiting for it: no signal to act on, one that it has a handler for, one that ends it."""

    NONE = "none"
    CAUGHT = "caught"
    FATAL = "fatal"


def has_pending_signal(pid: int) -> bool:
    """Whether the thread `pid` has a signal waiting that it neither blocks nor ignores."""
    return pending_signal(pid) is not PendingSignal.NONE


def pending_signal(pid: int) -> PendingSignal:
    """Return what the thread `pid` has waiting of signals that it neither blocks nor ignores.

    Nothing for a thread that cannot be seen: who waits for a request exists, so it is of another pid namespace then.
    """
    if pid <= 0:
        return PendingSignal.NONE
    try:
        with open(f"/proc/{pid}/status", "rb") as status:
            fields = dict(line.split(b":", 1) for line in status if line.startswith((b"Sig", b"Shd")))
        masks = {name: int(value, 16) for name, value in fields.items() if name != b"SigQ"}
        waiting = (masks[b"SigPnd"] | masks[b"ShdPnd"]) & ~masks[b"SigBlk"] & ~masks[b"SigIgn"] & ~_NO_INTERRUPTS
    except (OSError, KeyError, ValueError):
        return PendingSignal.NONE
    if not waiting:
        return PendingSignal.NONE
    return PendingSignal.FATAL if waiting & ~masks[b"SigCgt"] else PendingSignal.CAUGHT
