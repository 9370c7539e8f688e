"""What a check has found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from scoutfs.fsck.kinds import Kind, Severity

KEPT_MAX = 10_000
"""Findings of one kind that are kept at most, so that a volume full of damage does not fill the memory."""


@dataclass(frozen=True)
class Finding:
    """One thing that was found: `where` names the structure or the inode, `details` what its sentence says."""

    kind: Kind
    where: str
    details: Mapping[str, Any]

    @property
    def text(self) -> str:
        """The sentence, with where it is."""
        return f"{self.where}: {self.kind.sentence.format(**self.details)}"

    def to_dict(self) -> dict[str, Any]:
        """Return the finding for programs."""
        return {
            "kind": self.kind.code,
            "severity": self.kind.severity.value,
            "where": self.where,
            "text": self.text,
            "details": {name: _plain(value) for name, value in self.details.items()},
        }


class Report:
    """Counts findings, and keeps the first `keep` of each kind.

    While `muted` nothing is taken: a walk that is repeated finds the same again.
    """

    def __init__(self, keep: int = KEPT_MAX) -> None:
        self._keep = keep
        self.muted = False
        self.counts: Counter[Kind] = Counter()
        self._kept: dict[Kind, list[Finding]] = {}

    def add(self, kind: Kind, where: str, **details: Any) -> None:
        """Take a finding."""
        if self.muted:
            return
        self.counts[kind] += 1
        kept = self._kept.setdefault(kind, [])
        if len(kept) < self._keep:
            kept.append(Finding(kind, where, details))

    def count(self, kind: Kind, more: int) -> None:
        """Count findings that are too many to be told one by one."""
        if more > 0 and not self.muted:
            self.counts[kind] += more

    @property
    def errors(self) -> int:
        """How much damage was found."""
        return sum(count for kind, count in self.counts.items() if kind.severity is Severity.ERROR)

    def findings(self) -> list[Finding]:
        """Return what was kept: damage first, in the order of `Kind`."""
        kinds = sorted(self._kept, key=lambda kind: (kind.severity is not Severity.ERROR, _ORDER[kind]))
        return [finding for kind in kinds for finding in self._kept[kind]]


_ORDER = {kind: index for index, kind in enumerate(Kind)}


def _plain(value: Any) -> Any:
    return value if isinstance(value, int | str | None) else str(value)
