"""Requests that wait: who is shown, who is told of, and whose wait ends."""

from __future__ import annotations

import logging

import pytest
import trio

from mount.in_progress import CAUGHT_AFTER, LOOK_AGAIN, TOLD_AFTER, InProgress
from mount.interrupts import PendingSignal


class Callers:
    """Threads with signals."""

    def __init__(self) -> None:
        self.pending: dict[int, PendingSignal] = {}
        self.lost = False
        self.logged: list[tuple[int, str]] = []
        self.why = ""

    def progress(self) -> InProgress:
        return InProgress(
            lambda *line: self.logged.append(line),
            connection_lost=lambda: self.lost,
            waiting_for=lambda: self.why,
            pending=lambda pid: self.pending.get(pid, PendingSignal.NONE),
        )


async def wait(progress: InProgress, pid: int, ended: list[int]) -> None:
    with pytest.raises(InterruptedError), progress.request("mkdir", (7, b"name", object()), pid):
        await trio.sleep_forever()
    ended.append(pid)


async def test_requests_are_shown_with_what_they_wait_for(nursery, autojump_clock):
    callers, ended = Callers(), []
    progress = callers.progress()
    nursery.start_soon(progress.watch)
    nursery.start_soon(wait, progress, 123, ended)
    await trio.testing.wait_all_tasks_blocked(0.01)
    assert progress.text(trio.current_time()) == ""
    await trio.sleep(2)
    callers.why = "no server"
    assert progress.text(trio.current_time()) == "2.0 s: mkdir(7, b'name') of thread 123: no server\n"


async def test_a_request_that_waits_long_is_told_once(nursery, autojump_clock):
    callers, ended = Callers(), []
    callers.why = "no server"
    progress = callers.progress()
    nursery.start_soon(progress.watch)
    nursery.start_soon(wait, progress, 123, ended)
    await trio.sleep(TOLD_AFTER - 1)
    assert callers.logged == []
    await trio.sleep(100)
    text = "mkdir(7, b'name') of thread 123 has waited for 30 s: no server"
    assert callers.logged == [(logging.WARNING, text)]


async def test_whoever_is_killed_waits_no_more(nursery, autojump_clock):
    callers, ended = Callers(), []
    progress = callers.progress()
    nursery.start_soon(progress.watch)
    for pid in (1, 2, 3):
        nursery.start_soon(wait, progress, pid, ended)
    await trio.sleep(5)
    assert ended == []
    callers.pending[2] = PendingSignal.FATAL
    await trio.sleep(LOOK_AGAIN + 0.1)
    assert ended == [2]
    assert "thread 2:" not in progress.text(trio.current_time())


async def test_a_signal_with_a_handler_ends_only_what_waits_for_long(nursery, autojump_clock):
    callers, ended = Callers(), []
    callers.pending[1] = PendingSignal.CAUGHT
    progress = callers.progress()
    nursery.start_soon(progress.watch)
    nursery.start_soon(wait, progress, 1, ended)
    await trio.sleep(CAUGHT_AFTER - 0.1)
    assert ended == []
    await trio.sleep(LOOK_AGAIN + 0.2)
    assert ended == [1]


async def test_all_end_when_the_connection_is_lost(nursery, autojump_clock):
    callers, ended = Callers(), []
    progress = callers.progress()
    nursery.start_soon(progress.watch)
    for pid in (1, 2):
        nursery.start_soon(wait, progress, pid, ended)
    await trio.sleep(1)
    callers.lost = True
    await trio.sleep(0.1)
    assert sorted(ended) == [1, 2]


async def test_what_is_answered_is_neither_shown_nor_ended(nursery, autojump_clock):
    callers = Callers()
    progress = callers.progress()
    callers.pending[1] = PendingSignal.FATAL
    nursery.start_soon(progress.watch)
    with progress.request("getattr", (1,), 1):
        pass
    with pytest.raises(ZeroDivisionError), progress.request("getattr", (1,), 1):
        raise ZeroDivisionError
    await trio.sleep(1)
    assert progress.text(trio.current_time()) == ""
