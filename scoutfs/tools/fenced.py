"""`scoutfs-fenced`: answers fence requests of this host's mounts with a command of the administrator (spec 02 §6.5).

The contract with configuration file and command is the original's; only the directory that is watched differs:
`/run/scoutfs/*/fence/*`, where mounts in user space show their requests.
"""

from __future__ import annotations

import argparse
import contextlib
import ipaddress
import math
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NoReturn, TypeVar

from scoutfs.errors import ScoutfsError
from scoutfs.paths import run_directory
from scoutfs.tools.arguments import CommandParser

CONFIG_FILE = "/etc/scoutfs/scoutfs-fenced.conf"
DELAY = 2.0
"""Seconds between two looks for requests unless the configuration says otherwise."""

ANSWER_TIME = 5.0
"""Seconds in which a mount must answer when its files are read or written; one that does not holds up no other."""

_PREFIX = "SCOUTFS_FENCED_"
_CONFIG_TIME = 30.0
_RID = re.compile(r"[0-9a-f]{16}")
_Result = TypeVar("_Result")

_EPILOG = f"""\
Configured by {CONFIG_FILE}, or the file that {_PREFIX}CONFIG_FILE names; see
scoutfs-fenced(8).

exit status: 0 when ended by a signal, 1 if the configuration is missing or wrong or a mount was not fenced,
64 for a wrong command line

examples:
  scoutfs-fenced --check
  scoutfs-fenced --test 0123456789abcdef 192.168.1.2
  systemctl enable --now scoutfs-fenced
"""
_SOURCE = r"""
source "$1" >&2
{
    printf '\0'
    for name in "${!SCOUTFS_FENCED_@}"; do printf '%s=%s\0' "$name" "${!name}"; done
    printf '\0'
    /usr/bin/env -0
} >&"$2"
"""
_RUN = 'exec "$1" $2'


@dataclass(frozen=True, slots=True)
class Config:
    """What the configuration file says.

    `variables` are all with the daemon's prefix, `environment` is what the file exports: the command inherits it.
    """

    delay: float
    command: str
    arguments: str
    variables: Mapping[str, str]
    environment: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Request:
    """A request that nobody has answered yet; `server` is the name of the mount that asks."""

    directory: Path
    server: str
    rid: str
    address: str
    reason: str


def main(argv: Sequence[str] | None = None) -> int:
    """Run the daemon; returns the exit status: 1 if the configuration is missing or wrong."""
    arguments = _parser().parse_args(sys.argv[1:] if argv is None else argv)
    path = os.environ.get(_PREFIX + "CONFIG_FILE") or CONFIG_FILE
    try:
        _log(f"reading config file {path}")
        config = load_config(path)
    except ScoutfsError as error:
        _log_error(str(error))
        return 1
    for name, value in config.variables.items():
        _log(f"    config var {name}={value}")
    if arguments.check:
        return 0
    if arguments.test:
        rid, address = arguments.test
        return _test(config, rid, address)
    signal.signal(signal.SIGHUP, lambda *_: _log("SIGHUP: restart the daemon to read its configuration again"))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _exit_quietly)
    daemon = Daemon(config, run_directory())
    if arguments.once:
        return 0 if daemon.service_all() else 1
    notify_ready()
    while True:
        time.sleep(config.delay)
        daemon.service_all()


def load_config(path: str) -> Config:
    """Source the file with bash; raises ScoutfsError with the reason if it cannot be used."""
    if not os.path.isfile(path) or not os.access(path, os.R_OK):
        raise ScoutfsError(f"config file {path} is not a readable file, see scoutfs-fenced(8)")
    variables, environment = _source(path)
    given = variables.get(_PREFIX + "DELAY") or f"{DELAY:g}"
    try:
        delay = float(given)
    except ValueError:
        delay = math.nan
    if not 0 < delay <= 3600:
        raise ScoutfsError(f"{path}: SCOUTFS_FENCED_DELAY={given} is not a number of seconds from 0 to 3600")
    command = variables.get(_PREFIX + "RUN", "")
    if not command:
        raise ScoutfsError(f"{path}: SCOUTFS_FENCED_RUN is not set: it must be the path of the fence command")
    if not os.path.isfile(command) or not os.access(command, os.X_OK):
        raise ScoutfsError(f"{path}: SCOUTFS_FENCED_RUN={command} is not an executable file")
    shown = {_PREFIX + "CONFIG_FILE": path, _PREFIX + "DELAY": given, _PREFIX + "RUN_ARGS": "", **variables}
    return Config(delay, command, shown[_PREFIX + "RUN_ARGS"], dict(sorted(shown.items())), environment)


class Daemon:
    """Answers the requests below `directory`, one after the other."""

    def __init__(self, config: Config, directory: Path) -> None:
        self._config, self._directory = config, directory
        self._silent: dict[str, threading.Thread] = {}

    def service_all(self) -> bool:
        """Look once for requests and answer each of them; returns whether all were fenced."""
        fenced = True
        for name in self._mounts():
            for directory in self._ask(name, partial(self._directories, name)) or ():
                # read only now: what was asked before has taken its time
                request = self._ask(name, partial(read_request, directory, name))
                if request is not None:
                    fenced = self.service(request) and fenced
        return fenced

    def service(self, request: Request) -> bool:
        """Run the command for a request and write the answer; returns whether the mount is fenced."""
        _log(f"server {request.server} fencing rid {request.rid} at IP {request.address} for {request.reason}")
        started = time.monotonic()
        status = run_command(self._config, request.rid, request.address)
        took = f"after {time.monotonic() - started:.1f} s"
        if status == 0:
            _log(f"fenced rid {request.rid}: {self._config.command} succeeded {took}")
        else:
            _log_error(f"failed to fence rid {request.rid}: {self._config.command} {_ending(status)} {took}")
        answer = request.directory / ("fenced" if status == 0 else "error")
        self._ask(request.server, partial(_answer, answer))
        return status == 0

    def _mounts(self) -> list[str]:
        try:
            return sorted(os.listdir(self._directory))
        except OSError:
            return []  # no mount has ever been there

    def _directories(self, name: str) -> list[Path]:
        try:
            return sorted((self._directory / name / "fence").iterdir())
        except OSError:
            return []  # not a member, gone, or a link that the end of a mount left behind

    def _ask(self, name: str, question: Callable[[], _Result]) -> _Result | None:
        """Ask a mount, not waiting for long: one that is stopped would hold up the requests of all others."""
        asked = self._silent.get(name)
        if asked is not None and asked.is_alive():
            return None
        answers: list[_Result] = []
        thread = threading.Thread(target=lambda: answers.append(question()), daemon=True)
        thread.start()
        thread.join(ANSWER_TIME)
        if thread.is_alive():
            self._silent[name] = thread
            _log_error(f"mount {name} does not answer: its requests have to wait")
            return None
        if asked is not None:
            del self._silent[name]
            _log(f"mount {name} answers again")
        return answers[0] if answers else None


def read_request(directory: Path, server: str) -> Request | None:
    """Return the request in `directory`, None if it has vanished or was answered, or if it makes no sense."""
    texts = {name: _read(directory / name) for name in ("fenced", "error", "rid", "ipv4_addr", "reason")}
    if texts["fenced"] != "0" or texts["error"] != "0":
        return None
    request = Request(directory, server, texts["rid"], texts["ipv4_addr"], texts["reason"])
    return request if _makes_sense(request) else None


def run_command(config: Config, rid: str, address: str) -> int:
    """Run the fence command and wait for it; returns its exit status, negative for a signal."""
    environment = {**config.environment, _PREFIX + "REQ_RID": rid, _PREFIX + "REQ_IP": address}
    command = ["bash", "-c", _RUN, "scoutfs-fenced", config.command, config.arguments]
    try:
        return subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, check=False).returncode
    except OSError as error:
        _log_error(f"cannot run bash: {error.strerror}")
        return 127


def notify_ready() -> None:
    """Tell a service manager that waits for it that the daemon is ready (sd_notify(3))."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        sock.sendto(b"READY=1", address)


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="scoutfs-fenced",
        description="Runs a command for each mount that a ScoutFS server of this host wants fenced.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--check", action="store_true", help="read the configuration, say what is wrong, and exit")
    group.add_argument(
        "--once", action="store_true", help="look for requests once and answer them; status 1 if one was not fenced"
    )
    group.add_argument(
        "--test",
        nargs=2,
        metavar=("RID", "ADDRESS"),
        help="run the fence command as for a request, say PASS or FAIL, and exit: this really fences",
    )
    return parser


def _test(config: Config, rid: str, address: str) -> int:
    if not _makes_sense(Request(Path(), "", rid, address, "test")):
        _log_error(f"'{rid}' must be 16 hexadecimal digits, '{address}' an IPv4 address")
        return 1
    status = run_command(config, rid, address)
    _log(f"{'PASS' if status == 0 else 'FAIL'}: {config.command} {_ending(status)}")
    return 0 if status == 0 else 1


def _source(path: str) -> tuple[dict[str, str], dict[str, str]]:
    """Return the variables with our prefix, and the exported ones, after sourcing the file."""
    try:
        checked = subprocess.run(
            ["bash", "-n", path], capture_output=True, text=True, timeout=_CONFIG_TIME, check=False
        )
        if checked.returncode:
            raise ScoutfsError(f"{path} is not valid bash: {' '.join(checked.stderr.split())}")
        # a file, since a pipe would stay open in whatever the configuration leaves running
        with tempfile.TemporaryFile() as output:
            command = ["bash", "-c", _SOURCE, "scoutfs-fenced", os.path.abspath(path), str(output.fileno())]
            subprocess.run(
                command, stdin=subprocess.DEVNULL, pass_fds=[output.fileno()], timeout=_CONFIG_TIME, check=False
            )
            output.seek(0)
            variables, end, exported = output.read().decode(errors="replace").partition("\0\0")
    except subprocess.TimeoutExpired as error:
        raise ScoutfsError(f"{path}: reading it took longer than {_CONFIG_TIME:.0f} s") from error
    except OSError as error:
        raise ScoutfsError(f"cannot run bash to read {path}: {error.strerror}") from error
    if not end:
        raise ScoutfsError(f"{path}: it ended the shell that read it")
    return _assignments(variables), _assignments(exported)


def _assignments(text: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in text.split("\0") if "=" in line)


def _read(path: Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_text(errors="replace").strip()
    return ""


def _answer(path: Path) -> None:
    # the request may be gone: reclaimed, or its server has stopped
    with contextlib.suppress(OSError):
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, b"1\n")
        finally:
            os.close(fd)


def _makes_sense(request: Request) -> bool:
    with contextlib.suppress(ValueError):
        ipaddress.IPv4Address(request.address)
        return _RID.fullmatch(request.rid) is not None
    return False


def _ending(status: int) -> str:
    return f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"


def _exit_quietly(number: int, frame: object) -> NoReturn:
    raise SystemExit(0)


def _log(text: str) -> None:
    print(f"[{_now()}] {text}", flush=True)


def _log_error(text: str) -> None:
    print(f"[{_now()}] {text}", file=sys.stderr, flush=True)


def _now() -> str:
    seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
    return f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(seconds))}.{nanoseconds:09d}"


if __name__ == "__main__":
    sys.exit(main())
