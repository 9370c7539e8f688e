"""The fence daemon: its configuration is bash, its command is anything, its requests are directories (spec 02 §6.5)."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from scoutfs.errors import ScoutfsError
from scoutfs.tools import fenced
from scoutfs.tools.fenced import Daemon, load_config, main, read_request

RECORDED = Path(__file__).parents[1] / "data/kernel/wire/cluster3/fenced.log"
RID = "c9e76d255f984b63"


class Host:
    """A directory of mounts, a configuration and a fence command that writes down how it was run."""

    def __init__(self, directory: Path) -> None:
        self.run = directory / "run"
        self.run.mkdir()
        self.config = directory / "scoutfs-fenced.conf"
        self.command = directory / "fence me"  # with a space, as a path may have
        self.ran = directory / "ran"
        self.script("exit 0")

    def script(self, body: str) -> None:
        note = """printf '%s %s %s\\n' "$SCOUTFS_FENCED_REQ_RID" "$SCOUTFS_FENCED_REQ_IP" "$*" """
        self.command.write_text(f"#!/bin/bash\n{note} >> '{self.ran}'\n{body}\n")
        self.command.chmod(0o755)
        self.config.write_text(f"SCOUTFS_FENCED_DELAY=0.05\nSCOUTFS_FENCED_RUN='{self.command}'\n")

    def request(self, mount: str = "f.e55dd1.r.24fa06", rid: str = RID, **files: str) -> Path:
        directory = self.run / mount / "fence" / rid
        directory.mkdir(parents=True)
        texts = {"fenced": "0", "error": "0", "rid": rid, "ipv4_addr": "127.0.0.1", "reason": "quorum_block_leader"}
        for name, text in {**texts, **files}.items():
            (directory / name).write_text(text)
        return directory

    def once(self) -> bool:
        return Daemon(load_config(str(self.config)), self.run).service_all()

    def calls(self) -> list[str]:
        return self.ran.read_text().splitlines() if self.ran.exists() else []


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def flags(directory: Path) -> str:
    return "".join((directory / name).read_text()[:1] for name in ("fenced", "error"))


# requests


def test_a_command_that_succeeds_fences(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    directory = host.request()
    assert host.once()
    assert flags(directory) == "10"
    assert (directory / "fenced").read_text() == "1\n"
    assert host.calls() == [f"{RID} 127.0.0.1 "]
    # the line of the original, but for its time
    (line,) = [line for line in RECORDED.read_text().splitlines() if "fencing rid" in line]
    output = capsys.readouterr().out.splitlines()
    assert output[0].partition("] ")[2] == line.partition("] ")[2]
    assert re.fullmatch(r"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{9}\]", output[0].partition("] ")[0] + "]")


@pytest.mark.parametrize(("body", "how"), [("exit 7", "ended with status 7"), ("kill -9 $$", "was killed by signal 9")])
def test_a_command_that_fails_is_an_error(host: Host, capsys: pytest.CaptureFixture[str], body: str, how: str) -> None:
    host.script(body)
    directory = host.request()
    assert not host.once()
    assert flags(directory) == "01"
    assert how in capsys.readouterr().err


def test_a_command_that_cannot_be_executed_is_an_error(host: Host) -> None:
    config = load_config(str(host.config))
    host.command.unlink()
    directory = host.request()
    assert not Daemon(config, host.run).service_all()
    assert flags(directory) == "01"


@pytest.mark.parametrize("answered", [{"fenced": "1"}, {"error": "1"}, {"fenced": "1", "error": "1"}])
def test_a_request_that_was_answered_is_left_alone(host: Host, answered: dict[str, str]) -> None:
    host.request(**answered)
    assert host.once()
    assert host.calls() == []


@pytest.mark.parametrize(
    "nonsense",
    [{"rid": ""}, {"rid": "../../etc"}, {"rid": RID.upper()}, {"ipv4_addr": ""}, {"ipv4_addr": "host"}, {"fenced": ""}],
)
def test_a_request_that_makes_no_sense_runs_nothing(host: Host, nonsense: dict[str, str]) -> None:
    directory = host.request()
    for name, text in nonsense.items():
        (directory / name).write_text(text)
    assert host.once()
    assert host.calls() == []


def test_a_request_whose_files_vanish_runs_nothing(host: Host) -> None:
    directory = host.request()
    (directory / "rid").unlink()
    assert read_request(directory, "mount") is None
    (directory / "fenced").unlink()
    assert read_request(directory, "mount") is None
    assert read_request(directory / "gone", "mount") is None


def test_a_request_that_vanishes_while_the_command_runs_is_only_noise(host: Host) -> None:
    directory = host.request()
    host.script(f"rm -r '{directory}'; exit 0")
    assert host.once()
    assert not directory.exists()


def test_requests_are_answered_one_after_the_other_in_order(host: Host) -> None:
    host.script("sleep 0.05; [[ $SCOUTFS_FENCED_REQ_RID != 2* ]]")
    directories = [
        host.request("f.000001.r.000002", "2" * 16),
        host.request("f.000001.r.000002", "1" * 16),
        host.request("f.000001.r.000001", "3" * 16),
    ]
    assert not host.once()
    assert [call.split()[0][0] for call in host.calls()] == ["3", "1", "2"]
    assert [flags(directory) for directory in directories] == ["01", "10", "10"]


def test_links_of_dead_mounts_and_mounts_without_requests_are_passed_over(host: Host) -> None:
    (host.run / "f.000000.r.000001").symlink_to(host.run / "nowhere")
    (host.run / "f.000000.r.000002").mkdir()
    (host.run / "f.000000.r.000003").write_text("")
    (host.run / "f.000000.r.000004" / "fence").mkdir(parents=True)
    target = host.request("elsewhere").parents[1]
    (host.run / "f.000000.r.000005").symlink_to(target)
    assert host.once()
    # once by its name and once by the link, which was answered by then
    assert len(host.calls()) == 1


def test_no_directory_of_mounts_at_all_is_no_error(host: Host) -> None:
    host.run.rmdir()
    assert host.once()


def test_a_mount_that_does_not_answer_holds_up_no_other(
    host: Host, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fenced, "ANSWER_TIME", 0.2)
    stuck, other = host.request("f.000000.r.000001"), host.request("f.000000.r.000002")
    # reading a pipe that nobody writes to blocks, as a stopped mount does
    (stuck / "rid").unlink()
    os.mkfifo(stuck / "rid")
    daemon = Daemon(load_config(str(host.config)), host.run)
    daemon.service_all()
    daemon.service_all()
    assert flags(other) == "10"
    assert capsys.readouterr().err.count("mount f.000000.r.000001 does not answer") == 1
    (stuck / "rid").write_text(RID)  # the reader gets its text, and the pipe is empty again
    (stuck / "rid").unlink()
    (stuck / "rid").write_text(RID)
    deadline = time.monotonic() + 10
    while flags(stuck) != "10":
        assert time.monotonic() < deadline
        daemon.service_all()
        time.sleep(0.01)


# the configuration


def config_of(host: Host, text: str) -> fenced.Config:
    host.config.write_text(text)
    return load_config(str(host.config))


def test_the_configuration_is_bash(host: Host) -> None:
    config = config_of(
        host,
        f"""
        echo this is not a setting
        [ -e /nowhere ] && SCOUTFS_FENCED_DELAY=99
        directory="{host.command.parent}"
        SCOUTFS_FENCED_RUN="$directory/fence me"
        SCOUTFS_FENCED_DELAY=$(( 1 + 2 ))
        SCOUTFS_FENCED_RUN_ARGS="-a  'b c' $((40 + 2))"
        export BOARD_PASSWORD=$'two\\nlines'
        false
        """,
    )
    assert config.delay == 3.0
    assert config.command == str(host.command)
    assert config.environment["BOARD_PASSWORD"] == "two\nlines"
    assert "directory" not in config.environment
    assert list(config.variables) == [
        "SCOUTFS_FENCED_CONFIG_FILE",
        "SCOUTFS_FENCED_DELAY",
        "SCOUTFS_FENCED_RUN",
        "SCOUTFS_FENCED_RUN_ARGS",
    ]


def test_arguments_are_split_at_spaces_and_nothing_else(host: Host) -> None:
    with host.config.open("a") as file:
        file.write("SCOUTFS_FENCED_RUN_ARGS=\"ignored  run 'args'\"\n")
    host.request()
    host.once()
    assert host.calls() == [f"{RID} 127.0.0.1 ignored run 'args'"]


def test_what_the_configuration_exports_reaches_the_command(host: Host) -> None:
    host.script('[[ $PASSWORD == "x y" && $SCOUTFS_FENCED_OTHER == z ]]')
    with host.config.open("a") as file:
        file.write("export PASSWORD='x y' SCOUTFS_FENCED_OTHER=z\n")
    directory = host.request()
    assert host.once()
    assert flags(directory) == "10"


def test_the_delay_has_a_default(host: Host) -> None:
    assert config_of(host, f"SCOUTFS_FENCED_RUN='{host.command}'").delay == 2.0


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "SCOUTFS_FENCED_RUN is not set"),
        ("SCOUTFS_FENCED_RUN=/nowhere", "SCOUTFS_FENCED_RUN=/nowhere is not an executable file"),
        ("SCOUTFS_FENCED_RUN=/etc/passwd", "is not an executable file"),
        ("SCOUTFS_FENCED_RUN=/usr", "is not an executable file"),
        ("SCOUTFS_FENCED_RUN=/bin/true SCOUTFS_FENCED_DELAY=soon", "SCOUTFS_FENCED_DELAY=soon is not a number"),
        ("SCOUTFS_FENCED_RUN=/bin/true SCOUTFS_FENCED_DELAY=-1", "is not a number of seconds"),
        ("SCOUTFS_FENCED_RUN=/bin/true SCOUTFS_FENCED_DELAY=nan", "is not a number of seconds"),
        ("SCOUTFS_FENCED_RUN=(", "is not valid bash"),
        ("SCOUTFS_FENCED_RUN=/bin/true; exit 0", "it ended the shell that read it"),
    ],
)
def test_a_configuration_that_cannot_work_is_refused(
    host: Host, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], text: str, error: str
) -> None:
    with pytest.raises(ScoutfsError, match=re.escape(error)):
        config_of(host, text)
    monkeypatch.setenv("SCOUTFS_FENCED_CONFIG_FILE", str(host.config))
    assert main([]) == 1
    captured = capsys.readouterr()
    assert error in captured.err.splitlines()[-1]
    assert captured.out.splitlines()[0].endswith(f"] reading config file {host.config}")


def test_a_missing_configuration_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ScoutfsError, match="is not a readable file"):
        load_config(str(tmp_path / "nowhere"))


# the command line


def test_check_says_what_the_configuration_is_as_the_original_does(
    host: Host, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = "/usr/bin/true"
    host.config.write_text(
        f"SCOUTFS_FENCED_RUN={command}\nSCOUTFS_FENCED_DELAY=1\nSCOUTFS_FENCED_RUN_ARGS='ignored run args'\n"
    )
    monkeypatch.setenv("SCOUTFS_FENCED_CONFIG_FILE", str(host.config))
    assert main(["--check"]) == 0
    ours = [line.partition("] ")[2] for line in capsys.readouterr().out.splitlines()]
    recorded = [line.partition("] ")[2] for line in RECORDED.read_text().splitlines()[:5]]
    expected = [
        line.replace("/etc/scoutfs/scoutfs-fenced.conf", str(host.config)).replace(
            "/usr/bin/fenced-local-force-unmount.sh", command
        )
        for line in recorded
    ]
    assert ours == expected


@pytest.mark.parametrize(("body", "word", "status"), [("exit 0", "PASS", 0), ("exit 3", "FAIL", 1)])
def test_the_command_can_be_tried(
    host: Host,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    body: str,
    word: str,
    status: int,
) -> None:
    host.script(body)
    monkeypatch.setenv("SCOUTFS_FENCED_CONFIG_FILE", str(host.config))
    assert main(["--test", RID, "10.0.0.7"]) == status
    assert f"] {word}: " in capsys.readouterr().out
    assert host.calls() == [f"{RID} 10.0.0.7 "]
    assert main(["--test", "5", "10.0.0.7"]) == 1
    assert main(["--test", RID, "ten"]) == 1
    assert len(host.calls()) == 1


def test_help_names_the_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    assert "/etc/scoutfs/scoutfs-fenced.conf" in capsys.readouterr().out


# the process


@contextlib.contextmanager
def daemon(host: Host, **environment: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "scoutfs.tools.fenced"],
        env={
            **os.environ,
            "SCOUTFS_RUN_DIR": str(host.run),
            "SCOUTFS_FENCED_CONFIG_FILE": str(host.config),
            **environment,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=10)


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "the condition was not met in time"
        time.sleep(0.01)


def test_the_daemon_answers_until_it_is_told_to_end(host: Host, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(20)
        with daemon(host, NOTIFY_SOCKET=str(tmp_path / "notify")) as process:
            assert manager.recv(100) == b"READY=1"
            first = host.request(rid="1" * 16)
            until(lambda: flags(first) == "10")
            process.send_signal(signal.SIGHUP)
            second = host.request(rid="2" * 16)
            until(lambda: flags(second) == "10")
            process.send_signal(signal.SIGTERM)
            output, _ = process.communicate(timeout=20)
            assert process.returncode == 0
            assert "SIGHUP: restart the daemon" in output
            assert output.count("fencing rid") == 2


def test_once_answers_and_ends(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCOUTFS_FENCED_CONFIG_FILE", str(host.config))
    monkeypatch.setenv("SCOUTFS_RUN_DIR", str(host.run))
    environment = {**os.environ}
    command = [sys.executable, "-m", "scoutfs.tools.fenced", "--once"]
    host.request(rid="1" * 16)
    assert subprocess.run(command, env=environment, capture_output=True, timeout=30).returncode == 0
    host.script("exit 1")
    host.request(rid="2" * 16)
    assert subprocess.run(command, env=environment, capture_output=True, timeout=30).returncode == 1


def test_a_daemon_that_is_told_to_end_does_not_wait_for_its_command(host: Host) -> None:
    host.script("exec sleep 60")
    host.request()
    with daemon(host) as process:
        until(host.calls)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=20)
        assert process.returncode == 0


def test_nothing_is_left_running(host: Host) -> None:
    before = threading.active_count()
    host.request()
    host.once()
    assert threading.active_count() == before
