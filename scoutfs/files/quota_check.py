"""Which quota rule counts, and whether it forbids more (spec 06 §9.3, §9.4)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from format.quota import QuotaOp, QuotaRuleFlag, QuotaSource
from scoutfs.files.change import Change
from scoutfs.files.errors import QuotaExceeded
from scoutfs.files.indexes import Total
from scoutfs.files.items import NUMBER_MAX
from scoutfs.files.quota import Rule, read_rules
from scoutfs.files.store import QUOTA_READ_LOCK


class Attributes(NamedTuple):
    """What rules look at: those of the inode, or of the one that is about to be."""

    proj: int
    uid: int
    gid: int


def check_quota(change: Change, op: QuotaOp, attributes: Attributes) -> None:
    """Raise QuotaExceeded if the rules forbid `op`, and as `Change` does.  Format version 1 has no rules."""
    if change.fmt_vers < 2:
        return
    rules = change.quotas.rules()
    if rules is None:
        change.need(QUOTA_READ_LOCK)
        rules = tuple(read_rules(change))
        change.quotas.remember(rules)
    rule = matching_rule(rules, op, attributes)
    if rule is None:
        return
    name = total_name(rule, attributes)
    total = change.quotas.total(name)
    if total is not None and usage(rule, total) >= rule.limit:
        text = "quota of {}.{}.{}".format(*name)
        raise QuotaExceeded(f"the {text} is used up: {usage(rule, total)} of {rule.limit}")


def matching_rule(rules: Iterable[Rule], op: QuotaOp, attributes: Attributes) -> Rule | None:
    """Return the greatest of the rules that match, None if none does."""
    matching = [rule for rule in rules if rule.op == op and _selects(rule, attributes)]
    return max(matching, key=rank, default=None)


def rank(rule: Rule) -> tuple[int, ...]:
    """Return what rules are compared by."""
    names = [number for value, source, select in rule.names for number in (value, source, select)]
    return (rule.prio, *names, rule.op, rule.limit, rule.rule_flags)


def total_name(rule: Rule, attributes: Attributes) -> tuple[int, int, int]:
    """Return the name of the total that a rule limits."""
    first, second, third = (
        value if source == QuotaSource.LITERAL else _attribute(source, attributes) for value, source, _ in rule.names
    )
    return first, second, third


def usage(rule: Rule, total: Total) -> int:
    """Return what a rule compares with its limit, unsigned."""
    return (total.count if rule.rule_flags & QuotaRuleFlag.TOTL_COUNT else total.total) & NUMBER_MAX


def _selects(rule: Rule, attributes: Attributes) -> bool:
    return all(not select or value == _attribute(source, attributes) for value, source, select in rule.names)


def _attribute(source: QuotaSource, attributes: Attributes) -> int:
    return attributes[source - QuotaSource.PROJ]
