"""The vectors of spec 02 §5.5, recorded from the original: whom a new leader fences, and which server is found."""

from __future__ import annotations

import pytest

from format.quorum import Event, QuorumBlock
from scoutfs.quorum.leaders import find_server, greatest_term, later_leader, previous_leaders
from tests.quorum.machine import FSID, block_with

A, B, C, D = (0xA000000000000001, 0xB000000000000002, 0xC000000000000003, 0xD000000000000004)
BEGIN, TERM, ELECT, FENCE, STOP, END = Event


def volume(**blocks: list[tuple[Event, int, int]]) -> dict[int, QuorumBlock | None]:
    found: dict[int, QuorumBlock | None] = {slot: QuorumBlock(FSID, slot) for slot in range(3)}
    for name, events in blocks.items():
        slot = int(name.removeprefix("slot"))
        found[slot] = block_with(slot, *events)
    return found


CASES = [
    ("nothing else", {}, 1, [], 0),
    ("crashed", {"slot1": [(ELECT, B, 5), (FENCE, B, 5)]}, 7, [B], 0),
    ("stopped", {"slot1": [(ELECT, B, 5), (FENCE, B, 5), (STOP, B, 5)]}, 7, [], 0),
    (
        "slot used again",
        {"slot1": [(FENCE, B, 5), (BEGIN, C, 8), (TERM, C, 9), (ELECT, C, 9)]},
        10,
        [C, B],
        0,
    ),
    (
        "an earlier one was fenced by the later",
        {"slot1": [(ELECT, B, 5), (FENCE, B, 5)], "slot2": [(ELECT, C, 7), (FENCE, C, 7)]},
        9,
        [C],
        0,
    ),
    ("both unfenced", {"slot1": [(ELECT, B, 5), (FENCE, B, 5)], "slot2": [(ELECT, C, 7)]}, 9, [B, C], 0),
    ("newer than us is skipped", {"slot2": [(ELECT, C, 12)]}, 9, [], 2),
    ("equal term is fenced", {"slot1": [(ELECT, B, 3)]}, 3, [B], 0),
    (
        "fence of another mount in our slot",
        {"slot0": [(FENCE, D, 5), (BEGIN, A, 5), (TERM, A, 6), (ELECT, A, 6)]},
        6,
        [D],
        0,
    ),
    ("an overwritten ELECT is forgotten by the blocks", {"slot0": [(ELECT, D, 5), (ELECT, A, 6)]}, 6, [], 0),
    (
        "STOP of one that could not fence hides the earlier",
        {"slot1": [(FENCE, B, 5), (BEGIN, C, 8), (ELECT, C, 9), (STOP, C, 9)]},
        10,
        [],
        0,
    ),
    ("own rid", {"slot0": [(ELECT, A, 5), (FENCE, A, 5), (ELECT, A, 8)]}, 8, [], 0),
    ("a rid is named once", {"slot1": [(FENCE, B, 5), (ELECT, B, 8)]}, 9, [B], 0),
]


@pytest.mark.parametrize(("events", "term", "fenced", "server"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_whom_a_new_leader_fences(
    events: dict[str, list[tuple[Event, int, int]]], term: int, fenced: list[int], server: int
) -> None:
    blocks = volume(**events)
    if "slot0" not in events:
        blocks[0] = block_with(0, (ELECT, A, term))
    assert [leader.rid for leader in previous_leaders(blocks, A, term)] == fenced
    found = find_server(blocks)
    assert found is not None
    assert found.slot == server


def test_an_overwritten_leader_is_fenced_when_it_is_remembered() -> None:
    before = block_with(0, (ELECT, D, 5))
    blocks = volume(slot0=[(ELECT, D, 5), (ELECT, A, 6)])
    remembered = [(0, before.event(ELECT))]
    assert [leader.rid for leader in previous_leaders(blocks, A, 6, remembered)] == [D]


def test_the_stale_record_of_a_recorded_volume_is_no_server() -> None:
    """Slot 0 as seen after a clean unmount of all: BEGIN 13, TERM 11, ELECT 11, FENCE 11, STOP 0, END 13 (§5.4)."""
    blocks = volume(
        slot0=[(BEGIN, A, 13), (TERM, A, 11), (ELECT, A, 11), (FENCE, A, 11), (END, A, 13)],
        slot2=[(ELECT, C, 13), (FENCE, C, 13), (STOP, C, 13)],
    )
    assert find_server(blocks) is None


def test_terms_and_later_leaders() -> None:
    blocks = volume(slot1=[(TERM, B, 9), (ELECT, B, 7)], slot2=[(ELECT, C, 8), (FENCE, C, 8), (STOP, C, 8)])
    assert greatest_term(blocks) == 9
    assert greatest_term({0: None, 1: None}) == 0
    later = later_leader(blocks, 6)
    assert later is not None
    assert (later.slot, later.term) == (2, 8)
    assert later_leader(blocks, 8) is None
