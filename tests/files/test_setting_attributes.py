"""Attributes of all kinds: tagged ones and what follows from them, lists, owners, retention, projects, quotas."""

from __future__ import annotations

import errno
import stat
from typing import Any

import pytest

from format.acl import ACCESS_NAME, DEFAULT_NAME, AclEntry, AclTag, build_acl
from format.hashes import hash64
from format.inode import InodeFlag
from format.keys import Key, Zone
from format.quota import QuotaOp, QuotaRuleFlag, QuotaSource
from format.srch import Entry
from scoutfs.errors import ScoutfsError
from scoutfs.files.acl_writing import remove_attribute, set_attribute
from scoutfs.files.attr_x import NewAttrX, set_attr_x
from scoutfs.files.attributes import NewAttributes, set_attributes
from scoutfs.files.caller import ROOT, Caller, Capability
from scoutfs.files.create import create, create_unlinked, symlink
from scoutfs.files.deletion import delete_some
from scoutfs.files.indexes import Total
from scoutfs.files.linking import link, rmdir, unlink
from scoutfs.files.quota import Rule, RuleName, read_rules
from scoutfs.files.quota_check import Attributes, matching_rule, rank
from scoutfs.files.quota_writing import add_rule, delete_rule, encode_rule
from scoutfs.files.rename import Kinship, Names, rename
from scoutfs.files.truncate import set_size
from scoutfs.files.writing import preallocate, write
from scoutfs.files.xattr import find_xattr, list_xattrs
from tests.files.world import ROOT_INO, World

SOMEONE = Caller(5, 6, frozenset({6, 7}), Capability(0))
OWNER = Caller(5, 6, frozenset({6, 7}), Capability(0))


def refused(world: World, operation: Any, *arguments: Any, **keywords: Any) -> int:
    """Return the errno that an operation is refused with, 0 if it is not."""
    try:
        world.perform(operation, *arguments, **keywords)
    except ScoutfsError as error:
        return error.errno
    return 0


def totals(world: World) -> dict[tuple[int, int, int], tuple[int, int]]:
    """Return all totals."""
    found = {}
    for sort_bytes, _ in world.store.unlocked():
        key = Key.from_sort_bytes(sort_bytes)
        if key.zone == Zone.XATTR_TOTL:
            name = key.first, key.second, key.third
            total = world.total(name)
            assert total is not None
            found[name] = total.total, total.count
    return found


def test_an_attribute_that_is_replaced_keeps_its_id() -> None:
    world = World()
    ino = world.make(b"f")
    for length in (10, 3000, 900, 65535, 0):
        world.perform(set_attribute, ino, b"user.a", b"v" * length, ROOT)
        world.perform(set_attribute, ino, b"user.b", b"w", ROOT)
        assert find_xattr(world.reader(), ino, b"user.a") == b"v" * length
        world.check()
    assert world.inode(ino).next_xattr_id == 2
    now, version = world.tick(), world.inode(ino).version
    world.perform(remove_attribute, ino, b"user.a", ROOT)
    assert [found.id for found in list_xattrs(world.reader(), ino)] == [1]
    inode = world.inode(ino)
    assert (inode.ctime, inode.version, inode.next_xattr_id) == (now, version + 1, 2)
    world.perform(set_attribute, ino, b"user.a", b"", ROOT)
    assert sorted(found.id for found in list_xattrs(world.reader(), ino)) == [1, 2]
    world.check()


def test_tags() -> None:
    world = World()
    ino = world.make(b"f")
    name = b"scoutfs.srch.hide.totl.x.1.2.3"
    world.perform(set_attribute, ino, name, b"0x10", ROOT)
    world.check()
    assert totals(world) == {(1, 2, 3): (16, 1)}
    assert world.search_entries == [Entry(hash64(name), ino, 0)]
    world.perform(set_attribute, ino, name, b"7", ROOT)
    assert totals(world) == {(1, 2, 3): (7, 1)}
    assert len(world.search_entries) == 1
    world.perform(set_attribute, ino, b"scoutfs.totl.other.1.2.3", b"5", ROOT)
    world.perform(set_attribute, ino, b"scoutfs.totl.0.0.1", b"18446744073709551615", ROOT)
    assert totals(world) == {(1, 2, 3): (12, 2), (0, 0, 1): (-1, 1)}
    world.perform(set_attribute, ino, b"scoutfs.indx.5.100", b"", ROOT)
    world.perform(set_attribute, ino, b"scoutfs.indx.5.100", b"", ROOT)
    world.check()
    assert sum(key[0] == Zone.XATTR_INDX for key in world.store.keys) == 1
    world.perform(remove_attribute, ino, name, ROOT)
    world.perform(set_attribute, ino, name, b"1", ROOT)
    assert [entry.id for entry in world.search_entries] == [0, 0, 4]
    world.check()
    world.perform(unlink, ROOT_INO, b"f")
    world.check()
    world.steps(delete_some, ino)
    assert totals(world) == {}
    assert not any(key[0] == Zone.XATTR_INDX for key in world.store.keys)
    assert [entry.id for entry in world.search_entries] == [0, 0, 4, 4]
    world.check()


def test_what_attributes_are_refused_with() -> None:
    """Spec 06 §4.2, §4.3, §4.5: the first of several reasons counts."""
    world, old = World(), World(fmt_vers=1)
    ino, pipe = world.make(b"f"), world.make(b"p", stat.S_IFIFO)
    old_ino = old.make(b"f")
    long = b"user." + b"n" * 251
    for expected, name, value, caller, flags in (
        (errno.EOPNOTSUPP, b"system.x", b"", ROOT, {}),
        (errno.EOPNOTSUPP, b"other.x", b"", ROOT, {}),
        (errno.EINVAL, b"scoutfs.worm.x.y", b"", SOMEONE, {}),
        (errno.EINVAL, b"scoutfs.hide.hide.x", b"", ROOT, {}),
        (errno.EINVAL, b"scoutfs.totl.indx.1.2.3", b"", SOMEONE, {}),
        (errno.ERANGE, long, bytes(65536), ROOT, {}),
        (errno.ERANGE, b"user.", b"", ROOT, {}),
        (errno.E2BIG, b"user.a", bytes(65536), ROOT, {"create": True, "replace": True}),
        (errno.EINVAL, b"user.a", b"", ROOT, {"create": True, "replace": True}),
        (errno.EPERM, b"scoutfs.totl.2.3", b"", SOMEONE, {}),
        (errno.EPERM, b"scoutfs.hide.x", b"", SOMEONE, {}),
        (errno.EPERM, b"trusted.x", b"", SOMEONE, {}),
        (errno.EINVAL, b"scoutfs.totl.2.3", b"1", ROOT, {}),
        (errno.EINVAL, b"scoutfs.indx.256.100", b"", ROOT, {}),
        (errno.EINVAL, b"scoutfs.indx.5.100", b"x", ROOT, {}),
        (errno.EINVAL, b"scoutfs.totl.1.2.3", b"", ROOT, {}),
        (errno.ENODATA, b"scoutfs.totl.1.2.3", b"", ROOT, {"replace": True}),
        (0, b"scoutfs.foo", b"", SOMEONE, {}),
        (0, b"scoutfs.hide.", b"", SOMEONE, {}),
        (0, b"user." + b"n" * 250, bytes(65535), SOMEONE, {"create": True}),
        (errno.EEXIST, b"scoutfs.foo", b"", SOMEONE, {"create": True}),
    ):
        assert refused(world, set_attribute, ino, name, value, caller, **flags) == expected, name
    assert refused(world, set_attribute, pipe, b"user.a", b"", ROOT) == errno.EPERM
    assert refused(world, set_attribute, pipe, b"trusted.a", b"", ROOT) == 0
    assert refused(world, remove_attribute, ino, b"user.none", ROOT) == errno.ENODATA
    assert refused(old, set_attribute, old_ino, b"scoutfs.indx.5.100", b"", ROOT) == errno.EOPNOTSUPP
    world.check()


def test_lists() -> None:
    """What the comparison with the kernel does not reach: others than root, and lists that are no lists."""
    world = World()
    ino = world.make(b"f", stat.S_IFREG | stat.S_ISGID | 0o640, caller=OWNER)
    acl = (AclEntry(AclTag.USER_OBJ, 6), AclEntry(AclTag.USER, 7, 9), AclEntry(AclTag.GROUP_OBJ, 4))
    acl = (*acl, AclEntry(AclTag.MASK, 5), AclEntry(AclTag.OTHER, 1))
    stranger = SOMEONE._replace(uid=8)
    assert refused(world, set_attribute, ino, ACCESS_NAME, build_acl(acl), stranger) == errno.EPERM
    assert refused(world, set_attribute, ino, ACCESS_NAME, b"\2\0\0\0\1\0\7\0", OWNER) == errno.EINVAL
    world.perform(set_attribute, ino, ACCESS_NAME, build_acl(acl), OWNER)
    assert world.inode(ino).mode == stat.S_IFREG | stat.S_ISGID | 0o651
    elsewhere = OWNER._replace(groups=frozenset({7}))
    world.perform(set_attributes, ino, NewAttributes(mode=0o2731), elsewhere)
    assert world.inode(ino).mode == stat.S_IFREG | 0o731
    expected = (acl[0]._replace(perm=7), acl[1], acl[2], acl[3]._replace(perm=3), acl[4])
    assert find_xattr(world.reader(), ino, ACCESS_NAME) == build_acl(expected)
    world.perform(set_attribute, ino, ACCESS_NAME, b"\2\0\0\0", OWNER)
    assert find_xattr(world.reader(), ino, ACCESS_NAME) is None
    assert world.inode(ino).mode == stat.S_IFREG | 0o731
    assert refused(world, set_attribute, ino, DEFAULT_NAME, build_acl(acl), OWNER) == errno.EINVAL
    world.perform(symlink, ROOT_INO, b"s", world.new_ino(), b"t", ROOT)
    for operation, arguments in (
        (set_attribute, (ACCESS_NAME, build_acl(acl), ROOT)),
        (set_attributes, (NewAttributes(mode=0o700), ROOT)),
    ):
        assert refused(world, operation, world.ino_of(b"s"), *arguments) == errno.EOPNOTSUPP
    world.check()


def test_owners() -> None:
    world = World()
    ino = world.make(b"f", stat.S_IFREG | 0o6755, caller=OWNER)
    stranger = SOMEONE._replace(uid=8)
    for caller, new, expected in (
        (stranger, NewAttributes(mode=0o700), errno.EPERM),
        (stranger, NewAttributes(gid=6), errno.EPERM),
        (OWNER, NewAttributes(uid=8), errno.EPERM),
        (OWNER, NewAttributes(gid=9), errno.EPERM),
        (OWNER, NewAttributes(uid=5, gid=7), 0),
    ):
        assert refused(world, set_attributes, ino, new, caller) == expected
    assert world.inode(ino)[11:14] == (5, 7, stat.S_IFREG | 0o755)
    now = world.tick()
    world.perform(set_attributes, ino, NewAttributes(atime=-1, mtime=2**40), OWNER)
    inode = world.inode(ino)
    assert (inode.atime, inode.mtime, inode.ctime) == (-1, 2**40, now)


def test_the_group_of_a_directory() -> None:
    world = World()
    at = world.make(b"d", stat.S_IFDIR | 0o777)
    world.perform(set_attributes, at, NewAttributes(gid=77, mode=0o2777), ROOT)
    file = world.make(b"f", stat.S_IFREG | 0o2755, at, SOMEONE)
    directory = world.make(b"d", stat.S_IFDIR | 0o755, at, SOMEONE)
    assert (world.inode(file).gid, world.inode(file).mode) == (77, stat.S_IFREG | 0o755)
    assert (world.inode(directory).gid, world.inode(directory).mode) == (77, stat.S_IFDIR | 0o2755)
    world.check()


def test_retention() -> None:
    """Spec 06 §10.1."""
    world = World()
    ino, other = world.make(b"f"), world.make(b"other")
    world.perform(set_attr_x, ino, NewAttrX(retention=True), ROOT)
    assert world.inode(ino).flags == InodeFlag.RETENTION
    for operation, arguments in (
        (write, (ino, 0, b"x", ROOT)),
        (set_size, (ino, 0, ROOT)),
        (preallocate, (ino, 0, 1)),
        (set_attributes, (ino, NewAttributes(mode=0), ROOT)),
        (unlink, (ROOT_INO, b"f")),
        (rename, (Names(ROOT_INO, b"f", ROOT_INO, b"g"),)),
        (rename, (Names(ROOT_INO, b"other", ROOT_INO, b"f"),)),
        (set_attribute, (ino, b"user.a", b"", ROOT)),
        (remove_attribute, (ino, b"user.a", ROOT)),
        (set_attr_x, (ino, NewAttrX(project_id=1), ROOT)),
        (set_attr_x, (ino, NewAttrX(retention=True), ROOT)),
    ):
        assert refused(world, operation, *arguments) == errno.EPERM, operation
    world.perform(link, ino, ROOT_INO, b"g")
    world.perform(set_attribute, ino, b"trusted.a", b"", ROOT)
    world.perform(set_attr_x, ino, NewAttrX(retention=False, project_id=3), ROOT)
    assert (world.inode(ino).flags, world.inode(ino).proj) == (0, 3)
    world.perform(write, ino, 0, b"x", ROOT)
    assert world.inode(other).proj == 0
    world.check()


def test_what_attr_x_refuses() -> None:
    """Spec 06 §6.1."""
    world, old = World(), World(fmt_vers=1)
    ino, written, old_ino = world.make(b"f"), world.make(b"w"), old.make(b"f")
    world.perform(write, written, 0, b"x", ROOT)
    for where, of, new, caller, expected in (
        (world, ino, NewAttrX(ctime=1), SOMEONE, errno.EPERM),
        (world, ino, NewAttrX(data_version=0), ROOT, errno.EINVAL),
        (world, ino, NewAttrX(size=1), ROOT, errno.EINVAL),
        (world, ino, NewAttrX(size_offline=True), ROOT, errno.EINVAL),
        (world, written, NewAttrX(data_version=5), ROOT, errno.EINVAL),
        (world, written, NewAttrX(size=0), ROOT, errno.EINVAL),
        (world, ROOT_INO, NewAttrX(retention=True), ROOT, errno.EINVAL),
        (world, ROOT_INO, NewAttrX(data_version=5), ROOT, errno.EINVAL),
        (old, old_ino, NewAttrX(retention=True), ROOT, errno.EOPNOTSUPP),
        (old, old_ino, NewAttrX(project_id=1), ROOT, errno.EOPNOTSUPP),
        (world, written, NewAttrX(), ROOT, 0),
        (world, ROOT_INO, NewAttrX(project_id=7, crtime=5), ROOT, 0),
    ):
        assert refused(where, set_attr_x, of, new, caller) == expected, new
    before = world.inode(ino)
    new = NewAttrX(9, 10, 11, 5000, project_id=12, size_offline=True)
    world.perform(set_attr_x, ino, new, ROOT)
    expected = {"data_version": 9, "ctime": 10, "crtime": 11, "size": 5000, "offline_blocks": 2, "proj": 12}
    assert world.inode(ino) == before._replace(**expected)
    world.check()
    child = world.make(b"child")
    assert world.inode(child).proj == 7
    world.perform(create_unlinked, ROOT_INO, 5000, 0o600, ROOT)
    assert world.inode(5000).proj == 7


def rule(op: QuotaOp, limit: int, *names: tuple[int, int, bool], prio: int = 0, count: bool = False) -> Rule:
    """Return a rule."""
    first, second, third = (RuleName(value, QuotaSource(source), select) for value, source, select in names)
    return Rule(prio, (first, second, third), op, limit, QuotaRuleFlag(count))


PER_USER = rule(QuotaOp.INODE, 10, (22222, 2, True), (1, 0, False), (1, 0, False), count=True)


def test_quotas() -> None:
    """Spec 06 §9.3, §9.4."""
    world = World()
    ino = world.make(b"f", caller=SOMEONE)
    files = rule(QuotaOp.INODE, 2, (9, 0, False), (5, 2, True), (0, 3, False), count=True)
    data = rule(QuotaOp.DATA, 100, (9, 0, False), (0, 2, False), (0, 1, False))
    world.rule_list = [files, data]
    assert refused(world, create, ROOT_INO, b"a", 5001, stat.S_IFREG, SOMEONE) == 0
    world.perform(set_attribute, ino, b"scoutfs.totl.9.5.6", b"100", ROOT)
    world.perform(set_attribute, ino, b"scoutfs.totl.a.9.5.6", b"0", ROOT)
    assert world.total((9, 5, 6)) == Total((9, 5, 6), 100, 2)
    for operation in (create, symlink):
        last = stat.S_IFDIR if operation is create else b"t"
        assert refused(world, operation, ROOT_INO, b"b", 5002, last, SOMEONE) == errno.EDQUOT
    assert refused(world, create_unlinked, ROOT_INO, 5002, 0, SOMEONE) == errno.EDQUOT
    assert refused(world, create, ROOT_INO, b"b", 5002, stat.S_IFREG, ROOT) == 0
    assert refused(world, link, ino, ROOT_INO, b"l") == 0
    for total, expected in ((99, 0), (100, errno.EDQUOT)):
        world.perform(set_attribute, ino, b"scoutfs.totl.9.5.0", b"%d" % total, ROOT)
        assert refused(world, write, ino, 0, b"x", ROOT) == expected
        assert refused(world, preallocate, ino, 0, 1) == expected
    assert refused(world, set_size, ino, 0, ROOT) == 0
    greater = data._replace(prio=1, limit=101)
    world.rule_list = [files, data, greater]
    assert matching_rule(world.rule_list, QuotaOp.DATA, Attributes(0, 5, 6)) == greater
    assert refused(world, preallocate, ino, 0, 1) == errno.EAGAIN


def test_rules_that_are_not_known_yet() -> None:
    world, old = World(), World(fmt_vers=1)
    limit = rule(QuotaOp.INODE, 0, (1, 0, False), (2, 0, False), (3, 0, False))
    world.perform(add_rule, limit, ROOT)
    world.rule_list = old.rule_list = None
    ino = world.make(b"f")
    assert world.rule_list == (limit,)
    world.perform(set_attribute, ino, b"scoutfs.totl.1.2.3", b"0", ROOT)
    assert refused(world, create, ROOT_INO, b"g", world.new_ino(), stat.S_IFREG, ROOT) == errno.EDQUOT
    old.make(b"f")
    assert old.rule_list is None


def test_which_rule_is_the_greatest() -> None:
    base = rule(QuotaOp.DATA, 5, (1, 0, False), (1, 0, False), (1, 0, False))
    greater = [
        base._replace(rule_flags=QuotaRuleFlag.TOTL_COUNT),
        base._replace(limit=6),
        base._replace(names=(*base.names[:2], RuleName(1, QuotaSource.PROJ, False))),
        base._replace(names=(*base.names[:2], RuleName(2, QuotaSource.LITERAL, False))),
        base._replace(names=(RuleName(2, QuotaSource.LITERAL, False), *base.names[1:])),
        base._replace(prio=1),
    ]
    assert [*greater] == sorted([*greater[::-1]], key=rank)
    assert all(rank(rule) > rank(base) for rule in greater)


def test_rules_as_items() -> None:
    """Spec 06 §13."""
    literal = rule(QuotaOp.INODE, 33, (13, 0, False), (15, 0, False), (17, 0, False), prio=7)
    assert hash64(encode_rule(literal)) == 0xFFCB3F2017FDFAD0
    user = rule(QuotaOp.DATA, 0, (22222, 2, True), (1, 0, False), (1, 0, False), prio=1, count=True)
    assert hash64(encode_rule(user)) == 0xC1FB921F9D86C761
    world, old = World(), World(fmt_vers=1)
    for one in (literal, user, PER_USER):
        world.perform(add_rule, one, ROOT)
    assert refused(world, add_rule, user, ROOT) == errno.EEXIST
    assert sorted(read_rules(world.reader())) == sorted([literal, user, PER_USER])
    world.perform(delete_rule, user, ROOT)
    assert sorted(read_rules(world.reader())) == sorted([literal, PER_USER])
    assert refused(world, delete_rule, user, ROOT) == errno.ENOENT
    assert refused(world, add_rule, user, SOMEONE) == errno.EPERM
    assert refused(old, add_rule, user, ROOT) == errno.EOPNOTSUPP
    twice = rule(QuotaOp.INODE, 1, (1, 2, True), (2, 2, True), (1, 0, False))
    assert refused(world, add_rule, twice, ROOT) == errno.EINVAL
    unselectable = rule(QuotaOp.INODE, 1, (1, 0, True), (2, 0, False), (1, 0, False))
    assert refused(world, add_rule, unselectable, ROOT) == errno.EINVAL


def test_few_metadata_blocks() -> None:
    """Spec 06 §14: what only takes or changes still works."""
    world = World()
    ino, at = world.make(b"f"), world.make(b"d", stat.S_IFDIR)
    world.perform(set_attribute, ino, b"user.a", b"", ROOT)
    world.low = True
    names = Names(ROOT_INO, b"f", at, b"g")
    for expected, operation, arguments in (
        (errno.ENOSPC, create, (ROOT_INO, b"g", 5000, stat.S_IFREG, ROOT)),
        (errno.ENOSPC, symlink, (ROOT_INO, b"g", 5000, b"t", ROOT)),
        (errno.ENOSPC, create_unlinked, (ROOT_INO, 5000, 0, ROOT)),
        (errno.ENOSPC, link, (ino, ROOT_INO, b"g")),
        (errno.ENOSPC, rename, (names, 0, Kinship(None, at))),
        (errno.ENOSPC, set_attribute, (ino, b"user.b", b"", ROOT)),
        (errno.ENOSPC, remove_attribute, (ino, b"user.a", ROOT)),
        (errno.ENOSPC, set_attribute, (at, DEFAULT_NAME, b"\2\0\0\0", ROOT)),
        (errno.ENOSPC, set_attr_x, (ino, NewAttrX(ctime=1), ROOT)),
        (errno.ENOSPC, write, (ino, 0, b"x", ROOT)),
        (errno.ENOSPC, preallocate, (ino, 0, 1)),
        (errno.ENOSPC, add_rule, (PER_USER, ROOT)),
        (0, set_size, (ino, 100, ROOT)),
        (0, set_attributes, (ino, NewAttributes(mode=0o600, uid=3, mtime=1), ROOT)),
        (0, unlink, (ROOT_INO, b"f")),
        (0, delete_some, (ino,)),
        (0, rmdir, (ROOT_INO, b"d")),
    ):
        assert refused(world, operation, *arguments) == expected, operation
    world.check()


@pytest.mark.parametrize("seq", [5, 1023, 1024, 5000])
def test_the_locks_of_an_operation(seq: int) -> None:
    """Asked for in few rounds, and all of the indexes that are touched."""
    world = World(seq=seq)
    world.runs = 0
    ino = world.make(b"f")
    assert world.runs <= 3
    world.commit(2000)
    world.runs = 0
    world.perform(write, ino, 0, b"x", ROOT)
    assert world.runs <= 3
    world.perform(unlink, ROOT_INO, b"f", ino)
    world.check()
