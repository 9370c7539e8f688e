"""Requests that change files, called as the binding calls them, on a volume in memory."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

pyfuse3 = pytest.importorskip("pyfuse3")

import trio  # noqa: E402

from format.inode import InodeFlag  # noqa: E402
from mount.control import FIRST_INO, ControlTree, control_directory  # noqa: E402
from mount.kernel_cache import KEPT, KernelCache  # noqa: E402
from mount.notifications import Notifications  # noqa: E402
from mount.operations import Operations  # noqa: E402
from mount.preparation import RootDirectory  # noqa: E402
from mount.writable_files import WritableFiles  # noqa: E402
from scoutfs.files.caller import ROOT  # noqa: E402
from scoutfs.files.create import create  # noqa: E402
from scoutfs.files.linking import unlink  # noqa: E402
from scoutfs.files.truncate import set_size  # noqa: E402
from scoutfs.files.writing import write  # noqa: E402
from tests.files.world import Space  # noqa: E402
from tests.mount.fakes import FakeMount  # noqa: E402
from tests.mount.memory_client import MemoryClient  # noqa: E402

CALLER = SimpleNamespace(pid=0, uid=0, gid=0, umask=0o022)
USER = SimpleNamespace(pid=0, uid=1234, gid=77, umask=0o022)
REGULAR = stat.S_IFREG | 0o644


class Mounted:
    """Operations over a client in memory."""

    def __init__(self) -> None:
        self.client, self.view = MemoryClient(), FakeMount()
        self.world = self.client.world
        self.cache = KernelCache(self.client, Notifications(None))
        root = RootDirectory(self.world.inode(1))
        self.operations = Operations(
            None,
            root,
            None,
            ControlTree(control_directory(self.view)),
            self.client.statfs,
            self.view.log,
            files=lambda report: WritableFiles(self.client, self.cache, root, report, self.view.log, acl=True),
        )

    async def new(self, name: bytes = b"file", flags: int = os.O_RDWR, ctx=CALLER) -> tuple[int, int]:
        """Create a file; return its number and handle."""
        info, entry = await self.operations.create(1, name, REGULAR, flags | os.O_CREAT, ctx)
        return entry.st_ino, info.fh

    def other_mount(self, operation, *arguments):
        """Do what another mount might do."""
        return self.world.perform(operation, *arguments)


@pytest.fixture
def mounted() -> Iterator[Mounted]:
    found = Mounted()
    yield found
    found.world.check()
    assert found.operations.requests.errors_text() == ""


async def refused(number: int, call) -> None:
    with pytest.raises(pyfuse3.FUSEError) as caught:
        await call
    assert caught.value.errno == number, os.strerror(caught.value.errno)


async def test_a_new_file_is_known_and_open(mounted):
    info, entry = await mounted.operations.create(1, b"file", REGULAR | 0o7000, os.O_RDWR | os.O_CREAT, USER)
    assert (entry.st_mode, entry.st_uid, entry.st_gid, entry.st_nlink) == (REGULAR | 0o7000, 1234, 77, 1)
    assert entry.attr_timeout == KEPT
    assert entry.st_ino in mounted.client.kept
    assert await mounted.operations.write(info.fh, 0, b"contents") == 8
    assert bytes(await mounted.operations.read(info.fh, 3, 100)) == b"tents"
    assert mounted.world.contents(entry.st_ino) == b"contents"
    await mounted.operations.release(info.fh)
    await mounted.operations.forget([(entry.st_ino, 1)])
    assert entry.st_ino not in mounted.client.kept


async def test_what_another_mount_has_created_meanwhile_is_opened(mounted):
    inode = mounted.other_mount(create, 1, b"file", mounted.world.new_ino(), REGULAR, ROOT)
    mounted.other_mount(write, inode.ino, 0, b"theirs", ROOT)
    await refused(errno.EEXIST, mounted.operations.create(1, b"file", REGULAR, os.O_CREAT | os.O_EXCL, CALLER))
    ino, handle = await mounted.new(flags=os.O_RDWR)
    assert ino == inode.ino
    assert bytes(await mounted.operations.read(handle, 0, 100)) == b"theirs"
    ino, handle = await mounted.new(flags=os.O_RDWR | os.O_TRUNC)
    assert (ino, bytes(await mounted.operations.read(handle, 0, 100))) == (inode.ino, b"")


async def test_opening_may_truncate(mounted):
    ino, handle = await mounted.new()
    await mounted.operations.write(handle, 0, b"x" * 100_000)
    await mounted.operations.open(ino, os.O_WRONLY | os.O_TRUNC, CALLER)
    assert mounted.world.extents(ino) == []
    assert (await mounted.operations.getattr(ino, CALLER)).st_size == 0


async def test_appending_goes_to_the_end_wherever_the_kernel_believes_it_is(mounted):
    ino, handle = await mounted.new(flags=os.O_WRONLY | os.O_APPEND)
    await mounted.operations.write(handle, 0, b"ours ")
    mounted.other_mount(write, ino, 5, b"theirs ", ROOT)
    await mounted.operations.write(handle, 5, b"ours")
    assert mounted.world.contents(ino) == b"ours theirs ours"


@pytest.mark.parametrize(
    ("flags", "direct", "kept"),
    [
        (os.O_RDONLY, False, True),
        (os.O_WRONLY, True, True),
        (os.O_RDWR, False, False),
        (os.O_RDWR | os.O_APPEND, True, True),
    ],
)
async def test_what_goes_through_the_page_cache(mounted, flags, direct, kept):
    ino, handle = await mounted.new(flags=os.O_WRONLY)
    await mounted.operations.release(handle)
    info = await mounted.operations.open(ino, flags, CALLER)
    assert (info.direct_io, info.keep_cache) == (direct, kept)


async def test_a_write_that_finds_no_more_space_tells_how_far_it_came(mounted):
    mounted.world.space = Space(64 + 20)
    _, handle = await mounted.new()
    assert await mounted.operations.write(handle, 0, b"x" * 200_000) == 20 * 4096
    await refused(errno.ENOSPC, mounted.operations.write(handle, 20 * 4096, b"x"))


async def test_a_write_that_is_interrupted_tells_how_far_it_came(mounted):
    ino, handle = await mounted.new()
    mounted.world.scribble(1)
    # in pieces: one transaction writes so many runs at most
    perform, calls = mounted.client.perform, []

    async def slow(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            await trio.sleep_forever()
        return await perform(*arguments)

    mounted.client.perform = slow
    written = []

    async def request() -> None:
        with trio.CancelScope() as scope:
            scopes.append(scope)
            written.append(await mounted.operations.write(handle, 0, b"x" * 3_000_000))

    scopes: list[trio.CancelScope] = []
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(request)
            while len(calls) < 2:
                await trio.sleep(0.01)
            scopes[0].cancel()
    assert 0 < written[0] < 3_000_000
    assert mounted.world.inode(ino).size == written[0]


async def test_truncations_that_were_left_are_finished_first(mounted):
    ino, handle = await mounted.new()
    mounted.world.scribble(2)
    await mounted.operations.write(handle, 0, b"x" * 500_000)
    mounted.other_mount(set_size, ino, 10, ROOT)
    assert mounted.world.inode(ino).flags & InodeFlag.TRUNCATE
    await mounted.operations.write(handle, 8192, b"end")
    assert mounted.world.contents(ino) == b"x" * 10 + bytes(8182) + b"end"


async def test_attributes_are_set_together_with_the_size(mounted):
    ino, handle = await mounted.new()
    await mounted.operations.write(handle, 0, b"x" * 10_000)
    names = ("mode", "uid", "gid", "size", "atime", "mtime", "ctime")
    fields = SimpleNamespace(**{f"update_{name}": name != "ctime" for name in names})
    attr = SimpleNamespace(st_mode=0o600, st_uid=5, st_gid=6, st_size=5000, st_atime_ns=7, st_mtime_ns=8)
    entry = await mounted.operations.setattr(ino, attr, fields, handle, CALLER)
    assert (entry.st_mode, entry.st_uid, entry.st_gid, entry.st_size) == (stat.S_IFREG | 0o600, 5, 6, 5000)
    assert (entry.st_atime_ns, entry.st_blocks, entry.attr_timeout) == (7, 16, KEPT)


async def test_what_loses_its_last_name_is_deleted_when_nobody_knows_it_any_more(mounted):
    ino, handle = await mounted.new()
    other, _ = await mounted.new(b"other")
    await mounted.operations.unlink(1, b"file", CALLER)
    await mounted.operations.forget([(ino, 1)])
    assert mounted.client.deleted == []
    await mounted.operations.release(handle)
    assert mounted.client.deleted == [ino]
    _, handle = await mounted.new(b"new")
    await mounted.operations.rename(1, b"new", 1, b"other", 0, CALLER)
    await mounted.operations.forget([(other, 1)])
    await mounted.operations.release(2)
    assert mounted.client.deleted == [ino, other]


async def test_renaming_between_directories(mounted):
    top = (await mounted.operations.mkdir(1, b"top", 0o755, CALLER)).st_ino
    below = (await mounted.operations.mkdir(top, b"below", 0o755, CALLER)).st_ino
    await refused(errno.EINVAL, mounted.operations.rename(1, b"top", below, b"x", 0, CALLER))
    await refused(errno.EINVAL, mounted.operations.rename(1, b"top", 1, b"y", 2, CALLER))
    await mounted.operations.rename(top, b"below", 1, b"moved", 0, CALLER)
    await mounted.new()
    await refused(errno.EEXIST, mounted.operations.rename(1, b"moved", 1, b"file", 1, CALLER))
    assert (await mounted.operations.lookup(below, b"..", CALLER)).st_ino == 1


async def test_what_is_gone_is_stale(mounted):
    ino, handle = await mounted.new()
    mounted.other_mount(unlink, 1, b"file")
    assert (await mounted.operations.getattr(ino, CALLER)).st_nlink == 0
    mounted.client.drop_inode(ino, unlinked=True)
    await refused(errno.ESTALE, mounted.operations.getattr(ino, CALLER))
    await refused(errno.ESTALE, mounted.operations.read(handle, 0, 10))
    mounted.client.kept.add(ino)


async def test_the_control_directory_cannot_be_changed(mounted):
    await refused(errno.EPERM, mounted.operations.mkdir(1, b".scoutfs", 0o755, CALLER))
    await refused(errno.EPERM, mounted.operations.unlink(FIRST_INO, b"log", CALLER))
    await refused(errno.EPERM, mounted.operations.setxattr(FIRST_INO, b"user.a", b"", CALLER))
    _, handle = await mounted.new()
    await refused(errno.EPERM, mounted.operations.rename(1, b"file", 1, b".scoutfs", 0, CALLER))
    directory = (await mounted.operations.mkdir(1, b"d", 0o755, CALLER)).st_ino
    # elsewhere it is a name like any other
    assert (await mounted.operations.mkdir(directory, b".scoutfs", 0o755, CALLER)).st_ino < FIRST_INO
    await mounted.operations.fsync(handle, False)
    assert mounted.client.commits == 1


async def test_attributes_with_tags_are_for_administrators(mounted):
    ino, _ = await mounted.new()
    await refused(errno.EPERM, mounted.operations.setxattr(ino, b"scoutfs.srch.a", b"", USER))
    await mounted.operations.setxattr(ino, b"scoutfs.srch.a", b"", CALLER)
    assert await mounted.operations.getxattr(ino, b"scoutfs.srch.a", CALLER) == b""
    await mounted.operations.removexattr(ino, b"scoutfs.srch.a", CALLER)
    await refused(errno.ENODATA, mounted.operations.removexattr(ino, b"scoutfs.srch.a", CALLER))
    await refused(errno.EOPNOTSUPP, mounted.operations.setxattr(ino, b"other.a", b"", CALLER))
    await refused(errno.E2BIG, mounted.operations.setxattr(ino, b"user.a", bytes(65536), CALLER))


async def test_the_root_directory_does_not_keep_control_files_waiting(mounted, autojump_clock):
    acl = bytes.fromhex(
        "02000000 0100 0700 ffffffff 0200 0700 d2040000 0400 0500 ffffffff 1000 0700 ffffffff 2000 0500 ffffffff"
    )
    await mounted.operations.setxattr(1, b"system.posix_acl_access", acl, CALLER)
    assert await mounted.operations.getxattr(1, b"system.posix_acl_access", CALLER) == acl
    before = await mounted.operations.getattr(1, CALLER)
    mounted.client.held_back = True
    with trio.fail_after(5):
        assert await mounted.operations.getxattr(1, b"system.posix_acl_access", CALLER) == acl
        entry = await mounted.operations.getattr(1, CALLER)
        assert (entry.st_mode, entry.st_ctime_ns, entry.attr_timeout) == (before.st_mode, before.st_ctime_ns, 0)
        assert (await mounted.operations.lookup(1, b".scoutfs", CALLER)).st_ino == FIRST_INO
    mounted.client.release_all()
