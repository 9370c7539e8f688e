"""Volumes that the kernel wrote, unpacked once."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from scoutfs.files.filesystem import Filesystem
from tests import kernel_images


@pytest.fixture(scope="session")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Filesystem]]:
    """Return a function that opens the recorded volume of a name."""
    volumes: dict[str, Filesystem] = {}

    def open_volume(name: str) -> Filesystem:
        if name not in volumes:
            meta, data = kernel_images.unpack_volume(name, tmp_path_factory.mktemp(name))
            volumes[name] = Filesystem.open(data, meta)
        return volumes[name]

    yield open_volume
    for volume in volumes.values():
        volume.close()
