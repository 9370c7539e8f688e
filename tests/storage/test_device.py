"""Devices: whole reads and writes or a clear error, whatever the file, the filesystem and the system calls do."""

from __future__ import annotations

import errno
import multiprocessing
import os
import re
import threading
from pathlib import Path

import pytest

from scoutfs.storage import Device, DeviceError, Sharing, SystemIO
from scoutfs.storage.device import _Borrowed
from tests.faults import BadSectors, NthFails, Recorder
from tests.loops import loop_device, needs_loop_devices
from tests.storage.locks import can_lock

SIZE = 1 << 20


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "image"
    path.write_bytes(bytes(range(256)) * (SIZE // 256))
    return path


def opened(path, **options):
    return Device.open(path, writable=True, **options)


def test_reads_and_writes_a_file(file):
    device = opened(file)
    assert (device.path, device.start, device.size) == (str(file), 0, SIZE)
    assert device.read(4096, 8192) == bytes(range(256)) * 32
    device.write(8192, b"\xaa" * 4096)
    device.flush()
    assert device.read(4096, 12288) == bytes(range(256)) * 16 + b"\xaa" * 4096 + bytes(range(256)) * 16
    device.close()
    device.close()
    assert file.read_bytes()[8192:12288] == b"\xaa" * 4096


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_writes_any_buffer(file, kind):
    device = opened(file)
    device.write(0, kind(b"b" * 4096))
    assert device.read(0, 4096) == b"b" * 4096


def test_sees_what_others_wrote_and_shows_what_it_wrote(file):
    device = opened(file)
    device.read(0, 4096)
    with file.open("r+b") as other:
        other.write(b"other")
    assert device.read(0, 4096).startswith(b"other")
    device.write(4096, b"m" * 4096)
    assert file.read_bytes()[4096:8192] == b"m" * 4096


def test_without_writable_it_cannot_be_written(file):
    device = Device.open(file)
    with pytest.raises(DeviceError, match=re.escape(f"{file}: writing 4096 bytes at 0: Bad file descriptor")):
        device.write(0, bytes(4096))


def test_a_part_counts_from_its_start(file):
    part = opened(file, start=65536, size=8192)
    assert (part.start, part.size) == (65536, 8192)
    part.write(4096, b"p" * 4096)
    assert file.read_bytes()[69632:73728] == b"p" * 4096
    assert part.read(4096, 4096) == b"p" * 4096
    inner = part.part(4096, 4096)
    assert (inner.start, inner.read(0, 4096)) == (69632, b"p" * 4096)
    with pytest.raises(DeviceError, match=r"reading 4096 bytes at 73728: beyond the end at 73728"):
        part.read(8192, 4096)
    with pytest.raises(DeviceError, match=r"writing 8192 bytes at 69632: beyond the end at 73728"):
        part.write(4096, bytes(8192))


@pytest.mark.parametrize(("start", "size"), [(0, SIZE + 1), (SIZE, 1), (-1, 4096), (0, -1)])
def test_a_part_must_fit(file, start, size):
    with pytest.raises(DeviceError, match=f"has {SIZE} bytes, too few for a part of {size} bytes at {start}"):
        opened(file, start=start, size=size)


@pytest.mark.parametrize(("offset", "length"), [(1, 4096), (0, 4095), (512, 512), (SIZE - 4096, 4097)])
def test_refuses_unaligned_access(file, offset, length):
    device = opened(file)
    with pytest.raises(DeviceError, match=f"reading {length} bytes at {offset}: not a multiple of 4096"):
        device.read(offset, length)
    with pytest.raises(DeviceError, match=f"writing {length} bytes at {offset}: not a multiple of 4096"):
        device.write(offset, bytes(length))


@pytest.mark.parametrize(("offset", "length"), [(SIZE, 4096), (SIZE - 4096, 8192), (-4096, 4096), (1 << 62, 4096)])
def test_refuses_what_is_outside(file, offset, length):
    device = opened(file)
    before = file.read_bytes()
    with pytest.raises(DeviceError, match=f"beyond the end at {SIZE}, the device is too small"):
        device.read(offset, length)
    with pytest.raises(DeviceError, match=f"beyond the end at {SIZE}, the device is too small"):
        device.write(offset, bytes(length))
    assert file.read_bytes() == before


def test_a_file_that_was_truncated_since(file):
    device = opened(file)
    os.truncate(file, 4096)
    with pytest.raises(DeviceError, match="reading 8192 bytes at 0: it ended after 4096 bytes") as caught:
        device.read(0, 8192)
    assert caught.value.errno == errno.EIO


def test_what_is_no_device(tmp_path):
    with pytest.raises(DeviceError, match=r"/none: opening: No such file or directory") as caught:
        Device.open(tmp_path / "none")
    assert caught.value.errno == errno.ENOENT
    for path in ("/dev/null", tmp_path):
        with pytest.raises(DeviceError, match="is neither a block device nor a regular file") as caught:
            Device.open(path)
        assert caught.value.errno == errno.ENOTBLK


def test_a_pipe_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DeviceError, match="is neither a block device nor a regular file"):
        Device.open(tmp_path / "pipe")


def test_a_file_that_may_not_be_written(file):
    class ReadOnly(SystemIO):
        def open(self, path, flags):
            if flags & os.O_RDWR:
                raise PermissionError(errno.EACCES, "denied")
            return super().open(path, flags)

    with pytest.raises(DeviceError, match="image: opening: Permission denied") as caught:
        opened(file, io=ReadOnly())
    assert caught.value.errno == errno.EACCES


class NoDirect(SystemIO):
    """A filesystem that knows no O_DIRECT, and says so when opening or only when reading."""

    def __init__(self, late):
        self.late = late
        self.direct = set()

    def open(self, path, flags):
        if flags & os.O_DIRECT and not self.late:
            raise OSError(errno.EINVAL, "no")
        fd = super().open(path, flags & ~os.O_DIRECT)
        if flags & os.O_DIRECT:
            self.direct.add(fd)
        return fd

    def pread(self, fd, buffer, offset):
        if fd in self.direct:
            raise OSError(errno.EINVAL, "no")
        return super().pread(fd, buffer, offset)


@pytest.mark.parametrize("late", [False, True])
def test_falls_back_to_the_page_cache(file, late):
    device = opened(file, io=NoDirect(late), sharing=Sharing.SHARED)
    assert device.read(0, 4096) == bytes(range(256)) * 16
    assert not device.is_direct
    device.write(0, b"w" * 4096)
    assert device.read(0, 4096) == b"w" * 4096
    assert not can_lock(file)
    device.close()
    assert can_lock(file)


def test_works_on_tmpfs(file):
    if not os.access("/dev/shm", os.W_OK):
        pytest.skip("needs a tmpfs")
    path = Path(f"/dev/shm/scoutfs-test-{os.getpid()}")
    try:
        path.write_bytes(bytes(8192))
        device = opened(path)
        device.write(4096, b"t" * 4096, durable=True)
        assert device.read(0, 8192) == bytes(4096) + b"t" * 4096
        device.close()
    finally:
        path.unlink()


@pytest.mark.parametrize("at", [0, 4095, 4096, 8191])
def test_unreadable_sectors_are_named(file, at):
    device = opened(file, io=BadSectors(range(at, at + 1)))
    with pytest.raises(DeviceError, match=re.escape(f"{file}: reading 8192 bytes at 0: Input/output error")) as caught:
        device.read(0, 8192)
    assert (caught.value.errno, caught.value.path) == (errno.EIO, str(file))
    assert device.read(8192, 4096) == bytes(range(256)) * 16


def test_unwritable_sectors_are_named(file):
    device = opened(file, io=BadSectors(range(4096, 4097), reads=False, writes=True))
    with pytest.raises(DeviceError, match="writing 4096 bytes at 4096: Input/output error"):
        device.write(4096, bytes(4096))


@pytest.mark.parametrize("operation", ["read", "write"])
def test_short_transfers_are_continued(file, operation):
    class Bytewise(SystemIO):
        def pread(self, fd, buffer, offset):
            return super().pread(fd, buffer[:512], offset)

        def pwrite(self, fd, buffer, offset, *, durable=False):
            return super().pwrite(fd, buffer[:512], offset, durable=durable)

    device = opened(file, io=Bytewise())
    if operation == "read":
        assert device.read(4096, 8192) == bytes(range(256)) * 32
    else:
        device.write(4096, b"s" * 8192)
        assert file.read_bytes() == bytes(range(256)) * 16 + b"s" * 8192 + bytes(range(256)) * ((SIZE - 12288) // 256)


@pytest.mark.parametrize("kind", ["EIO", "ENOSPC", "nothing"])
def test_every_failing_call_is_a_device_error(file, kind):
    """The n-th system call fails, for every n, until all succeed."""
    for n in range(1, 100):
        io = NthFails(n, kind)
        error = _use(file, io)
        if error is None:
            break
        assert io.happened
        assert str(error).startswith(f"{file}: ")
        transfer_of_nothing = kind == "nothing" and io.happened in ("pread", "pwrite")
        assert error.errno == (errno.ENOSPC if kind == "ENOSPC" and not transfer_of_nothing else errno.EIO)
        assert can_lock(file), f"{io.happened} failed and the claim remained"
    assert n == 9, "open, stat, lock, lock_bytes, size, pread, pwrite, flush: 8 calls can fail"


def _use(file, io):
    try:
        with opened(file, io=io, sharing=Sharing.SHARED) as device:
            device.read(0, 4096)
            device.write(0, bytes(4096))
            device.flush()
    except DeviceError as error:
        return error
    return None


def test_a_durable_write_asks_for_it(file):
    io = Recorder()
    device = opened(file, io=io)
    device.write(0, b"d" * 4096, durable=True)
    device.write(4096, b"e" * 4096)
    device.flush()
    path = str(file)
    expected = [("write", path, 0, b"d" * 4096, True), ("write", path, 4096, b"e" * 4096, False), ("flush", path)]
    assert io.log == expected


def test_threads_do_not_mix_their_buffers(file):
    device = opened(file)
    failures = []

    def work(number):
        mine = bytes([number]) * 4096
        for _ in range(50):
            device.write(number * 4096, mine)
            if device.read(number * 4096, 4096) != mine:
                failures.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures


def test_a_forked_child_has_buffers_of_its_own(file):
    """After a fork a child's reads must not appear in memory that its parent is about to write."""
    device = opened(file)
    with _Borrowed(device._file._buffers, 4096) as buffer:
        buffer[:] = b"p" * 4096
        child = multiprocessing.get_context("fork").Process(target=_scribble, args=(buffer,))
        child.start()
        child.join(60)
        assert child.exitcode == 0
        assert bytes(buffer) == b"p" * 4096


def _scribble(buffer):
    buffer[:] = b"c" * len(buffer)


@needs_loop_devices
def test_a_loop_device(file):
    with loop_device(file) as path:
        device = opened(path, sharing=Sharing.SHARED)
        assert (device.size, device.is_block_device, device.is_direct) == (SIZE, True, True)
        assert device.major_minor == (7, int(path.removeprefix("/dev/loop")))
        device.write(4096, b"l" * 4096, durable=True)
        assert device.read(4096, 4096) == b"l" * 4096
        other = opened(path, sharing=Sharing.SHARED)
        assert device.is_same_as(other)
        other.close()
        with pytest.raises(DeviceError, match="is in use by a live mount"):
            opened(path, sharing=Sharing.EXCLUSIVE)
        device.close()
        alone = opened(path, sharing=Sharing.EXCLUSIVE)
        with pytest.raises(OSError, match="busy"):
            os.open(path, os.O_RDONLY | os.O_EXCL)
        alone.close()
    assert file.read_bytes()[4096:8192] == b"l" * 4096


def test_same_file_by_another_path(file, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(file)
    other = tmp_path / "other"
    other.write_bytes(bytes(4096))
    assert Device.open(file).is_same_as(Device.open(link))
    assert not Device.open(file).is_same_as(Device.open(other))
