"""Sizes as people read them; expectations are texts of the original."""

from __future__ import annotations

import pytest

from scoutfs.tools.sizes import size_text


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0.00B"),
        (1023, "1023.00B"),
        (1024, "1.00KB"),
        (266240, "260.00KB"),
        (67698688, "64.56MB"),
        (85000000, "81.06MB"),
        (50000001, "47.68MB"),
        (9998336, "9.54MB"),
        (134217728, "128.00MB"),
        (64 << 30, "64.00GB"),
        (8 << 40, "8.00TB"),
        (1 << 50, "1.00PB"),
        (1 << 63, "8.00EB"),
    ],
)
def test_sizes(size, text):
    assert size_text(size) == text


def test_a_separator():
    assert size_text(128 << 20, " ") == "128.00 MB"


def test_values_are_of_single_precision():
    """1024 GiB - 1 byte has no single precision value below 1024 GiB; in double precision it would be 1024.00GB."""
    assert size_text((1 << 40) - 1) == "1.00TB"
