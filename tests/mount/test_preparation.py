"""What is checked before anything is changed."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

import pytest

from format.block import FormatError
from mount import kernel
from mount.options import parse_options
from mount.preparation import MountRequest, check_directory, live_mounts, prepare
from scoutfs.errors import ScoutfsError
from scoutfs.quorum.registration import Host, Registration
from scoutfs.storage.volume import Volume
from tests.faults import KINDS, NthFails
from tests.images import unpack_volume


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SCOUTFS_STATE_DIR", str(tmp_path / "state"))
    return tmp_path / "state" / "mounts"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Metadata and data image of a volume that the original made; tests leave them as they are."""
    return unpack_volume("v2-3slot", tmp_path_factory.mktemp("volume"))


def request(images: tuple[Path, Path], directory: Path, options: str = "") -> MountRequest:
    meta, data = images
    return MountRequest(str(data), str(directory), parse_options(f"metadev_path={meta},{options}"))


def silent(text: str) -> None:
    pytest.fail(f"nothing should be said: {text}")


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.sha256(file.read(1 << 20)).hexdigest()


def test_a_good_request(images, tmp_path):
    prepared = prepare(request(images, tmp_path, "quorum_slot_nr=1"), silent)
    with prepared.volume as volume:
        assert prepared.directory == str(tmp_path)
        assert volume.super.quorum_config.slots.keys() == {0, 1, 2}
        assert prepared.root.inode.mode == 0o40755


def test_a_slot_that_is_none(images, tmp_path):
    with pytest.raises(ScoutfsError, match="usable slots: 0,1,2"):
        prepare(request(images, tmp_path, "quorum_slot_nr=14"), silent)


def test_a_slot_that_is_mounted_here(images, tmp_path):
    with Volume.open(images[1], images[0], writable=False) as volume:
        fsid = volume.fsid
    registration = Registration.create(fsid=fsid, rid=17, slot=1, mount_point="/mnt/first")
    try:
        with pytest.raises(ScoutfsError) as caught:
            prepare(request(images, tmp_path, "quorum_slot_nr=1"), silent)
        assert caught.value.errno == errno.EADDRINUSE
        assert "quorum_slot_nr=1" in str(caught.value)
        assert "/mnt/first" in str(caught.value)
        assert str(os.getpid()) in str(caught.value)
        # another slot, or no slot, may be mounted beside it
        for options in ("quorum_slot_nr=2", ""):
            prepare(request(images, tmp_path, options), silent).volume.close()
    finally:
        # left unclean: what holds no lock is dead, and its slot is free
        registration.release(clean=False)
    prepare(request(images, tmp_path, "quorum_slot_nr=1"), silent).volume.close()


def test_only_living_mounts_of_this_boot_count(state):
    host = Host.current()
    alive = Registration.create(fsid=1, rid=1)
    dead = Registration.create(fsid=1, rid=2)
    elsewhere = Registration.create(fsid=1, rid=3, host=Host("other boot", "", 0, 0))
    dead.release(clean=False)
    (state / "garbage").write_bytes(b"\xff" * 10)
    try:
        assert [record.rid for record in live_mounts(state, host.boot_id)] == [1]
        assert list(live_mounts(state / "absent", host.boot_id)) == []
    finally:
        alive.release(clean=True)
        elsewhere.release(clean=True)


def test_directories(tmp_path):
    assert check_directory(str(tmp_path), silent) == str(tmp_path)
    (tmp_path / "d").mkdir()
    (tmp_path / "link").symlink_to("d")
    assert check_directory(str(tmp_path / "link"), silent) == str(tmp_path / "d")
    (tmp_path / "file").touch()
    with pytest.raises(ScoutfsError, match="not a directory") as caught:
        check_directory(str(tmp_path / "file"), silent)
    assert caught.value.errno == errno.ENOTDIR
    with pytest.raises(ScoutfsError, match="No such file"):
        check_directory(str(tmp_path / "absent"), silent)
    with pytest.raises(ScoutfsError, match="No such file"):
        check_directory(str(tmp_path / "absent" / "below"), silent)


def test_a_directory_with_a_living_mount_of_ours(tmp_path, monkeypatch):
    entry = kernel.MountEntry(1, "0:5", str(tmp_path), kernel.FILESYSTEM_TYPE, "/dev/x")
    monkeypatch.setattr(kernel, "mount_table", lambda: [entry])
    with pytest.raises(ScoutfsError, match=r"a ScoutFS volume \(/dev/x\) is mounted here") as caught:
        check_directory(str(tmp_path), silent)
    assert caught.value.errno == errno.EBUSY


@pytest.mark.parametrize("kind", KINDS)
def test_every_operation_on_the_devices_fails_in_turn(images, tmp_path, kind):
    before = [digest(path) for path in images]
    wanted = request(images, tmp_path, "quorum_slot_nr=0")
    told = []
    for n in range(1, 1000):
        io = NthFails(n, kind)
        try:
            prepare(wanted, silent, io=io).volume.close()
        except (ScoutfsError, FormatError) as error:
            told.append(str(error))
        if io.happened is None:
            break
    assert 5 < n < 100
    assert [digest(path) for path in images] == before
    assert all("\n" not in text for text in told)
    assert all(text.startswith(tuple(str(path) for path in images)) for text in told), told
    # nothing was left open or claimed
    paths = {os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")}
    assert not paths & {str(path) for path in images}
