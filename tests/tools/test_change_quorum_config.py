"""change-quorum-config: the texts and blocks of the original, its safety, and who no longer stands in the way."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from format.block import SMALL_BLOCK_SIZE, seal
from format.quorum import Event, QuorumBlock, SlotAddress
from scoutfs import cli
from scoutfs.quorum.leaders import previous_leaders
from scoutfs.quorum.registration import Registration
from scoutfs.storage import Device, Sharing, Volume
from scoutfs.tools import change_quorum_config
from scoutfs.tools.change_quorum_config import running_mount
from tests.faults import BadSectors, NthFails, Recorder
from tests.images import load, manifest, unpack_volume
from tests.memory import Image, MemoryIO
from tests.tools.recorded import FSID, run, sparse, transcripts

SUPER = 65536
NEW = ("-F", "-Q", "3,10.0.0.3,4003", "-Q", "1,10.0.0.1,4001")


@pytest.fixture(autouse=True)
def directory(tmp_path, monkeypatch):
    """Every test works in an empty directory of its own, and knows no mounts."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SCOUTFS_STATE_DIR", str(tmp_path / "state"))
    return tmp_path


def main(images, *arguments, **options):
    """Run the command on devices in memory."""
    return change_quorum_config.main([*arguments], io=MemoryIO(images), **options)


def patch(image: Image, offset: int, value: bytes, *, reseal: bool = True) -> None:
    raw = bytearray(image.read(SUPER, SMALL_BLOCK_SIZE))
    raw[offset : offset + len(value)] = value
    image.write(SUPER, seal(raw, SMALL_BLOCK_SIZE) if reseal else bytes(raw))


def put_block(image: Image, slot: int, *records: tuple[Event, int, int]) -> QuorumBlock:
    """Write a quorum block with the given (event, rid, term), in this order."""
    block = QuorumBlock(int(FSID, 16), slot)
    for event, rid, term in records:
        block = block.updated(event, rid, term, 1754300001 * 10**9 + 5)
    image.write((17 + slot) * 4096, block.build())
    return block


# The original.


def test_the_blocks_are_those_of_the_original(capsys):
    images = {"m": load("v2-1slot", "meta")}
    entry = manifest()["v2-changed-quorum"]
    assert main(images, *entry["then"][0][1:]) == 0
    assert capsys.readouterr() == (entry["out"][0]["stdout"], "")
    assert images["m"] == load("v2-changed-quorum", "meta")


def test_the_write_counter_starts_anew_and_all_else_is_kept():
    images = {"m": load("v1-15slot", "meta")}
    patch(images["m"], 16, (77).to_bytes(8, "little"))
    patch(images["m"], 72, (123456).to_bytes(8, "little"))
    patch(images["m"], 112, (41).to_bytes(8, "little"))
    before = images["m"].read(SUPER, 4096)
    assert main(images, *NEW, "m") == 0
    after = images["m"].read(SUPER, 4096)
    assert (after[16:24], after[112:120]) == ((1).to_bytes(8, "little"), (42).to_bytes(8, "little"))
    assert after[120 + 32 : 120 + 64] == bytes.fromhex("0100a10f0100000a") + bytes(24)
    assert (after[4:16], after[24:112], after[600:]) == (before[4:16], before[24:112], before[600:])


DIFFERENT = {
    40: "unreadable is no success",
    41: "the data device is not the one to change",
    68: "unreadable is no success",
    70: "unreadable is no success",
    71: "unreadable is no success",
}
"""Where we do something else than the original, by number of the transcript, and why."""


def _setup_files(setup: str) -> None:
    if setup.startswith("z: "):
        sparse("z", 1 << 20)
        return
    version = "v1-1slot" if "-V 1" in setup else "v2-1slot"
    unpack_volume(version, Path())
    image = load(version, "meta")
    if "begin event write_nr 3" in setup:
        block = QuorumBlock(int(FSID, 16), 0, write_nr=2).updated(Event.BEGIN, 0x1122, 7, 1754300001 * 10**9 + 5)
        image.write(17 * 4096, block.build())
    elif "mounted_clients root" in setup:
        patch(image, 920, bytes.fromhex("d007000000000000 0100000000000000 01"))
    elif "byte 100 of the meta super" in setup:
        patch(image, 100, b"\xff", reseal=False)
    elif "magic of the meta super zeroed" in setup:
        patch(image, 4, bytes(4))
    elif "hdr.blkno of the meta super" in setup:
        patch(image, 24, b"\x05")
    with open("m", "r+b") as file:
        for page, data in image.pages.items():
            file.seek(page * 4096)
            file.write(data)


@pytest.mark.parametrize(("number", "entry"), transcripts("change-quorum-config"))
def test_transcripts(number, entry, capsys):
    _setup_files(entry["setup"])
    expected = dict(entry)
    if DIFFERENT.get(number, "").startswith("unreadable"):
        expected["rc"] = 1
        failed = "Input/output error (5)"
        expected["stderr"] = entry["stderr"].replace("Success (0)", failed)
        expected["stderr"] += f"scoutfs: change-quorum-config failed: {failed}\n"
    elif number in DIFFERENT:
        expected["rc"], expected["stdout"] = 1, ""
        expected["stderr"] = "d: is the data device of its volume, the metadata device has to be given\n"
        expected["stderr"] += "scoutfs: change-quorum-config failed: Invalid argument (22)\n"
    before = {path: Image.of_file(Path(path)) for path in os.listdir()}
    status, out, err = run(change_quorum_config.main, entry, capsys)
    assert (status, out, _without_crcs(err)) == (expected["rc"], expected["stdout"], _without_crcs(expected["stderr"]))
    if expected["rc"]:
        assert before == {path: Image.of_file(Path(path)) for path in os.listdir()}, "a refusal changes nothing"


def _without_crcs(text: str) -> str:
    """Mask the checksums of a damaged super block: the recorded ones are over slots with garbage (spec 01 §6.4)."""
    return re.sub(r"stored (?!00000000)\w{8} != calculated \w{8}", "stored CRC != calculated CRC", text)


def test_all_transcripts_are_tried():
    assert len(transcripts("change-quorum-config")) == 12


# Who may still run.


def test_every_configured_slot_is_looked_at(capsys):
    for slot in (0, 1, 2):
        images = {"m": load("v2-3slot", "meta")}
        put_block(images["m"], slot, (Event.BEGIN, 0x1122, 7))
        assert main(images, *NEW, "m") == 1
        assert capsys.readouterr().err == (
            f"mount in quorum slot {slot} could still be running.\n"
            "  begin event: write_nr 1 timestamp 1754300001.00000005\n"
            "    end event: write_nr 0 timestamp 0.00000000\n"
            "The filesystem must be fully recovered and cleanly unmounted to change the quorum config\n"
            "scoutfs: change-quorum-config failed: Device or resource busy (16)\n"
        )


def test_slots_that_are_not_configured_do_not_count():
    images = {"m": load("v2-3slot", "meta")}
    put_block(images["m"], 3, (Event.BEGIN, 0x1122, 7))
    assert main(images, *NEW, "m") == 0


def test_a_mount_that_ended_does_not_count():
    images = {"m": load("v2-3slot", "meta")}
    put_block(images["m"], 1, (Event.BEGIN, 0x1122, 7), (Event.TERM, 0x1122, 8), (Event.END, 0x1122, 8))
    assert main(images, *NEW, "m") == 0


LED = ((Event.BEGIN, 0xA, 3), (Event.TERM, 0xA, 4), (Event.ELECT, 0xA, 4), (Event.FENCE, 0xA, 4))


@pytest.mark.parametrize(
    ("what", "blocks", "running"),
    [
        ("a crashed leader that nobody fenced", {0: LED}, 0),
        (
            "a crashed leader that a later leader fenced",
            {
                0: LED,
                1: (
                    (Event.BEGIN, 0xB, 4),
                    (Event.ELECT, 0xB, 6),
                    (Event.FENCE, 0xB, 6),
                    (Event.STOP, 0xB, 6),
                    (Event.END, 0xB, 6),
                ),
            },
            None,
        ),
        (
            "a later leader that was elected and had not fenced yet",
            {0: LED, 1: ((Event.BEGIN, 0xB, 4), (Event.ELECT, 0xB, 6), (Event.STOP, 0xB, 6), (Event.END, 0xB, 6))},
            0,
        ),
        (
            "a leader of the same term",
            {0: LED, 1: ((Event.BEGIN, 0xB, 4), (Event.ELECT, 0xB, 4), (Event.FENCE, 0xB, 4), (Event.END, 0xB, 4))},
            0,
        ),
        (
            "a deposed leader that stopped its server and follows since",
            {0: (*LED, (Event.STOP, 0xA, 4)), 1: ((Event.ELECT, 0xB, 6), (Event.FENCE, 0xB, 6), (Event.STOP, 0xB, 6))},
            0,
        ),
        (
            "another mount took the slot of a fenced leader",
            {0: (*LED, (Event.BEGIN, 0xC, 6)), 1: ((Event.ELECT, 0xB, 6), (Event.FENCE, 0xB, 6))},
            0,
        ),
        (
            "a follower, whatever was fenced",
            {0: ((Event.BEGIN, 0xA, 3), (Event.TERM, 0xA, 4)), 1: ((Event.ELECT, 0xB, 6), (Event.FENCE, 0xB, 6))},
            0,
        ),
        (
            "the later leader crashed itself",
            {0: LED, 1: ((Event.BEGIN, 0xB, 4), (Event.ELECT, 0xB, 6), (Event.FENCE, 0xB, 6))},
            1,
        ),
    ],
)
def test_fenced_leaders_do_not_count(what, blocks, running, capsys):
    images = {"m": load("v2-3slot", "meta")}
    for slot, records in blocks.items():
        put_block(images["m"], slot, *records)
    assert main(images, *NEW, "m") == (0 if running is None else 1)
    err = capsys.readouterr().err
    assert ("" if running is None else f"mount in quorum slot {running} could still be running.\n") in err


EVENTS = st.lists(
    st.tuples(st.integers(0, 3), st.sampled_from(Event), st.sampled_from([0xA, 0xB, 0xC]), st.integers(1, 5)),
    max_size=12,
)


@given(EVENTS, st.sets(st.sampled_from([0xA, 0xB, 0xC])))
def test_whoever_does_not_count_has_ended_is_fenced_or_dead(events, dead):
    """Against the rule by which a new leader decides whom to fence: whom it would fence still counts."""
    blocks = {slot: QuorumBlock(1, slot) for slot in range(4)}
    for slot, event, rid, term in events:
        blocks[slot] = blocks[slot].updated(event, rid, term, 0)
    if running_mount(blocks, dead.__contains__) is not None:
        return
    would_fence = {leader.rid for leader in previous_leaders(blocks, rid=0xFFFF, term=2**63)}
    for block in blocks.values():
        begin, end = block.event(Event.BEGIN), block.event(Event.END)
        if begin.write_nr > end.write_nr and begin.rid not in dead:
            assert block.event(Event.ELECT).rid == begin.rid
            elect = block.event(Event.ELECT).term
            assert any(other.event(Event.FENCE).term > elect for other in blocks.values())
            assert elect not in {
                leader.term for leader in previous_leaders(blocks, rid=0xFFFF, term=2**63) if leader.rid in would_fence
            }


def test_mounts_of_this_host_that_are_dead_do_not_count(capsys):
    images = {"m": load("v2-3slot", "meta")}
    put_block(images["m"], 1, (Event.BEGIN, 0x1122, 7))
    registration = Registration.create(fsid=int(FSID, 16), rid=0x1122, slot=1)
    assert main(images, *NEW, "m") == 1, "its processes live: here it is this one"
    registration.release(clean=False)
    assert main(images, *NEW, "m") == 0
    images = {"m": load("v2-3slot", "meta")}
    put_block(images["m"], 1, (Event.BEGIN, 0x1133, 7))
    assert main(images, *NEW, "m") == 1, "of others this host knows nothing"


def test_a_live_mount_of_this_host_is_not_killed():
    code = (
        "import sys; from scoutfs.quorum.registration import Registration;"
        f"r = Registration.create(fsid=0x{FSID}, rid=0x1122, slot=1); print(flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdout.readline() == b"\n"
        images = {"m": load("v2-3slot", "meta")}
        put_block(images["m"], 1, (Event.BEGIN, 0x1122, 7))
        assert main(images, *NEW, "m") == 1
        assert process.poll() is None
        process.stdin.close()
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait(60)
        process.stdout.close()


@pytest.mark.parametrize("writable", [True, False])
def test_a_live_mount_of_this_host_holds_the_device(writable, capsys):
    unpack_volume("v2-1slot", Path())
    with Volume.open("d", "m", writable=writable):
        assert change_quorum_config.main([*NEW, "m"]) == (1 if writable else 0)
    if writable:
        assert capsys.readouterr().err.startswith(
            "failed to open meta device 'm': Device or resource busy (16): is in use by a live mount or another tool"
        )


# What is wrong with the volume.


def test_a_quorum_block_that_cannot_be_trusted(capsys):
    images = {"m": load("v2-3slot", "meta")}
    images["m"].write(18 * 4096, bytes(4096))
    assert main(images, *NEW, "m") == 1
    assert re.fullmatch(
        r"m: quorum block 18: crc is 0x0, expected 0x58cda791\n"
        r"cannot tell whether a mount in quorum slot 1 is still running\n"
        r"scoutfs: change-quorum-config failed: Input/output error \(5\)\n",
        capsys.readouterr().err,
    )


@pytest.mark.parametrize(
    ("bad", "text"),
    [
        (
            SUPER,
            "m: reading 4096 bytes at 65536: Input/output error\nfailed to read meta super block: Input/output err",
        ),
        (17 * 4096, "m: reading 4096 bytes at 69632: Input/output error\ncannot tell whether a mount in quorum slot 0"),
    ],
)
def test_unreadable_sectors(bad, text, capsys):
    unpack_volume("v2-1slot", Path())
    assert change_quorum_config.main([*NEW, "m"], io=BadSectors(range(bad, bad + 1))) == 1
    assert capsys.readouterr().err.startswith(text)


def test_a_version_that_is_not_known(capsys):
    images = {"m": load("v2-1slot", "meta")}
    patch(images["m"], 40, b"\x03")
    assert main(images, *NEW, "m") == 1
    assert capsys.readouterr().err == (
        "meta super block has format version 3 outside of supported version range 1-2\n"
        "scoutfs: change-quorum-config failed: Invalid argument (22)\n"
    )


def test_a_device_that_is_too_small(capsys):
    assert main({"m": Image(SUPER)}, *NEW, "m") == 1
    assert capsys.readouterr().err.startswith(
        "m: reading 4096 bytes at 65536: beyond the end at 65536, the device is too"
    )


# The command line.


def test_wrong_values_end_the_command(capsys):
    assert main({}, "-F", "-Q", "0,1.2.3.4,5", "-Q", "1,x,5", "m") == 64
    out, err = capsys.readouterr()
    assert out == "invalid ipv4 address 'x' in quorum slot '1,x,5'\n"
    assert err.startswith("change-quorum-config: no metadata device argument given\nTry `change-quorum-config --help'")


def test_two_slots_of_one_address(capsys):
    assert main({}, "-F", "-Q", "0,1.2.3.4,5", "-Q", "1,1.2.3.4,5", "m") == 64
    assert capsys.readouterr().err.startswith(
        "quorum slot nr 0 and 1 have the same address 1.2.3.4:5\n"
        "change-quorum-config: invalid quorum slot configuration\n"
    )


def test_a_port_that_members_refuse(capsys):
    assert main({"m": load("v2-1slot", "meta")}, "-F", "-Q", "0,1.2.3.4,65535", "m") == 0
    assert "warning: quorum slot 0 at 1.2.3.4:65535: members refuse port 65535" in capsys.readouterr().err


def test_dry_run(capsys):
    images = {"m": load("v2-1slot", "meta")}
    assert main(images, "-n", *NEW, "m") == 0
    assert capsys.readouterr().out == (
        "Would change quorum config for scoutfs filesystem:\n"
        "  meta device path:       m\n"
        "  fsid:                   123456789abcdef\n"
        "  uuid:                   00112233-4455-6677-8899-aabbccddeeff\n"
        "  quorum config version:  2\n"
        "  quorum slots:           1: 10.0.0.1:4001\n"
        "                          3: 10.0.0.3:4003\n"
    )
    assert images["m"] == load("v2-1slot", "meta")
    put_block(images["m"], 0, (Event.BEGIN, 0x1122, 7))
    assert main(images, "-n", *NEW, "m") == 1


@pytest.mark.parametrize("option", ["--help", "-h", "--usage"])
def test_information(option, capsys):
    assert cli.main(["change-quorum-config", option]) == 0
    assert capsys.readouterr().out.startswith("usage: scoutfs change-quorum-config {-F|--offline} -Q NR,ADDRESS,PORT")


def test_a_member_of_the_new_slots_can_use_the_volume():
    unpack_volume("v2-1slot", Path())
    assert change_quorum_config.main([*NEW, "m"]) == 0
    with Volume.open("d", "m") as volume:
        assert volume.super.quorum_config.slots == {1: SlotAddress("10.0.0.1", 4001), 3: SlotAddress("10.0.0.3", 4003)}
        assert volume.read_quorum_block(3) == QuorumBlock(int(FSID, 16), 3)


# Failures.


class FailingMemory(NthFails, MemoryIO):
    """Devices in memory on which one operation fails."""

    def __init__(self, images, n, kind):
        NthFails.__init__(self, n, kind)
        MemoryIO.__init__(self, images)


@pytest.mark.parametrize("kind", ["EIO", "ENOSPC", "short", "nothing"])
def test_the_nth_failure(kind, capsys):
    """Whatever fails, the super block is the old one, or the status is 0 and it is the new one."""
    old, new = load("v2-1slot", "meta"), load("v2-changed-quorum", "meta")
    for n in range(1, 100):
        images = {"m": old.copy()}
        io = FailingMemory(images, n, kind)
        status = change_quorum_config.main([*NEW, "m"], io=io)
        err = capsys.readouterr().err
        if io.happened is None:
            break
        if status == 0:
            assert kind == "short"
            assert images["m"] == new
            continue
        assert images["m"] == old
        code = errno.ENOSPC if "No space left" in err else errno.EIO
        assert "m" in err
        assert err.endswith(f"scoutfs: change-quorum-config failed: {os.strerror(code)} ({code})\n")
    assert images["m"] == new
    assert n == 9, "open, stat, lock, lock_bytes, size, pread of super and quorum block, pwrite: 8 calls can fail"


def test_one_durable_write_does_it():
    unpack_volume("v2-1slot", Path())
    io = Recorder()
    assert change_quorum_config.main([*NEW, "m"], io=io) == 0
    assert [(entry[0], entry[2], len(entry[3]), entry[4]) for entry in io.log] == [("write", SUPER, 4096, True)]


def test_the_device_is_free_again():
    unpack_volume("v2-1slot", Path())
    assert change_quorum_config.main([*NEW, "m"]) == 0
    Device.open("m", writable=True, sharing=Sharing.EXCLUSIVE).close()
