"""The super block and the quorum blocks (spec 01 §7.4, §7.5)."""

from __future__ import annotations

import uuid
from typing import Any

from format.block import QUORUM_BLKNO, SUPER_BLKNO
from format.quorum import Event, QuorumBlockStruct, address_from_struct
from scoutfs.tools.print import text

_ZONE_BLOCKS_BIT = 1


def super_text(data: bytes, parsed: Any) -> str:
    """Return the text of a super block, given whole and parsed."""
    lines = [f"super blkno {SUPER_BLKNO}\n", text.header_line(data), _fields(parsed)]
    for index, root in enumerate(parsed.meta_alloc):
        lines.append(f"  meta_alloc[{index}]: {text.alloc_root(root)}\n")
    lines.append(f"  data_alloc: {text.alloc_root(parsed.data_alloc)}\n")
    for name in ("server_meta_avail", "server_meta_freed"):
        for index, head in enumerate(parsed[name]):
            lines.append(f"  {name}[{index}]: {text.list_head(head)}\n")
    for name in ("fs_root", "logs_root", "log_merge", "mounted_clients", "srch_root"):
        root = parsed[name]
        lines.append(f"  {name}: blkno {root.ref.blkno} seq {root.ref.seq:016x} height {root.height}\n")
    lines.append(f"  volume options:\n    set_bits: {parsed.volopt.set_bits:016x}\n")
    if parsed.volopt.set_bits & _ZONE_BLOCKS_BIT:
        lines.append(f"    data_alloc_zone_blocks: {parsed.volopt.data_alloc_zone_blocks}\n")
    lines.append(f"  quorum config version {parsed.qconf.version}\n")
    for slot, raw in enumerate(parsed.qconf.slots):
        address = address_from_struct(raw)
        if address is not None:
            lines.append(f"    quorum slot {slot:2}: {address}\n")
    return "".join(lines)


def quorum_text(data: bytes, slot: int) -> str:
    """Return the text of the quorum block of `slot`, 4096 bytes."""
    parsed = QuorumBlockStruct.parse(data)
    lines = [f"quorum blkno {QUORUM_BLKNO + slot} (slot {slot})\n", text.header_line(data)]
    lines.append(f"  write_nr {parsed.write_nr}\n")
    for event, record in zip(Event, parsed.events, strict=True):
        lines.append(
            f"  {event.name.lower():>12}: rid {record.rid:016x} term {record.term} write_nr {record.write_nr}"
            f" ts {text.time(record.ts.sec, record.ts.nsec)}\n"
        )
    return "".join(lines)


def _fields(parsed: Any) -> str:
    return (
        f"  fmt_vers {parsed.fmt_vers} uuid {uuid.UUID(bytes=parsed.uuid)}\n"
        f"  flags: 0x{parsed.flags:016x}\n"
        f"  next_ino {parsed.next_ino} inode_count {parsed.inode_count} seq {parsed.seq}\n"
        f"  total_meta_blocks {parsed.total_meta_blocks} total_data_blocks {parsed.total_data_blocks}\n"
    )
