"""`scoutfs-fenced` with a command that notes what it was asked."""

from __future__ import annotations

import subprocess

from tests.mounted.cluster import Cluster

FORCE_UNMOUNT = """
for link in "$SCOUTFS_RUN_DIR"/f.*; do
    [ "$(cat "$link/rid" 2>/dev/null)" = "$SCOUTFS_FENCED_REQ_RID" ] || continue
    umount.scoutfs -f "$(dirname "$(readlink "$link")")" || exit 1
done
"""
"""What the original's tests run: it ends the mount with that rid, and succeeds if there is none."""


class FenceDaemon:
    """The daemon of one host, which looks for requests each `delay` seconds; `action` is what its command does."""

    def __init__(self, cluster: Cluster, action: str = FORCE_UNMOUNT, delay: int = 1) -> None:
        self._cluster = cluster
        directory = cluster.directory
        self._log, command, config = (directory / name for name in ("fences", "fence-command", "fenced.conf"))
        command.write_text(
            f'#!/bin/bash\necho "$SCOUTFS_FENCED_REQ_RID $SCOUTFS_FENCED_REQ_IP $*" >>{self._log}\n{action}'
        )
        command.chmod(0o755)
        config.write_text(
            f"SCOUTFS_FENCED_DELAY={delay}\nSCOUTFS_FENCED_RUN={command}\nSCOUTFS_FENCED_RUN_ARGS='some words'\n"
        )
        cluster.environment["SCOUTFS_FENCED_CONFIG_FILE"] = str(config)

    def start(self) -> None:
        """Run it until the test ends."""
        self._cluster.start("scoutfs-fenced")

    def once(self) -> subprocess.CompletedProcess[str]:
        """Have it look once."""
        return self._cluster.run("scoutfs-fenced", "--once", check=False)

    def calls(self) -> list[tuple[str, str]]:
        """Return rid and address of each request that was answered."""
        try:
            lines = self._log.read_text().splitlines()
        except FileNotFoundError:
            return []
        for line in lines:
            assert line.endswith(" some words")
        return [(line.split()[0], line.split()[1]) for line in lines]

    def rids(self) -> list[str]:
        """Return whom it was asked to fence, in order."""
        return [rid for rid, _ in self.calls()]
