"""Waits that end with the signals of the waiting caller."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import trio

from mount.interrupts import has_pending_signal, interruptible
from scoutfs.errors import ScoutfsError


async def test_the_result_comes_through(autojump_clock):
    async def operation():
        await trio.sleep(100)
        return 42

    assert await interruptible(1, operation, lambda pid: False) == 42


async def test_an_error_comes_through():
    async def operation():
        raise ScoutfsError("gone", errno.ENOLINK)

    with pytest.raises(ScoutfsError, match="gone"):
        await interruptible(1, operation, lambda pid: False)


async def test_a_signal_ends_the_wait_soon(autojump_clock):
    async def pending_after_a_minute() -> None:
        with pytest.raises(InterruptedError) as caught:
            await interruptible(17, trio.sleep_forever, lambda pid: pid == 17 and trio.current_time() > 60)
        assert caught.value.errno == errno.EINTR

    start = trio.current_time()
    await pending_after_a_minute()
    assert trio.current_time() - max(start, 60) < 0.5


async def test_an_outer_cancellation_is_no_interrupt(autojump_clock):
    with trio.move_on_after(5) as scope:
        await interruptible(17, trio.sleep_forever, lambda pid: False)
    assert scope.cancelled_caught


@pytest.mark.parametrize("pid", [0, -1, 2**22 + 1])
def test_a_pid_that_cannot_be_seen_has_no_signal(pid):
    assert not has_pending_signal(pid)


def stopped_process_with(number: int | None, blocked: bool = False) -> bool:
    """Whether a stopped child to which signal `number` was sent counts as having one; SIGSTOP keeps it pending."""
    child = subprocess.Popen(
        ["sleep", "60"],
        preexec_fn=(lambda: signal.pthread_sigmask(signal.SIG_BLOCK, [number])) if blocked else None,
    )
    try:
        os.kill(child.pid, signal.SIGSTOP)
        deadline = time.monotonic() + 5
        while Path(f"/proc/{child.pid}/stat").read_text().split()[2] != "T":
            assert time.monotonic() < deadline
        if number is not None:
            os.kill(child.pid, number)
        return has_pending_signal(child.pid)
    finally:
        child.kill()
        child.wait()


def test_a_pending_signal_is_seen():
    assert stopped_process_with(signal.SIGTERM)


def test_none_is_seen_where_there_is_none():
    assert not stopped_process_with(None)


def test_a_blocked_signal_is_none():
    assert not stopped_process_with(signal.SIGTERM, blocked=True)


def test_a_stop_signal_is_none():
    assert not stopped_process_with(signal.SIGTSTP)
