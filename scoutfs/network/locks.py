"""Lock modes and lock messages (spec 05 §2.1, §2.5).  Pure.

A lock is named by the sort form of the first key that it covers: 27 bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from format.block import FormatError, build
from format.keys import Key
from format.payloads import LockMode, NetLock, build_lock_recover, parse_lock_recover, parse_payload

NO_KEY = Key.ZEROS.sort_bytes
"""The name below all others, with which recovery begins."""


class LockMessage(NamedTuple):
    """A lock as messages have it: a request, a grant, an invalidation or the answer to one, or a lock that is held."""

    key: bytes
    old_mode: LockMode
    new_mode: LockMode
    write_seq: int = 0

    def build(self) -> bytes:
        """Encode the 48 bytes of a LOCK message."""
        return build(NetLock, self.fields(), "lock")

    def fields(self) -> dict[str, Any]:
        """Return what `format.payloads.NetLock` is built from."""
        key = Key.from_sort_bytes(self.key)
        names = ("first", "second", "third", "fourth", "zone", "type")
        return {
            "key": {name: getattr(key, name) for name in names},
            "write_seq": self.write_seq,
            "old_mode": self.old_mode,
            "new_mode": self.new_mode,
            "garbage": bytes(6),
        }

    @classmethod
    def parse(cls, payload: bytes) -> LockMessage:
        """Decode exactly 48 bytes.  Raises FormatError, for a mode that is none too."""
        return cls._of(parse_payload(NetLock, payload, "LOCK"))

    @classmethod
    def _of(cls, raw: Any) -> LockMessage:
        key = Key(raw.key.zone, raw.key.first, raw.key.type, raw.key.second, raw.key.third, raw.key.fourth)
        try:
            return cls(key.sort_bytes, LockMode(raw.old_mode), LockMode(raw.new_mode), raw.write_seq)
        except ValueError as error:
            raise FormatError(f"lock {key}: {error}") from error


def parse_recovered(payload: bytes) -> list[LockMessage]:
    """Return the locks of a recover response; empty if there are no more.  Raises FormatError."""
    return [LockMessage._of(raw) for raw in parse_lock_recover(payload)]


def build_recovered(locks: Sequence[LockMessage]) -> bytes:
    """Encode a recover response of at most 22 locks."""
    return build_lock_recover([lock.fields() for lock in locks])


def serves(mode: LockMode, wanted: LockMode) -> bool:
    """Whether a mount that holds a lock in `mode` may do what needs it in the mode `wanted`."""
    return mode == wanted or (mode == LockMode.WRITE and wanted == LockMode.READ)


def may_read(mode: LockMode) -> bool:
    """Whether items may be read, and known, under a lock in this mode."""
    return mode in (LockMode.READ, LockMode.WRITE)


def may_write(mode: LockMode) -> bool:
    """Whether items may be changed under a lock in this mode."""
    return mode in (LockMode.WRITE, LockMode.WRITE_ONLY)
