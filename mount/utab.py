"""The table in which userspace keeps the options of mounts that the kernel does not know: /run/mount/utab.

`mount`, `findmnt --mtab` and `umount` read it.  It belongs to libmount; lines in its format are added and removed here
under its lock, because libmount itself would record nothing but the generic options.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

DIRECTORY = Path("/run/mount")

_PATIENCE = 2.0
"""Seconds to wait for the lock."""

_ESCAPES = str.maketrans({" ": "\\040", "\t": "\\011", "\n": "\\012", "\\": "\\134"})


def record(source: str, target: str, options: str, directory: Path = DIRECTORY) -> None:
    """Record the options of a mount, instead of an earlier entry for `target`.  Raises OSError."""
    line = f"SRC={_escaped(source)} TARGET={_escaped(target)} ROOT=/ OPTS={_escaped(options)}\n"
    _rewrite(lambda lines: [*_without(lines, target), line], directory)


def remove(target: str, directory: Path = DIRECTORY) -> None:
    """Remove the entry for `target`, if there is one.  Raises OSError."""
    _rewrite(lambda lines: list(_without(lines, target)), directory)


def _rewrite(change: Callable[[list[str]], list[str]], directory: Path) -> None:
    """Replace the table as libmount does: under the lock, whole, by a rename."""
    with _locked(directory):
        path = directory / "utab"
        old: list[str] = []
        with contextlib.suppress(FileNotFoundError):
            old = path.read_text(errors="surrogateescape").splitlines(keepends=True)
        new = change(old)
        if new == old:
            return
        # nobody else writes this name: the lock is ours
        unfinished = directory / "utab.scoutfs"
        unfinished.write_text("".join(new), errors="surrogateescape")
        unfinished.chmod(0o644)
        unfinished.rename(path)


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    directory.mkdir(mode=0o755, exist_ok=True)
    fd = os.open(directory / "utab.lock", os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        _lock(fd)
        yield
    finally:
        os.close(fd)


def _lock(fd: int) -> None:
    """Take the lock, which everybody holds for a moment only; BlockingIOError if somebody does not."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return


def _without(lines: list[str], target: str) -> Iterator[str]:
    field = f" TARGET={_escaped(target)} "
    return (line for line in lines if field not in f" {line}".replace("\n", " "))


def _escaped(text: str) -> str:
    return text.translate(_ESCAPES)
