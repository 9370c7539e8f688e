"""Volumes: two devices, or two parts of one, that belong together (spec 01 §1, §9)."""

from __future__ import annotations

import os
import uuid as _uuid
from collections.abc import Iterable
from typing import Self

from format.block import LARGE_BLOCK_SIZE, QUORUM_BLKNO, SMALL_BLOCK_SIZE, SUPER_BLKNO, BlockError, Magic
from format.quorum import QuorumBlock
from format.superblock import FORMAT_VERSION_MAX, FORMAT_VERSION_MIN, SuperBlock
from scoutfs.errors import ScoutfsError
from scoutfs.storage.claims import Sharing
from scoutfs.storage.device import Device, DeviceError
from scoutfs.storage.system import SystemIO

SUPER_OFFSET = SUPER_BLKNO * SMALL_BLOCK_SIZE
"""Byte at which the super block of either device starts."""

QUORUM_OFFSET = QUORUM_BLKNO * SMALL_BLOCK_SIZE
"""Byte of the metadata device at which the quorum block of slot 0 starts."""

_DAMAGED = "the block is damaged, restore it from a backup or make a new volume with mkfs.scoutfs"


class VolumeError(ScoutfsError):
    """Devices that are no volume, or not the same one, or not of this release; the text names device, block, field."""


class Volume:
    """An open volume whose super blocks passed every check of spec 01 §9.

    `super` is the super block of the metadata device as it was at the opening; `fsid`, `uuid` (16 bytes) and `fmt_vers`
    never change.  In a single-device volume `meta` and `data` are parts of one device and both paths are equal.
    """

    def __init__(self, meta: Device, data: Device, super_block: SuperBlock, *, single_device: bool) -> None:
        self.meta = meta
        self.data = data
        self.super = super_block
        self.fsid = super_block.fsid
        self.fmt_vers = super_block.fmt_vers
        self.uuid = super_block.uuid
        self.metadata_path = meta.path
        self.data_path = data.path
        self.single_device = single_device

    @classmethod
    def open(
        cls,
        data_path: str | os.PathLike[str],
        metadata_path: str | os.PathLike[str] | None = None,
        *,
        writable: bool = True,
        io: SystemIO | None = None,
    ) -> Volume:
        """Open and check both devices; without `metadata_path` the volume is on one device.

        A writable volume is claimed: other user-space mounts may share it, everything else on this host is kept out.
        Raises VolumeError or DeviceError; nothing is ever written.
        """
        sharing = Sharing.SHARED if writable else Sharing.NONE
        if metadata_path is None:
            device = Device.open(data_path, writable=writable, sharing=sharing, io=io)
            try:
                return cls._open_single(device)
            except ScoutfsError:
                device.close()
                raise
        meta = Device.open(metadata_path, writable=writable, sharing=sharing, io=io)
        try:
            data = Device.open(data_path, writable=writable, sharing=sharing, io=io)
        except DeviceError:
            meta.close()
            raise
        try:
            return cls._open_pair(meta, data)
        except ScoutfsError:
            meta.close()
            data.close()
            raise

    @classmethod
    def _open_pair(cls, meta: Device, data: Device) -> Volume:
        if meta.is_same_as(data):
            text = "is given both as data and as metadata device: leave metadev_path out for a volume on one device"
            raise VolumeError(f"{data.path}: {text}")
        meta_super = read_super_block(meta)
        data_super = read_super_block(data)
        if not meta_super.is_meta and data_super.is_meta:
            text = f"has the super block of a data device, {data.path} that of a metadata device: swap the two"
            raise VolumeError(f"{meta.path}: block {SUPER_BLKNO}: flags: {text}")
        _check_pair(meta, meta_super, data, data_super)
        return cls(meta, data, meta_super, single_device=False)

    @classmethod
    def _open_single(cls, device: Device) -> Volume:
        meta_super = read_super_block(device)
        if not meta_super.is_meta:
            text = "this is the data device of a volume on two devices: name the other one with metadev_path="
            raise VolumeError(f"{device.path}: block {SUPER_BLKNO}: flags: {text}")
        split = meta_super.total_meta_blocks * LARGE_BLOCK_SIZE
        if split + SUPER_OFFSET + SMALL_BLOCK_SIZE > device.size:
            raise VolumeError(_only_metadata(device, f"it has no room behind its {split} bytes of metadata"))
        meta, data = device.part(0, split), device.part(split, device.size - split)
        if _is_no_super(data):
            raise VolumeError(_only_metadata(device, f"no super block of data at byte {split + SUPER_OFFSET}"))
        _check_pair(meta, meta_super, data, read_super_block(data))
        return cls(meta, data, meta_super, single_device=True)

    def read_super(self) -> SuperBlock:
        """Read the metadata device's super block afresh.

        Every check of the opening is repeated, and identity and version must still be those.  Raises VolumeError or
        DeviceError.
        """
        fresh = read_super_block(self.meta)
        place = _place(self.meta)
        if not fresh.is_meta:
            raise VolumeError(f"{place}: flags: no longer that of a metadata device")
        if (fresh.fsid, fresh.uuid) != (self.fsid, self.uuid):
            raise VolumeError(f"{place}: uuid: {_printed(fresh.uuid)}, no longer that of the volume that was mounted")
        if fresh.fmt_vers != self.fmt_vers:
            raise VolumeError(f"{place}: fmt_vers: {fresh.fmt_vers}, no longer {self.fmt_vers}: mount again")
        _check_totals(self.meta, fresh, self.meta, self.data)
        return fresh

    def read_quorum_block(self, slot: int) -> QuorumBlock:
        """Read the quorum block of `slot`; raises DeviceError, or BlockError naming device, block and field."""
        return read_quorum_block(self.meta, self.fsid, slot)

    def read_quorum_blocks(self, slots: Iterable[int]) -> dict[int, QuorumBlock | ScoutfsError | BlockError]:
        """Read the quorum blocks of `slots`; what could not be read is there as its error."""
        blocks: dict[int, QuorumBlock | ScoutfsError | BlockError] = {}
        for slot in slots:
            try:
                blocks[slot] = self.read_quorum_block(slot)
            except (DeviceError, BlockError) as error:
                blocks[slot] = error
        return blocks

    def write_quorum_block(self, block: QuorumBlock) -> None:
        """Write a quorum block; it is on stable storage when this returns.  Raises DeviceError."""
        self.meta.write(QUORUM_OFFSET + block.slot * SMALL_BLOCK_SIZE, block.build(), durable=True)

    @property
    def descriptors(self) -> tuple[int, ...]:
        """The file descriptors that are open: what a forked child must keep that closes all others."""
        return (*self.meta.descriptors, *self.data.descriptors)

    def close(self) -> None:
        """Close both devices and give up the claim on them; harmless when repeated."""
        self.meta.close()
        self.data.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def read_super_block(device: Device) -> SuperBlock:
    """Read and verify the super block at its place on `device`; raises VolumeError or DeviceError.

    Checks magic, crc, blkno and format version.  Flag and totals are left to those who know the device's role.
    """
    place = _place(device)
    raw = device.read(SUPER_OFFSET, SMALL_BLOCK_SIZE)
    magic = int.from_bytes(raw[4:8], "little")
    if magic != Magic.SUPER:
        text = "not a ScoutFS volume; check the device, or make a volume on it with mkfs.scoutfs"
        raise VolumeError(f"{place}: magic is {magic:#x}, expected {int(Magic.SUPER):#x}: {text}")
    try:
        return SuperBlock.parse(raw, place)
    except BlockError as error:
        text = _DAMAGED
        if error.field == "fmt_vers":
            text = f"this release knows {FORMAT_VERSION_MIN} to {FORMAT_VERSION_MAX}"
        raise VolumeError(f"{error}: {text}") from error


def read_quorum_block(device: Device, fsid: int, slot: int) -> QuorumBlock:
    """Read and verify the quorum block of `slot`; raises DeviceError, or BlockError naming device, block and field."""
    raw = device.read(QUORUM_OFFSET + slot * SMALL_BLOCK_SIZE, SMALL_BLOCK_SIZE)
    try:
        return QuorumBlock.parse(raw, fsid=fsid, slot=slot)
    except BlockError as error:
        raise BlockError(f"{device.path}: {error.what}", error.field, error.stored, error.expected) from error


def _check_pair(meta: Device, meta_super: SuperBlock, data: Device, data_super: SuperBlock) -> None:
    """Check two verified super blocks against each other and against their devices."""
    meta_place, data_place = _place(meta), _place(data)
    if not meta_super.is_meta:
        raise VolumeError(f"{meta_place}: flags: this is not a metadata device: metadev_path must name that")
    if data_super.is_meta:
        raise VolumeError(f"{data_place}: flags: this is a metadata device: the first argument must be the data device")
    if meta_super.uuid != data_super.uuid:
        raise VolumeError(
            f"{data_place}: uuid: {_printed(data_super.uuid)}, but {meta.path} has {_printed(meta_super.uuid)}:"
            " the two devices are of different volumes"
        )
    if meta_super.fsid != data_super.fsid:
        raise VolumeError(
            f"{data_place}: fsid: {data_super.fsid:#x}, but {meta.path} has {meta_super.fsid:#x}:"
            " the two devices are of different volumes"
        )
    if meta_super.fmt_vers != data_super.fmt_vers:
        raise VolumeError(
            f"{data_place}: fmt_vers: {data_super.fmt_vers}, but {meta.path} has {meta_super.fmt_vers}:"
            " a change of the format version was interrupted, run change-format-version again"
        )
    _check_totals(meta, meta_super, meta, data)
    _check_totals(data, data_super, meta, data)


def _check_totals(device: Device, super_block: SuperBlock, meta: Device, data: Device) -> None:
    """Check that both devices hold as many blocks as the super block of `device` says."""
    for field, total, part, size in (
        ("total_meta_blocks", super_block.total_meta_blocks, meta, LARGE_BLOCK_SIZE),
        ("total_data_blocks", super_block.total_data_blocks, data, SMALL_BLOCK_SIZE),
    ):
        if total > part.size // size:
            raise VolumeError(
                f"{_place(device)}: {field} is {total}, but {part.path} has {part.size // size} blocks of {size} bytes:"
                " it was truncated, or belongs to another volume"
            )


def _is_no_super(device: Device) -> bool:
    raw = device.read(SUPER_OFFSET, SMALL_BLOCK_SIZE)
    return int.from_bytes(raw[4:8], "little") != Magic.SUPER


def _only_metadata(device: Device, why: str) -> str:
    text = "if this is the metadata device of two, mount the data device with metadev_path="
    return f"{device.path}: {why}: {text}{device.path}"


def _place(device: Device) -> str:
    """Name the super block of a device, with the byte where a part of it does not start at its beginning."""
    if device.start:
        return f"{device.path}: block {SUPER_BLKNO} of the data part at byte {device.start}"
    return f"{device.path}: block {SUPER_BLKNO}"


def _printed(uuid: bytes) -> _uuid.UUID:
    return _uuid.UUID(bytes=uuid)
