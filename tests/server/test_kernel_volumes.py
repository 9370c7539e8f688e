"""Volumes that kernel servers left, whole or in the middle of something: our server goes on with them."""

from __future__ import annotations

import functools

import pytest
from trio.testing import MockClock

from format.logs import LogTrees
from format.net import Command
from scoutfs.fsck.check import check_volume
from scoutfs.fsck.kinds import Severity
from scoutfs.metadata.blocks import BlockReader
from scoutfs.metadata.btree import Root
from scoutfs.metadata.snapshot import Roots, Snapshot
from scoutfs.server import transactions
from scoutfs.server.log_trees import all_log_trees
from scoutfs.server.merge_splicing import free_merged
from scoutfs.server.mounted_clients import recorded_mounts
from scoutfs.storage import Device
from tests import kernel_images
from tests.memory import Image, MemoryIO
from tests.network.capture import messages, tcp_streams
from tests.server.mounts import GIB, Server, copied, new_images

NAMES = [*kernel_images.KEPT, *kernel_images.OTHERS]


@functools.cache
def _loaded(name: str) -> dict[str, Image]:
    return {role: kernel_images.load(name, role) for role in ("meta", "data")}


def findings(images: dict[str, Image]) -> set[str]:
    """Return all errors that the checker finds, in files too."""
    io = MemoryIO(images)
    with Device.open("meta", io=io) as meta, Device.open("data", io=io) as data:
        report = check_volume(meta, data).report
    return {f.text for f in report.findings() if f.kind.severity is Severity.ERROR}


def items(server: Server) -> list[tuple[bytes, bytes]]:
    raw = server.volume.stable.raw
    roots = Roots(*(Root.of(raw[name]) for name in Roots._fields))
    reader = BlockReader(server.device_volume.meta, server.device_volume.fsid)
    return list(Snapshot(reader, roots).items())


@pytest.mark.parametrize("name", NAMES)
async def test_we_take_over_and_finish_what_is_open(
    name: str, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transactions, "LEVELS_OF_LARGE_TREE", 0)
    before = findings(_loaded(name))
    async with Server(copied(_loaded(name))).running() as server:
        expected = items(server)
        for mount in await server.volume.change(recorded_mounts):
            await server.requests.reclaim(mount.rid)
            assert findings(server.images) <= before
        assert items(server) == expected
        ours = await server.mounted(0x7777)
        await ours.begin()
        await ours.merge()
        while ours.trees.nr < 3:
            ours.write((1 << 40,))
            await ours.commit()
            await ours.begin()
            await ours.merge()
        await ours.compact()
        while not await server.volume.change(free_merged):
            pass
        assert server.volume.stable.raw.log_merge.ref.blkno == 0
        assert [trees.rid for trees in await server.volume.change(all_log_trees)] == [0x7777]
        found = items(server)
        assert [item for item in found if item[0][9:18] != (b"\x04" + (1 << 40).to_bytes(8, "big"))] == expected
        assert server.damage() == []


def first_transaction(trees: object) -> tuple[object, ...]:
    """Return what a mount gets for its first transaction, but for numbers that depend on what happened before."""
    names = ("total_nr", "first_nr", "flags")
    lists = [tuple(trees[name][field] for field in names) for name in ("meta_avail", "meta_freed")]  # type: ignore[index]
    pools = [(trees[name].total_len, trees[name].flags) for name in ("data_avail", "data_freed")]  # type: ignore[index]
    others = ("nr", "commit_trans_seq", "finalize_seq", "flags", "data_alloc_zone_blocks", "inode_count_delta")
    return *lists, *pools, *(trees[name] for name in others)  # type: ignore[index]


async def test_mounts_get_what_they_get_from_a_kernel_server(autojump_clock: MockClock) -> None:
    recorded = [
        trees
        for capture in ("three-guests/br0", "cluster3/lo")
        for stream in tcp_streams(capture)
        for message in messages(stream.data)
        if message.cmd == Command.GET_LOG_TREES
        and len(message.payload) == LogTrees.sizeof()
        and (trees := LogTrees.parse(message.payload)).nr == 1
        and not trees.commit_trans_seq
    ]
    assert len(recorded) > 4
    async with Server(new_images(64 * GIB, 64 * GIB)).running() as server:
        for rid in (1, 2, 3):
            mount = await server.mounted(rid)
            await mount.begin()
            assert {first_transaction(trees) for trees in recorded} == {first_transaction(mount.trees)}
        assert server.damage() == []
