"""Block devices and volumes: opening, checking, verified reads and durable writes."""

from scoutfs.storage.claims import Sharing
from scoutfs.storage.device import Device, DeviceError
from scoutfs.storage.system import SystemIO
from scoutfs.storage.volume import Volume, VolumeError, read_quorum_block, read_super_block

__all__ = [
    "Device",
    "DeviceError",
    "Sharing",
    "SystemIO",
    "Volume",
    "VolumeError",
    "read_quorum_block",
    "read_super_block",
]
