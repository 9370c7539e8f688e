"""Text of the items in trees that the server keeps: mounts, merges, free extents, searches, logs (spec 01 §7.6)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from format.bitmap import bits_of
from format.clients import MountedClient
from format.keys import SrchType, Zone
from format.logs import LogMergeComplete, LogMergeFreeing, LogMergeRange, LogMergeRequest, LogMergeStatus, LogTrees
from format.srch import COMPACT_FILES, SrchCompact, SrchFile
from scoutfs.tools.print import text
from scoutfs.tools.print.btree import Entry

_MAX = 2**64 - 1


def mounted_client(entry: Entry, is_leaf: bool) -> str:
    """An item of `mounted_clients`."""
    line = f"    rid {entry.first:016x}"
    if not is_leaf:
        return line + "\n"
    parsed = _parse(MountedClient, entry.value)
    if parsed is None:
        return f"{line} (short mounted client value: val_len {entry.val_len})\n"
    return f"{line} ipv4_addr {_dotted(parsed.addr.addr)} flags 0x{parsed.flags:x}\n"


def log_merge(entry: Entry, is_leaf: bool) -> str:
    """An item of `log_merge`; those of parents have no text."""
    if not is_leaf:
        return ""
    if entry.zone not in _MERGE_ITEMS:
        return f"    (unknown log merge key zone {entry.zone})\n"
    declaration, line = _MERGE_ITEMS[entry.zone]
    parsed = _parse(declaration, entry.value)
    if parsed is None:
        return f"    (short log merge value: zone {entry.zone} val_len {entry.val_len})\n"
    return f"    {line(parsed)}\n"


def free_extent(entry: Entry, is_leaf: bool) -> str:
    """An item of an allocator's tree."""
    if entry.zone == Zone.FREE_EXTENT_BLKNO:
        last, length = entry.first, entry.second
        tail = f"end {last}"
    else:
        last, length = entry.second, entry.third
        tail = f"order {_MAX - entry.first}"
    return f"    free extent: blkno {(last - length + 1) & _MAX} len {length} {tail}\n"


def srch(entry: Entry, is_leaf: bool) -> str:
    """An item of `srch_root`."""
    line = f"    {entry.key}\n"
    if not is_leaf:
        return line
    if entry.type not in _COMPACTIONS:
        parsed = _parse(SrchFile, entry.value)
        if parsed is None:
            return f"{line}      (short srch file value: val_len {entry.val_len})\n"
        return f"{line}      {text.srch_file(parsed)}\n"
    parsed = _parse(SrchCompact, entry.value)
    if parsed is None:
        return f"{line}      (short srch compact value: val_len {entry.val_len})\n"
    inputs = "".join(
        f"        [{index}] blk {source.blk} pos {source.pos} sfl {text.srch_file(source.sfl)}\n"
        for index, source in enumerate(_inputs(parsed))
    )
    return f"{line}      compact {_COMPACTIONS[entry.type]}: nr {parsed.nr} flags 0x{parsed.flags:x}\n{inputs}"


def srch_files(entry: Entry) -> list[Any]:
    """Return the parsed `SrchFile`s that an item of a leaf of `srch_root` refers to."""
    if entry.type in _COMPACTIONS:
        parsed = _parse(SrchCompact, entry.value)
        return [] if parsed is None else [source.sfl for source in _inputs(parsed)]
    parsed = _parse(SrchFile, entry.value)
    return [] if parsed is None else [parsed]


def log_trees(entry: Entry, is_leaf: bool) -> str:
    """An item of `logs_root`."""
    line = f"    rid {entry.first} nr {entry.second}\n"
    if not is_leaf:
        return line
    trees = parse_log_trees(entry)
    if trees is None:
        return f"{line}      (short log trees value: val_len {entry.val_len})\n"
    zones = "".join(f"{zone} " for zone in bits_of(trees.data_alloc_zones))
    return (
        f"{line}"
        f"      meta_avail: {text.list_head(trees.meta_avail)}\n"
        f"      meta_freed: {text.list_head(trees.meta_freed)}\n"
        f"      item_root: height {trees.item_root.height} {text.ref(trees.item_root.ref)}\n"
        f"      bloom_ref: {text.ref(trees.bloom_ref)}\n"
        f"      data_avail: {text.alloc_root(trees.data_avail)}\n"
        f"      data_freed: {text.alloc_root(trees.data_freed)}\n"
        f"      srch_file: {text.srch_file(trees.srch_file)}\n"
        f"      inode_count_delta: {trees.inode_count_delta}\n"
        f"      get_trans_seq: {text.signed(trees.get_trans_seq)}\n"
        f"      commit_trans_seq: {text.signed(trees.commit_trans_seq)}\n"
        f"      max_item_seq: {trees.max_item_seq}\n"
        f"      finalize_seq: {trees.finalize_seq}\n"
        f"      rid: {trees.rid:016x}\n"
        f"      nr: {trees.nr}\n"
        f"      flags: {trees.flags:x}\n"
        f"      data_alloc_zone_blocks: {trees.data_alloc_zone_blocks}\n"
        f"      data_alloc_zones: {zones}\n"
    )


def parse_log_trees(entry: Entry) -> Any:
    """Return the parsed `LogTrees` of an item of a leaf of `logs_root`, None if its value is too short."""
    return _parse(LogTrees, entry.value)


def _parse(declaration: Any, value: bytes) -> Any:
    """Parse the start of a value; None if it is too short."""
    return declaration.parse(value) if len(value) >= declaration.sizeof() else None


def _dotted(address: int) -> str:
    return ".".join(str(byte) for byte in address.to_bytes(4, "big"))


def _inputs(compact: Any) -> Any:
    return compact["in"][: min(compact.nr, COMPACT_FILES)]


def _status(parsed: Any) -> str:
    return (
        f"status: next_range_key {text.key(parsed.next_range_key)} nr_req {parsed.nr_requests}"
        f" nr_comp {parsed.nr_complete} seq {parsed.seq}"
    )


def _range(parsed: Any) -> str:
    return f"range: start {text.key(parsed.start)} end {text.key(parsed.end)}"


def _request(parsed: Any) -> str:
    # the second root is `root`; the original calls it by the name of the first
    return (
        f"request: logs_root {text.tree_root(parsed.logs_root)} logs_root {text.tree_root(parsed.root)}"
        f" start {text.key(parsed.start)} end {text.key(parsed.end)} input_seq {parsed.input_seq}"
        f" rid {parsed.rid:016x} seq {parsed.seq} flags 0x{parsed.flags:x}"
    )


def _complete(parsed: Any) -> str:
    return (
        f"complete: root {text.tree_root(parsed.root)} start {text.key(parsed.start)} end {text.key(parsed.end)}"
        f" remain {text.key(parsed.remain)} rid {parsed.rid:016x} seq {parsed.seq} flags {parsed.flags:x}"
    )


def _freeing(parsed: Any) -> str:
    return f"freeing: root {text.tree_root(parsed.root)} key {text.key(parsed.key)} seq {parsed.seq}"


_MERGE_ITEMS: Mapping[int, tuple[Any, Callable[[Any], str]]] = MappingProxyType(
    {
        Zone.LOG_MERGE_STATUS: (LogMergeStatus, _status),
        Zone.LOG_MERGE_RANGE: (LogMergeRange, _range),
        Zone.LOG_MERGE_REQUEST: (LogMergeRequest, _request),
        Zone.LOG_MERGE_COMPLETE: (LogMergeComplete, _complete),
        Zone.LOG_MERGE_FREEING: (LogMergeFreeing, _freeing),
    }
)
_COMPACTIONS: Mapping[int, str] = MappingProxyType({SrchType.PENDING: "pending", SrchType.BUSY: "busy"})
