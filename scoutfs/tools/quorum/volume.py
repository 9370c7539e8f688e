"""Reads the quorum of a volume from its metadata device, mounted or not; the data device is not needed."""

from __future__ import annotations

from format.block import QUORUM_MAX_SLOTS, BlockError
from format.quorum import QuorumBlock
from scoutfs.errors import ScoutfsError
from scoutfs.quorum.overview import Overview, overview
from scoutfs.storage.device import Device, DeviceError
from scoutfs.storage.volume import read_quorum_block, read_super_block

_READS = 3
"""Tries to read a block: what a member is just writing may be seen half old and half new."""


def read_overview(device: Device) -> Overview:
    """Read the super block and all quorum blocks.  Blocks; raises ScoutfsError if there is no volume's metadata."""
    super_block = read_super_block(device)
    if not super_block.is_meta:
        text = "is the data device of a volume, the metadata device has to be given"
        raise ScoutfsError(f"{device.path}: {text}")
    blocks = {slot: _read_block(device, super_block.fsid, slot) for slot in range(QUORUM_MAX_SLOTS)}
    return overview(super_block, blocks)


def _read_block(device: Device, fsid: int, slot: int) -> QuorumBlock | str:
    """Return the block, or why there is none."""
    problem = ""
    for _ in range(_READS):
        try:
            return read_quorum_block(device, fsid, slot)
        except DeviceError as error:
            return str(error)
        except BlockError as error:
            problem = str(error)
            if error.field != "crc":
                break
    return problem
