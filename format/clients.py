"""Mounts that the server knows (spec 01 §3.11)."""

from __future__ import annotations

from enum import IntFlag

from construct import Bytes, Int8ul, Struct

from format.quorum import InetAddr4


class MountedClientFlag(IntFlag):
    """`flags` of a mounted client."""

    QUORUM = 1


MountedClient = Struct("addr" / InetAddr4, "flags" / Int8ul, "garbage" / Bytes(7))
"""40 bytes: the peer's address at first contact; the last 7 bytes mean nothing, write zeros."""
