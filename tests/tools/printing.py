"""Runs `scoutfs print` inside the test."""

from __future__ import annotations

from typing import NamedTuple

from scoutfs.storage.device import Device
from scoutfs.tools.print import Output, print_volume


class Printed(NamedTuple):
    """What came out, and what was said to be missing."""

    text: str
    problems: list[str]


def print_device(device: Device, *, skip_likely_huge: bool = False) -> Printed:
    """Print an open device; raises ScoutfsError."""
    pieces: list[str] = []
    problems: list[str] = []
    print_volume(device, Output(pieces.append, problems.append), skip_likely_huge=skip_likely_huge)
    return Printed("".join(pieces), problems)
