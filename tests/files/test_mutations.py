"""Blocks that were changed at random, with valid checksums: reading them ends, and raises nothing but typed errors."""

from __future__ import annotations

import os
import random
from collections.abc import Callable

import pytest

from scoutfs.files.filesystem import Filesystem
from tests.files.damage import DamagedVolume, look_around

MUTATIONS = int(os.environ.get("SCOUTFS_FUZZ", "5000"))
"""Changed blocks of each volume; `make fuzz` asks for more."""
SEED = int(os.environ.get("SCOUTFS_FUZZ_SEED", "1"))


@pytest.mark.parametrize("name", ["rich-v2-merged", "crash1-D_merge", "multi3-M3_reclaimed", "rich-v1"])
def test_changed_blocks(opened: Callable[[str], Filesystem], name: str) -> None:
    volume = DamagedVolume(opened(name).volume)
    errors = 0
    for number in range(MUTATIONS):
        source = random.Random(f"{SEED} {name} {number}")
        blkno = volume.damage(source)
        try:
            errors += look_around(volume, blkno, source)
        except Exception as error:
            error.add_note(f"seed {SEED}, volume {name}, mutation {number}, block {blkno}")
            raise
        volume.repair()
    assert errors > MUTATIONS / 20, "most changes are found"
    assert volume.files.blocks.used_bytes < 64 << 20
    assert look_around(volume, volume.used[0], random.Random(1)) == 0
