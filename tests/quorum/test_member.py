"""Members as processes: elected, killed, stopped, left alone; with the real server on a loop device at the end."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from format.message import Message, MessageType
from format.quorum import Event, QuorumConfig
from scoutfs.storage.volume import Volume
from tests.loops import loop_device, needs_loop_devices
from tests.quorum.members import Disk, free_config, peer
from tests.quorum.mounts import Mount, is_running, mounts, wait_until

RIDS = [0xA0A0000000000000, 0xB0B0000000000000, 0xC0C0000000000000]
Start = Callable[..., Mount]


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path)


@pytest.fixture
def start(disk: Disk, tmp_path: Path) -> Iterator[Start]:
    """Start the mount of a slot; of one slot alone unless a config is given."""
    alone = free_config([0])
    with mounts() as start_mount:

        def start_slot(slot: int = 0, config: QuorumConfig = alone, **more: Any) -> Mount:
            slots = {nr: [address.address, address.port] for nr, address in config.slots.items()}
            return start_mount(
                **{
                    "meta": str(disk.meta),
                    "data": str(disk.data),
                    "slots": slots,
                    "slot": slot,
                    "rid": RIDS[slot],
                    "registrations": str(tmp_path / "registrations"),
                    **more,
                }
            )

        yield start_slot


def test_a_member_leads_tells_its_mount_and_leaves(start: Start, disk: Disk) -> None:
    mount = start()
    facts = mount.wait_for(leader=True, event=3)
    assert facts["text"].startswith("quorum_slot_nr 0\nterm 1\nserver_start_term 1\nserver_event 3\nrole 2 (leader)\n")
    assert facts["server"]["status"] == "up"
    counters = mount.facts()["counters"]
    assert (counters["quorum_elected"], counters["quorum_send_request"]) == (1, 1)
    wait_until(lambda: mount.facts()["counters"]["quorum_send_heartbeat"] >= 3)
    assert mount.leave() is None
    assert not is_running(mount.member)
    assert disk.terms(0) == {"BEGIN": 0, "TERM": 1, "ELECT": 1, "FENCE": 1, "STOP": 1, "END": 1}


def test_a_member_is_named_ranked_and_holds_only_what_is_its_own(start: Start, disk: Disk) -> None:
    mount = start()
    process = Path(f"/proc/{mount.member}")
    assert (process / "comm").read_text() == "scoutfs-member\n"
    if os.geteuid() == 0:
        assert os.getpriority(os.PRIO_PROCESS, mount.member) == -10
    may = subprocess.run(["sh", "-c", "echo -800 > /proc/self/oom_score_adj"], capture_output=True, timeout=10)
    if may.returncode == 0:
        assert int((process / "oom_score_adj").read_text()) == -800
    open_files = [os.readlink(entry) for entry in (process / "fd").iterdir() if int(entry.name) > 2]
    sockets = [name for name in open_files if name.startswith("socket:")]
    files = [name for name in open_files if name.startswith("/")]
    # the mount has a pipe open, as one that goes into the background has: whoever waits for its end must see that
    assert not [name for name in open_files if name.startswith("pipe:")]
    assert sorted(set(files)) == sorted(
        [str(disk.meta), str(disk.data), *map(str, (disk.meta.parent / "registrations").iterdir())]
    )
    parents = {os.readlink(entry) for entry in Path(f"/proc/{mount.process.pid}/fd").iterdir() if int(entry.name) > 2}
    assert parents.isdisjoint(sockets)


def test_a_second_mount_of_a_slot_is_refused(start: Start, disk: Disk) -> None:
    mount = start()
    mount.wait_for(event=3)
    before = disk.raw()
    second = start(rid=RIDS[1])
    assert second.refused is not None
    assert "another mount on this host uses the slot" in second.refused
    assert second.process.wait(timeout=10) == 0
    assert disk.raw() == before
    assert mount.facts()["leader"]


def test_an_absent_slot_is_refused_before_anything_is_started(start: Start) -> None:
    refused = start(slot=2).refused
    assert refused is not None
    assert refused.endswith("usable slots: 0")


def test_a_member_that_cannot_start_is_one_error(start: Start) -> None:
    refused = start(server="unbuildable").refused
    assert refused == "the member process ended before it took part"


@pytest.mark.parametrize("attempt", range(5))
def test_a_member_whose_block_is_damaged_is_refused_and_told_why(start: Start, disk: Disk, attempt: int) -> None:
    with disk.meta.open("r+b") as file:
        file.seek(17 * 4096 + 4)
        file.write(b"XXXX")
    refused = start().refused
    assert refused is not None
    # never is it said first that the member takes part, however fast that is read
    assert re.match(
        r"the member process failed: cannot read the own block of quorum slot 0: /.*: quorum block 17: ", refused
    )


def test_a_defect_ends_the_member_with_its_traceback_in_the_log(start: Start, disk: Disk) -> None:
    mount = start(server="broken")
    facts = mount.wait_for(alive=False)
    assert facts["left"] == "defect in the member: ZeroDivisionError: a defect"
    assert not facts["leader"]
    assert any("in start" in line for line in mount.log())
    assert disk.terms(0) == {"BEGIN": 0, "TERM": 1, "ELECT": 1}


def test_signals_to_the_group_leave_the_decision_to_the_mount(start: Start) -> None:
    mount = start()
    mount.wait_for(event=3)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGTSTP):
        os.kill(mount.member, number)
    beats = mount.facts()["counters"]["quorum_send_heartbeat"]
    wait_until(lambda: mount.facts()["counters"]["quorum_send_heartbeat"] > beats + 2)
    assert mount.leave() is None


@pytest.mark.parametrize("stopped", [False, True])
def test_a_killed_mount_takes_its_member_with_it(start: Start, disk: Disk, stopped: bool) -> None:
    mount = start()
    mount.wait_for(event=3)
    raw = disk.raw()
    if stopped:
        os.kill(mount.member, signal.SIGSTOP)
    mount.process.kill()
    wait_until(lambda: not is_running(mount.member), 2.0)
    assert disk.raw() == raw


def test_a_killed_member_leaves_a_client_that_says_so(start: Start, disk: Disk) -> None:
    mount = start()
    mount.wait_for(event=3)
    raw = disk.raw()
    os.kill(mount.member, signal.SIGKILL)
    facts = mount.wait_for(alive=False)
    assert facts["left"] == "killed by signal 9"
    assert not facts["leader"]
    assert "role 0 (follower)" in facts["text"]
    assert [line for line in mount.log() if "goes on as a client" in line]
    assert disk.raw() == raw
    assert mount.leave() == "killed by signal 9"


def test_forced_unmount_writes_nothing_more(start: Start, disk: Disk) -> None:
    mount = start()
    mount.wait_for(event=3)
    raw = disk.raw()
    mount.say("kill")
    mount.wait_for(alive=False)
    assert not [line for line in mount.log() if "goes on as a client" in line]
    assert disk.raw() == raw
    assert disk.terms(0) == {"BEGIN": 0, "TERM": 1, "ELECT": 1, "FENCE": 1}


def test_a_stopped_mount_does_not_stop_heartbeats(start: Start, disk: Disk) -> None:
    config = free_config([0, 1])
    with peer(config, 1) as sock:
        mount = start(0, config)
        mount.wait_for(event=3)
        mount.process.send_signal(signal.SIGSTOP)
        with contextlib.suppress(BlockingIOError):
            while sock.recv(100):
                pass  # sent before
        sock.settimeout(5.0)
        beats = 0
        while beats < 15:
            beats += Message.parse(sock.recv(100), disk.fsid).type is MessageType.HEARTBEAT
        mount.process.send_signal(signal.SIGCONT)
        assert mount.facts()["leader"]


def test_a_new_heartbeat_timeout_reaches_the_agent(start: Start) -> None:
    config = free_config()
    first, second = start(0, config), start(1, config)
    wait_until(lambda: first.facts()["event"] == 3 or second.facts()["event"] == 3)
    follower = second if first.facts()["leader"] else first
    follower.say("option quorum_heartbeat_timeout_ms 30000")

    def timeout() -> float:
        (line,) = [line for line in follower.facts()["text"].splitlines() if line.startswith("timeout_in_secs")]
        return float(line.split()[1])

    wait_until(lambda: 29 < timeout() < 31)


def test_what_the_fence_daemon_writes_reaches_the_server(start: Start, disk: Disk) -> None:
    config = free_config([0, 1])
    lost = 0xB1B2B3B4B5B6B7B8
    disk.change(1, (Event.BEGIN, lost, 4), (Event.ELECT, lost, 5))
    mount = start(0, config, server="real", local_fencing=False)
    assert mount.wait_for(event=2, fences=[f"{lost:016x} 00"])["leader"]
    mount.say(f"error {lost:x}")
    # the server gives up, and its agent is elected again
    mount.wait(lambda event: "server failed" in event.get("log", ""))
    mount.wait(lambda event: "server starting" in event.get("log", ""))
    mount.wait_for(fences=[f"{lost:016x} 00"])
    mount.say(f"fenced {lost:x}")
    facts = mount.wait_for(event=3)
    assert facts["server"]["status"] == "up"
    assert mount.leave() is None
    terms = disk.terms(0)
    assert terms["FENCE"] == terms["ELECT"] == terms["STOP"]


@needs_loop_devices
def test_three_members_on_a_loop_device_elect_fence_fail_over_and_leave(tmp_path: Path) -> None:
    config = free_config()
    slots = [f"-Q{nr},{address.address},{address.port}" for nr, address in config.slots.items()]
    image = tmp_path / "volume"
    with image.open("wb") as file:
        file.truncate(160 << 30)
    mkfs = [sys.executable, "-m", "scoutfs.tools.mkfs"]
    with loop_device(image) as device, mounts() as start_mount:
        subprocess.run([*mkfs, *slots, device], check=True, capture_output=True, timeout=60)
        volume = Volume.open(device)
        try:
            members = [
                start_mount(
                    data=device,
                    slot=slot,
                    rid=RIDS[slot],
                    server="real",
                    registrations=str(tmp_path / "registrations"),
                )
                for slot in range(3)
            ]
            wait_until(lambda: sum(mount.facts()["event"] == 3 for mount in members) == 1)
            (old,) = [mount for mount in members if mount.facts()["leader"]]
            others = [mount for mount in members if mount is not old]
            facts = old.facts()
            assert facts["server"]["status"] == "up"
            assert facts["server"]["address"] == str(config.slots[old.slot])
            term = facts["term"]
            assert all(mount.facts()["term"] == term for mount in others)
            with pytest.raises(OSError, match="in use"):
                _bind_tcp(config, old.slot)

            old.process.kill()
            killed = time.monotonic()
            wait_until(lambda: any(mount.facts()["event"] == 3 for mount in others))
            assert time.monotonic() - killed < 5.0
            (new,) = [mount for mount in others if mount.facts()["leader"]]
            assert [line for line in new.log() if f"fenced rid {old.rid:016x}: " in line]
            left, taken = volume.read_quorum_block(old.slot), volume.read_quorum_block(new.slot)
            assert (left.event(Event.ELECT).term, left.event(Event.STOP).term) == (term, 0)
            assert taken.event(Event.FENCE).term == new.facts()["term"] > term

            assert [mount.leave() for mount in others] == [None, None]
            for mount in others:
                block = volume.read_quorum_block(mount.slot)
                assert not block.agent_may_run
                assert block.leader is None
        finally:
            volume.close()


def _bind_tcp(config: QuorumConfig, slot: int) -> None:
    with socket.socket() as probe:
        probe.bind((config.slots[slot].address, config.slots[slot].port))
