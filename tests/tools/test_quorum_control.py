"""Control directories are read as kernel mounts had them; questions that nobody answers do no harm."""

from __future__ import annotations

import errno
import shutil
import threading
import time
from pathlib import Path

import pytest

from scoutfs.errors import ScoutfsError
from scoutfs.quorum.status import Exchange, Role
from scoutfs.tools.quorum.control import ControlError, control_directory, mount_point, mounts_of, read_mount
from scoutfs.tools.quorum.live import FenceRequest
from scoutfs.tools.quorum.polling import NoAnswer, Poller
from tests.tools.control_directories import CLIENT, FOLLOWERS, LEADER, add_fence, recreate

FSID = 0xE55DD1F5F7AFAA8E


def test_the_leader(tmp_path: Path) -> None:
    view = read_mount(recreate(LEADER, tmp_path / "c"), "/mnt")
    assert (view.path, view.rid, view.slot, view.is_leader) == ("/mnt", 0xC9E76D255F984B63, 0, True)
    assert view.fsid >> 40 == 0xE55DD1
    assert view.fences == ()
    assert view.notes == ()
    assert view.status is not None
    assert (view.status.role, view.status.term, view.status.votes) == (Role.LEADER, 11, 0b11)
    assert view.status.last_recv == {1: Exchange(11, 1, -3.386831493)}
    assert view.status.timeout == 0.05828991


@pytest.mark.parametrize(("listing", "slot"), [(FOLLOWERS[0], 1), (FOLLOWERS[1], 2)])
def test_followers(tmp_path: Path, listing: str, slot: int) -> None:
    view = read_mount(recreate(listing, tmp_path / "c"), "/mnt")
    assert (view.slot, view.is_leader) == (slot, False)
    assert view.status is not None
    assert view.status.role is Role.FOLLOWER


def test_a_mount_that_is_no_member(tmp_path: Path) -> None:
    view = read_mount(recreate(CLIENT, tmp_path / "c"), "/mnt")
    assert (view.slot, view.status, view.is_leader, view.fences) == (-1, None, False, ())
    assert view.to_dict()["slot"] is None


def test_a_mount_that_begins_or_ends(tmp_path: Path) -> None:
    control = recreate(LEADER, tmp_path / "c")
    # the options go first when a mount is unmounted
    shutil.rmtree(control / "mount_options")
    assert read_mount(control, "/mnt").slot == 0
    (control / "quorum" / "status").write_text("")
    assert read_mount(control, "/mnt").status is None
    (control / "rid").unlink()
    with pytest.raises(ControlError, match=r"the mount is not there any more$"):
        read_mount(control, "/mnt")


def test_notes_of_our_own_mounts(tmp_path: Path) -> None:
    control = recreate(LEADER, tmp_path / "c")
    (control / "connection").write_text("server none\nterm 0\n")
    (control / "waiting").write_text("waiting for a server for 1.5 s: none found\n")
    notes = ("server none; term 0", "waiting for a server for 1.5 s: none found")
    assert read_mount(control, "/mnt").notes == notes


def test_fence_requests(tmp_path: Path) -> None:
    control = recreate(LEADER, tmp_path / "c")
    add_fence(control, 0xB, elapsed_secs="7", reason="client_recovery", ipv4_addr="10.0.0.2")
    add_fence(control, 0xA, fenced="1")
    add_fence(control, 0xC, fenced="1", error="1")
    # one that goes while it is read
    (control / "fence" / "000000000000000d").mkdir()
    view = read_mount(control, "/mnt")
    assert view.fences == (
        FenceRequest(0xA, "10.0.0.1", "unknown", 0, True, False),
        FenceRequest(0xB, "10.0.0.2", "client_recovery", 7, False, False),
        FenceRequest(0xC, "10.0.0.1", "unknown", 0, True, True),
    )
    assert [fence.state for fence in view.fences] == ["fenced", "waiting", "failed"]


@pytest.mark.parametrize(
    ("name", "text"), [("rid", "xyz\n"), ("quorum/status", "quorum_slot_nr x\n"), ("mount_options/quorum_slot_nr", "?")]
)
def test_files_that_hold_something_else(tmp_path: Path, name: str, text: str) -> None:
    control = recreate(LEADER, tmp_path / "c")
    (control / name).write_text(text)
    with pytest.raises(ScoutfsError):
        read_mount(control, "/mnt")


def test_where_the_control_directory_is(tmp_path: Path) -> None:
    hidden = recreate(LEADER, tmp_path / "mnt" / ".scoutfs")
    assert control_directory(tmp_path / "mnt") == hidden
    assert control_directory(hidden) == hidden
    with pytest.raises(ControlError, match=r"no ScoutFS is mounted here"):
        control_directory(tmp_path)


def test_mounts_of_this_host(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for name in ("f.e55dd1.r.000001", "f.e55dd1.r.000002", "f.e55dd2.r.000001"):
        (run / name).symlink_to(tmp_path / "absent" / name / ".scoutfs")
    (run / "f.e55dd1.r.000001.socket").write_text("")
    kernel = tmp_path / "kernel"
    (kernel / "f.e55dd1.r.000003").mkdir(parents=True)
    found = mounts_of(FSID, [run, kernel, tmp_path / "no such directory"])
    assert sorted(found) == [
        kernel / "f.e55dd1.r.000003",
        run / "f.e55dd1.r.000001",
        run / "f.e55dd1.r.000002",
    ]
    assert mount_point(run / "f.e55dd1.r.000001") == str(tmp_path / "absent" / "f.e55dd1.r.000001")
    assert mount_point(kernel / "f.e55dd1.r.000003") == str(kernel / "f.e55dd1.r.000003")


def test_answers() -> None:
    poller = Poller("m", lambda: 42)
    for _ in range(3):
        poller.ask()
        assert poller.answer(time.monotonic() + 30) == 42


@pytest.mark.parametrize("error", [ScoutfsError("broken"), OSError(errno.EIO, "broken")])
def test_errors_are_answers(error: Exception) -> None:
    def fail() -> None:
        raise error

    poller = Poller("m", fail)
    with pytest.raises(type(error), match="broken"):
        poller.answer(time.monotonic() + 30)


def test_no_answer() -> None:
    may_answer = threading.Event()
    asked = []

    def question() -> int:
        asked.append(None)
        may_answer.wait(30)
        return len(asked)

    poller = Poller("/mnt", question)
    for _ in range(3):
        with pytest.raises(NoAnswer, match=r"^/mnt: no answer for 0\.\d s; its process may be stopped"):
            poller.answer(time.monotonic() + 0.01)
    # the late answer comes to the first question: no other was asked meanwhile
    may_answer.set()
    assert poller.answer(time.monotonic() + 30) == 1
    assert poller.answer(time.monotonic() + 30) == 2
