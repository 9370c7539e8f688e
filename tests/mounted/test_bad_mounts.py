"""Mounts that must be refused: one clear line, the right exit code, nothing changed on the devices (spec 02 §13.4)."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest

from format.block import seal
from tests.mounted.cluster import Cluster, Volume, wait_until

SUPER = 65536


@pytest.fixture
def pair(cluster: Cluster) -> tuple[str, str]:
    """Metadata and data image of a volume with one slot."""
    images = [str(cluster.image(name, 64 << 30)) for name in ("meta.img", "data.img")]
    address = cluster.slot_addresses(1)[0]
    cluster.run("mkfs.scoutfs", "-Q", f"0,{address}", *images)
    return images[0], images[1]


def digest(*paths: str) -> list[str]:
    """Hash what the first MiB of each image holds: super and quorum blocks are there."""
    digests = []
    for path in paths:
        with open(path, "rb") as file:
            digests.append(hashlib.sha256(file.read(1 << 20)).hexdigest())
    return digests


def refused(cluster: Cluster, device: str, options: str, code: int = 32) -> str:
    """Mount, expect the refusal, and return its line."""
    done = cluster.try_mount(device, options)
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("mount.scoutfs: ")
    assert done.stderr.count("\n") == 1
    assert cluster.mounted() == []
    assert cluster.records() == []
    assert cluster.links() == []
    return done.stderr


def test_bad_options_and_devices_change_nothing(cluster: Cluster, pair: tuple[str, str]):
    meta, data = pair
    good = f"quorum_slot_nr=0,metadev_path={meta}"
    before = digest(meta, data)
    assert "Unknown or malformed option" in refused(cluster, data, f"{good},wat")
    assert "invalid quorum_heartbeat_timeout_ms value" in refused(
        cluster, data, f"{good},quorum_heartbeat_timeout_ms=1000000"
    )
    # options are looked at before devices
    assert "Unknown or malformed option" in refused(cluster, "/dev/does-not-exist", "wat")
    assert "swap" in refused(cluster, meta, f"quorum_slot_nr=0,metadev_path={data}")
    assert meta in refused(cluster, meta, good)
    assert data in refused(cluster, data, f"quorum_slot_nr=0,metadev_path={data}")
    assert "metadev_path" in refused(cluster, data, "quorum_slot_nr=0")
    assert "metadev_path" in refused(cluster, meta, "quorum_slot_nr=0")
    missing = str(cluster.directory / "absent")
    assert "No such file" in refused(cluster, missing, good)
    assert "No such file" in refused(cluster, data, f"metadev_path={missing}")
    assert "block device" in refused(cluster, data, "metadev_path=/dev/null")
    assert "usable slots: 0" in refused(cluster, data, good.replace("nr=0", "nr=3"))
    assert digest(meta, data) == before
    # and the volume is as good as before
    done = cluster.try_mount(data, f"{good},wait=20")
    assert done.returncode == 0, done.stderr


def corrupt(path: str, offset: int, data: bytes) -> None:
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(data)


def test_damaged_super_blocks(cluster: Cluster, pair: tuple[str, str]):
    meta, data = pair
    options = f"quorum_slot_nr=0,metadev_path={meta}"
    for path in pair:
        with open(path, "rb") as file:
            file.seek(SUPER)
            block = file.read(4096)
        corrupt(path, SUPER + 4, b"\0\0\0\0")
        assert "magic" in refused(cluster, data, options)
        corrupt(path, SUPER + 4, block[4:8])
        for field, offset in (("fsid", 8), ("blkno", 24)):
            corrupt(path, SUPER, seal(block[:offset] + b"\x05" * 8 + block[offset + 8 :], 4096))
            assert f"block 16: {field}" in refused(cluster, data, options)
        corrupt(path, SUPER, block)
        corrupt(path, SUPER + 200, b"\xff" * 8)
        assert f"{path}: block 16: crc" in refused(cluster, data, options)
        corrupt(path, SUPER, block)
        size = Path(path).stat().st_size
        with open(path, "r+b") as file:
            file.truncate(1 << 30)
        assert "truncated" in refused(cluster, data, options)
        with open(path, "r+b") as file:
            file.truncate(size)
    assert cluster.try_mount(data, options, "m", "-f").returncode == 0


def test_a_damaged_quorum_block_of_the_own_slot(cluster: Cluster, pair: tuple[str, str]):
    meta, data = pair
    options = f"quorum_slot_nr=0,metadev_path={meta}"
    offset = 17 * 4096
    with open(meta, "rb") as file:
        file.seek(offset)
        block = file.read(4096)
    # changed where, into what, and said how: a wrong crc, then fields under a right one
    damage = {
        "crc is 0x": block[:300] + b"\x01" + block[301:],
        "magic is 0x58585858": seal(bytes(4) + b"XXXX" + block[8:], 4096),
        "fsid is 0x5": seal(block[:8] + (5).to_bytes(8, "little") + block[16:], 4096),
        "blkno is 18": seal(block[:24] + (18).to_bytes(8, "little") + block[32:], 4096),
    }
    for text, damaged in damage.items():
        corrupt(meta, offset, damaged)
        before = digest(meta, data)
        assert f"{meta}: quorum block 17: {text}" in refused(cluster, data, options)
        assert digest(meta, data) == before
    corrupt(meta, offset, block)
    done = cluster.try_mount(data, f"{options},wait=20")
    assert done.returncode == 0, done.stderr


def test_a_damaged_quorum_block_of_another_slot(cluster: Cluster):
    volume = cluster.volume(loop=False)
    corrupt(volume.device, 19 * 4096 + 4, b"XXXX")
    members = [cluster.mount(volume, slot) for slot in (0, 1)]
    # it may hide a leader, so nobody serves, and it is said why
    for mount in members:
        wait_until(lambda mount=mount: "the block of slot 2 cannot be read" in mount.read("waiting"), "the reason")
    text = "server failed to fence previous leaders: error reading quorum block of slot 2: "
    wait_until(lambda: any(text in mount.log() for mount in members), "the refusal of a server to start")
    assert not any(mount.usable for mount in members)
    assert "quorum block 19" in refused_beside(cluster, volume)


def refused_beside(cluster: Cluster, volume: Volume) -> str:
    """Try to mount slot 2 while others are mounted, expect the refusal, and return its line."""
    done = cluster.try_mount(volume.device, volume.options(2), "m2")
    assert (done.returncode, done.stderr.count("\n")) == (32, 1), done.stderr
    return done.stderr


def test_devices_of_two_volumes(cluster: Cluster, pair: tuple[str, str]):
    meta, _ = pair
    others = [str(cluster.image(name, 64 << 30)) for name in ("meta2.img", "data2.img")]
    cluster.run("mkfs.scoutfs", "-Q", "0,127.0.0.1,23450", *others)
    assert "different volumes" in refused(cluster, others[1], f"metadev_path={meta}")


def test_no_volume_at_all(cluster: Cluster):
    empty = str(cluster.image("empty.img", 1 << 30))
    assert "not a ScoutFS volume" in refused(cluster, empty, "quorum_slot_nr=0")
    tiny = str(cluster.image("tiny.img", 4096))
    assert "too small" in refused(cluster, tiny, "")


def test_an_address_that_is_not_of_this_host(cluster: Cluster):
    image = str(cluster.image("v.img", 160 << 30))
    cluster.run("mkfs.scoutfs", "-Q", "0,192.0.2.77,23450", image)
    before = digest(image)
    assert "192.0.2.77" in refused(cluster, image, "quorum_slot_nr=0")
    assert digest(image) == before


def test_mount_points_that_are_none(cluster: Cluster, pair: tuple[str, str]):
    meta, data = pair
    file = cluster.directory / "file"
    file.touch()
    for target, code, text in ((file, 32, "not a directory"), (cluster.directory / "absent", 32, "No such file")):
        done = cluster.run("mount.scoutfs", "-o", f"metadev_path={meta}", data, str(target), check=False)
        assert (done.returncode, text in done.stderr) == (code, True), done.stderr


@pytest.mark.parametrize(
    "words",
    [[], ["/dev/x"], ["/dev/x", "/mnt", "/mnt2"], ["--wat", "/dev/x", "/mnt"], ["-t", "ext4", "/dev/x", "/mnt"]],
)
def test_bad_command_lines(cluster: Cluster, words: list[str]):
    for program in ("mount.scoutfs", "umount.scoutfs"):
        if program == "umount.scoutfs" and words in (["/dev/x"], ["-t", "ext4", "/dev/x", "/mnt"]):
            continue
        done = cluster.run(program, *words, check=False)
        assert done.returncode == 1
        assert f"{program} --help" in done.stderr


def test_unmounting_what_is_not_mounted(cluster: Cluster):
    done = cluster.run("umount.scoutfs", str(cluster.directory), check=False)
    assert done.returncode == 32
    assert "no ScoutFS volume is mounted here" in done.stderr


def test_a_missing_device_with_nofail(cluster: Cluster):
    done = cluster.try_mount(str(cluster.directory / "absent"), "nofail")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_volume_in_use_by_the_kernel(cluster: Cluster):
    if not shutil.which("mkfs.ext4"):
        pytest.skip("needs mkfs.ext4")
    device = cluster.loop(cluster.image("ext4.img", 64 << 20))
    subprocess.run(["mkfs.ext4", "-q", device], check=True, timeout=60)
    directory = cluster.directory / "ext4"
    directory.mkdir()
    subprocess.run(["mount", device, str(directory)], check=True, timeout=30)
    try:
        assert "in use by the kernel" in refused(cluster, device, "quorum_slot_nr=0")
    finally:
        subprocess.run(["umount", str(directory)], check=True, timeout=30)
