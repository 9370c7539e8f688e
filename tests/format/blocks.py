"""Btree blocks made for tests, written out from the specification without the readers that they test."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass

from format.keys import Key

END = {True: 62512, False: 65536}


@dataclass(frozen=True)
class Given:
    """What an item is to hold."""

    key: Key
    value: bytes = b""
    seq: int = 0
    flags: int = 0


def btree_block(level: int, items: Iterable[Given], *, fsid: int = 1, blkno: int = 2, seq: int = 3) -> bytearray:
    """Return a block of `items` in the array's order, unsealed: balanced tree, packed values, hash (spec 04 §3)."""
    items = list(items)
    data = bytearray(65536)
    struct.pack_into("<IIQQQ", data, 0, 0, 0xE597F96D, fsid, seq, blkno)
    by_key = sorted(range(len(items)), key=lambda index: items[index].key)
    links = {}

    def tree(low: int, high: int, parent: int) -> tuple[int, int]:
        if low >= high:
            return 0, 0
        middle = (low + high) // 2
        node = 16 + 56 * by_key[middle]
        left, left_height = tree(low, middle, node)
        right, right_height = tree(middle + 1, high, node)
        height = 1 + max(left_height, right_height)
        links[by_key[middle]] = (parent, left, right, height)
        return node, height

    root, _ = tree(0, len(items), 0)
    end = END[level == 0]
    total = 0
    for index, item in enumerate(items):
        room = -(-len(item.value) // 8) * 8
        end -= room
        total += 56 + room
        data[end : end + len(item.value)] = item.value
        offset = 48 + 56 * index
        struct.pack_into("<HHHB", data, offset, *links[index])
        data[offset + 8 : offset + 40] = item.key.build()
        val_off = end if item.value else 0
        struct.pack_into("<QHHB", data, offset + 40, item.seq, val_off, len(item.value), item.flags)
        if level == 0:
            enter(data, item.key, offset)
    struct.pack_into("<HHHHB", data, 32, root, len(items), total, end - 48 - 56 * len(items), level)
    return data


def enter(data: bytearray, key: Key, offset: int) -> None:
    """Enter an item in the hash of a leaf."""
    value = 0x811C9DC5
    for byte in key.build():
        value = ((value ^ byte) * 0x01000193) % 2**32
    bucket = value % 1512
    while struct.unpack_from("<H", data, 62512 + 2 * bucket) != (0,):
        bucket = (bucket + 1) % 1512
    struct.pack_into("<H", data, 62512 + 2 * bucket, offset)
