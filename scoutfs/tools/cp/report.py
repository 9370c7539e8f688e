"""What could not be copied: listed for programs, summed up for people."""

from __future__ import annotations

import base64
import json
import os
import sys
from collections import Counter
from typing import Any, TextIO

from scoutfs.errors import ScoutfsError
from scoutfs.files.errors import OfflineError
from scoutfs.tools.reading.names import json_name, shown
from scoutfs.tools.reading.problems import reason

_SHOWN = 10
"""Problems that are named on standard error, if they are listed nowhere else."""


class Report:
    """Problems of a copy; `stream` is the list of them, one JSON object a line."""

    def __init__(self, stream: TextIO | None) -> None:
        self.count = 0
        self.copied = self.kept = 0
        self._stream = stream
        self._kinds: Counter[tuple[str, str]] = Counter()
        self._first: list[str] = []
        self._fatal = ""

    def add(
        self,
        path: bytes,
        what: str,
        error: ScoutfsError | OSError | OverflowError | str,
        *,
        name: bytes | None = None,
        value: bytes | None = None,
    ) -> None:
        """Tell that `what` of the file at `path` on the volume was not copied; `name` and `value` are those lost."""
        self.count += 1
        why = str(error) if isinstance(error, OverflowError) else reason(error)
        attribute = f" {shown(name)}" if name is not None else ""
        self._kinds[what, _kind(error, why)] += 1
        if len(self._first) < _SHOWN:
            self._first.append(f"{shown(path)}: {what}{attribute}: {why}")
        if self._stream is not None:
            found: dict[str, Any] = json_name("path", path) | {"what": what, "error": why}
            if name is not None:
                found |= json_name("name", name)
            if value is not None:
                found["value_b64"] = base64.b64encode(value).decode("ascii")
            self._stream.write(json.dumps(found) + "\n")

    def fatal(self, why: str) -> None:
        """Tell why the copy ended before its time."""
        self._fatal = why

    def sum_up(self, path: str | None) -> None:
        """Print what happened on standard error, if it was not all right; `path` is where the problems are listed."""
        if self._fatal:
            print(f"scoutfs: cp: {self._fatal}; run the same command again to go on", file=sys.stderr)
        if not self.count:
            return
        if path is None:
            print(*(f"scoutfs: cp: {line}" for line in self._first), sep="\n", file=sys.stderr)
            if self.count > len(self._first):
                print("scoutfs: cp: and more, --errors FILE lists them all", file=sys.stderr)
        where = f", listed in {path}" if path else ""
        print(f"scoutfs: cp: {self._done()}; {self.count} not copied or set{where}:", file=sys.stderr)
        for (what, why), count in self._kinds.most_common():
            print(f"  {count:8} {what}: {why}", file=sys.stderr)

    def to_dict(self) -> dict[str, Any]:
        """Return the sums for JSON: how many `files` were copied and how many `kept`, and problems by kind.

        `ended` is why the copy ended before its time, or None.
        """
        problems = [{"what": what, "error": why, "count": count} for (what, why), count in self._kinds.most_common()]
        return {
            "files": self.copied,
            "kept": self.kept,
            "ended": self._fatal or None,
            "problems": problems,
        }

    def _done(self) -> str:
        kept = f", {self.kept} were there already" if self.kept else ""
        return f"{self.copied} files copied{kept}"


def _kind(error: ScoutfsError | OSError | OverflowError | str, why: str) -> str:
    """Return what problems have in common that are summed up together."""
    if isinstance(error, OfflineError):
        return "contents that are not on the volume"
    if isinstance(error, (OSError, ScoutfsError)) and error.errno:
        return os.strerror(error.errno)
    return why
