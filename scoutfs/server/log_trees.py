"""The log trees of mounts: transactions opened and committed, trees finalized (spec 03 §8.2, §8.3, §8.5; 04 §11)."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

from format.keys import SrchType
from format.logs import LogTrees, LogTreesFlag
from format.srch import LOG_BLOCK_LIMIT, SrchFile
from scoutfs.metadata.commit import ServerVolume
from scoutfs.server.client_space import Space, zones_of
from scoutfs.server.data_zones import zone_words, zones_for
from scoutfs.server.items import KEY_MAX, Refused, log_trees_key, parsed, srch_key

_NO_ZONES = zone_words(0)


def newest(volume: ServerVolume, rid: int) -> Any | None:
    """Return the parsed `LogTrees` of a mount that has the greatest nr, None if it has none."""
    items = volume.logs_root.items_reversed(log_trees_key(rid, 0), log_trees_key(rid, KEY_MAX))
    item = next(items, None)
    return None if item is None else parsed(LogTrees, item, volume)


def all_log_trees(volume: ServerVolume) -> list[Any]:
    """Return all parsed `LogTrees` in the order of rid and nr."""
    return [parsed(LogTrees, item, volume) for item in volume.logs_root.items()]


def newest_of_each(volume: ServerVolume) -> dict[int, Any]:
    """Return the parsed `LogTrees` with the greatest nr of every mount that has any, by rid."""
    return {trees.rid: trees for trees in all_log_trees(volume)}


def store(volume: ServerVolume, trees: Any) -> bytes:
    """Write a `LogTrees` into its item, which may be a new one; return the 472 bytes."""
    value = LogTrees.build(trees)
    volume.logs_root.force(log_trees_key(trees.rid, trees.nr), value)
    return value


def is_open(trees: Any) -> bool:
    """Whether a transaction is open: the mount may write the blocks that it was given."""
    return trees.get_trans_seq > trees.commit_trans_seq


def is_finalized(trees: Any) -> bool:
    """Whether a tree only waits to be merged."""
    return bool(trees.flags & LogTreesFlag.FINALIZED)


def next_trees(rid: int, previous: Any | None) -> Any:
    """Return the `LogTrees`, in no tree yet, that a mount goes on with when `previous` is finalized or missing."""
    trees = LogTrees.parse(bytes(LogTrees.sizeof()))
    trees.rid, trees.nr = rid, 1 if previous is None else previous.nr + 1
    return trees


def open_transaction(volume: ServerVolume, trees: Any, clients: int) -> bytes:
    """Give a mount what it needs for a transaction, of which no other may be open; return the item that is stored."""
    zone_blocks = volume.volopt.data_alloc_zone_blocks if volume.volopt.set_bits & 1 else 0
    others = all_log_trees(volume) if zone_blocks else []
    zones = zones_for(trees.rid, others, zone_blocks, volume.total_data_blocks)
    space = Space(volume, trees)
    volume.allocator.take_back(space.meta_freed)
    space.return_freed_data(volume)
    space.give(volume, clients, zones)
    space.store(trees)
    trees.data_alloc_zone_blocks = zone_blocks
    trees.data_alloc_zones = zone_words(zones_of(space.data_avail, zone_blocks)) if zone_blocks else _NO_ZONES
    trees.get_trans_seq = volume.next_seq()
    return store(volume, trees)


def drain_freed_data(volume: ServerVolume, opened: bytes) -> tuple[bytes, bool]:
    """Go on returning the data that a mount has freed to the volume, before it knows of its transaction.

    `opened` is what `open_transaction` or this returned.  Returns the item as it is now, and whether that was all.
    """
    wanted = LogTrees.parse(opened)
    trees = newest(volume, wanted.rid)
    fields = ("nr", "get_trans_seq", "commit_trans_seq", "flags")
    if trees is None or any(trees[name] != wanted[name] for name in fields) or not trees.data_freed.total_len:
        return opened, True
    space = Space(volume, trees)
    done = space.return_freed_data(volume)
    space.store(trees)
    return store(volume, trees), done


def commit_transaction(volume: ServerVolume, rid: int, committed: Any) -> None:
    """Record what a mount says of its log tree at the end of a transaction; once more changes nothing.

    `committed` is a parsed `LogTrees`.  Raises Refused: EIO if it is not of the mount or of another transaction than
    the one that is open, ENOENT for a tree that does not exist.
    """
    if committed.rid != rid:
        raise Refused(f"mount {rid:016x} commits the log tree of {committed.rid:016x}", errno.EIO)
    item = volume.logs_root.lookup(log_trees_key(rid, committed.nr))
    if item is None:
        raise Refused(f"mount {rid:016x} commits log tree {committed.nr}, which does not exist", errno.ENOENT)
    trees = parsed(LogTrees, item, volume)
    if trees.get_trans_seq != committed.get_trans_seq:
        text = f"transaction {committed.get_trans_seq}, {trees.get_trans_seq} is open"
        raise Refused(f"mount {rid:016x} commits {text}", errno.EIO)
    if is_finalized(trees):
        raise Refused(f"mount {rid:016x} commits a log tree that was taken from it", errno.EIO)
    if trees.commit_trans_seq == committed.get_trans_seq:
        return
    # A mount may have given up the lock whose number an item has before it was asked which locks it holds.
    volume.seqs.raise_to(committed.max_item_seq)
    committed.flags, committed.finalize_seq = trees.flags, trees.finalize_seq
    if committed.srch_file.blocks >= LOG_BLOCK_LIMIT:
        hand_over_srch_log(volume, committed)
    committed.commit_trans_seq = committed.get_trans_seq
    store(volume, committed)


def hand_over_srch_log(volume: ServerVolume, trees: Any) -> None:
    """Take the search log of a mount, if it has one: it will be compacted, and the mount begins a new one."""
    blkno = trees.srch_file.ref.blkno
    if blkno:
        volume.srch_root.force(srch_key(SrchType.LOG, blkno), SrchFile.build(trees.srch_file))
        trees.srch_file = SrchFile.parse(bytes(SrchFile.sizeof()))


def finalize(volume: ServerVolume, trees: Any, *, reclaim: bool = False) -> bool:
    """Take a log tree from its mount: return its free space, or as much as one change may; whether it is finalized.

    `reclaim` says that the mount is gone, and an open transaction of it with it.
    """
    hand_over_srch_log(volume, trees)
    space = Space(volume, trees)
    done = space.return_all(volume)
    space.store(trees)
    if done:
        if reclaim:
            trees.commit_trans_seq = trees.get_trans_seq
            trees.data_alloc_zone_blocks, trees.data_alloc_zones = 0, _NO_ZONES
        trees.flags |= LogTreesFlag.FINALIZED
        trees.finalize_seq = volume.next_seq()
    store(volume, trees)
    return done


Step = Callable[[ServerVolume], bool]
"""A change that is to be made again, in another commit, until it returns True."""
