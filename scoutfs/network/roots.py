"""The payload that answers GET_ROOTS (spec 03 §5.4)."""

from __future__ import annotations

from format.block import FormatError
from format.payloads import NetRoots
from scoutfs.metadata.btree import Root
from scoutfs.metadata.snapshot import Roots

SIZE = NetRoots.sizeof()
"""Bytes of the payload: 72."""


def build_roots(roots: Roots) -> bytes:
    """Encode the payload; `log_merge` is no part of it."""
    return NetRoots.build({name: _fields(getattr(roots, name)) for name in ("fs_root", "logs_root", "srch_root")})


def parse_roots(payload: bytes) -> Roots:
    """Decode exactly 72 bytes.  Raises FormatError for another length."""
    if len(payload) != SIZE:
        raise FormatError(f"roots of {len(payload)} bytes, expected {SIZE}")
    raw = NetRoots.parse(payload)
    return Roots(Root.of(raw.fs_root), Root.of(raw.logs_root), Root.of(raw.srch_root))


def _fields(root: Root) -> dict[str, object]:
    return {"ref": {"blkno": root.ref.blkno, "seq": root.ref.seq}, "height": root.height}
