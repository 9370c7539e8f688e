"""Volumes that the kernel wrote, mounted without a cluster, against what the kernel itself showed of them."""

from __future__ import annotations

import base64
import contextlib
import ctypes
import errno
import hashlib
import json
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests import kernel_images
from tests.files.manifests import LARGE_FILE, OFFLINE, SEGMENT_HASHED, expected_fields, manifest
from tests.mounted.cluster import Cluster, cluster_in

VOLUMES = [name for name in (*kernel_images.KEPT, *kernel_images.OTHERS) if name != "mkfs-v2"]
READ_SIZE = 1 << 20


@dataclass
class Mounted:
    name: str
    directory: Path

    def path(self, name: bytes) -> bytes:
        return os.path.join(os.fsencode(self.directory), name)

    def control(self, name: str) -> str:
        return (self.directory / ".scoutfs" / name).read_text()


@contextlib.contextmanager
def mounted_in(directory: Path, name: str) -> Iterator[Mounted]:
    with contextlib.contextmanager(cluster_in)(directory) as cluster:
        meta, data = kernel_images.unpack_volume(name, directory)
        yield mount_read_only(cluster, name, meta, data)


def mount_read_only(cluster: Cluster, name: str, meta: Path, data: Path, *options: str) -> Mounted:
    done = cluster.try_mount(str(data), ",".join(["ro", "norecovery", f"metadev_path={meta}", *options]), name)
    assert done.returncode == 0, done.stderr
    return Mounted(name, cluster.directory / name)


@pytest.fixture(scope="module", params=VOLUMES)
def mounted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mounted]:
    with mounted_in(tmp_path_factory.mktemp("reading"), request.param) as volume:
        yield volume


@pytest.fixture(scope="module")
def rich(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mounted]:
    with mounted_in(tmp_path_factory.mktemp("reading"), "rich-v2-merged") as volume:
        yield volume


def walk(top: bytes, path: bytes = b".") -> Iterator[bytes]:
    yield path
    with os.scandir(os.path.join(top, path)) as entries:
        listed = list(entries)
    for entry in listed:
        below = path + b"/" + entry.name
        found = os.lstat(os.path.join(top, below))
        assert (entry.inode(), entry.is_symlink()) == (found.st_ino, stat.S_ISLNK(found.st_mode))
        if entry.is_dir(follow_symlinks=False):
            yield from walk(top, below)
        else:
            assert not stat.S_ISDIR(found.st_mode)
            yield below


def described(path: bytes, expected: dict[str, Any]) -> dict[str, Any]:
    """Return what system calls say of a path, under the names that the manifest has for it."""
    status = os.lstat(path)
    found: dict[str, Any] = {name: getattr(status, f"st_{name}") for name in ("ino", "size", "blocks", "blksize")}
    found |= {name: getattr(status, f"st_{name}") for name in ("uid", "gid", "nlink")}
    found["mode"] = f"{status.st_mode:o}"
    found |= {f"{time}_ns": getattr(status, f"st_{time}_ns") for time in ("atime", "mtime", "ctime")}
    if stat.S_ISLNK(status.st_mode):
        target = os.readlink(path)
        found |= {"target_b64": base64.b64encode(target).decode(), "target_len": len(target)}
    if stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
        found["rdev"] = [os.major(status.st_rdev), os.minor(status.st_rdev)]
    xattrs = {name: attribute(path, name) for name in os.listxattr(path, follow_symlinks=False)}
    found |= {"xattrs": xattrs} if xattrs else {}
    # who knows their names can read them
    if "hidden_xattrs" in expected:
        found["hidden_xattrs"] = {name: attribute(path, name) for name in expected["hidden_xattrs"]}
    if stat.S_ISREG(status.st_mode):
        found |= contents(path, status.st_size, expected)
    return found


def attribute(path: bytes, name: str) -> str:
    return os.getxattr(path, name, follow_symlinks=False).hex()


def contents(path: bytes, size: int, expected: dict[str, Any]) -> dict[str, Any]:
    fd = os.open(path, os.O_RDONLY)
    try:
        if size > LARGE_FILE:
            segments = [
                [start, length, hashed(fd, start, min(length, SEGMENT_HASHED))]
                for start, length, _ in expected["data_segments_sha256"]
            ]
            return {"data_segments_sha256": segments}
        return {"sha256": hashed(fd, 0, size)}
    except OSError as error:
        if error.errno != errno.ENODATA:
            raise
        return {"sha256": OFFLINE}
    finally:
        os.close(fd)


def hashed(fd: int, offset: int, length: int) -> str:
    digest = hashlib.sha256()
    while length:
        piece = os.pread(fd, min(READ_SIZE, length), offset)
        assert piece
        digest.update(piece)
        offset, length = offset + len(piece), length - len(piece)
    return digest.hexdigest()


def test_every_path_with_all_that_system_calls_say_of_it(mounted: Mounted):
    expected = manifest(mounted.name)
    paths = list(walk(os.fsencode(mounted.directory)))
    assert len(set(paths)) == len(paths)
    if mounted.name == "rich-v1":
        # its manifest ends early
        assert len(paths) == 5645
        assert expected.keys() < set(paths)
    else:
        assert set(paths) == expected.keys()
    for path, entry in expected.items():
        wanted = expected_fields(entry)
        # what no system call tells through FUSE
        for field in ("attr_x", "fiemap"):
            wanted.pop(field, None)
        found = described(mounted.path(path), wanted)
        if mounted.name == "fresh-v2" and path == b".":
            # its mount moved atimes in memory only
            del found["atime_ns"], wanted["atime_ns"]
        assert found == wanted, path
    assert mounted.control("errors") == ""


# -- directories by cookie ---------------------------------------------------------------------------------------------


class Dirent(ctypes.Structure):
    _fields_ = (
        ("d_ino", ctypes.c_uint64),
        ("d_off", ctypes.c_int64),
        ("d_reclen", ctypes.c_uint16),
        ("d_type", ctypes.c_uint8),
        ("d_name", ctypes.c_char * 256),
    )


class Directory:
    """A directory as readdir(3) reads it."""

    def __init__(self, path: bytes) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._libc.opendir.restype = ctypes.c_void_p
        self._libc.readdir64.restype = ctypes.POINTER(Dirent)
        self._stream = ctypes.c_void_p(self._libc.opendir(path))
        assert self._stream.value, path

    def __enter__(self) -> Directory:
        return self

    def __exit__(self, *exception: object) -> None:
        self._libc.closedir(self._stream)

    def read(self) -> list[Any] | None:
        """Return inode number, offset, type and name of the next entry, as the manifests have them."""
        ctypes.set_errno(0)
        found = self._libc.readdir64(self._stream)
        if not found:
            assert ctypes.get_errno() == 0
            return None
        entry = found.contents
        return [entry.d_ino, entry.d_off, entry.d_type, base64.b64encode(entry.d_name).decode()]

    def read_all(self) -> list[list[Any]]:
        return list(iter(self.read, None))

    def seek(self, offset: int) -> None:
        self._libc.seekdir(self._stream, ctypes.c_long(offset))


def test_directories_are_listed_as_by_the_kernel_from_any_place(mounted: Mounted):
    lines = kernel_images.recording(mounted.name, "readdir.jsonl", "recovered-readdir.jsonl").splitlines()
    assert lines
    for recorded in map(json.loads, lines):
        expected = recorded["ents"]
        with Directory(mounted.path(base64.b64decode(recorded["dir_b64"]))) as directory:
            assert directory.read_all() == expected, recorded["dir"]
            places = range(len(expected)) if len(expected) < 100 else range(0, len(expected), len(expected) // 20)
            for place in reversed(places):
                directory.seek(expected[place][1])
                assert directory.read() == (expected[place + 1] if place + 1 < len(expected) else None)
            directory.seek(0)
            assert directory.read_all() == expected
