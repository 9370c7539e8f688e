"""mkfs that fails or is cut short: whatever opens afterwards is complete."""

from __future__ import annotations

import itertools
import os
import random
import re

import pytest

from format.block import BlockError
from scoutfs.errors import ScoutfsError
from scoutfs.storage import Device, Volume
from scoutfs.storage.creation import NewVolume, write_volume
from scoutfs.tools import contents, mkfs
from tests.faults import NthFails, Recorder
from tests.images import load
from tests.memory import Image, MemoryIO
from tests.tools.recorded import set_identity

MIB = 1 << 20
SECTOR = 512
ARGUMENTS = ("-q", "-A", "-Q", "0,127.0.0.1,12345")
SINGLE_SIZE = 192 * MIB
SINGLE_SPLIT = ("--metadata-size", "128M")


@pytest.fixture(autouse=True)
def _hooks(monkeypatch):
    """Give volumes a known identity, and leave blkid out: the devices are in memory."""
    set_identity(monkeypatch)
    monkeypatch.setattr(contents, "probe", lambda device: {})
    monkeypatch.setattr(mkfs, "probe", lambda device: {})


class FailingMemory(NthFails, MemoryIO):
    """Devices in memory on which one operation fails."""

    def __init__(self, images, n, kind):
        NthFails.__init__(self, n, kind)
        MemoryIO.__init__(self, images)


class RecordingMemory(Recorder, MemoryIO):
    """Devices in memory that record what changes them."""

    def __init__(self, images):
        Recorder.__init__(self)
        MemoryIO.__init__(self, images)


def _single(meta: Image, data: Image, split: int = 128 * MIB) -> Image:
    """Lay two devices out on one."""
    whole = Image(SINGLE_SIZE, meta.pages)
    for page, content in data.pages.items():
        whole.write(split + page * 4096, content)
    return whole


def _other_split() -> Image:
    """A volume on one device whose data begins elsewhere than the new one's, with another identity."""
    images = {"v": Image(SINGLE_SIZE)}
    os.environ["SCOUTFS_MKFS_UUID"] = "deadbeef" * 4
    os.environ["SCOUTFS_MKFS_FSID"] = "77"
    assert mkfs.main([*ARGUMENTS, "--metadata-size", "100M", "v"], io=MemoryIO(images)) == 0
    os.environ["SCOUTFS_MKFS_UUID"] = "00112233-4455-6677-8899-aabbccddeeff"
    os.environ["SCOUTFS_MKFS_FSID"] = "0123456789abcdef"
    return images["v"]


def _old_pair() -> dict[str, Image]:
    """An old volume on two devices; its identity differs from that of the new one in the uuid alone."""
    images = {"m": Image(128 * MIB), "d": Image(64 * MIB)}
    os.environ["SCOUTFS_MKFS_UUID"] = "deadbeef" * 4
    assert mkfs.main([*ARGUMENTS, "-V", "1", "-Q", "3,10.0.0.1,5", "m", "d"], io=MemoryIO(images)) == 0
    os.environ["SCOUTFS_MKFS_UUID"] = "00112233-4455-6677-8899-aabbccddeeff"
    return images


CASES = {
    "two empty devices": (lambda: {"m": Image(128 * MIB), "d": Image(64 * MIB)}, ("m", "d")),
    "two devices with a volume": (_old_pair, ("-f", "m", "d")),
    "one empty device": (lambda: {"v": Image(SINGLE_SIZE)}, (*SINGLE_SPLIT, "v")),
    "one device with a volume": (lambda: {"v": _other_split()}, (*SINGLE_SPLIT, "-f", "v")),
}
"""What the devices hold before, and what mkfs is told."""


def _paths(arguments) -> list[str]:
    """The devices as Volume.open takes them: data first."""
    return ["d", "m"] if arguments[-1] == "d" else ["v"]


def _expected(arguments) -> dict[str, Image]:
    """The original's devices."""
    meta, data = load("v2-1slot", "meta"), load("v2-1slot", "data")
    return {"m": meta, "d": data} if arguments[-1] == "d" else {"v": _single(meta, data)}


def _opened(images: dict[str, Image], arguments) -> Volume | None:
    """Open what is on the devices; None if that is refused, in one line."""
    try:
        volume = Volume.open(*_paths(arguments), io=MemoryIO(images))
    except (ScoutfsError, BlockError) as error:
        if "\n" in str(error):
            raise
        return None
    volume.close()
    return volume


def _covers(images: dict[str, Image], expected: dict[str, Image]) -> bool:
    """Whether every block of the expected volume is there; what an older one left elsewhere does not matter."""
    return all(
        images[path].pages.get(page) == content
        for path, image in expected.items()
        for page, content in image.pages.items()
    )


@pytest.mark.parametrize("kind", ["EIO", "ENOSPC", "short", "nothing"])
@pytest.mark.parametrize("case", CASES)
def test_the_nth_failure(case, kind, capsys):
    """Every device operation fails once: a clear error, and then no volume, the old one untouched, or all of the new.

    Only a look at the volume that is to be overwritten by force may fail unnoticed.
    """
    prepare, arguments = CASES[case]
    before, expected = prepare(), _expected(arguments)
    for n in range(1, 200):
        images = {path: image.copy() for path, image in before.items()}
        io = FailingMemory(images, n, kind)
        capsys.readouterr()
        status = mkfs.main([*ARGUMENTS, *arguments], io=io)
        err = capsys.readouterr().err
        if io.happened is None:
            break
        volume = _opened(images, arguments)
        if status == 0:
            assert kind == "short" or (io.happened == "pread" and "-f" in arguments), f"nobody noticed {io.happened}"
            assert volume is not None
            assert _covers(images, expected)
        else:
            assert re.search(r"[mdv]\b.*(Input/output error|No space left on device|it ended|were taken)", err)
            assert re.search(r"scoutfs: mkfs failed: (Input/output error \(5\)|No space left on device \(28\))\n$", err)
        if volume is not None:
            assert _covers(images, expected) or images == before
    assert status == 0
    assert _covers(images, expected)
    assert n > 15


def _recorded_run(case: str) -> tuple[dict[str, Image], list[tuple], tuple[str, ...]]:
    prepare, arguments = CASES[case]
    before = prepare()
    io = RecordingMemory({path: image.copy() for path, image in before.items()})
    assert mkfs.main([*ARGUMENTS, *arguments], io=io) == 0
    return before, io.log, arguments


def _crashes(before, log, randomness):
    """Yield (what, images) for crashes between and within all operations.

    What was flushed is there, every subset of the later writes may be, and each of those may be torn between sectors.
    """
    durable = {path: image.copy() for path, image in before.items()}
    pending: list[tuple[str, int, bytes]] = []
    for number, entry in enumerate(log):
        if entry[0] == "flush":
            kept = []
            for path, offset, data in pending:
                if path == entry[1]:
                    durable[path].write(offset, data)
                else:
                    kept.append((path, offset, data))
            pending = kept
        else:
            _, path, offset, data, is_durable = entry
            pending.append((path, offset, data))
        subsets = list(
            itertools.chain.from_iterable(itertools.combinations(pending, n) for n in range(len(pending) + 1))
        )
        for subset in subsets:
            images = {path: image.copy() for path, image in durable.items()}
            for path, offset, data in subset:
                images[path].write(offset, data)
            yield f"after {number} with {len(subset)} of {len(pending)}", images
        for _ in range(8 if pending else 0):
            images = {path: image.copy() for path, image in durable.items()}
            for path, offset, data in pending:
                for start in range(0, len(data), SECTOR):
                    if randomness.random() < 0.5:
                        images[path].write(offset + start, data[start : start + SECTOR])
            yield f"after {number}, torn", images
        if entry[0] == "write" and is_durable:
            pending.pop()
            durable[path].write(offset, data)


@pytest.mark.parametrize("case", CASES)
def test_a_crash_at_any_point(case):
    """A new volume opens only when it is complete, an old one only while nothing of it was touched."""
    before, log, arguments = _recorded_run(case)
    expected = _expected(arguments)
    opened = 0
    for what, images in _crashes(before, log, random.Random(1)):
        volume = _opened(images, arguments)
        if volume is None:
            continue
        opened += 1
        if volume.uuid.hex().startswith("deadbeef"):
            assert images == before, what
        else:
            assert _covers(images, expected), what
    assert opened
    assert len(log) > 10


def test_the_order_of_writes():
    """Old super blocks go first; everything else is stable before the data super, and that before the metadata's."""
    _, log, _ = _recorded_run("two devices with a volume")
    super_block = 65536
    steps = [(entry[0], entry[1], entry[2] if entry[0] == "write" else None) for entry in log]
    assert steps[:2] == [("write", "m", super_block), ("write", "d", super_block)]
    assert [entry[4] for entry in log[:2]] == [True, True]
    assert steps[-5:] == [
        ("flush", "m", None),
        ("write", "d", super_block),
        ("flush", "d", None),
        ("write", "m", super_block),
        ("flush", "m", None),
    ]


def test_the_crash_test_finds_a_wrong_order():
    """With the super blocks written before what they refer to, incomplete volumes open."""
    before, log, arguments = _recorded_run("two empty devices")
    wrong = [*log[:2], log[-4], log[-2], *log[2:-4]]
    expected = _expected(arguments)
    assert any(
        _opened(images, arguments) is not None and not _covers(images, expected)
        for _, images in _crashes(before, wrong, random.Random(1))
    )


def test_the_crash_test_finds_old_super_blocks():
    """Without the first step, the old super block stays beside blocks of the new volume."""
    before, log, arguments = _recorded_run("two devices with a volume")
    wrong = log[2:]
    assert any(
        (volume := _opened(images, arguments)) and volume.uuid.hex().startswith("deadbeef") and images != before
        for _, images in _crashes(before, wrong, random.Random(1))
    )


def test_equal_inputs_give_equal_blocks():
    images = {"m": Image(128 * MIB), "d": Image(64 * MIB)}
    io = MemoryIO(images)
    new = NewVolume(1, bytes(16), 0, 2, 2048, 16384, {})
    write_volume(Device.open("m", writable=True, io=io), Device.open("d", writable=True, io=io), new)
    again = {"m": Image(128 * MIB), "d": Image(64 * MIB)}
    io = MemoryIO(again)
    write_volume(Device.open("m", writable=True, io=io), Device.open("d", writable=True, io=io), new)
    assert images == again
