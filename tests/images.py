"""Volumes written by the original, unpacked for tests."""

from __future__ import annotations

import functools
import json
import lzma
from pathlib import Path
from typing import Any

from tests.memory import PAGE, Image

DIRECTORY = Path(__file__).parent / "data" / "volume"
_CHUNK = 1 << 20


def manifest() -> dict[str, dict[str, Any]]:
    """Return what is known of each recorded volume: inputs, sizes, texts."""
    return {entry["name"]: entry for entry in json.loads((DIRECTORY / "manifest.json").read_text())}


def load(name: str, role: str) -> Image:
    """Return the recorded `role` ("meta" or "data") device of volume `name`."""
    return _load(name, role).copy()


def unpack(name: str, role: str, path: Path) -> Path:
    """Write the recorded `role` ("meta" or "data") device of volume `name` to `path`, with holes for its zeros."""
    image = _load(name, role)
    with path.open("wb") as file:
        file.truncate(image.size)
        for page, data in image.pages.items():
            file.seek(page * PAGE)
            file.write(data[: image.size - page * PAGE])
    return path


def unpack_volume(name: str, directory: Path) -> tuple[Path, Path]:
    """Write both devices of volume `name` as `m` and `d` in `directory`; return (metadata, data)."""
    return unpack(name, "meta", directory / "m"), unpack(name, "data", directory / "d")


def read(name: str, role: str, offset: int, size: int) -> bytes:
    """Return `size` bytes at `offset` of the recorded `role` device of volume `name`, without unpacking all of it."""
    with lzma.open(DIRECTORY / manifest()[name][role]["file"]) as stored:
        stored.seek(offset)
        return stored.read(size).ljust(size, b"\0")


@functools.cache
def _load(name: str, role: str) -> Image:
    entry = manifest()[name][role]
    image = Image(entry["device_bytes"])
    with lzma.open(DIRECTORY / entry["file"]) as stored:
        offset = 0
        while chunk := stored.read(_CHUNK):
            if chunk.strip(b"\0"):
                image.write(offset, chunk)
            offset += len(chunk)
    return image
