"""Random operations on a filesystem of ours and on one of the host's own: both must do the same."""

from __future__ import annotations

import errno
import mmap
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from tests.mounted.memory import memory_mount

NAMES = st.sampled_from(["a", "b", "c", "d", "e", "f" * 255])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map(lambda names: "/".join(names))
OFFSETS = st.one_of(st.integers(0, 9000), st.sampled_from([0, 4095, 4096, 4097, 8192, 1 << 20, (1 << 33) + 5]))
DATA = st.one_of(st.binary(min_size=1, max_size=20), st.integers(1, 20_000).map(lambda length: b"x" * length))
MODES = st.integers(0, 0o7777)
ATTRIBUTES = st.sampled_from(["user.a", "user.b", "trusted.c"])


class Machine(RuleBasedStateMachine):
    """Does everything in two directories."""

    ours: Path
    theirs: Path
    runs = 0

    def __init__(self) -> None:
        super().__init__()
        type(self).runs += 1
        self.tops = [top / str(self.runs) for top in (self.ours, self.theirs)]
        for top in self.tops:
            top.mkdir()
        self.open: list[list[int]] = []

    def both(self, action: Callable[[Path], Any]) -> None:
        results = [self.outcome(action, top) for top in self.tops]
        assert results[0] == results[1]

    @staticmethod
    def outcome(action: Callable[[Path], Any], top: Path) -> Any:
        try:
            return action(top)
        except OSError as error:
            return f"OSError {errno.errorcode[error.errno or 0]}"

    @rule(path=PATHS, mode=MODES)
    def create(self, path: str, mode: int) -> None:
        self.both(lambda top: os.close(os.open(top / path, os.O_CREAT | os.O_EXCL | os.O_RDWR, mode & 0o777)))

    @rule(path=PATHS, offset=OFFSETS, data=DATA, flags=st.sampled_from([0, os.O_TRUNC, os.O_APPEND, os.O_CREAT]))
    def write(self, path: str, offset: int, data: bytes, flags: int) -> None:
        def act(top: Path) -> int:
            fd = os.open(top / path, os.O_WRONLY | os.O_NONBLOCK | flags, 0o600)
            try:
                # where that goes with O_APPEND is another matter on Linux
                return os.write(fd, data) if flags & os.O_APPEND else os.pwrite(fd, data, offset)
            finally:
                os.close(fd)

        self.both(act)

    @rule(path=PATHS, offset=st.integers(0, 9000), data=DATA)
    def store(self, path: str, offset: int, data: bytes) -> None:
        def act(top: Path) -> bytes:
            fd = os.open(top / path, os.O_RDWR | os.O_NONBLOCK)
            try:
                with mmap.mmap(fd, 0) as mapped:
                    data_here = data[: max(0, len(mapped) - offset)]
                    mapped[offset : offset + len(data_here)] = data_here
                    return mapped[:100]
            except ValueError:
                return b"nothing to map"
            finally:
                os.close(fd)

        self.both(act)

    @rule(path=PATHS, size=OFFSETS)
    def truncate(self, path: str, size: int) -> None:
        self.both(lambda top: os.truncate(top / path, size))

    @rule(path=PATHS)
    def mkdir(self, path: str) -> None:
        self.both(lambda top: os.mkdir(top / path, 0o755))

    @rule(path=PATHS, to=st.sampled_from(["a", "b/c", "../x", "y" * 4000]))
    def symlink(self, path: str, to: str) -> None:
        self.both(lambda top: os.symlink(to, top / path))

    @rule(path=PATHS, kind=st.sampled_from([stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK]))
    def mknod(self, path: str, kind: int) -> None:
        self.both(lambda top: os.mknod(top / path, kind | 0o644, os.makedev(300, 70_000)))

    @rule(path=PATHS, new=PATHS)
    def link(self, path: str, new: str) -> None:
        self.both(lambda top: os.link(top / path, top / new, follow_symlinks=False))

    @rule(path=PATHS)
    def unlink(self, path: str) -> None:
        self.both(lambda top: os.unlink(top / path))

    @rule(path=PATHS)
    def rmdir(self, path: str) -> None:
        self.both(lambda top: os.rmdir(top / path))

    @rule(path=PATHS, new=PATHS)
    def rename(self, path: str, new: str) -> None:
        self.both(lambda top: os.rename(top / path, top / new))

    @rule(path=PATHS, mode=MODES)
    def chmod(self, path: str, mode: int) -> None:
        self.both(lambda top: os.chmod(top / path, mode))

    @rule(path=PATHS, uid=st.integers(-1, 3), gid=st.integers(-1, 3))
    def chown(self, path: str, uid: int, gid: int) -> None:
        self.both(lambda top: os.chown(top / path, uid, gid, follow_symlinks=False))

    @rule(path=PATHS, atime=st.integers(0, 2**33 * 10**9), mtime=st.integers(0, 2**33 * 10**9))
    def utime(self, path: str, atime: int, mtime: int) -> None:
        def act(top: Path) -> int:
            os.utime(top / path, ns=(atime, mtime), follow_symlinks=False)
            return os.lstat(top / path).st_mtime_ns

        self.both(act)

    @rule(path=PATHS, name=ATTRIBUTES, value=st.binary(max_size=200), flags=st.sampled_from([0, 1, 2]))
    def setxattr(self, path: str, name: str, value: bytes, flags: int) -> None:
        self.both(lambda top: os.setxattr(top / path, name, value, flags, follow_symlinks=False))

    @rule(path=PATHS, name=ATTRIBUTES)
    def removexattr(self, path: str, name: str) -> None:
        self.both(lambda top: os.removexattr(top / path, name, follow_symlinks=False))

    @rule(path=PATHS)
    def open_for_good(self, path: str) -> None:
        def act(top: Path) -> int:
            status = os.lstat(top / path)
            if not stat.S_ISREG(status.st_mode):
                raise OSError(errno.EINVAL, "")
            return os.open(top / path, os.O_RDWR | os.O_NONBLOCK)

        found = [self.outcome(act, top) for top in self.tops]
        if isinstance(found[0], int) and isinstance(found[1], int):
            self.open.append(found)
        else:
            assert found[0] == found[1]

    @rule(offset=st.integers(0, 9000), data=DATA, which=st.integers(0, 10))
    def write_open(self, offset: int, data: bytes, which: int) -> None:
        if self.open:
            fds = self.open[which % len(self.open)]
            assert len({os.pwrite(fd, data, offset) for fd in fds}) == 1

    @rule(which=st.integers(0, 10))
    def close(self, which: int) -> None:
        if self.open:
            for fd in self.open.pop(which % len(self.open)):
                os.close(fd)

    @invariant()
    def same_open_files(self) -> None:
        for ours, theirs in self.open:
            assert self.described(ours) == self.described(theirs)
            assert os.pread(ours, 30_000, 0) == os.pread(theirs, 30_000, 0)

    def teardown(self) -> None:
        for fds in self.open:
            for fd in fds:
                os.close(fd)
        ours, theirs = (dict(self.tree(top)) for top in self.tops)
        assert ours == theirs

    def tree(self, top: Path, path: str = "") -> Iterator[tuple[str, Any]]:
        yield path, self.described(top / path)
        for name in sorted(os.listdir(top / path)):
            below = f"{path}/{name}".lstrip("/")
            here = top / below
            mode = os.lstat(here).st_mode
            if stat.S_ISDIR(mode):
                yield from self.tree(top, below)
                continue
            contents: object = None
            if stat.S_ISLNK(mode):
                contents = os.readlink(here)
            elif stat.S_ISREG(mode):
                contents = self.segments(here)
            names = os.listxattr(here, follow_symlinks=False)
            attributes = {name: os.getxattr(here, name, follow_symlinks=False) for name in names}
            yield below, (self.described(here), contents, attributes)

    @staticmethod
    def segments(path: Path) -> list[bytes]:
        """Return what is where offsets of these tests are."""
        with open(path, "rb", buffering=0) as file:
            return [os.pread(file.fileno(), 30_000, offset) for offset in (0, 1 << 20, 1 << 33)]

    @staticmethod
    def described(path: Path | int) -> tuple[object, ...]:
        found = os.fstat(path) if isinstance(path, int) else os.lstat(path)
        # those of directories, and of symbolic links, which count the zero at their end, are those of the original
        size = found.st_size if stat.S_ISREG(found.st_mode) else 0
        return (found.st_mode, found.st_nlink, found.st_uid, found.st_gid, size, found.st_rdev)


@pytest.mark.slow
def test_the_same_happens_as_on_a_filesystem_of_the_host(tmp_path: Path):
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    if os.stat(theirs).st_nlink != 2:
        pytest.skip("the filesystem of the host counts links of directories in its own way")
    umask = os.umask(0o022)
    try:
        with memory_mount(tmp_path / "ours") as mount:
            machine = type("Compared", (Machine,), {"ours": mount.directory, "theirs": theirs})
            run_state_machine_as_test(
                machine,
                settings=settings(
                    max_examples=60,
                    stateful_step_count=40,
                    deadline=None,
                    suppress_health_check=list(HealthCheck),
                ),
            )
    finally:
        os.umask(umask)
