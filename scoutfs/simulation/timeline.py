"""The timeline of a run, for people."""

from __future__ import annotations

from typing import NamedTuple


class Line(NamedTuple):
    """Who (a slot, -1 for the world) did what, when (virtual seconds)."""

    time: float
    slot: int
    kind: str
    text: str


def format_line(line: Line) -> str:
    """Return one line of text without newline."""
    who = "" if line.slot < 0 else f"slot {line.slot}"
    mark = "*" if line.kind == "fault" else " "
    return f"{line.time:12.6f} s {mark} {who:<8}{line.text}"
