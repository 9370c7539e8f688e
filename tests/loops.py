"""Loop devices for tests, which are never left behind."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

needs_loop_devices = pytest.mark.skipif(
    os.geteuid() != 0 or not os.path.exists("/dev/loop-control") or not shutil.which("losetup"),
    reason="needs root, losetup and loop devices",
)


@contextlib.contextmanager
def loop_device(file: Path, *options: str) -> Iterator[str]:
    """Attach `file` to a free loop device and yield its path; `options` go to losetup."""
    command = ["losetup", "--find", "--show", *options, str(file)]
    device = subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout.strip()
    try:
        yield device
    finally:
        subprocess.run(["losetup", "--detach", device], check=True, timeout=30)
