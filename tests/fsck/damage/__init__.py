"""Kinds of damage, done to real volumes: all of them are in `DAMAGE`, by name."""

from __future__ import annotations

from tests.fsck.damage import blocks, files, space
from tests.fsck.damage.registry import DAMAGE

__all__ = ["DAMAGE", "blocks", "files", "space"]
