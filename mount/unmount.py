"""`umount.scoutfs`: the helper that umount(8) runs for fuse.scoutfs, and a command of its own.

The kernel detaches a FUSE filesystem at once; this returns when the mount has really left: farewell said, server
stopped, devices closed, processes gone (spec 02 §1.3).
"""

from __future__ import annotations

import contextlib
import errno
import getopt
import json
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from mount import kernel, utab
from mount.daemon import ExitCode
from mount.options import MountFlag
from scoutfs.errors import ScoutfsError

if TYPE_CHECKING:
    from scoutfs.quorum.registration import MountRecord

PROGRAM = "umount.scoutfs"

USAGE = """\
usage: umount.scoutfs [-flnrv] DIRECTORY

Unmounts a ScoutFS volume, and returns when the mount has left its cluster.  A member that may not leave yet, because
others still need it, says so and waits; an interrupted command leaves that to the mount process, and the same command
again waits for it or, with -f, ends it.

  -f, --force      end the mount at once; nothing further is written, and the cluster has to fence it
  -l, --lazy       detach the directory at once; the mount leaves when nobody uses it any more
  -r, --read-only  if the directory is in use, make it read-only
  -n, --no-mtab    accepted
  -v, --verbose    say what is done
  -h, --help       show this
  -V, --version    show the version

examples:
  umount.scoutfs /mnt/scoutfs
  umount /mnt/a & umount /mnt/b & umount /mnt/c & wait      # the last members leave together
"""

ANSWER_TIMEOUT = 5.0
"""Seconds in which a mount process must answer."""

BUSY_PATIENCE = 1.0
"""Seconds in which a directory that is in use may become free: the fence daemon looks into it again and again."""

_BUSY_PAUSE = 0.02
_LINE_MAX = 65536

_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class CommandLine:
    """A parsed command line."""

    target: str
    force: bool = False
    lazy: bool = False
    read_only: bool = False
    verbose: bool = False
    namespace: str | None = None


class UsageError(ScoutfsError):
    """A command line that makes no sense."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (`sys.argv` by default); return the exit status of umount(8)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if any(word in ("-h", "--help") for word in arguments):
        print(USAGE, end="")
        return ExitCode.SUCCESS
    if any(word in ("-V", "--version") for word in arguments):
        from scoutfs.cli import version

        print(f"{PROGRAM} from {version()}")
        return ExitCode.SUCCESS
    try:
        line = parse_command_line(arguments)
    except UsageError as error:
        print(f"{PROGRAM}: {error}\n{PROGRAM}: see umount.scoutfs --help", file=sys.stderr)
        return ExitCode.USAGE
    try:
        if line.namespace is not None:
            kernel.enter_mount_namespace(line.namespace)
        _unmount(line)
    except KeyboardInterrupt:
        _say(line.target, "interrupted; if it is detached it goes on leaving in the background")
        return ExitCode.INTERRUPTED
    except ScoutfsError as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return ExitCode.USAGE if error.errno == errno.EPERM else ExitCode.FAILURE
    return ExitCode.SUCCESS


def parse_command_line(arguments: Sequence[str]) -> CommandLine:
    """Parse the words of a command line, options before or behind the directory; raises UsageError."""
    try:
        pairs, words = getopt.gnu_getopt(
            list(arguments), "flnrvt:N:", ["force", "lazy", "no-mtab", "read-only", "verbose"]
        )
    except getopt.GetoptError as error:
        raise UsageError(error.msg) from error
    flags = {name.lstrip("-")[0] for name, _ in pairs}
    if len(words) != 1:
        raise UsageError(f"one directory is needed, {len(words)} were given")
    namespace = next((value for name, value in pairs if name == "-N"), None)
    return CommandLine(words[0], "f" in flags, "l" in flags, "r" in flags, "v" in flags, namespace)


def _unmount(line: CommandLine) -> None:
    mounted = _find(line.target)
    if mounted is None:
        _resume(line)
        return
    target = mounted.target
    if line.force:
        _force(target, line)
    elif line.lazy:
        kernel.detach(target, lazy=True)
    else:
        _leave(target, line)
    if os.geteuid() == 0 and kernel.mounted_at(target) is None:
        with contextlib.suppress(OSError):
            utab.remove(target)


def _find(target: str) -> kernel.MountEntry | None:
    """Return the mount of ours at a directory, or of a device; None if there is none."""
    table = kernel.mount_table()
    absolute = os.path.abspath(target)
    # the path itself first: what lies behind it may be a mount whose process is dead or stuck
    parent = os.path.join(os.path.realpath(os.path.dirname(absolute)), os.path.basename(absolute))
    for path in (absolute, parent):
        mounted = kernel.mounted_at(path, table)
        if mounted is not None and mounted.type == kernel.FILESYSTEM_TYPE:
            return mounted
    real = os.path.realpath(absolute)
    for entry in reversed(table):
        if entry.type == kernel.FILESYSTEM_TYPE and real in (entry.target, entry.source):
            return entry
    return None


# -- a clean unmount ---------------------------------------------------------------------------------------------------


def _leave(target: str, line: CommandLine) -> None:
    process = _MountProcess.at(target)
    with process:
        try:
            detach_patiently(target)
        except kernel.AttachError as error:
            if line.read_only and error.errno == errno.EBUSY:
                kernel.remount(target, MountFlag.RDONLY)
                _say(target, "is in use, so it is read-only now")
                return
            raise
        if line.verbose:
            _say(target, "detached")
        process.follow(lambda text: _say(target, f"waits: {text}"))
        process.await_end(None)


def detach_patiently(target: str) -> None:
    """Detach the directory, unless it stays in use; raises AttachError."""
    deadline = time.monotonic() + BUSY_PATIENCE
    while True:
        try:
            kernel.detach(target)
            return
        except kernel.AttachError as error:
            if error.errno != errno.EBUSY or time.monotonic() >= deadline:
                raise
        time.sleep(_BUSY_PAUSE)


def _resume(line: CommandLine) -> None:
    """Follow, or end, a mount that was detached before and has not left yet.  Raises ScoutfsError if there is none."""
    target = os.path.realpath(line.target)
    leaving = _registered(target)
    if line.lazy or not leaving:
        raise ScoutfsError(f"{line.target}: no ScoutFS volume is mounted here")
    for record in leaving:
        with _MountProcess.of(record) as process:
            if line.force:
                process.kill()
                process.await_end(ANSWER_TIMEOUT)
            else:
                process.follow(lambda text: _say(target, f"waits: {text}"))
                process.await_end(None)


# -- a forced unmount --------------------------------------------------------------------------------------------------


def _force(target: str, line: CommandLine) -> None:
    """End the mount process, with its help or without, and detach the directory whoever uses it."""
    try:
        process = _MountProcess.at(target)
    except ScoutfsError:
        process = _MountProcess(None, _registered_pids(target))
    with process:
        if not (process.abandon() and process.await_end(ANSWER_TIMEOUT)):
            process.kill()
            process.await_end(ANSWER_TIMEOUT)
    if line.verbose:
        _say(target, "its processes are gone")
    mounted = kernel.mounted_at(target)
    if mounted is not None and mounted.type == kernel.FILESYSTEM_TYPE:
        kernel.detach(target, lazy=True, force=True)


def _registered(target: str) -> list[MountRecord]:
    """Return the records of the living mounts at `target`, in this mount namespace."""
    from mount.preparation import live_mounts
    from scoutfs.paths import mounts_directory
    from scoutfs.quorum.registration import Host

    records = live_mounts(mounts_directory(), Host.current().boot_id)
    return [
        record for record in records if record.mount_point == target and any(map(_sees_our_mounts, _pids_of(record)))
    ]


def _pids_of(record: MountRecord) -> list[int]:
    from scoutfs.quorum.registration import Process

    return [process.pid for process in record.processes if Process.of(process.pid) == process]


def _registered_pids(target: str) -> list[int]:
    """Return the processes that are registered for the mount at `target`."""
    return [pid for record in _registered(target) for pid in _pids_of(record)]


def _sees_our_mounts(pid: int) -> bool:
    """Whether a process is in our mount namespace: elsewhere the same path is another place."""
    with contextlib.suppress(OSError):
        return os.path.samestat(os.stat(f"/proc/{pid}/ns/mnt"), os.stat("/proc/self/ns/mnt"))
    return False


class _MountProcess:
    """The processes of a mount, pinned, so that no other process is ever taken for them."""

    def __init__(self, sock: socket.socket | None, pids: Sequence[int]) -> None:
        self._socket = sock
        self._handles: list[int] = []
        for pid in pids:
            with contextlib.suppress(OSError):
                self._handles.append(os.pidfd_open(pid))

    @classmethod
    def at(cls, target: str) -> _MountProcess:
        """Find the processes of the mount at `target`; there are none behind a dead mount.

        Raises ScoutfsError if the mount does not answer.
        """
        control = os.path.join(target, ".scoutfs")
        try:
            pids = _within_time(lambda: _pids(Path(control, "pids").read_text()), target)
            path = _within_time(lambda: Path(control, "control").read_text().removesuffix("\n"), target)
        except OSError as error:
            if error.errno in (errno.ENOTCONN, errno.ECONNABORTED):
                return cls(None, _registered_pids(target))
            raise ScoutfsError(f"{control}: {error.strerror}", error.errno or errno.EIO) from error
        return cls._connected(Path(path), pids) if path else cls(None, pids)

    @classmethod
    def of(cls, record: MountRecord) -> _MountProcess:
        """Find the processes of a mount through its record: its directory shows them no more."""
        from mount import rundir
        from scoutfs.paths import mount_name, run_directory

        link = run_directory() / mount_name(record.fsid, record.rid)
        return cls._connected(rundir.socket_path(link), _pids_of(record))

    @classmethod
    def _connected(cls, path: Path, pids: Sequence[int]) -> _MountProcess:
        from mount.sockets import connected_socket

        try:
            return cls(connected_socket(path, ANSWER_TIMEOUT), pids)
        except OSError:
            # it can be waited for all the same
            return cls(None, pids)

    def __enter__(self) -> _MountProcess:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._socket is not None:
            self._socket.close()
        for handle in self._handles:
            os.close(handle)

    def follow(self, say: Callable[[str], None]) -> None:
        """Pass on what the mount process tells while it leaves, until it is gone."""
        if self._socket is None:
            return
        self._socket.settimeout(None)
        received = b""
        with contextlib.suppress(OSError):
            while len(received) < _LINE_MAX and (data := self._socket.recv(_LINE_MAX)):
                *lines, received = (received + data).split(b"\n")
                for line in lines:
                    text = _said(line)
                    if text:
                        say(text)

    def abandon(self) -> bool:
        """Ask the mount process to abandon the mount; return whether it could be asked."""
        if self._socket is None:
            return False
        try:
            self._socket.sendall(json.dumps({"do": "abandon"}).encode() + b"\n")
        except OSError:
            return False
        return True

    def kill(self) -> None:
        """SIGKILL."""
        for handle in self._handles:
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(handle, signal.SIGKILL)

    def await_end(self, timeout: float | None) -> bool:
        """Wait until all processes are gone; return False if that takes longer than `timeout` seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        for handle in self._handles:
            poll = select.poll()
            poll.register(handle, select.POLLIN)
            left = None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000
            if not poll.poll(left):
                return False
        return True


def _within_time(ask: Callable[[], _Result], target: str) -> _Result:
    """Return what `ask` returns; raises ScoutfsError if it takes too long: a process that is stopped never answers."""
    results: list[_Result] = []
    errors: list[OSError] = []

    def run() -> None:
        try:
            results.append(ask())
        except OSError as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(ANSWER_TIMEOUT)
    if errors:
        raise errors[0]
    if not results:
        text = f"{target}: its process does not answer; umount -f ends it, and nothing further is written then"
        raise ScoutfsError(text, errno.ETIMEDOUT)
    return results[0]


def _pids(text: str) -> list[int]:
    """Return the numbers of the file `pids`: lines of a role and a number."""
    words = (line.split() for line in text.splitlines())
    return [int(fields[1]) for fields in words if len(fields) == 2 and fields[1].isdigit()]


def _said(line: bytes) -> str:
    with contextlib.suppress(ValueError, RecursionError):
        message = json.loads(line)
        if isinstance(message, dict) and isinstance(message.get("say"), str):
            return " ".join(message["say"].splitlines())
    return ""


def _say(target: str, text: str) -> None:
    print(f"{PROGRAM}: {target}: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
