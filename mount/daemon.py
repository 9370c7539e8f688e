"""Going into the background only after success, and logging from there.

The command forks first and does everything else in the child: what the child opens, locks and forks is its own.  The
parent waits on a pipe for one of two words, ready or failed, prints the reason for the second, and exits with its code.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from enum import IntEnum
from types import FrameType
from typing import Protocol

Log = Callable[[int, str], None]
"""Takes a level of `logging` and a line without prefix."""


class ExitCode(IntEnum):
    """What mount(8) and its helpers exit with."""

    SUCCESS = 0
    USAGE = 1
    SYSTEM = 2
    INTERNAL = 4
    INTERRUPTED = 8
    TABLE = 16
    FAILURE = 32


class Readiness(Protocol):
    """How a mount process tells whoever started it how far it has come."""

    def say(self, text: str) -> None:
        """Show a line at once."""

    def ready(self, code: ExitCode = ExitCode.SUCCESS, text: str = "") -> None:
        """The filesystem is mounted: the command may return."""

    def failed(self, code: ExitCode, text: str) -> None:
        """It will not be mounted; `text` is the one line that says why."""


class ForegroundReadiness:
    """Tells a service manager, and prints what goes wrong; the process goes on when it is ready."""

    def __init__(self, program: str) -> None:
        self._program = program

    def say(self, text: str) -> None:
        print(f"{self._program}: {text}", file=sys.stderr, flush=True)

    def ready(self, code: ExitCode = ExitCode.SUCCESS, text: str = "") -> None:
        if text:
            self.say(text)
        notify_service_manager("READY=1")

    def failed(self, code: ExitCode, text: str) -> None:
        self.say(text)


class PipeReadiness:
    """Writes lines of JSON to the pipe on which the parent waits; what nobody reads any more is dropped."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def say(self, text: str) -> None:
        self._write({"say": text})

    def ready(self, code: ExitCode = ExitCode.SUCCESS, text: str = "") -> None:
        self._write({"exit": code, "text": text})
        self._close()

    def failed(self, code: ExitCode, text: str) -> None:
        self._write({"exit": code, "text": text})
        self._close()

    def _write(self, message: dict[str, object]) -> None:
        if self._fd < 0:
            return
        data = json.dumps(message).encode() + b"\n"
        with contextlib.suppress(BrokenPipeError):
            while data:
                data = data[os.write(self._fd, data) :]

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def run_in_background(program: str, run: Callable[[Readiness], int]) -> int:
    """Fork; call `run` in the child, in a session of its own; return the exit code that it reports.

    SIGINT or SIGTERM in the meantime ends the child, cleanly, and the code is INTERRUPTED.
    """
    reading, writing = os.pipe()
    # until the child says otherwise it is not to be killed half-way by what is meant for the command
    with _signals_noted() as noted:
        child = os.fork()
        if child == 0:
            os.close(reading)
            _be_the_child(run, writing)
        os.close(writing)
        return _await_child(program, child, reading, noted)


def notify_service_manager(state: str) -> None:
    """Send `state` to the service manager that asked for it (NOTIFY_SOCKET), if any."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        sock.connect("\0" + address[1:] if address.startswith("@") else address)
        sock.send(state.encode())


class MountLog:
    """Lines with the prefix of a mount, to syslog or to stderr, the latest kept for `.scoutfs/log`.

    `name` is `f.FSID.r.RID`.  Calling it never blocks and never fails: what cannot be delivered is dropped.
    """

    KEPT_LINES = 200

    def __init__(self, name: str, *, foreground: bool, syslog: str = "/dev/log") -> None:
        self.name = name
        self._lines: deque[str] = deque(maxlen=self.KEPT_LINES)
        self._deliver: Log = _to_stderr if foreground else _Syslog(syslog)

    def __call__(self, level: int, text: str) -> None:
        line = format_line(self.name, level, text)
        now = time.time()
        stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(now))
        self._lines.append(f"{stamp}.{int(now % 1 * 1000):03d} {line}\n")
        self._deliver(level, line)

    def close(self) -> None:
        """Close the connection to syslog; another line opens it again."""
        if isinstance(self._deliver, _Syslog):
            self._deliver.close()

    def text(self) -> str:
        """Return the lines kept, oldest first, each with its local time."""
        return "".join(tuple(self._lines))


def format_line(name: str, level: int, text: str) -> str:
    """Return `scoutfs NAME: text`, with ` error` or ` warning` before the colon (spec 02 §10.1); one line always."""
    kind = " error" if level >= logging.ERROR else " warning" if level >= logging.WARNING else ""
    return f"scoutfs {name}{kind}: {' '.join(text.splitlines())}"


_PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}


def _to_stderr(level: int, line: str) -> None:
    prefix = f"<{_PRIORITIES.get(level, 6)}>" if _stderr_is_journal() else ""
    with contextlib.suppress(OSError, ValueError):
        print(prefix + line, file=sys.stderr, flush=True)


def _stderr_is_journal() -> bool:
    with contextlib.suppress(OSError, ValueError):
        status = os.fstat(sys.stderr.fileno())
        return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"
    return False


class _Syslog:
    """Syslog that is never waited for: it may be absent, come later, be restarted, or be stuck."""

    _FACILITY_DAEMON = 3

    def __init__(self, address: str = "/dev/log") -> None:
        self._address = address
        self._socket: socket.socket | None = None

    def __call__(self, level: int, line: str) -> None:
        priority = self._FACILITY_DAEMON << 3 | _PRIORITIES.get(level, 6)
        data = f"<{priority}>scoutfs[{os.getpid()}]: {line}".encode(errors="replace")
        for _ in range(2):
            try:
                self._connected().send(data)
            except BlockingIOError:
                return
            except OSError:
                # a syslog that was restarted listens on a new socket
                self.close()
            else:
                return

    def _connected(self) -> socket.socket:
        if self._socket is None:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._socket.setblocking(False)
            self._socket.connect(self._address)
        return self._socket

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class _Noted:
    """Whether the command was told to stop."""

    stopped = False
    child = 0


@contextlib.contextmanager
def _signals_noted() -> Iterator[_Noted]:
    noted = _Noted()

    def note(number: int, frame: FrameType | None) -> None:
        noted.stopped = True
        if noted.child:
            with contextlib.suppress(ProcessLookupError):
                os.kill(noted.child, signal.SIGTERM)

    old = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield noted
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def _be_the_child(run: Callable[[Readiness], int], writing: int) -> None:
    """Never returns."""
    code = int(ExitCode.INTERNAL)
    readiness = PipeReadiness(writing)
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        os.setsid()
        _let_go(writing)
        code = run(readiness)
    except BaseException as error:  # noqa: BLE001 (the outermost frame: whatever it is, somebody must be told)
        where = traceback.extract_tb(error.__traceback__)[-1]
        readiness.failed(ExitCode.INTERNAL, f"internal error: {error!r} at {where.filename}:{where.lineno}")
    finally:
        os._exit(code)


def _let_go(kept: int) -> None:
    """Close what was inherited, which may keep a terminal, a pipe or a lock of the caller in use; except `kept`."""
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR)
    for fd in range(3):
        os.dup2(null, fd)
    os.closerange(3, kept)
    os.closerange(kept + 1, os.sysconf("SC_OPEN_MAX"))


def _await_child(program: str, child: int, reading: int, noted: _Noted) -> int:
    noted.child = child
    if noted.stopped:
        os.kill(child, signal.SIGTERM)
    with os.fdopen(reading, "rb") as lines:
        for line in lines:
            message = json.loads(line)
            if "say" in message:
                print(f"{program}: {message['say']}", file=sys.stderr, flush=True)
                continue
            if message["text"]:
                print(f"{program}: {message['text']}", file=sys.stderr)
            code = int(message["exit"])
            return int(ExitCode.INTERRUPTED) if noted.stopped and code else code
    noted.child = 0
    _, status = os.waitpid(child, 0)
    if noted.stopped:
        return int(ExitCode.INTERRUPTED)
    end = os.waitstatus_to_exitcode(status)
    how = f"was killed by signal {-end}" if end < 0 else f"exited with status {end}"
    print(f"{program}: the mount process {how} before it had mounted anything", file=sys.stderr)
    return int(ExitCode.INTERNAL)
