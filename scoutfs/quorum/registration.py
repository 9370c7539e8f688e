"""How a host knows its own mounts: a locked file for each, and the proof of death that it gives.

Every mount keeps a file under `paths.mounts_directory()` whose lock all of its processes hold through one inherited
descriptor.  The kernel frees that lock when the last of them is gone, whatever ended it, and not before its last write
has returned.  A server that must fence a mount looks here first: a free lock proves the mount dead, a held lock names
the processes to end.  A mount that this host knows nothing of is never guessed at.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import signal
import stat
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from scoutfs.errors import ScoutfsError
from scoutfs.paths import mounts_directory

STALE_AFTER = 30 * 24 * 3600.0
"""Seconds after which the file of a dead mount is removed: until then a later leader may ask for its fate."""

KILL_DEADLINE = 10.0
"""Seconds that a fencer waits for the lock of processes that it has killed."""

_RECORD_SIZE = 4096
_POLL = 0.02
_UNRECORDED_PATIENCE = 1.0


@dataclass(frozen=True, slots=True)
class Host:
    """What tells one boot of one machine, and one view of its processes, from another."""

    boot_id: str
    machine_id: str
    pid_namespace: int
    network_namespace: int

    @classmethod
    def current(cls) -> Host:
        """Return where this process runs; an unreadable machine id is empty."""
        machine_id = ""
        with contextlib.suppress(OSError):
            machine_id = Path("/etc/machine-id").read_text().strip()
        return cls(
            Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
            machine_id,
            os.stat("/proc/self/ns/pid").st_ino,
            os.stat("/proc/self/ns/net").st_ino,
        )


@dataclass(frozen=True, slots=True)
class Process:
    """A process; its start time (clock ticks since boot) tells it from a later one with the same pid."""

    pid: int
    start: int

    @classmethod
    def of(cls, pid: int) -> Process | None:
        """Return the running process `pid`, None if there is none."""
        try:
            text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
        except OSError:
            return None
        # the second field is the command in parentheses and may hold anything: count from its end
        return cls(pid, int(text.rpartition(")")[2].split()[19]))


@dataclass(frozen=True, slots=True)
class MountRecord:
    """What a mount says of itself; `slot` is -1 for a mount that is no member."""

    fsid: int
    rid: int
    host: Host
    processes: tuple[Process, ...]
    slot: int
    mount_point: str
    devices: tuple[str, ...]

    def build(self) -> bytes:
        """Encode as JSON, padded with spaces to 4096 bytes so that one write replaces it."""
        fields = {
            "fsid": f"{self.fsid:016x}",
            "rid": f"{self.rid:016x}",
            "boot_id": self.host.boot_id,
            "machine_id": self.host.machine_id,
            "pid_namespace": self.host.pid_namespace,
            "network_namespace": self.host.network_namespace,
            "processes": [{"pid": process.pid, "start": process.start} for process in self.processes],
            "slot": self.slot,
            "mount_point": self.mount_point,
            "devices": list(self.devices),
        }
        data = json.dumps(fields).encode()
        if len(data) >= _RECORD_SIZE:
            # the paths only inform: the rest must fit whatever they are
            fields.update(mount_point="", devices=[])
            data = json.dumps(fields).encode()
        return data.ljust(_RECORD_SIZE - 1) + b"\n"

    @classmethod
    def parse(cls, data: bytes) -> MountRecord:
        """Decode; raises ValueError for what `build` cannot have made."""
        try:
            fields = json.loads(data)
            host = Host(
                _text(fields["boot_id"]),
                _text(fields["machine_id"]),
                _number(fields["pid_namespace"]),
                _number(fields["network_namespace"]),
            )
            return cls(
                int(fields["fsid"], 16),
                int(fields["rid"], 16),
                host,
                tuple(Process(_number(entry["pid"]), _number(entry["start"])) for entry in fields["processes"]),
                _number(fields["slot"]),
                _text(fields["mount_point"]),
                tuple(_text(device) for device in fields["devices"]),
            )
        except (KeyError, TypeError, RecursionError) as error:
            raise ValueError(f"bad mount record: {error!r}") from error


class Registration:
    """The file of this mount and its lock.  Children that inherit the descriptor share the lock."""

    def __init__(self, path: Path, fd: int, record: MountRecord) -> None:
        self.path = path
        self.record = record
        self._fd = fd

    @classmethod
    def create(
        cls,
        *,
        fsid: int,
        rid: int,
        slot: int = -1,
        mount_point: str = "",
        devices: Iterable[str] = (),
        directory: Path | None = None,
        host: Host | None = None,
    ) -> Registration:
        """Register the calling process as the mount `rid`; raises ScoutfsError if the file cannot be made.

        The file appears complete and locked, or not at all.  Files of mounts long dead are removed.
        """
        directory = directory or mounts_directory()
        process = Process.of(os.getpid())
        processes = (process,) if process else ()
        record = MountRecord(fsid, rid, host or Host.current(), processes, slot, mount_point, tuple(devices))
        path = directory / _file_name(fsid, rid)
        unfinished = directory / f".{path.name}.new"
        try:
            directory.mkdir(mode=0o755, parents=True, exist_ok=True)
            with contextlib.suppress(OSError):
                remove_stale(directory)
            # not readable by others: whoever can open a file can lock it, and would keep a dead mount alive
            fd = os.open(unfinished, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.pwrite(fd, record.build(), 0)
                os.fsync(fd)
                os.rename(unfinished, path)
                _sync_directory(directory)
            except OSError:
                os.close(fd)
                with contextlib.suppress(OSError):
                    os.unlink(unfinished)
                raise
        except OSError as error:
            text = f"cannot register the mount in {directory}: {error.strerror}"
            raise ScoutfsError(text, error.errno or errno.EIO) from error
        return cls(path, fd, record)

    def fileno(self) -> int:
        """Return the descriptor that carries the lock."""
        return self._fd

    def add_process(self, pid: int) -> None:
        """Record another process of this mount, which has inherited the descriptor.  Raises OSError."""
        process = Process.of(pid)
        if process is None or process in self.record.processes:
            return
        old = self.record
        processes = (*old.processes, process)
        self.record = MountRecord(old.fsid, old.rid, old.host, processes, old.slot, old.mount_point, old.devices)
        os.pwrite(self._fd, self.record.build(), 0)

    def release(self, *, clean: bool) -> None:
        """Close the descriptor; after a clean leave nobody will ask for the mount, so the file goes too.

        Otherwise the file stays: its free lock is what tells the next leader that this mount is dead.
        """
        if self._fd < 0:
            return
        if clean:
            with contextlib.suppress(OSError):
                os.unlink(self.path)
        os.close(self._fd)
        self._fd = -1


class FenceOutcome(Enum):
    """What a local fencer found out."""

    DEAD = "dead"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome, and in words what proves it or why it stays unknown."""

    outcome: FenceOutcome
    text: str

    @property
    def dead(self) -> bool:
        """True only if the mount can certainly not write any more."""
        return self.outcome is FenceOutcome.DEAD


class LocalFencer:
    """Fences mounts of this host through their registrations, never the mount `own_rid`."""

    def __init__(
        self,
        *,
        fsid: int,
        own_rid: int,
        directory: Path | None = None,
        host: Host | None = None,
        deadline: float = KILL_DEADLINE,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._fsid, self._own_rid = fsid, own_rid
        self._directory = directory or mounts_directory()
        self._host = host
        self._deadline, self._clock, self._sleep = deadline, clock, sleep

    def fence(self, rid: int, given_up: Callable[[], bool] = lambda: False) -> Verdict:
        """Make sure that the mount `rid` is dead, if it is of this host.  Blocks up to the deadline.

        Its live processes get SIGKILL, but only those that hold its file open and are the very ones it names.  Nothing
        is killed any more once `given_up` says that nobody waits for the verdict.
        """
        return self._examine(rid, given_up)

    def look(self, rid: int) -> Verdict:
        """Find out whether the mount `rid` is dead; nothing is done to it if it lives."""
        return self._examine(rid, lambda: True)

    def _examine(self, rid: int, given_up: Callable[[], bool]) -> Verdict:
        if rid == self._own_rid:
            return _unknown("it is this mount itself")
        path = self._directory / _file_name(self._fsid, rid)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            return _unknown("this host has no record of it")
        except OSError as error:
            return _unknown(f"{path}: {error.strerror}")
        try:
            return self._judge(fd, rid, given_up)
        except (OSError, ValueError) as error:
            return _unknown(f"{path}: {error}")
        finally:
            os.close(fd)

    def _judge(self, fd: int, rid: int, given_up: Callable[[], bool]) -> Verdict:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode) or info.st_uid not in (0, os.geteuid()):
            return _unknown("its record is not a file of ours")
        record = self._read(fd)
        if record.rid != rid or record.fsid != self._fsid:
            return _unknown("its record names another mount")
        host = self._host or Host.current()
        if _lock_is_free(fd):
            if record.host.boot_id == host.boot_id:
                return _dead("no process holds its lock")
            if record.host.machine_id == host.machine_id:
                return _dead("this host was booted since")
            return _unknown("its record was written by another host")
        if record.host.boot_id != host.boot_id:
            return _unknown("its lock is held on another host")
        if record.host.pid_namespace != host.pid_namespace:
            return _unknown("its processes are in another pid namespace")
        return self._kill(fd, info, given_up)

    def _kill(self, fd: int, info: os.stat_result, given_up: Callable[[], bool]) -> Verdict:
        start = self._clock()
        killed: list[int] = []
        while not _lock_is_free(fd):
            if given_up():
                return _unknown("nobody waits for it any more")
            # read again each time: a process that was just forked may have been added
            for process in self._read(fd).processes:
                if process.pid not in killed and _kill_holder(process, info):
                    killed.append(process.pid)
            waited = self._clock() - start
            if not killed and waited > min(_UNRECORDED_PATIENCE, self._deadline):
                return _unknown("its lock is held by a process that its record does not name")
            if waited > self._deadline:
                return _unknown(f"its lock is still held {waited:.0f} s after the kill of {_pids(killed)}")
            self._sleep(_POLL)
        if not killed:
            return _dead("its processes have just ended")
        return _dead(f"killed {_pids(killed)}")

    def _read(self, fd: int) -> MountRecord:
        """Read the record; a read that raced with its replacement is repeated."""
        for _ in range(5):
            try:
                return MountRecord.parse(os.pread(fd, _RECORD_SIZE, 0))
            except ValueError:
                self._sleep(_POLL)
        return MountRecord.parse(os.pread(fd, _RECORD_SIZE, 0))


def remove_stale(directory: Path, *, now: float | None = None, older_than: float = STALE_AFTER) -> list[Path]:
    """Remove records of dead mounts that are `older_than` seconds old; returns their paths.  Raises OSError."""
    limit = (time.time() if now is None else now) - older_than
    removed = []
    for path in sorted(directory.iterdir()):
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            continue
        try:
            info = os.fstat(fd)
            if stat.S_ISREG(info.st_mode) and info.st_mtime < limit and _lock_is_free(fd):
                os.unlink(path)
                removed.append(path)
        except OSError:
            continue
        finally:
            os.close(fd)
    return removed


def _file_name(fsid: int, rid: int) -> str:
    return f"{fsid:016x}.{rid:016x}"


def _lock_is_free(fd: int) -> bool:
    """Whether no other open description holds the lock; shared, so that two who ask do not see each other."""
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    fcntl.flock(fd, fcntl.LOCK_UN)
    return True


def _kill_holder(process: Process, file: os.stat_result) -> bool:
    """SIGKILL the process if it is the recorded one and has `file` open.  Returns whether it was killed."""
    if process.pid in (0, 1, os.getpid()):
        return False
    try:
        handle = os.pidfd_open(process.pid)
    except OSError:
        return False
    try:
        # the handle pins the process: what is true of the pid now is true of what the signal will reach
        if Process.of(process.pid) != process or not _has_open(process.pid, file):
            return False
        signal.pidfd_send_signal(handle, signal.SIGKILL)
    except OSError:
        return False
    finally:
        os.close(handle)
    return True


def _has_open(pid: int, file: os.stat_result) -> bool:
    with contextlib.suppress(OSError):
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                if os.path.samestat(entry.stat(), file):
                    return True
    return False


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _pids(killed: list[int]) -> str:
    return f"{'process' if len(killed) == 1 else 'processes'} {', '.join(map(str, killed))}"


def _dead(text: str) -> Verdict:
    return Verdict(FenceOutcome.DEAD, text)


def _unknown(text: str) -> Verdict:
    return Verdict(FenceOutcome.UNKNOWN, text)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not a string")
    return value


def _number(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{value!r} is not a number")
    return value
