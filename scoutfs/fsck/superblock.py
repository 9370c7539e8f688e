"""The super blocks of both devices (spec 01 §3.3, §9)."""

from __future__ import annotations

import uuid as _uuid

from format.block import DATA_START_BLKNO, LARGE_BLOCK_SIZE, META_START_BLKNO, SMALL_BLOCK_SIZE, BlockError, Magic
from format.checksum import checksum
from format.superblock import SuperBlock, SuperBlockStruct, SuperFlag
from scoutfs.errors import ScoutfsError
from scoutfs.fsck.kinds import Kind
from scoutfs.fsck.report import Report
from scoutfs.storage.device import Device
from scoutfs.storage.volume import SUPER_OFFSET

_ZONE_BLOCKS_MIN = 1 << 20
_ZONE_OPTION = 1


def read(device: Device, report: Report) -> SuperBlock | None:
    """Return the super block of `device`; None, and a finding, if it is damaged.

    Raises ScoutfsError if there is none, or one of a version that this release does not know.
    """
    raw = device.read(SUPER_OFFSET, SMALL_BLOCK_SIZE)
    if not _is_whole(raw):
        # A server may just have been writing it.
        raw = device.read(SUPER_OFFSET, SMALL_BLOCK_SIZE)
    if int.from_bytes(raw[4:8], "little") != Magic.SUPER:
        raise ScoutfsError(f"{device.path}: there is no ScoutFS super block at byte {device.start + SUPER_OFFSET}")
    try:
        return SuperBlock.parse(raw, "super block")
    except BlockError as error:
        if error.field == "fmt_vers":
            raise ScoutfsError(f"{device.path}: {error}: this release does not know that format version") from error
        report.add(Kind.SUPER_DAMAGED, device.path, problem=str(error).removeprefix("super block: "))
        return None


def check(device: Device, super_block: SuperBlock, *, is_meta: bool, report: Report) -> None:
    """Check what the super block says of the device that it is on."""
    raw, where = super_block.raw, f"super block of {device.path}"
    if raw.flags != (SuperFlag.IS_META_BDEV if is_meta else 0):
        report.add(Kind.SUPER_ROLE, where, flags=raw.flags, role="metadata" if is_meta else "data")
    if raw.id:
        report.add(Kind.SUPER_RESERVED, where, field="id")
    tail = device.read(SUPER_OFFSET, SMALL_BLOCK_SIZE)[SuperBlockStruct.sizeof() :]
    if any(tail):
        report.add(Kind.SUPER_RESERVED, where, field="what follows the structure")


def check_totals(super_block: SuperBlock, where: str, meta: Device, data: Device | None, report: Report) -> None:
    """Check that the devices have the blocks that a super block says, and that it says enough."""
    sizes = [("total_meta_blocks", super_block.total_meta_blocks, meta.size // LARGE_BLOCK_SIZE, META_START_BLKNO)]
    if data is not None:
        blocks = data.size // SMALL_BLOCK_SIZE
        sizes.append(("total_data_blocks", super_block.total_data_blocks, blocks, DATA_START_BLKNO))
    for field, total, limit, least in sizes:
        if not least < total <= limit:
            report.add(Kind.SUPER_TOTAL, where, field=field, total=total, limit=f"{least + 1} to {limit}")


def check_pair(meta: SuperBlock, data: SuperBlock, where: str, report: Report) -> None:
    """Check that the super block of the data device belongs to that of the metadata device."""
    for field, stored, expected in (
        ("uuid", str(_uuid.UUID(bytes=data.uuid)), str(_uuid.UUID(bytes=meta.uuid))),
        ("fsid", f"{data.fsid:016x}", f"{meta.fsid:016x}"),
        ("fmt_vers", str(data.fmt_vers), str(meta.fmt_vers)),
    ):
        if stored != expected:
            report.add(Kind.SUPER_MISMATCH, where, field=field, stored=stored, expected=expected)


def check_options(super_block: SuperBlock, report: Report) -> None:
    """Check the volume options."""
    options = super_block.raw.volopt
    zone_blocks, total = options.data_alloc_zone_blocks, super_block.total_data_blocks
    where, name = "super block", "data_alloc_zone_blocks"
    if options.set_bits & ~_ZONE_OPTION or any(options.future_expansion):
        report.add(Kind.VOLUME_OPTION, where, option="of a newer release", problem="it is set")
    if options.set_bits & _ZONE_OPTION:
        # That zones cover the device is not asked again once it has grown (spec 01 §3.3).
        if not _ZONE_BLOCKS_MIN <= zone_blocks <= total:
            report.add(Kind.VOLUME_OPTION, where, option=name, problem=f"{zone_blocks} is out of range")
    elif zone_blocks:
        report.add(Kind.VOLUME_OPTION, where, option=name, problem=f"it is {zone_blocks}, but not set")


def _is_whole(raw: bytes) -> bool:
    return int.from_bytes(raw[:4], "little") == checksum(memoryview(raw)[4:])
