"""Hash functions of names and keys (spec 01 §5)."""

from __future__ import annotations

import struct as _struct
from collections.abc import Iterable

from format.checksum import Buffer, checksum

LEAF_BUCKETS = 1512
"""Buckets of the item hash at the end of a leaf."""
BLOOM_BITS = 523968
"""Bits of a bloom block that are used."""
BLOOM_HASHES = 3
"""Bits that each key sets in a bloom block."""

_BLOOM_SHIFT = 19
_FINGERPRINT_BITS = 32


_BASIS_32 = 0x811C9DC5
_PRIME_32 = 0x01000193
_MASK_32 = 0xFFFFFFFF


def hash32(data: Buffer) -> int:
    """Return the 32-bit FNV-1a hash of `data`."""
    value = _BASIS_32
    for byte in data:
        value = ((value ^ byte) * _PRIME_32) & _MASK_32
    return value


def hash32_of_columns(columns: Iterable[bytes], count: int) -> tuple[int, ...]:
    """Return the `hash32` of `count` strings of equal length at once; byte i of `columns[n]` is byte n of string i."""
    # All strings are hashed side by side in one large integer of 64-bit lanes; no product of 32 bits by 32 overflows
    # its lane.  Multiplications are put off over bytes that are zero in all strings.
    mask = int.from_bytes(_MASK_32.to_bytes(8, "little") * count, "little")
    value = int.from_bytes(_BASIS_32.to_bytes(8, "little") * count, "little")
    lanes = bytearray(8 * count)
    factor = 1
    for column in columns:
        if column.strip(b"\0"):
            lanes[::8] = column
            value = (value * factor & mask) ^ int.from_bytes(lanes, "little")
            factor = 1
        factor = factor * _PRIME_32 & _MASK_32
    hashes = (value * factor & mask).to_bytes(8 * count, "little")
    return _struct.unpack(f"<{count}Q", hashes)


def hash64(data: Buffer) -> int:
    """Return the 64-bit FNV-1a hash of `data`; of an xattr's full name it is the hash in srch entries."""
    value = 0xCBF29CE484222325
    for byte in data:
        value = ((value ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return value


def leaf_bucket(key: Buffer) -> int:
    """Return the bucket, 0..1511, at which the item with this 32-byte disk form of a key is first looked for."""
    return hash32(key) % LEAF_BUCKETS


def dirent_name_hash(name: Buffer) -> int:
    """Return the 64-bit hash of a file name: 32 of its bits, evenly spread, above its hash32."""
    bits = 8 * len(name)
    stride = max(bits // _FINGERPRINT_BITS, 1)
    number = int.from_bytes(name, "big")
    fingerprint = 0
    for taken, position in enumerate(range(bits - 1, -1, -stride)):
        if taken == _FINGERPRINT_BITS:
            break
        fingerprint |= (number >> position & 1) << (_FINGERPRINT_BITS - 1 - taken)
    return fingerprint << 32 | hash32(name)


def xattr_name_hash(name: Buffer) -> int:
    """Return the 32-bit hash of an extended attribute's full name (`user.` and so on included), for its key."""
    return checksum(name)


def bloom_bits(key: Buffer) -> tuple[int, int, int]:
    """Return the three bits, 0..523967 and maybe equal, that the 32-byte disk form of a key sets in a bloom block."""
    value = hash64(key)
    first, second, third = ((value >> _BLOOM_SHIFT * i & 0xFFFFFFFF) % BLOOM_BITS for i in range(BLOOM_HASHES))
    return first, second, third
