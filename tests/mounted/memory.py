"""Filesystems in memory, served to the kernel by the handlers of writable mounts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any


class MemoryMount:
    """A mounted filesystem; `tell` has other mounts do something, see `tests.mount.memory_mount`."""

    def __init__(self, directory: Path, process: subprocess.Popen[str]) -> None:
        self.directory, self._process = directory, process
        self._control = -1

    def tell(self, *command: Any) -> Any:
        """Have something done; return the answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        return json.loads(self._line())

    def control(self, name: str) -> str:
        """Return the contents of a control file."""
        # a lookup of the directory itself would wait behind others in the root directory
        with open(name, opener=partial(os.open, dir_fd=self._control)) as file:
            return file.read()

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def start(self) -> None:
        """Wait until it is mounted."""
        assert self._line() == "mounted"
        self._control = os.open(self.directory / ".scoutfs", os.O_RDONLY | os.O_DIRECTORY)

    def finish(self) -> None:
        """Unmount, and expect the volume to be clean."""
        assert self.control("errors") == ""
        os.close(self._control)
        self._control = -1
        subprocess.run(["umount", self.directory], check=True, timeout=30)
        output, errors = self._process.communicate(timeout=60)
        unexpected = [line for line in errors.splitlines() if "are offline" not in line]
        assert (output.split(), unexpected) == (["clean"], [])

    def end(self) -> None:
        """Take it away, in whatever state it is."""
        if self._control >= 0:
            os.close(self._control)
        if os.path.ismount(self.directory) or self._process.poll() is None:
            subprocess.run(["umount", "-l", self.directory], check=False, timeout=30, capture_output=True)
            if self._process.poll() is None:
                self._process.kill()
        self._process.communicate(timeout=30)


@contextmanager
def memory_mount(directory: Path, blocks: int = 1 << 20) -> Iterator[MemoryMount]:
    """Mount a filesystem in memory with that many data blocks at `directory`; it has to be clean at the end."""
    directory.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.mount.memory_mount", str(directory), str(blocks)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    mount = MemoryMount(directory, process)
    try:
        mount.start()
        yield mount
        mount.finish()
    finally:
        mount.end()
