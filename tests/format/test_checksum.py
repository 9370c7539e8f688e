"""The checksum gives what the original's function gave."""

from __future__ import annotations

import json
from typing import Any

import pytest

from format.block import BlockError, Magic, seal, verify_block
from format.checksum import checksum
from tests.images import DIRECTORY

RECORDED = json.loads((DIRECTORY / "hashes.json").read_text())["crc32c_seed_ffffffff_no_final_xor"]
MKFS_QUORUM_HEADER = bytes.fromhex("78917be2680831bcefcdab8967452301 01000000000000001100000000000000")


@pytest.mark.parametrize("vector", RECORDED)
def test_recorded_values(vector: dict[str, Any]) -> None:
    data = bytes(vector["zeros"]) if "zeros" in vector else bytes.fromhex(vector["hex"])
    assert checksum(data) == int(vector["crc"], 16)


@pytest.mark.parametrize(
    ("data", "crc"),
    [
        (b"", 0xFFFFFFFF),
        (b"a", 0x3E2FBCCF),
        (b"123456789", 0x1CF96D7C),
        (bytes(4092), 0x58CDA791),
        (bytes(65532), 0xE8A56956),
        (bytes(range(256)), 0x63BBE7B4),
    ],
)
def test_values_of_the_specification(data: bytes, crc: int) -> None:
    assert checksum(data) == checksum(bytearray(data)) == checksum(memoryview(data)) == crc


def by_the_book(data: bytes) -> int:
    """The checksum bit by bit from its definition in spec 01 §2.2."""
    register = 0xFFFFFFFF
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = register >> 1 ^ (0x82F63B78 if register & 1 else 0)
    return register


@pytest.mark.parametrize("length", [1, 2, 3, 7, 8, 9, 28, 100, 4092])
def test_equals_its_definition(length: int) -> None:
    data = bytes(n * 37 % 251 for n in range(length))
    assert checksum(data) == by_the_book(data)


def test_block_of_mkfs_verifies_and_is_what_seal_makes() -> None:
    block = MKFS_QUORUM_HEADER + bytes(4064)
    header = verify_block("block", block, 4096, Magic.QUORUM, fsid=0x0123456789ABCDEF, blkno=17, seq=1)
    assert header.crc == 0xE27B9178
    assert seal(bytes(4) + MKFS_QUORUM_HEADER[4:], 4096) == block


def test_blocks_of_zeros_do_not_verify() -> None:
    for size in (4096, 65536):
        with pytest.raises(BlockError) as caught:
            verify_block("block", bytes(size), size, Magic.SUPER)
        assert caught.value.field == "crc"


@pytest.mark.parametrize(
    ("field", "expectations"),
    [("fsid", {"fsid": 1}), ("blkno", {"blkno": 18}), ("seq", {"seq": 2})],
)
def test_each_expectation_is_checked(field: str, expectations: dict[str, int]) -> None:
    block = MKFS_QUORUM_HEADER + bytes(4064)
    with pytest.raises(BlockError) as caught:
        verify_block("block", block, 4096, Magic.QUORUM, **expectations)
    assert (caught.value.field, caught.value.expected) == (field, expectations[field])


def test_checks_come_in_the_order_of_the_specification() -> None:
    block = MKFS_QUORUM_HEADER + bytes(4064)
    wrong = {"fsid": 1, "blkno": 1, "seq": 2}

    def first_failure(data: bytes, magic: Magic, **expectations: int) -> str:
        with pytest.raises(BlockError) as caught:
            verify_block("block", data, 4096, magic, **expectations)
        return caught.value.field

    assert first_failure(block[:-1], Magic.SUPER, **wrong) == "length"
    assert first_failure(block[:-1] + b"x", Magic.SUPER, **wrong) == "crc"
    assert first_failure(block, Magic.SUPER, **wrong) == "magic"
    assert first_failure(block, Magic.QUORUM, **wrong) == "fsid"
    assert first_failure(block, Magic.QUORUM, blkno=1, seq=2) == "blkno"


def test_seal_refuses_what_does_not_fit() -> None:
    with pytest.raises(BlockError):
        seal(bytes(4097), 4096)
