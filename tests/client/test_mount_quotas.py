"""Quotas on mounts: rules that another mount changes count at once, totals soon."""

from __future__ import annotations

from pathlib import Path

import pytest

from format.keys import Key, Zone
from format.quota import QuotaOp, QuotaRuleFlag, QuotaSource
from scoutfs.client.mount_quotas import TOTALS_AGE, MountQuotas, TotalsNeeded
from scoutfs.files.acl_writing import set_attribute
from scoutfs.files.caller import ROOT, Caller, Capability
from scoutfs.files.create import create
from scoutfs.files.errors import QuotaExceeded
from scoutfs.files.items import key_of
from scoutfs.files.quota import Rule, RuleName
from scoutfs.files.quota_writing import add_rule, delete_rule
from scoutfs.metadata.snapshot import Roots, Snapshot
from tests.client.cluster import ROOT_INO, Mount, mounted
from tests.format.blocks import Given
from tests.metadata.building import Blocks

USER = Caller(1000, 1000, frozenset({1000}), Capability(0))
NAMES = tuple(RuleName(number, QuotaSource.LITERAL, False) for number in (1, 2, 3))
RULE = Rule(1, NAMES, QuotaOp.INODE, 5, QuotaRuleFlag(0))  # type: ignore[arg-type]


def test_totals_whose_blocks_are_used_again_are_read_anew() -> None:
    blocks = Blocks()
    key = key_of(Zone.XATTR_TOTL, 1, 0, 2, 3, 0)
    value = (5).to_bytes(8, "little") + (1).to_bytes(8, "little")
    quotas, now = MountQuotas(lambda: now), 100.0
    with pytest.raises(TotalsNeeded):
        quotas.total((1, 2, 3))
    roots = Roots(blocks.add_tree([Given(Key.from_sort_bytes(key), value)]))
    quotas.install(Snapshot(blocks.reader(), roots))
    total = quotas.total((1, 2, 3))
    assert total is not None
    assert (total.total, total.count) == (5, 1)
    assert quotas.total((1, 2, 2)) is None
    now += TOTALS_AGE + 1
    with pytest.raises(TotalsNeeded):
        quotas.total((1, 2, 3))
    quotas.install(Snapshot(blocks.reader(), roots))
    blocks.contents.clear()
    with pytest.raises(TotalsNeeded):
        quotas.total((1, 2, 3))


async def make(mount: Mount, name: bytes) -> None:
    ino = await mount.files.new_ino(directory=False)
    await mount.files.perform(create, ROOT_INO, name, ino, 0o100644, USER)


async def test_a_rule_of_one_mount_stops_the_other(tmp_path: Path) -> None:
    async with mounted(tmp_path) as cluster:
        one, other = cluster.mounts
        await make(other, b"before")
        ino = await one.make(b"counted")
        await one.files.perform(set_attribute, ino, b"scoutfs.totl.t.1.2.3", b"5", ROOT)
        await one.files.sync()
        await one.files.perform(add_rule, RULE, ROOT)
        with pytest.raises(QuotaExceeded):
            await make(other, b"too many")
        await one.files.perform(delete_rule, RULE, ROOT)
        await make(other, b"after")
        assert sorted(await one.names()) == [b"after", b"before", b"counted"]
        await cluster.leave()
        assert cluster.errors() == []
    assert cluster.problems() == []
