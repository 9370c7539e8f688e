"""Quota rules (spec 01 §3.18); they need format version 2."""

from __future__ import annotations

from enum import IntEnum, IntFlag

from construct import Array, Int8ul, Int64ul, Padding, Struct

QuotaRule = Struct(
    "name_val" / Array(3, Int64ul),
    "limit" / Int64ul,
    "prio" / Int8ul,
    "op" / Int8ul,
    "rule_flags" / Int8ul,
    "name_source" / Array(3, Int8ul),
    "name_flags" / Array(3, Int8ul),
    "pad" / Padding(7),
)
"""48 bytes; hash64 of all of them is in the item's key."""


class QuotaOp(IntEnum):
    """What a rule limits."""

    INODE = 0
    DATA = 1


class QuotaRuleFlag(IntFlag):
    """`rule_flags`."""

    TOTL_COUNT = 1


class QuotaSource(IntEnum):
    """Where a name value comes from."""

    LITERAL = 0
    PROJ = 1
    UID = 2
    GID = 3


class QuotaNameFlag(IntFlag):
    """`name_flags`."""

    SELECT = 1
