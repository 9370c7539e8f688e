"""Several hosts on this one: network namespaces at one switch, each with the directories of a host of its own.

They share the mount namespace and the devices.  The switch is a bridge in another namespace, so that nothing of it is
seen outside, and a host is cut off as by a pulled cable: its own addresses stay.
"""

from __future__ import annotations

import contextlib
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.mounted.cluster import Cluster, Volume, cluster_in


class Hosts:
    """`clusters` has the commands and mounts of each host."""

    def __init__(self, directory: Path, count: int) -> None:
        self._name = f"scoutfs-{secrets.token_hex(4)}"
        self._stack = contextlib.ExitStack()
        self.clusters: list[Cluster] = []
        try:
            self._make(directory, count)
        except BaseException:
            self.close()
            raise

    def _make(self, directory: Path, count: int) -> None:
        directory.mkdir(exist_ok=True)
        switch = self._namespace("switch")
        _ip(switch, "link", "add", "switch", "type", "bridge")
        _ip(switch, "link", "set", "switch", "up")
        for nr in range(count):
            host = self._namespace(str(nr))
            _ip(switch, "link", "add", f"port{nr}", "type", "veth", "peer", "name", "eth0", "netns", host)
            _ip(switch, "link", "set", f"port{nr}", "master", "switch", "up")
            _ip(host, "address", "add", f"{_address(nr)}/24", "dev", "eth0")
            _ip(host, "link", "set", "lo", "up")
            _ip(host, "link", "set", "eth0", "up")
            cluster = self._stack.enter_context(contextlib.contextmanager(cluster_in)(directory / f"host{nr}"))
            cluster.prefix = ["nsenter", f"--net=/run/netns/{host}"]
            self.clusters.append(cluster)

    def _namespace(self, suffix: str) -> str:
        name = f"{self._name}-{suffix}"
        subprocess.run(["ip", "netns", "add", name], check=True, timeout=30, capture_output=True)
        self._stack.callback(subprocess.run, ["ip", "netns", "delete", name], check=False, timeout=30)
        return name

    def volume(self) -> Volume:
        """Make a volume with a slot for each host, on a device that all of them reach."""
        return self.clusters[0].volume({nr: f"{_address(nr)},23450" for nr in range(len(self.clusters))}, loop=False)

    def cut(self, nr: int) -> None:
        """Pull the cable of a host."""
        _ip(f"{self._name}-switch", "link", "set", f"port{nr}", "down")

    def heal(self, nr: int) -> None:
        """Plug it in again."""
        _ip(f"{self._name}-switch", "link", "set", f"port{nr}", "up")

    def run_directories(self) -> list[Path]:
        return [cluster.directory / "run" for cluster in self.clusters]

    def close(self) -> None:
        """End all mounts, then delete the namespaces."""
        self._stack.close()


def _address(nr: int) -> str:
    return f"10.77.7.{nr + 1}"


def _ip(namespace: str, *words: str) -> None:
    done = subprocess.run(["ip", "-n", namespace, *words], check=False, timeout=30, capture_output=True, text=True)
    assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr}"


@contextlib.contextmanager
def hosts_in(directory: Path, count: int) -> Iterator[Hosts]:
    hosts = Hosts(directory, count)
    try:
        yield hosts
    finally:
        hosts.close()
