"""Log trees of mounts, the mounts that are recorded, and merges of log trees (spec 04 §1.3, §7.4, §11, §12)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from format.block import BlockError, Magic, Ref
from format.btree import read_items
from format.hashes import bloom_bits
from format.keys import Key, Zone
from format.logs import (
    BLOOM_BITS_OFFSET,
    LogMergeComplete,
    LogMergeFreeing,
    LogMergeRange,
    LogMergeRequest,
    LogMergeStatus,
    LogTrees,
    LogTreesFlag,
    bloom_has,
)
from scoutfs.fsck.blocks import Blocks
from scoutfs.fsck.kinds import Kind
from scoutfs.fsck.tree import Tree, Walker, of_sizes
from scoutfs.fsck.words import key_words

_LOG_TREES = Tree("logs_root", of_sizes({Zone.LOG_TREES: LogTrees.sizeof()}))
_MOUNTED_CLIENTS = Tree("mounted_clients", of_sizes({Zone.MOUNTED_CLIENT: 40}))
_STRUCTURES: dict[int, Any] = {
    Zone.LOG_MERGE_STATUS: LogMergeStatus,
    Zone.LOG_MERGE_RANGE: LogMergeRange,
    Zone.LOG_MERGE_REQUEST: LogMergeRequest,
    Zone.LOG_MERGE_COMPLETE: LogMergeComplete,
    Zone.LOG_MERGE_FREEING: LogMergeFreeing,
}
_MERGE = Tree("log_merge", of_sizes({zone: structure.sizeof() for zone, structure in _STRUCTURES.items()}))


@dataclass
class LogTree:
    """A log tree: its parsed `LogTrees`, and its bloom block unless there is none or it cannot be read."""

    parsed: Any
    bloom: bytes | None = None

    @property
    def name(self) -> str:
        """Names the tree in findings."""
        return f"log tree {self.parsed.nr} of mount {self.parsed.rid:016x}"

    @property
    def finalized(self) -> bool:
        """True once no mount writes to it any more."""
        return bool(self.parsed.flags & LogTreesFlag.FINALIZED)

    def bloom_lacks(self, lock_start: Key) -> bool:
        """Whether readers do not look here for items under a lock."""
        return self.bloom is not None and not bloom_has(self.bloom, bloom_bits(lock_start.build()))


@dataclass
class Merge:
    """A merge of log trees: `seq` of its status, 0 if none runs, and its parsed items."""

    seq: int = 0
    requests: list[Any] = field(default_factory=list)
    completions: list[Any] = field(default_factory=list)
    freeing: list[Any] = field(default_factory=list)


def mounted_clients(walker: Walker, root: Any, blocks: Blocks) -> set[int]:
    """Check the tree of recorded mounts; return their rids."""
    rids = {item.key.first for item in walker.items(root, _MOUNTED_CLIENTS)}
    for rid in sorted(rids):
        blocks.report.add(Kind.MOUNTED_CLIENT, "mounted_clients", rid=rid)
    return rids


def log_trees(walker: Walker, root: Any, mounted: set[int], blocks: Blocks) -> list[LogTree]:
    """Check the items of all log trees, and their bloom blocks; return them in order."""
    trees = []
    for item in walker.items(root, _LOG_TREES):
        parsed = LogTrees.parse(item.value)
        if (parsed.rid, parsed.nr) != (item.key.first, item.key.second):
            details = {"key": key_words(item.key), "rid": parsed.rid, "nr": parsed.nr}
            blocks.report.add(Kind.LOG_ITEM, "logs_root", **details)
        tree = LogTree(parsed)
        _check_bloom(tree, blocks)
        trees.append(tree)
    for tree, later in zip(trees, [*trees[1:], None]):
        _check_state(tree, later, mounted, blocks)
    return trees


def _check_bloom(tree: LogTree, blocks: Blocks) -> None:
    ref = tree.parsed.bloom_ref
    if not ref.blkno:
        return
    data = blocks.read(Ref(ref.blkno, ref.seq), Magic.BLOOM, f"{tree.name}, bloom block")
    if data is None:
        return
    tree.bloom = data
    stored = int.from_bytes(data[32:BLOOM_BITS_OFFSET], "little")
    found = int.from_bytes(data[BLOOM_BITS_OFFSET:], "little").bit_count()
    if stored != found:
        blocks.report.add(Kind.BLOOM_COUNT, tree.name, stored=stored, expected=found)


def _check_state(tree: LogTree, later: LogTree | None, mounted: set[int], blocks: Blocks) -> None:
    parsed, report = tree.parsed, blocks.report
    if parsed.commit_trans_seq > parsed.get_trans_seq:
        text = f"commit_trans_seq {parsed.commit_trans_seq} is greater than get_trans_seq {parsed.get_trans_seq}"
        report.add(Kind.LOG_SEQS, tree.name, problem=text)
    if tree.finalized != bool(parsed.finalize_seq):
        text = f"finalize_seq is {parsed.finalize_seq}, though it is {'' if tree.finalized else 'not '}finalized"
        report.add(Kind.LOG_SEQS, tree.name, problem=text)
    is_last = later is None or later.parsed.rid != parsed.rid
    if not tree.finalized and not is_last and later is not None:
        report.add(Kind.LOG_UNFINALIZED, tree.name, later=later.parsed.nr)
    elif not tree.finalized and parsed.rid not in mounted:
        report.add(Kind.LOG_ABANDONED, tree.name, rid=parsed.rid)
    if tree.finalized:
        held = [name for name in ("meta_avail", "meta_freed") if parsed[name].total_nr]
        held += [name for name in ("data_avail", "data_freed") if parsed[name].total_len]
        if held:
            report.add(Kind.LOG_FINALIZED_SPACE, tree.name, what=", ".join(held))


def merge(walker: Walker, root: Any, blocks: Blocks) -> Merge:
    """Check the items of a merge; return them."""
    found = Merge()
    status, ranges = None, 0
    for item in walker.items(root, _MERGE):
        parsed = _STRUCTURES[item.key.zone].parse(item.value)
        problem = _merge_problem(item.key, parsed)
        if problem:
            blocks.report.add(Kind.MERGE_ITEM, "log_merge", key=key_words(item.key), problem=problem)
        if item.key.zone == Zone.LOG_MERGE_STATUS:
            status = parsed
        elif item.key.zone == Zone.LOG_MERGE_RANGE:
            ranges += 1
        elif item.key.zone == Zone.LOG_MERGE_REQUEST:
            found.requests.append(parsed)
        elif item.key.zone == Zone.LOG_MERGE_COMPLETE:
            found.completions.append(parsed)
        else:
            found.freeing.append(parsed)
    if status is not None:
        found.seq = status.seq
        _check_status(status, found, blocks)
    elif ranges or found.requests or found.completions:
        text = "there are parts of a merge, but no status of it"
        blocks.report.add(Kind.MERGE_ITEM, "log_merge", key="the status of the merge", problem=text)
    return found


def _check_status(status: Any, found: Merge, blocks: Blocks) -> None:
    blocks.report.add(Kind.MERGE_RUNNING, "log_merge")
    details: dict[str, Any] = {"stored": status.nr_requests, "found": len(found.requests)}
    if status.nr_requests != len(found.requests):
        blocks.report.add(Kind.MERGE_COUNT, "log_merge", field="nr_requests", **details)
    # While completions are spliced, the number says more than there are (spec 04 §12.4).
    if status.nr_complete < len(found.completions):
        details = {"stored": status.nr_complete, "found": len(found.completions)}
        blocks.report.add(Kind.MERGE_COUNT, "log_merge", field="nr_complete", **details)


def _merge_problem(key: Key, parsed: Any) -> str | None:
    if key.zone in (Zone.LOG_MERGE_STATUS, Zone.LOG_MERGE_FREEING):
        return None
    start, end = _key(parsed.start), _key(parsed.end)
    if start > end:
        return f"it starts at {start}, behind its end at {end}"
    if key.zone == Zone.LOG_MERGE_RANGE:
        expected = Key(Zone.LOG_MERGE_RANGE, start.first, start.type, start.second, start.third, start.fourth)
    elif key.zone == Zone.LOG_MERGE_REQUEST:
        expected = Key(Zone.LOG_MERGE_REQUEST, parsed.rid, 0, parsed.seq)
    else:
        expected = Key(Zone.LOG_MERGE_COMPLETE, parsed.seq)
    return None if key == expected else f"its value belongs to {expected}"


def _key(parsed: Any) -> Key:
    return Key(parsed.zone, parsed.first, parsed.type, parsed.second, parsed.third, parsed.fourth)


def claim_completion(parsed: Any, blocks: Blocks) -> None:
    """Claim the blocks of the subtree of a completion that is not yet part of the volume's tree.

    It shares blocks with the volume's tree, and has made others that only it refers to.
    """
    _claim_softly(parsed.root, Key.ZEROS, blocks)


def claim_freeing(parsed: Any, blocks: Blocks) -> None:
    """Claim what is left of a merged log tree that is being freed: the items in front of its key are."""
    _claim_softly(parsed.root, _key(parsed.key), blocks)


def _claim_softly(root: Any, start: Key, blocks: Blocks) -> None:
    waiting = [(Ref(root.ref.blkno, root.ref.seq), root.height - 1)] if root.ref.blkno else []
    while waiting:
        ref, level = waiting.pop()
        data = blocks.read_softly(ref, Magic.BTREE)
        if data is None or level <= 0:
            continue
        try:
            block = read_items(data, "")
        except BlockError:
            continue
        waiting += [(item.ref, level - 1) for item in block.items if item.key >= start]
