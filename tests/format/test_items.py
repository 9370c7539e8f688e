"""Values of items: what is built is read, and what cannot be is refused with a typed error."""

from __future__ import annotations

import stat
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from format import dirent, symlink, xattr
from format.alloc import LIST_MAX_BLOCKS, AllocListBlock, ListBlock, build_list_block, read_list_block
from format.bitmap import bits_of, words_of
from format.block import BlockError, FormatError, Magic, Ref, verify_block
from format.dirent import DirEntry, DirentType
from format.extent import Extent, data_extent, data_extent_key, extent_order, free_extent, free_extent_keys
from format.inode import Inode, InodeV1, build_inode, inode_size, parse_inode
from format.keys import Key
from format.logs import bloom_has, bloom_set
from format.parts import join_parts, split_parts
from format.symlink import join_target, split_target
from format.timespec import seconds_from_disk, seconds_to_disk
from format.xattr import IndxEntry, Xattr, indx_entry, indx_key, join_xattr, split_xattr, xattr_name
from tests import images

u8 = st.integers(0, 255)
u64 = st.integers(0, 2**64 - 1)


# Inodes (spec 01 §3.12)


def root_inode() -> bytes:
    """The root inode of the worked example in spec 01 §6.7, format version 2."""
    return images.read("v2-1slot", "meta", 0x20000 + 62344, 168)


def test_the_root_inode_of_mkfs() -> None:
    inode = parse_inode(root_inode(), 2, "inode")
    times = {"sec": 1754300000, "nsec": 123456000}
    said = {name: value for name, value in inode.items() if name in ("nlink", "mode", "next_readdir_pos", "proj")}
    assert said == {"nlink": 2, "mode": 0o40755, "next_readdir_pos": 2, "proj": 0}
    for name in ("atime", "ctime", "mtime", "crtime"):
        assert {"sec": inode[name].sec, "nsec": inode[name].nsec} == times
    fields = {field.name: 0 for field in Inode.subcons} | dict.fromkeys(("atime", "ctime", "mtime", "crtime"), times)
    assert build_inode({**fields, **said}, 2) == root_inode()
    assert build_inode({**fields, **said}, 1) == root_inode()[:160]


def test_short_inodes_have_no_project() -> None:
    for fmt_vers in (1, 2):
        assert parse_inode(root_inode()[:160], fmt_vers, "inode").proj == 0
    assert parse_inode(root_inode()[:160] + b"\x07" + bytes(7), 2, "inode").proj == 7
    assert (inode_size(1), inode_size(2)) == (InodeV1.sizeof(), Inode.sizeof()) == (160, 168)


@pytest.mark.parametrize(
    ("length", "fmt_vers"), [(0, 2), (159, 1), (159, 2), (161, 2), (167, 2), (169, 2), (168, 1), (896, 2)]
)
def test_inodes_of_another_length_are_refused(length: int, fmt_vers: int) -> None:
    with pytest.raises(BlockError) as caught:
        parse_inode(bytes(length), fmt_vers, "inode 7")
    assert (caught.value.field, caught.value.stored) == ("length", length)


def test_seconds_before_the_epoch() -> None:
    assert seconds_from_disk(2**64 - 1) == -1
    assert seconds_to_disk(-1) == 2**64 - 1
    assert seconds_from_disk(2**63 - 1) == 2**63 - 1
    assert seconds_from_disk(2**63) == -(2**63)
    assert [seconds_from_disk(seconds_to_disk(second)) for second in (-5, 0, 5)] == [-5, 0, 5]


# Directory entries (spec 01 §3.13)


@given(st.builds(DirEntry, u64, u64, u64, u8, st.binary(min_size=1, max_size=255)))
def test_entries_are_built_as_they_are_read(entry: DirEntry) -> None:
    value = entry.build()
    assert DirEntry.parse(value, "entry") == entry
    assert value[:24] == struct.pack("<QQQ", entry.ino, entry.hash, entry.pos)
    assert (value[24], value[25:32], value[32:]) == (entry.type, bytes(7), entry.name)


def test_entries_without_a_name_of_1_to_255_bytes_are_refused() -> None:
    for length in (0, 1, 31, 32, 288, 896):
        with pytest.raises(BlockError, match="name length"):
            DirEntry.parse(bytes(length), "entry")
    for name in (b"", b"x" * 256):
        with pytest.raises(FormatError):
            DirEntry(1, 2, 3, 4, name).build()
    with pytest.raises(FormatError):
        DirEntry(1, 2, 3, 256, b"x").build()
    assert DirEntry.parse(bytes(33), "entry").name == b"\0"


def test_types_of_entries_have_their_own_numbers() -> None:
    assert [type_.name for type_ in DirentType] == ["FIFO", "CHR", "DIR", "BLK", "REG", "LNK", "SOCK", "WHT"]
    assert list(DirentType) == list(range(8))
    modes = [stat.S_IFIFO, stat.S_IFCHR, stat.S_IFDIR, stat.S_IFBLK, stat.S_IFREG, stat.S_IFLNK, stat.S_IFSOCK]
    assert [DirentType.from_mode(mode | 0o644) for mode in modes] == list(range(7))
    with pytest.raises(FormatError):
        DirentType.from_mode(0o644)
    assert dirent.FIRST_POS == 2


# Extended attributes (spec 01 §3.14, §4.4)


@given(st.builds(Xattr, st.binary(min_size=1, max_size=255), st.binary(max_size=3000)))
def test_attributes_are_cut_and_joined(attribute: Xattr) -> None:
    parts = split_xattr(attribute)
    whole = struct.pack("<HB5x", len(attribute.value), len(attribute.name)) + attribute.name + attribute.value
    assert b"".join(parts) == whole
    assert len(parts) == -(-len(whole) // 896)
    assert {len(part) for part in parts[:-1]} <= {896}
    assert join_xattr(parts, "xattr") == attribute
    assert xattr_name(parts[0], "xattr") == attribute.name


def test_the_greatest_attribute() -> None:
    attribute = Xattr(b"n" * 255, bytes(range(256)) * 255 + bytes(255))
    parts = split_xattr(attribute)
    assert len(parts) == 74
    assert join_xattr(parts, "xattr") == attribute


def test_attributes_that_cannot_be_are_refused() -> None:
    for wrong in (Xattr(b"", b""), Xattr(b"n" * 256, b""), Xattr(b"n", bytes(65536))):
        with pytest.raises(FormatError):
            split_xattr(wrong)
    parts = split_xattr(Xattr(b"name", bytes(2000)))
    assert len(parts) == 3
    nameless = bytes(2) + b"\0" + bytes(5)
    for damaged in ([], parts[:-1], [*parts, b""], [*parts[:-1], parts[-1] + b"x"], [parts[0][:-1], *parts[1:]]):
        with pytest.raises(BlockError):
            join_xattr(damaged, "xattr")
    for first in (b"", parts[0][:7], nameless, parts[0][:11]):
        with pytest.raises(BlockError):
            xattr_name(first, "xattr")
        with pytest.raises(BlockError):
            join_xattr([first], "xattr")
    assert xattr.HEADER_SIZE == 8


def test_the_printed_index_key() -> None:
    key = indx_key(IndxEntry(7, 0x1122334455667788, 1025, 0x99))
    assert str(key) == "14.509225836454700663.0.9799832789158199300.72057594037927936.153"


@given(st.builds(IndxEntry, u8, u64, u64, u64))
def test_index_keys_hold_a_string_of_200_bits(entry: IndxEntry) -> None:
    key = indx_key(entry)
    assert indx_entry(key) == entry
    assert key.first == entry.major << 56 | entry.minor >> 8
    assert key.second == (entry.minor << 56 | entry.ino >> 8) % 2**64
    assert key.third == (entry.ino << 56 | entry.xid >> 8) % 2**64
    assert (key.zone, key.type, key.fourth) == (14, 0, entry.xid & 0xFF)


@given(st.lists(st.builds(IndxEntry, u8, u64, u64, u64), max_size=8))
def test_index_keys_sort_as_their_entries(entries: list[IndxEntry]) -> None:
    assert [indx_entry(key) for key in sorted(map(indx_key, entries))] == sorted(entries)


def test_index_entries_out_of_range_are_refused() -> None:
    for wrong in (IndxEntry(256, 0, 0, 0), IndxEntry(0, -1, 0, 0), IndxEntry(0, 0, 2**64, 0)):
        with pytest.raises(FormatError):
            indx_key(wrong)


# Symbolic links (spec 01 §3.17)


@given(st.binary(min_size=1, max_size=4095).filter(lambda target: b"\0" not in target))
def test_targets_are_cut_and_joined(target: bytes) -> None:
    parts = split_target(target)
    assert b"".join(parts) == target + b"\0"
    assert 1 <= len(parts) <= 5
    assert join_target(parts, len(target) + 1, "link") == target


def test_targets_that_cannot_be_are_refused() -> None:
    for wrong in (b"", b"a\0b", b"x" * 4096):
        with pytest.raises(FormatError):
            split_target(wrong)
    parts = split_target(b"x" * 1000)
    assert join_target([b"abc\0"], 4, "link") == b"abc"
    damaged = [(parts, 1000), (parts, 1002), (parts[:1], 1001), (parts, 0), (parts, 4097), ([b"abcd"], 4), ([], 1)]
    for values, size in damaged:
        with pytest.raises(BlockError):
            join_target(values, size, "link")
    assert symlink.SYMLINK_MAX_SIZE == 4096


def test_parts() -> None:
    assert split_parts(b"") == []
    assert join_parts([], 0, "string") == b""
    assert [len(part) for part in split_parts(bytes(1792))] == [896, 896]
    with pytest.raises(BlockError, match="number of parts"):
        join_parts([], 1, "string")


# Extents (spec 01 §4.3)


def test_keys_of_free_extents_of_the_worked_example() -> None:
    keys = free_extent_keys(Extent(64, 16320))
    assert [str(key) for key in keys] == ["36.16383.0.16320.0.0", "40.18446744073709551611.0.16383.16320.0"]
    assert [free_extent(key) for key in keys] == [Extent(64, 16320)] * 2


@pytest.mark.parametrize(
    ("length", "order"), [(1, 0), (7, 0), (8, 1), (63, 1), (64, 2), (511, 2), (512, 3), (2**63, 21), (2**64 - 1, 21)]
)
def test_orders_are_logarithms_to_the_base_8(length: int, order: int) -> None:
    assert extent_order(length) == order


extents = st.integers(0, 2**64 - 1).flatmap(
    lambda start: st.builds(Extent, st.just(start), st.integers(1, min(2**64 - start, 2**64 - 1)))
)


@given(extents, st.integers(0, 2**64 - 1))
def test_extents_are_found_in_their_keys(extent: Extent, ino: int) -> None:
    by_location, by_order = free_extent_keys(extent)
    assert free_extent(by_location) == free_extent(by_order) == extent
    assert (by_location.first, by_order.second) == (extent.last, extent.last)
    key = data_extent_key(ino, extent)
    assert data_extent(key) == extent
    assert (key.zone, key.first, key.type, key.second, key.third) == (16, ino, 28, extent.last, extent.length)


@given(st.lists(extents, min_size=2, max_size=6))
def test_longer_extents_sort_first(several: list[Extent]) -> None:
    ordered = [free_extent(key) for key in sorted(free_extent_keys(extent)[1] for extent in several)]
    orders = [extent_order(extent.length) for extent in ordered]
    assert orders == sorted(orders, reverse=True)


def test_extents_that_cannot_be_are_refused() -> None:
    for wrong in (Extent(0, 0), Extent(-1, 1), Extent(1, 2**64), Extent(2**64, 1)):
        with pytest.raises(FormatError):
            free_extent_keys(wrong)
        with pytest.raises(FormatError):
            data_extent_key(1, wrong)


def test_extents_of_impossible_keys_wrap_as_the_original_prints_them() -> None:
    # The last item of a parent has the greatest key; see spec 01 §7.6.
    assert free_extent(Key.ONES) == Extent(1, 2**64 - 1)


# Lists of blocks (spec 01 §3.6)


def test_the_list_of_mkfs() -> None:
    data = images.read("v2-1slot", "meta", 3 * 65536, 65536)
    verify_block("list", data, 65536, Magic.ALLOC_LIST, fsid=0x0123456789ABCDEF, blkno=3, seq=1)
    assert read_list_block(data, "list") == ListBlock(Ref(), tuple(range(4, 1028)))
    assert data[:4].hex() == "93ce67cc"
    assert build_list_block(0x0123456789ABCDEF, Ref(3, 1), range(4, 1028)) == data


@given(st.lists(u64, max_size=20), st.integers(0, 8165), st.builds(Ref, u64, u64), st.builds(Ref, u64, u64), u64)
def test_lists_are_built_as_they_are_read(blknos: list[int], start: int, ref: Ref, following: Ref, fsid: int) -> None:
    data = build_list_block(fsid, ref, blknos, start=start, next=following)
    verify_block("list", data, 65536, Magic.ALLOC_LIST, fsid=fsid, blkno=ref.blkno, seq=ref.seq)
    assert read_list_block(data, "list") == ListBlock(following, tuple(blknos), start)
    assert AllocListBlock.parse(data[:56]).nr == len(blknos)


def test_lists_hold_8185_entries() -> None:
    data = build_list_block(1, Ref(2, 3), range(LIST_MAX_BLOCKS))
    assert read_list_block(data, "list").blknos == tuple(range(8185))
    for start, count in ((0, 8186), (1, 8185), (-1, 1)):
        with pytest.raises(FormatError):
            build_list_block(1, Ref(2, 3), range(count), start=start)
    with pytest.raises(FormatError):
        build_list_block(1, Ref(2, 3), [2**64])


@pytest.mark.parametrize(
    ("start", "nr", "field"),
    [(0, 8186, "nr"), (8185, 1, "nr"), (1, 8185, "nr"), (8186, 0, "start"), (2**32 - 1, 2**32 - 1, "start")],
)
def test_counts_that_leave_the_list_are_refused(start: int, nr: int, field: str) -> None:
    data = bytearray(65536)
    struct.pack_into("<II", data, 48, start, nr)
    with pytest.raises(BlockError) as caught:
        read_list_block(data, "list 5")
    assert caught.value.field == field
    with pytest.raises(BlockError, match="length"):
        read_list_block(data[:-1], "list 5")


# Bitmaps (spec 01 §3.7, §3.8; 03 §5.4)


@given(st.sets(st.integers(0, 1023)))
def test_bitmaps_are_little_endian_all_through(bits: set[int]) -> None:
    words = words_of(bits, 16)
    assert bits_of(words) == sorted(bits)
    stored = struct.pack("<16Q", *words)
    assert {bit for bit in range(1024) if stored[bit // 8] >> bit % 8 & 1} == bits


def test_bits_beyond_a_bitmap_are_refused() -> None:
    for bit in (-1, 1024):
        with pytest.raises(FormatError):
            words_of([bit], 16)


def test_bloom_blocks() -> None:
    data = bytearray(65536)
    for bit in (0, 9, 523967):
        data[40 + bit // 8] |= 1 << bit % 8
    assert bloom_has(data, (0, 9, 523967))
    assert bloom_has(data, (9, 9, 9))
    assert not bloom_has(data, (0, 9, 10))
    assert data[65535] == 0x80


def test_setting_bloom_bits() -> None:
    # Spec 04 §1.2, §7.4: bit b is in byte 40 + b // 8; total_set grows by the bits that were not set.
    data = bytearray(65536)
    bloom_set(data, (9, 523967, 9))
    assert (data[41], data[-1], sum(data[40:])) == (2, 128, 130)
    assert data[32:40] == bytes([2]) + bytes(7)
    bloom_set(data, (9, 0, 523967))
    assert data[32:41] == bytes([3]) + bytes(7) + bytes([1])
    assert bloom_has(data, (0, 9, 523967))
