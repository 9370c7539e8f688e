"""Quota rules (spec 06 §9)."""

from __future__ import annotations

from format.btree import Item
from format.hashes import hash64
from format.quota import QuotaNameFlag, QuotaOp, QuotaRule, QuotaRuleFlag, QuotaSource
from scoutfs.fsck.kinds import Kind
from scoutfs.fsck.report import Report
from scoutfs.fsck.words import key_words


def check_rule(item: Item, report: Report) -> None:
    """Check the item of a rule."""
    rule = QuotaRule.parse(item.value)
    problem = None
    if item.key.second != hash64(item.value):
        problem = f"its hash is {hash64(item.value):016x}"
    elif rule.op > max(QuotaOp) or rule.rule_flags & ~int(QuotaRuleFlag.TOTL_COUNT):
        problem = f"operation {rule.op} or flags {rule.rule_flags:#x} are unknown"
    elif max(rule.name_source) > max(QuotaSource) or max(rule.name_flags) > QuotaNameFlag.SELECT:
        problem = "a source or a flag of its names is unknown"
    elif any(flag and not source for flag, source in zip(rule.name_flags, rule.name_source)):
        problem = "it selects by a number that is no attribute of inodes"
    if problem:
        report.add(Kind.QUOTA_RULE, "quota rules", key=key_words(item.key), problem=problem)
