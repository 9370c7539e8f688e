"""The handlers, called as the binding calls them: what they answer, and that nothing but FUSEError leaves them."""

from __future__ import annotations

import errno
import inspect
import os
import stat
from dataclasses import dataclass
from types import SimpleNamespace

import pytest

pyfuse3 = pytest.importorskip("pyfuse3")

import trio  # noqa: E402

from mount.control import FIRST_INO, ControlTree, control_directory  # noqa: E402
from mount.operations import Operations  # noqa: E402
from mount.preparation import read_root  # noqa: E402
from scoutfs.errors import ScoutfsError  # noqa: E402
from scoutfs.metadata.forest import super_roots  # noqa: E402
from scoutfs.storage.volume import Volume  # noqa: E402
from tests import images  # noqa: E402
from tests.memory import MemoryIO  # noqa: E402
from tests.mount.fakes import FakeMember, FakeMount  # noqa: E402

CALLER = SimpleNamespace(pid=0, uid=0, gid=0, umask=0)
NO_CHANGES = SimpleNamespace(update_mode=False, update_uid=False, update_gid=False, update_size=False)


@dataclass
class Space:
    free_meta_blocks: int = 100
    total_meta_blocks: int = 131072
    free_data_blocks: int = 5
    total_data_blocks: int = 2097152
    inode_count: int = 7


async def answer():
    return Space()


class Source:
    """Roots from the super block, for a volume that nobody changes."""

    unchanging = connected = True

    def __init__(self, volume: Volume) -> None:
        self._volume = volume

    async def roots(self):
        return super_roots(self._volume)


def make(statfs=answer, **how):
    mount = FakeMount("quorum_slot_nr=0", member=FakeMember())
    io = MemoryIO({role: images.load("v2-1slot", role) for role in ("meta", "data")})
    volume = Volume.open("data", "meta", io=io)
    tree = ControlTree(control_directory(mount))
    operations = Operations(volume, read_root(volume), Source(volume), tree, statfs, mount.log, **how)
    return mount, operations


async def refused(number: int, call) -> None:
    with pytest.raises(pyfuse3.FUSEError) as caught:
        await call
    assert caught.value.errno == number, os.strerror(caught.value.errno)


async def control_ino(operations: Operations, *names: bytes) -> int:
    ino = (await operations.lookup(1, b".scoutfs", CALLER)).st_ino
    for name in names:
        ino = (await operations.lookup(ino, name, CALLER)).st_ino
    return ino


async def contents(operations: Operations, *names: bytes) -> bytes:
    info = await operations.open(await control_ino(operations, *names), os.O_RDONLY, CALLER)
    assert info.direct_io
    data = b""
    while chunk := await operations.read(info.fh, len(data), 7):
        data += chunk
    await operations.release(info.fh)
    return data


async def test_root_shows_the_attributes_of_its_inode():
    _, operations = make()
    entry = await operations.getattr(1, CALLER)
    # what mkfs writes: spec 01 §6.4
    assert (entry.st_ino, entry.st_mode, entry.st_nlink, entry.st_uid, entry.st_gid) == (1, 0o40755, 2, 0, 0)
    assert entry.st_atime_ns == entry.st_mtime_ns == entry.st_ctime_ns > 0
    assert entry.st_blksize == 4096


async def test_the_control_directory_is_found_but_not_listed(monkeypatch):
    _, operations = make()
    entry = await operations.lookup(1, b".scoutfs", CALLER)
    assert entry.st_ino == FIRST_INO
    assert stat.S_ISDIR(entry.st_mode)
    assert (entry.st_uid, entry.st_gid) == (0, 0)
    listed = await listing(operations, 1, monkeypatch)
    assert [name for name, *_ in listed] == [b".", b".."]


async def listing(operations, ino, monkeypatch, room: int = 10_000):
    """List a directory through a reply buffer that takes `room` entries at a time."""
    listed = []
    taken = [0]

    def reply(token, name, entry, next_id):
        if taken[0] == room:
            return False
        taken[0] += 1
        listed.append((name, entry.st_ino, next_id))
        return True

    monkeypatch.setattr(pyfuse3, "readdir_reply", reply)
    handle = await operations.opendir(ino, CALLER)
    while True:
        taken[0] = 0
        await operations.readdir(handle, listed[-1][2] if listed else 0, None)
        if not taken[0]:
            break
    await operations.releasedir(handle)
    return listed


@pytest.mark.parametrize("room", [1, 3, 10_000])
async def test_a_listing_in_parts_is_complete(monkeypatch, room):
    mount, operations = make()
    expected = [b".", b"..", *sorted(os.fsencode(name) for name in control_directory(mount).entries())]
    listed = await listing(operations, await control_ino(operations), monkeypatch, room)
    assert [name for name, *_ in listed] == expected
    for name, ino, _ in listed[2:]:
        assert (await operations.lookup(FIRST_INO, name, CALLER)).st_ino == ino


async def test_unknown_names():
    _, operations = make()
    nothing = await operations.lookup(1, b"anything", CALLER)
    assert (nothing.st_ino, nothing.entry_timeout) == (0, 3600)
    await refused(errno.ENOENT, operations.lookup(FIRST_INO, b"anything", CALLER))
    await refused(errno.ESTALE, operations.getattr(4711, CALLER))
    await refused(errno.ENOENT, operations.getattr(FIRST_INO + 4711, CALLER))


async def test_dots_are_looked_up():
    _, operations = make()
    quorum = await control_ino(operations, b"quorum")
    assert (await operations.lookup(1, b".", CALLER)).st_ino == 1
    assert (await operations.lookup(quorum, b".", CALLER)).st_ino == quorum
    assert (await operations.lookup(quorum, b"..", CALLER)).st_ino == FIRST_INO


async def test_files_are_one_page_whatever_is_in_them():
    _, operations = make()
    entry = await operations.getattr(await control_ino(operations, b"fsid"), CALLER)
    assert (entry.st_size, entry.st_mode) == (4096, stat.S_IFREG | 0o444)
    assert await contents(operations, b"fsid") == b"e55dd113bcb49a2b\n"


async def test_each_reading_from_the_start_is_fresh_and_each_reading_on_is_not():
    mount, operations = make()
    info = await operations.open(await control_ino(operations, b"quorum", b"is_leader"), os.O_RDONLY, CALLER)
    assert await operations.read(info.fh, 0, 100) == b"0"
    mount.member.is_leader = True
    assert await operations.read(info.fh, 0, 100) == b"1"
    mount.member.is_leader = False
    assert await operations.read(info.fh, 1, 100) == b""


async def test_writing_an_option():
    mount, operations = make()
    ino = await control_ino(operations, b"mount_options", b"quorum_heartbeat_timeout_ms")
    assert await operations.setattr(
        ino, None, SimpleNamespace(**{**vars(NO_CHANGES), "update_size": True}), None, CALLER
    )
    info = await operations.open(ino, os.O_WRONLY | os.O_TRUNC, CALLER)
    assert await operations.write(info.fh, 0, b"2000\n") == 5
    assert mount.changes == [("quorum_heartbeat_timeout_ms", 2000)]
    await refused(errno.EINVAL, operations.write(info.fh, 0, b"1999\n"))
    await refused(errno.EINVAL, operations.write(info.fh, 0, b"9" * 4097))
    assert await contents(operations, b"mount_options", b"quorum_heartbeat_timeout_ms") == b"2000"


async def test_what_has_no_writer_cannot_be_opened_for_writing_even_by_root():
    _, operations = make()
    for flags in (os.O_WRONLY, os.O_RDWR):
        await refused(errno.EACCES, operations.open(await control_ino(operations, b"rid"), flags, CALLER))
    await refused(errno.EISDIR, operations.open(await control_ino(operations), os.O_RDONLY, CALLER))


async def test_changing_modes_below_scoutfs_is_refused():
    _, operations = make()
    ino = await control_ino(operations, b"mount_options", b"lock_idle_count")
    await refused(
        errno.EPERM,
        operations.setattr(ino, None, SimpleNamespace(**{**vars(NO_CHANGES), "update_mode": True}), None, CALLER),
    )


CREATIONS = {
    "mknod": (b"new", 0o644, 0, CALLER),
    "mkdir": (b"new", 0o755, CALLER),
    "unlink": (b"old", CALLER),
    "rmdir": (b"old", CALLER),
    "symlink": (b"new", b"target", CALLER),
    "create": (b"new", 0o644, 0, CALLER),
    "setxattr": (b"user.a", b"b", CALLER),
}


@pytest.mark.parametrize("name", CREATIONS)
async def test_changes_are_refused_and_told_once(name):
    mount, operations = make()
    for _ in range(3):
        await refused(errno.EROFS, getattr(operations, name)(1, *CREATIONS[name]))
    assert len(mount.logged) == 1
    await refused(errno.EPERM, getattr(operations, name)(FIRST_INO, *CREATIONS[name]))


async def test_renames_and_links_are_refused():
    _, operations = make()
    await refused(errno.EROFS, operations.rename(1, b"a", 1, b"b", 0, CALLER))
    await refused(errno.EPERM, operations.rename(1, b".scoutfs", 1, b"b", 0, CALLER))
    await refused(errno.EPERM, operations.link(FIRST_INO + 1, 1, b"b", CALLER))
    await refused(errno.EROFS, operations.setattr(1, None, NO_CHANGES, None, CALLER))


async def test_no_extended_attributes():
    _, operations = make()
    assert await operations.listxattr(1, CALLER) == []
    await refused(errno.ENODATA, operations.getxattr(1, b"user.x", CALLER))
    assert await operations.access(1, os.R_OK, CALLER)


async def test_statfs_counts_as_the_original():
    # spec 01 §8.8: 16 blocks of 4 KiB for each of metadata, 32 inodes for each block of metadata
    _, operations = make()
    data = await operations.statfs(CALLER)
    assert (data.f_bsize, data.f_frsize, data.f_namemax) == (4096, 4096, 255)
    assert data.f_blocks == 131072 * 16 + 2097152
    assert data.f_bfree == data.f_bavail == 100 * 16 + 5
    assert data.f_files == 131072 * 32
    assert data.f_ffree == data.f_favail == 131072 * 32 - 7


async def test_statfs_ends_when_the_connection_is_lost(autojump_clock):
    lost = []
    _, operations = make(trio.sleep_forever, connection_lost=lambda: bool(lost))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(operations.in_progress.watch)
        asked = trio.Event()

        async def ask() -> None:
            await refused(errno.EINTR, operations.statfs(CALLER))
            asked.set()

        nursery.start_soon(ask)
        await trio.sleep(60)
        lost.append(True)
        with trio.fail_after(1):
            await asked.wait()
        nursery.cancel_scope.cancel()


async def test_an_error_of_the_server_is_passed_on():
    async def fail():
        raise ScoutfsError("no", errno.EIO)

    _, operations = make(fail)
    await refused(errno.EIO, operations.statfs(CALLER))


async def test_an_unexpected_exception_becomes_eio_and_is_told_once_and_counted():
    async def fail():
        raise ZeroDivisionError("oops")

    mount, operations = make(fail)
    for _ in range(3):
        with trio.fail_after(1):
            await refused(errno.EIO, operations.statfs(CALLER))
    assert len(mount.logged) == 1
    assert "statfs(" in mount.logged[0][1]
    assert "oops" in mount.logged[0][1]
    [line] = operations.requests.errors_text().splitlines()
    assert line.startswith("statfs ")
    assert line.endswith(" 3")


async def test_a_closed_handle_is_an_error_and_nothing_worse():
    _, operations = make()
    await refused(errno.EIO, operations.read(4711, 0, 10))
    await refused(errno.EIO, operations.readdir(4711, 0, None))


async def test_reading_a_directory_handle_as_a_file():
    _, operations = make()
    handle = await operations.opendir(1, CALLER)
    await refused(errno.EISDIR, operations.read(handle, 0, 10))


def test_every_handler_is_guarded():
    handlers = {
        name
        for name, handler in vars(pyfuse3.Operations).items()
        if inspect.iscoroutinefunction(handler) and not name.startswith("_")
    }
    # what the base class refuses with ENOSYS needs no guard; everything that we define has one
    ours = {name for name in handlers if name in vars(Operations)}
    assert handlers - ours <= {"poll"}
    assert all(hasattr(vars(Operations)[name], "__wrapped__") for name in ours)


async def test_forgetting_never_fails():
    _, operations = make()
    await operations.forget([(1, 1), (FIRST_INO, 5), (FIRST_INO + 99, 1), (77, 3)])
    assert (await operations.lookup(1, b".scoutfs", CALLER)).st_ino == FIRST_INO
