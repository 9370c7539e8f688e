"""A whole metadata device, in the order in which the original prints it (spec 01 §7.1)."""

from __future__ import annotations

from typing import Any

from format.block import QUORUM_BLKNO, QUORUM_MAX_SLOTS, SUPER_BLKNO, Magic
from format.superblock import SuperBlockStruct, SuperFlag
from scoutfs.errors import ScoutfsError
from scoutfs.storage.device import Device, DeviceError
from scoutfs.tools.print import server_items
from scoutfs.tools.print.btree import leaf_entries, print_tree
from scoutfs.tools.print.fs_items import fs_item
from scoutfs.tools.print.lists import print_list
from scoutfs.tools.print.output import Blocks, Output
from scoutfs.tools.print.srch import print_srch_file
from scoutfs.tools.print.superblock import quorum_text, super_text


def print_volume(device: Device, output: Output, *, skip_likely_huge: bool = False) -> None:
    """Print everything on a metadata device; what is missing in the text is told to `output`.

    `skip_likely_huge` leaves out the trees of free extents and of files, and the search files.  Raises ScoutfsError if
    there is no super block of a metadata device; one of a data device is printed all the same.
    """
    blocks = Blocks(device)
    raw, parsed = _read_super(blocks)
    output.write(super_text(raw, parsed))
    if not parsed.flags & SuperFlag.IS_META_BDEV:
        raise ScoutfsError(_no_metadata(device.path, parsed))
    _print_quorum_blocks(blocks, output)
    print_tree(blocks, output, "mounted_clients", parsed.mounted_clients, server_items.mounted_client)
    print_tree(blocks, output, "log_merge", parsed.log_merge, server_items.log_merge)
    for name in ("server_meta_avail", "server_meta_freed"):
        for index, head in enumerate(parsed[name]):
            print_list(blocks, output, f"{name}[{index}]", head)
    if not skip_likely_huge:
        for index, root in enumerate(parsed.meta_alloc):
            print_tree(blocks, output, f"meta_alloc[{index}]", root.root, server_items.free_extent)
        print_tree(blocks, output, "data_alloc", parsed.data_alloc.root, server_items.free_extent)
    print_tree(blocks, output, "srch_root", parsed.srch_root, server_items.srch)
    print_tree(blocks, output, "logs_root", parsed.logs_root, server_items.log_trees)
    if not skip_likely_huge:
        for entry in leaf_entries(blocks, parsed.srch_root):
            for file in server_items.srch_files(entry):
                print_srch_file(blocks, output, file)
    for entry in leaf_entries(blocks, parsed.logs_root):
        trees = server_items.parse_log_trees(entry)
        if trees is not None:
            _print_log_trees(blocks, output, trees)
    if not skip_likely_huge:
        print_tree(blocks, output, "fs_root", parsed.fs_root, fs_item)


def _read_super(blocks: Blocks) -> tuple[bytes, Any]:
    try:
        raw = blocks.small(SUPER_BLKNO)
    except DeviceError as error:
        raise ScoutfsError(f"super block: incomplete pread: {error}", error.errno) from error
    return raw, SuperBlockStruct.parse(raw)


def _no_metadata(path: str, parsed: Any) -> str:
    if parsed.hdr.magic != Magic.SUPER:
        return f"{path}: no super block, this is not a metadata device"
    return f"{path}: Printing from data device is not allowed, name the metadata device"


def _print_quorum_blocks(blocks: Blocks, output: Output) -> None:
    for slot in range(QUORUM_MAX_SLOTS):
        try:
            raw = blocks.small(QUORUM_BLKNO + slot)
        except DeviceError as error:
            output.problem(f"quorum block {QUORUM_BLKNO + slot} of slot {slot}: incomplete pread: {error}")
            continue
        output.write(quorum_text(raw, slot))


def _print_log_trees(blocks: Blocks, output: Output, trees: Any) -> None:
    """Print all that the log of one mount refers to, but its bloom block."""
    print_list(blocks, output, "lt_meta_avail", trees.meta_avail)
    print_list(blocks, output, "lt_meta_freed", trees.meta_freed)
    print_tree(blocks, output, "data_avail", trees.data_avail.root, server_items.free_extent)
    print_tree(blocks, output, "data_freed", trees.data_freed.root, server_items.free_extent)
    print_srch_file(blocks, output, trees.srch_file)
    print_tree(blocks, output, "", trees.item_root, fs_item)
