"""Commands of the original as they were recorded, to be run again by ours."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.images import DIRECTORY

FSID = "0123456789abcdef"
UUID = "00112233-4455-6677-8899-aabbccddeeff"
TIME = "1754300000.123456"


def set_identity(monkeypatch) -> None:
    """Have mkfs give volumes what the recorded ones have."""
    monkeypatch.setenv("SCOUTFS_MKFS_FSID", FSID)
    monkeypatch.setenv("SCOUTFS_MKFS_UUID", UUID)
    monkeypatch.setenv("SCOUTFS_MKFS_TIME", TIME)


def transcripts(command: str) -> list[Any]:
    """Return pytest parameters (number, entry) of the recorded runs of `command`."""
    import pytest

    entries = json.loads((DIRECTORY / "cli.json").read_text())
    return [
        pytest.param(number, entry, id=f"{number}-{' '.join(entry['args'][1:]) or 'nothing'}")
        for number, entry in enumerate(entries)
        if entry["args"][0] == command
    ]


def without_our_warnings(stderr: str) -> str:
    """Leave out the lines that we add to what the original prints."""
    return "".join(line for line in stderr.splitlines(keepends=True) if not line.startswith("warning: "))


def run(main: Callable[[list[str]], int], entry: Any, capsys: Any) -> tuple[int, str, str]:
    """Run a recorded command in the current directory; return status, stdout and stderr."""
    capsys.readouterr()
    status = main(entry["args"][1:])
    out, err = capsys.readouterr()
    return status, out, without_our_warnings(err)


def sparse(path: Path | str, size: int) -> None:
    """Make a file of `size` zeros."""
    with open(path, "wb") as file:
        file.truncate(size)
