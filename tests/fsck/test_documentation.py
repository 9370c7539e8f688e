"""The table of findings in the documentation is that of the program."""

from __future__ import annotations

import re
from pathlib import Path

from scoutfs.fsck.kinds import Kind, Severity
from tests.fsck.damage import DAMAGE

TEXT = (Path(__file__).parents[2] / "docs" / "fsck.md").read_text()


def test_every_kind_is_described_with_its_sentence_and_meaning():
    rows = [line.strip("| ").split(" | ") for line in TEXT.splitlines() if line.startswith("| `")]
    described = {name: (sentence, meaning) for name, sentence, meaning in rows}
    for kind in Kind:
        name = f"`{kind.code}`" + ("" if kind.severity is Severity.ERROR else " (note)")
        assert described.pop(name) == (re.sub(r"\{[^}]*\}", "…", kind.sentence), kind.meaning)
    assert not described


def test_damage_of_several_kinds_is_described():
    section = TEXT.partition("## What follows from what")[2]
    for damage in DAMAGE.values():
        row = f"| {damage.name.replace('_', ' ')} | " + ", ".join(f"`{code}`" for code in sorted(damage.errors)) + " |"
        assert (row in section) == (len(damage.errors) > 1)


def test_codes_are_words():
    codes = [kind.code for kind in Kind]
    assert len(set(codes)) == len(codes)
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*", code) for code in codes)
    assert all(kind.sentence[0].islower() or kind.sentence[0] == "{" for kind in Kind)
    assert all(kind.meaning.endswith(".") for kind in Kind)
