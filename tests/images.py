"""Volumes written by the original, unpacked for tests."""

from __future__ import annotations

import json
import lzma
from pathlib import Path
from typing import Any

DIRECTORY = Path(__file__).parent / "data" / "volume"
_HOLE = 65536


def manifest() -> dict[str, dict[str, Any]]:
    """Return what is known of each recorded volume: inputs, sizes, texts."""
    return {entry["name"]: entry for entry in json.loads((DIRECTORY / "manifest.json").read_text())}


def unpack(name: str, role: str, path: Path) -> Path:
    """Write the recorded `role` ("meta" or "data") device of volume `name` to `path`, with holes for its zeros."""
    entry = manifest()[name][role]
    with lzma.open(DIRECTORY / entry["file"]) as stored, path.open("wb") as image:
        image.truncate(entry["device_bytes"])
        offset = 0
        while chunk := stored.read(_HOLE):
            if chunk.strip(b"\0"):
                image.seek(offset)
                image.write(chunk)
            offset += len(chunk)
    return path


def unpack_volume(name: str, directory: Path) -> tuple[Path, Path]:
    """Write both devices of volume `name` as `m` and `d` in `directory`; return (metadata, data)."""
    return unpack(name, "meta", directory / "m"), unpack(name, "data", directory / "d")


def read(name: str, role: str, offset: int, size: int) -> bytes:
    """Return `size` bytes at `offset` of the recorded `role` device of volume `name`, without unpacking all of it."""
    with lzma.open(DIRECTORY / manifest()[name][role]["file"]) as stored:
        stored.seek(offset)
        return stored.read(size).ljust(size, b"\0")
