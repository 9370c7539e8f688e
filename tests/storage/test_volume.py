"""Opening volumes: the originals open, and each thing that can be wrong is refused in one line that names it."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from format.block import SMALL_BLOCK_SIZE, BlockError, seal
from format.quorum import Event, SlotAddress
from scoutfs.errors import ScoutfsError
from scoutfs.storage import Device, DeviceError, Sharing, Volume, VolumeError, read_super_block
from tests.faults import BadSectors, NthFails, Recorder
from tests.images import load, manifest, unpack_volume
from tests.loops import loop_device, needs_loop_devices
from tests.memory import Image, MemoryIO

SUPER = 65536
META_SIZE = 134217728
DATA_SIZE = 67108864
WHOLE_VOLUMES = sorted(
    name for name, entry in manifest().items() if "meta_device_bytes" in entry and not entry.get("handmade")
)


@pytest.fixture(scope="session")
def original():
    """Images of a volume of the original with three slots: {"m": ..., "d": ...}."""
    return {"m": load("v2-3slot", "meta"), "d": load("v2-3slot", "data")}


@pytest.fixture
def images(original):
    return {name: image.copy() for name, image in original.items()}


@pytest.fixture
def single(original):
    """The same volume laid out on one device."""
    image = Image(META_SIZE + DATA_SIZE, original["m"].pages)
    for page, data in original["d"].pages.items():
        image.write(META_SIZE + page * 4096, data)
    return {"s": image}


def patch(image: Image, field_offset: int, value: bytes, *, block: int = SUPER, reseal: bool = True) -> None:
    raw = bytearray(image.read(block, SMALL_BLOCK_SIZE))
    raw[field_offset : field_offset + len(value)] = value
    image.write(block, seal(raw, SMALL_BLOCK_SIZE) if reseal else bytes(raw))


def le64(value: int) -> bytes:
    return value.to_bytes(8, "little")


@pytest.mark.parametrize("name", WHOLE_VOLUMES)
def test_opens_volumes_of_the_original(name, tmp_path):
    entry = manifest()[name]
    meta, data = unpack_volume(name, tmp_path)
    with Volume.open(data, meta) as volume:
        assert volume.fsid == int(entry["fsid"], 16)
        assert volume.uuid.hex() == entry["uuid"].replace("-", "")
        assert volume.fmt_vers == entry["fmt_vers"]
        assert (volume.metadata_path, volume.data_path, volume.single_device) == (str(meta), str(data), False)
        assert (volume.meta.size, volume.data.size) == (entry["meta_device_bytes"], entry["data_device_bytes"])
        slots = {int(nr): SlotAddress(*address) for nr, address in entry["slots"].items()}
        assert volume.super.quorum_config.slots == slots
        assert volume.read_super() == volume.super
        blocks = volume.read_quorum_blocks(range(15))
        assert [(block.slot, block.write_nr, dict(block.events)) for block in blocks.values()] == [
            (slot, 0, {}) for slot in range(15)
        ]


def test_opening_writes_nothing(tmp_path):
    meta, data = unpack_volume("v2-smallest", tmp_path)
    io = Recorder()
    Volume.open(data, meta, io=io).close()
    assert io.log == []


def test_a_reader_needs_no_permission_to_write(tmp_path):
    meta, data = unpack_volume("v2-smallest", tmp_path)

    class ReadOnly(Recorder):
        def open(self, path, flags):
            if flags & os.O_RDWR:
                raise OSError(errno.EROFS, "read-only")
            return super().open(path, flags)

    with Volume.open(data, meta, writable=False, io=ReadOnly()) as volume:
        assert volume.read_quorum_block(0).slot == 0
    with pytest.raises(DeviceError, match="m: opening: Read-only file system"):
        Volume.open(data, meta, io=ReadOnly())


def test_readers_claim_nothing(tmp_path):
    meta, data = unpack_volume("v2-smallest", tmp_path)
    with Device.open(meta, writable=True, sharing=Sharing.EXCLUSIVE):
        Volume.open(data, meta, writable=False).close()
        with pytest.raises(DeviceError, match=r"m: is in use by mkfs\.scoutfs") as caught:
            Volume.open(data, meta)
    assert caught.value.errno == errno.EBUSY


def test_a_single_device(single):
    volume = Volume.open("s", io=MemoryIO(single))
    assert volume.single_device
    assert (volume.metadata_path, volume.data_path) == ("s", "s")
    assert (volume.meta.start, volume.meta.size) == (0, META_SIZE)
    assert (volume.data.start, volume.data.size) == (META_SIZE, DATA_SIZE)
    assert not read_super_block(volume.data).is_meta
    assert volume.read_super() == volume.super
    with pytest.raises(DeviceError, match="beyond the end"):
        volume.meta.read(META_SIZE, 4096)


@needs_loop_devices
def test_loop_devices_and_a_single_device_through_two_of_them(tmp_path):
    meta, data = unpack_volume("v2-3slot", tmp_path)
    with loop_device(meta) as meta_path, loop_device(data) as data_path:
        Volume.open(data_path, meta_path).close()
    whole = tmp_path / "whole"
    with whole.open("wb") as file:
        file.truncate(META_SIZE)
        file.write(meta.read_bytes())
        file.write(data.read_bytes())
    with loop_device(whole) as path:
        Volume.open(path).close()
    with (
        loop_device(whole, "--sizelimit", str(META_SIZE)) as meta_path,
        loop_device(whole, "--offset", str(META_SIZE)) as data_path,
    ):
        Volume.open(data_path, meta_path).close()


def test_several_mounts_share_a_volume(tmp_path):
    meta, data = unpack_volume("v2-smallest", tmp_path)
    with Volume.open(data, meta) as first, Volume.open(data, meta) as second:
        first.write_quorum_block(first.read_quorum_block(1).updated(Event.BEGIN, 0x1122, 5, 77))
        assert second.read_quorum_block(1).event(Event.BEGIN).rid == 0x1122


def test_a_quorum_block_is_durable_when_written(tmp_path):
    meta, data = unpack_volume("v2-smallest", tmp_path)
    io = Recorder()
    with Volume.open(data, meta, io=io) as volume:
        block = volume.read_quorum_block(14).updated(Event.TERM, 1, 2, 3)
        volume.write_quorum_block(block)
        assert io.log == [("write", str(meta), 31 * 4096, block.build(), True)]
        assert volume.read_quorum_block(14) == block


Change = Callable[[dict[str, Image]], None]


def field(name: str, offset: int, value: bytes, **options: bool) -> Change:
    return lambda images: patch(images[name], offset, value, **options)


REFUSALS: dict[str, tuple[Change, str]] = {
    "meta magic": (field("m", 4, b"XXXX"), r"m: block 16: magic is 0x58585858, expected 0x103c428b: not a ScoutFS"),
    "data magic": (field("d", 4, b"XXXX"), r"d: block 16: magic is 0x58585858, expected 0x103c428b: not a ScoutFS"),
    "meta crc": (
        field("m", 100, b"\xff", reseal=False),
        r"m: block 16: crc is 0x\w+, expected 0x\w+: the block is dam",
    ),
    "data crc": (field("d", 4000, b"\x01", reseal=False), r"d: block 16: crc is 0x\w+, expected 0x\w+: the block is"),
    "meta blkno": (field("m", 24, le64(5)), r"m: block 16: blkno is 5, expected 16: the block is damaged"),
    "data blkno": (field("d", 24, le64(17)), r"d: block 16: blkno is 17, expected 16: the block is damaged"),
    "meta version 0": (field("m", 40, le64(0)), r"m: block 16: bad fmt_vers 0x0: this release knows 1 to 2"),
    "meta version 3": (field("m", 40, le64(3)), r"m: block 16: bad fmt_vers 0x3: this release knows 1 to 2"),
    "data version 3": (field("d", 40, le64(3)), r"d: block 16: bad fmt_vers 0x3: this release knows 1 to 2"),
    "versions differ": (
        field("d", 40, le64(1)),
        r"d: block 16: fmt_vers: 1, but m has 2: .* run change-format-version again",
    ),
    "meta flag": (field("m", 48, le64(0)), r"m: block 16: flags: this is not a metadata device"),
    "data flag": (field("d", 48, le64(1)), r"d: block 16: flags: this is a metadata device: the first argument"),
    "meta uuid": (
        field("m", 71, b"\0"),
        r"d: block 16: uuid: 00112233-.*-8899-aabbccddeeff, but m has 0011.*ddee00: the two devices are of different",
    ),
    "data uuid": (field("d", 56, b"\x01"), r"d: block 16: uuid: 01112233-.*, but m has 00112233-.*: the two devices"),
    "data fsid": (field("d", 8, le64(0x99)), r"d: block 16: fsid: 0x99, but m has 0x123456789abcdef: the two devices"),
    "meta total_meta_blocks": (
        field("m", 96, le64(2049)),
        r"m: block 16: total_meta_blocks is 2049, but m has 2048 blocks of 65536 bytes: it was truncated",
    ),
    "meta total_data_blocks": (
        field("m", 104, le64(16385)),
        r"m: block 16: total_data_blocks is 16385, but d has 16384 blocks of 4096 bytes: it was truncated",
    ),
    "data total_meta_blocks": (
        field("d", 96, le64(1 << 63)),
        r"d: block 16: total_meta_blocks is 9223372036854775808,",
    ),
    "data total_data_blocks": (field("d", 104, le64(16385)), r"d: block 16: total_data_blocks is 16385, but d has"),
}


@pytest.mark.parametrize("what", REFUSALS)
def test_refusals(what, images):
    change, text = REFUSALS[what]
    change(images)
    before = {name: image.copy() for name, image in images.items()}
    with pytest.raises(VolumeError, match=f"^{text}") as caught:
        Volume.open("d", "m", io=MemoryIO(images))
    assert caught.value.errno == errno.EINVAL
    assert "\n" not in str(caught.value)
    assert images == before


def test_totals_may_be_smaller_than_the_devices(images):
    """Resizing the volume does not touch the data super, and devices may grow first."""
    patch(images["d"], 96, le64(1000))
    patch(images["d"], 104, le64(1000))
    Volume.open("d", "m", io=MemoryIO(images)).close()


@pytest.mark.parametrize(
    ("name", "size", "text"),
    [
        ("m", META_SIZE - 1, r"m: block 16: total_meta_blocks is 2048, but m has 2047 blocks"),
        ("d", DATA_SIZE - 1, r"m: block 16: total_data_blocks is 16384, but d has 16383 blocks"),
        ("m", SUPER + 4096, r"m: block 16: total_meta_blocks is 2048, but m has 1 blocks"),
        ("m", SUPER + 4095, r"m: reading 4096 bytes at 65536: beyond the end at 69631, the device is too small"),
        ("d", SUPER, r"d: reading 4096 bytes at 65536: beyond the end at 65536, the device is too small"),
        ("m", 0, r"m: reading 4096 bytes at 65536: beyond the end at 0, the device is too small"),
    ],
)
def test_truncated_devices(images, name, size, text):
    images[name].size = size
    with pytest.raises(ScoutfsError, match=f"^{text}"):
        Volume.open("d", "m", io=MemoryIO(images))


def test_swapped_devices(images):
    with pytest.raises(
        VolumeError, match=r"^d: block 16: flags: has the super block of a data device, m that of a meta"
    ):
        Volume.open("m", "d", io=MemoryIO(images))


@pytest.mark.parametrize("name", ["m", "d"])
def test_the_same_device_twice(images, name):
    with pytest.raises(VolumeError, match=f"^{name}: is given both as data and as metadata device: leave metadev_path"):
        Volume.open(name, name, io=MemoryIO(images))


def test_the_same_device_by_two_paths(tmp_path):
    meta, _ = unpack_volume("v2-smallest", tmp_path)
    (tmp_path / "link").symlink_to(meta)
    with pytest.raises(VolumeError, match="is given both as data and as metadata device"):
        Volume.open(tmp_path / "link", meta)


def test_one_device_of_two(images):
    with pytest.raises(VolumeError, match=r"^d: block 16: flags: this is the data device of a volume on two devices"):
        Volume.open("d", io=MemoryIO(images))
    with pytest.raises(VolumeError, match=r"^m: it has no room behind .* mount the data device with metadev_path=m$"):
        Volume.open("m", io=MemoryIO(images))
    images["m"].size = META_SIZE + DATA_SIZE
    with pytest.raises(VolumeError, match=r"^m: no super block of data at byte 134283264: .* with metadev_path=m$"):
        Volume.open("m", io=MemoryIO(images))


@pytest.mark.parametrize(
    ("offset", "value", "text"),
    [
        (100, b"\xff", r"s: block 16 of the data part at byte 134217728: crc is"),
        (24, le64(4)[:1], r"s: block 16 of the data part at byte 134217728: crc is"),
    ],
)
def test_a_damaged_data_part(single, offset, value, text):
    patch(single["s"], offset, value, block=META_SIZE + SUPER, reseal=False)
    with pytest.raises(VolumeError, match=f"^{text}"):
        Volume.open("s", io=MemoryIO(single))


def test_a_truncated_single_device(single):
    single["s"].size = META_SIZE + DATA_SIZE - 1
    with pytest.raises(VolumeError, match=r"^s: block 16: total_data_blocks is 16384, but s has 16383 blocks"):
        Volume.open("s", io=MemoryIO(single))


def test_a_single_device_whose_parts_do_not_match(single):
    patch(single["s"], 56, b"\x01", block=META_SIZE + SUPER)
    with pytest.raises(VolumeError, match=r"^s: block 16 of the data part at byte 134217728: uuid: 01112233-"):
        Volume.open("s", io=MemoryIO(single))


@pytest.mark.parametrize("total", [0, 1, 2, 1 << 40, (1 << 64) - 1])
def test_a_single_device_with_an_absurd_split(single, total):
    patch(single["s"], 96, le64(total))
    with pytest.raises(ScoutfsError, match=r"^s: "):
        Volume.open("s", io=MemoryIO(single))


def test_devices_that_are_not_there(images):
    with pytest.raises(DeviceError, match=r"^x: opening: No such file or directory") as caught:
        Volume.open("d", "x", io=MemoryIO(images))
    assert caught.value.errno == errno.ENOENT
    with pytest.raises(DeviceError, match=r"^x: opening: No such file or directory"):
        Volume.open("x", "m", io=MemoryIO(images))


@pytest.mark.parametrize("name", ["m", "d"])
def test_unreadable_super_blocks(tmp_path, name):
    meta, data = unpack_volume("v2-smallest", tmp_path)

    class OneBadDevice(BadSectors):
        def open(self, path, flags):
            self.bad = getattr(self, "bad", set())
            fd = super().open(path, flags)
            if Path(path).name == name:
                self.bad.add(fd)
            return fd

        def pread(self, fd, buffer, offset):
            self.reads = fd in self.bad
            return super().pread(fd, buffer, offset)

    path = re.escape(str(tmp_path / name))
    with pytest.raises(DeviceError, match=f"^{path}: reading 4096 bytes at 65536: Input/output error$") as caught:
        Volume.open(data, meta, io=OneBadDevice(range(SUPER + 512, SUPER + 1024)))
    assert caught.value.errno == errno.EIO


QUORUM_REFUSALS: dict[str, tuple[Change, str]] = {
    "crc": (lambda images: patch(images["m"], 50, b"\1", block=18 * 4096, reseal=False), r"crc is 0x\w+, expected 0x"),
    "magic": (
        lambda images: patch(images["m"], 4, b"XXXX", block=18 * 4096),
        "magic is 0x58585858, expected 0xbc310868",
    ),
    "fsid": (lambda images: patch(images["m"], 8, le64(1), block=18 * 4096), "fsid is 0x1, expected 0x123456789abcdef"),
    "blkno": (lambda images: patch(images["m"], 24, le64(17), block=18 * 4096), "blkno is 17, expected 18"),
}


@pytest.mark.parametrize("what", QUORUM_REFUSALS)
def test_bad_quorum_blocks(images, what):
    change, text = QUORUM_REFUSALS[what]
    change(images)
    volume = Volume.open("d", "m", io=MemoryIO(images))
    with pytest.raises(BlockError, match=f"^m: quorum block 18: {text}") as caught:
        volume.read_quorum_block(1)
    assert caught.value.field == what
    blocks = volume.read_quorum_blocks([0, 1, 2])
    assert isinstance(blocks[1], BlockError)
    assert [blocks[slot].slot for slot in (0, 2)] == [0, 2]


def test_an_unreadable_quorum_block(tmp_path):
    meta, data = unpack_volume("v2-smallest", tmp_path)
    with Volume.open(data, meta, io=BadSectors(range(19 * 4096, 19 * 4096 + 1))) as volume:
        blocks = volume.read_quorum_blocks([1, 2, 3])
        assert isinstance(blocks[2], DeviceError)
        assert str(blocks[2]) == f"{meta}: reading 4096 bytes at {19 * 4096}: Input/output error"
        assert [blocks[slot].slot for slot in (1, 3)] == [1, 3]


REREAD_REFUSALS: dict[str, tuple[Change, str]] = {
    "magic": (field("m", 4, bytes(4)), r"m: block 16: magic is 0x0, expected"),
    "crc": (field("m", 80, b"\1", reseal=False), r"m: block 16: crc is"),
    "version": (field("m", 40, le64(1)), r"m: block 16: fmt_vers: 1, no longer 2: mount again"),
    "flag": (field("m", 48, le64(0)), r"m: block 16: flags: no longer that of a metadata device"),
    "uuid": (field("m", 56, b"\1"), r"m: block 16: uuid: 01112233-\S+, no longer that of the volume that was mounted"),
    "fsid": (field("m", 8, b"\1"), r"m: block 16: uuid: 00112233-\S+, no longer that of the volume that was mounted"),
    "total_meta_blocks": (field("m", 96, le64(2049)), r"m: block 16: total_meta_blocks is 2049, but m has 2048"),
    "total_data_blocks": (field("m", 104, le64(16385)), r"m: block 16: total_data_blocks is 16385, but d has 16384"),
}


@pytest.mark.parametrize("what", REREAD_REFUSALS)
def test_every_later_read_of_the_super_block_is_checked(images, what):
    change, text = REREAD_REFUSALS[what]
    volume = Volume.open("d", "m", io=MemoryIO(images))
    assert volume.read_super() == volume.super
    change(images)
    with pytest.raises(VolumeError, match=f"^{text}"):
        volume.read_super()


def test_later_reads_show_changes(images):
    volume = Volume.open("d", "m", io=MemoryIO(images))
    patch(images["m"], 112, le64(7))
    assert volume.read_super().quorum_config.version == 7
    assert volume.super.quorum_config.version == 1


@pytest.mark.parametrize("kind", ["EIO", "nothing", "short"])
def test_the_nth_failure_of_opening(tmp_path, kind):
    meta, data = unpack_volume("v2-smallest", tmp_path)
    for n in range(1, 100):
        error = _open(data, meta, NthFails(n, kind))
        if error is None:
            break
        assert re.match(rf"{re.escape(str(tmp_path))}/[md]: ", str(error))
    assert n > (1 if kind == "short" else 10)


def _open(data, meta, io):
    try:
        with Volume.open(data, meta, io=io):
            pass
    except ScoutfsError as error:
        return error
    return None


ANYTHING = st.one_of(st.binary(min_size=1, max_size=64), st.integers(0, 2**64 - 1).map(le64))
QUICKLY = {"deadline": None, "suppress_health_check": [HealthCheck.function_scoped_fixture]}


@settings(max_examples=2_500, **QUICKLY)
@given(name=st.sampled_from(["m", "d"]), offset=st.integers(0, 600), value=ANYTHING, reseal=st.booleans())
def test_fuzzed_super_blocks(original, name, offset, value, reseal):
    images = {**original, name: original[name].copy()}
    patch(images[name], offset, value, reseal=reseal)
    before = dict(images[name].pages)
    text = _refusal(lambda: Volume.open("d", "m", io=MemoryIO(images)).close())
    assert re.fullmatch("|[md]: .*", text)
    assert images[name].pages == before


@settings(max_examples=7_000, **QUICKLY)
@given(slot=st.integers(0, 14), offset=st.integers(0, 300), value=ANYTHING, reseal=st.booleans())
def test_fuzzed_quorum_blocks(original, fuzzed_volume, slot, offset, value, reseal):
    volume, image = fuzzed_volume
    image.pages = dict(original["m"].pages)
    patch(image, offset, value, block=(17 + slot) * 4096, reseal=reseal)
    text = _refusal(lambda: volume.read_quorum_block(slot))
    assert re.fullmatch(rf"|m: quorum block {17 + slot}: .*", text)


@pytest.fixture(scope="session")
def fuzzed_volume(original):
    image = original["m"].copy()
    return Volume.open("d", "m", io=MemoryIO({**original, "m": image})), image


@settings(max_examples=500, **QUICKLY)
@given(offset=st.integers(0, 600), value=ANYTHING, block=st.sampled_from([SUPER, META_SIZE + SUPER]))
def test_fuzzed_super_blocks_of_a_single_device(single, offset, value, block):
    image = single["s"].copy()
    patch(image, offset, value, block=block)
    text = _refusal(lambda: Volume.open("s", io=MemoryIO({"s": image})).close())
    assert re.fullmatch("|s: .*", text)


def _refusal(operation) -> str:
    """Return the text of the typed error that `operation` raises, "" if none; anything else comes through."""
    try:
        operation()
    except (VolumeError, DeviceError, BlockError) as error:
        return str(error)
    return ""
