"""Damaged bytes give typed errors and nothing else, and what is read is built again.

Each test changes valid blocks and messages in thousands of ways, always the same ones: the seed is in the test.
Where a checksum would hide the damage, it is computed again for a part of the cases.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterator

import pytest

from format.alloc import build_list_block, read_list_block
from format.block import BlockError, FormatError, Magic, Ref, seal, verify_block
from format.btree import read_items
from format.btree_check import check_items
from format.checksum import checksum
from format.dirent import DirEntry
from format.inode import build_inode, parse_inode
from format.keys import Key
from format.message import Message, MessageError
from format.net import Greeting, Header, NetHeaderError
from format.payloads import build_lock_recover, parse_lock_recover
from format.quorum import Event, QuorumBlock
from format.srch import read_entries, read_parent
from format.superblock import SuperBlock
from format.xattr import Xattr, join_xattr, split_xattr
from tests import images
from tests.format.blocks import Given, btree_block

CASES = 10_000
FSID = 0x0123456789ABCDEF
EDGES = (0, 1, 2, 15, 16, 127, 128, 254, 255)


def mutated(rng: random.Random, valid: bytes, busy: int) -> bytes:
    """Return `valid` changed in one to some places, most of them in its first `busy` bytes."""
    data = bytearray(valid)
    changes = rng.randint(1, 4)
    while changes > 0 or data == valid:
        changes -= 1
        position = rng.randrange(busy if rng.random() < 0.9 else len(data))
        kind = rng.randrange(4)
        if kind == 0:
            data[position] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[position] = rng.choice(EDGES)
        else:
            width = min(rng.choice((2, 4, 8)), len(data) - position)
            source = rng.randrange(busy)
            filler = rng.choice((bytes(8), b"\xff" * 8, bytes(data[source : source + 8]).ljust(8, b"\1")))
            data[position : position + width] = filler[:width]
    return bytes(data)


def cut(rng: random.Random, data: bytes) -> bytes:
    """Return `data`, sometimes cut short or grown."""
    choice = rng.random()
    if choice < 0.05:
        return data[: rng.randrange(len(data))]
    return data + rng.randbytes(rng.randint(1, 64)) if choice < 0.1 else data


def damaged_blocks(seed: int, valid: list[bytes], busy: int, sealed: int) -> Iterator[bytes]:
    """Yield `CASES` damaged blocks, one in `sealed` with a valid checksum."""
    rng = random.Random(seed)
    for case in range(CASES):
        block = mutated(rng, rng.choice(valid), busy)
        yield cut(rng, block) if case % sealed else seal(block, len(block))


def count_read(cases: Iterator[bytes], read: Callable[[bytes], None], error: type[FormatError]) -> int:
    """Return how many of the cases were read; the others raise `error`, and nothing else is raised."""
    count = 0
    for case in cases:
        try:
            read(case)
        except error as refused:
            if not str(refused):
                raise AssertionError("an error without a text") from refused
        else:
            count += 1
    return count


def test_super_blocks() -> None:
    valid = [images.read(name, "meta", 65536, 4096) for name in ("v2-15slot", "v1-1slot", "v2-raw-slot-bytes")]

    def read(data: bytes) -> None:
        block = SuperBlock.parse(data)
        built = block.build()
        again = SuperBlock.parse(built)
        assert again.build() == built
        assert built[4:612] == data[4:612]
        assert (again.uuid, again.quorum_config) == (block.uuid, block.quorum_config)

    assert 300 < count_read(damaged_blocks(1, valid, 1488, 20), read, BlockError) < CASES // 20


def quorum_blocks() -> list[bytes]:
    """Blocks of slot 3 with no, some and all events."""
    block = QuorumBlock(FSID, 3)
    blocks = [block.build()]
    for term, event in enumerate(Event):
        block = block.updated(event, 0x1122334455667788 + term, term, term * 1_000_000_007)
        blocks.append(block.build())
    return blocks


def test_quorum_blocks() -> None:
    def read(data: bytes) -> None:
        block = QuorumBlock.parse(data, fsid=FSID, slot=3)
        assert QuorumBlock.parse(block.build(), fsid=FSID, slot=3) == block
        assert block.greatest_term >= 0
        assert block.leader is None or block.leader.term > block.event(Event.STOP).term

    assert 750 < count_read(damaged_blocks(2, quorum_blocks(), 280, 8), read, BlockError) < CASES // 8


def btree_blocks() -> list[bytes]:
    """Leaves and a parent: of the original and made here."""
    blocks = [images.read("v2-1slot", "meta", blkno * 65536, 65536) for blkno in (2, 1028)]
    items = [Given(Key(16, number, 4), bytes([number]) * (number * 7 % 90), number) for number in range(40)]
    blocks.append(bytes(btree_block(0, items)))
    children = [Given(Key(16, number), struct.pack("<QQ", number + 2, 9)) for number in range(20)]
    blocks.append(bytes(btree_block(4, children)))
    return blocks


def test_btree_blocks() -> None:
    def read(data: bytes) -> None:
        verify_block("block", data, 65536, Magic.BTREE)
        block = read_items(data, "block")
        assert len({item.offset for item in block.items}) == len(block.items)
        if block.level:
            assert all(len(item.ref) == 2 for item in block.items)

    assert 5000 < count_read(damaged_blocks(3, btree_blocks(), 2400, 1), read, BlockError) < CASES


def test_checks_of_btree_blocks_end() -> None:
    rng, valid = random.Random(4), btree_blocks()[2:]
    passed = 0
    for _ in range(800):
        try:
            check_items(mutated(rng, rng.choice(valid), 2400), "block")
        except BlockError:
            continue
        passed += 1
    assert 50 < passed < 400


def test_lists_and_search_blocks() -> None:
    rng = random.Random(5)
    blocks = [build_list_block(FSID, Ref(5, 6), range(100), start=3), build_list_block(FSID, Ref(5, 6), range(8185))]
    search = bytearray(65536)
    search[104:112] = struct.pack("<II", 9, 100)
    search[112:212] = rng.randbytes(100)
    for _ in range(150):
        for valid, read in (
            (blocks[0], read_list_block),
            (blocks[1], read_list_block),
            (bytes(search), lambda data, what: list(read_entries(data, what))),
            (bytes(search), read_parent),
        ):
            data = mutated(rng, valid, 220)
            try:
                read(cut(rng, data) if rng.random() < 0.2 else data, "block")
            except BlockError:
                continue


def test_datagrams() -> None:
    rng = random.Random(6)
    read = 0
    for case in range(CASES):
        message = Message(rng.choice((0, 1, 7, 2**64 - 1)), rng.randrange(4), rng.randrange(15))  # type: ignore[arg-type]
        data = mutated(rng, message.build(FSID), 28 if case % 2 else 32)
        if case % 2:
            data = data[:28] + checksum(data[:28]).to_bytes(4, "little")
        data = cut(rng, data)
        try:
            found = Message.parse(data, FSID)
        except MessageError as error:
            assert error.field in ("length", "crc", "fsid", "type", "from")  # noqa: PT017
            continue
        read += 1
        assert Message.parse(found.build(FSID), FSID) == found
    assert 1000 < read < CASES // 2


def test_random_datagrams() -> None:
    rng = random.Random(7)
    for _ in range(CASES):
        with pytest.raises(MessageError):
            Message.parse(rng.randbytes(rng.randrange(70)), FSID)


def test_headers() -> None:
    rng = random.Random(8)
    valid = [Header(1, 0, 1, 40, 0).build(), Header(9, 8, 7, 1100, 19, True, 5).build()]  # type: ignore[arg-type]

    def read(data: bytes) -> None:
        header = Header.parse(data)
        assert Header.parse(header.build()) == header
        assert header.data_len <= 1100
        assert header.seq
        assert header.id

    cases = (cut(rng, mutated(rng, rng.choice(valid), 32)) for _ in range(CASES))
    assert 1000 < count_read(cases, read, NetHeaderError) < CASES
    noise = (rng.randbytes(32) for _ in range(CASES // 5))
    assert count_read(noise, read, NetHeaderError) < 100


def test_greetings() -> None:
    rng = random.Random(9)
    valid = Greeting(FSID, 2, 7, 0x1234, 3).build()  # type: ignore[arg-type]

    def read(data: bytes) -> None:
        greeting = Greeting.parse(data)
        assert Greeting.parse(greeting.build()) == greeting

    cases = (cut(rng, mutated(rng, valid, 40)) for _ in range(CASES))
    assert 8000 < count_read(cases, read, FormatError) < CASES


def test_values_of_items() -> None:
    rng = random.Random(10)
    inode = images.read("v2-1slot", "meta", 0x20000 + 62344, 168)
    entry = DirEntry(5, 6, 7, 4, b"name").build()
    parts = split_xattr(Xattr(b"user.name", bytes(1500)))
    locks = build_lock_recover([])

    def read_inode(data: bytes) -> None:
        parsed = parse_inode(data, 2, "inode")
        assert parse_inode(build_inode(parsed, 2), 2, "inode") == parsed

    def read_entry(data: bytes) -> None:
        parsed = DirEntry.parse(data, "entry")
        assert DirEntry.parse(parsed.build(), "entry") == parsed

    def read_xattr(data: bytes) -> None:
        parsed = join_xattr([data, *parts[1:]], "xattr")
        assert join_xattr(split_xattr(parsed), "xattr") == parsed

    def read_locks(data: bytes) -> None:
        assert len(parse_lock_recover(data)) <= 22

    for valid, read in ((inode, read_inode), (entry, read_entry), (parts[0], read_xattr), (locks, read_locks)):
        cases = (cut(rng, mutated(rng, valid, min(len(valid), 40))) for _ in range(600))
        assert 0 < count_read(cases, read, FormatError) < 600
