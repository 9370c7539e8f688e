"""Print reads nothing but what is there, ends, and says what is missing, whatever a device holds."""

from __future__ import annotations

import errno
import os
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from format.superblock import SuperBlockStruct
from scoutfs.errors import ScoutfsError
from scoutfs.storage.device import Device
from scoutfs.tools.print import Output, print_volume
from tests import images
from tests.memory import Image, MemoryIO
from tests.tools.printing import Printed, print_device

LARGE = 65536
SUPER = 65536
NAME = "synthetic-all-structures"
EXPECTED = (images.DIRECTORY / f"{NAME}.print.txt").read_text("ascii")
FS_ROOT = EXPECTED[EXPECTED.index("fs_root btree blkno 1102") :]
READS_MAX = 20_000
"""More block reads than any walk of these few blocks may need."""


class CountingIO(MemoryIO):
    """Fails the test if print goes on and on."""

    reads = 0

    def pread(self, fd, buffer, offset):
        self.reads += 1
        assert self.reads < READS_MAX, "print does not end"
        return super().pread(fd, buffer, offset)


def print_image(image: Image, **options: bool) -> Printed:
    with Device.open("m", io=CountingIO({"m": image})) as device:
        return print_device(device, **options)


@pytest.fixture
def image() -> Image:
    return images.load(NAME, "meta")


def change_super(image: Image, **fields: object) -> None:
    """Change fields of the super block; its checksum then does not fit, which print shows and goes on."""
    parsed = SuperBlockStruct.parse(image.read(SUPER, 4096))
    parsed.update(fields)
    image.write(SUPER, SuperBlockStruct.build(parsed))


def root(blkno: int, height: int) -> dict[str, object]:
    return {"ref": {"blkno": blkno, "seq": 1}, "height": height}


def btree_block(level: int, items: list[bytes], blkno: int) -> bytes:
    """Build a block of items of 56 bytes each; values are added at the end."""
    head = struct.pack("<IIQQQ", 0, 0xE597F96D, 1, 1, blkno) + struct.pack("<HHHHB7x", 0, len(items), 0, 0, level)
    return (head + b"".join(items)).ljust(LARGE, b"\0")


def parent(blkno: int, level: int, children: list[tuple[bytes, int]]) -> bytes:
    """Build a parent of (key, blkno of the child)."""
    items, values, position = [], {}, LARGE
    for key, child in children:
        position -= 16
        values[position] = struct.pack("<QQ", child, 1)
        items.append(bytes(8) + key + struct.pack("<QHHB3x", 0, position, 16, 0))
    block = bytearray(btree_block(level, items, blkno))
    for position, value in values.items():
        block[position : position + 16] = value
    return bytes(block)


def split_leaf(image: Image, leaf: int, blknos: tuple[int, int], blkno: int, first: int) -> None:
    """Give the first `first` items of a leaf and the rest leaves of their own, below a new parent `blkno`.

    Assumes that the items lie in the order of their keys.
    """
    data = image.read(leaf * LARGE, LARGE)
    (count,) = struct.unpack_from("<H", data, 34)
    items = [data[48 + 56 * index : 104 + 56 * index] for index in range(count)]
    for target, part in zip(blknos, (items[:first], items[first:]), strict=True):
        changed = bytearray(data)
        changed[34:36] = struct.pack("<H", len(part))
        changed[48 : 48 + 56 * len(part)] = b"".join(part)
        image.write(target * LARGE, bytes(changed))
    ones = b"\xff" * 27 + bytes(5)
    image.write(blkno * LARGE, parent(blkno, 1, [(items[first - 1][8:40], blknos[0]), (ones, blknos[1])]))


def contents_of_logs(text: str) -> str:
    """Return what comes behind the tree of `logs_root`: the search files, then what each log refers to."""
    start = text.index("\n", text.rindex("data_alloc_zones: ")) + 1
    return text[start : text.index("fs_root btree", start)]


@pytest.mark.parametrize("name", ["logs_root", "srch_root"])
def test_trees_of_logs_and_searches_are_descended(image: Image, name: str) -> None:
    leaf = {"logs_root": 1160, "srch_root": 1145}[name]
    split_leaf(image, leaf, (1300, 1301), 1302, first=1)
    change_super(image, **{name: root(1302, 2)})
    printed = print_image(image)
    assert printed.problems == []
    assert contents_of_logs(printed.text) == contents_of_logs(EXPECTED)
    for blkno in (1300, 1301, 1302):
        assert printed.text.count(f"{name} btree blkno {blkno}\n") == 1


def test_a_block_that_cannot_be_read_takes_only_what_is_below_it(image: Image) -> None:
    class BadBlocks(CountingIO):
        def pread(self, fd, buffer, offset):
            if offset in (1101 * LARGE, 1110 * LARGE):
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return super().pread(fd, buffer, offset)

    io = BadBlocks({"m": image})
    with Device.open("m", io=io) as device:
        printed = print_device(device)
    missing_list = EXPECTED.index("server_meta_avail[0] alloc_list_block"), EXPECTED.index("server_meta_avail[1] alloc")
    expected = EXPECTED[: missing_list[0]] + EXPECTED[missing_list[1] : EXPECTED.index("fs_root btree blkno 1101")]
    assert printed.text == expected
    why = "incomplete pread: m: reading 65536 bytes at {}: Input/output error"
    assert printed.problems == [
        f"server_meta_avail[0] alloc_list_block 1110: {why.format(1110 * LARGE)}",
        f"fs_root btree block 1101: {why.format(1101 * LARGE)}",
    ]


def test_a_truncated_device(image: Image) -> None:
    image.size = 1160 * LARGE + 4096
    printed = print_image(image)
    assert printed.text.endswith(FS_ROOT)
    assert "logs_root btree" not in printed.text
    [problem] = printed.problems
    assert problem.startswith(f"logs_root btree block 1160: incomplete pread: m: reading 65536 bytes at {1160 * LARGE}")


def test_quorum_blocks_that_cannot_be_read(image: Image) -> None:
    image.size = SUPER + 4096 * 3
    change_super(
        image,
        **{name: root(0, 0) for name in ("fs_root", "logs_root", "log_merge", "mounted_clients", "srch_root")},
    )
    printed = print_image(image, skip_likely_huge=True)
    assert "quorum blkno 18 (slot 1)" in printed.text
    assert "quorum blkno 19 (slot 2)" not in printed.text
    quorum = [problem for problem in printed.problems if problem.startswith("quorum block ")]
    assert len(quorum) == 13


@pytest.mark.parametrize("size", [0, 1, 32768, SUPER, SUPER + 4095])
def test_no_super_block_to_read(size: int) -> None:
    with pytest.raises(ScoutfsError, match=r"^super block: incomplete pread: m: "):
        print_image(Image(size))


def test_circles_in_trees(image: Image) -> None:
    ones = b"\xff" * 27 + bytes(5)
    keys = [bytes([index]) + bytes(31) for index in range(200)]
    # a parent that is its own child 200 times, and claims to be of a level that changes with the way to it
    image.write(1300 * LARGE, parent(1300, 1, [(key, 1300) for key in keys] + [(ones, 1100)]))
    change_super(image, fs_root=root(1300, 2))
    printed = print_image(image)
    assert printed.text.count("\nfs_root btree blkno 1300\n") == 1
    assert printed.text.count("\nfs_root btree blkno 1100\n") == 1
    assert "fs_root btree block 1300: referred to twice in one tree, printed once" in printed.problems


@pytest.mark.parametrize("height", [3, 20, 21, 255])
def test_trees_that_are_not_as_high_as_their_root_says(image: Image, height: int) -> None:
    change_super(image, fs_root=root(1102, height))
    printed = print_image(image)
    [problem] = printed.problems
    if height > 20:
        assert problem == f"fs_root btree: height is {height}, at most 20 is possible: left out"
        assert printed.text.endswith(contents_of_logs(EXPECTED))
    else:
        expected = f"level is 1, expected {height - 1}, what is below is left out"
        assert problem == f"fs_root btree block 1102: {expected}"
        assert printed.text.count("fs_root btree") == 1


def test_more_items_than_a_block_holds(image: Image) -> None:
    block = bytearray(image.read(1100 * LARGE, LARGE))
    block[34:36] = b"\xff\xff"
    image.write(1100 * LARGE, bytes(block))
    printed = print_image(image)
    assert "fs_root btree block 1100: nr_items is 65535, only 1169 fit" in printed.problems
    assert "    16.1.4.0.0.0 10 -\n    inode: ino 1 size 21 version 3 proj 0 nlink 3\n" in printed.text


def test_values_that_are_too_short(image: Image) -> None:
    block = bytearray(image.read(1100 * LARGE, LARGE))
    for index in range(13):
        block[48 + 56 * index + 50 : 48 + 56 * index + 52] = struct.pack("<H", 3)
    image.write(1100 * LARGE, bytes(block))
    printed = print_image(image)
    assert "    inode: ino 1 (short inode value: val_len 3)\n" in printed.text
    assert "    dirent: dir 1 (short dirent value: val_len 3)\n" in printed.text
    assert "    xattr totl: 1.2.3 (short xattr totl value: val_len 3)\n" in printed.text
    assert "    quota rule: hash 0x586c9e2fa7a8b119 coll_nr 0 (short quota rule value: val_len 3)\n" in printed.text
    assert printed.problems == []


def test_a_value_that_passes_the_end_of_its_block(image: Image) -> None:
    block = bytearray(image.read(1100 * LARGE, LARGE))
    root_inode = 440
    block[root_inode + 48 : root_inode + 50] = struct.pack("<H", LARGE - 100)
    image.write(1100 * LARGE, bytes(block))
    assert "    inode: ino 1 (short inode value: val_len 168)\n" in print_image(image).text


def test_circles_in_lists(image: Image) -> None:
    block = bytearray(image.read(1112 * LARGE, LARGE))
    block[32:48] = struct.pack("<QQ", 1111, 22)
    image.write(1112 * LARGE, bytes(block))
    printed = print_image(image)
    assert printed.problems == ["server_meta_avail[1] alloc_list_block 1111: the chain comes back to it"]
    assert printed.text.count("server_meta_avail[1] alloc_list_block blkno 1111\n") == 1


def test_circles_in_search_files(image: Image) -> None:
    block = bytearray(image.read(1144 * LARGE, LARGE))
    block[32:48] = struct.pack("<QQ", 1144, 64)
    image.write(1144 * LARGE, bytes(block))
    leaf = bytearray(image.read(1145 * LARGE, LARGE))
    height_of_the_file = 62248 + 80
    assert leaf[height_of_the_file] == 2
    leaf[height_of_the_file] = 255
    image.write(1145 * LARGE, bytes(leaf))
    printed = print_image(image)
    assert "srch parent block 1144: referred to twice in one file, printed once" in printed.problems
    assert "srch parent block 1141: is none, its children are left out" in printed.problems
    assert printed.text.endswith(FS_ROOT)


def test_search_entries_that_pass_the_end(image: Image) -> None:
    block = bytearray(image.read(1143 * LARGE, LARGE))
    block[104:108] = struct.pack("<I", 2**32 - 1)
    image.write(1143 * LARGE, bytes(block))
    printed = print_image(image)
    assert "  [1]: (5) 0000000000000001.2.3\n" in printed.text
    assert len(printed.problems) == 3
    assert all(problem.startswith("srch block 1143 entry 2: ") for problem in printed.problems)


def test_devices_without_metadata() -> None:
    data = images.load("v2-1slot", "data")
    pieces: list[str] = []
    refusal = r"^m: Printing from data device is not allowed, name the metadata device$"
    with Device.open("m", io=CountingIO({"m": data})) as device, pytest.raises(ScoutfsError, match=refusal):
        print_volume(device, Output(pieces.append, pieces.append))
    recorded = (images.DIRECTORY / "v2-1slot.print.txt").read_text("ascii")
    recorded_super = recorded[: recorded.index("quorum blkno 17")]
    expected = recorded_super.replace("1810a1d9", "9ed5637b").replace(
        "flags: 0x0000000000000001", "flags: 0x0000000000000000"
    )
    assert "".join(pieces) == expected
    with pytest.raises(ScoutfsError, match=r"^m: no super block, this is not a metadata device$"):
        print_image(Image(1 << 20))


BLOCKS = [
    *((SUPER + 4096 * index, 4096) for index in range(16)),
    *((blkno * LARGE, LARGE) for blkno in range(1100, 1161)),
]
# where the numbers are that others depend on: headers of blocks, of items, of values at both ends of a block
OFFSETS = st.one_of(st.integers(24, 200), st.integers(0, 1500), st.integers(0, 65535), st.integers(61000, 62600))
NUMBERS = st.one_of(
    st.integers(1098, 1162),
    st.sampled_from([0, 1, 2, 15, 16, 17, 255, 65520, 65535, 2**16, 2**31, 2**32 - 1, 2**63, 2**64 - 1]),
    st.integers(0, 2**64 - 1),
)
CHANGES = st.lists(
    st.tuples(st.sampled_from(BLOCKS), OFFSETS, NUMBERS, st.sampled_from([1, 2, 4, 8])), min_size=5, max_size=40
)


@settings(max_examples=200, deadline=None)
@given(changes=CHANGES)
def test_changed_blocks(changes: list[tuple[tuple[int, int], int, int, int]]) -> None:
    image = images.load(NAME, "meta")
    for (offset, size), position, number, width in changes:
        at = offset + min(position, size - 8)
        image.write(at, (number % 256**width).to_bytes(width, "little"))
    if not image.read(SUPER + 48, 1)[0] & 1:
        with pytest.raises(ScoutfsError, match=r"is not allowed|no super block"):
            print_image(image)
        return
    printed = print_image(image)
    assert printed.text.isascii()
    assert printed.text.startswith("super blkno 16\n")
    assert all("\n" not in problem for problem in printed.problems)


@settings(max_examples=30, deadline=None)
@given(filled=st.lists(st.tuples(st.sampled_from(BLOCKS[16:]), st.binary(min_size=1, max_size=64)), min_size=5))
def test_blocks_of_other_contents(filled: list[tuple[tuple[int, int], bytes]]) -> None:
    image = images.load(NAME, "meta")
    for (offset, size), data in filled:
        image.write(offset, (data * (size // len(data) + 1))[:size])
    assert print_image(image).text.startswith("super blkno 16\n")
