"""Super blocks and quorum blocks of every recorded volume are read, and built again byte for byte."""

from __future__ import annotations

import pytest

from format.block import BlockError, seal
from format.quorum import QuorumBlock, SlotAddress
from format.superblock import SuperBlock, SuperBlockStruct
from tests import images

SUPER_OFFSET = 65536
FSID = 0x0123456789ABCDEF
UUID = bytes.fromhex("00112233445566778899aabbccddeeff")
MANIFEST = images.manifest()
META = [name for name, entry in MANIFEST.items() if "meta" in entry and not name.startswith("synthetic")]
DATA = [name for name, entry in MANIFEST.items() if "data" in entry]
DEVICES = [(name, "meta") for name in META] + [(name, "data") for name in DATA]


def test_all_volumes_are_here() -> None:
    assert len(META) >= 16
    assert len(DATA) >= 15


@pytest.mark.parametrize(("name", "role"), DEVICES)
def test_super_blocks(name: str, role: str) -> None:
    data, entry = images.read(name, role, SUPER_OFFSET, 4096), MANIFEST[name]
    block = SuperBlock.parse(data)
    assert block.build() == data
    assert (block.fsid, block.uuid) == (FSID, UUID)
    assert block.is_meta == (role == "meta")
    if "fmt_vers" in entry:
        assert block.fmt_vers == entry["fmt_vers"]
        slots = {int(slot): SlotAddress(*address) for slot, address in entry["slots"].items()}
        assert block.quorum_config.slots == slots
        assert list(block.quorum_config.slots) == sorted(slots)
        assert block.raw.volopt.data_alloc_zone_blocks == entry["data_alloc_zone_blocks"]


def test_super_blocks_changed_by_tools() -> None:
    for role in ("meta", "data"):
        assert SuperBlock.parse(images.read("v1-changed-to-v2", role, SUPER_OFFSET, 4096)).fmt_vers == 2
    config = SuperBlock.parse(images.read("v2-changed-quorum", "meta", SUPER_OFFSET, 4096)).quorum_config
    assert config.version == 2
    assert config.slots == {1: SlotAddress("10.0.0.1", 4001), 3: SlotAddress("10.0.0.3", 4003)}
    prepared = SuperBlock.parse(images.read("v2-prepared-data", "data", SUPER_OFFSET, 4096))
    assert prepared.fmt_vers == 2
    assert prepared.quorum_config.slots == {}
    assert (prepared.total_meta_blocks, prepared.total_data_blocks) == (2048, 16384)


@pytest.mark.parametrize("name", META)
def test_quorum_blocks(name: str) -> None:
    blocks = images.read(name, "meta", SUPER_OFFSET + 4096, 15 * 4096)
    for slot in range(15):
        data = blocks[slot * 4096 : (slot + 1) * 4096]
        block = QuorumBlock.parse(data, fsid=FSID, slot=slot)
        assert block == QuorumBlock(FSID, slot)
        assert block.build() == data


def test_bytes_behind_the_addresses_of_a_raw_volume_are_garbage_that_is_kept() -> None:
    # The original's mkfs leaves bytes of its stack in bytes 8..31 of each slot that it writes (spec 01 §6.4).
    data = images.read("v2-raw-slot-bytes", "meta", SUPER_OFFSET, 4096)
    block = SuperBlock.parse(data)
    assert block.quorum_config.slots == {0: SlotAddress("127.0.0.1", 12345), 5: SlotAddress("127.0.0.1", 12350)}
    garbage = [slot.garbage for slot in block.raw.qconf.slots]
    assert any(garbage[0])
    assert any(garbage[5])
    for slot in block.raw.qconf.slots:
        slot.garbage = bytes(24)
    clean = block.build()
    masked = bytearray(data)
    for slot in (0, 5):
        masked[120 + 32 * slot + 8 : 120 + 32 * slot + 32] = bytes(24)
    assert clean == seal(bytes(masked), 4096) != data


DUMP = """
000: d9 a1 10 18 8b 42 3c 10 ef cd ab 89 67 45 23 01
010: 01 00 00 00 00 00 00 00 10 00 00 00 00 00 00 00
020: 00 00 00 00 00 00 00 00 02 00 00 00 00 00 00 00
030: 01 00 00 00 00 00 00 00 00 11 22 33 44 55 66 77
040: 88 99 aa bb cc dd ee ff 01 00 00 00 00 00 00 00
050: 00 04 00 00 00 00 00 00 01 00 00 00 00 00 00 00
060: 00 08 00 00 00 00 00 00 00 40 00 00 00 00 00 00
070: 01 00 00 00 00 00 00 00 01 00 39 30 01 00 00 7f
250: 00 00 00 00 00 00 00 00 fd 01 00 00 00 00 00 00
260: 00 00 00 00 00 00 00 00 05 04 00 00 00 00 00 00
270: 01 00 00 00 00 00 00 00 01 00 00 00 00 00 00 00
280: fc 01 00 00 00 00 00 00 00 00 00 00 00 00 00 00
290: 06 04 00 00 00 00 00 00 01 00 00 00 00 00 00 00
2a0: 01 00 00 00 00 00 00 00 c0 3f 00 00 00 00 00 00
2b0: 00 00 00 00 00 00 00 00 04 04 00 00 00 00 00 00
2c0: 01 00 00 00 00 00 00 00 01 00 00 00 00 00 00 00
2d0: 03 00 00 00 00 00 00 00 01 00 00 00 00 00 00 00
2e0: 00 04 00 00 00 00 00 00 00 04 00 00 00 00 00 00
350: 02 00 00 00 00 00 00 00 01 00 00 00 00 00 00 00
360: 01 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00
"""


def from_dump(text: str, size: int) -> bytes:
    """Return the block that a hex dump shows; lines of zeros are left out of it."""
    block = bytearray(size)
    for line in text.split("\n"):
        if line:
            offset, _, data = line.partition(":")
            block[int(offset, 16) : int(offset, 16) + 16] = bytes.fromhex(data)
    return bytes(block)


def root(blkno: int, height: int = 1) -> dict[str, object]:
    """What a root written by mkfs holds; see spec 01 §6.4."""
    return {"ref": {"blkno": blkno, "seq": 1 if blkno else 0}, "height": height if blkno else 0}


def test_the_worked_example() -> None:
    dump = from_dump(DUMP, 4096)
    assert dump == images.read("v2-1slot", "meta", SUPER_OFFSET, 4096)
    no_list = {"ref": {"blkno": 0, "seq": 0}, "total_nr": 0, "first_nr": 0, "flags": 0}
    absent = {"family": 0, "port": 0, "addr": 0, "garbage": bytes(24)}
    fields = {
        "hdr": {"crc": 0, "magic": 0x103C428B, "fsid": FSID, "seq": 1, "blkno": 16},
        "id": 0,
        "fmt_vers": 2,
        "flags": 1,
        "uuid": UUID,
        "seq": 1,
        "next_ino": 1024,
        "inode_count": 1,
        "total_meta_blocks": 2048,
        "total_data_blocks": 16384,
        "qconf": {
            "version": 1,
            "slots": [{"family": 1, "port": 12345, "addr": 0x7F000001, "garbage": bytes(24)}, *[absent] * 14],
        },
        "meta_alloc": [
            {"total_len": 509, "flags": 0, "root": root(1029)},
            {"total_len": 508, "flags": 0, "root": root(1030)},
        ],
        "data_alloc": {"total_len": 16320, "flags": 0, "root": root(1028)},
        "server_meta_avail": [
            {"ref": {"blkno": 3, "seq": 1}, "total_nr": 1024, "first_nr": 1024, "flags": 0},
            no_list,
        ],
        "server_meta_freed": [no_list, no_list],
        "fs_root": root(2),
        "logs_root": root(0),
        "log_merge": root(0),
        "mounted_clients": root(0),
        "srch_root": root(0),
        "volopt": {"set_bits": 0, "data_alloc_zone_blocks": 0, "future_expansion": [0] * 63},
    }
    assert seal(SuperBlockStruct.build(fields), 4096) == dump
    data = images.read("v2-1slot", "data", SUPER_OFFSET, 4096)
    assert seal(SuperBlockStruct.build({**fields, "flags": 0}), 4096) == data
    assert data[:4] == bytes.fromhex("7b63d59e")


@pytest.mark.parametrize("name", ["synthetic-all-structures", "synthetic-hash-wrap"])
def test_super_blocks_of_made_up_volumes(name: str) -> None:
    data = images.read(name, "meta", SUPER_OFFSET, 4096)
    assert SuperBlock.parse(data).build() == data


def refusal(data: bytes) -> str:
    """Return the field for which a super block is refused."""
    with pytest.raises(BlockError) as caught:
        SuperBlock.parse(data, "super block of m")
    assert str(caught.value).startswith("super block of m: ")
    return caught.value.field


def changed(offset: int, data: bytes) -> bytes:
    """Return the super block of the example with `data` at `offset` and a valid checksum."""
    block = bytearray(from_dump(DUMP, 4096))
    block[offset : offset + len(data)] = data
    return seal(bytes(block), 4096)


def test_refusals() -> None:
    valid = from_dump(DUMP, 4096)
    assert refusal(valid[:4095]) == "length"
    assert refusal(valid + b"\0") == "length"
    assert refusal(b"") == "length"
    assert refusal(valid[:4095] + b"x") == "crc"
    assert refusal(bytes(4096)) == "crc"
    assert refusal(changed(4, b"\x68\x08\x31\xbc")) == "magic"
    assert refusal(changed(24, b"\x11")) == "blkno"
    for version in (0, 3, 2**64 - 1):
        assert refusal(changed(40, version.to_bytes(8, "little"))) == "fmt_vers"
    for bit in [*range(8 * 600), *range(8 * 600, 8 * 4096, 41)]:
        flipped = bytearray(valid)
        flipped[bit // 8] ^= 1 << bit % 8
        assert refusal(bytes(flipped)) == "crc"
