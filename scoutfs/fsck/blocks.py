"""Blocks of the metadata device, verified and claimed as they are read."""

from __future__ import annotations

from collections.abc import Callable, Collection

from format.block import (
    LARGE_BLOCK_SIZE,
    META_START_BLKNO,
    SMALL_BLOCK_SIZE,
    BlockError,
    BlockHeader,
    Magic,
    Ref,
    verify_block,
)
from scoutfs.fsck.kinds import Kind
from scoutfs.fsck.report import Report
from scoutfs.fsck.space import Bitmap, MetadataSpace
from scoutfs.storage.device import Device, DeviceError

_KINDS = {
    "crc": Kind.BLOCK_CHECKSUM,
    "magic": Kind.BLOCK_TYPE,
    "fsid": Kind.BLOCK_VOLUME,
    "blkno": Kind.BLOCK_NUMBER,
    "seq": Kind.BLOCK_SEQUENCE,
}
_LEVEL_OFFSET = 40


class VolumeChanged(Exception):
    """The super block is no longer the one that this check began with: `ref` may have led to a block of that time."""

    def __init__(self, ref: Ref) -> None:
        self.ref = ref
        super().__init__(f"block {ref.blkno}")


class Blocks:
    """Reads blocks by reference.

    A block that does not fit its reference is damage, or the sign of a volume that is in use: `changed` tells which.
    `stale` are references that failed before, under an older super block: one that a newer one still has is damage.
    `progress` is told the number of blocks that were read.
    """

    def __init__(
        self,
        device: Device,
        fsid: int,
        space: MetadataSpace,
        report: Report,
        *,
        changed: Callable[[], bool],
        stale: Collection[Ref] = (),
        progress: Callable[[int], None] | None = None,
    ) -> None:
        self.space = space
        self.report = report
        self._device, self._fsid = device, fsid
        self._changed, self._stale, self._progress = changed, stale, progress
        self._visited = Bitmap(space.total)
        self.count = 0
        self.lost = 0

    def begin_walk(self) -> None:
        """Begin to read everything once more."""
        self._visited = Bitmap(self.space.total)
        self.count = 0

    def read(self, ref: Ref, magic: Magic, owner: str) -> bytes | None:
        """Return the block that `ref`, which is not empty, refers to, and claim it for `owner`.

        None if it cannot be used, or was read before: what is wrong has then been reported.  Raises VolumeChanged.
        """
        if not self._exists(ref, owner):
            return None
        self.space.claim(ref.blkno, 1, owner)
        if self._visited.add(ref.blkno):
            self.lost += 1
            return None
        try:
            return self._verified(ref, magic)
        except DeviceError as error:
            self.report.add(Kind.BLOCK_UNREADABLE, owner, blkno=ref.blkno, problem=error)
        except BlockError as error:
            details = {"blkno": ref.blkno, "stored": error.stored, "expected": error.expected}
            self.report.add(_KINDS[error.field], owner, **details)
        self.lost += 1
        return None

    def read_softly(self, ref: Ref, magic: Magic) -> bytes | None:
        """Return the block that `ref` refers to, which may have been freed and used again, or already been read.

        None then; otherwise it is claimed unless somebody else claims it.
        """
        if not META_START_BLKNO <= ref.blkno < self.space.total or self._visited.add(ref.blkno):
            return None
        try:
            data = self._device.read(ref.blkno * LARGE_BLOCK_SIZE, LARGE_BLOCK_SIZE)
            verify_block("", data, LARGE_BLOCK_SIZE, magic, fsid=self._fsid, blkno=ref.blkno, seq=ref.seq)
        except (BlockError, DeviceError):
            return None
        self.space.claim_softly(ref.blkno)
        return data

    def is_old_parent(self, blkno: int) -> bool:
        """Whether a block looks like what the original leaves of each log tree that it frees (spec 04 §16.35)."""
        try:
            data = self._device.read(blkno * LARGE_BLOCK_SIZE, SMALL_BLOCK_SIZE)
        except DeviceError:
            return False
        header = BlockHeader.parse(data[:32])
        found = (header.magic, header.fsid, header.blkno, data[_LEVEL_OFFSET])
        return found == (Magic.BTREE, self._fsid, blkno, 1)

    def _exists(self, ref: Ref, owner: str) -> bool:
        if META_START_BLKNO <= ref.blkno < self.space.total:
            return True
        self.report.add(Kind.BLOCK_REFERENCE, owner, blkno=ref.blkno, last=self.space.total - 1)
        self.lost += 1
        return False

    def _verified(self, ref: Ref, magic: Magic) -> bytes:
        try:
            return self._once(ref, magic)
        except BlockError:
            # A block that another host is writing may be seen half new; a second look tells.
            if ref not in self._stale and self._changed():
                raise VolumeChanged(ref) from None
            return self._once(ref, magic)

    def _once(self, ref: Ref, magic: Magic) -> bytes:
        self.count += 1
        if self._progress is not None:
            self._progress(self.count)
        data = self._device.read(ref.blkno * LARGE_BLOCK_SIZE, LARGE_BLOCK_SIZE)
        verify_block("", data, LARGE_BLOCK_SIZE, magic, fsid=self._fsid, blkno=ref.blkno, seq=ref.seq)
        return data
