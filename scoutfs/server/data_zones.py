"""Which parts of the data device a mount should get its data from (spec 03 §8.4).  Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from format.logs import MAX_ZONES
from scoutfs.metadata.free_extents import NO_ZONES, Zones

_WORDS = MAX_ZONES // 64


def zones_for(rid: int, items: Iterable[Any], zone_blocks: int, total_data_blocks: int) -> Zones:
    """Return the zones for a mount, from all parsed `LogTrees` in the order of their keys."""
    if not zone_blocks:
        return NO_ZONES
    count = min(-(-total_data_blocks // zone_blocks), MAX_ZONES)
    vacant, exclusive = (1 << count) - 1, 0
    for item in items:
        mask = 0
        for first, last in _recorded(item):
            start, end = first // zone_blocks, min(last // zone_blocks, MAX_ZONES - 1)
            if start <= end:
                mask |= (2 << end) - (1 << start)
        vacant &= ~mask
        exclusive = exclusive | mask if item.rid == rid else exclusive & ~mask
    return Zones(zone_blocks, exclusive, vacant)


def zone_words(mask: int) -> list[int]:
    """Return the `data_alloc_zones` of a `LogTrees` for a mask whose bit n is zone n."""
    return [mask >> 64 * word & 0xFFFFFFFFFFFFFFFF for word in range(_WORDS)]


def _recorded(item: Any) -> Iterator[tuple[int, int]]:
    """Yield the first and the last block of each zone that an item names."""
    size = item.data_alloc_zone_blocks
    mask = sum(word << 64 * index for index, word in enumerate(item.data_alloc_zones))
    while mask and size:
        zone = (mask & -mask).bit_length() - 1
        mask &= mask - 1
        yield zone * size, (zone + 1) * size - 1
