"""Looks at a cluster again and again: at a mount's control directory, or at a device and the mounts of its volume."""

from __future__ import annotations

import time
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from format.block import FormatError
from scoutfs.errors import ScoutfsError
from scoutfs.quorum.overview import Overview
from scoutfs.storage.device import Device
from scoutfs.tools.quorum.control import control_directory, mount_point, mounts_of, read_mount
from scoutfs.tools.quorum.live import MountView, Snapshot
from scoutfs.tools.quorum.polling import Poller
from scoutfs.tools.quorum.volume import read_overview

_Answer = TypeVar("_Answer")

FIRST_ANSWER = 5.0
"""Seconds in which a mount or device must answer before anything is shown."""
LATER_ANSWERS = 1.0
"""Seconds that one look waits for an answer at most."""


class Watcher:
    """`target` is a directory at which a volume is mounted, or a metadata device.

    `directories` are where this host keeps links to the control directories of mounts.
    """

    def __init__(self, target: str, directories: Iterable[Path]) -> None:
        self._target = target
        self._directories = tuple(directories)
        self._volume: Poller[Overview] | None = None
        self._mounts: dict[Path, Poller[MountView]] = {}
        self._fsid: int | None = None

    def first(self) -> Snapshot:
        """Take the first look; raises ScoutfsError, FormatError or OSError if the target cannot be looked at."""
        deadline = time.monotonic() + FIRST_ANSWER
        target = Path(self._target)
        if Poller(self._target, target.is_dir).answer(deadline):
            control = Poller(self._target, lambda: control_directory(target)).answer(deadline)
            self._mounts[control] = self._poller(control, self._target)
            view = self._mounts[control].answer(deadline)
            return self._snapshot(None, [view], [])
        self._volume = Poller(self._target, self._read_volume)
        volume = self._volume.answer(deadline)
        self._fsid = volume.fsid
        return self._with_mounts(volume, [], deadline)

    def next(self) -> Snapshot:
        """Take another look; what cannot be seen any more is a problem in it."""
        deadline = time.monotonic() + LATER_ANSWERS
        problems: list[str] = []
        volume = _ask(self._volume, deadline, problems) if self._volume else None
        return self._with_mounts(volume, problems, deadline)

    def _with_mounts(self, volume: Overview | None, problems: list[str], deadline: float) -> Snapshot:
        if self._fsid is not None:
            found = mounts_of(self._fsid, self._directories)
            self._mounts = {path: self._mounts.get(path) or self._poller(path, mount_point(path)) for path in found}
        for poller in self._mounts.values():
            poller.ask()
        views = [_ask(poller, deadline, problems) for poller in self._mounts.values()]
        return self._snapshot(volume, [view for view in views if view is not None], problems)

    def _snapshot(self, volume: Overview | None, views: list[MountView], problems: list[str]) -> Snapshot:
        ours = [view for view in views if self._fsid is None or view.fsid == self._fsid]
        ours.sort(key=lambda view: (view.slot < 0, view.slot, view.rid))
        now = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
        return Snapshot(self._target, now, volume, tuple(ours), tuple(problems))

    def _read_volume(self) -> Overview:
        with Device.open(self._target) as device:
            return read_overview(device)

    @staticmethod
    def _poller(path: Path, shown_as: str) -> Poller[MountView]:
        return Poller(shown_as, lambda: read_mount(path, shown_as))


def pause(interval: float, begun: float) -> None:
    """Sleep for what is left of `interval` since `begun` (seconds of `time.monotonic`)."""
    time.sleep(max(0.0, begun + interval - time.monotonic()))


def _ask(poller: Poller[_Answer], deadline: float, problems: list[str]) -> _Answer | None:
    """Return the answer; None, and a line more in `problems`, if there is none."""
    try:
        return poller.answer(deadline)
    except (ScoutfsError, FormatError, OSError) as error:
        problems.append(str(error))
        return None
