"""mkfs: the same blocks, texts and statuses as the original for the same inputs; and what only ours does."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from format.quorum import Event, QuorumBlock, SlotAddress
from scoutfs import cli
from scoutfs.storage import Device, Sharing, Volume
from scoutfs.tools import mkfs
from scoutfs.tools.mkfs import SERVER_META_SIZE_MIN, single_device_split
from tests.images import DIRECTORY, load, manifest, unpack_volume
from tests.loops import loop_device, needs_loop_devices
from tests.memory import Image
from tests.tools.recorded import FSID, UUID, run, set_identity, sparse, transcripts, without_our_warnings
from tests.tools.test_contents import EMPTY_DOS_TABLE, make_ext4, needs_blkid

pytestmark = needs_blkid

MIB, GIB = 1 << 20, 1 << 30
SLOT = ("-Q", "0,127.0.0.1,12345")
VOLUMES = sorted(name for name, entry in manifest().items() if entry.get("args", [""])[0] == "mkfs")


@pytest.fixture(autouse=True)
def _identity(monkeypatch):
    set_identity(monkeypatch)


@pytest.fixture(autouse=True)
def directory(tmp_path, monkeypatch):
    """Every test works in an empty directory of its own, so that paths are as short as the recorded ones."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def mkfs_runs(capsys, *arguments, status=0):
    """Run mkfs, which must end with `status`; return stdout and stderr."""
    capsys.readouterr()
    assert mkfs.main([*arguments]) == status
    return capsys.readouterr()


# The originals, byte for byte.


@pytest.mark.parametrize("name", VOLUMES)
def test_blocks_and_texts_are_those_of_the_original(name, capsys):
    entry = manifest()[name]
    sparse("m", entry["meta_device_bytes"])
    sparse("d", entry["data_device_bytes"])
    out, err = mkfs_runs(capsys, *entry["args"][1:])
    assert out == (DIRECTORY / f"{name}.mkfs.txt").read_text()
    assert without_our_warnings(err) == entry["mkfs_stderr"]
    for path, role in (("m", "meta"), ("d", "data")):
        ours, original = Image.of_file(Path(path)), load(name, role)
        if name == "v2-raw-slot-bytes":
            for image in (ours, original):
                _mask_slot_bytes(image, entry)
        assert ours == original
    Volume.open("d", "m").close()


def _mask_slot_bytes(image: Image, entry) -> None:
    """Clear what means nothing in configured slots, and the checksum over it (spec 01 §6.4)."""
    image.write(65536, bytes(4))
    for nr in map(int, entry["slots"]):
        image.write(65536 + 120 + 32 * nr + 8, bytes(24))


def test_there_are_thirteen_volumes_to_compare_and_one_with_garbage():
    assert len(VOLUMES) == 14


# The recorded command lines.


def _setup_files(setup: str) -> None:
    sparse("m", 128 * MIB)
    sparse("d", 64 * MIB)
    if setup.startswith("m,d: made by mkfs -A -Q") or "holds a scoutfs data super block" in setup:
        assert mkfs.main(["-A", *SLOT, "m", "d"]) == 0
    if setup.startswith("m: empty; d: holds"):
        sparse("m", 128 * MIB)
    elif setup == "d: empty 8 TiB file":
        sparse("d", 8 << 40)
    elif setup.startswith("pt: "):
        sparse("pt", 16 * MIB)
        with open("pt", "r+b") as file:
            file.write(EMPTY_DOS_TABLE)
    elif setup.startswith("e: "):
        sparse("e", 16 * MIB)
        make_ext4("e")


TOO_SMALL = "64.00MB too small for min 64.00GB meta device\n"
DIFFERENT = {
    2: (
        "one device is enough for a volume",
        {"rc": 1, "stderr": TOO_SMALL + "scoutfs: mkfs failed: Invalid argument (22)\n"},
    ),
    6: (
        "a device that is none is recognised as such",
        {
            "stderr": "failed to open meta dev '/dev/null': Block device required (15): is neither a block device nor"
            " a regular file\nscoutfs: mkfs failed: Block device required (15)\n"
        },
    ),
    25: ("'Success' says nothing", {"stdout": "error parsing quorum slot '': it must be NR,ADDR,PORT\n"}),
}
"""Where we do something else than the original, by number of the transcript, and why."""

LINE_ENDS_MISSING = (11, 12, 32)
"""The original forgets the end of the line after these texts; ours is there."""


@pytest.mark.parametrize(("number", "entry"), transcripts("mkfs"))
def test_transcripts(number, entry, capsys):
    _setup_files(entry["setup"])
    expected = {**entry, **DIFFERENT.get(number, ("", {}))[1]}
    if number in LINE_ENDS_MISSING:
        expected["stderr"] = expected["stderr"].replace("scoutfs: mkfs", "\nscoutfs: mkfs")
    before = {path: Image.of_file(Path(path)) for path in os.listdir()}
    assert run(mkfs.main, entry, capsys) == (expected["rc"], expected["stdout"], expected["stderr"])
    if expected["rc"]:
        assert before == {path: Image.of_file(Path(path)) for path in os.listdir()}, "a refusal changes nothing"


def test_all_transcripts_are_tried():
    assert len(transcripts("mkfs")) == 35


# One device.


@pytest.mark.parametrize(
    ("size", "split"),
    [
        (160 * GIB, 64 * GIB),
        (128 * GIB, 64 * GIB),
        (127 * GIB + 5 * MIB // 2, 63 * GIB + 513 * MIB),
        (512 * GIB, 64 * GIB),
        (512 * GIB + 8 * MIB, 64 * GIB + MIB),
        (1 << 43, 1 << 40),
        (200 * MIB + 1, 100 * MIB),
        (3 * MIB - 1, MIB),
        (MIB, 0),
        (0, 0),
    ],
)
def test_split(size, split):
    assert single_device_split(size) == split


def test_one_device(capsys):
    sparse("v", 160 * GIB)
    out, err = mkfs_runs(capsys, *SLOT, "v")
    assert err == ""
    assert out == (
        "Created scoutfs filesystem:\n"
        "  meta device path:       v\n"
        "  data device path:       v (from byte 68719476736)\n"
        "  fsid:                   123456789abcdef\n"
        "  uuid:                   00112233-4455-6677-8899-aabbccddeeff\n"
        "  format version:         2\n"
        "  64KB metadata blocks:   1048576 (64.00 GB)\n"
        "  4KB data blocks:        25165824 (96.00 GB)\n"
        "  quorum config version:  1\n"
        "  quorum slots:           0: 127.0.0.1:12345\n"
    )
    with Volume.open("v") as volume:
        assert volume.single_device
        assert (volume.meta.size, volume.data.size) == (64 * GIB, 96 * GIB)
        assert volume.super.total_data_blocks == 96 * GIB // 4096


def test_one_device_holds_what_two_would(capsys):
    """Its parts are, block for block, the devices of the original."""
    sparse("v", 128 * GIB)
    mkfs_runs(capsys, *SLOT, "v")
    whole = Image.of_file(Path("v"))
    expected = load("v2-64G", "meta")
    expected.size = whole.size
    for page, data in load("v2-64G", "data").pages.items():
        expected.write(64 * GIB + page * 4096, data)
    assert whole == expected


@pytest.mark.parametrize(
    ("options", "meta", "data", "noted"),
    [
        (("--metadata-size", "100M"), 100 * MIB, 924 * MIB, ""),
        (
            ("--metadata-size=104857601",),
            100 * MIB,
            924 * MIB,
            "Metadata size 104857601 rounded down to 104857600 bytes\n",
        ),
        (("-m", "80M"), 80 * MIB, 944 * MIB, ""),
        (("-m", "80M", "--metadata-size", "100M"), 80 * MIB, 944 * MIB, ""),
        (("-m", "800M"), 512 * MIB, 512 * MIB, ""),
        (("-d", "100M"), 512 * MIB, 100 * MIB, ""),
    ],
)
def test_sizes_on_one_device(options, meta, data, noted, capsys):
    sparse("v", GIB)
    _, err = mkfs_runs(capsys, "-A", *options, *SLOT, "v")
    assert err.startswith(noted + "1" if noted else "")
    with Volume.open("v") as volume:
        assert volume.super.total_meta_blocks == meta >> 16
        assert volume.data.start == meta
        assert volume.super.total_data_blocks == data >> 12


@pytest.mark.parametrize(
    ("options", "status", "text"),
    [
        (("--metadata-size", "1G", "v"), 1, "v: 1.00GB of metadata leaves no data on a device of 1.00GB\n"),
        (("--metadata-size", "2G", "v"), 1, "v: 2.00GB of metadata leaves no data on a device of 1.00GB\n"),
        (
            ("--metadata-size", "64M", "v"),
            1,
            "64.00MB too small for any meta device, even with -A: the least is 67698688",
        ),
        (
            ("--metadata-size", "1073676288", "v"),
            1,
            "64.00KB too small for any data device, even with -A: the least is 26",
        ),
        (("--metadata-size", "1000", "v"), 64, "Metadata size 1000 is less than 65536 bytes\nmkfs: no metadata device"),
        (("--metadata-size", "100M", "v", "d"), 64, "mkfs: --metadata-size is for a volume on one device\n"),
    ],
)
def test_sizes_that_are_refused_on_one_device(options, status, text, capsys):
    sparse("v", GIB)
    _, err = mkfs_runs(capsys, "-A", *SLOT, *options, status=status)
    assert text in err
    assert Image.of_file(Path("v")) == Image(GIB)


@needs_loop_devices
def test_one_loop_device_is_as_good_as_two(capsys):
    sparse("v", 160 * GIB)
    with loop_device(Path("v")) as path:
        mkfs_runs(capsys, *SLOT, path)
        with Volume.open(path) as volume:
            split = volume.data.start
    with (
        loop_device(Path("v"), "--sizelimit", str(split)) as meta,
        loop_device(Path("v"), "--offset", str(split)) as data,
        Volume.open(data, meta) as volume,
    ):
        assert not volume.single_device


# Sizes.


@pytest.mark.parametrize(
    ("meta", "data"), [(67698688 - 1, 266240), (67698688, 266240 - 1), (67633152, 266240), (4 * MIB, MIB)]
)
def test_what_is_too_small_even_with_A(meta, data, capsys):
    sparse("m", meta)
    sparse("d", data)
    out, err = mkfs_runs(capsys, "-A", *SLOT, "m", "d", status=1)
    assert out == ""
    assert re.search(r"too small for any (meta|data) device, even with -A: the least is (67698688|266240) bytes\n", err)
    assert err.endswith("scoutfs: mkfs failed: Invalid argument (22)\n")
    assert (Image.of_file(Path("m")), Image.of_file(Path("d"))) == (Image(meta), Image(data))


def test_a_device_without_room_for_a_super_block(capsys):
    sparse("m", 65536)
    sparse("d", 65536)
    _, err = mkfs_runs(capsys, "-A", *SLOT, "m", "d", status=1)
    assert err.startswith("m: reading 4096 bytes at 65536: beyond the end at 65536, the device is too small\n")


def test_a_limit_below_one_block(capsys):
    sparse("m", 128 * MIB)
    _, err = mkfs_runs(capsys, "-A", *SLOT, "-m", "1000", "m", "d", status=64)
    assert err.startswith("Meta dev size 1000 is less than 65536 bytes\nmkfs: no metadata device argument given\n")


@pytest.mark.parametrize(("size", "warned"), [(SERVER_META_SIZE_MIN - 65536, True), (SERVER_META_SIZE_MIN, False)])
def test_metadata_that_no_server_can_work_with(size, warned, capsys):
    sparse("m", size)
    sparse("d", 64 * MIB)
    _, err = mkfs_runs(capsys, "-A", *SLOT, "m", "d")
    text = "warning: 6.29GB of metadata is less than a server can work with, about 6.29GB\n"
    assert err.endswith(text) == warned


def test_what_a_server_can_work_with_is_about_6_3_gib():
    """From the specification: with one client more than 51 000 blocks per half, above 6.3 GiB (spec 04 §18)."""
    assert round(SERVER_META_SIZE_MIN / GIB, 1) == 6.3
    assert round((SERVER_META_SIZE_MIN / 65536 - 1031) / 2, -3) == 51000


# Warnings and refusals.


def test_a_port_that_members_refuse_is_warned_of(capsys):
    sparse("m", 128 * MIB)
    sparse("d", 64 * MIB)
    _, err = mkfs_runs(capsys, "-A", "-Q", "2,10.11.12.13,65535", "m", "d")
    assert "\nwarning: quorum slot 2 at 10.11.12.13:65535: members refuse port 65535 when they mount\n" in err


@pytest.mark.parametrize("twice", [("m", "m"), ("m", "./m"), ("m", "link")])
def test_one_device_given_twice(twice, capsys):
    sparse("m", 128 * MIB)
    os.symlink("m", "link")
    _, err = mkfs_runs(capsys, "-A", *SLOT, *twice, status=1)
    text = "is given both for metadata and for data: give it once for a volume on one device"
    assert err == f"{twice[1]}: {text}\nscoutfs: mkfs failed: Invalid argument (22)\n"


@pytest.mark.parametrize("force", [(), ("-f",)])
@pytest.mark.parametrize("held", ["m", "d"])
def test_a_live_mount_is_refused_even_with_force(held, force, capsys):
    meta, data = unpack_volume("v2-3slot", Path())
    before = Image.of_file(meta), Image.of_file(data)
    with Device.open(held, writable=True, sharing=Sharing.SHARED):
        _, err = mkfs_runs(capsys, "-A", *force, *SLOT, "m", "d", status=1)
    if held == "m" or force:
        kind = "meta" if held == "m" else "data"
        assert err == (
            f"failed to open {kind} dev '{held}': Device or resource busy (16): is in use by a live mount or another"
            " tool on this host\nscoutfs: mkfs failed: Device or resource busy (16)\n"
        )
    assert (Image.of_file(meta), Image.of_file(data)) == before


@needs_loop_devices
@pytest.mark.parametrize("force", [(), ("-f",)])
def test_a_mounted_filesystem_is_refused_even_with_force(force, capsys):
    sparse("e", 64 * MIB)
    make_ext4("e")
    os.mkdir("mnt")
    with loop_device(Path("e")) as path:
        subprocess.run(["mount", "-t", "ext4", path, "mnt"], check=True, timeout=60)
        try:
            _, err = mkfs_runs(capsys, "-A", *force, *SLOT, path, status=1)
        finally:
            subprocess.run(["umount", "mnt"], check=True, timeout=60)
    text = "is in use by the kernel of this host: mounted, swap, or part of another device"
    assert err == (
        f"failed to open device '{path}': Device or resource busy (16): {text}\n"
        "scoutfs: mkfs failed: Device or resource busy (16)\n"
    )


def _run_slot(slot: int) -> None:
    """Have quorum block `slot` of `m` say that a mount has begun and not ended."""
    block = QuorumBlock(int(FSID, 16), slot).updated(Event.BEGIN, 0x1122, 7, 1)
    with open("m", "r+b") as file:
        file.seek((17 + slot) * 4096)
        file.write(block.build())


def test_a_volume_that_may_be_mounted_elsewhere(capsys):
    unpack_volume("v2-3slot", Path())
    _run_slot(1)
    _, err = mkfs_runs(capsys, "-A", *SLOT, "m", "d", status=1)
    assert err == (
        "m: appears to contain an existing ScoutFS superblock\n"
        "m: a mount in quorum slot 1 could still be running\n"
        "scoutfs: mkfs failed: Invalid argument (22)\n"
    )
    _, err = mkfs_runs(capsys, "-A", "-f", *SLOT, "m", "d")
    assert "warning: m: a mount in quorum slot 1 could still be running\n" in err
    _, err = mkfs_runs(capsys, "-A", "-f", *SLOT, "m", "d")
    assert "could still be running" not in err


def test_force_over_a_volume_leaves_nothing_of_it(capsys):
    """The new volume is what it would be on empty devices, wherever it has blocks."""
    meta, data = unpack_volume("v2-15slot", Path())
    _run_slot(1)
    mkfs_runs(capsys, "-A", "-f", *SLOT, "m", "d")
    assert Image.of_file(meta) == load("v2-1slot", "meta")
    assert Image.of_file(data) == load("v2-1slot", "data")


def test_force_over_another_filesystem_says_what_remains(capsys):
    sparse("m", 128 * MIB)
    sparse("d", 64 * MIB)
    make_ext4("m")
    with open("d", "r+b") as file:
        file.write(EMPTY_DOS_TABLE)
    _, err = mkfs_runs(capsys, "-A", "-f", *SLOT, "m", "d")
    assert err.endswith(
        "warning: m: it still has a signature of ext4, which `wipefs -a -t ext4 m` removes\n"
        "warning: d: it still has a partition table (dos)\n"
    )
    subprocess.run(["/usr/sbin/wipefs", "-a", "-t", "ext4", "m"], check=True, timeout=60, capture_output=True)
    _, err = mkfs_runs(capsys, "-A", "-f", *SLOT, "m", "d")
    assert "warning: m: it still has" not in err


# Output.


def test_quiet(capsys):
    sparse("m", 128 * MIB)
    sparse("d", 64 * MIB)
    out, err = mkfs_runs(capsys, "-qA", "-m", "1G", *SLOT, "m", "d")
    assert out == ""
    assert "allowing with -A" in err


def test_json(capsys):
    sparse("v", 160 * GIB)
    out, err = mkfs_runs(capsys, "--json", "-d", "64G", "-Q", "3,10.0.0.3,4003", *SLOT, "v")
    assert json.loads(out) == {
        "meta_device": "v",
        "data_device": "v",
        "data_offset": 64 * GIB,
        "fsid": FSID,
        "uuid": UUID,
        "format_version": 2,
        "meta_blocks": 1048576,
        "data_blocks": 16777216,
        "data_alloc_zone_blocks": 0,
        "quorum_config_version": 1,
        "quorum_slots": [
            {"slot": 0, "address": "127.0.0.1", "port": 12345},
            {"slot": 3, "address": "10.0.0.3", "port": 4003},
        ],
    }
    assert err == "Limiting use of 96.00GB data device to 64.00GB\n"


@pytest.mark.parametrize("option", ["--help", "-h", "--usage", "--version", "-V"])
def test_information(option, capsys):
    out, err = mkfs_runs(capsys, option)
    assert err == ""
    assert out.startswith(
        "scoutfs 0." if option in ("--version", "-V") else "usage: mkfs [OPTION...] -Q NR,ADDRESS,PORT"
    )


def test_help_names_every_option_and_no_test_hook(capsys):
    out, _ = mkfs_runs(capsys, "--help")
    for option in mkfs._OPTIONS:
        assert f"--{option.name}" in out or option.name == "usage"
        assert f"-{option.letter}," in out or not option.letter
    assert "SCOUTFS_MKFS" not in out
    assert "64 GiB and an eighth of the device, but at most half of it, rounded down to 1 MiB" in out
    assert max(map(len, out.splitlines())) < 105


def test_a_version_that_is_given_twice(capsys):
    """-V alone asks for our version; with anything else it is the format's."""
    _, err = mkfs_runs(capsys, "-V", "-V", status=64)
    assert err.startswith("invalid 64bit value: '-V'\n")


# Identity.


def test_without_hooks_every_volume_has_an_identity_of_its_own(capsys, monkeypatch):
    for name in ("FSID", "UUID", "TIME"):
        monkeypatch.delenv(f"SCOUTFS_MKFS_{name}")
    before = time.time()
    supers = []
    for path in ("a", "b"):
        sparse(path, 200 * MIB)
        mkfs_runs(capsys, "-A", *SLOT, path)
        with Volume.open(path) as volume:
            supers.append(volume.super)
            root = volume.meta.read(2 * 65536, 65536)
    assert supers[0].fsid != supers[1].fsid
    assert supers[0].uuid != supers[1].uuid
    assert uuid.UUID(bytes=supers[0].uuid).version == 4
    created, nsec = (int.from_bytes(root[offset:][:8], "little") for offset in (62344 + 96, 62344 + 104))
    assert int(before) <= created <= time.time()
    assert nsec % 1000 == 0


@pytest.mark.parametrize("name", ["FSID", "UUID", "TIME"])
def test_a_wrong_hook(name, capsys, monkeypatch):
    monkeypatch.setenv(f"SCOUTFS_MKFS_{name}", "x")
    _, err = mkfs_runs(capsys, "-A", *SLOT, "m", status=1)
    assert err.startswith("SCOUTFS_MKFS_*: ")


# The commands themselves.


def test_both_commands(directory):
    sparse("v", 160 * GIB)
    program = Path(sys.executable).parent / "mkfs.scoutfs"
    done = subprocess.run([program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (64, "")
    assert done.stderr == (
        "mkfs.scoutfs: must specify at least one quorum slot with --quorum-slot|-Q\n"
        "Try `mkfs.scoutfs --help' or `mkfs.scoutfs --usage' for more information.\n"
    )
    done = subprocess.run([program, *SLOT, "v"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Created scoutfs filesystem:\n")
    assert cli.main(["mkfs", *SLOT, "v"]) == 1


def test_it_is_quick_and_writes_little(capsys):
    sparse("m", 1 << 40)
    sparse("d", 8 << 40)
    started = time.monotonic()
    mkfs_runs(capsys, *SLOT, "m", "d")
    assert time.monotonic() - started < 5, "well under a second, but tests share their processors"
    assert sum(os.stat(path).st_blocks * 512 for path in ("m", "d")) < MIB


def test_slots_of_the_new_volume(capsys):
    sparse("v", 200 * MIB)
    mkfs_runs(capsys, "-A", "-Q", "14,10.0.0.1,1", "-Q", "3,10.0.0.2,2", "v")
    with Volume.open("v") as volume:
        assert volume.super.quorum_config.slots == {3: SlotAddress("10.0.0.2", 2), 14: SlotAddress("10.0.0.1", 1)}
        assert list(volume.read_quorum_blocks(range(15)).values()) == [
            QuorumBlock(int(FSID, 16), slot) for slot in range(15)
        ]


def test_errno_of_a_missing_device(capsys):
    _, err = mkfs_runs(capsys, *SLOT, "nonexist", status=1)
    assert err == (
        f"failed to open device 'nonexist': {os.strerror(errno.ENOENT)} (2)\n"
        "scoutfs: mkfs failed: No such file or directory (2)\n"
    )
