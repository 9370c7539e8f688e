"""What went wrong on the way: named on standard error, counted, and not the end of the work."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from scoutfs.errors import ScoutfsError
from scoutfs.files.errors import FileError, OfflineError
from scoutfs.tools.reading.names import shown

_T = TypeVar("_T")


class Problems:
    """Prints each problem as `scoutfs: COMMAND: PATH: WHY`."""

    def __init__(self, command: str) -> None:
        self.count = 0
        self._command = command

    def __call__(self, path: bytes, error: ScoutfsError | OSError | str) -> None:
        """Tell that there is something wrong with `path`."""
        self.count += 1
        sys.stdout.flush()
        print(f"scoutfs: {self._command}: {shown(path)}: {reason(error)}", file=sys.stderr)

    def each(self, paths: Iterable[bytes], look: Callable[[bytes], _T]) -> Iterator[tuple[bytes, _T]]:
        """Yield each of the paths with what `look` makes of it; paths for which it raises are told."""
        for path in paths:
            try:
                found = look(path)
            except ScoutfsError as error:
                self(path, error)
            else:
                yield path, found

    @property
    def status(self) -> int:
        """The exit status: 1 if there was any problem."""
        return 1 if self.count else 0


def reason(error: ScoutfsError | OSError | str) -> str:
    """Return what is wrong for one who knows the path: the system's words where a system call would have failed."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    if isinstance(error, FileError) and not isinstance(error, OfflineError):
        return os.strerror(error.errno)
    return str(error)
