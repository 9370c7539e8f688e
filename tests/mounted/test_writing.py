"""Writable mounts of real volumes: what programs do with them, and what is left of it after a remount or a crash."""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
import random
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.mounted.cluster import BIN, Cluster, Mount, Volume, wait_until

FAST = ("quorum_heartbeat_timeout_ms=2000", "wait=30")
PROJECT = Path(__file__).parents[2]


def run(*command: str | Path, **how: object) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=120, **how)
    assert done.returncode == 0, done.stderr
    return done.stdout


def described(top: Path) -> dict[str, object]:
    """Return everything below a directory that has to outlive a remount."""
    found: dict[str, object] = {}
    for directory, directories, files in os.walk(top):
        for name in sorted([".", *directories, *files]):
            path = Path(directory) / name
            status = path.lstat()
            contents = ""
            if stat.S_ISLNK(status.st_mode):
                contents = os.readlink(path)
            elif stat.S_ISREG(status.st_mode):
                contents = hashlib.sha256(path.read_bytes()).hexdigest()
            attributes = {
                key: os.getxattr(path, key, follow_symlinks=False)
                for key in sorted(os.listxattr(path, follow_symlinks=False))
            }
            fields = ("st_ino", "st_mode", "st_nlink", "st_uid", "st_gid", "st_size", "st_blocks", "st_rdev")
            times = (status.st_mtime_ns, status.st_ctime_ns)
            numbers = tuple(getattr(status, field) for field in fields)
            found[str(path.relative_to(top))] = (numbers, times, contents, attributes)
    return found


def assert_undamaged(volume: Volume) -> None:
    devices = [volume.device] if volume.metadev is None else [volume.metadev, volume.device]
    done = subprocess.run([BIN / "fsck.scoutfs", *devices], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def volume(cluster: Cluster) -> Iterator[Volume]:
    """A volume with one member; it has to be undamaged at the end."""
    made = cluster.volume(1, loop=False)
    yield made
    cluster.clean_up()
    assert_undamaged(made)


def remounted(cluster: Cluster, volume: Volume, mount: Mount) -> Mount:
    assert mount.read("errors") == ""
    mount.umount()
    return cluster.mount(volume, 0, *FAST)


def test_trees_of_files_outlive_a_remount(cluster: Cluster, volume: Volume):
    mount = cluster.mount(volume, 0, *FAST)
    top = mount.directory / "top"
    top.mkdir()
    run("cp", "-a", PROJECT / "format", PROJECT / "mount", top)
    run("sh", "-c", f"tar -C {PROJECT} -cf - docs | tar -C {top} -xf -")
    run("diff", "-r", PROJECT / "docs", top / "docs")
    kinds = top / "kinds"
    kinds.mkdir()
    os.mkfifo(kinds / "fifo")
    os.mknod(kinds / "device", stat.S_IFBLK | 0o640, os.makedev(300, 70_000))
    os.symlink("fifo", kinds / "link")
    (kinds / "file").write_bytes(b"contents")
    os.link(kinds / "file", kinds / "other")
    os.chown(kinds / "file", 12, 13)
    os.utime(kinds / "file", ns=(10**18 + 1, 10**18 + 2))
    os.setxattr(kinds / "file", "user.large", bytes(range(256)) * 200)
    os.setxattr(kinds / "file", "trusted.small", b"")
    os.setxattr(kinds / "file", "scoutfs.srch.name", b"value")
    before = described(kinds)
    with open(kinds / "sparse", "wb") as file:
        file.seek(1 << 40)
        file.write(b"end")
        file.truncate((1 << 40) + 10)
    with pytest.raises(OSError):
        os.setxattr(kinds / "file", "user.too_large", bytes(65536))
    mount = remounted(cluster, volume, mount)
    kinds = mount.directory / "top" / "kinds"
    with open(kinds / "sparse", "rb") as file:
        assert (os.fstat(file.fileno()).st_size, os.fstat(file.fileno()).st_blocks <= 4096) == ((1 << 40) + 10, True)
        file.seek((1 << 40) - 5)
        assert file.read() == bytes(5) + b"end" + bytes(7)
    (kinds / "sparse").unlink()
    after = described(kinds)
    for found in (before, after):
        found.pop(".")
    assert after == before
    for name in ("format", "mount", "docs"):
        run("diff", "-r", PROJECT / name, mount.directory / "top" / name)
    run("rm", "-r", mount.directory / "top")
    assert os.listdir(mount.directory) == []
    remounted(cluster, volume, mount).umount()


def test_programs_work_and_find_their_files_again(cluster: Cluster, volume: Volume):
    mount = cluster.mount(volume, 0, *FAST)
    git = ["git", "-c", "user.name=x", "-c", "user.email=x@y", "-C", mount.directory / "repository"]
    run("git", "init", "-q", mount.directory / "repository")
    run("cp", "-a", PROJECT / "format", mount.directory / "repository")
    run(*git, "add", ".")
    run(*git, "commit", "-qm", "first")
    run(*git, "gc", "-q")
    for mode in ("delete", "wal"):
        with closing(sqlite3.connect(mount.directory / f"{mode}.db")) as database:
            assert database.execute(f"pragma journal_mode={mode}").fetchone() == (mode,)
            database.execute("create table numbers(number integer)")
            for start in range(0, 500, 100):
                with database:
                    database.executemany("insert into numbers values(?)", [(n,) for n in range(start, start + 100)])
            with database:
                database.execute("delete from numbers where number % 3 = 0")
    mount = remounted(cluster, volume, mount)
    git[-1] = mount.directory / "repository"
    assert run(*git, "status", "--short") == ""
    run(*git, "fsck", "--strict")
    assert run(*git, "log", "--format=%s") == "first\n"
    for mode in ("delete", "wal"):
        with closing(sqlite3.connect(mount.directory / f"{mode}.db")) as database:
            expected = [number for number in range(500) if number % 3]
            assert database.execute("select count(*), sum(number) from numbers").fetchone() == (
                len(expected),
                sum(expected),
            )
            assert database.execute("pragma integrity_check").fetchone() == ("ok",)
    mount.umount()


def test_access_lists_are_inherited_and_count(cluster: Cluster, volume: Volume):
    mount = cluster.mount(volume, 0, *FAST)
    shared = mount.directory / "shared"
    shared.mkdir(mode=0o700)
    run("setfacl", "-m", "u:1234:rwx,d:u:1234:rwx,d:g::-,d:o::-", shared)
    (shared / "file").write_text("contents")
    (shared / "below").mkdir()
    assert "default:user:1234:rwx" in run("getfacl", "-cp", shared / "below")
    mount = remounted(cluster, volume, mount)
    path = mount.directory / "shared" / "file"
    assert "user:1234:rwx" in run("getfacl", "-cp", path)
    for user, readable in ((1234, True), (4321, False)):
        assert may_read(path, user) == readable
    os.chmod(path, 0o600)
    assert not may_read(path, 1234)
    mount.umount()


def may_read(path: Path, user: int) -> bool:
    # only from inside: directories of tests are not for others
    how = {"cwd": path.parent, "user": user, "group": user, "extra_groups": []}
    return subprocess.run(["cat", path.name], capture_output=True, timeout=20, **how).returncode == 0


def test_what_was_synced_is_there_after_the_mount_was_killed(cluster: Cluster, volume: Volume):
    mount = cluster.mount(volume, 0, *FAST)
    synced = mount.directory / "synced"
    synced.mkdir()
    fd = os.open(synced / "file", os.O_RDWR | os.O_CREAT)
    os.write(fd, b"x" * 100_000)
    with mmap.mmap(fd, 100_000) as mapped:
        mapped[50_000:50_004] = b"page"
        mapped.flush()
    os.fsync(fd)
    before = described(synced)
    os.pwrite(fd, b"unsynced", 200_000)
    os.mkdir(mount.directory / "unsynced")
    for pid in mount.pids.values():
        os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(OSError):
        os.close(fd)
    subprocess.run(["umount", "-l", mount.directory], check=True, timeout=30)
    mount = cluster.mount(volume, 0, *FAST)
    found = described(mount.directory / "synced")
    contents = (mount.directory / "synced" / "file").read_bytes()
    assert (len(contents), contents[50_000:50_004]) in ((100_000, b"page"), (200_008, b"page"))
    if len(contents) == 100_000:
        assert found == before
    assert set(os.listdir(mount.directory)) in ({"synced"}, {"synced", "unsynced"})
    (mount.directory / "after").write_text("it can be written")
    mount.umount()


def test_two_mounts_see_what_the_other_does_at_once(cluster: Cluster):
    volume = cluster.volume(1, loop=True)
    first = cluster.mount(volume, 0, *FAST)
    second = cluster.mount(volume, None, "wait=30")
    one, other = first.directory, second.directory
    for number in range(10):
        (one / "file").write_text(f"{number}")
        assert (other / "file").read_text() == f"{number}"
        (other / "file").write_text(f"other {number}")
        assert (one / "file").read_text() == f"other {number}"
        assert (one / "file").stat().st_mtime_ns == (other / "file").stat().st_mtime_ns
        (one / f"new{number}").mkdir()
        assert f"new{number}" in os.listdir(other)
        (other / f"new{number}").rename(other / "moved")
        assert not (one / f"new{number}").exists()
        (one / "moved").rmdir()
        assert not (other / "moved").exists()
    with open(one / "file", "a") as a, open(other / "file", "a") as b:
        for number in range(20):
            print(number, file=a if number % 2 else b, flush=True)
    assert (one / "file").read_text() == "other 9" + "".join(f"{number}\n" for number in range(20))
    second.umount()
    first.umount()
    assert_undamaged(volume)


def test_mappings_of_two_mounts_show_the_same(cluster: Cluster):
    volume = cluster.volume(1, loop=True)
    first = cluster.mount(volume, 0, *FAST)
    second = cluster.mount(volume, None, "wait=30")
    size, order = 40_000, random.Random(1)
    (first.directory / "file").write_bytes(bytes(size))
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(open(mount.directory / "file", "r+b")) for mount in (first, second)]
        maps = [stack.enter_context(mmap.mmap(file.fileno(), size)) for file in files]
        for number in range(100):
            writer, offset = order.randrange(2), order.randrange(size - 8)
            data = b"%08d" % number
            maps[writer][offset : offset + 8] = data
            assert os.pread(files[1 - writer].fileno(), 8, offset) == data
            assert maps[1 - writer][offset : offset + 8] == data
    second.umount()
    first.umount()
    assert_undamaged(volume)


def test_requests_that_wait_for_a_server_are_shown_and_end_with_their_caller(cluster: Cluster):
    mount = cluster.mount(cluster.volume(3, loop=False), 0, *FAST[:1])
    process = cluster.start(sys.executable, "-c", "import os,sys; os.mkdir(sys.argv[1])", str(mount.directory / "d"))
    wait_until(lambda: f"of thread {process.pid}" in mount.read("requests"), "its request")
    line = next(line for line in mount.read("requests").splitlines() if f"thread {process.pid}" in line)
    assert "lookup(1, b'd')" in line
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == -signal.SIGTERM
