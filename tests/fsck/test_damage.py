"""Each kind of damage is reported, and nothing but that."""

from __future__ import annotations

import pytest

from scoutfs.fsck.kinds import Kind, Severity
from tests import kernel_images
from tests.fsck.corruption import SMALL, Corruption
from tests.fsck.damage import DAMAGE


@pytest.mark.parametrize("name", [*kernel_images.KEPT, *kernel_images.OTHERS, SMALL])
def test_a_volume_of_the_kernel_is_clean(name):
    report = Corruption(name).check().report
    assert [finding.text for finding in report.findings() if finding.kind.severity is Severity.ERROR] == []


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_reported(name):
    damage = DAMAGE[name]
    volume = Corruption(damage.volume)
    damage.do(volume)
    report = volume.check().report
    found = {kind.code: kind.severity for kind in report.counts}
    texts = "\n".join(finding.text for finding in report.findings())
    assert {code for code, severity in found.items() if severity is Severity.ERROR} == damage.errors, texts
    assert damage.notes <= set(found)


def test_every_kind_of_damage_is_tried():
    tried = set().union(*(damage.errors for damage in DAMAGE.values()))
    others = {"block-unreadable", "data-unaccounted"}
    assert {kind.code for kind in Kind if kind.severity is Severity.ERROR} - tried == others
