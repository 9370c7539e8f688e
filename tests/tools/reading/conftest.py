"""Volumes that the kernel wrote, unpacked once, and the commands run on them inside the test."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from scoutfs import cli
from tests import kernel_images


class Done(NamedTuple):
    """How a command ended, and what it wrote."""

    status: int
    out: bytes
    err: str


class Commands:
    """Runs commands on a volume on two devices."""

    def __init__(self, meta: Path, data: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
        self.meta, self.data = meta, data
        self._captured = capsysbinary

    def run(self, *words: str | bytes) -> Done:
        """Run a command line as it is."""
        self._captured.readouterr()
        arguments = [word.decode("utf-8", "surrogateescape") if isinstance(word, bytes) else word for word in words]
        try:
            status = cli.main(arguments)
        except SystemExit as ended:
            status = int(ended.code or 0)
        out, err = self._captured.readouterr()
        return Done(status, out, err.decode())

    def on_paths(self, command: str, *words: str | bytes) -> Done:
        """Run a command that takes the volume and paths; options may be among these."""
        return self.run(command, "-m", str(self.meta), str(self.data), *words)

    def query(self, command: str, *words: str | bytes) -> Done:
        """Run a query of the archive interfaces."""
        return self.run(command, "-m", str(self.meta), "-p", str(self.data), *words)


@pytest.fixture(scope="session")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Path]]:
    """Return a function that gives metadata and data device of the recorded volume of a name."""
    volumes: dict[str, tuple[Path, Path]] = {}

    def unpack(name: str) -> tuple[Path, Path]:
        if name not in volumes:
            volumes[name] = kernel_images.unpack_volume(name, tmp_path_factory.mktemp(name))
        return volumes[name]

    return unpack


@pytest.fixture
def on_volume(
    unpacked: Callable[[str], tuple[Path, Path]], capsysbinary: pytest.CaptureFixture[bytes]
) -> Callable[[str], Commands]:
    """Return a function that gives the commands on the recorded volume of a name."""
    return lambda name: Commands(*unpacked(name), capsysbinary)


@pytest.fixture
def rich(on_volume: Callable[[str], Commands]) -> Commands:
    """The commands on the volume with the most kinds of files."""
    return on_volume("rich-v2-merged")


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Path]:
    """A directory in memory, whose filesystem takes large files and all common attributes, if there is one."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path / "target"
        return
    path = Path(tempfile.mkdtemp(dir=memory))
    yield path / "target"
    shutil.rmtree(path)
