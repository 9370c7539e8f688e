"""Registrations and what they prove, with real processes that hold real locks."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scoutfs.errors import ScoutfsError
from scoutfs.quorum.registration import (
    FenceOutcome,
    Host,
    LocalFencer,
    MountRecord,
    Process,
    Registration,
    remove_stale,
)

FSID, RID, OWN_RID = 0x0123456789ABCDEF, 0xA1A2A3A4A5A6A7A8, 0xB1

HOLDER = """
import os, sys, time
from pathlib import Path
from scoutfs.quorum.registration import Registration
registration = Registration.create(fsid={fsid}, rid={rid}, slot=1, directory=Path(sys.argv[1]))
{more}
print("ready", os.getpid(), flush=True)
time.sleep(60)
"""

FORK = """
child = os.fork()
if child == 0:
    time.sleep(60)
    os._exit(0)
{record}
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "mounts"


@pytest.fixture
def start(directory: Path) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """Start a process that registers as RID, perhaps after running more code, and keeps running."""
    with contextlib.ExitStack() as stack:

        def run(more: str = "") -> subprocess.Popen[str]:
            code = HOLDER.format(fsid=FSID, rid=RID, more=more)
            process = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", code, str(directory)], stdout=subprocess.PIPE, text=True, process_group=0
                )
            )
            stack.callback(end_group, process.pid)
            assert process.stdout is not None
            assert process.stdout.readline().startswith("ready")
            return process

        yield run


def end_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def fencer(directory: Path, *, own_rid: int = OWN_RID, host: Host | None = None, deadline: float = 10.0) -> LocalFencer:
    return LocalFencer(fsid=FSID, own_rid=own_rid, directory=directory, host=host, deadline=deadline)


def rewrite(directory: Path, change: Callable[[MountRecord], MountRecord]) -> None:
    """Change the record in place, which leaves its lock as it is."""
    (path,) = directory.iterdir()
    with path.open("r+b") as file:
        record = MountRecord.parse(file.read())
        file.seek(0)
        file.write(change(record).build())


# what a registration holds


def test_a_registration_says_who_it_is_and_is_locked(directory: Path) -> None:
    registration = Registration.create(
        fsid=FSID, rid=RID, slot=2, mount_point="/mnt/a", devices=["/dev/x"], directory=directory
    )
    (path,) = directory.iterdir()
    assert path.name == "0123456789abcdef.a1a2a3a4a5a6a7a8"
    assert path.stat().st_mode & 0o777 == 0o600
    record = json.loads(path.read_text())
    assert record["rid"] == "a1a2a3a4a5a6a7a8"
    assert record["fsid"] == "0123456789abcdef"
    assert record["boot_id"] == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert [entry["pid"] for entry in record["processes"]] == [os.getpid()]
    assert record["slot"] == 2
    assert record["mount_point"] == "/mnt/a"
    assert record["devices"] == ["/dev/x"]
    with path.open("rb") as file:
        with pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        registration.release(clean=False)
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert path.exists()


def test_a_clean_release_leaves_no_file_and_can_be_repeated(directory: Path) -> None:
    registration = Registration.create(fsid=FSID, rid=RID, directory=directory)
    registration.release(clean=True)
    registration.release(clean=True)
    assert list(directory.iterdir()) == []


def test_a_registration_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ScoutfsError, match=r"cannot register the mount in .*Not a directory"):
        Registration.create(fsid=FSID, rid=RID, directory=tmp_path / "file" / "mounts")


def test_start_times_tell_processes_apart() -> None:
    me = Process.of(os.getpid())
    assert me is not None
    assert me == Process.of(os.getpid())
    stat = Path("/proc/self/stat").read_text()
    assert me.start == int(stat[stat.rindex(")") + 2 :].split()[19])
    assert Process.of(2**22 + 1) is None


names = st.text(max_size=40)
records = st.builds(
    MountRecord,
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**64 - 1),
    st.builds(Host, names, names, st.integers(0, 2**32), st.integers(0, 2**32)),
    st.lists(st.builds(Process, st.integers(1, 2**22), st.integers(0, 2**63)), max_size=4).map(tuple),
    st.integers(-1, 14),
    names,
    st.lists(names, max_size=3).map(tuple),
)


@given(records)
def test_records_come_back_as_they_were(record: MountRecord) -> None:
    built = record.build()
    assert len(built) == 4096
    assert MountRecord.parse(built) == record


def test_a_record_with_endless_paths_still_fits() -> None:
    record = MountRecord(FSID, RID, Host("b", "m", 1, 2), (Process(1, 2),), 0, "/" + "x" * 5000, ("/dev/y",) * 3)
    parsed = MountRecord.parse(record.build())
    assert (parsed.rid, parsed.processes, parsed.mount_point) == (RID, (Process(1, 2),), "")


@given(
    st.binary(max_size=64) | st.recursive(st.none() | st.integers() | names, st.lists).map(json.dumps).map(str.encode)
)
def test_what_is_no_record_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError):
        MountRecord.parse(data)


# what it proves


def test_a_killed_mount_is_dead(directory: Path, start: Callable[[], subprocess.Popen[str]]) -> None:
    process = start()
    process.kill()
    process.wait(timeout=10)
    verdict = fencer(directory).fence(RID)
    assert verdict.outcome is FenceOutcome.DEAD
    assert verdict.text == "no process holds its lock"


def test_a_live_mount_is_killed(directory: Path, start: Callable[[], subprocess.Popen[str]]) -> None:
    process = start()
    verdict = fencer(directory).fence(RID)
    assert verdict.dead
    assert verdict.text == f"killed process {process.pid}"
    assert process.wait(timeout=10) == -signal.SIGKILL


def test_a_stopped_mount_is_killed(directory: Path, start: Callable[[], subprocess.Popen[str]]) -> None:
    process = start()
    process.send_signal(signal.SIGSTOP)
    assert fencer(directory).fence(RID).dead
    assert process.wait(timeout=10) == -signal.SIGKILL


def test_every_recorded_process_is_killed(directory: Path, start: Callable[[str], subprocess.Popen[str]]) -> None:
    process = start(FORK.format(record="registration.add_process(child)"))
    (path,) = directory.iterdir()
    record = MountRecord.parse(path.read_bytes())
    assert len(record.processes) == 2
    verdict = fencer(directory).fence(RID)
    assert verdict.dead
    assert verdict.text == f"killed processes {process.pid}, {record.processes[1].pid}"


def test_a_mount_is_alive_as_long_as_any_process_has_inherited_the_lock(
    directory: Path, start: Callable[[str], subprocess.Popen[str]]
) -> None:
    process = start(FORK.format(record=""))
    process.kill()
    process.wait(timeout=10)
    verdict = fencer(directory, deadline=0.5).fence(RID)
    assert not verdict.dead
    assert "its record does not name" in verdict.text


def test_a_mount_never_fences_itself(directory: Path, start: Callable[[], subprocess.Popen[str]]) -> None:
    process = start()
    verdict = fencer(directory, own_rid=RID).fence(RID)
    assert not verdict.dead
    assert process.poll() is None


def test_nobody_is_killed_once_nobody_waits(directory: Path, start: Callable[[], subprocess.Popen[str]]) -> None:
    process = start()
    assert not fencer(directory).fence(RID, lambda: True).dead
    assert process.poll() is None


def test_an_unknown_mount_stays_unknown(directory: Path) -> None:
    assert not fencer(directory).fence(RID).dead
    Registration.create(fsid=FSID + 1, rid=RID, directory=directory).release(clean=False)
    assert not fencer(directory).fence(RID).dead


def test_another_boot_of_this_machine_proves_death(directory: Path) -> None:
    host = replace(Host.current(), boot_id="11111111-1111-1111-1111-111111111111")
    Registration.create(fsid=FSID, rid=RID, directory=directory, host=host).release(clean=False)
    verdict = fencer(directory).fence(RID)
    assert verdict.dead
    assert verdict.text == "this host was booted since"


def test_another_machine_proves_nothing(directory: Path) -> None:
    host = replace(Host.current(), boot_id="11111111-1111-1111-1111-111111111111", machine_id="f" * 32)
    Registration.create(fsid=FSID, rid=RID, directory=directory, host=host).release(clean=False)
    assert not fencer(directory).fence(RID).dead


@pytest.mark.parametrize("change", ["boot_id", "pid_namespace", "start", "pid"])
def test_a_held_lock_whose_holder_is_not_what_the_record_says_kills_nobody(
    directory: Path, start: Callable[[], subprocess.Popen[str]], change: str
) -> None:
    process = start()
    with subprocess.Popen(["sleep", "60"]) as bystander:
        try:
            other = Process.of(bystander.pid)
            assert other is not None

            def changed(record: MountRecord) -> MountRecord:
                holder = record.processes[0]
                return {
                    "boot_id": replace(record, host=replace(record.host, boot_id="x")),
                    "pid_namespace": replace(record, host=replace(record.host, pid_namespace=1)),
                    "start": replace(record, processes=(Process(holder.pid, holder.start + 1),)),
                    # alive, with the right start time, but it does not hold the lock
                    "pid": replace(record, processes=(other,)),
                }[change]

            rewrite(directory, changed)
            assert not fencer(directory, deadline=0.5).fence(RID).dead
            assert process.poll() is None
            assert bystander.poll() is None
        finally:
            bystander.kill()


def test_a_record_of_somebody_else_proves_nothing(directory: Path) -> None:
    Registration.create(fsid=FSID, rid=RID, directory=directory).release(clean=False)
    rewrite(directory, lambda record: replace(record, rid=RID + 1))
    assert not fencer(directory).fence(RID).dead


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_record_that_another_user_could_have_written_proves_nothing(directory: Path) -> None:
    Registration.create(fsid=FSID, rid=RID, directory=directory).release(clean=False)
    (path,) = directory.iterdir()
    os.chown(path, 65534, 65534)
    assert not fencer(directory).fence(RID).dead


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"[" * 4096, b"\xff" * 100, b'{"rid": 5}'])
def test_a_damaged_record_proves_nothing(directory: Path, content: bytes) -> None:
    directory.mkdir()
    (directory / f"{FSID:016x}.{RID:016x}").write_bytes(content)
    assert not fencer(directory).fence(RID).dead


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("/etc/passwd")])
def test_what_is_no_file_proves_nothing(directory: Path, make: Callable[[Path], None]) -> None:
    directory.mkdir()
    make(directory / f"{FSID:016x}.{RID:016x}")
    assert not fencer(directory).fence(RID).dead


def test_two_who_ask_at_once_do_not_see_each_other(directory: Path) -> None:
    Registration.create(fsid=FSID, rid=RID, directory=directory).release(clean=False)
    (path,) = directory.iterdir()
    with path.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_SH)
        assert fencer(directory).fence(RID).dead


# stale records


def test_only_old_records_of_dead_mounts_are_removed(directory: Path) -> None:
    Registration.create(fsid=FSID, rid=1, directory=directory).release(clean=False)
    Registration.create(fsid=FSID, rid=2, directory=directory).release(clean=False)
    alive = Registration.create(fsid=FSID, rid=3, directory=directory)
    for rid in (1, 3):
        os.utime(directory / f"{FSID:016x}.{rid:016x}", (1000, 1000))
    assert [path.name for path in remove_stale(directory)] == [f"{FSID:016x}.{1:016x}"]
    assert sorted(path.name for path in directory.iterdir()) == [f"{FSID:016x}.{rid:016x}" for rid in (2, 3)]
    alive.release(clean=True)


def test_registering_removes_stale_records(directory: Path) -> None:
    Registration.create(fsid=FSID, rid=1, directory=directory).release(clean=False)
    os.utime(directory / f"{FSID:016x}.{1:016x}", (1000, 1000))
    Registration.create(fsid=FSID, rid=2, directory=directory).release(clean=False)
    assert [path.name for path in directory.iterdir()] == [f"{FSID:016x}.{2:016x}"]
