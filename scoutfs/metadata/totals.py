"""Adding up totals of attributes, of which each tree holds a difference (spec 04 §13, spec 06 §8.4)."""

from __future__ import annotations

import struct
from enum import Enum, auto

from format.keys import Key, Zone
from scoutfs.metadata.blocks import BlockReader
from scoutfs.metadata.log_trees import wrong_size

DELTA_FIRST = Key(Zone.XATTR_TOTL).sort_bytes
"""The first key whose items are differences."""
DELTA_LAST = Key(Zone.XATTR_TOTL, Key.ONES.first, 255, Key.ONES.second, Key.ONES.third, 255).sort_bytes
"""The last key whose items are differences."""

_TOTL = struct.Struct("<QQ")
_MASK = 2**64 - 1


class TreeKind(Enum):
    """Where a difference was found: in the merged tree, in an input of the merge that runs, in another log tree."""

    FS = auto()
    INPUT = auto()
    LOG = auto()


NO_DIFFERENCE = bytes(_TOTL.size)
"""The value of a difference of nothing."""

Versions = dict[bytes, list[tuple[TreeKind, int, bytes]]]
"""By key, what the trees hold: kind of the tree, seq, and value of 16 bytes."""


def sum_deltas(blocks: BlockReader, versions: Versions) -> tuple[list[bytes], list[int], list[bytes]]:
    """Return keys, greatest seqs and sums of `versions`, in the order of the keys; sums of zero are left out.

    What inputs of a merge hold counts only if it has not been merged yet, which the seqs tell.  Raises DamagedBlock
    for a value of the wrong size.
    """
    keys, seqs, values = [], [], []
    for key in sorted(versions):
        summed = _sum(blocks, key, versions[key])
        if any(summed):
            keys.append(key)
            seqs.append(max(seq for _, seq, _ in versions[key]))
            values.append(_TOTL.pack(*summed))
    return keys, seqs, values


def is_delta(key: bytes) -> bool:
    """Return whether items with this key are differences."""
    return key[0] == Zone.XATTR_TOTL


def add_deltas(path: str, key: bytes, one: bytes, other: bytes) -> bytes:
    """Return the value of the sum of two differences; `path` names the device in the DamagedBlock of a wrong size."""
    for value in (one, other):
        if len(value) != _TOTL.size:
            raise wrong_size(path, key, value, _TOTL.size)
    return _TOTL.pack(*_added(_TOTL.unpack(one), _TOTL.unpack(other)))


def _sum(blocks: BlockReader, key: bytes, versions: list[tuple[TreeKind, int, bytes]]) -> tuple[int, int]:
    sums = dict.fromkeys(TreeKind, (0, 0))
    newest = dict.fromkeys(TreeKind, 0)
    for kind, seq, value in versions:
        if len(value) != _TOTL.size:
            raise wrong_size(blocks.device.path, key, value, _TOTL.size)
        sums[kind] = _added(sums[kind], _TOTL.unpack(value))
        newest[kind] = max(newest[kind], seq)
    result = sums[TreeKind.FS]
    count = sums[TreeKind.INPUT][1]
    if newest[TreeKind.FS]:
        unmerged = newest[TreeKind.INPUT] > newest[TreeKind.FS]
    else:
        unmerged = 0 < count < 1 << 63
    if unmerged:
        result = _added(result, sums[TreeKind.INPUT])
    return _added(result, sums[TreeKind.LOG])


def _added(one: tuple[int, int], other: tuple[int, int]) -> tuple[int, int]:
    return (one[0] + other[0]) & _MASK, (one[1] + other[1]) & _MASK
