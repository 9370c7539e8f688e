"""Mounting and unmounting, on real devices through the real kernel."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import signal
import stat
import time
from pathlib import Path

import pytest

from mount.control import FIRST_INO
from tests.mounted.cluster import Cluster, Mount, wait_until, waits_for_answer

FAST = "quorum_heartbeat_timeout_ms=2000"


def test_three_members_from_one_shell_elect_a_leader(cluster: Cluster):
    volume = cluster.volume()
    first = cluster.mount(volume, 0, FAST)
    # one of three cannot lead: its status is there to read all the same
    assert first.status["quorum_slot_nr"] == "0"
    assert first.read("quorum/is_leader") == "0"
    assert first.read("waiting").startswith("waiting for a server for ")
    members = [first, cluster.mount(volume, 1, FAST), cluster.mount(volume, 2, FAST)]
    leader = cluster.await_leader(members)
    assert [mount.is_leader for mount in members].count(True) == 1
    for mount in members:
        wait_until(lambda mount=mount: mount.usable, "a connection to the server")
        assert mount.read("connection").split() == [
            "server",
            volume.slots[members.index(leader)].replace(",", ":"),
            "term",
            str(leader.term),
        ]
        found = os.statvfs(mount.directory)
        assert (found.f_bsize, found.f_namemax) == (4096, 255)
        assert 0 < found.f_bfree < found.f_blocks == (160 << 30) // 4096
    assert "server ready" in leader.log()
    cluster.umount_all(members)
    assert cluster.records() == []
    assert cluster.links() == []


def test_the_mount_shows_root_and_hides_the_control_directory(cluster: Cluster):
    mount = cluster.mount(cluster.volume(1, loop=False), 0, "wait=20")
    root = os.stat(mount.directory)
    assert (root.st_ino, stat.S_IMODE(root.st_mode), root.st_nlink, root.st_uid) == (1, 0o755, 2, 0)
    assert abs(root.st_mtime - time.time()) < 600
    assert os.listdir(mount.directory) == []
    control = os.stat(mount.control(""))
    assert (control.st_ino, control.st_uid, stat.S_IMODE(control.st_mode)) == (FIRST_INO, 0, 0o755)
    assert os.listxattr(mount.directory) == []
    with pytest.raises(FileNotFoundError):
        os.stat(mount.directory / "anything")
    with pytest.raises(PermissionError):
        mount.control("new").touch()
    with pytest.raises(OSError) as caught:
        mount.control("").rename(mount.directory / "other")
    assert caught.value.errno in (errno.EPERM, errno.EXDEV)
    (mount.directory / "d").mkdir()
    with pytest.raises(PermissionError):
        (mount.directory / "d").rename(mount.control(""))
    assert os.listdir(mount.directory) == ["d"]
    assert mount.read("errors") == ""


def test_nothing_can_be_changed_where_only_reading_was_asked_for(cluster: Cluster):
    mount = cluster.mount(cluster.volume(1, loop=False), 0, "ro", "wait=20")
    for change in (lambda: (mount.directory / "f").touch(), lambda: (mount.directory / "d").mkdir()):
        with pytest.raises(OSError) as caught:
            change()
        assert caught.value.errno == errno.EROFS


def test_the_whole_control_directory_can_be_walked(cluster: Cluster):
    mount = cluster.mount(cluster.volume(1, loop=False), 0, "wait=20")
    names = {}
    for directory, _, files in os.walk(mount.control("")):
        for name in files:
            path = Path(directory) / name
            names[str(path.relative_to(mount.control("")))] = path.read_text()
            assert path.stat().st_size == 4096
    assert sum(name.startswith("counters/") for name in names) == 202
    assert names["fsid"] == f"{int(names['fsid'], 16):016x}\n"
    assert names["format_version"] == "2\n"
    assert names["mount_options/quorum_slot_nr"] == "0\n"
    assert int(names["counters/quorum_elected"]) == 1
    assert cluster.links()[0] == f"f.{names['fsid'][:6]}.r.{names['rid'][:6]}"
    link = cluster.directory / "run" / cluster.links()[0]
    assert (link / "rid").read_text() == names["rid"]


def test_written_options_change_behaviour(cluster: Cluster):
    mount = cluster.mount(cluster.volume(loop=False), 0)
    path = mount.control("mount_options/quorum_heartbeat_timeout_ms")
    assert path.read_text() == "10000"
    path.write_text("3000\n")
    assert path.read_text() == "3000"
    for bad in ("0", "-1", "1000000", "what"):
        with pytest.raises(OSError) as caught:
            path.write_text(bad)
        assert caught.value.errno == errno.EINVAL
    assert path.read_text() == "3000"
    assert "invalid quorum_heartbeat_timeout_ms value" in mount.log()
    with pytest.raises(PermissionError):
        mount.control("mount_options/quorum_slot_nr").write_text("1")


def test_mount_options_that_are_shown(cluster: Cluster):
    volume = cluster.volume(1, devices=2)
    mount = cluster.mount(volume, 0, "noatime,nodev,orphan_scan_delay_ms=777,x-note=hello")
    assert mount.read("options") == (
        "acl,data_prealloc_blocks=2048,data_prealloc_contig_only=1,ino_alloc_per_lock=1024,"
        f"metadev_path={volume.metadev},orphan_scan_delay_ms=777,quorum_slot_nr=0,tcp_keepalive_timeout_ms=24000\n"
    )
    assert mount.read("mount_options/metadev_path") == volume.metadev
    number = os.stat(volume.device).st_rdev
    assert mount.read("data_device_maj_min") == f"{os.major(number)}:{os.minor(number)}\n"
    [line] = [line for line in Path("/proc/mounts").read_text().splitlines() if str(mount.directory) in line]
    device, _, kind, options, *_ = line.split()
    assert (device, kind) == (volume.device, "fuse.scoutfs")
    assert {"rw", "noatime", "nodev", "allow_other", "default_permissions"} <= set(options.split(","))
    [line] = [line for line in cluster.run("mount").stdout.splitlines() if str(mount.directory) in line]
    assert "quorum_slot_nr=0" in line
    assert "x-note=hello" in line
    mount.umount()
    assert str(mount.directory) not in Path("/run/mount/utab").read_text()


def test_second_mount_of_a_slot_names_the_first(cluster: Cluster):
    volume = cluster.volume()
    first = cluster.mount(volume, 0)
    done = cluster.try_mount(volume.device, volume.options(0), "second")
    assert done.returncode == 32
    assert str(first.directory) in done.stderr
    assert str(first.pids["mount"]) in done.stderr
    assert "quorum_slot_nr=0" in done.stderr
    assert done.stderr.count("\n") == 1
    again = cluster.try_mount(volume.device, volume.options(1), "m0")
    assert again.returncode == 32
    assert "mounted here" in again.stderr
    # and the first one is none the worse for it
    assert first.status["quorum_slot_nr"] == "0"


def test_umount_returns_when_the_mount_has_left(cluster: Cluster):
    volume = cluster.volume(1)
    mount = cluster.mount(volume, 0, "wait=20")
    done = mount.umount()
    assert (done.stdout, done.stderr) == ("", "")
    assert not mount.is_mounted()
    assert mount.processes_gone()
    assert cluster.links() == []
    assert cluster.records() == []
    # the devices are free: a tool may claim them
    cluster.run("mkfs.scoutfs", "-f", "-Q", f"0,{volume.slots[0]}", volume.device)


@contextlib.contextmanager
def in_use(mount: Mount):
    """Keep a file of the mount open, and close it even if it is dead by then."""
    fd = os.open(mount.control("rid"), os.O_RDONLY)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.close(fd)


def test_a_busy_mount_stays(cluster: Cluster):
    mount = cluster.mount(cluster.volume(1, loop=False), 0)
    with in_use(mount):
        done = mount.umount(check=False)
        assert done.returncode == 32
        assert "in use" in done.stderr
        assert mount.is_mounted()
        assert mount.read("mount_options/quorum_slot_nr") == "0\n"
    mount.umount()


@pytest.mark.parametrize("how", ["umount", "fusermount3"])
def test_plain_unmounts_leave_cleanly_too(cluster: Cluster, how):
    mount = cluster.mount(cluster.volume(1), 0, "wait=20")
    command = ["umount", "-i"] if how == "umount" else ["fusermount3", "-u"]
    cluster.run(*command, str(mount.directory))
    wait_until(mount.processes_gone, "the end of the processes")
    assert cluster.records() == []
    assert cluster.links() == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_unmount(cluster: Cluster, number):
    mount = cluster.mount(cluster.volume(1), 0, "wait=20")
    mount.kill(number, "mount")
    wait_until(mount.processes_gone, "the end of the processes")
    assert not mount.is_mounted()
    assert cluster.records() == []


def test_a_signal_detaches_a_busy_mount(cluster: Cluster):
    mount = cluster.mount(cluster.volume(1, loop=False), 0, "wait=20")
    with in_use(mount):
        mount.kill(signal.SIGTERM, "mount")
        wait_until(mount.processes_gone, "the end of the processes")
        assert not mount.is_mounted()


def quorum_events(device: str, slot: int) -> bytes:
    """Return the 4 KiB of a slot's quorum block, past the page cache."""
    fd = os.open(device, os.O_RDONLY | os.O_DIRECT)
    try:
        buffer = mmap.mmap(-1, 4096)
        os.preadv(fd, [buffer], (17 + slot) * 4096)
        return bytes(buffer)
    finally:
        os.close(fd)


@pytest.mark.parametrize("how", ["umount -f", "kill"])
def test_forced_unmounts_write_nothing(cluster: Cluster, how):
    volume = cluster.volume(1)
    mount = cluster.mount(volume, 0, "wait=20")
    wait_until(lambda: mount.status["server_event"] == "3", "the record that leaders before are fenced")
    before = quorum_events(volume.device, 0)
    with in_use(mount):
        if how == "kill":
            mount.kill(signal.SIGKILL, "mount")
            wait_until(mount.processes_gone, "the end of the processes")
        mount.umount("-f")
    assert not mount.is_mounted()
    assert mount.processes_gone()
    assert quorum_events(volume.device, 0) == before
    # its record stays, its lock is free: that is what proves it dead
    assert len(cluster.records()) == 1
    assert cluster.live_pids() == []


def test_a_clean_unmount_records_stop_and_end(cluster: Cluster):
    volume = cluster.volume(1)
    mount = cluster.mount(volume, 0, "wait=20")
    wait_until(lambda: mount.status["server_event"] == "3", "the record that leaders before are fenced")
    mount.umount()
    block = quorum_events(volume.device, 0)
    numbers = [int.from_bytes(block[40 + 40 * e : 48 + 40 * e], "little") for e in range(6)]
    terms = [int.from_bytes(block[56 + 40 * e : 64 + 40 * e], "little") for e in range(6)]
    # BEGIN TERM ELECT FENCE STOP END, each written once, in this order
    assert numbers == [1, 2, 3, 4, 5, 6]
    assert terms == [0, 1, 1, 1, 1, 1]


def test_a_dead_mount_is_replaced(cluster: Cluster):
    volume = cluster.volume(1, loop=False)
    dead = cluster.mount(volume, 0, "wait=20")
    dead.kill()
    wait_until(dead.processes_gone, "the end of the processes")
    # what the kernel still knows of it is no life
    with contextlib.suppress(OSError):
        os.stat(dead.directory)
    mount = cluster.mount(volume, 0, "wait=20")
    assert "whose mount process is dead" in mount.started.stderr
    assert mount.usable
    assert [name for name in cluster.links() if not name.endswith(".socket")] == [
        f"f.{mount.read('fsid')[:6]}.r.{mount.read('rid')[:6]}"
    ]
    mount.umount()


def test_the_last_majority_leaves_together_and_says_so(cluster: Cluster):
    volume = cluster.volume()
    members = [cluster.mount(volume, slot, FAST) for slot in (0, 1)]
    cluster.await_leader(members)
    for mount in members:
        wait_until(lambda mount=mount: mount.usable, "a connection to the server")
    first = members[0].umount_started()
    line = first.stderr.readline()
    assert line.startswith(f"umount.scoutfs: {members[0].directory}: waits: ")
    assert first.poll() is None
    members[1].umount()
    assert first.wait(timeout=30) == 0
    assert cluster.records() == []


def test_wait_fails_with_a_reason_and_unmounts_again(cluster: Cluster):
    volume = cluster.volume()
    start = time.monotonic()
    done = cluster.try_mount(volume.device, volume.options(1, "wait=2"))
    assert done.returncode == 32
    assert time.monotonic() - start >= 2
    assert "not usable within 2 s: waiting for a server" in done.stderr
    assert "1 of 2 votes needed" in done.stderr
    assert cluster.mounted() == []
    assert cluster.records() == []


def test_interrupting_a_mount_that_waits(cluster: Cluster):
    volume = cluster.volume()
    directory = cluster.directory / "m"
    directory.mkdir()
    process = cluster.start("mount.scoutfs", "-o", volume.options(0, "wait"), volume.device, str(directory))
    wait_until(lambda: cluster.mounted(), "the mount")
    wait_until(lambda: (directory / ".scoutfs/waiting").read_text(), "the wait for a server")
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 8, errors
    assert cluster.mounted() == []
    wait_until(lambda: not cluster.live_pids(), "the end of the processes")
    # later mounts work
    cluster.mount(volume, 0).umount()


def test_statfs_waits_for_a_server_and_can_be_interrupted(cluster: Cluster):
    mount = cluster.mount(cluster.volume(), 0)
    for number in (signal.SIGINT, signal.SIGKILL):
        process = cluster.start("stat", "-f", str(mount.directory))
        wait_until(lambda process=process: waits_for_answer(process.pid), "the wait of stat")
        process.send_signal(number)
        process.wait(timeout=5)
    # and a mount that is forced ends the waits of others
    process = cluster.start("stat", "-f", str(mount.directory))
    wait_until(lambda: waits_for_answer(process.pid), "the wait of stat")
    mount.umount("-f")
    process.wait(timeout=5)
    assert process.returncode != 0


def test_forced_by_the_kernel_while_requests_are_in_progress(cluster: Cluster):
    volume = cluster.volume()
    mount = cluster.mount(volume, 0)
    process = cluster.start("stat", "-f", str(mount.directory))
    wait_until(lambda: waits_for_answer(process.pid), "the wait of stat")
    cluster.run("umount", "-i", "-f", "-l", str(mount.directory))
    wait_until(mount.processes_gone, "the end of the processes")
    assert len(cluster.records()) == 1, "a forced unmount leaves its record"
    process.wait(timeout=5)


def test_a_client_without_a_slot(cluster: Cluster):
    volume = cluster.volume(1)
    member = cluster.mount(volume, 0, "wait=20")
    client = cluster.mount(volume, None, "wait=20")
    assert not client.control("quorum").exists()
    assert not client.control("fence").exists()
    assert client.read("mount_options/quorum_slot_nr") == "-1\n"
    assert list(client.pids) == ["mount"]
    waiting = member.umount_started()
    assert "waits: " in waiting.stderr.readline()
    client.umount()
    assert waiting.wait(timeout=30) == 0


def test_fake_checks_everything_and_mounts_nothing(cluster: Cluster):
    volume = cluster.volume()
    done = cluster.try_mount(volume.device, volume.options(2), "m", "-f")
    assert (done.returncode, done.stderr) == (0, "")
    assert cluster.mounted() == []
    assert cluster.records() == []
    assert cluster.try_mount(volume.device, volume.options(5), "m", "-f").returncode == 32


def test_read_only_and_remount(cluster: Cluster):
    mount = cluster.mount(cluster.volume(1, loop=False), 0, "ro,wait=20")
    with pytest.raises(OSError) as caught:
        (mount.directory / "f").touch()
    assert caught.value.errno == errno.EROFS
    word = ["mount.scoutfs", "-o"]
    image = str(cluster.directory / "v0.img")
    cluster.run(*word, "remount,rw,quorum_slot_nr=0", image, str(mount.directory))
    assert mount.control("mount_options/lock_idle_count").write_text("100")
    refused = cluster.run(*word, "remount,orphan_scan_delay_ms=100", image, str(mount.directory), check=False)
    assert refused.returncode == 32
    assert "mount_options/orphan_scan_delay_ms" in refused.stderr


def test_foreground(cluster: Cluster):
    volume = cluster.volume(1, loop=False)
    directory = cluster.directory / "m"
    directory.mkdir()
    process = cluster.start("mount.scoutfs", "--foreground", volume.device, str(directory), "-o", volume.options(0))
    wait_until(lambda: (directory / ".scoutfs/connection").read_text().startswith("server 127"), "a server")
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 0, errors
    lines = errors.splitlines()
    assert lines[-1].endswith(": unmounted")
    assert all(line.startswith("scoutfs f.") for line in lines)
    assert cluster.mounted() == []
