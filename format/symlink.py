"""Targets of symbolic links, kept in items as strings with their terminating null (spec 01 §3.17)."""

from __future__ import annotations

from format.block import BlockError, FormatError
from format.parts import join_parts, split_parts

SYMLINK_MAX_SIZE = 4096
"""Bytes of the longest target, its null included."""


def split_target(target: bytes) -> list[bytes]:
    """Return the values of the items of a target (without null), by part number.

    The inode's size is the length of the target plus one.  Raises FormatError for a target too long, empty or with a
    null in it.
    """
    if not target or b"\0" in target or len(target) >= SYMLINK_MAX_SIZE:
        raise FormatError(f"no target of a symbolic link: {len(target)} bytes, 1 to {SYMLINK_MAX_SIZE - 1} allowed")
    return split_parts(target + b"\0")


def join_target(parts: list[bytes], size: int, what: str) -> bytes:
    """Return the target, without null, of a link whose inode has this `size`.  Raises BlockError naming `what`."""
    if not 1 <= size <= SYMLINK_MAX_SIZE:
        raise BlockError(what, "size", size)
    target = join_parts(parts, size, what)
    if target[-1]:
        raise BlockError(what, "terminating null", target[-1], 0)
    return target[:-1]
