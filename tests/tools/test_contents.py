"""What devices already hold: real filesystems and partition tables, and ScoutFS itself."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys

import pytest

from format.quorum import Event, QuorumBlock
from scoutfs.errors import ScoutfsError
from scoutfs.storage import Device, DeviceError
from scoutfs.tools import contents
from scoutfs.tools.contents import check_empty, has_super_block, probe, running_mounts
from tests.faults import BadSectors
from tests.images import load, unpack
from tests.loops import loop_device, needs_loop_devices
from tests.memory import Image, MemoryIO

needs_blkid = pytest.mark.skipif(
    not shutil.which("blkid", path=f"{os.environ['PATH']}:/usr/sbin:/sbin"), reason="needs blkid"
)
pytestmark = needs_blkid

EMPTY_DOS_TABLE = (
    bytes(446) + bytes.fromhex("00 20 21 00 83 28 20 08 00 08 00 00 00 70 00 00") + bytes(48) + b"\x55\xaa"
)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "image"
    with path.open("wb") as image:
        image.truncate(16 << 20)
    return path


def put(path, offset, data):
    with path.open("r+b") as image:
        image.seek(offset)
        image.write(data)


def make_ext4(path):
    if not shutil.which("mkfs.ext4", path="/usr/sbin:/sbin:/usr/bin"):
        pytest.skip("needs mkfs.ext4")
    subprocess.run(
        ["mkfs.ext4", "-q", "-F", str(path)], check=True, timeout=60, env={"PATH": "/usr/sbin:/sbin:/usr/bin"}
    )


def refusal(path, **options):
    with Device.open(path, **options) as device, pytest.raises(ScoutfsError) as caught:
        check_empty(device)
    return str(caught.value), caught.value.errno


def test_nothing(file):
    with Device.open(file) as device:
        check_empty(device)
        assert probe(device) == {}


def test_a_filesystem(file):
    make_ext4(file)
    assert refusal(file) == (f"{file}: appears to contain an existing ext4 superblock", errno.EPERM)


def test_a_partition_table(file):
    put(file, 0, EMPTY_DOS_TABLE)
    assert refusal(file) == (f"{file}: appears to contain a partition table (dos)", errno.EPERM)


@pytest.mark.parametrize(
    ("offset", "magic", "kind"),
    [(65536 + 64, b"_BHRfS_M", "btrfs"), (0, b"LUKS\xba\xbe\0\2" + bytes(4088), "crypto_LUKS")],
)
def test_other_signatures(file, offset, magic, kind):
    put(file, offset, magic)
    assert refusal(file) == (f"{file}: appears to contain an existing {kind} superblock", errno.EPERM)


def test_a_path_that_looks_like_an_option(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with open("-p", "wb") as image:
        image.truncate(1 << 20)
    with Device.open("-p") as device:
        check_empty(device)


@pytest.mark.parametrize("role", ["meta", "data"])
def test_scoutfs(tmp_path, role):
    path = unpack("v2-3slot", role, tmp_path / "x")
    assert refusal(path) == (f"{path}: appears to contain an existing ScoutFS superblock", errno.EINVAL)


def test_a_super_block_counts_even_if_it_is_damaged(file):
    put(file, 65540, bytes.fromhex("8b423c10"))
    assert refusal(file) == (f"{file}: appears to contain an existing ScoutFS superblock", errno.EINVAL)


def test_an_unreadable_super_block(file):
    with Device.open(file, io=BadSectors(range(65536, 65537))) as device:
        with pytest.raises(DeviceError, match="reading 4096 bytes at 65536: Input/output error"):
            check_empty(device)


def test_a_device_that_is_too_small(file):
    os.truncate(file, 65536)
    with (
        Device.open(file) as device,
        pytest.raises(DeviceError, match="beyond the end at 65536, the device is too small"),
    ):
        check_empty(device)


@needs_loop_devices
def test_a_loop_device_shows_what_was_just_written(file):
    with loop_device(file) as path:
        with Device.open(path, writable=True) as device:
            check_empty(device)
            device.write(0, EMPTY_DOS_TABLE + bytes(4096 - 512))
            with pytest.raises(ScoutfsError, match=r"partition table \(dos\)"):
                check_empty(device)


@pytest.fixture
def fake_blkid(tmp_path, monkeypatch):
    """Install a blkid that runs the given Python code."""

    def install(code):
        program = tmp_path / "bin" / "blkid"
        program.parent.mkdir()
        program.write_text(f"#!{sys.executable}\n{code}")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(program.parent))

    return install


def test_a_newer_blkid_knows_scoutfs(tmp_path, fake_blkid):
    path = unpack("v2-3slot", "meta", tmp_path / "x")
    fake_blkid("print('DEVNAME=x\\nUUID=1\\nTYPE=scoutfs_meta\\nUSAGE=filesystem')")
    assert refusal(path) == (f"{path}: appears to contain an existing ScoutFS superblock", errno.EINVAL)


def test_blkid_that_fails(file, fake_blkid):
    fake_blkid("import sys; print('no\\nluck', file=sys.stderr); sys.exit(4)")
    assert refusal(file) == (f"{file}: blkid cannot tell what it holds: no luck", errno.EIO)


def test_blkid_that_is_ambivalent(file, fake_blkid):
    fake_blkid("import sys; sys.exit(8)")
    assert refusal(file) == (f"{file}: appears to contain several superblocks or partition tables", errno.EPERM)


def test_blkid_that_hangs(file, fake_blkid, monkeypatch):
    monkeypatch.setattr(contents, "_TIMEOUT", 0.2)
    fake_blkid("import time; time.sleep(60)")
    assert refusal(file) == (f"{file}: blkid did not end within 0.2 s", errno.ETIMEDOUT)


def test_without_blkid(file, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda *args, **options: None)
    text, code = refusal(file)
    assert text.startswith(f"{file}: cannot find out what it holds: blkid (util-linux) is not installed")
    assert code == errno.ENOENT


def running(image: Image, slot: int, *events: Event) -> None:
    block = QuorumBlock(0x0123456789ABCDEF, slot)
    for event in events:
        block = block.updated(event, 0x1122, 7, 1)
    image.write((17 + slot) * 4096, block.build())


def test_running_mounts():
    image = load("v2-3slot", "meta")
    io = MemoryIO({"m": image})
    assert running_mounts(Device.open("m", io=io)) == []
    running(image, 0, Event.BEGIN, Event.END)
    running(image, 2, Event.BEGIN, Event.TERM)
    running(image, 3, Event.BEGIN)
    assert running_mounts(Device.open("m", io=io)) == ["m: a mount in quorum slot 2 could still be running"]
    image.write(19 * 4096, b"garbage")
    assert running_mounts(Device.open("m", io=io)) == []
    assert has_super_block(Device.open("m", io=io))


def test_running_mounts_are_not_looked_for_on_data_devices():
    image = load("v2-3slot", "data")
    running(image, 0, Event.BEGIN)
    assert running_mounts(Device.open("d", io=MemoryIO({"d": image}))) == []


def test_a_running_mount_is_named_when_its_volume_is_refused(tmp_path):
    image = load("v2-3slot", "meta")
    running(image, 1, Event.BEGIN)
    path = unpack("v2-3slot", "meta", tmp_path / "x")
    put(path, 18 * 4096, image.read(18 * 4096, 4096))
    text, _ = refusal(path)
    assert text.splitlines() == [
        f"{path}: appears to contain an existing ScoutFS superblock",
        f"{path}: a mount in quorum slot 1 could still be running",
    ]
