"""Fixtures for tests with real mounts; they need root, FUSE and loop devices."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.mounted.cluster import Cluster, cluster_in

_HERE = Path(__file__).parent


def _missing() -> str:
    if os.geteuid() != 0:
        return "needs root"
    if not os.path.exists("/dev/fuse"):
        return "needs FUSE"
    if not os.path.exists("/dev/loop-control") or not shutil.which("losetup"):
        return "needs loop devices"
    return ""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test of this directory, and skip it where it cannot run."""
    missing = _missing()
    for item in items:
        if _HERE in item.path.parents:
            item.add_marker(pytest.mark.mounted)
            if missing:
                item.add_marker(pytest.mark.skip(reason=missing))


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Makes volumes and mounts, and takes them away again."""
    yield from cluster_in(tmp_path)


@pytest.fixture
def clusters(tmp_path: Path) -> Iterator[Callable[[str], Cluster]]:
    """Hands out clusters by name, for what is tested at the same time."""
    with contextlib.ExitStack() as stack:
        enter = contextlib.contextmanager(cluster_in)
        yield lambda name: stack.enter_context(enter(tmp_path / name))
