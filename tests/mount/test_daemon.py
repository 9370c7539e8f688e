"""Going into the background, readiness, and the log."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mount.daemon import ExitCode, MountLog, PipeReadiness, format_line, notify_service_manager

PROGRAM = """
import os, signal, sys, time
from mount.daemon import ExitCode, run_in_background

def run(readiness):
    {body}

sys.exit(run_in_background("test", run))
"""


def background(body: str, **how) -> subprocess.CompletedProcess[str]:
    script = PROGRAM.format(body=body.replace("\n", "\n    "))
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=False, **how
    )


def test_the_command_returns_when_the_child_is_ready_and_the_child_goes_on(tmp_path: Path):
    mark = tmp_path / "mark"
    body = f"""readiness.say("half-way")
readiness.ready()
with open({str(mark)!r}, "w") as file:
    file.write(f"{{os.getpid()}} {{os.getsid(0)}} {{os.getcwd()}}")
os.rename({str(mark)!r}, {str(mark)!r} + ".done")
return 0"""
    done = background(body)
    assert (done.returncode, done.stderr) == (0, "test: half-way\n")
    finished = Path(f"{mark}.done")
    deadline = time.monotonic() + 20
    while not finished.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    pid, session, directory = finished.read_text().split()
    assert pid == session
    assert directory == "/"


def test_the_caller_gets_the_end_of_his_pipes_and_locks():
    # capture_output waits for the end of the pipes, which a child that kept them would hold for its whole life
    start = time.monotonic()
    done = background("readiness.ready()\ntime.sleep(20)\nreturn 0")
    assert done.returncode == 0
    assert time.monotonic() - start < 15


@pytest.mark.parametrize("code", [1, 2, 4, 16, 32])
def test_a_failure_is_one_line_and_a_code(code):
    done = background(f"readiness.failed(ExitCode({code}), 'the reason')\nreturn {code}")
    assert (done.returncode, done.stderr) == (code, "test: the reason\n")


def test_an_exception_of_the_child_is_told():
    done = background("raise ZeroDivisionError('oops')")
    assert done.returncode == ExitCode.INTERNAL
    assert "oops" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_child_that_is_killed_is_told():
    done = background("os.kill(os.getpid(), signal.SIGKILL)")
    assert done.returncode == ExitCode.INTERNAL
    assert "signal 9" in done.stderr


def test_a_signal_to_the_command_ends_the_child():
    script = PROGRAM.format(body='readiness.say("waiting")\n    time.sleep(60)')
    process = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr.readline() == "test: waiting\n"
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == ExitCode.INTERRUPTED


def test_a_pipe_that_nobody_reads_is_no_problem():
    reading, writing = os.pipe()
    readiness = PipeReadiness(writing)
    os.close(reading)
    readiness.say("to nobody")
    readiness.ready()
    readiness.ready()
    readiness.failed(ExitCode.FAILURE, "later")


def test_what_goes_through_the_pipe():
    reading, writing = os.pipe()
    readiness = PipeReadiness(writing)
    readiness.say("a line")
    readiness.ready(ExitCode.TABLE, "but")
    with os.fdopen(reading) as lines:
        assert [json.loads(line) for line in lines] == [{"say": "a line"}, {"exit": 16, "text": "but"}]


@pytest.mark.parametrize(
    ("level", "line"),
    [
        (logging.INFO, "scoutfs f.012345.r.bbbb00: text"),
        (logging.WARNING, "scoutfs f.012345.r.bbbb00 warning: text"),
        (logging.ERROR, "scoutfs f.012345.r.bbbb00 error: text"),
        (logging.CRITICAL, "scoutfs f.012345.r.bbbb00 error: text"),
    ],
)
def test_the_form_of_messages(level, line):
    # spec 02 §10.1
    assert format_line("f.012345.r.bbbb00", level, "text") == line


def test_a_message_is_one_line():
    assert format_line("f.0.r.0", logging.INFO, "a\nb") == "scoutfs f.0.r.0: a b"


def test_syslog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    log = MountLog("f.0.r.0", foreground=False, syslog="log")
    log(logging.INFO, "before there is a syslog")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as syslog:
        syslog.bind("log")
        log(logging.WARNING, "first")
        assert syslog.recv(1000) == b"<28>scoutfs[%d]: scoutfs f.0.r.0 warning: first" % os.getpid()
    os.unlink("log")
    log(logging.ERROR, "while it is away")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as syslog:
        syslog.bind("log")
        log(logging.ERROR, "again")
        assert syslog.recv(1000) == b"<27>scoutfs[%d]: scoutfs f.0.r.0 error: again" % os.getpid()
        # nobody takes them: they are dropped, not waited for
        for _ in range(2000):
            log(logging.INFO, "x" * 1000)
    log.close()
    log.close()


def test_the_latest_lines_are_kept(capsys: pytest.CaptureFixture[str]):
    log = MountLog("f.0.r.0", foreground=True)
    for number in range(MountLog.KEPT_LINES + 10):
        log(logging.INFO, f"line {number}")
    kept = log.text().splitlines()
    assert len(kept) == MountLog.KEPT_LINES
    assert kept[-1].endswith(f" scoutfs f.0.r.0: line {MountLog.KEPT_LINES + 9}")
    assert kept[0].endswith("line 10")
    assert capsys.readouterr().err.splitlines()[0] == "scoutfs f.0.r.0: line 0"


def test_the_service_manager_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NOTIFY_SOCKET", "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("notify")
        notify_service_manager("READY=1")
        assert manager.recv(100) == b"READY=1"
    notify_service_manager("STOPPING=1")
    monkeypatch.delenv("NOTIFY_SOCKET")
    notify_service_manager("READY=1")
