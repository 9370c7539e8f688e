"""Mounts that come and go at the same time, and those that are ended half-way (spec 02 §13.4)."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import threading
import time
from functools import partial

from tests.mounted.cluster import Cluster, Mount, Volume, at_once, wait_until, within

SECONDS = 10.0
"""How long mounts come and go; those of the original's test do for 30 s."""


def answers(mount: Mount) -> bool:
    """Ask the server through the kernel, as df does."""
    return int(within(30.0, lambda: str(os.statvfs(mount.directory).f_bfree))) > 0


def test_mounts_come_and_go(cluster: Cluster):
    volume = cluster.volume(5, loop=False)
    mounts = {f"m{slot}": cluster.mount(volume, slot) for slot in range(5)}
    mounts |= {f"c{nr}": cluster.mount(volume, None, name=f"c{nr}") for nr in range(2)}
    cluster.await_usable(list(mounts.values()))
    until = time.monotonic() + SECONDS
    # with two of five members away the others still are a majority, and more than may be asked to leave
    may_be_away = threading.Semaphore(2)
    seed = random.getrandbits(32)
    print(f"seed {seed}")
    times: list[float] = []

    def come_and_go(name: str) -> None:
        chance = random.Random(f"{seed} {name}")
        slot = int(name[1:]) if name.startswith("m") else None
        while time.monotonic() < until:
            time.sleep(chance.uniform(0.0, 0.4))
            with may_be_away:
                start = time.monotonic()
                done = mounts[name].umount()
                assert (done.stdout, mounts[name].is_mounted(), mounts[name].processes_gone()) == ("", False, True)
                time.sleep(chance.uniform(0.0, 0.2))
                mounts[name] = cluster.mount(volume, slot, name=name)
                times.append(time.monotonic() - start)
            if chance.random() < 0.3:
                assert answers(mounts[name])

    at_once(*(partial(come_and_go, name) for name in mounts))
    members = [mount for name, mount in mounts.items() if name.startswith("m")]
    leader = cluster.await_leader(members)
    cluster.await_usable(list(mounts.values()))
    assert all(answers(mount) for mount in mounts.values())
    assert len(times) > len(mounts)
    # everybody has left in good order, so that nobody had to be fenced
    for mount in members:
        assert "fencing previous leader" not in mount.log()
    assert leader.fences == []
    cluster.umount_all([*mounts.values()])
    assert cluster.records() == []
    cluster.assert_all_have_left(volume)


def waiting_mount(cluster: Cluster, volume: Volume) -> tuple[Mount, subprocess.Popen[str]]:
    """Start a mount that waits for a server for ever."""
    directory = cluster.directory / "m0"
    # a dead mount may be on it
    with contextlib.suppress(FileExistsError):
        os.mkdir(directory)
    process = cluster.start("mount.scoutfs", "-o", volume.options(0, "wait"), volume.device, str(directory))
    wait_until(lambda: (directory / ".scoutfs/waiting").read_text(), "the wait for a server")
    mount = Mount(directory, cluster, process)
    mount.note_pids()
    return mount, process


def test_what_is_ended_while_it_waits_does_not_hinder_later_mounts(cluster: Cluster):
    volume = cluster.volume(loop=False)
    for number, roles, status in (
        (signal.SIGTERM, (), 8),
        (signal.SIGKILL, ("mount", "member"), 4),
        (signal.SIGKILL, ("mount",), 4),
    ):
        mount, process = waiting_mount(cluster, volume)
        if roles:
            mount.kill(number, *roles)
        else:
            process.send_signal(number)
        _, errors = process.communicate(timeout=30)
        assert process.returncode == status, errors
        assert errors.count("\n") == 1 + errors.count("whose mount process is dead")
        wait_until(mount.processes_gone, "the end of the processes")
    members = cluster.members(volume)
    cluster.await_leader(members)
    cluster.await_usable(members)
    assert all(answers(mount) for mount in members)
    cluster.umount_all(members)
    cluster.assert_all_have_left(volume)
