"""Directories and links: what recorded volumes do not have."""

from __future__ import annotations

import pytest

from format.hashes import dirent_name_hash
from format.keys import FsType
from scoutfs.files.directory import DirectoryEntry, d_type, find_entry, list_directory
from scoutfs.files.errors import DamagedItem, NameTooLong, TooManyLinks
from scoutfs.files.items import fs_key
from scoutfs.files.links import links, paths
from tests.files.table import Table

SAME_HASH = (b"fingerprint-zero-for-every-ascii650e1037f1", b"fingerprint-zero-for-every-asciif88b07c622")


def test_names_with_the_same_hash() -> None:
    assert dirent_name_hash(SAME_HASH[0]) == dirent_name_hash(SAME_HASH[1])
    items = Table()
    for pos, name in enumerate(SAME_HASH, 5):
        items.add_entry(1, name, 2000 + pos, pos)
    found = [find_entry(items, 1, name) for name in SAME_HASH]
    assert [(entry.ino, entry.pos, entry.name) for entry in found if entry] == [
        (2005, 5, SAME_HASH[0]),
        (2006, 6, SAME_HASH[1]),
    ]
    assert find_entry(items, 2, SAME_HASH[0]) is None
    assert find_entry(items, 1, SAME_HASH[0] + b"x") is None


def test_a_name_too_long_is_refused_before_anything_is_read() -> None:
    assert find_entry(Table(), 1, b"x" * 255) is None
    with pytest.raises(NameTooLong, match="256 bytes"):
        find_entry(Table(), 1, b"x" * 256)


def test_listing_from_any_position() -> None:
    items = Table()
    for pos in (3, 7, 2**64 - 2):
        items.add_entry(9, b"%d" % pos, 100, pos)
    items.add_entry(5, b"nine", 9, 4, type=2)
    dots = [DirectoryEntry(b".", 9, 2, 0, 1), DirectoryEntry(b"..", 5, 2, 1, 3)]
    rest = [
        DirectoryEntry(b"3", 100, 4, 3, 7),
        DirectoryEntry(b"7", 100, 4, 7, 2**64 - 2),
        DirectoryEntry(b"18446744073709551614", 100, 4, 2**64 - 2, 2**64 - 1),
    ]
    whole = dots + rest
    assert list(list_directory(items, 9)) == whole
    for pos, start in ((1, 1), (2, 2), (3, 2), (4, 3), (8, 4), (2**64 - 2, 4), (2**64 - 1, 5), (2**64, 5)):
        assert list(list_directory(items, 9, pos)) == whole[start:]


def test_an_empty_directory_and_one_that_was_unlinked() -> None:
    assert [entry[1:] for entry in list_directory(Table(), 1)] == [(1, 2, 0, 1), (1, 2, 1, 2)]
    assert [entry.ino for entry in list_directory(Table(), 77)] == [77, 77]


def test_types_as_readdir_numbers_them() -> None:
    """The table of spec 06 §3.1."""
    assert [d_type(type) for type in range(9)] == [1, 2, 4, 6, 8, 10, 12, 14, 0]


@pytest.mark.parametrize("size", [0, 31, 32, 288])
def test_entries_of_the_wrong_length_are_damage(size: int) -> None:
    for key, read in (
        (fs_key(1, FsType.READDIR, 2), lambda items: list(list_directory(items, 1))),
        (fs_key(1, FsType.DIRENT, dirent_name_hash(b"a"), 2), lambda items: find_entry(items, 1, b"a")),
        (fs_key(1, FsType.LINK_BACKREF, 2, 2), lambda items: list(links(items, 1))),
    ):
        with pytest.raises(DamagedItem, match=r"^/dev/meta: item 16\.1\.\d+\.\d+\.\d\.0: .*name length"):
            read(Table({key: bytes(size)}))


def test_parents_that_do_not_lead_to_the_root() -> None:
    items = Table()
    items.add_entry(10, b"a", 11, 2, type=2)
    items.add_entry(11, b"b", 10, 2, type=2)
    items.add_entry(11, b"file", 12, 3)
    with pytest.raises(TooManyLinks):
        list(paths(items, 12))
    items.add_entry(500, b"file", 13, 2)
    with pytest.raises(TooManyLinks):
        list(paths(items, 13))


def test_paths_of_hard_links_in_order_and_from_anywhere() -> None:
    items = Table()
    items.add_entry(1, b"d", 20, 2, type=2)
    items.add_entry(20, b"y", 30, 9)
    items.add_entry(1, b"x", 30, 5)
    items.add_entry(20, b"z", 30, 10)
    assert [path for path, _ in paths(items, 30)] == [b"x", b"d/y", b"d/z"]
    assert [path for path, _ in paths(items, 30, 1, 6)] == [b"d/y", b"d/z"]
    assert [path for path, _ in paths(items, 30, 20, 10)] == [b"d/z"]
