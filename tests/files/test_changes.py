"""What every operation stands on: locks asked for in order, nothing done by halves, encoders that agree."""

from __future__ import annotations

import errno
import stat
from collections.abc import Generator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from format.block import FormatError, build
from format.dirent import Dirent, DirEntry
from format.inode import Inode as InodeStruct
from format.inode import build_inode
from format.keys import FsType, InodeIndexType
from format.payloads import LockMode
from format.timespec import seconds_to_disk
from format.xattr import Xattr, XattrHeader, split_xattr
from scoutfs.errors import ScoutfsError
from scoutfs.files.attributes import NewAttributes, set_attributes
from scoutfs.files.caller import ROOT
from scoutfs.files.change import Change
from scoutfs.files.create import create
from scoutfs.files.deletion import delete_some
from scoutfs.files.errors import Exists, NotFound, TooManyLinks
from scoutfs.files.ino_pools import BATCH, InoPools
from scoutfs.files.inode import Inode, decode_inode, encode_inode
from scoutfs.files.items import fs_key, fs_range
from scoutfs.files.linking import link, unlink
from scoutfs.files.rename import Kinship, Names, find_kinship, rename
from scoutfs.files.store import (
    ORPHAN_LOCK,
    QUOTA_READ_LOCK,
    RENAME_LOCK,
    TOTALS_LOCK,
    XATTR_INDEX_LOCK,
    ItemConflict,
    LockRequest,
    LocksNeeded,
    index_request,
    inode_request,
    likely_locks,
)
from scoutfs.files.writing import write
from tests.files.world import ROOT_INO, World

U64 = st.integers(0, 2**64 - 1)
U32 = st.integers(0, 2**32 - 1)
TIMES = st.integers(-(2**62), 2**62)
INODES = st.builds(Inode, *[U64] * 10, *[U32] * 6, *[TIMES] * 4, U64)
DIR = stat.S_IFDIR | 0o755


@given(INODES, st.sampled_from([1, 2]))
def test_inodes_are_encoded_as_declared(inode: Inode, fmt_vers: int) -> None:
    fields = inode._asdict()
    for name in ("atime", "ctime", "mtime", "crtime"):
        sec, nsec = divmod(fields[name], 10**9)
        fields[name] = {"sec": seconds_to_disk(sec), "nsec": nsec}
    value = encode_inode(inode, fmt_vers)
    assert value == build_inode({field.name: fields[field.name] for field in InodeStruct.subcons}, fmt_vers)
    assert decode_inode(inode.ino, value, fmt_vers) == inode._replace(proj=inode.proj if fmt_vers > 1 else 0)


def test_counters_wrap_and_nothing_else() -> None:
    inode = World().inode(ROOT_INO)
    assert decode_inode(1, encode_inode(inode._replace(version=2**64), 2), 2).version == 0
    for wrong in (inode._replace(nlink=-1), inode._replace(atime=2**63 * 10**9), inode._replace(proj=2**64)):
        with pytest.raises(FormatError):
            encode_inode(wrong, 2)


@given(U64, U64, U64, st.integers(0, 255), st.binary(min_size=1, max_size=255))
def test_entries_are_encoded_as_declared(ino: int, hash: int, pos: int, type: int, name: bytes) -> None:
    header = build(Dirent, {"ino": ino, "hash": hash, "pos": pos, "type": type}, "")
    value = DirEntry(ino, hash, pos, type, name).build()
    assert value == header + name
    assert DirEntry.parse(value, "") == DirEntry(ino, hash, pos, type, name)


@given(st.binary(min_size=1, max_size=255), st.binary(max_size=2000))
def test_attributes_are_encoded_as_declared(name: bytes, value: bytes) -> None:
    header = build(XattrHeader, {"val_len": len(value), "name_len": len(name)}, "")
    assert b"".join(split_xattr(Xattr(name, value))) == header + name + value


def test_the_order_of_locks() -> None:
    """Spec 05 §1.2."""
    order = [
        RENAME_LOCK,
        *(inode_request(group) for group in (0, 1, 5)),
        QUOTA_READ_LOCK,
        ORPHAN_LOCK,
        TOTALS_LOCK,
        XATTR_INDEX_LOCK,
        *(index_request(InodeIndexType.META_SEQ, group) for group in (0, 7)),
        *(index_request(InodeIndexType.DATA_SEQ, group) for group in (0, 7)),
    ]
    assert list(LocksNeeded(order[::-1]).locks) == order


def test_reading_is_covered_by_writing() -> None:
    world = World()
    with world.change() as change:
        with pytest.raises(LocksNeeded) as needed:
            change.need(inode_request(3, LockMode.READ), inode_request(2))
        with pytest.raises(LocksNeeded) as stronger:
            change.need(inode_request(3))
    assert [request.mode for request in needed.value.locks] == [LockMode.WRITE, LockMode.READ]
    assert [request.mode for request in stronger.value.locks] == [LockMode.WRITE, LockMode.WRITE]
    world.held.modes = {inode_request(3).start: LockMode.WRITE}
    with world.change() as change:
        change.need(inode_request(3, LockMode.READ))
        change.need(inode_request(3))


def test_a_good_guess_of_locks_saves_running_twice() -> None:
    world = World()
    old, new = world.make(b"old"), world.new_ino()
    regular = stat.S_IFREG | 0o644

    def run(guess: list[LockRequest], operation: Any, *arguments: Any) -> None:
        world.held.modes = {request.start: request.mode for request in guess}
        with world.change() as change:
            operation(change, *arguments)

    run(likely_locks(5, ROOT_INO, new, data=True), create, ROOT_INO, b"new", new, regular, ROOT)
    run(likely_locks(5, new, data=True), write, new, 0, b"x", ROOT)
    run(likely_locks(5, new), set_attributes, new, NewAttributes(mode=0), ROOT)
    run(likely_locks(5, ROOT_INO, new, old, orphan=True), rename, Names(ROOT_INO, b"new", ROOT_INO, b"old"))
    run(likely_locks(5, ROOT_INO, new, orphan=True), unlink, ROOT_INO, b"old", new)
    run(likely_locks(5, old, data=True, orphan=True), delete_some, old)
    assert world.inode_count == 2
    world.check()


def test_a_name_that_leads_elsewhere_by_now() -> None:
    """Between asking for locks and having them, another mount replaces the file."""
    world = World()
    old = world.make(b"f")
    world.next_ino = 5000
    with pytest.raises(LocksNeeded) as needed, world.change() as change:
        unlink(change, ROOT_INO, b"f", old)
    world.perform(unlink, ROOT_INO, b"f")
    new = world.make(b"f")
    world.held.modes = {request.start: request.mode for request in needed.value.locks}
    with pytest.raises(LocksNeeded) as again, world.change() as change:
        unlink(change, ROOT_INO, b"f", old)
    assert inode_request(new >> 10) in again.value.locks
    assert world.perform(unlink, ROOT_INO, b"f", old).ino == new
    world.check()


@pytest.mark.parametrize("error", [ScoutfsError("items are to be read", errno.EAGAIN), KeyboardInterrupt()])
def test_an_error_leaves_nothing(error: BaseException) -> None:
    world = World()
    before = dict(world.store.table)

    def operation(change: Change) -> None:
        create(change, ROOT_INO, b"f", 1500, stat.S_IFREG, ROOT)
        blkno, _ = change.allocate(7)
        change.write(blkno, bytes(4096))
        change.free(blkno + 1, 1)
        raise error

    with pytest.raises(type(error)):
        world.perform(operation)
    assert (world.store.table, world.space.used, world.space.pages, world.inode_count) == (before, set(), {}, 1)


def test_a_volume_that_is_not_what_was_read() -> None:
    """An item that should not be there has the whole operation refused."""
    world = World()
    world.store._set(fs_key(1500, FsType.INODE), b"")
    before = dict(world.store.table)
    with pytest.raises(ItemConflict):
        world.perform(create, ROOT_INO, b"f", 1500, stat.S_IFREG, ROOT)
    assert world.store.table == before


def test_an_operation_sees_what_it_did() -> None:
    world = World()
    ino = world.make(b"f")
    key = [fs_key(ino, FsType.SYMLINK, number) for number in range(6)]
    first, last = fs_range(ino, FsType.SYMLINK)
    for number in (1, 3):
        world.store._set(key[number], b"old")

    def operation(change: Change) -> None:
        change.open(ino)
        change.create(key[0], b"new")
        change.delete(key[1])
        change.create(key[2], b"new")
        change.update(key[3], b"newer")
        change.create(key[5], b"last")
        assert list(change.items(first, last)) == [
            (key[0], b"new"), (key[2], b"new"), (key[3], b"newer"), (key[5], b"last")
        ]  # fmt: skip
        assert change.next(key[1], last) == (key[2], b"new")
        assert change.next(key[4], key[4]) is None
        assert [batch.keys[0] for batch in change.batches(key[3], last)] == [key[3], key[5]]
        assert change.lookup(key[1]) is None
        with pytest.raises(ItemConflict):
            change.create(key[2], b"")
        with pytest.raises(ItemConflict):
            change.update(key[1], b"")
        change.create(key[1], b"again")
        change.delete(key[2])
        change.delete(key[5])
        change.update(key[0], b"newest")

    world.perform(operation)
    found = [(key[0], b"newest"), (key[1], b"again"), (key[3], b"newer")]
    assert list(world.store.unlocked(first, last)) == found


def test_what_changed_is_known() -> None:
    world = World()
    ino = world.make(b"f")
    world.held.modes = {
        request.start: request.mode
        for request in (inode_request(0), inode_request(1), ORPHAN_LOCK, index_request(InodeIndexType.META_SEQ, 0))
    }
    with world.change() as change:
        unlink(change, ROOT_INO, b"f")
    assert change.inodes == {ROOT_INO: world.inode(ROOT_INO), ino: world.inode(ino)}


def answer(walk: Generator[int, int | None, Kinship], parents: dict[int, int | None]) -> Kinship:
    """Tell a walk the parents of directories."""
    try:
        ino = next(walk)
        while True:
            ino = walk.send(parents.get(ino))
    except StopIteration as end:
        return end.value


def test_kinship() -> None:
    parents: dict[int, int | None] = {2: 1, 3: 2, 4: 3, 5: 2}
    assert answer(find_kinship(1, 4), parents) == Kinship(2, None)
    assert answer(find_kinship(2, 4), parents) == Kinship(3, None)
    assert answer(find_kinship(4, 2), parents) == Kinship(None, 3)
    assert answer(find_kinship(4, 5), parents) == Kinship(None, None)
    with pytest.raises(NotFound):
        answer(find_kinship(4, 9), parents)
    with pytest.raises(TooManyLinks):
        answer(find_kinship(1, 7), {7: 8, 8: 7})
    with pytest.raises(TooManyLinks):
        answer(find_kinship(1, 7), {7: 8})


def test_directories_do_not_go_below_themselves() -> None:
    world = World()
    top = world.make(b"top", DIR)
    sub = world.make(b"sub", DIR, top)
    for names, kinship in (
        (Names(ROOT_INO, b"top", sub, b"x"), Kinship(top, None)),
        (Names(sub, b"f", ROOT_INO, b"top"), Kinship(None, top)),
        (Names(ROOT_INO, b"top", sub, b"x"), None),
    ):
        if names.old_dir == sub:
            world.make(b"f", at=sub)
        with pytest.raises(ScoutfsError) as refused:
            world.perform(rename, names, 0, kinship)
        assert refused.value.errno == errno.EINVAL
    world.check()


def test_the_last_link_and_the_last_position() -> None:
    world = World()
    ino = world.make(b"f")

    def set_fields(change: Change) -> None:
        root, inode = change.open(ROOT_INO, ino)
        change.set(inode._replace(nlink=2147483647))
        change.set(root._replace(next_readdir_pos=2**64 - 2))

    world.perform(set_fields)
    with pytest.raises(ScoutfsError) as refused:
        world.perform(link, ino, ROOT_INO, b"g")
    assert refused.value.errno == errno.EMLINK
    world.make(b"g")
    with pytest.raises(ScoutfsError) as refused:
        world.make(b"h")
    assert refused.value.errno == errno.ENOSPC


def test_names_that_are_in_use_are_seen_before_anything_is_counted() -> None:
    world = World()
    world.make(b"f")
    before = world.inode(ROOT_INO)
    with pytest.raises(Exists):
        world.make(b"f")
    assert world.inode(ROOT_INO) == before


def test_pools_of_numbers() -> None:
    """Spec 06 §2.4."""
    pools = InoPools()
    assert pools.take(directory=False) is pools.take(directory=True) is None
    pools.add(1024, BATCH, directory=False)
    pools.add(1024 + BATCH, 2, directory=True)
    taken = [pools.take(directory=False) for _ in range(BATCH + 1)]
    assert taken == [*range(1024, 1024 + BATCH), None]
    assert [pools.take(directory=True) for _ in range(3)] == [1024 + BATCH, 1025 + BATCH, None]
    few = InoPools(per_lock=2)
    few.add(1024, BATCH, directory=True)
    assert [few.take(directory=number % 2 == 0) for number in range(5)] == [1024, 1025, 2048, 2049, 3072]
    rest = [few.take(directory=False) for _ in range(20)]
    assert rest == [3073, *(1024 * group + number for group in range(4, 11) for number in (0, 1)), *[None] * 5]
