"""Options of the volume, and its size (spec 03 §8.10, §8.11)."""

from __future__ import annotations

import errno
from typing import Any

from format.block import LARGE_BLOCK_SIZE, SMALL_BLOCK_SIZE
from format.extent import Extent
from format.logs import MAX_ZONES
from format.superblock import VolumeOptions
from scoutfs.metadata.commit import ServerVolume
from scoutfs.server.items import Refused

ZONE_BLOCKS_MIN = 1 << 20
"""4 KiB blocks of the smallest data zone."""

_DATA_ALLOC_ZONE_BLOCKS = 1


def get_options(volume: ServerVolume) -> bytes:
    """Return the options that are committed: 520 bytes."""
    return VolumeOptions.build(volume.stable.raw.volopt)


def set_options(volume: ServerVolume, wanted: Any) -> None:
    """Set the options of a parsed `VolumeOptions` that have their bits set.  Raises Refused (EINVAL)."""
    _check_bits(wanted)
    if not wanted.set_bits:
        return
    value = wanted.data_alloc_zone_blocks
    least = max(ZONE_BLOCKS_MIN, volume.total_data_blocks // MAX_ZONES)
    if not least <= value <= volume.total_data_blocks:
        text = f"data_alloc_zone_blocks {value} is not between {least} and {volume.total_data_blocks}"
        raise Refused(text, errno.EINVAL)
    _change(volume, volume.volopt.set_bits | _DATA_ALLOC_ZONE_BLOCKS, value)


def clear_options(volume: ServerVolume, wanted: Any) -> None:
    """Clear the options of a parsed `VolumeOptions` that have their bits set.  Raises Refused (EINVAL)."""
    _check_bits(wanted)
    if wanted.set_bits:
        _change(volume, volume.volopt.set_bits & ~_DATA_ALLOC_ZONE_BLOCKS, 0)


def resize(volume: ServerVolume, meta_blocks: int, data_blocks: int, data_size: int) -> None:
    """Make the volume larger: up to so many 64 KiB and 4 KiB blocks, 0 for no change.

    `data_size` is the size of the data device in bytes.  Raises Refused (EINVAL) if the volume would become smaller,
    or larger than its devices.
    """
    meta_size = volume.writer.reader.device.size
    old_meta, old_data = volume.total_meta_blocks, volume.total_data_blocks
    new_meta, new_data = meta_blocks or old_meta, data_blocks or old_data
    if new_meta < old_meta or new_data < old_data:
        text = f"it has {old_meta} metadata and {old_data} data blocks, which is more than {new_meta} and {new_data}"
        raise Refused(f"the volume cannot shrink: {text}", errno.EINVAL)
    if new_meta > meta_size // LARGE_BLOCK_SIZE or new_data > data_size // SMALL_BLOCK_SIZE:
        text = f"{meta_size} and {data_size} bytes are too few for {new_meta} and {new_data} blocks"
        raise Refused(f"the volume cannot be larger than its devices: {text}", errno.EINVAL)
    if new_meta > old_meta:
        volume.allocator.meta_avail.insert(Extent(old_meta, new_meta - old_meta))
        volume.total_meta_blocks = new_meta
    if new_data > old_data:
        volume.data_alloc.insert(Extent(old_data, new_data - old_data))
        volume.total_data_blocks = new_data


def _change(volume: ServerVolume, set_bits: int, zone_blocks: int) -> None:
    """Replace the options, which the stable super block has too."""
    options = volume.volopt.copy()
    options.set_bits, options.data_alloc_zone_blocks = set_bits, zone_blocks
    volume.volopt = options


def _check_bits(wanted: Any) -> None:
    if wanted.set_bits & ~_DATA_ALLOC_ZONE_BLOCKS:
        raise Refused(f"options {wanted.set_bits:#x}: only the first one exists", errno.EINVAL)
