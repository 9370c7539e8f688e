"""Hashes give what the original's functions gave."""

from __future__ import annotations

import json
from typing import Any

import pytest

from format.hashes import bloom_bits, dirent_name_hash, hash32, hash64, leaf_bucket, xattr_name_hash
from format.keys import Key
from tests.images import DIRECTORY

RECORDED = json.loads((DIRECTORY / "hashes.json").read_text())


@pytest.mark.parametrize("vector", RECORDED["hash32_fnv1a32"])
def test_hash32(vector: dict[str, str]) -> None:
    assert hash32(bytes.fromhex(vector["hex"])) == int(vector["hash"], 16)


@pytest.mark.parametrize("vector", RECORDED["hash64_fnv1a64"])
def test_hash64(vector: dict[str, str]) -> None:
    assert hash64(bytes.fromhex(vector["hex"])) == int(vector["hash"], 16)


@pytest.mark.parametrize("vector", RECORDED["dirent_name_hash"])
def test_name_hash(vector: dict[str, Any]) -> None:
    name = bytes.fromhex(vector["hex"])
    assert len(name) == vector["len"]
    assert dirent_name_hash(name) == int(vector["hash"], 16)
    assert dirent_name_hash(name) >> 32 == int(vector["fingerprint"], 16)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (b"a", 0x61000000E40C292C),
        (b"abcd", 0x61626364CE3479BD),
        (b"abcdefgh", 0x4554455676DAAA8D),
        (b"hello world.txt", 0x171E7E13924C5A41),
        (b"x" * 255, 0x0F0F0F0F6318963F),
    ],
)
def test_name_hashes_of_the_specification(name: bytes, expected: int) -> None:
    assert dirent_name_hash(name) == expected


@pytest.mark.parametrize("length", [1, 3, 4, 7, 8, 11, 12, 33, 100, 255])
def test_fingerprint_takes_every_nth_bit_of_the_name(length: int) -> None:
    name = bytes((n * 101 + 7) % 256 or 1 for n in range(length))
    bits = "".join(f"{byte:08b}" for byte in name)
    spread = bits[:: max(len(bits) // 32, 1)][:32].ljust(32, "0")
    assert dirent_name_hash(name) >> 32 == int(spread, 2)


@pytest.mark.parametrize("vector", RECORDED["xattr_name_hash"])
def test_xattr_name_hash(vector: dict[str, str]) -> None:
    assert xattr_name_hash(vector["name"].encode()) == int(vector["hash"], 16)


@pytest.mark.parametrize("vector", RECORDED["keys"])
def test_hashes_of_keys(vector: dict[str, Any]) -> None:
    data = bytes.fromhex(vector["bytes"])
    assert hash32(data) == int(vector["hash32"], 16)
    assert hash64(data) == int(vector["hash64"], 16)
    assert leaf_bucket(data) == vector["leaf_item_hash_ind"]
    assert bloom_bits(data) == tuple(vector["bloom_nrs"])


@pytest.mark.parametrize(
    ("key", "bucket"),
    [
        ("4.0.4.0.1.0", 252),
        ("16.1.4.0.0.0", 1040),
        ("36.524803.0.523773.0.0", 1157),
        ("40.18446744073709551609.0.524803.523773.0", 387),
    ],
)
def test_buckets_of_the_specification(key: str, bucket: int) -> None:
    assert leaf_bucket(Key.from_text(key).build()) == bucket


@pytest.mark.parametrize(
    ("key", "bits"),
    [
        ("16.0.0.0.0.0", (349301, 400905, 383775)),
        ("16.1024.0.0.0.0", (410633, 362016, 181083)),
        ("20.0.4.0.0.0", (440109, 39384, 111721)),
    ],
)
def test_bloom_bits_of_the_specification(key: str, bits: tuple[int, int, int]) -> None:
    assert bloom_bits(Key.from_text(key).build()) == bits
