"""Attributes, their tags, and access control lists: what recorded volumes do not have."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from format.acl import AclEntry, AclTag, build_acl, parse_acl
from format.block import BlockError
from format.hashes import xattr_name_hash
from format.keys import FsType
from scoutfs.files.acl import Access, may_access
from scoutfs.files.errors import DamagedItem
from scoutfs.files.inode import Inode, decode_inode
from scoutfs.files.items import fs_key
from scoutfs.files.tags import NO_TAGS, BadTag, Tags, indx_name, is_hidden, parse_number, parse_tags, totl_name
from scoutfs.files.xattr import find_xattr, list_xattrs, read_xattrs
from tests import kernel_images
from tests.files.table import Table

SAME_HASH = (b"user.c297504", b"user.dd3de9565980db8")


def test_names_with_the_same_hash() -> None:
    assert xattr_name_hash(SAME_HASH[0]) == xattr_name_hash(SAME_HASH[1])
    items = Table()
    items.add_xattr(1, SAME_HASH[0], b"0" * 3000, 4)
    items.add_xattr(1, SAME_HASH[1], b"1" * 2000, 7)
    assert find_xattr(items, 1, SAME_HASH[0]) == b"0" * 3000
    assert find_xattr(items, 1, SAME_HASH[1]) == b"1" * 2000
    listed = [(name, id, size) for name, _, id, size in list_xattrs(items, 1)]
    assert listed == [(SAME_HASH[0], 4, 3000), (SAME_HASH[1], 7, 2000)]
    assert [found.id for found in list_xattrs(items, 1, xattr_name_hash(SAME_HASH[0]), 5)] == [7]


@given(st.dictionaries(st.binary(min_size=1, max_size=255), st.binary(max_size=5000), max_size=5))
def test_every_attribute_is_found_and_listed(xattrs: dict[bytes, bytes]) -> None:
    items = Table()
    for id, (name, value) in enumerate(xattrs.items()):
        items.add_xattr(3, name, value, id)
    assert {name: find_xattr(items, 3, name) for name in xattrs} == xattrs
    assert dict(read_xattrs(items, 3)) == xattrs
    assert {found.name: found.size for found in list_xattrs(items, 3)} == {
        name: len(value) for name, value in xattrs.items()
    }
    order = [(found.hash, found.id) for found in list_xattrs(items, 3)]
    assert order == sorted(order)
    assert find_xattr(items, 3, b"") is find_xattr(items, 3, b"n" * 256) is None


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_a_missing_part_is_damage(missing: int) -> None:
    items = Table()
    items.add_xattr(3, b"user.a", bytes(2000), 0)
    del items[fs_key(3, FsType.XATTR, xattr_name_hash(b"user.a"), 0, missing)]
    with pytest.raises(DamagedItem, match=r"^/dev/meta: item 16\.3\.8\."):
        find_xattr(items, 3, b"user.a")
    with pytest.raises(DamagedItem):
        list(read_xattrs(items, 3))
    if missing == 0:
        with pytest.raises(DamagedItem, match="part 0 is missing"):
            list(list_xattrs(items, 3))


@pytest.mark.parametrize("value", [b"", bytes(7), b"\0\0\0\0\0\0\0\0", b"\0\0\5\0\0\0\0\0abcd"])
def test_a_header_that_does_not_fit_is_damage(value: bytes) -> None:
    items = Table({fs_key(3, FsType.XATTR, xattr_name_hash(b"user.a"), 0, 0): value})
    for read in (lambda: find_xattr(items, 3, b"user.a"), lambda: list(list_xattrs(items, 3))):
        with pytest.raises(DamagedItem):
            read()


SPEC_TAGS = {
    b"user.scoutfs.hide.x": NO_TAGS,
    b"scoutfs.foo": NO_TAGS,
    b"scoutfs.hide.": NO_TAGS,
    b"scoutfs.12345": NO_TAGS,
    b"scoutfs.123456": None,
    b"scoutfs.hide.x": Tags(hide=True),
    b"scoutfs.hide.srch.": Tags(hide=True, srch=True),
    b"scoutfs.hide.hide.x": None,
    b"scoutfs.srch.hide.totl.a.1.2.3": Tags(hide=True, srch=True, totl=True),
    b"scoutfs.hidex.y": None,
    b"scoutfs.hide.worm.x": Tags(hide=True),
    b"scoutfs.worm.x.y": None,
    b"scoutfs.totl.1.2.3": Tags(totl=True),
    b"scoutfs.indx.5.100": Tags(indx=True),
}


@pytest.mark.parametrize("name", SPEC_TAGS)
def test_tags(name: bytes) -> None:
    """Spec 06 §13, run with the original's parser."""
    expected = SPEC_TAGS[name]
    if expected is None:
        with pytest.raises(BadTag):
            parse_tags(name)
        assert not is_hidden(name)
        return
    assert parse_tags(name) == expected
    assert is_hidden(name) == expected.hide


def test_numbers_in_names() -> None:
    """Spec 06 §13."""
    assert totl_name(b"scoutfs.srch.hide.totl.a.1.2.3") == (1, 2, 3)
    assert totl_name(b"scoutfs.totl.1.2.3") == (1, 2, 3)
    assert totl_name(b"scoutfs.totl.a.0x10.010.5") == (16, 8, 5)
    assert totl_name(b"scoutfs.totl.a.1.2.01777777777777777777777")[2] == 2**64 - 1
    assert indx_name(b"scoutfs.indx.5.100") == (5, 100)
    for name in (b"scoutfs.totl.2.3", b"scoutfs.totl.a.1.2.001777777777777777777777", b"scoutfs.totl.a.1..3"):
        with pytest.raises(BadTag):
            totl_name(name)
    with pytest.raises(BadTag):
        indx_name(b"scoutfs.indx.256.100")


def test_numbers() -> None:
    """Spec 06 §13."""
    good = {b"1": 1, b"010": 8, b"0x1F": 31, b"5\0junk": 5, b"5\n\0": 5, b"0" * 22 + b"7": 7, b"0": 0}
    assert {text: parse_number(text) for text in good} == good
    for text in (b"0x", b"08", b"+1", b"-1", b"", b"1\n", b"18446744073709551616", b"1" * 24, b"\0", b" 1", b"1_0"):
        with pytest.raises(BadTag):
            parse_number(text)


ACLS = re.compile(r"# file: \./(.*)\n# owner: (\d+)\n# group: (\d+)\n((?:.+\n)+)")


def test_access_control_lists_are_those_of_getfacl(opened) -> None:
    files = opened("rich-v2-merged")
    tags = {"user": (AclTag.USER_OBJ, AclTag.USER), "group": (AclTag.GROUP_OBJ, AclTag.GROUP)}
    letters = {"mask": AclTag.MASK, "other": AclTag.OTHER}
    found = ACLS.findall(kernel_images.recording("rich-v2-merged", "getfacl.txt").decode())
    assert len(found) >= 4
    for path, owner, group, lines in found:
        inode = files.resolve(path.encode())
        assert (inode.uid, inode.gid) == (int(owner), int(group))
        for prefix, name in (("", b"system.posix_acl_access"), ("default:", b"system.posix_acl_default")):
            expected = []
            for line in lines.splitlines():
                if line.startswith("default:") != bool(prefix):
                    continue
                who, id, perm = line.removeprefix(prefix).split("\t")[0].split(":")
                tag = letters[who] if who in letters else tags[who][id != ""]
                number = sum(4 >> i for i, letter in enumerate(perm) if letter != "-")
                expected.append(AclEntry(tag, number, int(id) if id else 0xFFFFFFFF))
            stored = files.acl(inode.ino, name)
            # lists of the three classes alone are what the mode says
            assert (stored or ()) == (tuple(expected) if len(expected) > 3 else ())
            if stored:
                assert build_acl(stored) == files.getxattr(inode.ino, name)


BASE = (AclEntry(AclTag.USER_OBJ, 6), AclEntry(AclTag.GROUP_OBJ, 4), AclEntry(AclTag.OTHER, 0))


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\2\0\0\0",
        b"\1\0\0\0" + build_acl(BASE)[4:],
        build_acl(BASE)[:-1],
        build_acl(BASE[:2]),
        build_acl((BASE[1], BASE[0], BASE[2])),
        build_acl((*BASE, BASE[2])),
        build_acl((BASE[0], AclEntry(AclTag.USER, 4, 5), *BASE[1:])),
        build_acl(BASE)[:4] + b"\3\0" + build_acl(BASE)[6:],
        build_acl(BASE)[:6] + b"\x08\0" + build_acl(BASE)[8:],
    ],
)
def test_lists_that_make_no_sense(value: bytes) -> None:
    with pytest.raises(BlockError, match="access control list"):
        parse_acl(value, "it")


def inode(mode: int, uid: int = 1000, gid: int = 100) -> Inode:
    return decode_inode(5, bytes(168), 2)._replace(mode=mode, uid=uid, gid=gid)


def test_access_by_mode() -> None:
    file = inode(0o100640)
    for want, uid, groups, allowed in (
        (Access.READ | Access.WRITE, 1000, {100}, True),
        (Access.EXECUTE, 1000, {100}, False),
        (Access.READ, 1, {7, 100}, True),
        (Access.WRITE, 1, {7, 100}, False),
        (Access.READ, 1, {7}, False),
        (Access.READ | Access.WRITE, 0, {0}, True),
        (Access.EXECUTE, 0, {0}, False),
    ):
        assert may_access(file, want, uid, groups) == allowed
    assert not may_access(inode(0o100077), Access.READ, 1000, {100}), "the owner has what the owner's bits say"
    assert may_access(inode(0o040000), Access.EXECUTE, 0, {0})
    assert may_access(inode(0o100001), Access.EXECUTE, 0, {0})


def test_access_by_list() -> None:
    """acl(5): the first class that applies decides, a mask limits all but owner and others."""
    acl = (
        AclEntry(AclTag.USER_OBJ, 7),
        AclEntry(AclTag.USER, 7, 50),
        AclEntry(AclTag.USER, 0, 51),
        AclEntry(AclTag.GROUP_OBJ, 4),
        AclEntry(AclTag.GROUP, 6, 200),
        AclEntry(AclTag.MASK, 5),
        AclEntry(AclTag.OTHER, 2),
    )
    file = inode(0o100752)
    for want, uid, groups, allowed in (
        (7, 1000, {1}, True),
        (5, 50, {1}, True),
        (2, 50, {1}, False),
        (4, 51, {100}, False),
        (4, 60, {100}, True),
        (4, 60, {200}, True),
        (2, 60, {100, 200}, False),
        (2, 60, {1}, True),
        (4, 60, {1}, False),
    ):
        assert may_access(file, want, uid, groups, acl) == allowed, (want, uid, groups)
