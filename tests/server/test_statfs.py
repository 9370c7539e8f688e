"""Free space, on volumes that the original wrote; damage and change under the reader."""

from __future__ import annotations

import errno
import re
import struct
from pathlib import Path

import pytest

from format.block import Magic
from format.keys import Key
from format.net import Command
from format.superblock import SuperBlock
from scoutfs.errors import ScoutfsError
from scoutfs.metadata.blocks import DamagedBlock, StaleBlockError
from scoutfs.metadata.btree import after, before, tree_of
from scoutfs.network.statfs import Statfs
from scoutfs.server.statfs import read_statfs
from scoutfs.storage.device import Device
from scoutfs.storage.volume import Volume
from tests import images
from tests.memory import Image, MemoryIO
from tests.network.capture import messages, tcp_streams

SYNTHETIC = "synthetic-all-structures"


class MetadataOnly:
    """The metadata device of a volume whose data device was not recorded."""

    metadata_path = "m"

    def __init__(self, image: Image) -> None:
        self.meta = Device.open("m", writable=True, io=MemoryIO({"m": image.copy()}))
        self.fsid = self.read_super().fsid

    def read_super(self) -> SuperBlock:
        return SuperBlock.parse(self.meta.read(65536, 4096))

    def write(self, offset: int, data: bytes) -> None:
        page = bytearray(self.meta.read(offset & ~4095, 4096))
        page[offset & 4095 : (offset & 4095) + len(data)] = data
        self.meta.write(offset & ~4095, page)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    return Image.of_file(images.unpack(SYNTHETIC, "meta", tmp_path_factory.mktemp("volume") / "m"))


@pytest.fixture
def synthetic(image: Image) -> MetadataOnly:
    return MetadataOnly(image)


@pytest.mark.parametrize("name", ["v1-1slot", "v2-3slot"])
def test_a_new_volume(name: str, tmp_path: Path) -> None:
    """mkfs uses 7 blocks of metadata and the first 64 of data, whatever the size (spec 03 §13, M1)."""
    meta, data = images.unpack_volume(name, tmp_path)
    with Volume.open(data, meta, writable=False) as volume:
        free = read_statfs(volume)
        assert free == Statfs(volume.uuid, 2048 - 7, 2048, 16384 - 64, 16384, 1)
        assert Statfs.parse(free.build()) == free


def test_every_structure_that_owns_free_blocks_is_counted(synthetic: MetadataOnly) -> None:
    """Against the original's print of the same image, and against the bytes at the offsets that it prints."""
    text = (images.DIRECTORY / f"{SYNTHETIC}.print.txt").read_text()
    super_text = text[: text.index("quorum config")]
    meta = sum(map(int, re.findall(r"meta_alloc\[.*total_len (\d+)", super_text)))
    meta += sum(map(int, re.findall(r"server_meta_.*total_nr (\d+)", super_text)))
    meta += sum(map(int, re.findall(r"^ +meta_(?:avail|freed): .*total_nr (\d+)", text, re.M)))
    lists = 0
    for block in re.split(r"\n(?=\w+ btree blkno )", text):
        place = re.match(r"(?:log_merge|srch_root) btree blkno (\d+)", block)
        for vo, kind in re.findall(
            r" vo (\d+) vl \d+\n(?: +[\d.]+\n)? +(request|complete|compact pending|compact busy):", block
        ):
            assert place, kind
            value = images.read(SYNTHETIC, "meta", int(place[1]) * 65536 + int(vo), 64)
            lists += struct.unpack_from("<Q", value, 16)[0] + struct.unpack_from("<Q", value, 48)[0]
    assert lists > 0
    data = int(re.findall(r"data_alloc: .*total_len (\d+)", super_text)[0])
    data += sum(map(int, re.findall(r"data_(?:avail|freed): .*total_len (\d+)", text)))
    inodes = int(re.findall(r"inode_count (\d+)", super_text)[0])
    inodes += sum(map(int, re.findall(r"inode_count_delta: (-?\d+)", text)))
    free = read_statfs(synthetic)
    assert (free.free_meta_blocks, free.free_data_blocks, free.inode_count) == (meta + lists, data, inodes)


def test_items_come_in_order_and_are_found(synthetic: MetadataOnly) -> None:
    root = synthetic.read_super().raw.mounted_clients
    tree = tree_of(synthetic, root)
    found = list(tree.items())
    assert [Key.from_sort_bytes(item.key).first for item in found] == [
        0x0011223344556677,
        0xFEDCBA9876543210,
        0xFFFF000000000000,
    ]
    for item in found:
        assert tree.lookup(item.key) == item
        assert tree.lookup(after(item.key)) is None
        assert tree.lookup(before(item.key)) is None
    assert list(tree.items(found[1].key, found[1].key)) == [found[1]]
    assert list(tree.items_reversed()) == found[::-1]


def test_a_block_that_is_not_the_one_referred_to_is_stale(synthetic: MetadataOnly) -> None:
    root = synthetic.read_super().raw.mounted_clients
    synthetic.write(1120 * 65536 + 3000, b"x")
    with pytest.raises(StaleBlockError, match="block 1120: crc"):
        list(tree_of(synthetic, root).items())
    wrong = synthetic.read_super().raw.mounted_clients
    wrong.ref.seq += 1
    with pytest.raises(StaleBlockError, match="block 1122: seq"):
        list(tree_of(synthetic, wrong).items())


def test_a_tree_that_is_none_is_damage(synthetic: MetadataOnly) -> None:
    root = synthetic.read_super().raw.mounted_clients
    root.height = 1
    with pytest.raises(DamagedBlock, match="level is 1, expected 0"):
        list(tree_of(synthetic, root).items())
    root.height = 21
    with pytest.raises(DamagedBlock, match="height 21"):
        list(tree_of(synthetic, root).items())


def test_damage_that_stays_is_an_error(synthetic: MetadataOnly) -> None:
    synthetic.write(1160 * 65536 + 3000, b"x")
    with pytest.raises(ScoutfsError, match="block 1160: crc") as raised:
        read_statfs(synthetic)
    assert raised.value.errno == errno.EIO


def test_blocks_replaced_under_the_reader_are_counted_again_from_a_newer_super(synthetic: MetadataOnly) -> None:
    expected = read_statfs(synthetic)
    supers: list[bytes] = []

    def read_super() -> SuperBlock:
        supers.append(synthetic.meta.read(65536, 4096))
        old = SuperBlock.parse(supers[-1])
        if len(supers) < 4:
            old.raw.logs_root.ref.seq = 1000 + len(supers)
        return old

    synthetic.read_super = read_super  # type: ignore[method-assign]
    assert read_statfs(synthetic) == expected
    assert len(supers) == 4


def test_the_recorded_answers_of_kernel_servers_are_read() -> None:
    payloads = [
        message.payload
        for stream in tcp_streams("cluster3/lo")
        for message in messages(stream.data)
        if message.cmd == Command.STATFS and message.flags
    ]
    assert payloads
    for payload in payloads:
        free = Statfs.parse(payload)
        # 24 GiB of metadata, 32 GiB of data (mkfs.txt of the capture)
        assert (free.total_meta_blocks, free.total_data_blocks) == (24 << 14, 32 << 18)
        assert free.free_meta_blocks < free.total_meta_blocks
        assert free.free_data_blocks < free.total_data_blocks
        assert free.build() == payload


def test_the_magic_of_other_blocks_is_not_taken_for_a_btree(synthetic: MetadataOnly) -> None:
    root = synthetic.read_super().raw.mounted_clients
    root.ref.blkno, root.ref.seq, root.height = 1110, 21, 1
    with pytest.raises(StaleBlockError, match=f"magic is {int(Magic.ALLOC_LIST):#x}"):
        list(tree_of(synthetic, root).items())
