"""Volumes and mounts for tests, real ones: a device, addresses and directories of their own for each test.

Whatever a test does, nothing is left behind: processes, mounts, loop devices.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from format.quorum import QuorumBlock
from mount import utab
from mount.kernel import FILESYSTEM_TYPE, MountEntry, mount_table
from scoutfs.quorum.registration import MountRecord, Process
from scoutfs.storage.volume import Volume as StoredVolume

BIN = Path(sys.executable).parent
DEADLINE = 20.0
"""Seconds in which anything must happen that a test waits for; the machine may be busy."""


def wait_until(condition: Callable[[], object], what: str, timeout: float = DEADLINE) -> float:
    """Wait until `condition` is true; return the seconds that took.  An OSError of it counts as not yet."""
    start = time.monotonic()
    while True:
        with contextlib.suppress(OSError):
            if condition():
                return time.monotonic() - start
        assert time.monotonic() - start < timeout, f"{what} did not happen within {timeout:.0f} s"
        time.sleep(0.02)


def within(timeout: float, ask: Callable[[], str]) -> str:
    """Return what `ask` returns; a question to a mount whose process is stuck must not hang the test."""
    results: list[str] = []
    errors: list[OSError] = []

    def run() -> None:
        try:
            results.append(ask())
        except OSError as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(timeout)
    if errors:
        raise errors[0]
    assert results, f"no answer within {timeout:.0f} s"
    return results[0]


def at_once(*jobs: Callable[[], None]) -> None:
    """Run jobs that mostly wait, each in a thread; the first that fails fails the test, when all have ended."""
    with ThreadPoolExecutor(len(jobs)) as pool:
        for future in [pool.submit(job) for job in jobs]:
            future.result()


@dataclass
class Volume:
    """A made volume: the device or image to mount, and what mount options it needs."""

    device: str
    slots: dict[int, str]
    metadev: str | None = None

    def options(self, slot: int | None = None, *more: str) -> str:
        items = [] if slot is None else [f"quorum_slot_nr={slot}"]
        if self.metadev is not None:
            items.append(f"metadev_path={self.metadev}")
        return ",".join([*items, *more])

    def quorum_blocks(self) -> dict[int, QuorumBlock]:
        """Return what is recorded of each slot; every check of a block must succeed."""
        with StoredVolume.open(self.device, self.metadev, writable=False) as stored:
            return {slot: stored.read_quorum_block(slot) for slot in self.slots}


@dataclass
class Mount:
    """A mounted directory."""

    directory: Path
    cluster: Cluster
    started: subprocess.CompletedProcess[str]
    pids: dict[str, int] = field(default_factory=dict)

    def control(self, name: str) -> Path:
        return self.directory / ".scoutfs" / name

    def read(self, name: str, timeout: float = 10.0) -> str:
        """Return the contents of a file below `.scoutfs`."""
        return within(timeout, self.control(name).read_text)

    @property
    def is_leader(self) -> bool:
        return self.read("quorum/is_leader") == "1"

    @property
    def status(self) -> dict[str, str]:
        """First word -> rest of the lines of `quorum/status`."""
        return dict(line.split(" ", 1) for line in self.read("quorum/status").splitlines() if line[0] != " ")

    @property
    def role(self) -> str:
        return re.sub(r"\d+ \((\w+)\)", r"\1", self.status["role"])

    @property
    def term(self) -> int:
        return int(self.status["term"])

    @property
    def rid(self) -> str:
        return self.read("rid").strip()

    @property
    def fences(self) -> list[str]:
        """The rids that the server of this mount wants fenced."""
        return within(10.0, lambda: " ".join(sorted(os.listdir(self.control("fence"))))).split()

    @property
    def usable(self) -> bool:
        return self.read("waiting") == "" and not self.read("connection").startswith("server none")

    def log(self) -> str:
        return self.read("log")

    def note_pids(self) -> dict[str, int]:
        """Remember the processes, for when the mount no longer answers."""
        for line in self.cluster.run("cat", str(self.control("pids"))).stdout.splitlines():
            role, pid = line.split()
            self.pids[role] = int(pid)
        return self.pids

    def kill(self, number: int = signal.SIGKILL, *roles: str) -> None:
        """Send a signal to processes of the mount; all of them by default."""
        for role, pid in self.pids.items():
            if not roles or role in roles:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)

    def is_mounted(self) -> bool:
        return any(entry.target == str(self.directory) for entry in self.cluster.mount_table())

    def processes_gone(self) -> bool:
        return not any(is_running(pid) for pid in self.pids.values())

    def umount(self, *options: str, timeout: float = 60.0, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run umount.scoutfs."""
        return self.cluster.run("umount.scoutfs", *options, str(self.directory), timeout=timeout, check=check)

    def umount_started(self, *options: str) -> subprocess.Popen[str]:
        """Run umount.scoutfs without waiting for it."""
        return self.cluster.start("umount.scoutfs", *options, str(self.directory))


class Cluster:
    """What one test mounts; everything is below `directory`.  `prefix` are words before every command,
    `owner` whom images and directories belong to, `namespace_of` a
    process in whose mount namespace they run."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.environment = {
            **os.environ,
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "SCOUTFS_RUN_DIR": str(directory / "run"),
            "SCOUTFS_STATE_DIR": str(directory / "state"),
        }
        self.prefix: list[str] = []
        self.owner = os.geteuid()
        self.namespace_of = "self"
        self._loops: list[str] = []
        self._started: list[subprocess.Popen[str]] = []
        self._network = f"127.{random.randrange(1, 255)}.{random.randrange(256)}"
        self._port = random.randrange(20000, 32000)

    # -- commands ----------------------------------------------------------------------------------------------------

    def run(self, *command: str, timeout: float = 60.0, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command of the project, or any other, and return what it said."""
        done = subprocess.run(
            [*self.prefix, *command],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        if check:
            assert done.returncode == 0, f"{' '.join(command)} exited with {done.returncode}: {done.stderr}"
        return done

    def start(self, *command: str) -> subprocess.Popen[str]:
        """Start a command and leave it running; it is ended with the test."""
        process = subprocess.Popen(
            [*self.prefix, *command], env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self._started.append(process)
        return process

    # -- devices -----------------------------------------------------------------------------------------------------

    def image(self, name: str, size: int) -> Path:
        """Return a new sparse file of `size` bytes."""
        path = self.directory / name
        with path.open("wb") as file:
            file.truncate(size)
        os.chown(path, self.owner, -1)
        return path

    def loop(self, image: Path) -> str:
        """Return a loop device over `image`."""
        command = ["losetup", "--find", "--show", str(image)]
        device = subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout.strip()
        self._loops.append(device)
        return device

    def slot_addresses(self, count: int) -> dict[int, str]:
        return {slot: f"{self._network}.{slot + 1},{self._port + slot}" for slot in range(count)}

    def volume(self, slots: int | dict[int, str] = 3, *, loop: bool = True, devices: int = 1) -> Volume:
        """Make a volume with that many quorum slots, or these, on one sparse device of 160 GiB or on two."""
        addresses = self.slot_addresses(slots) if isinstance(slots, int) else slots
        images = [self.image(f"v{nr}.img", 160 << 30) for nr in range(devices)]
        paths = [self.loop(image) if loop else str(image) for image in images]
        config = [word for slot, address in addresses.items() for word in ("-Q", f"{slot},{address}")]
        self.run("mkfs.scoutfs", *config, *paths)
        return Volume(paths[-1], addresses, paths[0] if devices == 2 else None)

    # -- mounts ------------------------------------------------------------------------------------------------------

    def try_mount(
        self,
        device: str,
        options: str,
        name: str = "m",
        *words: str,
        timeout: float = 60.0,
    ) -> subprocess.CompletedProcess[str]:
        """Run mount.scoutfs and return what it said, whether it mounted or not."""
        directory = self.directory / name
        # a dead mount may be on it
        with contextlib.suppress(FileExistsError):
            os.mkdir(directory)
            os.chown(directory, self.owner, -1)
        return self.run("mount.scoutfs", *words, "-o", options, device, str(directory), timeout=timeout, check=False)

    def mount(
        self,
        volume: Volume,
        slot: int | None = None,
        *more: str,
        name: str | None = None,
    ) -> Mount:
        """Mount as the member of `slot`, or as a client, with `more` options."""
        name = name or ("client" if slot is None else f"m{slot}")
        done = self.try_mount(volume.device, volume.options(slot, *more), name)
        assert done.returncode == 0, f"mount of {name} exited with {done.returncode}: {done.stderr}"
        mount = Mount(self.directory / name, self, done)
        mount.note_pids()
        return mount

    def members(self, volume: Volume, *more: str) -> list[Mount]:
        """Mount all members, one after the other."""
        return [self.mount(volume, slot, *more) for slot in volume.slots]

    def agreed(self, mounts: list[Mount]) -> Mount | None:
        """Return the leader if all others follow it in the same term."""
        roles = [mount.role for mount in mounts]
        if sorted(roles) != ["follower"] * (len(mounts) - 1) + ["leader"] or len({m.term for m in mounts}) != 1:
            return None
        return mounts[roles.index("leader")]

    def await_usable(self, mounts: list[Mount], timeout: float = DEADLINE) -> None:
        """Wait until all of them have a server."""
        for mount in mounts:
            wait_until(lambda mount=mount: mount.usable, f"a server for {mount.directory.name}", timeout)

    def await_leader(self, mounts: list[Mount], timeout: float = DEADLINE) -> Mount:
        """Wait until all agree on one leader, and return it."""
        wait_until(lambda: self.agreed(mounts), "agreement on a leader", timeout)
        return next(mount for mount in mounts if mount.is_leader)

    def umount_all(self, mounts: list[Mount], timeout: float = 60.0) -> None:
        """Unmount them together, as the last members must."""
        processes = [mount.umount_started() for mount in mounts]
        for process in processes:
            _, errors = process.communicate(timeout=timeout)
            assert process.returncode == 0, errors

    def assert_all_have_left(self, volume: Volume) -> None:
        """The volume must record nobody as running, and nobody who would have to be fenced."""
        recorded = json.loads(self.run("scoutfs", "quorum", "--json", volume.metadev or volume.device).stdout)
        assert (recorded["server"], recorded["members"], recorded["to_fence"]) == (None, [], []), recorded

    # -- what is there -----------------------------------------------------------------------------------------------

    def records(self) -> list[MountRecord]:
        """Return what the mounts of this test have registered."""
        records = []
        with contextlib.suppress(FileNotFoundError):
            for path in (self.directory / "state" / "mounts").iterdir():
                with contextlib.suppress(OSError, ValueError):
                    records.append(MountRecord.parse(path.read_bytes()))
        return records

    def live_pids(self) -> list[int]:
        """Return the registered processes that run."""
        processes = [process for record in self.records() for process in record.processes]
        return [p.pid for p in processes if Process.of(p.pid) == p and is_running(p.pid)]

    def links(self) -> list[str]:
        """Return the names in the run directory."""
        with contextlib.suppress(FileNotFoundError):
            return sorted(path.name for path in (self.directory / "run").iterdir())
        return []

    def mount_table(self) -> list[MountEntry]:
        """Return the mounts that the commands see."""
        return mount_table(Path(f"/proc/{self.namespace_of}/mountinfo").read_text())

    def mounted(self) -> list[str]:
        """Return where something of ours is mounted below the directory of the test."""
        prefix = f"{self.directory}/"
        return [e.target for e in self.mount_table() if e.type == FILESYSTEM_TYPE and e.target.startswith(prefix)]

    def clean_up(self) -> None:
        """End every process, take away every mount and loop device, in whatever state they are."""
        for process in self._started:
            if process.poll() is None:
                process.kill()
            process.communicate(timeout=10)
        for pid in self.live_pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for target in reversed(self.mounted()):
            enter = ["nsenter", f"--mount=/proc/{self.namespace_of}/ns/mnt"]
            subprocess.run([*enter, "umount", "-i", "-l", target], check=False, timeout=30, capture_output=True)
            utab.remove(target)
        wait_until(lambda: not self.live_pids(), "the end of all mount processes")
        for device in self._loops:
            subprocess.run(["losetup", "--detach", device], check=False, timeout=30, capture_output=True)
        assert self.mounted() == []


def is_running(pid: int) -> bool:
    """Whether there is such a process and it has not ended."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def waits_for_answer(pid: int) -> bool:
    """Whether a process waits in the kernel for the answer to a FUSE request."""
    return "request_wait_answer" in Path(f"/proc/{pid}/stack").read_text()


def await_heartbeats(mount: Mount, name: str, count: int) -> None:
    """Wait until a mount has sent or received that many more; one goes out each 0.1 s."""
    counter = f"counters/quorum_{name}_heartbeat"
    before = int(mount.read(counter))
    wait_until(lambda: int(mount.read(counter)) >= before + count, f"{count} heartbeats")


def cluster_in(directory: Path) -> Iterator[Cluster]:
    directory.mkdir(exist_ok=True)
    cluster = Cluster(directory)
    try:
        yield cluster
    finally:
        cluster.clean_up()
