"""Volumes that kernel servers left, whole or in the middle of something: our server goes on with them."""

from __future__ import annotations

import functools

import pytest
from trio.testing import MockClock

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
from tests.server.mounts import Server, copied

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
