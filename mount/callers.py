"""Who makes a request: the kernel tells user, group and thread, /proc the rest."""

from __future__ import annotations

import os
from typing import Any

from scoutfs.files.caller import ALL_CAPABILITIES, ROOT, Caller, Capability

_BITS = {
    Capability.CHOWN: 1 << 0,
    Capability.FOWNER: 1 << 3,
    Capability.FSETID: 1 << 4,
    Capability.SYS_ADMIN: 1 << 21,
}
"""Where CapEff has them, capabilities(7)."""

NOBODY_SPECIAL = Capability(0)


def creator(ctx: Any) -> Caller:
    """Return who creates a file.  That the superuser has all capabilities is taken for granted here."""
    if ctx.uid == 0:
        return ROOT if ctx.gid == 0 else Caller(0, ctx.gid, frozenset({ctx.gid}), ALL_CAPABILITIES)
    return known_caller(ctx)


def known_caller(ctx: Any) -> Caller:
    """Return who makes a request, with groups and capabilities as the kernel shows them.

    Of a thread that cannot be seen only the superuser has capabilities.
    """
    groups, capabilities = _status(ctx.pid)
    if capabilities is None:
        capabilities = ALL_CAPABILITIES if ctx.uid == 0 else NOBODY_SPECIAL
    return Caller(ctx.uid, ctx.gid, groups | {ctx.gid}, capabilities)


def _status(pid: int) -> tuple[frozenset[int], Capability | None]:
    if pid <= 0:
        return frozenset(), None
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            fields = dict(line.split(b":", 1) for line in file if line.startswith((b"Groups", b"CapEff")))
        groups = frozenset(int(group) for group in fields[b"Groups"].split())
        bits = int(fields[b"CapEff"], 16)
        # in a user namespace of its own a process has capabilities that count for nothing here
        foreign = bool(bits) and os.readlink(f"/proc/{pid}/ns/user") != os.readlink("/proc/self/ns/user")
    except (OSError, KeyError, ValueError):
        return frozenset(), None
    if foreign:
        return groups, NOBODY_SPECIAL
    found = NOBODY_SPECIAL
    for capability, bit in _BITS.items():
        if bits & bit:
            found |= capability
    return groups, found
