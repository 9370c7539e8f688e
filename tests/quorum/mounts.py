"""Starts and drives `mount_process`, and leaves no process behind."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


class Mount:
    """A process with a member; `events` are the JSON objects that it has printed."""

    def __init__(self, given: dict[str, Any]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.quorum.mount_process", json.dumps(given)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            process_group=0,
        )
        self.slot = given["slot"]
        self.rid = given["rid"]
        self.events: list[dict[str, Any]] = []
        self._lines: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        first = self.wait(lambda event: "spawned" in event or "refused" in event)
        self.member = first.get("spawned", 0)
        self.refused = first.get("refused")

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(json.loads(line))
        self._lines.put(None)

    def wait(self, wanted: Callable[[dict[str, Any]], object], timeout: float = 30.0) -> dict[str, Any]:
        """Return the next event that is wanted."""
        deadline = time.monotonic() + timeout
        while True:
            event = self._lines.get(timeout=max(0.001, deadline - time.monotonic()))
            assert event is not None, f"the process has ended, after {self.events}"
            self.events.append(event)
            if wanted(event):
                return event

    def say(self, words: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(words + "\n")
        self.process.stdin.flush()

    def facts(self) -> dict[str, Any]:
        self.say("facts")
        return self.wait(lambda event: "facts" in event)["facts"]

    def wait_for(self, **wanted: Any) -> dict[str, Any]:
        """Wait until all these facts are as given; returns the facts."""
        deadline = time.monotonic() + 30.0
        while True:
            facts = self.facts()
            if all(facts[name] == value for name, value in wanted.items()):
                return facts
            assert time.monotonic() < deadline, f"not {wanted}: {facts}"
            time.sleep(0.02)

    def leave(self) -> str | None:
        """Leave and return why, if that was not clean."""
        self.say("leave")
        left = self.wait(lambda event: "left" in event)["left"]
        assert self.process.wait(timeout=10) == 0
        return left

    def log(self) -> list[str]:
        return [event["log"] for event in self.events if "log" in event]

    def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(timeout=10)
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            with contextlib.suppress(OSError):
                stream.close()
        self._reader.join(timeout=10)


def is_running(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def wait_until(condition: Callable[[], object], timeout: float = 20.0) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "the condition was not met in time"
        time.sleep(0.01)


@contextlib.contextmanager
def mounts() -> Iterator[Callable[..., Mount]]:
    """Hand out a function that starts a mount; all of them are killed at the end."""
    with contextlib.ExitStack() as stack:

        def start(**given: Any) -> Mount:
            mount = Mount(given)
            stack.callback(mount.end)
            return mount

        yield start
