"""Bitmaps kept as 64-bit words: bit n is bit n % 64 of word n // 64."""

from __future__ import annotations

from collections.abc import Iterable

from format.block import FormatError


def bits_of(words: Iterable[int]) -> list[int]:
    """Return the numbers of the bits that are set, ascending."""
    return [64 * index + bit for index, word in enumerate(words) for bit in range(64) if word >> bit & 1]


def words_of(bits: Iterable[int], count: int) -> list[int]:
    """Return `count` words with these bits set.  Raises FormatError for a bit that they do not have."""
    words = [0] * count
    for bit in bits:
        if not 0 <= bit < 64 * count:
            raise FormatError(f"bit {bit} is not in a bitmap of {64 * count}")
        words[bit // 64] |= 1 << bit % 64
    return words
