"""The free space that a mount holds, and how it comes back to the volume (spec 03 §8.2, §8.5; spec 04 §11)."""

from __future__ import annotations

from typing import Any

from format.alloc import AllocFlag
from format.logs import MAX_ZONES
from scoutfs.metadata.allocator import DATA_COMMIT_LOW
from scoutfs.metadata.block_lists import BlockList, ListHead
from scoutfs.metadata.blocks import DamagedBlock
from scoutfs.metadata.commit import ServerVolume
from scoutfs.metadata.free_extents import NO_ZONES, AllocatorRoot, FreeExtents, Stop, Zones, move_extents
from scoutfs.metadata.writer import NoSpace


class Lists:
    """Both lists of metadata blocks of a parsed item, `LogTrees` or another that has them; `store` puts them back."""

    def __init__(self, item: Any) -> None:
        self.meta_avail = BlockList(ListHead.of(item.meta_avail))
        self.meta_freed = BlockList(ListHead.of(item.meta_freed))

    def store(self, item: Any) -> None:
        """Write both heads into a parsed item."""
        item.meta_avail = self.meta_avail.head.fields()
        item.meta_freed = self.meta_freed.head.fields()

    def take_back(self, volume: ServerVolume) -> None:
        """Return all their blocks to the volume: the lists are empty then."""
        volume.allocator.take_back(self.meta_freed)
        volume.allocator.take_back(self.meta_avail)


def take_back_lists(volume: ServerVolume, item: Any) -> None:
    """Return the blocks of both lists of a parsed item, which is about to be deleted, to the volume."""
    Lists(item).take_back(volume)


def give_metadata(volume: ServerVolume, lists: Lists, low: int, target: int) -> None:
    """Fill the list of blocks of a client, as far as there are any."""
    try:
        volume.allocator.fill(lists.meta_avail, low, target)
    except NoSpace:
        if not lists.meta_avail.head.first_nr:
            raise


class Space(Lists):
    """All the free space that a parsed `LogTrees` holds."""

    def __init__(self, volume: ServerVolume, item: Any) -> None:
        super().__init__(item)
        self.data_avail = _extents(volume, item.data_avail)
        self.data_freed = _extents(volume, item.data_freed)

    def store(self, item: Any) -> None:
        """Write heads and roots into a parsed item."""
        super().store(item)
        item.data_avail = self.data_avail.root.fields()
        item.data_freed = self.data_freed.root.fields()

    def give(self, volume: ServerVolume, clients: int, zones: Zones) -> None:
        """Give a client what it needs for a transaction, and say where there is little left."""
        targets = volume.targets
        give_metadata(volume, self, targets.client_low, targets.client)
        is_low = volume.allocator.meta_avail.total_len <= targets.reserved(clients)
        self.meta_avail.head = self.meta_avail.head._replace(flags=_low_flag(is_low))
        wanted = targets.data_wanted(self.data_avail.total_len, volume.data_alloc.total_len)
        stop = Stop.DONE
        if wanted:
            moved = move_extents(
                self.data_avail, volume.data_alloc, wanted, volume.allocator, zones=zones, budget=targets.move_budget
            )
            stop = moved.stop
        # A client that is not told so asks for more as soon as it has less than `DATA_COMMIT_LOW`.
        gets_more = stop in (Stop.BUDGET, Stop.LOW)
        is_low = self.data_avail.total_len < DATA_COMMIT_LOW and not gets_more
        self.data_avail.flags = _low_flag(is_low)

    def return_freed_data(self, volume: ServerVolume) -> bool:
        """Return freed data blocks to the volume, as many as one change may; whether all of them were."""
        return _return(volume, self.data_freed)

    def return_all(self, volume: ServerVolume) -> bool:
        """Return everything to the volume, or as much as one change may; whether it was everything."""
        self.take_back(volume)
        return _return(volume, self.data_avail) and _return(volume, self.data_freed)


def zones_of(extents: FreeExtents, zone_blocks: int) -> int:
    """Return the mask of the zones of a data device that free extents are in; bit n is zone n."""
    mask = 0
    for extent in extents.extents():
        first = extent.start // zone_blocks
        last = min((extent.start + extent.length - 1) // zone_blocks, MAX_ZONES - 1)
        if first <= last:
            mask |= (2 << last) - (1 << first)
    return mask


def _extents(volume: ServerVolume, root: Any) -> FreeExtents:
    return FreeExtents(volume.writer, volume.allocator, AllocatorRoot.of(root))


def _return(volume: ServerVolume, extents: FreeExtents) -> bool:
    total = extents.total_len
    moved = move_extents(volume.data_alloc, extents, total, volume.allocator, budget=volume.targets.move_budget)
    if moved.stop is Stop.EMPTY:
        text = f"free extents of {moved.blocks} blocks, expected {total}"
        raise DamagedBlock(f"{volume.writer.name(extents.tree.root.ref)}: {text}")
    if moved.stop is Stop.DONE:
        extents.flags = 0
    return moved.stop is Stop.DONE


def _low_flag(is_low: bool) -> int:
    return int(AllocFlag.LOW) if is_low else 0


__all__ = ["NO_ZONES", "Lists", "Space", "give_metadata", "take_back_lists", "zones_of"]
