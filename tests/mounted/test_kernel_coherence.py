"""What the kernel keeps under locks, and forgets when they are lost, while another mount changes the volume."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mounted.cluster import wait_until
from tests.mounted.memory import MemoryMount, memory_mount

NULL, READ = 0, 1


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[MemoryMount]:
    with memory_mount(tmp_path / "mnt") as mounted:
        yield mounted


def other_mount(mount: MemoryMount, ino: int, *command: object) -> None:
    """Have another mount take the lock of an inode, change something, and give the lock back."""
    mount.tell("lose", ino, NULL)
    mount.tell(*command)
    mount.tell("grant", ino)


def make(mount: MemoryMount, name: str, contents: str) -> tuple[Path, int]:
    path = mount.directory / name
    path.write_text(contents)
    return path, path.stat().st_ino


def test_contents_and_attributes_that_another_mount_changes(mount: MemoryMount):
    path, ino = make(mount, "file", "....contents")
    with open(path) as file:
        for number in range(30):
            before = path.stat()
            other_mount(mount, ino, "write", ino, 0, f"{number:04d}")
            file.seek(0)
            assert file.read() == f"{number:04d}contents"
            after = path.stat()
            assert after.st_mtime_ns > before.st_mtime_ns
            other_mount(mount, ino, "chmod", ino, 0o600 + number % 8)
            assert path.stat().st_mode == 0o100600 + number % 8


def test_names_that_come_and_go_elsewhere(mount: MemoryMount):
    root = mount.directory.stat().st_ino
    new = mount.directory / "new"
    for _ in range(20):
        assert not new.exists()
        assert os.listdir(mount.directory) == []
        other_mount(mount, root, "create", root, "new")
        assert new.exists()
        assert os.listdir(mount.directory) == ["new"]
        other_mount(mount, root, "unlink", root, "new")


def test_a_mapping_sees_what_another_mount_writes_and_is_written_back_before(mount: MemoryMount):
    path, ino = make(mount, "mapped", "0" * 10_000)
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 10_000) as mapped:
        for number in range(20):
            mapped[5000:5004] = b"%04d" % number
            # nothing has told the mount of that
            mount.tell("lose", ino, NULL)
            assert mount.tell("read", ino)[5000:5004] == f"{number:04d}"
            mount.tell("write", ino, 9000, f"{number:04d}")
            mount.tell("grant", ino)
            assert mapped[9000:9004] == b"%04d" % number


def test_the_pages_of_a_mapping_are_not_dirty_without_notice_once_others_read(mount: MemoryMount):
    path, ino = make(mount, "mapped", "0" * 10_000)
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 10_000) as mapped:
        mapped[1:2] = b"1"
        mount.tell("lose", ino, READ)
        assert mount.tell("read", ino)[:3] == "010"
        mount.tell("grant", ino)
        assert mapped[:3] == b"010"


def test_nothing_is_asked_again_while_the_lock_is_held(mount: MemoryMount):
    path, _ = make(mount, "file", "contents")
    with open(path, "rb", buffering=0) as file:
        assert file.read() == b"contents"
        assert sorted(os.listdir(mount.directory)) == ["file"]
        assert not path.with_name("nothing").exists()
        path.stat()
        mount.tell("hold back")
        # a request would wait now
        assert path.stat().st_size == 8
        assert os.pread(file.fileno(), 100, 0) == b"contents"
        assert not path.with_name("nothing").exists()
        assert mount.control("requests") == ""
        mount.tell("release")


def test_readers_go_on_while_locks_come_and_go(mount: MemoryMount):
    """Readings that wait for a lock have their pages locked, which must not keep the lock from being lost."""
    size = 1 << 20
    path, ino = make(mount, "large", "x" * size)
    ended = threading.Event()
    failures: list[str] = []

    def read() -> None:
        with open(path, "rb") as file:
            while not ended.is_set():
                file.seek(0)
                if file.read().count(b"x") != size:
                    failures.append("short")

    readers = [threading.Thread(target=read) for _ in range(4)]
    for reader in readers:
        reader.start()
    try:
        deadline = time.monotonic() + 60
        for _ in range(60):
            mount.tell("lose", ino, NULL)
            mount.tell("grant", ino)
            assert time.monotonic() < deadline
    finally:
        ended.set()
        for reader in readers:
            reader.join(30)
    assert failures == []


def test_whoever_waits_is_seen_and_can_be_killed(mount: MemoryMount):
    path, _ = make(mount, "file", "contents")
    mount.tell("hold back")
    with subprocess.Popen(["touch", path.with_name("new")]) as process:
        wait_until(lambda: f"of thread {process.pid}" in mount.control("requests"), "a request that waits")
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == -signal.SIGINT
    wait_until(lambda: mount.control("requests") == "", "its end")
    script = (
        "import os,signal,sys; signal.signal(signal.SIGALRM, lambda *a: None); signal.alarm(1); os.mkdir(sys.argv[1])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, path.with_name("directory")], capture_output=True, text=True, timeout=20
    )
    assert f"[Errno {errno.EINTR}]" in done.stderr
    mount.tell("release")
    assert sorted(os.listdir(mount.directory)) == ["file"]


def test_an_open_file_without_a_name_lives_until_it_is_closed(mount: MemoryMount):
    path, ino = make(mount, "file", "contents")
    with open(path) as file:
        path.unlink()
        assert file.read() == "contents"
        assert os.fstat(file.fileno()).st_nlink == 0
        assert mount.tell("exists", ino)
    wait_until(lambda: not mount.tell("exists", ino), "its deletion")


def test_what_is_replaced_by_a_rename_is_deleted(mount: MemoryMount):
    path, _ = make(mount, "file", "new")
    victim, ino = make(mount, "victim", "old")
    path.rename(victim)
    assert victim.read_text() == "new"
    wait_until(lambda: not mount.tell("exists", ino), "its deletion")


def test_fsync_commits(mount: MemoryMount):
    path, _ = make(mount, "file", "contents")
    for flags in (os.O_RDWR, os.O_RDONLY, os.O_WRONLY | os.O_APPEND):
        before = mount.tell("commits")
        fd = os.open(path, flags)
        os.fsync(fd)
        os.close(fd)
        assert mount.tell("commits") == before + 1
    for flags in (os.O_RDWR, os.O_WRONLY):
        before = mount.tell("commits")
        fd = os.open(path, flags | os.O_SYNC)
        os.write(fd, b"x")
        os.close(fd)
        assert mount.tell("commits") > before
    before = mount.tell("commits")
    fd = os.open(mount.directory, os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(fd)
    os.close(fd)
    assert mount.tell("commits") == before + 1


def test_a_full_volume_says_so_and_can_be_emptied(tmp_path: Path):
    with memory_mount(tmp_path / "mnt", 1000) as mount:
        path, written = mount.directory / "file", 0
        free = os.statvfs(mount.directory).f_bfree
        with open(path, "wb", buffering=0) as file:
            with contextlib.suppress(OSError):
                while written < 1 << 30:
                    written += file.write(os.urandom(300_000))
            with pytest.raises(OSError, match="No space"):
                file.write(bytes(8192))
        assert 3_500_000 < path.stat().st_size == written < 4_096_000
        with open(path, "r+b") as file:
            file.write(b"in place")
        path.unlink()
        wait_until(lambda: os.statvfs(mount.directory).f_bfree == free, "the space")
        path.write_bytes(b"x" * 3_000_000)


def test_contents_in_the_archive_are_waited_for(mount: MemoryMount):
    path, ino = make(mount, "file", "a" * 4096 + "b" * 5000)
    assert path.read_text().count("a") == 4096
    other_mount(mount, ino, "archive", ino, 12288)
    assert path.stat().st_blocks == 24
    reader = subprocess.Popen(["cat", path], stdout=subprocess.PIPE)
    writer = subprocess.Popen(["dd", f"of={path}", "conv=notrunc", "status=none"], stdin=subprocess.PIPE)
    killed = subprocess.Popen(["cat", path])
    writer.stdin.write(b"written")
    writer.stdin.close()
    waiting = {reader.pid, writer.pid, killed.pid}
    wait_until(lambda: all(f"thread {pid}" in mount.control("requests") for pid in waiting), "all of them to wait")
    # meanwhile the file is there
    assert path.stat().st_size == 9096
    killed.terminate()
    assert killed.wait(10) == -signal.SIGTERM
    other_mount(mount, ino, "stage", ino, "a" * 4096 + "b" * 5000)
    assert writer.wait(10) == 0
    assert len(reader.communicate(timeout=10)[0]) == 9096
    assert path.read_text() == "written" + "a" * 4089 + "b" * 5000
