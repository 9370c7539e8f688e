"""Adding and deleting quota rules (spec 06 §9.1)."""

from __future__ import annotations

from format.block import build
from format.hashes import hash64
from format.keys import QUOTA_RULE_TYPE, Zone
from format.quota import QuotaNameFlag, QuotaRule
from scoutfs.files.caller import Caller, Capability
from scoutfs.files.change import Change
from scoutfs.files.errors import Exists, NotFound, NotPermitted, Refused, Unsupported
from scoutfs.files.items import NUMBER_MAX, key_fields, key_of
from scoutfs.files.quota import Rule
from scoutfs.files.store import QUOTA_LOCK


def add_rule(change: Change, rule: Rule, caller: Caller) -> None:
    """Add a rule.  Every mount that knows rules has to read them again; the quota lock sees to that.

    Raises NotPermitted, Unsupported on volumes of format version 1, NoSpace, Refused for a rule that selects one
    attribute by two numbers, Exists, and as `Change` does.
    """
    value, found, unused = _find(change, rule, caller)
    if found is not None:
        raise Exists("the rule is there already")
    change.create_under(QUOTA_LOCK, unused, value)


def delete_rule(change: Change, rule: Rule, caller: Caller) -> None:
    """Delete a rule.  Raises NotFound, and as `add_rule` does."""
    _, found, _ = _find(change, rule, caller)
    if found is None:
        raise NotFound("there is no such rule")
    change.delete_under(QUOTA_LOCK, found)


def encode_rule(rule: Rule) -> bytes:
    """Return the value of a rule's item.  Raises Refused for a rule that makes no sense, FormatError out of range."""
    selected: dict[int, int] = {}
    for value, source, select in rule.names:
        if select and (not source or selected.setdefault(source, value) != value):
            raise Refused("a rule can select users, groups and projects only, each by one number")
    fields = {
        "name_val": [name.value for name in rule.names],
        "name_source": [int(name.source) for name in rule.names],
        "name_flags": [int(QuotaNameFlag.SELECT) if name.select else 0 for name in rule.names],
        "limit": rule.limit,
        "prio": rule.prio,
        "op": int(rule.op),
        "rule_flags": int(rule.rule_flags),
    }
    return build(QuotaRule, fields, "quota rule")


def _find(change: Change, rule: Rule, caller: Caller) -> tuple[bytes, bytes | None, bytes]:
    """Return the value of a rule, its key if it is there, and the first unused one of its hash."""
    if not caller.capabilities & Capability.SYS_ADMIN:
        raise NotPermitted("quota rules are for administrators")
    if change.fmt_vers < 2:
        raise Unsupported("volumes of format version 1 have no quota rules")
    value = encode_rule(rule)
    change.need(QUOTA_LOCK)
    change.need_space()
    hash, number = hash64(value), 0
    last = key_of(Zone.QUOTA, 0, QUOTA_RULE_TYPE, hash, NUMBER_MAX, 255)
    for key, stored in change.items(key_of(Zone.QUOTA, 0, QUOTA_RULE_TYPE, hash, 0, 0), last):
        if stored == value:
            return value, key, key
        if key_fields(key)[4] == number:
            number += 1
    return value, None, key_of(Zone.QUOTA, 0, QUOTA_RULE_TYPE, hash, number, 0)
