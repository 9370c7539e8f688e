"""Search files of several blocks and levels, entries that cancel each other, and searches in portions."""

from __future__ import annotations

import random
import struct
from collections import Counter
from collections.abc import Callable, Sequence

import pytest

from format.block import LARGE_BLOCK_SIZE, Magic, Ref, seal
from format.hashes import hash64
from format.keys import Key, SrchType, Zone
from format.logs import LogTrees
from format.srch import BLOCK_SAFE_SIZE, FIRST_BASE, Entry, encode_entry
from scoutfs.files.search import search_xattrs
from scoutfs.files.tags import BadTag
from scoutfs.metadata.blocks import DamagedBlock
from scoutfs.metadata.btree import NO_ROOT
from scoutfs.metadata.forest import Forest
from scoutfs.metadata.snapshot import Roots
from tests.format.blocks import Given
from tests.metadata.building import FSID, Blocks

NAME = b"scoutfs.srch.wanted"
WANTED = hash64(NAME)


def put(device: Blocks, magic: Magic, body: bytes) -> Ref:
    device.next_blkno += 1
    ref = Ref(device.next_blkno, 7)
    header = struct.pack("<IIQQQ", 0, magic, FSID, ref.seq, ref.blkno)
    device.contents[ref.blkno] = seal(header + body, LARGE_BLOCK_SIZE)
    return ref


def add_file(device: Blocks, entries: list[Entry], *, per_block: int = 10**6) -> bytes:
    """Write a search file; return its 88 bytes."""
    blocks = []
    while entries:
        coded, count, base = b"", 0, FIRST_BASE
        for entry in entries[:per_block]:
            if len(coded) > BLOCK_SAFE_SIZE:
                break
            coded += encode_entry(entry, base)
            base = entry
            count += 1
        taken, entries = entries[:count], entries[count:]
        ends = struct.pack("<9Q", *min(taken), *max(taken), *base)
        blocks.append((put(device, Magic.SRCH_BLOCK, ends + struct.pack("<II", count, len(coded)) + coded), taken))
    root, levels = blocks[0][0], 1
    if len(blocks) > 1:
        root, levels = put(device, Magic.SRCH_PARENT, b"".join(struct.pack("<QQ", *ref) for ref, _ in blocks)), 2
    everything = [entry for _, taken in blocks for entry in taken]
    ends = struct.pack("<6Q", *min(everything), *max(everything))
    return ends + struct.pack("<QQQQB7x", *root, len(blocks), len(everything), levels)


def searching(
    device: Blocks, files: list[tuple[SrchType, bytes]], logs: Sequence[bytes] = ()
) -> Callable[..., list[int]]:
    """Return a search in `files` and in the logs of mounts."""
    items = [
        Given(Key(Zone.SRCH, 0, kind, *((number, 5) if kind == SrchType.BLOCKS else (number,))), file)
        for number, (kind, file) in enumerate(files)
    ]
    trees = []
    for rid, file in enumerate(logs, 1):
        value = bytearray(LogTrees.sizeof())
        value[184:272] = file
        trees.append(Given(Key(Zone.LOG_TREES, rid, 0, 1), bytes(value)))
    srch_root = device.add_tree(sorted(items, key=lambda item: item.key))
    forest = Forest(device.reader(), lambda: Roots(NO_ROOT, device.add_tree(trees), srch_root))
    return lambda *range, **options: list(search_xattrs(forest.run, NAME, *range, **options))


def test_all_files_are_searched() -> None:
    device = Blocks()
    sorted_file = add_file(device, [Entry(WANTED - 1, 5, 0), Entry(WANTED, 10, 1), Entry(WANTED, 30, 1)])
    log = add_file(device, [Entry(WANTED, 20, 1), Entry(WANTED + 1, 1, 1), Entry(WANTED, 5, 2)])
    other = add_file(device, [Entry(WANTED + 1, 2, 2)])
    own = add_file(device, [Entry(WANTED, 7, 0), Entry(WANTED, 10, 2)])
    files = [(SrchType.BLOCKS, sorted_file), (SrchType.LOG, log), (SrchType.BLOCKS, other)]
    search = searching(device, files, [own, bytes(88)])
    assert search() == [5, 7, 10, 20, 30]
    assert search(7, 20) == [7, 10, 20]
    assert search(31) == []
    assert search(20, 10) == []


def test_entries_of_removed_attributes_cancel_those_of_their_creation() -> None:
    device = Blocks()
    created = add_file(device, [Entry(WANTED, ino, 0) for ino in (1, 2, 3, 3, 3)])
    removed = add_file(device, [Entry(WANTED, 3, 0), Entry(WANTED, 1, 0), Entry(WANTED, 2, 1)])
    search = searching(device, [(SrchType.LOG, created), (SrchType.LOG, removed)])
    assert search() == [2]


@pytest.mark.parametrize("members_max", [1, 3, 50, 10**6])
def test_portions(members_max: int) -> None:
    """Random entries in files of several blocks, against counting all of them."""
    source = random.Random(members_max)
    device = Blocks()
    everything: Counter[Entry] = Counter()
    files: list[tuple[SrchType, bytes]] = []
    for kind in (SrchType.BLOCKS, SrchType.LOG) * 2:
        entries = [Entry(WANTED, source.randrange(200), source.randrange(2)) for _ in range(150)]
        entries += [Entry(WANTED + source.choice([-1, 1]), 5, number) for number in range(50)]
        if kind == SrchType.BLOCKS:
            entries.sort()
        everything.update(entry for entry in entries if entry.hash == WANTED)
        files.append((kind, add_file(device, entries, per_block=13)))
    expected = sorted({entry.ino for entry, count in everything.items() if count % 2})
    search = searching(device, files)
    assert search(members_max=members_max) == expected
    assert search(50, 99, members_max=members_max) == [ino for ino in expected if 50 <= ino <= 99]


def test_a_sorted_file_is_searched_by_halves() -> None:
    device = Blocks()
    entries = [Entry(number << 40, 1, 1) for number in range(3000)]
    entries = sorted([*entries, Entry(WANTED, 44, 1), Entry(WANTED, 45, 1)])
    search = searching(device, [(SrchType.BLOCKS, add_file(device, entries, per_block=20))])
    device.reads = 0
    assert search() == [44, 45]
    assert device.reads < 20


def test_full_blocks() -> None:
    """An entry may start at byte 65398, and the next one is in another block (spec 06 §8.1)."""
    device = Blocks()
    source = random.Random(1)
    entries = sorted(Entry(source.choice([WANTED, WANTED + 1]), source.getrandbits(64), 3) for _ in range(20_000))
    search = searching(device, [(SrchType.BLOCKS, add_file(device, entries))])
    assert search() == [entry.ino for entry in entries if entry.hash == WANTED]


def test_names_that_cannot_be_searched() -> None:
    for name in (b"user.a", b"scoutfs.hide.x", b"scoutfs.nothing"):
        with pytest.raises(BadTag):
            list(search_xattrs(Forest(Blocks().reader(), lambda: Roots(NO_ROOT)).run, name))


def test_files_that_cannot_be() -> None:
    device = Blocks(size=1 << 30)
    file = bytearray(add_file(device, [Entry(WANTED, number, 1) for number in range(30)], per_block=10))
    for offset, number, text in (
        (80, 0, "height 0"),
        (80, 8, "height 8"),
        (80, 1, "height 1 with 3 blocks"),
        (64, 4, "there is no block 3 below it"),
        (64, 1 << 20, f"with {1 << 20} blocks"),
    ):
        changed = bytearray(file)
        size = 8 if offset == 64 else 1
        changed[offset : offset + size] = number.to_bytes(size, "little")
        with pytest.raises(DamagedBlock, match=text):
            searching(device, [(SrchType.LOG, bytes(changed))])()
    with pytest.raises(DamagedBlock, match="a value of 87 bytes"):
        searching(device, [(SrchType.LOG, bytes(87))])()


def test_a_parent_that_refers_to_a_block_twice_is_damage() -> None:
    device = Blocks()
    file = bytearray(add_file(device, [Entry(WANTED, number, 1) for number in range(30)], per_block=10))
    (blkno,) = struct.unpack_from("<Q", file, 48)
    data = bytearray(device.contents[blkno])
    data[48:64] = data[32:48]
    device.contents[blkno] = seal(data, LARGE_BLOCK_SIZE)
    with pytest.raises(DamagedBlock, match="refers to a block twice"):
        searching(device, [(SrchType.LOG, bytes(file))])()
