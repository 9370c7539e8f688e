"""Mounts whose n-th operation on the devices fails, each in a process of its own.

    python -m tests.mounted.faulty_mount KIND FIRST STEP DEVICE DIRECTORY OPTIONS

Mounts and unmounts with n = FIRST, FIRST + STEP ... until nothing fails any more.  Prints a line of JSON for each: `n`,
`happened` (which operations failed: the n-th of the mount process, and that of the member), `ready`, `code`, `said`
(what mount.scoutfs would say) and `log` (lines).
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from mount import preparation, process
from mount.options import parse_options
from tests.faults import NthFails

LONGEST = 30.0
"""Seconds that one mount may take."""

RUNS_MAX = 200


class Noted(NthFails):
    """Notes what failed in a file: the member is another process."""

    def __init__(self, n: int, kind: str, notes: Path) -> None:
        super().__init__(n, kind)
        self._notes = notes

    def _next(self, name: str) -> bool:
        failed = super()._next(name)
        if failed:
            with self._notes.open("a") as file:
                file.write(f"{name}\n")
        return failed


class Readiness:
    """Unmounts as soon as the mount is usable."""

    def __init__(self) -> None:
        self.was_ready = False
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def ready(self, code: int = 0, text: str = "") -> None:
        self.was_ready = True
        os.kill(os.getpid(), signal.SIGTERM)

    def failed(self, code: int, text: str) -> None:
        self.said.append(text)


def mount_once(io: Noted, device: str, directory: str, options: str) -> dict[str, Any]:
    request = preparation.MountRequest(device, directory, parse_options(f"{options},foreground"), record=False)
    process.prepare = partial(preparation.prepare, io=io)  # type: ignore[assignment]
    readiness = Readiness()
    code = process.run_mount(request, readiness)
    return {"code": int(code), "ready": readiness.was_ready, "said": readiness.said}


def in_a_child(n: int, kind: str, words: list[str]) -> dict[str, Any]:
    """Mount once in a child; a child that crashes or hangs has no code."""
    with tempfile.TemporaryDirectory() as scratch:
        notes, log, result = (Path(scratch) / name for name in ("notes", "log", "result"))
        notes.touch()
        child = os.fork()
        if child == 0:
            fd = os.open(log, os.O_CREAT | os.O_WRONLY)
            os.dup2(fd, 2)
            result.write_text(json.dumps(mount_once(Noted(n, kind, notes), *words)))
            os._exit(0)
        deadline = time.monotonic() + LONGEST
        while os.waitpid(child, os.WNOHANG) == (0, 0):
            if time.monotonic() > deadline:
                os.kill(child, signal.SIGKILL)
            time.sleep(0.01)
        found = json.loads(result.read_text()) if result.exists() else {"code": None, "ready": False, "said": []}
        return {**found, "n": n, "happened": notes.read_text().split(), "log": log.read_text().splitlines()}


def main() -> None:
    kind, first, step, *words = sys.argv[1:]
    for n in range(int(first), RUNS_MAX, int(step)):
        found = in_a_child(n, kind, words)
        print(json.dumps(found), flush=True)
        if not found["happened"]:
            break


if __name__ == "__main__":
    main()
