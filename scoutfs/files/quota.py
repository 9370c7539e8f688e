"""Rules of quotas (spec 06 §9)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from format.keys import QUOTA_RULE_TYPE, Zone
from format.quota import QuotaNameFlag, QuotaOp, QuotaRuleFlag, QuotaSource
from scoutfs.files.items import NUMBER_MAX, Items, damaged, key_of

_RULE = struct.Struct("<4Q9B7x")


class RuleName(NamedTuple):
    """One of the three numbers of a rule; `select` says that the rule is only for inodes whose attribute has it."""

    value: int
    source: QuotaSource
    select: bool


class Rule(NamedTuple):
    """A rule; which of several counts says spec 06 §9.3."""

    prio: int
    names: tuple[RuleName, RuleName, RuleName]
    op: QuotaOp
    limit: int
    rule_flags: QuotaRuleFlag


def read_rules(items: Items) -> Iterator[Rule]:
    """Yield all quota rules, by hash.  Raises DamagedItem for a rule that makes no sense, and what reading raises."""
    low = key_of(Zone.QUOTA, 0, QUOTA_RULE_TYPE, 0, 0, 0)
    for key, value in items.items(low, key_of(Zone.QUOTA, 0, QUOTA_RULE_TYPE, NUMBER_MAX, NUMBER_MAX, 255)):
        if len(value) != _RULE.size:
            damaged(items, key, f"a rule of {len(value)} bytes")
        *numbers, limit, prio, op, rule_flags, source0, source1, source2, flags0, flags1, flags2 = _RULE.unpack(value)
        sources, flags = (source0, source1, source2), (flags0, flags1, flags2)
        if op > max(QuotaOp) or rule_flags > QuotaRuleFlag.TOTL_COUNT:
            damaged(items, key, "no known rule")
        if max(sources) > max(QuotaSource) or max(flags) > QuotaNameFlag.SELECT:
            damaged(items, key, "no known names in a rule")
        first, second, third = (
            RuleName(number, QuotaSource(source), bool(flag)) for number, source, flag in zip(numbers, sources, flags)
        )
        yield Rule(prio, (first, second, third), QuotaOp(op), limit, QuotaRuleFlag(rule_flags))
