"""What a check has found, as text and as JSON; and how far it is."""

from __future__ import annotations

import json
import textwrap
import time
from itertools import groupby
from typing import TextIO

from scoutfs.fsck.check import Outcome, Progress
from scoutfs.fsck.kinds import Kind, Severity
from scoutfs.storage import Device

SHOWN = 5
"""Findings of a kind that are shown unless all are asked for."""

_IN_USE = frozenset({Kind.QUORUM_SLOT_USED, Kind.MOUNTED_CLIENT})
_WIDTH = 110
_BAR = 40
_INTERVAL = 0.25


def text(path: str, outcome: Outcome, *, show_all: bool = False) -> str:
    """Return the findings in groups of a kind, each with what it means, and a line that sums up."""
    report = outcome.report
    lines = []
    for kind, group in groupby(report.findings(), key=lambda finding: finding.kind):
        findings, count = list(group), report.counts[kind]
        shown = findings if show_all else findings[:SHOWN]
        lines.append(f"{kind.severity.value}: {kind.code}" + (f" ({count} times)" if count > 1 else ""))
        lines += ["  " + finding.text for finding in shown]
        if count > len(shown):
            hint = "" if show_all else ", -v shows them"
            lines.append(f"  and {count - len(shown)} more{hint}")
        lines += textwrap.wrap(kind.meaning, _WIDTH, initial_indent="    ", subsequent_indent="    ")
    if report.errors and not _IN_USE.isdisjoint(report.counts):
        lines.append(
            f"{path}: the volume may be in use: unmount it everywhere and check again to be sure of the damage"
        )
    return "\n".join([*lines, f"{path}: {_verdict(outcome)}"])


def json_text(meta: Device, data: Device | None, outcome: Outcome) -> str:
    """Return the result as one JSON object."""
    report = outcome.report
    return json.dumps(
        {
            "metadata_device": meta.path,
            "data_device": data.path if data is not None else None,
            "clean": not report.errors,
            "errors": report.errors,
            "attempts": outcome.attempts,
            "checked": dict(outcome.summary),
            "counts": {kind.code: count for kind, count in report.counts.items()},
            "findings": [finding.to_dict() for finding in report.findings()],
        },
        indent=2,
    )


def _verdict(outcome: Outcome) -> str:
    report = outcome.report
    notes = sum(count for kind, count in report.counts.items() if kind.severity is Severity.NOTE)
    noted = f", {notes} {'note' if notes == 1 else 'notes'}" if notes else ""
    checked = ", ".join(
        f"{outcome.summary[name]} {words}"
        for name, words in (("inodes", "inodes"), ("metadata_blocks_read", "metadata blocks"))
        if name in outcome.summary
    )
    checked = f" ({checked} checked)" if checked else ""
    if report.errors:
        return f"{report.errors} {'error' if report.errors == 1 else 'errors'}{noted}{checked}; nothing was changed"
    return f"no damage found{noted}{checked}"


class ProgressShower:
    """Shows how far a check is on `stream`, if there is one: a line that is drawn anew, or `as_lines`."""

    def __init__(self, stream: TextIO | None, path: str, *, as_lines: bool = False) -> None:
        self._stream, self._path, self._as_lines = stream, path, as_lines
        self._next = time.monotonic() + _INTERVAL
        self._drawn = False

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        if self._stream is None or now < self._next:
            return
        self._next = now + _INTERVAL
        expected = max(progress.expected, progress.blocks, 1)
        if self._as_lines:
            self._stream.write(f"{progress.walk} {progress.blocks} {expected} {self._path}\n")
        else:
            done = _BAR * progress.blocks // expected
            again = "" if progress.walk == 1 else f", walk {progress.walk} to name what is wrong"
            bar = "=" * done + " " * (_BAR - done)
            self._stream.write(f"\r{self._path}: [{bar}] {100 * progress.blocks // expected:3}%{again}\x1b[K")
            self._drawn = True
        self._stream.flush()

    def end(self) -> None:
        """Take the line away."""
        if self._stream is not None and self._drawn:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
