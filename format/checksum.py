"""The one checksum of the format: CRC-32C without the final inversion (spec 01 §2.2)."""

from __future__ import annotations

from typing import TypeAlias

import crc32c as _crc32c

Buffer: TypeAlias = bytes | bytearray | memoryview

_ALL_ONES = 0xFFFFFFFF


def checksum(data: Buffer) -> int:
    """Return the 32-bit checksum of `data`.

    Castagnoli polynomial, reflected, register starting at all ones, **no** final inversion: the complement of what a
    common CRC-32C library returns.  Blocks cover everything behind their first four bytes, UDP messages their first 28
    bytes, xattr keys the name.
    """
    return int(_crc32c.crc32c(data)) ^ _ALL_ONES
