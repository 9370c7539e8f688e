"""Do two multisets agree?  In memory that does not grow with them.

Members are added with a positive weight by one side and with a negative one by the other, in any order.  Each falls
into one of 65536 buckets by its hash, and each bucket keeps one number: the sum of weight times hash.  If all weights
of a member add up to zero, it leaves no trace.  So two sides that agree leave all buckets zero, and the chance that a
difference does so is 2^-64.  Where buckets are not zero, the same walk is repeated, and only the members that fall into
these are kept, with the sum of their weights: few, however large the multisets are.
"""

from __future__ import annotations

from array import array
from collections.abc import Hashable

_BUCKET_BITS = 16
_MASK = 2**64 - 1
_SPREAD = 0x9E3779B97F4A7C15
_DETAILED_BUCKETS = 4096
_MEMBERS_MAX = 50_000


class Reconciliation:
    """A pair of multisets, whose weights are counted modulo `modulus` if that is not 0.

    With 2 it is one set, each member of which must have been added an even number of times.  Takes 512 KiB, and what
    differs.  `complete` says, in the end, whether `differences` has all of it.
    """

    def __init__(self, *, modulus: int = 0) -> None:
        self._modulus = modulus
        self._sums = array("Q", bytes(8 << _BUCKET_BITS))
        self._wanted: frozenset[int] | None = None
        self._members: dict[Hashable, int] = {}
        self.complete = True

    def add(self, member: Hashable, weight: int = 1) -> None:
        """Add a member: a hashable value, the same from both sides."""
        mixed = _mixed(member)
        bucket = mixed >> (64 - _BUCKET_BITS)
        if self._wanted is not None:
            if bucket in self._wanted:
                self._collect(member, weight)
        elif self._modulus == 2:
            self._sums[bucket] ^= mixed | 1
        else:
            self._sums[bucket] = (self._sums[bucket] + weight * (mixed | 1)) & _MASK

    def may_differ(self, member: Hashable) -> bool:
        """Whether a member may be among those that differ, after `begin_details`."""
        return self._wanted is not None and _mixed(member) >> (64 - _BUCKET_BITS) in self._wanted

    @property
    def agrees(self) -> bool:
        """Whether the two sides are equal, after all was added."""
        return not any(self._sums)

    def begin_details(self) -> None:
        """From now on take what is added, all of it once more, to find what differs."""
        different = [bucket for bucket, total in enumerate(self._sums) if total]
        self._wanted = frozenset(different[:_DETAILED_BUCKETS])
        self._members = {}
        self.complete = len(different) <= _DETAILED_BUCKETS

    def differences(self) -> dict[Hashable, int]:
        """Return the members that differ, after all was added again, and the sums of their weights.

        Not all of them if there are very many: `complete` is False then.
        """
        return self._members

    def _collect(self, member: Hashable, weight: int) -> None:
        total = self._members.pop(member, 0) + weight
        if self._modulus:
            total %= self._modulus
        if total and len(self._members) < _MEMBERS_MAX:
            self._members[member] = total
        elif total:
            self.complete = False


def _mixed(member: Hashable) -> int:
    """Return 64 bits that depend on all of a member: whoever damages a volume does not know them."""
    mixed = (hash(member) * _SPREAD) & _MASK
    return mixed ^ mixed >> 29
