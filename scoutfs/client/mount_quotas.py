"""What a mount knows of quotas: rules while it has their lock, totals that are some seconds old (spec 06 §9)."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence

from scoutfs.errors import ScoutfsError
from scoutfs.files.indexes import Total, read_totals
from scoutfs.files.quota import Rule
from scoutfs.metadata.blocks import StaleBlockError
from scoutfs.metadata.snapshot import Snapshot

TOTALS_AGE = 5.0
"""Seconds after which totals are looked at again."""


class TotalsNeeded(ScoutfsError):
    """Roots have to be read before a total can be looked at (EAGAIN)."""

    def __init__(self) -> None:
        super().__init__("totals are to be read anew", errno.EAGAIN)


class MountQuotas:
    """Implements `scoutfs.files.store.Quotas`; `now` tells seconds of a monotonic clock."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._rules: tuple[Rule, ...] | None = None
        self._snapshot: Snapshot | None = None
        self._read_at = 0.0

    def rules(self) -> Sequence[Rule] | None:
        """Return all rules, None if they have to be read first."""
        return self._rules

    def remember(self, rules: Sequence[Rule]) -> None:
        """Know the rules until the quota lock is lost."""
        self._rules = tuple(rules)

    def forget(self) -> None:
        """The quota lock is lost."""
        self._rules = None

    def total(self, name: tuple[int, int, int]) -> Total | None:
        """Return a total as it is committed, None if there is none.  Raises TotalsNeeded, and what reading raises."""
        if self._snapshot is None or self._now() - self._read_at > TOTALS_AGE:
            raise TotalsNeeded
        try:
            found = next(read_totals(self._snapshot, name), None)
        except StaleBlockError:
            self._snapshot = None
            raise TotalsNeeded from None
        return found if found is not None and found.name == name else None

    def install(self, snapshot: Snapshot | None) -> None:
        """Look totals up in `snapshot` for a while."""
        self._snapshot, self._read_at = snapshot, self._now()
