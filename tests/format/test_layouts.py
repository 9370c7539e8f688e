"""Every structure has the fields, offsets and sizes of the specification's tables."""

from __future__ import annotations

import random
from typing import Any

import pytest

from format import (
    alloc,
    block,
    btree,
    clients,
    dirent,
    extent,
    inode,
    keys,
    logs,
    message,
    net,
    payloads,
    quorum,
    quota,
    srch,
    superblock,
    timespec,
    xattr,
)

# Tables of spec 01 §2 to §4, 02 §3.1 and 03 §1, §3, §5: declaration and size, then offset, size and name of each field.
LAYOUTS: dict[str, tuple[Any, int, str]] = {
    "block_header": (block.BlockHeader, 32, "0 4 crc, 4 4 magic, 8 8 fsid, 16 8 seq, 24 8 blkno"),
    "block_ref": (block.BlockRef, 16, "0 8 blkno, 8 8 seq"),
    "timespec": (timespec.Timespec, 16, "0 8 sec, 8 4 nsec, 12 4 pad"),
    "inet_addr4": (quorum.InetAddr4, 32, "0 2 family, 2 2 port, 4 4 addr, 8 24 garbage"),
    "inet_addr6": (
        quorum.InetAddr6,
        32,
        "0 2 family, 2 2 port, 4 16 addr, 20 4 flow_info, 24 4 scope_id, 28 4 pad",
    ),
    "super_block": (
        superblock.SuperBlockStruct,
        1488,
        """
        0 32 hdr, 32 8 id, 40 8 fmt_vers, 48 8 flags, 56 16 uuid, 72 8 seq, 80 8 next_ino,
        88 8 inode_count, 96 8 total_meta_blocks, 104 8 total_data_blocks, 112 488 qconf,
        600 80 meta_alloc, 680 40 data_alloc, 720 64 server_meta_avail, 784 64 server_meta_freed,
        848 24 fs_root, 872 24 logs_root, 896 24 log_merge, 920 24 mounted_clients, 944 24 srch_root,
        968 520 volopt
        """,
    ),
    "quorum_config": (quorum.QuorumConfigStruct, 488, "0 8 version, 8 480 slots"),
    "volume_options": (
        superblock.VolumeOptions,
        520,
        "0 8 set_bits, 8 8 data_alloc_zone_blocks, 16 504 future_expansion",
    ),
    "quorum_block": (quorum.QuorumBlockStruct, 280, "0 32 hdr, 32 8 write_nr, 40 240 events"),
    "quorum_block_event": (quorum.QuorumBlockEvent, 40, "0 8 write_nr, 8 8 rid, 16 8 term, 24 16 ts"),
    "btree_root": (btree.BtreeRoot, 24, "0 16 ref, 16 1 height, 17 7 pad"),
    "btree_block": (
        btree.BtreeBlock,
        48,
        "0 32 hdr, 32 2 item_root, 34 2 nr_items, 36 2 total_item_bytes, 38 2 mid_free_len, 40 1 level, 41 7 pad",
    ),
    "btree_item": (
        btree.BtreeItem,
        56,
        "0 8 node, 8 32 key, 40 8 seq, 48 2 val_off, 50 2 val_len, 52 1 flags, 53 3 pad",
    ),
    "avl_root": (btree.AvlRoot, 2, "0 2 node"),
    "avl_node": (btree.AvlNode, 8, "0 2 parent, 2 2 left, 4 2 right, 6 1 height, 7 1 pad"),
    "alloc_root": (alloc.AllocRoot, 40, "0 8 total_len, 8 4 flags, 12 4 pad, 16 24 root"),
    "alloc_list_head": (alloc.AllocListHead, 32, "0 16 ref, 16 8 total_nr, 24 4 first_nr, 28 4 flags"),
    "alloc_list_block": (alloc.AllocListBlock, 56, "0 32 hdr, 32 16 next, 48 4 start, 52 4 nr"),
    "log_trees": (
        logs.LogTrees,
        472,
        """
        0 32 meta_avail, 32 32 meta_freed, 64 24 item_root, 88 16 bloom_ref, 104 40 data_avail,
        144 40 data_freed, 184 88 srch_file, 272 8 data_alloc_zone_blocks, 280 128 data_alloc_zones,
        408 8 inode_count_delta, 416 8 get_trans_seq, 424 8 commit_trans_seq, 432 8 max_item_seq,
        440 8 finalize_seq, 448 8 rid, 456 8 nr, 464 8 flags
        """,
    ),
    "bloom_block": (logs.BloomBlock, 40, "0 32 hdr, 32 8 total_set"),
    "srch_entry": (srch.SrchEntry, 24, "0 8 hash, 8 8 ino, 16 8 id"),
    "srch_file": (
        srch.SrchFile,
        88,
        "0 24 first, 24 24 last, 48 16 ref, 64 8 blocks, 72 8 entries, 80 1 height, 81 7 pad",
    ),
    "srch_parent": (srch.SrchParent, 65536, "0 32 hdr, 32 65504 refs"),
    "srch_block": (
        srch.SrchBlock,
        112,
        "0 32 hdr, 32 24 first, 56 24 last, 80 24 tail, 104 4 entry_nr, 108 4 entry_bytes",
    ),
    "srch_compact": (
        srch.SrchCompact,
        584,
        "0 32 meta_avail, 32 32 meta_freed, 64 8 id, 72 1 nr, 73 1 flags, 74 6 pad, 80 88 out, 168 416 in",
    ),
    "srch_compact_input": (srch.SrchCompactInput, 104, "0 88 sfl, 88 8 blk, 96 8 pos"),
    "log_merge_status": (logs.LogMergeStatus, 56, "0 32 next_range_key, 32 8 nr_requests, 40 8 nr_complete, 48 8 seq"),
    "log_merge_range": (logs.LogMergeRange, 64, "0 32 start, 32 32 end"),
    "log_merge_request": (
        logs.LogMergeRequest,
        208,
        """
        0 32 meta_avail, 32 32 meta_freed, 64 24 logs_root, 88 24 root, 112 32 start, 144 32 end,
        176 8 input_seq, 184 8 rid, 192 8 seq, 200 8 flags
        """,
    ),
    "log_merge_complete": (
        logs.LogMergeComplete,
        208,
        """
        0 32 meta_avail, 32 32 meta_freed, 64 24 root, 88 32 start, 120 32 end, 152 32 remain, 184 8 rid,
        192 8 seq, 200 8 flags
        """,
    ),
    "log_merge_freeing": (logs.LogMergeFreeing, 64, "0 24 root, 24 32 key, 56 8 seq"),
    "mounted_client": (clients.MountedClient, 40, "0 32 addr, 32 1 flags, 33 7 garbage"),
    "inode_v1": (
        inode.InodeV1,
        160,
        """
        0 8 size, 8 8 meta_seq, 16 8 data_seq, 24 8 data_version, 32 8 online_blocks, 40 8 offline_blocks,
        48 8 next_readdir_pos, 56 8 next_xattr_id, 64 8 version, 72 4 nlink, 76 4 uid, 80 4 gid, 84 4 mode,
        88 4 rdev, 92 4 flags, 96 16 atime, 112 16 ctime, 128 16 mtime, 144 16 crtime
        """,
    ),
    "inode_v2": (
        inode.Inode,
        168,
        """
        0 8 size, 8 8 meta_seq, 16 8 data_seq, 24 8 data_version, 32 8 online_blocks, 40 8 offline_blocks,
        48 8 next_readdir_pos, 56 8 next_xattr_id, 64 8 version, 72 4 nlink, 76 4 uid, 80 4 gid, 84 4 mode,
        88 4 rdev, 92 4 flags, 96 16 atime, 112 16 ctime, 128 16 mtime, 144 16 crtime, 160 8 proj
        """,
    ),
    "dirent": (dirent.Dirent, 32, "0 8 ino, 8 8 hash, 16 8 pos, 24 1 type, 25 7 pad"),
    "xattr": (xattr.XattrHeader, 8, "0 2 val_len, 2 1 name_len, 3 5 pad"),
    "xattr_totl": (xattr.XattrTotl, 16, "0 8 total, 8 8 count"),
    "data_extent": (extent.DataExtent, 16, "0 8 blkno, 8 1 flags, 9 7 pad"),
    "quota_rule": (
        quota.QuotaRule,
        48,
        "0 24 name_val, 24 8 limit, 32 1 prio, 33 1 op, 34 1 rule_flags, 35 3 name_source, 38 3 name_flags, 41 7 pad",
    ),
    "nfs_handle": (inode.NfsHandle, 16, "0 8 ino, 8 8 parent_ino"),
    "key": (keys.KeyStruct, 32, "0 8 first, 8 8 second, 16 8 third, 24 1 fourth, 25 1 zone, 26 1 type, 27 5 pad"),
    "quorum_message": (
        message.QuorumMessage,
        32,
        "0 8 fsid, 8 8 version, 16 8 term, 24 1 type, 25 1 from, 26 2 pad, 28 4 crc",
    ),
    "net_header": (
        net.NetHeader,
        32,
        "0 8 seq, 8 8 recv_seq, 16 8 id, 24 2 data_len, 26 1 cmd, 27 1 flags, 28 1 error, 29 3 pad",
    ),
    "net_greeting": (net.NetGreeting, 40, "0 8 fsid, 8 8 fmt_vers, 16 8 server_term, 24 8 rid, 32 8 flags"),
    "net_lock": (payloads.NetLock, 48, "0 32 key, 32 8 write_seq, 40 1 old_mode, 41 1 new_mode, 42 6 garbage"),
    "net_lock_recover": (payloads.NetLockRecover, 8, "0 2 nr, 2 6 garbage"),
    "net_count": (payloads.NetCount, 8, "0 8 count"),
    "net_seq": (payloads.NetSeq, 8, "0 8 seq"),
    "net_inode_alloc": (payloads.NetInodeAlloc, 16, "0 8 ino, 8 8 nr"),
    "net_roots": (payloads.NetRoots, 72, "0 24 fs_root, 24 24 logs_root, 48 24 srch_root"),
    "net_resize_devices": (
        payloads.NetResizeDevices,
        16,
        "0 8 new_total_meta_blocks, 8 8 new_total_data_blocks",
    ),
    "net_statfs": (
        net.NetStatfs,
        56,
        """
        0 16 uuid, 16 8 free_meta_blocks, 24 8 total_meta_blocks, 32 8 free_data_blocks,
        40 8 total_data_blocks, 48 8 inode_count
        """,
    ),
    "open_ino_map_args": (payloads.OpenInoMapArgs, 16, "0 8 group_nr, 8 8 req_id"),
    "open_ino_map": (payloads.OpenInoMap, 144, "0 16 args, 16 128 bits"),
}


COMMANDS = """
GREETING ALLOC_INODES GET_LOG_TREES COMMIT_LOG_TREES SYNC_LOG_TREES GET_ROOTS GET_LAST_SEQ LOCK LOCK_RECOVER
SRCH_GET_COMPACT SRCH_COMMIT_COMPACT GET_LOG_MERGE COMMIT_LOG_MERGE OPEN_INO_MAP GET_VOLOPT SET_VOLOPT CLEAR_VOLOPT
RESIZE_DEVICES STATFS FAREWELL
"""


def fields_of(table: str) -> dict[str, tuple[int, int]]:
    """Return offset and size of each field of a table."""
    fields = {}
    for row in table.split(","):
        offset, size, name = row.split()
        fields[name] = (int(offset), int(size))
    return fields


@pytest.mark.parametrize("name", LAYOUTS)
def test_fields_lie_where_the_tables_put_them(name: str) -> None:
    declaration, size, table = LAYOUTS[name]
    found, offset = {}, 0
    for field in declaration.subcons:
        found[field.name] = (offset, field.sizeof())
        offset += field.sizeof()
    assert found == fields_of(table)
    assert declaration.sizeof() == size


@pytest.mark.parametrize("name", LAYOUTS)
def test_numbers_are_little_endian_and_bytes_are_kept(name: str) -> None:
    declaration, size, table = LAYOUTS[name]
    data = random.Random(name).randbytes(size)
    parsed = declaration.parse(data)
    for field, (offset, length) in fields_of(table).items():
        stored, value = data[offset : offset + length], parsed[field]
        if isinstance(value, int):
            assert value % 256**length == int.from_bytes(stored, "little")
        elif isinstance(value, bytes):
            assert value == stored


SIGNED = {"log_trees": {"inode_count_delta"}, "xattr_totl": {"total", "count"}}


@pytest.mark.parametrize("name", LAYOUTS)
def test_only_the_fields_that_are_signed_go_below_zero(name: str) -> None:
    declaration, size, table = LAYOUTS[name]
    parsed = declaration.parse(b"\xff" * size)
    negative = {field for field in fields_of(table) if isinstance(parsed[field], int) and parsed[field] < 0}
    assert negative == SIGNED.get(name, set())


def offsets_of_elements(declaration: Any, field: str) -> list[int]:
    """Return the offsets at which the elements of an array field start."""
    offset = 0
    for subcon in declaration.subcons:
        if subcon.name == field:
            count = subcon.subcon.count
            return [offset + subcon.sizeof() // count * index for index in range(count)]
        offset += subcon.sizeof()
    raise AssertionError(field)


def test_elements_of_arrays_lie_where_the_specification_puts_them() -> None:
    slots = offsets_of_elements(quorum.QuorumConfigStruct, "slots")
    assert [112 + offset for offset in slots] == [120 + 32 * slot for slot in range(15)]
    assert offsets_of_elements(superblock.SuperBlockStruct, "meta_alloc") == [600, 640]
    assert offsets_of_elements(superblock.SuperBlockStruct, "server_meta_avail") == [720, 752]
    assert offsets_of_elements(superblock.SuperBlockStruct, "server_meta_freed") == [784, 816]
    assert offsets_of_elements(quorum.QuorumBlockStruct, "events") == [40, 80, 120, 160, 200, 240]
    assert offsets_of_elements(srch.SrchCompact, "in") == [168, 272, 376, 480]
    assert offsets_of_elements(superblock.VolumeOptions, "future_expansion") == [16 + 8 * n for n in range(63)]
    assert offsets_of_elements(srch.SrchParent, "refs") == [32 + 16 * n for n in range(4094)]
    assert offsets_of_elements(payloads.OpenInoMap, "bits") == [16 + 8 * n for n in range(16)]


def test_constants_have_the_values_of_the_specification() -> None:
    assert (block.SMALL_BLOCK_SIZE, block.LARGE_BLOCK_SIZE) == (4096, 65536)
    assert (block.SUPER_BLKNO, block.QUORUM_BLKNO, block.QUORUM_MAX_SLOTS) == (16, 17, 15)
    assert (block.META_START_BLKNO, block.DATA_START_BLKNO) == (2, 64)
    assert (superblock.FORMAT_VERSION_MIN, superblock.FORMAT_VERSION_MAX, superblock.ROOT_INO) == (1, 2, 1)
    assert (btree.MAX_VALUE_SIZE, btree.MAX_HEIGHT, btree.VALUE_ALIGN, btree.LEAF_HASH_OFFSET) == (896, 20, 8, 62512)
    assert alloc.LIST_MAX_BLOCKS == 8185
    assert (srch.PARENT_REFS, srch.ENTRY_MAX_SIZE, srch.BLOCK_SAFE_SIZE) == (4094, 26, 65398)
    assert (srch.LOG_BLOCK_LIMIT, srch.COMPACT_FILES) == (16, 4)
    assert logs.MAX_ZONES == 1024
    assert (dirent.NAME_MAX, dirent.LINK_MAX, dirent.FIRST_POS, dirent.LAST_POS) == (255, 2147483647, 2, 2**64 - 2)
    assert (xattr.NAME_MAX, xattr.VALUE_MAX, xattr.TOTL_MAX_NUMBERS) == (255, 65535, 23)
    assert payloads.LOCK_RECOVER_MAX == 22
    assert {magic.name: magic.value for magic in block.Magic} == {
        "SUPER": 0x103C428B,
        "QUORUM": 0xBC310868,
        "BTREE": 0xE597F96D,
        "BLOOM": 0x31995604,
        "SRCH_BLOCK": 0x897E4A7D,
        "SRCH_PARENT": 0xB23A2A05,
        "ALLOC_LIST": 0x8A93AC83,
    }
    assert [command.name for command in sorted(net.Command)] == COMMANDS.split()
    assert [int(command) for command in net.Command] == list(range(20))


def test_zones_and_types_have_the_values_of_the_specification() -> None:
    assert {zone.name: zone.value for zone in keys.Zone} == {
        "INODE_INDEX": 4,
        "ORPHAN": 8,
        "QUOTA": 10,
        "XATTR_TOTL": 12,
        "XATTR_INDX": 14,
        "FS": 16,
        "LOCK": 20,
        "LOG_TREES": 24,
        "MOUNTED_CLIENT": 28,
        "SRCH": 32,
        "FREE_EXTENT_BLKNO": 36,
        "FREE_EXTENT_ORDER": 40,
        "LOG_MERGE_STATUS": 44,
        "LOG_MERGE_RANGE": 48,
        "LOG_MERGE_REQUEST": 52,
        "LOG_MERGE_COMPLETE": 56,
        "LOG_MERGE_FREEING": 60,
    }
    assert {type_.name: type_.value for type_ in keys.InodeIndexType} == {"META_SEQ": 4, "DATA_SEQ": 8}
    assert [type_.name for type_ in sorted(keys.FsType)] == (
        ["INODE", "XATTR", "DIRENT", "READDIR", "LINK_BACKREF", "SYMLINK", "DATA_EXTENT"]
    )
    assert [int(type_) for type_ in keys.FsType] == [4, 8, 12, 16, 20, 24, 28]
    assert {type_.name: type_.value for type_ in keys.SrchType} == {"LOG": 4, "BLOCKS": 8, "PENDING": 12, "BUSY": 16}
    assert keys.ORPHAN_TYPE == keys.QUOTA_RULE_TYPE == keys.RENAME_TYPE == 4
