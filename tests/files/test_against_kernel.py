"""The same operations on a volume and on a directory of the kernel's: same results, same errnos, same trees."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from format.acl import ACCESS_NAME, DEFAULT_NAME, AclEntry, AclTag, build_acl
from scoutfs.errors import ScoutfsError
from scoutfs.files import create as creating
from scoutfs.files.acl_writing import remove_attribute, set_attribute
from scoutfs.files.allocation import Preallocation
from scoutfs.files.attributes import NewAttributes, set_attributes
from scoutfs.files.caller import ROOT
from scoutfs.files.deletion import delete_some
from scoutfs.files.directory import list_directory
from scoutfs.files.errors import TooManyLinks, TruncatePending
from scoutfs.files.linking import link, rmdir, unlink
from scoutfs.files.links import parent
from scoutfs.files.rename import Names, find_kinship, rename
from scoutfs.files.symlink import read_target
from scoutfs.files.truncate import finish_truncate, set_size
from scoutfs.files.writing import preallocate, write
from scoutfs.files.xattr import read_xattrs
from tests.files import kernel_directory as kernel
from tests.files.kernel_directory import Node
from tests.files.world import ROOT_INO, World

NAMES = st.sampled_from([b"a", b"b", b"c", b"\xff\xfe", b"n" * 255, b"o" * 256])
TYPES = st.sampled_from(
    [stat.S_IFREG, stat.S_IFREG, stat.S_IFDIR, stat.S_IFDIR, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR]
)
MODES = st.integers(0, 0o7777)
WHERE = st.integers(0, 1000)
OFFSETS = st.one_of(st.integers(0, 30_000), st.sampled_from([0, 4095, 4096, 8192, 40_000]))
LENGTHS = st.sampled_from([0, 1, 100, 4096, 5000, 8192, 20_000])
XATTR_NAMES = st.sampled_from([b"user.a", b"user.b", b"trusted.c", b"user.c297504", b"user.dd3de9565980db8"])
PERMS = st.integers(0, 7)


def acls() -> st.SearchStrategy[bytes]:
    """Return lists with and without entries of others, some of them invalid."""

    def build(perms: list[int], named: bool, mask: bool) -> bytes:
        entries = [AclEntry(AclTag.USER_OBJ, perms[0])]
        entries += [AclEntry(AclTag.USER, perms[1], 7)] if named else []
        entries += [AclEntry(AclTag.GROUP_OBJ, perms[2])]
        entries += [AclEntry(AclTag.GROUP, perms[3], 8)] if named else []
        entries += [AclEntry(AclTag.MASK, perms[4])] if mask else []
        return build_acl((*entries, AclEntry(AclTag.OTHER, perms[5])))

    return st.builds(build, st.lists(PERMS, min_size=6, max_size=6), st.booleans(), st.booleans())


class Comparison(RuleBasedStateMachine):
    """`both` does the same to both; after each step they must look the same, and the checker finds nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        path = kernel.make_directory()
        if path is None:
            pytest.skip("needs root, and a directory with attributes and access control lists")
        self.top = os.fsencode(path)
        self.orphans: list[int] = []
        self.dirty = True

    def teardown(self) -> None:
        """Remove the directory."""
        shutil.rmtree(self.top)

    @initialize(seed=st.integers(0, 1000), run_max=st.sampled_from([1, 3, 1 << 20]), fmt_vers=st.sampled_from([1, 2]))
    def choose(self, seed: int, run_max: int, fmt_vers: int) -> None:
        """Choose how fragmented the data device is."""
        self.world = World(fmt_vers)
        self.world.space.run_max = run_max
        if seed % 2:
            self.world.scribble(seed)
        self.options = Preallocation(32, bool(seed & 2))

    # Names

    @rule(at=WHERE, name=NAMES, type=TYPES, mode=MODES, umask=st.sampled_from([0, 0o022, 0o077]))
    def create(self, at: int, name: bytes, type: int, mode: int, umask: int) -> None:
        directory, dir_ino = self.directory(at)
        device = os.makedev(0x111, 0x12345) if type == stat.S_IFCHR else 0
        mode &= 0o1777 if type == stat.S_IFDIR else 0o7777
        world = self.world

        def theirs() -> None:
            old = os.umask(umask)
            try:
                kernel.create(self.path(directory, name), type | mode, device)
            finally:
                os.umask(old)

        arguments = (dir_ino, name, world.new_ino(), type | mode, ROOT)
        self.both(lambda: world.perform(creating.create, *arguments, umask=umask, device=device), theirs)

    @rule(at=WHERE, name=NAMES, text=st.sampled_from([b"a", b"x/y", b"t" * 900, b"t" * 4095]))
    def symlink(self, at: int, name: bytes, text: bytes) -> None:
        directory, dir_ino = self.directory(at)
        self.both(
            lambda: self.world.perform(creating.symlink, dir_ino, name, self.world.new_ino(), text, ROOT),
            lambda: os.symlink(text, self.path(directory, name)),
        )

    @rule(of=WHERE, at=WHERE, name=NAMES)
    def link(self, of: int, at: int, name: bytes) -> None:
        directory, dir_ino = self.directory(at)
        path, ino = self.any(of)
        self.both(
            lambda: self.world.perform(link, ino, dir_ino, name),
            lambda: os.link(self.top + b"/" + path, self.path(directory, name), follow_symlinks=False),
        )

    @rule(at=WHERE, name=NAMES, directories=st.booleans(), evict=st.booleans())
    def remove(self, at: int, name: bytes, directories: bool, evict: bool) -> None:
        directory, dir_ino = self.directory(at)
        path = self.path(directory, name)
        ours, theirs = (rmdir, os.rmdir) if directories else (unlink, os.unlink)
        self.both(lambda: self.gone(self.world.perform(ours, dir_ino, name), evict), lambda: theirs(path))

    @rule(old_at=WHERE, old=NAMES, new_at=WHERE, new=NAMES, flags=st.sampled_from([0, 0, 0, 1, 3, 8]))
    def rename(self, old_at: int, old: bytes, new_at: int, new: bytes, flags: int) -> None:
        (old_path, old_ino), (new_path, new_ino) = self.directory(old_at), self.directory(new_at)
        names = Names(old_ino, old, new_ino, new)
        # Spec 06 §14: replacing a directory above the one that is moved.
        self.both(
            lambda: self.our_rename(names, flags),
            lambda: kernel.rename(self.path(old_path, old), self.path(new_path, new), flags),
            same={(errno.EINVAL, errno.ENOTEMPTY)},
        )

    # Attributes

    @rule(of=WHERE, mode=MODES)
    def chmod(self, of: int, mode: int) -> None:
        path, ino = self.any(of)
        if self.world.inode(ino).is_symlink:
            return
        self.both(
            lambda: self.world.perform(set_attributes, ino, NewAttributes(mode=mode), ROOT),
            lambda: os.chmod(self.top + b"/" + path, mode),
        )

    @rule(of=WHERE, uid=st.sampled_from([0, 5]), gid=st.sampled_from([0, 6]))
    def chown(self, of: int, uid: int, gid: int) -> None:
        path, ino = self.any(of)
        self.both(
            lambda: self.world.perform(set_attributes, ino, NewAttributes(uid=uid, gid=gid), ROOT),
            lambda: os.chown(self.top + b"/" + path, uid, gid, follow_symlinks=False),
        )

    @rule(of=WHERE, name=XATTR_NAMES, value=st.binary(max_size=4000), flags=st.sampled_from([0, 0, 1, 2]))
    def setxattr(self, of: int, name: bytes, value: bytes, flags: int) -> None:
        path, ino = self.any(of)
        flag = {"create": flags == os.XATTR_CREATE, "replace": flags == os.XATTR_REPLACE}
        self.both(
            lambda: self.world.perform(set_attribute, ino, name, value, ROOT, **flag),
            lambda: os.setxattr(self.top + b"/" + path, name, value, flags, follow_symlinks=False),
        )

    @rule(of=WHERE, name=st.one_of(XATTR_NAMES, st.sampled_from([ACCESS_NAME, DEFAULT_NAME])))
    def removexattr(self, of: int, name: bytes) -> None:
        path, ino = self.any(of)
        self.both(
            lambda: self.world.perform(remove_attribute, ino, name, ROOT),
            lambda: os.removexattr(self.top + b"/" + path, name, follow_symlinks=False),
            same={(0, errno.ENODATA)} if name in (ACCESS_NAME, DEFAULT_NAME) else set(),
        )

    @rule(of=WHERE, name=st.sampled_from([ACCESS_NAME, DEFAULT_NAME, DEFAULT_NAME]), acl=acls())
    def set_acl(self, of: int, name: bytes, acl: bytes) -> None:
        path, ino = self.any(of)
        # Spec 06 §14: the kernel refuses before it asks.
        self.both(
            lambda: self.world.perform(set_attribute, ino, name, acl, ROOT),
            lambda: os.setxattr(self.top + b"/" + path, name, acl, follow_symlinks=False),
            same={(errno.EINVAL, errno.EACCES)},
        )

    # Contents

    @precondition(lambda self: self.files())
    @rule(of=WHERE, offset=st.one_of(st.none(), OFFSETS), length=LENGTHS, byte=st.integers(1, 255))
    def write(self, of: int, offset: int | None, length: int, byte: int) -> None:
        path, ino = self.file(of)
        data = bytes([byte]) * length
        self.both(lambda: self.our_write(ino, offset, data), lambda: kernel.write(self.top + b"/" + path, offset, data))

    @precondition(lambda self: self.files())
    @rule(of=WHERE, size=OFFSETS, finish=st.booleans())
    def truncate(self, of: int, size: int, finish: bool) -> None:
        path, ino = self.file(of)

        def ours() -> None:
            self.retried(set_size, ino, size, ROOT)
            if finish:
                self.world.steps(finish_truncate, ino)

        # Some filesystems of the kernel do nothing then; spec 06 §5.6 has times change.
        times = size != self.world.inode(ino).size
        self.both(ours, lambda: os.truncate(self.top + b"/" + path, size), times=times)

    @precondition(lambda self: self.files())
    @rule(of=WHERE, offset=OFFSETS, length=LENGTHS.filter(bool))
    def allocate(self, of: int, offset: int, length: int) -> None:
        path, ino = self.file(of)

        def ours() -> None:
            at = offset
            while at < offset + length:
                at = self.retried(preallocate, ino, at, offset + length - at)

        # Unlike the kernel's, spec 06 §5.6: no times change.
        self.both(ours, lambda: kernel.allocate(self.top + b"/" + path, offset, length), times=False)

    @rule(more=st.sampled_from([1, 2000]))
    def commit(self, more: int) -> None:
        self.world.commit(more)

    @precondition(lambda self: self.orphans)
    @rule()
    def evict(self) -> None:
        for ino in self.orphans:
            self.world.steps(delete_some, ino)
            assert not self.world.exists(ino)
        self.orphans.clear()
        self.world.check()

    @invariant()
    def same(self) -> None:
        """Compare all of it."""
        if self.dirty:
            assert self.our_tree() == kernel.tree(self.top)
            self.world.check()
            self.dirty = False

    # Helpers

    def both(
        self,
        ours: Callable[[], Any],
        theirs: Callable[[], Any],
        *,
        same: set[tuple[int, int]] = frozenset(),  # type: ignore[assignment]
        times: bool = True,
    ) -> None:
        self.dirty = True
        self.world.tick()
        before = {path: (ino, self.world.inode(ino).mtime) for path, ino in self.paths().items()}
        kernel.reset_times(self.top)
        results = []
        for operation in (ours, theirs):
            try:
                operation()
            except (ScoutfsError, OSError) as error:
                results.append(error.errno or -1)
            else:
                results.append(0)
        assert results[0] == results[1] or tuple(results) in same
        if times:
            after = {path: (ino, self.world.inode(ino).mtime) for path, ino in self.paths().items()}
            stayed = {path for path, (ino, _) in after.items() if path in before and before[path][0] == ino}
            changed = {path for path in stayed if after[path] != before[path]}
            assert changed == kernel.changed_times(self.top) & stayed

    def retried(self, operation: Callable[..., Any], ino: int, *arguments: Any) -> Any:
        try:
            return self.world.perform(operation, ino, *arguments)
        except TruncatePending as pending:
            self.world.steps(finish_truncate, pending.ino)
            return self.world.perform(operation, ino, *arguments)

    def our_write(self, ino: int, offset: int | None, data: bytes) -> None:
        while True:
            done = self.retried(write, ino, offset, data, ROOT, self.options)
            offset, data = done.offset + done.length, data[done.length :]
            if not data:
                return
            assert done.length
            self.world.commit()

    def our_rename(self, names: Names, flags: int) -> None:
        kinship = None
        if names.old_dir != names.new_dir:
            walk = find_kinship(names.old_dir, names.new_dir)
            up = None
            while True:
                try:
                    ino = next(walk) if up is None else walk.send(up)
                except StopIteration as end:
                    kinship = end.value
                    break
                up = parent(self.world.reader(), ino)
                if up is None:
                    raise TooManyLinks("no parent")
        before = self.paths()
        self.world.perform(rename, names, flags, kinship)
        for ino in set(before.values()) - set(self.paths().values()):
            self.orphans.append(ino)

    def gone(self, inode: Any, evict: bool) -> None:
        if not inode.nlink:
            self.orphans.append(inode.ino)
            if evict:
                self.evict()

    def path(self, directory: bytes, name: bytes) -> bytes:
        return b"/".join(part for part in (self.top, directory, name) if part)

    def paths(self, at: bytes = b"", ino: int = ROOT_INO) -> dict[bytes, int]:
        """Return the inodes of the volume by path."""
        found = {at: ino}
        if self.world.inode(ino).is_directory:
            for entry in list(list_directory(self.world.reader(), ino, 2)):
                found.update(self.paths(b"/".join(part for part in (at, entry.name) if part), entry.ino))
        return found

    def directory(self, index: int) -> tuple[bytes, int]:
        found = [(path, ino) for path, ino in self.paths().items() if self.world.inode(ino).is_directory]
        return found[index % len(found)]

    def any(self, index: int) -> tuple[bytes, int]:
        found = list(self.paths().items())
        return found[index % len(found)]

    def files(self) -> list[tuple[bytes, int]]:
        return [(path, ino) for path, ino in self.paths().items() if self.world.inode(ino).is_regular]

    def file(self, index: int) -> tuple[bytes, int]:
        return self.files()[index % len(self.files())]

    def our_tree(self) -> dict[bytes, Node]:
        return {path: self.our_node(ino) for path, ino in self.paths().items()}

    def our_node(self, ino: int) -> Node:
        inode, reader = self.world.inode(ino), self.world.reader()
        contents, size = None, None if inode.is_directory else inode.size
        if inode.is_regular:
            contents = self.world.contents(ino)
        elif inode.is_symlink:
            contents = read_target(reader, inode)
            size = inode.size - 1
        xattrs = tuple(sorted(tuple(xattr) for xattr in read_xattrs(reader, ino)))
        return Node(inode.mode, inode.nlink, inode.uid, inode.gid, size, inode.device_number, contents, xattrs)


TestComparison = Comparison.TestCase
TestComparison.settings = settings(
    max_examples=25, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
