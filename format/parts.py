"""Strings longer than an item's value, cut into parts of 896 bytes (spec 01 §3.14, §3.17)."""

from __future__ import annotations

from format.block import BlockError
from format.btree import MAX_VALUE_SIZE
from format.checksum import Buffer


def split_parts(data: Buffer) -> list[bytes]:
    """Return the parts of `data`, each but the last of 896 bytes; none if it is empty."""
    return [bytes(data[start : start + MAX_VALUE_SIZE]) for start in range(0, len(data), MAX_VALUE_SIZE)]


def join_parts(parts: list[bytes], size: int, what: str) -> bytes:
    """Return the string of `size` bytes that was cut into `parts`.

    Raises BlockError naming `what` if a part is missing, too many or of another length than it should be.
    """
    sizes = [len(part) for part in split_parts(bytes(size))]
    if len(parts) != len(sizes):
        raise BlockError(what, "number of parts", len(parts), len(sizes))
    for index, (part, expected) in enumerate(zip(parts, sizes, strict=True)):
        if len(part) != expected:
            raise BlockError(f"{what} part {index}", "length", len(part), expected)
    return b"".join(parts)
