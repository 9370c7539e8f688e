"""Mounts of volumes that change or are damaged: what readers see then, and that the mount goes on."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from format.block import LARGE_BLOCK_SIZE, SMALL_BLOCK_SIZE
from tests.files.building import FIRST_BLKNO, Builder
from tests.mounted.cluster import Cluster, Mount, Volume, wait_until

REGULAR, DIRECTORY = stat.S_IFREG | 0o644, stat.S_IFDIR | 0o755
FAST = "quorum_heartbeat_timeout_ms=2000"
BLOCK = SMALL_BLOCK_SIZE
OFFLINE = 1


@dataclass
class Built:
    """A volume, and who writes it as another mount would: by commits that only the devices know of."""

    cluster: Cluster
    volume: Volume
    builder: Builder

    def commit(self) -> None:
        assert self.volume.metadev is not None
        self.builder.write(Path(self.volume.metadev), Path(self.volume.device))

    def mount(self, *options: str, slot: int | None = None) -> Mount:
        return self.cluster.mount(self.volume, slot, *options)


@pytest.fixture
def built(cluster: Cluster) -> Built:
    return Built(cluster, cluster.volume(1, loop=False, devices=2), Builder())


def test_a_mount_that_only_reads_follows_what_is_committed(built: Built):
    writer = built.mount(FAST, "wait=20", slot=0)
    reader = built.mount("ro", "wait=20")
    (writer.directory / "d").mkdir()
    commit(writer, "d/f", b"a" * BLOCK)
    path = reader.directory / "d" / "f"
    wait_until(lambda: path.stat().st_size == BLOCK, "what was committed")
    with path.open("rb") as file:
        assert file.read(1) == b"a"
        commit(writer, "d/f", b"a" * BLOCK + b"b" * BLOCK)
        commit(writer, "d/g", b"")
        wait_until(lambda: path.stat().st_size == 2 * BLOCK, "the new size")
        assert path.read_bytes() == b"a" * BLOCK + b"b" * BLOCK
        assert file.read() == b"a" * (BLOCK - 1) + b"b" * BLOCK
    wait_until(lambda: os.listdir(path.parent) == ["f", "g"], "the new name")
    assert reader.read("errors") == ""


def commit(mount: Mount, name: str, contents: bytes) -> None:
    with open(mount.directory / name, "wb") as file:
        file.write(contents)
        file.flush()
        os.fsync(file.fileno())


def test_without_a_server_readers_wait_and_control_files_do_not(cluster: Cluster):
    volume = cluster.volume(3, loop=False)
    mount = cluster.mount(volume, 0, FAST)
    waiting = [cluster.start("ls", str(mount.directory)), cluster.start("stat", str(mount.directory / "f"))]
    wait_until(lambda: mount.read("waiting", timeout=2), "the reason")
    assert stat.S_ISDIR(mount.directory.stat().st_mode)
    # longer than anything that a reader would be answered in, were there a server
    assert mount.read("errors", timeout=2) == ""
    assert [process.poll() for process in waiting] == [None, None]
    for process in waiting:
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == -signal.SIGINT
    waiting = [cluster.start("ls", str(mount.directory))]
    others = [cluster.mount(volume, slot, FAST) for slot in (1, 2)]
    assert waiting[0].wait(30) == 0
    cluster.umount_all([mount, *others])


def wipe(built: Built) -> None:
    """Overwrite all blocks of the tree that was committed first."""
    assert built.volume.metadev is not None
    with open(built.volume.metadev, "r+b") as meta:
        meta.seek((FIRST_BLKNO + 1) * LARGE_BLOCK_SIZE)
        meta.write(os.urandom(LARGE_BLOCK_SIZE))


def test_a_mount_without_a_cluster_notices_that_others_write(built: Built):
    directory = built.builder.add(1, b"d", DIRECTORY)
    built.commit()
    mount = built.mount("ro", "norecovery")
    assert os.listdir(mount.directory) == ["d"]
    assert "somebody writes" not in mount.log()
    built.builder.add(directory, b"f", REGULAR)
    built.commit()
    wipe(built)
    wait_until(lambda: os.listdir(mount.directory / "d") == ["f"], "the new name")
    assert mount.log().count("somebody writes the volume") == 1
    assert mount.read("errors") == ""


def test_a_mount_without_a_cluster_writes_nothing_and_needs_nobody(built: Built):
    built.builder.add(1, b"f", REGULAR)
    built.commit()
    devices = [built.volume.device, str(built.volume.metadev)]
    for device in devices:
        os.chmod(device, 0o444)
    before = [(os.stat(device).st_mtime_ns, os.stat(device).st_blocks) for device in devices]
    mount = built.mount("ro", "norecovery", "wait=5")
    assert mount.read("pids").split() == ["mount", str(mount.pids["mount"])]
    assert (mount.read("connection"), mount.read("waiting")) == ("server none\nterm 0\n", "")
    assert os.statvfs(mount.directory).f_blocks > 0
    with pytest.raises(OSError, match=os.strerror(errno.EROFS)):
        (mount.directory / "new").touch()
    assert built.cluster.records() == []
    # the same volume may be mounted by a cluster at the same time
    member = built.mount(FAST, "wait=20", slot=0)
    assert os.listdir(member.directory) == os.listdir(mount.directory) == ["f"]
    member.umount()
    mount.umount()
    assert [(os.stat(device).st_mtime_ns, os.stat(device).st_blocks) for device in devices[:1]] == before[:1]


def test_a_remount_cannot_join_the_cluster(built: Built):
    mount = built.mount("ro", "norecovery")
    for options in ("remount,rw", "remount,rw,norecovery"):
        done = built.cluster.try_mount(built.volume.device, options, mount.directory.name)
        assert done.returncode != 0
        assert "norecovery" in done.stderr
    assert built.cluster.try_mount(built.volume.device, "remount,ro,nosuid", mount.directory.name).returncode == 0


# -- the archive -------------------------------------------------------------------------------------------------------


def archived(built: Built) -> int:
    """Commit a file whose second block is offline; return its number."""
    ino = built.builder.add(1, b"f", REGULAR)
    built.builder.add_data(ino, 0, b"a" * BLOCK)
    built.builder.add_extent(ino, 1, 1, 0, OFFLINE)
    built.commit()
    return ino


def test_offline_contents_are_waited_for(built: Built):
    archived(built)
    mount = built.mount(FAST, "wait=20", slot=0)
    path = mount.directory / "f"
    assert path.stat().st_blocks == 16
    with path.open("rb", buffering=0) as file:
        assert file.read(BLOCK) == b"a" * BLOCK, "the reader asked for no more"
    reader = built.cluster.start("cat", str(path))
    wait_until(lambda: "are offline" in mount.log(), "a line in the log")
    reader.send_signal(signal.SIGINT)
    assert reader.wait(20) == -signal.SIGINT


def test_unmounting_ends_the_wait_for_offline_contents(built: Built):
    archived(built)
    mount = built.mount(FAST, "wait=20", slot=0)
    reader = built.cluster.start("cat", str(mount.directory / "f"))
    wait_until(lambda: "are offline" in mount.log(), "a line in the log")
    mount.umount("-f", "-l")
    assert reader.wait(20) != 0


def test_without_a_cluster_offline_contents_are_an_error(built: Built):
    archived(built)
    mount = built.mount("ro", "norecovery")
    with (mount.directory / "f").open("rb", buffering=0) as file:
        assert file.read(BLOCK) == b"a" * BLOCK
        with pytest.raises(OSError, match=os.strerror(errno.ENODATA)):
            file.read(BLOCK)


# -- damage ------------------------------------------------------------------------------------------------------------


def test_damaged_blocks_are_errors_and_the_mount_goes_on(built: Built):
    directory = built.builder.add(1, b"d", DIRECTORY)
    for number in range(300):
        ino = built.builder.add(directory, b"f%03d" % number, REGULAR)
        built.builder.add_data(ino, 0, bytes([number % 251]) * BLOCK)
    built.commit()
    # entries sort before the inodes of the files, which take several leaves: damage the one with the last inodes
    assert built.volume.metadev is not None
    leaves = (2 + 300 * 5 + 249) // 250
    with open(built.volume.metadev, "r+b") as meta:
        meta.seek((FIRST_BLKNO + leaves) * LARGE_BLOCK_SIZE + 5000)
        meta.write(b"\xff" * 100)
    mount = built.mount("ro", "norecovery")
    files = mount.directory / "d"
    names = sorted(os.listdir(files))
    assert names == [f"f{number:03}" for number in range(300)]
    assert (files / "f000").read_bytes() == b"\0" * BLOCK
    failed = {}
    for name in names:
        try:
            (files / name).stat()
        except OSError as error:
            failed[name] = error.errno
    assert 0 < len(failed) < 100
    assert set(failed.values()) == {errno.EIO}
    assert min(failed) > "f200"
    [line] = [line for line in mount.log().splitlines() if "failed: " in line]
    assert f"btree block {FIRST_BLKNO + leaves}" in line
    [line] = mount.read("errors").splitlines()
    assert line.startswith("damage: ")
    assert int(line.split()[-1]) >= len(failed)
    assert (files / "f001").read_bytes() == b"\1" * BLOCK


def test_a_data_device_that_fails(built: Built):
    ino = built.builder.add(1, b"f", REGULAR)
    built.builder.add_data(ino, 0, b"a" * BLOCK)
    built.commit()
    mount = built.mount("ro", "norecovery")
    os.truncate(built.volume.device, 1 << 20)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        (mount.directory / "f").read_bytes()
    assert os.listdir(mount.directory) == ["f"]
    assert "it ended after" in mount.read("errors")


def test_a_control_directory_of_the_volume_is_hidden(built: Built):
    ino = built.builder.add(1, b".scoutfs", DIRECTORY)
    built.builder.add(ino, b"f", REGULAR)
    built.builder.add(1, b"other", REGULAR)
    built.commit()
    mount = built.mount("ro", "norecovery")
    assert os.listdir(mount.directory) == ["other"]
    assert "fsid" in os.listdir(mount.control(""))


def test_holes_and_ends_of_files(built: Built):
    ino = built.builder.add(1, b"f", REGULAR)
    built.builder.add_data(ino, 1, b"a" * BLOCK)
    built.builder.add_extent(ino, 3, 2, 5, 2)  # unwritten
    built.builder.add_data(ino, 600, b"b" * BLOCK * 2)
    built.builder.files[ino].size = 601 * BLOCK + 17
    built.commit()
    mount = built.mount("ro", "norecovery")
    expected = bytes(BLOCK) + b"a" * BLOCK + bytes(598 * BLOCK) + b"b" * (BLOCK + 17)
    assert (mount.directory / "f").read_bytes() == expected
    fd = os.open(mount.directory / "f", os.O_RDONLY)
    for offset, size in ((0, 10), (BLOCK - 3, 7), (600 * BLOCK - 5, 9), (601 * BLOCK, 100), (700 * BLOCK, 5)):
        assert os.pread(fd, size, offset) == expected[offset : offset + size]
    os.close(fd)
    tool = ["cmp", "-", str(mount.directory / "f")]
    assert subprocess.run(tool, input=expected, check=False, timeout=30).returncode == 0
