"""Options and size of the volume, and what the options do (spec 03 §8.4, §8.10, §8.11)."""

from __future__ import annotations

import functools

import pytest
from trio.testing import MockClock

from format.logs import LogTrees
from format.net import Command
from format.payloads import NetResizeDevices
from format.superblock import VolumeOptions
from scoutfs.errors import ScoutfsError
from scoutfs.server.data_zones import zone_words, zones_for
from tests.memory import Image
from tests.server.mounts import GIB, Mount, Server, copied, new_images

ZONE = 1 << 20


@functools.cache
def _new(data: int) -> dict[str, Image]:
    return new_images(2 * GIB, data)


def images(data: int = 64 * GIB) -> dict[str, Image]:
    return copied(_new(data))


def options(value: int, bits: int = 1) -> bytes:
    return VolumeOptions.build({"set_bits": bits, "data_alloc_zone_blocks": value, "future_expansion": [0] * 63})


async def refused(mount: Mount, command: Command, payload: bytes) -> bool:
    """Whether the request is answered with EINVAL."""
    with pytest.raises(ScoutfsError) as raised:
        await mount.ask(command, payload)
    return raised.value.errno == 22


async def test_options_are_set_kept_and_cleared(autojump_clock: MockClock) -> None:
    async with Server(images()).running() as server:
        mount = await server.mounted(1)
        assert await mount.ask(Command.GET_VOLOPT, b"") == bytes(520)
        await mount.ask(Command.SET_VOLOPT, options(2 * ZONE))
        assert await mount.ask(Command.GET_VOLOPT, b"") == options(2 * ZONE)
        for value in (0, ZONE - 1, (64 << 18) + 1):
            assert await refused(mount, Command.SET_VOLOPT, options(value))
        assert await refused(mount, Command.SET_VOLOPT, options(ZONE, bits=3))
        assert await refused(mount, Command.CLEAR_VOLOPT, options(0, bits=2))
        await mount.ask(Command.SET_VOLOPT, options(0, bits=0))
    async with Server(server.images, 1).running() as server:
        mount = server.mount(1)
        assert await mount.ask(Command.GET_VOLOPT, b"") == options(2 * ZONE)
        await mount.ask(Command.CLEAR_VOLOPT, options(0))
        assert await mount.ask(Command.GET_VOLOPT, b"") == bytes(520)
        assert server.damage() == []


async def test_mounts_get_their_data_in_zones_of_their_own(autojump_clock: MockClock) -> None:
    async with Server(images()).running() as server:
        mounts = [await server.mounted(rid) for rid in (1, 2, 3)]
        await mounts[0].ask(Command.SET_VOLOPT, options(ZONE))
        seen = 0
        for mount in mounts:
            await mount.begin()
            mask = sum(word << 64 * index for index, word in enumerate(mount.trees.data_alloc_zones))
            assert mount.trees.data_alloc_zone_blocks == ZONE
            assert mask
            # what begins in a zone may go on in the next one
            assert not (mask & -mask) & seen
            seen |= mask
        assert server.damage() == []
        own = mounts[1].trees.data_alloc_zones[0]
        await mounts[1].transaction(1, data_blocks=900_000)
        assert mounts[1].trees.data_alloc_zones[0] & own == mounts[1].trees.data_alloc_zones[0]
        assert server.damage() == []


def test_zones_of_other_sizes_are_translated() -> None:
    def trees(rid: int, blocks: int, mask: int) -> object:
        item = LogTrees.parse(bytes(LogTrees.sizeof()))
        item.rid, item.data_alloc_zone_blocks, item.data_alloc_zones = rid, blocks, zone_words(mask)
        return item

    items = [trees(1, 50, 0b0110), trees(2, 100, 0b1000), trees(3, 0, 0xFF), trees(1, 100, 0b1000000)]
    zones = zones_for(1, items, 100, 750)
    assert (zones.exclusive, zones.vacant) == (0b1000011, 0b10110100)
    # in the order of the keys, the last one to name a zone has it
    assert zones_for(2, [trees(2, 100, 1), trees(3, 100, 1)], 100, 200).exclusive == 0
    assert zones_for(2, items, 0, 750).blocks == 0
    # more than the bitmap has bits for are not handed out by zone
    assert zones_for(9, [], 1, 5000).vacant == (1 << 1024) - 1


async def test_a_volume_grows_with_its_devices(autojump_clock: MockClock) -> None:
    grown = images()
    grown["meta"].size += 100 << 16
    grown["data"].size += 1000 << 12
    meta, data = 2 * GIB >> 16, 64 * GIB >> 12

    def wanted(meta_blocks: int, data_blocks: int) -> bytes:
        return NetResizeDevices.build({"new_total_meta_blocks": meta_blocks, "new_total_data_blocks": data_blocks})

    async with Server(grown).running() as server:
        mount = await server.mounted(1)
        for meta_blocks, data_blocks in ((meta - 1, 0), (0, data - 1), (meta + 101, 0), (0, data + 1001)):
            assert await refused(mount, Command.RESIZE_DEVICES, wanted(meta_blocks, data_blocks))
        await mount.ask(Command.RESIZE_DEVICES, wanted(0, data))
        await mount.ask(Command.RESIZE_DEVICES, wanted(meta + 60, data + 900))
        raw = server.volume.stable.raw
        assert (raw.total_meta_blocks, raw.total_data_blocks) == (meta + 60, data + 900)
        assert raw.data_alloc.total_len == data + 900 - 64
        assert server.damage() == []
        await mount.begin()
        await mount.transaction(1, data_blocks=100)
    async with Server(grown, 1).running() as server:
        assert server.volume.stable.raw.total_meta_blocks == meta + 60
        assert server.damage() == []
