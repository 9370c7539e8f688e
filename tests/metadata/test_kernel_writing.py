"""Changing volumes that the kernel wrote: what they hold stays the same, and every block of them is right."""

from __future__ import annotations

import pytest

from format.block import Ref
from format.keys import Key
from format.logs import LogTrees
from scoutfs.metadata.btree import FIRST_KEY, LAST_KEY, NO_ROOT, Btree, Root
from scoutfs.metadata.btree_freeing import free_blocks
from scoutfs.metadata.merge import merge
from scoutfs.metadata.snapshot import Roots, Snapshot
from scoutfs.metadata.totals import NO_DIFFERENCE, is_delta
from tests import kernel_images
from tests.metadata.servers import Cluster, damage


def contents(c: Cluster) -> list[tuple[bytes, bytes]]:
    """Return all items as the super block on the device shows them."""
    raw = c.server.stable.raw
    roots = (Root.of(raw[name]) for name in ("fs_root", "logs_root", "srch_root", "log_merge"))
    return list(Snapshot(c.server.writer.reader, Roots(*roots)).items())


@pytest.mark.parametrize(
    "name", ["fresh-v2", "multi3-M1_busy3", "multi3-M3_reclaimed", "multi3-final", "rich-v1", "rich-v2-merged"]
)
def test_merging_all_log_trees_changes_nothing_that_is_seen(name: str) -> None:
    c = Cluster({"meta": kernel_images.load(name, "meta")})
    before, known = contents(c), damage(c.images)
    server = c.server
    trees = []
    for item in server.logs_root.items():
        parsed = LogTrees.parse(item.value)
        root = Root.of(parsed.item_root)
        if root.height:
            trees.append((item.key, parsed, root))
    inputs = [Btree(server.writer, root) for _, _, root in trees]
    assert merge(server.fs_root, inputs, FIRST_KEY, LAST_KEY, subtree=False) is None
    for key, parsed, root in trees:
        wanted = FIRST_KEY
        while wanted != LAST_KEY:
            wanted = free_blocks(server.writer, server.allocator, root, wanted, 62)
        bloom = Ref(parsed.bloom_ref.blkno, parsed.bloom_ref.seq)
        server.allocator.exchange(0, [bloom.blkno] if bloom.blkno else [])
        parsed.item_root, parsed.bloom_ref = NO_ROOT.fields(), Ref()._asdict()
        server.logs_root.update(key, LogTrees.build(parsed))
    assert contents(c) == before
    c.commit()
    assert contents(c) == before
    merged = [(item.key, item.value) for item in server.fs_root.items()]
    assert [item for item in merged if not (is_delta(item[0]) and item[1] == NO_DIFFERENCE)] == before
    assert damage(c.images) == known == []
    c.commit()
    assert damage(c.images) == []
    if name.startswith("multi3-M"):
        assert len(trees) >= 2
    assert len(before) > 1


@pytest.mark.parametrize("name", ["multi3-final", "rich-v2-merged"])
def test_trees_of_the_kernel_are_emptied_item_by_item(name: str) -> None:
    # Of the blocks that the kernel has arranged none must be lost on the way.
    c = Cluster({"meta": kernel_images.load(name, "meta")})
    tree = c.server.fs_root
    keys = [item.key for item in tree.items()]
    left = dict.fromkeys(keys)
    for number, key in enumerate(keys[::2] + keys[1::2][::-1]):
        tree.delete(key)
        del left[key]
        if number % (len(keys) // 3) == 0:
            c.commit()
            assert [item.key for item in tree.items()] == list(left)
            assert damage_of_space(c) == []
    assert tree.root == NO_ROOT
    assert len(keys) > 100
    tree.insert(Key(16, 1, 4).sort_bytes, bytes(168))
    c.commit()
    assert damage_of_space(c) == []


def damage_of_space(c: Cluster) -> list[str]:
    """Return what is wrong but for data, which no files own any more."""
    return [text for text in damage(c.images) if "data" not in text]
