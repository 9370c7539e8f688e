"""Who asks for an operation."""

from __future__ import annotations

from enum import IntFlag
from typing import NamedTuple


class Capability(IntFlag):
    """What somebody may do beyond his permissions, capabilities(7)."""

    CHOWN = 1
    FOWNER = 2
    FSETID = 4
    SYS_ADMIN = 8


ALL_CAPABILITIES = Capability.CHOWN | Capability.FOWNER | Capability.FSETID | Capability.SYS_ADMIN


class Caller(NamedTuple):
    """User and group that new files get, all groups (the effective one included), and capabilities."""

    uid: int
    gid: int
    groups: frozenset[int]
    capabilities: Capability

    def owns(self, uid: int) -> bool:
        """Whether he may do what the owner `uid` may."""
        return self.uid == uid or bool(self.capabilities & Capability.FOWNER)

    def may_set_group_id(self, gid: int) -> bool:
        """Whether he may leave S_ISGID on files of group `gid`."""
        return gid in self.groups or bool(self.capabilities & Capability.FSETID)


ROOT = Caller(0, 0, frozenset({0}), ALL_CAPABILITIES)
