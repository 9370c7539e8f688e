"""What operations leave, written as a mount and a server write it: the checker has nothing to say of the volume."""

from __future__ import annotations

import random
import stat
import struct
from typing import Any

import pytest

from format.acl import DEFAULT_NAME, AclEntry, AclTag, build_acl
from format.block import Magic, Ref
from format.btree import ItemFlag
from format.extent import Extent
from format.hashes import bloom_bits
from format.keys import Key
from format.logs import bloom_set
from scoutfs.files.acl_writing import remove_attribute, set_attribute
from scoutfs.files.archive import release, release_behind_end
from scoutfs.files.attr_x import NewAttrX, set_attr_x
from scoutfs.files.caller import ROOT
from scoutfs.files.create import create_unlinked, symlink
from scoutfs.files.deletion import delete_some
from scoutfs.files.errors import NoAttribute, TruncatePending
from scoutfs.files.linking import link, unlink
from scoutfs.files.rename import Kinship, Names, rename
from scoutfs.files.truncate import finish_truncate, set_size
from scoutfs.files.writing import preallocate, write
from scoutfs.fsck.check import check_volume
from scoutfs.fsck.kinds import Kind, Severity
from scoutfs.metadata.allocator import ListAllocator
from scoutfs.metadata.block_lists import ListHead
from scoutfs.metadata.btree import Root
from scoutfs.metadata.btree_writer import BtreeWriter
from scoutfs.metadata.free_extents import AllocatorRoot, FreeExtents
from scoutfs.metadata.lock_ranges import lock_of
from scoutfs.metadata.snapshot import Roots, Snapshot
from scoutfs.metadata.totals import is_delta
from scoutfs.metadata.writer import BlockWriter, RawBlock
from scoutfs.storage import Device
from tests.files.world import BLOCK, ROOT_INO, World
from tests.memory import Image, MemoryIO
from tests.metadata.servers import DATA_BLOCKS, Cluster, new_volume
from tests.metadata.writing import columns

RID = 1
META_BLOCKS = 60_000
_TOTL = struct.Struct("<QQ")
_DEFAULT_ACL = build_acl(
    (
        AclEntry(AclTag.USER_OBJ, 7),
        AclEntry(AclTag.USER, 7, 1000),
        AclEntry(AclTag.GROUP_OBJ, 5),
        AclEntry(AclTag.MASK, 7),
        AclEntry(AclTag.OTHER, 0),
    )
)


def items(cluster: Cluster) -> dict[bytes, bytes]:
    """Return all items as the super block on the device shows them."""
    raw = cluster.server.stable.raw
    roots = (Root.of(raw[name]) for name in ("fs_root", "logs_root", "srch_root", "log_merge"))
    return dict(Snapshot(cluster.server.writer.reader, Roots(*roots)).items())


def problems(images: dict[str, Image]) -> list[str]:
    """Return what is wrong with a volume."""
    io = MemoryIO(images)
    with Device.open("meta", io=io) as meta, Device.open("data", io=io) as data:
        findings = check_volume(meta, data).report.findings()
    # The volume has no members.
    errors = [finding for finding in findings if finding.kind.severity is Severity.ERROR]
    return [finding.text for finding in errors if finding.kind is not Kind.QUORUM_CONFIG]


def begin(cluster: Cluster, world: World) -> None:
    """Open a transaction, with the data blocks that the server gives."""
    cluster.open(RID)
    cluster.commit()
    parsed = cluster.log_trees(RID)
    world.seq = parsed.get_trans_seq
    avail = FreeExtents(cluster.server.writer, cluster.server.allocator, AllocatorRoot.of(parsed.data_avail))
    world.space.available = [tuple(extent) for extent in avail.extents()]
    world.space.freed = []


def end(cluster: Cluster, world: World, given: list[tuple[int, int]], before: dict[bytes, bytes]) -> None:
    """Commit what has changed since `before`, as a mount does: into its log tree, its bloom block, its extents."""
    parsed = cluster.log_trees(RID)
    writer = BlockWriter(cluster._reader(), cluster._seqs.__next__)
    heads = (ListHead.of(parsed[name]) for name in ("meta_avail", "meta_freed"))
    allocator = ListAllocator(writer, *heads, cluster.meta.size >> 16)
    tree = BtreeWriter(writer, allocator, Root.of(parsed.item_root))
    tree.insert_list(columns(_dirty(world, before)))
    ref = Ref(**{name: parsed.bloom_ref[name] for name in ("blkno", "seq")})
    bloom = RawBlock(Magic.BLOOM, writer.read(ref, Magic.BLOOM, "bloom block") if ref.blkno else None)
    ref = writer.replace(ref, bloom, allocator)
    for key in {*before, *world.store.table}:
        lock = lock_of(Key.from_sort_bytes(key))
        assert lock is not None
        bloom_set(bloom.data, bloom_bits(lock.start.build()))
    avail, freed = (
        FreeExtents(writer, allocator, AllocatorRoot.of(parsed[name])) for name in ("data_avail", "data_freed")
    )
    left = {start + length: start for start, length in world.space.available}
    for start, length in given:
        if left.get(start + length, start + length) > start:
            avail.remove(Extent(start, left.get(start + length, start + length) - start))
    for start, length in world.space.freed:
        freed.insert(Extent(start, length))
    avail_head, freed_head = allocator.prepare()
    writer.write()
    for name, root in (
        ("meta_avail", avail_head),
        ("meta_freed", freed_head),
        ("data_avail", avail.root),
        ("data_freed", freed.root),
    ):
        parsed[name] = root.fields()
    parsed.item_root, parsed.bloom_ref = tree.root.fields(), ref._asdict()
    parsed.commit_trans_seq = parsed.max_item_seq = parsed.get_trans_seq
    parsed.inode_count_delta = world.inode_count - 1
    cluster.server.next_ino = world.next_ino
    cluster._store(parsed)
    cluster.commit()


def _dirty(world: World, before: dict[bytes, bytes]) -> list[tuple[bytes, int, int, bytes]]:
    dirty = []
    for key in sorted({*before, *world.store.table}):
        old, new = before.get(key), world.store.table.get(key)
        if is_delta(key):
            sums = [_TOTL.unpack(value or bytes(_TOTL.size)) for value in (new, old)]
            delta = [(one - other) % 2**64 for one, other in zip(*sums)]
            if any(delta):
                dirty.append((key, world.seq, 0, _TOTL.pack(*delta)))
        elif old != new:
            dirty.append((key, world.seq, 0 if new is not None else int(ItemFlag.DELETION), new or b""))
    return dirty


def work(world: World, rng: random.Random, files: dict[bytes, int]) -> None:
    """Do a bit of everything."""
    for _ in range(120):
        name = b"file %d" % rng.randrange(60)
        ino = files.get(name)
        if ino is None:
            kind = rng.choice((stat.S_IFREG, stat.S_IFREG, stat.S_IFREG, stat.S_IFIFO))
            ino = files[name] = world.make(name, kind | 0o644)
        if rng.randrange(8) == 0:
            world.perform(unlink, ROOT_INO, name)
            del files[name]
            if rng.randrange(2):
                world.perform(delete_some, ino)
        elif world.inode(ino).is_regular:
            operation, *arguments = rng.choice(_actions(rng))
            try:
                world.perform(operation, ino, *arguments)
            except TruncatePending:
                world.perform(finish_truncate, ino)
            except NoAttribute:
                assert operation is remove_attribute


def _actions(rng: random.Random) -> list[tuple[Any, ...]]:
    size, number = rng.randrange(60_000), rng.randrange(4)
    return [
        (write, size, rng.randbytes(rng.randrange(1, 30_000)), ROOT),
        (write, None, b"x" * 5000, ROOT),
        (set_size, size, ROOT),
        (finish_truncate,),
        (preallocate, 0, 100_000),
        (set_attribute, b"scoutfs.totl.1.2.%d" % number, b"%d" % size, ROOT),
        (set_attribute, b"scoutfs.indx.1.%d" % number, b"", ROOT),
        (set_attribute, b"user.%d" % number, rng.randbytes(size % 3000), ROOT),
        (remove_attribute, b"user.%d" % number, ROOT),
        (remove_attribute, b"scoutfs.totl.1.2.%d" % number, ROOT),
        (remove_attribute, b"scoutfs.indx.1.%d" % number, ROOT),
    ]


@pytest.mark.parametrize("seed", range(2))
def test_transactions_of_a_mount(seed: int) -> None:
    images, rng = new_volume(META_BLOCKS), random.Random(seed)
    cluster, world = Cluster(images), World()
    world.load(iter(items(cluster).items()), seq=0)
    world.space.total_blocks, world.next_ino = DATA_BLOCKS, 1024
    files: dict[bytes, int] = {}
    for round in range(4):
        begin(cluster, world)
        given, before = list(world.space.available), dict(world.store.table)
        if not round:
            at = world.make(b"dir", stat.S_IFDIR | 0o755)
            world.perform(set_attribute, at, DEFAULT_NAME, _DEFAULT_ACL, ROOT)
            sub = world.make(b"sub", stat.S_IFDIR | 0o755, at)
            world.make(b"inherits", stat.S_IFREG | 0o644, sub)
            world.perform(symlink, at, b"link", world.new_ino(), b"t" * 2000, ROOT)
            ino = world.make(b"linked")
            world.perform(link, ino, sub, b"again")
            world.perform(rename, Names(ROOT_INO, b"linked", at, b"moved"), 0, Kinship(None, None))
            world.perform(create_unlinked, ROOT_INO, world.new_ino(), 0o600, ROOT)
            big = world.make(b"big")
            world.perform(write, big, 0, b"x" * 50_000, ROOT)
            world.perform(release, big, 0, 13 * BLOCK, 1)
            world.perform(release_behind_end, big)
            world.perform(set_attr_x, world.make(b"kept"), NewAttrX(retention=True, project_id=7), ROOT)
        work(world, rng, files)
        world.check()
        end(cluster, world, given, before)
        assert items(cluster) == world.store.table
        assert problems(images) == []
        if round % 2:
            cluster.merge(RID)
            cluster.commit()
            assert items(cluster) == world.store.table
            assert problems(images) == []
    assert len(world.store.table) > 300
