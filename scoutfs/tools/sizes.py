"""Sizes in bytes as the tools print them."""

from __future__ import annotations

import struct

_UNITS = ("B", "KB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB")
_STEP = 1024


def size_text(size: int, separator: str = "") -> str:
    """Return `size` in the greatest unit, powers of 1024, that leaves at least 1, with two digits: `128.00MB`.

    The value is rounded to single precision first, as the original does: it shows in the last digit of large sizes.
    """
    value: float = struct.unpack("<f", struct.pack("<f", float(size)))[0]
    unit = 0
    while value >= _STEP and unit < len(_UNITS) - 1:
        value /= _STEP
        unit += 1
    return f"{value:.2f}{separator}{_UNITS[unit]}"
