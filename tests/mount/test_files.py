"""Requests for files of a volume that the kernel wrote, called as the binding calls them."""

from __future__ import annotations

import errno
import json
import os
import stat
from types import SimpleNamespace

import pytest

pyfuse3 = pytest.importorskip("pyfuse3")

import trio  # noqa: E402

from mount.attributes import attributes_of  # noqa: E402
from mount.control import FIRST_INO, ControlTree, control_directory  # noqa: E402
from mount.operations import Operations  # noqa: E402
from mount.preparation import read_root  # noqa: E402
from mount.reading import LOOK_INTERVAL, UNCHANGING_TIMEOUT  # noqa: E402
from scoutfs.files.inode import Inode  # noqa: E402
from scoutfs.metadata.btree import Root  # noqa: E402
from scoutfs.metadata.forest import super_roots  # noqa: E402
from scoutfs.storage.volume import Volume  # noqa: E402
from tests import kernel_images  # noqa: E402
from tests.files.manifests import manifest  # noqa: E402
from tests.memory import MemoryIO  # noqa: E402
from tests.mount.fakes import FakeMount  # noqa: E402

NAME = "rich-v2-merged"
CALLER = SimpleNamespace(pid=0, uid=0, gid=0, umask=0)


@pytest.fixture(scope="module")
def volume():
    io = MemoryIO({role: kernel_images.load(NAME, role) for role in ("meta", "data")})
    return Volume.open("data", "meta", io=io)


class Source:
    def __init__(self, volume: Volume, *, unchanging: bool) -> None:
        self.unchanging, self.connected, self.answer = unchanging, True, super_roots(volume)

    async def roots(self):
        return self.answer


def make(volume: Volume, *, unchanging: bool = True, **how):
    mount = FakeMount()
    source = Source(volume, unchanging=unchanging)
    tree = ControlTree(control_directory(mount))
    operations = Operations(volume, read_root(volume), source, tree, no_statfs, mount.log, **how)
    return SimpleNamespace(operations=operations, source=source, log=mount.logged)


async def no_statfs():
    raise AssertionError("nobody asks")


async def found(operations: Operations, path: str) -> int:
    ino = 1
    for name in path.split("/"):
        ino = (await operations.lookup(ino, name.encode(), CALLER)).st_ino
    return ino


async def refused(number: int, call) -> None:
    with pytest.raises(pyfuse3.FUSEError) as caught:
        await call
    assert caught.value.errno == number, os.strerror(caught.value.errno)


@pytest.mark.parametrize(("unchanging", "timeout"), [(True, UNCHANGING_TIMEOUT), (False, LOOK_INTERVAL)])
async def test_the_kernel_may_keep_what_it_is_told_for_a_while(volume, unchanging, timeout):
    operations = make(volume, unchanging=unchanging).operations
    entry = await operations.lookup(1, b"files", CALLER)
    assert (entry.entry_timeout, entry.attr_timeout, entry.generation) == (timeout, timeout, 0)
    assert (await operations.getattr(entry.st_ino, CALLER)).attr_timeout == timeout
    nothing = await operations.lookup(1, b"nothing", CALLER)
    assert (nothing.st_ino, nothing.entry_timeout) == (0, timeout)


async def test_names_that_are_too_long_and_inodes_that_are_not_there(volume):
    operations = make(volume).operations
    await refused(errno.ENAMETOOLONG, operations.lookup(1, b"n" * 256, CALLER))
    await refused(errno.ESTALE, operations.getattr(1 << 40, CALLER))
    await refused(errno.ESTALE, operations.open(1 << 40, os.O_RDONLY, CALLER))
    await refused(errno.ESTALE, operations.opendir(1 << 40, CALLER))
    await refused(errno.EINVAL, operations.readlink(1, CALLER))


@pytest.mark.parametrize("room", [1, 3, 31, 10_000])
async def test_a_listing_in_parts_is_that_of_the_kernel(volume, room, monkeypatch):
    operations = make(volume).operations
    lines = map(json.loads, kernel_images.recording(NAME, "readdir.jsonl").splitlines())
    largest = max(lines, key=lambda line: len(line["ents"]))
    expected = [(ino, next_id, type) for ino, next_id, type, _ in largest["ents"]]
    listed, taken = [], [0]

    def reply(token, name, entry, next_id):
        if taken[0] == room:
            return False
        taken[0] += 1
        listed.append((entry.st_ino, next_id, entry.st_mode >> 12))
        if name not in (b".", b".."):
            assert entry.attr_timeout == UNCHANGING_TIMEOUT
        return True

    monkeypatch.setattr(pyfuse3, "readdir_reply", reply)
    handle = await operations.opendir(await found(operations, largest["dir"].removeprefix("./")), CALLER)
    # all of it for small rooms would take long
    while len(listed) < min(len(expected), 200 * room):
        taken[0] = 0
        await operations.readdir(handle, listed[-1][1] if listed else 0, None)
        assert taken[0]
    assert listed == expected[: len(listed)]


async def test_pages_are_kept_while_the_contents_are_the_same(volume, autojump_clock):
    world = make(volume, unchanging=False)
    operations = world.operations
    ino = await found(operations, "files/sz1048589")

    async def kept() -> bool:
        info = await operations.open(ino, os.O_RDONLY, CALLER)
        await operations.release(info.fh)
        assert not info.direct_io
        return info.keep_cache

    assert [await kept(), await kept()] == [False, True]
    await operations.forget([(ino, 1)])
    assert [await kept(), await kept()] == [False, True]
    # another version of the file
    operations._files._versions[ino] = (1, 2, 3)
    assert [await kept(), await kept()] == [False, True]
    always = make(volume).operations
    assert (await always.open(ino, os.O_RDONLY, CALLER)).keep_cache


async def test_files_with_offline_parts_are_read_by_exactly_what_is_asked_for(volume):
    operations = make(volume).operations
    info = await operations.open(await found(operations, "archive/rel_mid"), os.O_RDONLY, CALLER)
    assert (info.direct_io, info.keep_cache) == (True, False)
    await refused(errno.ENODATA, operations.read(info.fh, 0, 65536))


async def test_the_contents_of_an_open_file_that_is_gone(volume, autojump_clock):
    world = make(volume, unchanging=False)
    info = await world.operations.open(await found(world.operations, "files/sz1048589"), os.O_RDONLY, CALLER)
    assert len(await world.operations.read(info.fh, 1 << 20, 1 << 20)) == 13
    assert await world.operations.read(info.fh, 1 << 21, 10) == b""
    world.source.answer = world.source.answer._replace(fs_root=Root(), logs_root=Root())
    await trio.sleep(LOOK_INTERVAL)
    await refused(errno.ESTALE, world.operations.read(info.fh, 0, 10))


async def test_changes_of_files_are_refused(volume):
    world = make(volume)
    ino = await found(world.operations, "files/sz1048589")
    for flags in (os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_TRUNC):
        await refused(errno.EROFS, world.operations.open(ino, flags, CALLER))
    await refused(errno.EROFS, world.operations.removexattr(ino, b"user.a", CALLER))
    assert len(world.log) == 1


async def test_names_of_attributes(volume):
    operations = make(volume).operations
    for path, entry in manifest(NAME).items():
        if len(entry.get("xattrs", {})) > 1:
            ino = await found(operations, path.decode().removeprefix("./"))
            names = await operations.listxattr(ino, CALLER)
            assert [os.fsdecode(name) for name in sorted(names)] == sorted(entry["xattrs"], key=os.fsencode)
    await refused(errno.ENODATA, operations.getxattr(ino, b"user.nothing", CALLER))
    await refused(errno.ENODATA, operations.getxattr(1, b"system.posix_acl_access", CALLER))
    for name in (b"system.other", b"foo", b"", b"System.posix_acl_access"):
        await refused(errno.EOPNOTSUPP, operations.getxattr(ino, name, CALLER))


async def test_without_lists_they_are_no_attributes(volume):
    operations = make(volume, acl=False).operations
    assert not operations.enable_acl
    ino = await found(operations, "xattrs/acl")
    assert b"system.posix_acl_access" in await operations.listxattr(ino, CALLER)
    await refused(errno.EOPNOTSUPP, operations.getxattr(ino, b"system.posix_acl_access", CALLER))
    assert make(volume).operations.enable_acl


async def test_damage_is_told_once_for_each_block(volume):
    world = make(volume)
    root = world.source.answer.fs_root
    world.source.answer = world.source.answer._replace(fs_root=root._replace(ref=root.ref._replace(seq=99)))
    for name in (b"a", b"b", b"b"):
        await refused(errno.EIO, world.operations.lookup(1, name, CALLER))
    [(_, text)] = world.log
    assert text.startswith("lookup(1, b'a') failed: meta: btree block ")
    [line] = world.operations.requests.errors_text().splitlines()
    assert line == f"damage: {text.partition('failed: ')[2]}: 3"


ORDINARY = Inode(5, 10, 1, 1, 1, 1, 0, 2, 0, 1, 1, 0, 0, 0o100644, 0, 0, 1, -1, 2, 3, 0)


def test_attributes_that_stat_cannot_show():
    entry = attributes_of(ORDINARY, 1.0)
    assert (entry.st_atime_ns, entry.st_ctime_ns, entry.st_mtime_ns) == (1, -1, 2)
    for wrong in ({"size": 1 << 63}, {"atime": 1 << 100}, {"offline_blocks": 1 << 63}):
        with pytest.raises(OSError, match=os.strerror(errno.EOVERFLOW)):
            attributes_of(ORDINARY._replace(**wrong), 1.0)


def test_devices_are_numbered_as_in_user_space():
    inode = ORDINARY._replace(mode=stat.S_IFBLK | 0o600, rdev=259 << 20 | 70000)
    entry = attributes_of(inode, 1.0)
    assert (os.major(entry.st_rdev), os.minor(entry.st_rdev)) == (259, 70000)


async def test_numbers_of_control_files_are_refused_in_a_volume(volume, monkeypatch):
    world = make(volume)
    inode = ORDINARY._replace(ino=FIRST_INO)
    monkeypatch.setattr(world.operations._files._reader.files, "lookup", lambda parent, name: inode)
    await refused(errno.EIO, world.operations.lookup(1, b"a", CALLER))
    assert "control files" in world.log[0][1]
