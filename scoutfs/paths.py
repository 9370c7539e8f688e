"""Where this host keeps what mounts share with daemons and with each other."""

from __future__ import annotations

import os
from pathlib import Path


def run_directory() -> Path:
    """`/run/scoutfs`: a link to the control directory of each mount; SCOUTFS_RUN_DIR overrides it."""
    return Path(os.environ.get("SCOUTFS_RUN_DIR") or "/run/scoutfs")


def mounts_directory() -> Path:
    """`/var/lib/scoutfs/mounts`: a locked file for each mount; SCOUTFS_STATE_DIR overrides `/var/lib/scoutfs`."""
    return Path(os.environ.get("SCOUTFS_STATE_DIR") or "/var/lib/scoutfs") / "mounts"


def mount_name(fsid: int, rid: int) -> str:
    """`f.FFFFFF.r.RRRRRR`, the name of a mount in messages and directories (spec 02 §9.1)."""
    return f"f.{fsid >> 40:06x}.r.{rid >> 40:06x}"
