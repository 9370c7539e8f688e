"""What benchmarks of mounts compare: ratios, and the pass-through filesystem of the binding."""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from tests.mounted.cluster import wait_until


@dataclass
class Ratio:
    """How fast the mount is, `ours`, relative to something else; both in `unit` per second, higher is better."""

    what: str
    unit: str
    target: float | None
    ours: list[float] = field(default_factory=list)
    others: list[float] = field(default_factory=list)

    def add(self, ours: float, other: float) -> None:
        self.ours.append(ours)
        self.others.append(other)

    @property
    def ok(self) -> bool:
        return self.target is None or self.value >= self.target

    @property
    def value(self) -> float:
        return statistics.median(self.ours) / statistics.median(self.others)

    def __str__(self) -> str:
        ours, others = statistics.median(self.ours), statistics.median(self.others)
        target = "" if self.target is None else f">= {self.target:g}  {'ok' if self.ok else 'MISS'}"
        return f"{self.what:56} {ours:9.0f} : {others:9.0f} {self.unit:9} {self.value:5.2f} {target}"


def fetch_passthrough(directory: Path) -> Path:
    """Return the pass-through example, from the sources of the release of pyfuse3 that is installed."""
    name = f"pyfuse3-{version('pyfuse3')}"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "pyfuse3"]
    subprocess.run([*command, "--dest", str(directory), name.replace("-", "==")], check=True, timeout=300)
    with tarfile.open(directory / f"{name}.tar.gz") as sources:
        member = sources.getmember(f"{name}/examples/passthroughfs.py")
        member.name = "passthroughfs.py"
        sources.extract(member, directory, filter="data")
    return directory / member.name


@contextlib.contextmanager
def passed_through(script: Path, plain: Path, directory: Path) -> Iterator[Path]:
    """Mount the example of the binding, `script`, over the directory `plain`."""
    directory.mkdir(exist_ok=True)
    command = [sys.executable, str(script), str(plain), str(directory)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: os.path.ismount(directory), "the pass-through mount")
        yield directory
    finally:
        subprocess.run(["umount", "-l", str(directory)], check=False, timeout=30)
        process.terminate()
        process.wait(30)
