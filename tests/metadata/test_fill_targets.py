"""What servers hand out on volumes of all sizes."""

from __future__ import annotations

import pytest

from scoutfs.metadata.allocator import reserved_blocks
from scoutfs.metadata.fill_targets import ORIGINAL_TARGETS, FillTargets

GIB_META, GIB_DATA = 1 << 14, 1 << 18


def test_large_volumes_get_what_the_original_gives() -> None:
    # spec 03 §7.5
    targets = FillTargets.of_volume(64 * GIB_META, 64 * GIB_DATA)
    assert targets == ORIGINAL_TARGETS
    assert (targets.server, targets.server_low, targets.client, targets.client_low) == (8185, 4092, 8185, 4092)
    assert (targets.merge, targets.data, targets.data_low) == (1028, 1 << 20, 1 << 18)
    assert [targets.reserved(clients) for clients in (1, 2, 3, 5)] == [34681, 52992, 71303, 107925]
    assert targets.data_wanted(0, 1 << 30) == 1 << 20
    assert targets.data_wanted(1 << 18, 1 << 30) == 0


@pytest.mark.parametrize("gib", [1, 2, 4, 16, 32])
def test_small_volumes_serve_three_mounts(gib: int) -> None:
    targets = FillTargets.of_volume(gib * GIB_META, 2 * gib * GIB_DATA)
    # lists of three mounts and of the server, with as much again that was freed, leave most of it
    lists = 2 * (3 * targets.client + 2 * targets.server)
    assert lists < gib * GIB_META // 4
    assert targets.reserved(3) <= reserved_blocks(3) * gib // 64 < gib * GIB_META // 10
    assert targets.move_budget >= 128
    free = 2 * gib * GIB_DATA
    for _ in range(3):
        given = targets.data_wanted(0, free)
        assert given >= 1 << 16, "with less, a kernel mount commits without end unless it is told that space is low"
        free -= given


def test_what_is_left_is_shared_but_never_withheld() -> None:
    targets = FillTargets.of_volume(2 * GIB_META, 4 * GIB_DATA)
    free, steps = 100_000, 0
    while free:
        given = targets.data_wanted(0, free)
        assert given > 0
        free -= given
        steps += 1
    assert steps < 8
