"""The allocator of the server, which works with one pair of lists while it refills the other (spec 04 §6.7).

A block that is freed in one commit is referred to by the super block of the commit before.  It goes through the list of
the pair that is in use, is turned into an extent of a tree of free ones during the next commit, and that tree gives
nothing out before the two trees have changed places: so no block is written over in the commit that has freed it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from scoutfs.metadata.allocator import ListAllocator, empty_list, fill_list, splice_list
from scoutfs.metadata.block_lists import BlockList, ListHead
from scoutfs.metadata.fill_targets import FillTargets
from scoutfs.metadata.free_extents import AllocatorRoot, FreeExtents
from scoutfs.metadata.writer import BlockWriter, NoSpace


class ServerAllocator:
    """Takes and frees metadata blocks for all that the server changes; `super_block` is a parsed `SuperBlockStruct`.

    Serves as the allocator of trees and lists, its own included: those that are in use change only by taking and
    freeing.  Blocks that clients give back go to `other_freed`, and theirs come from `meta_avail`.
    """

    def __init__(self, writer: BlockWriter, super_block: Any, targets: FillTargets) -> None:
        self.writer = writer
        self.targets = targets
        self._total_blocks = super_block.total_meta_blocks
        avail = [ListHead.of(head) for head in super_block.server_meta_avail]
        freed = [ListHead.of(head) for head in super_block.server_meta_freed]
        self._index = int(avail[1].total_nr > avail[0].total_nr)
        self._use(avail[self._index], freed[self._index])
        self.other_avail = BlockList(avail[1 - self._index])
        self.other_freed = BlockList(freed[1 - self._index])
        self._trees = [FreeExtents(writer, self, AllocatorRoot.of(root)) for root in super_block.meta_alloc]
        self._avail_tree = int(self._trees[1].total_len > self._trees[0].total_len)

    @property
    def meta_avail(self) -> FreeExtents:
        """The tree that lists are filled from."""
        return self._trees[self._avail_tree]

    @property
    def meta_freed(self) -> FreeExtents:
        """The tree that lists are emptied into."""
        return self._trees[1 - self._avail_tree]

    @property
    def remaining_avail(self) -> int:
        """How many blocks can be taken before the next commit."""
        return self._active.remaining_avail

    @property
    def remaining_freed(self) -> int:
        """How many blocks can be freed before the next commit."""
        return self._active.remaining_freed

    def is_low(self, blocks: int) -> bool:
        """Whether fewer than `blocks` can be taken or freed, or only behind a rotation."""
        return self._active.is_low(blocks)

    def exchange(self, count: int, freed: Sequence[int] = ()) -> list[int]:
        """Take `count` blocks and free others, all or nothing; see `ListAllocator.exchange`."""
        return self._active.exchange(count, freed)

    def fill(self, list: BlockList, low: int, target: int) -> None:
        """Fill a list, of a client or of the server, that has fewer than `low` blocks; see `fill_list`."""
        fill_list(self, list, self.meta_avail, low, target)

    def take_back(self, list: BlockList) -> None:
        """Take the blocks of a list that a client has given back; see `splice_list`."""
        splice_list(self, self.other_freed, list)

    def prepare(self) -> None:
        """Refill the pair that is not in use, and end the use of the other: all is ready to be written then.

        May raise what `fill_list` and `empty_list` raise; what they have done then is done.  Fewer blocks than wanted
        are enough, if the next commit can do with them.
        """
        try:
            self.fill(self.other_avail, self.targets.server_low, self.targets.server)
        except NoSpace:
            if self.other_avail.head.first_nr < self.targets.of_change:
                raise
        empty_list(self, self.other_freed, self.meta_freed)
        self._active.prepare()

    def swap(self, clients: int) -> None:
        """After a commit, use the other pair, and the other tree if this one runs low for so many clients."""
        avail, freed = self._active.avail, self._active.freed
        self._index = 1 - self._index
        self._use(self.other_avail.head, self.other_freed.head)
        self.other_avail, self.other_freed = BlockList(avail), BlockList(freed)
        available = self.meta_avail.total_len
        if available < 2 * self.targets.reserved(clients) and self.meta_freed.total_len > available:
            self._avail_tree = 1 - self._avail_tree

    def fields(self) -> dict[str, Any]:
        """Return the fields of the super block that say what is free."""
        avail = [self._active.avail, self.other_avail.head]
        freed = [self._active.freed, self.other_freed.head]
        if self._index:
            avail.reverse()
            freed.reverse()
        return {
            "server_meta_avail": [head.fields() for head in avail],
            "server_meta_freed": [head.fields() for head in freed],
            "meta_alloc": [tree.root.fields() for tree in self._trees],
        }

    def _use(self, avail: ListHead, freed: ListHead) -> None:
        self._active = ListAllocator(self.writer, avail, freed, self._total_blocks)
