"""Merging the items of finalized log trees into a part of the volume's tree (spec 04 §12.5)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from format.btree import ItemFlag
from format.btree_columns import Leaf, Parent
from scoutfs.metadata.btree import LAST_KEY, Btree, LeafRange, TreeItem, after
from scoutfs.metadata.btree_writer import BtreeWriter
from scoutfs.metadata.nodes import ParentNode
from scoutfs.metadata.totals import NO_DIFFERENCE, add_deltas, is_delta


def merge(
    tree: BtreeWriter,
    inputs: Sequence[Btree],
    first: bytes,
    last: bytes,
    *,
    subtree: bool,
    may_go_on: Callable[[], bool] = lambda: True,
) -> bytes | None:
    """Merge the items from `first` to `last` of `inputs` into `tree`; return the key to go on with, None if all are.

    `subtree` says that `tree` is a part of a higher one: then its root is neither split nor joined, and merging stops
    before that would be necessary.  `may_go_on` is asked before each leaf too: a step takes less than ten blocks.
    Raises what reading `inputs` and changing `tree` raise; then the blocks of `tree` must not be used.
    """

    def goes_on() -> bool:
        return may_go_on() and not (subtree and _is_at_a_limit(tree))

    for items in merged_items(inputs, first, last, tree.writer.reader.device.path):
        done = tree.merge_list(items, goes_on)
        if done < len(items.keys):
            return items.keys[done]
    return None


def merged_items(inputs: Sequence[Btree], first: bytes, last: bytes, path: str) -> Iterator[Leaf]:
    """Yield the items of `inputs`, in batches none of which is empty, with a leaf of each input in memory.

    Of several with the same key the newest counts, deletions too; differences are added up, and left out if the sum is
    zero.  `path` names the device in errors.
    """
    found: list[LeafRange | None] = [None] * len(inputs)
    while inputs and first <= last:
        end = last
        for index, tree in enumerate(inputs):
            leaf = found[index]
            if leaf is None or not leaf.first <= first <= leaf.last:
                found[index] = leaf = tree.leaf(first)
            end = min(end, leaf.last)
        newest: dict[bytes, TreeItem] = {}
        for leaf in found:
            assert leaf is not None
            start, stop = leaf.leaf.span(first, end)
            columns = (leaf.leaf.keys, leaf.leaf.seqs, leaf.leaf.flags, leaf.leaf.values)
            for item in map(TreeItem, *(column[start:stop] for column in columns)):
                known = newest.get(item.key)
                newest[item.key] = item if known is None else _combined(known, item, path)
        rows = [newest[key] for key in sorted(newest) if newest[key] is not _NOTHING]
        if rows:
            yield Leaf(*zip(*rows))
        if end == LAST_KEY:
            return
        first = after(end)


_NOTHING = TreeItem(b"", 0, 0, NO_DIFFERENCE)
"""A difference that others have brought to nothing."""


def _combined(known: TreeItem, item: TreeItem, path: str) -> TreeItem:
    if not is_delta(item.key) or (known.flags | item.flags) & ItemFlag.DELETION:
        return item if item.seq > known.seq else known
    if known is _NOTHING:
        return item
    value = add_deltas(path, item.key, known.value, item.value)
    return _NOTHING if value == NO_DIFFERENCE else TreeItem(item.key, max(known.seq, item.seq), item.flags, value)


def _is_at_a_limit(tree: BtreeWriter) -> bool:
    """Whether the root of a subtree has too few children to lose one, or no room for another."""
    block = tree.writer.btree_block(tree.root.ref, tree.root.height - 1)
    if not isinstance(block, Parent):
        return False
    node = ParentNode(block)
    return node.total < node.low_water_mark or node.room < 1
