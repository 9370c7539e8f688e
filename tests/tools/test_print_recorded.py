"""The text of print equals the original's, byte for byte, for every recorded volume."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from scoutfs.storage.device import Device
from tests import images, kernel_images
from tests.memory import MemoryIO
from tests.tools.printing import Printed, print_device

TEXTS = sorted(path.name.removesuffix(".print.txt") for path in images.DIRECTORY.glob("*.print.txt"))

# For an inode item of 160 bytes the original takes the 8 bytes behind the value for the project: those of the hash
# table or of another item.  We print 0.  Only the number in these lines may differ.
_OLD_INODE = re.compile(
    r"( vl 160\n    16\.\d+\.4\.0\.0\.0 \d+ -\n    inode: ino \d+ size \d+ version \d+ proj )\d+", re.ASCII
)


def print_recorded(name: str, **options: bool) -> Printed:
    io = MemoryIO({"m": images.load(name, "meta")})
    with Device.open("m", io=io) as device:
        return print_device(device, **options)


def without_strange_projects(text: str) -> str:
    return _OLD_INODE.sub(r"\g<1>0", text)


def assert_equal(text: str, expected: str) -> None:
    """Compare texts of megabytes line by line: pytest's own comparison of them would take minutes."""
    if text == expected:
        return
    lines, expected_lines = text.split("\n"), expected.split("\n")
    for number, (line, expected_line) in enumerate(zip(lines, expected_lines, strict=False), 1):
        assert line == expected_line, f"line {number}"
    assert len(lines) == len(expected_lines)


def test_all_texts_are_here() -> None:
    assert len(TEXTS) == 18


@pytest.mark.parametrize("name", TEXTS)
def test_volumes_of_the_original_tools(name: str) -> None:
    printed = print_recorded(name)
    expected = (images.DIRECTORY / f"{name}.print.txt").read_text("ascii")
    assert_equal(printed.text, without_strange_projects(expected))
    assert printed.problems == []


def test_large_trees_are_left_out() -> None:
    printed = print_recorded("synthetic-all-structures", skip_likely_huge=True)
    assert_equal(printed.text, (images.DIRECTORY / "synthetic-all-structures.print-S.txt").read_text("ascii"))
    assert printed.problems == []


@pytest.mark.parametrize("name", [*kernel_images.KEPT, *kernel_images.OTHERS])
def test_volumes_of_the_kernel(name: str, tmp_path: Path) -> None:
    image = kernel_images.unpack(name, "meta", tmp_path / "m")
    try:
        with Device.open(image) as device:
            started = time.process_time()
            printed = print_device(device)
            took = time.process_time() - started
    finally:
        # up to 100 MB each, and pytest keeps its directories
        image.unlink()
    expected = kernel_images.printed(name)
    assert_equal(printed.text, without_strange_projects(expected))
    assert printed.problems == []
    # a second or so for 7 MB: far more would be work of another order
    assert took < 20


def test_the_mask_hides_nothing_but_projects_of_short_inodes() -> None:
    short = " vl 160\n    16.1.4.0.0.0 10 -\n    inode: ino 1 size 21 version 3 proj 77 nlink 3\n"
    assert without_strange_projects(short) == short.replace("proj 77", "proj 0")
    long = short.replace("vl 160", "vl 168")
    assert without_strange_projects(long) == long
