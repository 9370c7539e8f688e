"""Volumes that the kernel wrote, kept as sparse tar files; `data/kernel/img` has the smaller ones.

A folder `shared` beside the checkout may hold all of them.
"""

from __future__ import annotations

import lzma
import tarfile
from pathlib import Path

import pytest

from tests.memory import Image

_HERE = Path(__file__).parent / "data" / "kernel" / "img"
_SHARED = Path(__file__).parents[1].parent / "shared" / "vectors" / "kernel" / "img"

KEPT = (
    *("mkfs-v2", "fresh-v2", "multi3-M1_busy3", "multi3-M2_killed", "multi3-M3_reclaimed", "multi3-final"),
    *("rich-v1", "rich-v2-merged", "crash1-D_merge"),
)
"""Volumes that are always here."""

OTHERS = (
    *("crash1-A_synced", "crash1-B_openunlinked", "crash1-C_dirty", "crash1-E_midwork", "crash1-KILL"),
    "rich-v2",
)
"""Volumes that are here only with `shared`."""


def directory(name: str) -> Path:
    """Return where the files about volume `name` are; skips the test if they are not here."""
    for parent in (_HERE, _SHARED):
        if (parent / name / "volume.tar.xz").exists():
            return parent / name
    pytest.skip(f"the image {name} is not kept with the tests, and there is no folder 'shared' beside the checkout")


def unpack(name: str, role: str, path: Path) -> Path:
    """Write the "meta" or "data" device of volume `name` to `path`, with holes."""
    with tarfile.open(directory(name) / "volume.tar.xz", "r:xz") as archive:
        member = archive.getmember(f"{role}.img")
        member.name = path.name
        archive.extract(member, path.parent, filter="data")
    return path


def unpack_volume(name: str, path: Path) -> tuple[Path, Path]:
    """Write both devices of volume `name` into the directory `path`, with holes; return (metadata, data)."""
    return unpack(name, "meta", path / "m"), unpack(name, "data", path / "d")


def recording(name: str, *files: str) -> bytes:
    """Return the first of `files` about volume `name` that was recorded, `.xz` or not; skips the test without any."""
    for parent in (_HERE, _SHARED):
        for file in files:
            for path in (parent / name / file, parent / name / f"{file}.xz"):
                if path.exists():
                    data = path.read_bytes()
                    return lzma.decompress(data) if path.suffix == ".xz" else data
    pytest.skip(f"no {' or '.join(files)} of the image {name} is kept with the tests")


def load(name: str, role: str) -> Image:
    """Return the "meta" or "data" device of volume `name`."""
    with tarfile.open(directory(name) / "volume.tar.xz", "r:xz") as archive:
        member = archive.getmember(f"{role}.img")
        stored = archive.extractfile(member)
        assert stored is not None
        image = Image(member.size)
        for offset, size in member.sparse or [(0, member.size)]:
            stored.seek(offset)
            image.write(offset, stored.read(size))
    return image


def printed(name: str) -> str:
    """Return what the original's print says of the metadata device of volume `name`."""
    for file in ("print.txt", "print.txt.xz", "print-crashed.txt.xz", "print-after-mkfs.txt"):
        path = directory(name) / file
        if path.exists():
            data = path.read_bytes()
            return (lzma.decompress(data) if path.suffix == ".xz" else data).decode("ascii")
    raise FileNotFoundError(f"{name}: no text of print")
