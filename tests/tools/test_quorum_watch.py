"""`scoutfs quorum watch`: what it looks at, how it ends, what it refuses."""

from __future__ import annotations

import codecs
import errno
import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from format.quorum import SlotAddress
from scoutfs import cli
from scoutfs.errors import ScoutfsError
from scoutfs.storage.creation import NewVolume
from scoutfs.storage.volume import QUORUM_OFFSET, SUPER_OFFSET
from scoutfs.tools.quorum.watch import _interval
from scoutfs.tools.quorum.watcher import Watcher
from tests import images
from tests.tools.control_directories import CLIENT, FOLLOWERS, LEADER, recreate

DEADLINE = 30.0


@pytest.fixture
def mount(tmp_path: Path) -> Path:
    """A directory that looks like a mount."""
    recreate(LEADER, tmp_path / "mnt" / ".scoutfs")
    return tmp_path / "mnt"


@pytest.fixture
def device(tmp_path: Path, mount: Path) -> Path:
    """A metadata device, so far as it is read, with the fsid of the recorded mounts."""
    fsid = int((mount / ".scoutfs" / "fsid").read_text(), 16)
    slots = {slot: SlotAddress("127.0.0.1", 19700 + slot) for slot in range(3)}
    new = NewVolume(fsid, bytes(16), 0, 2, 2048, 16384, slots)
    path = tmp_path / "m"
    with path.open("wb") as file:
        file.truncate(1 << 20)
        for offset, block in (*new.metadata_blocks(), (SUPER_OFFSET, new.super_block(is_meta=True))):
            if offset <= QUORUM_OFFSET:
                file.seek(offset)
                file.write(block)
    return path


@pytest.fixture
def run(tmp_path: Path, mount: Path) -> Path:
    """A run directory with links to three members and a client of the volume, and a mount of another."""
    directory = tmp_path / "run"
    directory.mkdir()
    controls = {LEADER: mount / ".scoutfs"}
    for listing in (*FOLLOWERS, CLIENT):
        controls[listing] = recreate(listing, tmp_path / listing / ".scoutfs")
    for control in controls.values():
        rid = (control / "rid").read_text()
        (directory / f"f.e55dd1.r.{rid[:6]}").symlink_to(control)
    other = recreate(LEADER, tmp_path / "other" / ".scoutfs")
    # equal in the part of the fsid that names have
    (other / "fsid").write_text("e55dd10000000000\n")
    (directory / "f.e55dd1.r.aaaaaa").symlink_to(other)
    return directory


def test_a_mount(mount: Path) -> None:
    watcher = Watcher(str(mount), ())
    for snapshot in (watcher.first(), watcher.next()):
        assert snapshot.volume is None
        assert [view.slot for view in snapshot.mounts] == [0]
        assert snapshot.mounts[0].path == str(mount)
        assert snapshot.problems == ()


def test_a_device_and_the_mounts_of_its_volume(device: Path, run: Path, mount: Path) -> None:
    watcher = Watcher(str(device), (run,))
    first, second = watcher.first(), watcher.next()
    for snapshot in (first, second):
        assert snapshot.volume is not None
        assert [slot.slot for slot in snapshot.volume.slots] == [0, 1, 2]
        assert [view.slot for view in snapshot.mounts] == [0, 1, 2, -1]
        assert snapshot.mounts[0].path == str(mount)
        assert snapshot.problems == ()


def test_what_goes_away_and_comes_back(device: Path, run: Path, mount: Path) -> None:
    of_device, of_mount = Watcher(str(device), (run,)), Watcher(str(mount), ())
    of_device.first()
    of_mount.first()
    kept = mount.with_name("kept")
    mount.rename(kept)
    snapshot = of_mount.next()
    assert snapshot.mounts == ()
    assert snapshot.problems == (f"{mount}/.scoutfs: the mount is not there any more",)
    snapshot = of_device.next()
    assert [view.slot for view in snapshot.mounts] == [1, 2, -1]
    assert len(snapshot.problems) == 1
    kept.rename(mount)
    assert [view.slot for view in of_mount.next().mounts] == [0]
    device.unlink()
    snapshot = of_device.next()
    assert snapshot.volume is None
    assert [view.slot for view in snapshot.mounts] == [0, 1, 2, -1]
    assert snapshot.problems == (f"{device}: opening: No such file or directory",)
    # a new mount is found, one that was unmounted is forgotten
    shutil.rmtree(run)
    assert of_device.next().mounts == ()


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(ScoutfsError, match=r"no ScoutFS is mounted here"):
        Watcher(str(tmp_path), ()).first()
    with pytest.raises(ScoutfsError, match=r"absent: opening: No such file or directory"):
        Watcher(str(tmp_path / "absent"), ()).first()
    data = images.unpack("v2-1slot", "data", tmp_path / "d")
    with pytest.raises(ScoutfsError, match=r"is the data device of a volume"):
        Watcher(str(data), ()).first()


def test_a_mount_that_does_not_answer(device: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # a pipe without a writer blocks whoever opens it, as a mount whose process is stopped does
    stuck = next(path for path in run.iterdir() if (path / "quorum").exists() and path.name != "f.e55dd1.r.aaaaaa")
    (stuck / "rid").unlink()
    os.mkfifo(stuck / "rid")
    monkeypatch.setattr("scoutfs.tools.quorum.watcher.FIRST_ANSWER", 1.0)
    snapshot = Watcher(str(device), (run,)).first()
    assert len(snapshot.mounts) == 3
    [problem] = snapshot.problems
    assert re.search(r": no answer for \d\.\d s; its process may be stopped, or a device hang$", problem)
    # let the thread that waits go
    with (stuck / "rid").open("wb"):
        pass


def test_one_look(
    mount: Path, device: Path, run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCOUTFS_RUN_DIR", str(run))
    assert cli.main(["quorum", "watch", "--once", str(mount)]) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"ScoutFS quorum of {mount} at ")
    assert re.search(r"(?m)^   0  c9e76d255f984b63  leader +11 +-  0,1 +0\.1 s$", out)
    assert re.search(r"(?m)^   1  - +sent vote 3\.4 s ago +11 +-  - +-$", out)
    assert err == ""
    assert cli.main(["quorum", "watch", "--once", "--json", str(device)]) == 0
    [line] = capsys.readouterr().out.splitlines()
    found = json.loads(line)
    assert [view["slot"] for view in found["mounts"]] == [0, 1, 2, None]
    assert len(found["volume"]["slots"]) == 3


def test_one_look_that_misses_something(
    device: Path, run: Path, mount: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCOUTFS_RUN_DIR", str(run))
    (mount / ".scoutfs" / "rid").write_text("?")
    assert cli.main(["quorum", "watch", "--once", str(device)]) == 1
    assert "Problem:  " in capsys.readouterr().out


def test_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["quorum", "watch", str(tmp_path / "absent")]) == 1
    assert capsys.readouterr() == ("", f"scoutfs: quorum: {tmp_path}/absent: opening: No such file or directory\n")


@pytest.mark.parametrize("text", ["0", "0.05", "-1", "nan", "inf", "4000", "x", ""])
def test_intervals_that_are_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["quorum", "watch", f"--interval={text}", "/mnt"])
    assert caught.value.code == 64
    assert f"'{text}' is not between 0.1 and 3600 seconds" in capsys.readouterr().err


def test_intervals() -> None:
    assert [_interval(text) for text in ("0.1", "2", "3600")] == [0.1, 2.0, 3600.0]


class Terminal:
    """A process on a terminal of its own."""

    def __init__(self, *arguments: str) -> None:
        self.text = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._fd, other = pty.openpty()
        environment = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "scoutfs.cli", "quorum", "watch", "--interval", "0.1", *arguments],
            stdin=other,
            stdout=other,
            stderr=subprocess.PIPE,
            env={**environment, "TERM": "xterm-256color", "COLUMNS": "150", "LINES": "50"},
        )
        os.close(other)

    def await_text(self, text: str, count: int = 1) -> None:
        """Wait until `text` was shown that often."""
        deadline = time.monotonic() + DEADLINE
        while self.text.count(text) < count:
            assert self._read(deadline), self.text

    def interrupt(self) -> tuple[int, bytes]:
        """Press Ctrl-C; return the exit status and what was said on stderr."""
        self.process.send_signal(signal.SIGINT)
        deadline = time.monotonic() + DEADLINE
        # to the end: it may wait for the terminal to take what it writes
        while self._read(deadline):
            pass
        self.process.wait(timeout=DEADLINE)
        assert self.process.stderr
        return self.process.returncode, self.process.stderr.read()

    def _read(self, deadline: float) -> bool:
        """Wait for more text; return False if the process has closed its terminal."""
        assert select.select([self._fd], [], [], max(0.0, deadline - time.monotonic()))[0], self.text[-2000:]
        try:
            self.text += self._decoder.decode(os.read(self._fd, 65536))
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            return False
        return True

    def close(self) -> None:
        """End the process, however it is."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(timeout=DEADLINE)
        if self.process.stderr:
            self.process.stderr.close()
        os.close(self._fd)


@pytest.fixture
def start() -> Iterator[type[Terminal]]:
    started: list[Terminal] = []

    class Started(Terminal):
        def __init__(self, *arguments: str) -> None:
            super().__init__(*arguments)
            started.append(self)

    yield Started
    for terminal in started:
        terminal.close()


def change_term(mount: Path, old: int, new: int) -> None:
    status = mount / ".scoutfs" / "quorum" / "status"
    changed = status.with_name("changed")
    changed.write_text(status.read_text().replace(f"term {old}\n", f"term {new}\n", 1))
    changed.rename(status)


def test_live_in_a_terminal(mount: Path, start: type[Terminal]) -> None:
    pytest.importorskip("rich")
    terminal = start(str(mount))
    terminal.await_text("c9e76d255f984b63")
    assert "\x1b[?1049h" in terminal.text, "the alternate screen is used"
    change_term(mount, 11, 98765)
    terminal.await_text("98765")
    assert terminal.interrupt() == (0, b"")
    assert "\x1b[?1049l" in terminal.text, "the terminal is given back"


@pytest.mark.parametrize("option", ["--no-color", "--json"])
def test_live_in_plain_lines(mount: Path, start: type[Terminal], option: str) -> None:
    terminal = start(option, str(mount))
    terminal.await_text("c9e76d255f984b63", 3)
    change_term(mount, 11, 98765)
    terminal.await_text("98765")
    assert terminal.interrupt() == (0, b"")
    assert "\x1b" not in terminal.text


def test_live_into_a_pipe(mount: Path) -> None:
    command = [sys.executable, "-m", "scoutfs.cli", "quorum", "watch", "--interval", "0.1", str(mount)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stderr
        try:
            titles = 0
            for line in process.stdout:
                titles += line.startswith("ScoutFS quorum of ")
                if titles == 3:
                    break
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=DEADLINE)
        finally:
            process.kill()
    assert (process.returncode, errors) == (0, "")
