"""Links and sockets in the run directory, and which of them are stale."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from mount import kernel, rundir, sockets
from scoutfs.errors import ScoutfsError
from scoutfs.quorum.registration import Registration

FSID = 0x0123456789ABCDEF
RID = 0xBBBB000000000001


@pytest.fixture(autouse=True)
def directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SCOUTFS_RUN_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("SCOUTFS_STATE_DIR", str(tmp_path / "state"))
    return tmp_path / "run"


def test_the_link_has_the_name_of_the_mount(directories: Path):
    link = rundir.publish_link(FSID, RID, "/mnt/x")
    assert link == directories / "f.012345.r.bbbb00"
    assert os.readlink(link) == "/mnt/x/.scoutfs"
    assert rundir.socket_path(link) == directories / "f.012345.r.bbbb00.socket"
    rundir.remove(link)
    rundir.remove(link)
    assert list(directories.iterdir()) == []


def test_unusable_rids_are_drawn_again():
    rundir.publish_link(FSID, RID, "/mnt/x")
    draws = iter([0, 2**64 - 1, RID | 0xFFFF, 0xAAAA00 << 40])
    assert rundir.draw_rid(FSID, lambda bits: next(draws)) == 0xAAAA00 << 40
    with pytest.raises(ScoutfsError, match="100 draws"):
        rundir.draw_rid(FSID, lambda bits: 0)


def test_links_of_the_dead_are_removed_and_those_of_the_living_are_kept(
    directories: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(
        kernel,
        "mount_table",
        lambda: [
            kernel.MountEntry(1, "0:5", target, kernel.FILESYSTEM_TYPE, "/dev/x")
            for target in ("/mnt/registered", "/mnt/unregistered")
        ],
    )
    registration = Registration.create(fsid=FSID, rid=RID, mount_point="/mnt/registered")
    try:
        directories.mkdir()
        kept = {
            "f.012345.r.bbbb00": "/mnt/registered/.scoutfs",
            "f.012345.r.cccc00": "/mnt/unregistered/.scoutfs",
        }
        stale = {
            # a mount that was killed, and its directory is mounted again by another
            "f.012345.r.dddd00": "/mnt/registered/.scoutfs",
            "f.012345.r.eeee00": "/mnt/gone/.scoutfs",
        }
        for name, target in {**kept, **stale}.items():
            (directories / name).symlink_to(target)
            (directories / f"{name}.socket").touch()
        (directories / "f.012345.r.ffff00.socket").touch()
        (directories / "somebody-elses").touch()
        rundir.remove_stale_links(directories)
        names = {path.name for path in directories.iterdir()}
        assert names == {*kept, *(f"{name}.socket" for name in kept), "somebody-elses"}
    finally:
        registration.release(clean=True)


def test_sockets_with_long_paths(tmp_path: Path):
    path = tmp_path / ("long" * 30) / "f.012345.r.bbbb00.socket"
    with sockets.listening_socket(path) as listening:
        assert path.stat().st_mode & 0o777 == 0o600
        with sockets.connected_socket(path, 5.0) as ours:
            theirs, _ = listening.accept()
            with theirs:
                ours.sendall(b"hello")
                assert theirs.recv(10) == b"hello"
    # a leftover of a process that was killed is replaced
    with sockets.listening_socket(path):
        pass
    with pytest.raises(OSError):
        sockets.connected_socket(path, 5.0)
    with pytest.raises(OSError):
        sockets.connected_socket(tmp_path / "absent" / "x", 5.0)


def test_where_a_user_keeps_sockets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert rundir.private_directory() == tmp_path / "scoutfs"
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "absent"))
    assert rundir.private_directory() is None
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert rundir.private_directory() is None


def test_socket_type(tmp_path: Path):
    with sockets.listening_socket(tmp_path / "s") as listening:
        assert listening.type == socket.SOCK_STREAM
        assert not os.get_inheritable(listening.fileno())
