"""Claims: mounts share a device, and nobody else of this host gets at it, by whatever way."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import pytest

from scoutfs.storage import Device, DeviceError, Sharing, SystemIO, claims
from tests.loops import loop_device, needs_loop_devices
from tests.storage.locks import can_lock

SIZE = 1 << 20
BY_A_MOUNT = "is in use by a live mount or another tool on this host"
BY_A_TOOL = r"is in use by mkfs\.scoutfs or another tool that changes it on this host"


@pytest.fixture(autouse=True)
def _no_patience(monkeypatch):
    """Nobody gives way for an instant here."""
    monkeypatch.setattr(claims, "_RETRY_DELAY", 0.001)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "image"
    with path.open("wb") as image:
        image.truncate(SIZE)
    return path


def opened(path, sharing):
    return Device.open(path, writable=True, sharing=sharing)


def refused(path, sharing, text):
    with pytest.raises(DeviceError, match=text) as caught:
        opened(path, sharing)
    assert caught.value.errno == errno.EBUSY


def test_mounts_share_a_file_and_tools_do_not(file):
    with opened(file, Sharing.NONE):
        with opened(file, Sharing.SHARED), opened(file, Sharing.SHARED):
            refused(file, Sharing.EXCLUSIVE, BY_A_MOUNT)
        with opened(file, Sharing.EXCLUSIVE):
            refused(file, Sharing.SHARED, BY_A_TOOL)
            refused(file, Sharing.EXCLUSIVE, BY_A_MOUNT)
        opened(file, Sharing.EXCLUSIVE).close()


def test_every_holder_counts(file):
    first, second = opened(file, Sharing.SHARED), opened(file, Sharing.SHARED)
    first.close()
    refused(file, Sharing.EXCLUSIVE, BY_A_MOUNT)
    second.close()
    opened(file, Sharing.EXCLUSIVE).close()


def test_a_claim_that_is_given_up_in_a_moment_is_waited_for(file):
    """As udev takes it, whenever a device has changed."""

    class Udev(SystemIO):
        refusals = 3

        def lock(self, fd, *, exclusive):
            if self.refusals:
                self.refusals -= 1
                raise BlockingIOError(errno.EAGAIN, "locked")
            super().lock(fd, exclusive=exclusive)

    Device.open(file, writable=True, sharing=Sharing.EXCLUSIVE, io=Udev()).close()


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_filesystem_without_locks_of_ranges(file, code, monkeypatch):
    import fcntl

    def refuse(fd, command, argument):
        raise OSError(code, "no")

    monkeypatch.setattr(fcntl, "fcntl", refuse)
    with opened(file, Sharing.SHARED):
        refused(file, Sharing.EXCLUSIVE, BY_A_MOUNT)


def test_a_claim_ends_with_its_process(file):
    code = (
        "import sys; from scoutfs.storage import *; Device.open(sys.argv[1], sharing=Sharing.SHARED);"
        "print(flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen([sys.executable, "-c", code, file], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdout.readline() == b"\n"
        assert not can_lock(file)
    finally:
        process.kill()
        process.communicate(timeout=60)
    assert can_lock(file)


def test_a_claim_outlives_the_process_that_made_it_in_a_child(file):
    """A mount forks its member: the device is theirs until both have ended."""
    with opened(file, Sharing.SHARED) as device:
        child = subprocess.Popen(
            [sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE, pass_fds=device.descriptors
        )
    try:
        refused(file, Sharing.EXCLUSIVE, BY_A_MOUNT)
    finally:
        child.kill()
        child.communicate(timeout=60)
    opened(file, Sharing.EXCLUSIVE).close()


@needs_loop_devices
@pytest.mark.parametrize("sharing", [Sharing.SHARED, Sharing.EXCLUSIVE])
def test_a_block_device_that_the_kernel_uses(file, sharing):
    with loop_device(file) as path:
        fd = os.open(path, os.O_RDONLY | os.O_EXCL)
        try:
            with pytest.raises(DeviceError, match="is in use by the kernel of this host") as caught:
                opened(path, sharing)
            assert caught.value.errno == errno.EBUSY
            opened(path, Sharing.NONE).close()
        finally:
            os.close(fd)
        opened(path, sharing).close()


@needs_loop_devices
@pytest.mark.parametrize("claimed", ["file", "loop", "other"])
@pytest.mark.parametrize("wanted", ["file", "loop", "other"])
def test_a_file_and_its_loop_devices_are_one(file, claimed, wanted):
    with loop_device(file) as loop, loop_device(file) as other:
        paths = {"file": file, "loop": loop, "other": other}
        with opened(paths[claimed], Sharing.SHARED):
            opened(paths[wanted], Sharing.SHARED).close()
            refused(paths[wanted], Sharing.EXCLUSIVE, BY_A_MOUNT)
        with opened(paths[claimed], Sharing.EXCLUSIVE):
            refused(paths[wanted], Sharing.SHARED, f"{BY_A_TOOL}|is in use by the kernel")
        opened(paths[wanted], Sharing.EXCLUSIVE).close()


@needs_loop_devices
def test_parts_of_a_file_are_claimed_apart(file):
    half = str(SIZE // 2)
    with loop_device(file, "--sizelimit", half) as first, loop_device(file, "--offset", half) as second:
        with opened(first, Sharing.EXCLUSIVE):
            with opened(second, Sharing.EXCLUSIVE):
                refused(file, Sharing.SHARED, BY_A_TOOL)
            refused(file, Sharing.SHARED, BY_A_TOOL)
        with opened(file, Sharing.SHARED):
            refused(second, Sharing.EXCLUSIVE, BY_A_MOUNT)


@needs_loop_devices
def test_a_file_whose_loop_device_the_kernel_uses(file):
    with loop_device(file) as path:
        fd = os.open(path, os.O_RDONLY | os.O_EXCL)
        try:
            refused(file, Sharing.EXCLUSIVE, f"is the file behind {path}, which is in use by the kernel of this host")
        finally:
            os.close(fd)
        opened(file, Sharing.EXCLUSIVE).close()


@needs_loop_devices
def test_a_loop_device_whose_file_was_removed(file):
    with loop_device(file) as path:
        file.unlink()
        file.write_bytes(bytes(4096))
        with opened(path, Sharing.SHARED):
            opened(file, Sharing.EXCLUSIVE).close()
            refused(path, Sharing.EXCLUSIVE, BY_A_MOUNT)


def test_what_is_refused_is_not_claimed(file):
    with opened(file, Sharing.EXCLUSIVE):
        refused(file, Sharing.SHARED, BY_A_TOOL)
    assert can_lock(file)
