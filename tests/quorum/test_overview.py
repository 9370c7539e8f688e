"""What is told of a volume's quorum from its super block and quorum blocks."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from format.quorum import Event, EventRecord, QuorumBlock, SlotAddress
from format.superblock import SuperBlock
from scoutfs.quorum.leaders import Leader
from scoutfs.quorum.overview import Overview, SlotState, overview
from scoutfs.storage.creation import NewVolume
from tests.quorum.machine import FSID, block_with

A, B, C, D = (0xA000000000000001, 0xB000000000000002, 0xC000000000000003, 0xD000000000000004)
BEGIN, TERM, ELECT, FENCE, STOP, END = Event
ADDRESSES = {slot: SlotAddress("10.0.0.1", 4000 + slot) for slot in range(3)}


def super_block(slots: Mapping[int, SlotAddress] = ADDRESSES) -> SuperBlock:
    new = NewVolume(FSID, bytes(range(16)), 0, 2, 2048, 16384, slots)
    return SuperBlock.parse(new.super_block(is_meta=True))


def seen(
    blocks: Mapping[int, list[tuple[Event, int, int]] | str], slots: Mapping[int, SlotAddress] = ADDRESSES
) -> Overview:
    """Return the overview of blocks given by the events written to them, or by what is wrong with them."""
    found: dict[int, QuorumBlock | str] = {slot: QuorumBlock(FSID, slot) for slot in range(15)}
    for slot, events in blocks.items():
        found[slot] = events if isinstance(events, str) else block_with(slot, *events)
    return overview(super_block(slots), found)


def test_a_new_volume() -> None:
    view = seen({})
    assert [slot.state for slot in view.slots] == [SlotState.UNUSED] * 3
    assert [slot.text for slot in view.slots] == ["never used"] * 3
    assert (view.server, view.members, view.to_fence, view.greatest_term) == (None, (), (), 0)
    assert view.problems == ()
    assert view.config.votes_needed == 2


def test_a_leader_and_its_followers() -> None:
    view = seen(
        {
            0: [(BEGIN, A, 4), (TERM, A, 5)],
            1: [(BEGIN, B, 4), (TERM, B, 5), (ELECT, B, 5), (FENCE, B, 5)],
            2: [(BEGIN, C, 4), (TERM, C, 5), (END, C, 5)],
        }
    )
    assert [slot.state for slot in view.slots] == [SlotState.MEMBER, SlotState.SERVER, SlotState.LEFT]
    assert [slot.text for slot in view.slots] == ["a member may run", "leads term 5, its server may run", "has left"]
    assert view.server == Leader(1, 5, B)
    assert view.members == (0, 1)
    assert view.to_fence == (Leader(1, 5, B),)
    assert view.greatest_term == 5
    assert view.problems == ()


def test_a_clean_end_leaves_an_old_leader_that_was_fenced() -> None:
    # Seen with the original (spec 02 §5.4): slot 0 never wrote STOP, and a later leader fenced it.
    view = seen(
        {
            0: [(ELECT, D, 11), (FENCE, D, 11), (BEGIN, A, 13), (TERM, A, 13), (END, A, 13)],
            2: [(BEGIN, C, 11), (TERM, C, 13), (ELECT, C, 13), (FENCE, C, 13), (STOP, C, 13), (END, C, 13)],
        }
    )
    assert view.server is None
    assert view.members == ()
    assert view.to_fence == ()
    assert [slot.state for slot in view.slots] == [SlotState.LEFT, SlotState.UNUSED, SlotState.LEFT]
    assert view.slots[0].text == f"earlier mount {D:016x} led term 11, did not stop, was fenced; has left"


def test_a_killed_leader_that_its_successor_fenced() -> None:
    view = seen(
        {
            0: [(BEGIN, A, 0), (TERM, A, 1), (ELECT, A, 1), (FENCE, A, 1)],
            1: [(BEGIN, B, 0), (TERM, B, 2), (ELECT, B, 2), (FENCE, B, 2)],
        }
    )
    assert [slot.state for slot in view.slots][:2] == [SlotState.FENCED, SlotState.SERVER]
    assert view.slots[0].text == "led term 1, did not stop, was fenced"
    assert view.members == (1,)
    assert view.server == Leader(1, 2, B)
    assert view.to_fence == (Leader(1, 2, B),)


def test_a_killed_leader_that_is_not_yet_fenced() -> None:
    view = seen(
        {
            0: [(BEGIN, A, 0), (TERM, A, 1), (ELECT, A, 1), (FENCE, A, 1)],
            1: [(BEGIN, B, 0), (TERM, B, 2), (ELECT, B, 2)],
        }
    )
    assert view.slots[0].text == "led term 1, did not stop, is not fenced; a member may run"
    assert view.server == Leader(1, 2, B)
    assert view.to_fence == (Leader(0, 1, A), Leader(1, 2, B))


def test_a_slot_that_was_mounted_again_after_its_leader_was_killed() -> None:
    view = seen({1: [(ELECT, B, 5), (FENCE, B, 5), (BEGIN, C, 5)]})
    assert view.slots[1].text == f"earlier mount {B:016x} leads term 5, its server may run; a member may run"
    assert view.slots[1].rid == C


def test_unreadable_blocks() -> None:
    view = seen({1: "m: quorum block 18: crc is 0x1, expected 0x2", 2: [(BEGIN, C, 4)]})
    assert view.unreadable == 1
    assert view.slots[1].state is SlotState.UNREADABLE
    assert view.slots[1].text == "unreadable: m: quorum block 18: crc is 0x1, expected 0x2"
    [problem] = view.problems
    assert problem.startswith("slot 1: its block cannot be used (m: quorum block 18: crc is 0x1, expected 0x2)")
    assert view.members == (2,)


def test_blocks_of_slots_that_are_not_configured() -> None:
    view = seen({7: [(BEGIN, A, 4)], 8: "broken", 9: [(BEGIN, B, 3), (END, B, 3)]})
    assert [slot.slot for slot in view.slots] == [0, 1, 2]
    assert view.problems == ("slot 7 is not configured, but a member may still be running in it",)
    assert view.unreadable == 0
    # a leader there is not looked for by anybody
    assert seen({7: [(ELECT, A, 9)]}).server is None


@pytest.mark.parametrize(
    ("slots", "text"),
    [
        ({}, "no member can be mounted: the volume has no usable quorum slots"),
        ({0: SlotAddress("10.0.0.1", 65535)}, "no member can be mounted: quorum slot 0 at 10.0.0.1:65535"),
        ({0: ADDRESSES[0], 1: ADDRESSES[1]}, "with two slots each member elects itself"),
    ],
)
def test_configurations(slots: dict[int, SlotAddress], text: str) -> None:
    [problem] = seen({}, slots).problems
    assert problem.startswith(text)


def test_a_block_whose_count_is_not_that_of_its_last_event() -> None:
    block = QuorumBlock(FSID, 0, 9, {BEGIN: EventRecord(4, A, 1, 0)})
    view = overview(super_block(), {slot: block if slot == 0 else QuorumBlock(FSID, slot) for slot in range(15)})
    assert view.problems == ("slot 0: its block was written 9 times, but its last event is 4",)


def test_for_programs() -> None:
    view = seen({1: [(BEGIN, B, 4), (TERM, B, 5), (ELECT, B, 5), (FENCE, B, 5)], 2: "broken"}, ADDRESSES).to_dict()
    assert json.loads(json.dumps(view)) == view
    leader = {"slot": 1, "term": 5, "rid": f"{B:016x}", "address": "10.0.0.1:4001"}
    assert view["server"] == leader
    assert view["to_fence"] == [leader]
    assert view["votes_needed"] == 2
    first, second, third = view["slots"]
    assert (first["state"], first["rid"], first["events"], first["write_nr"]) == ("unused", None, {}, 0)
    assert (second["state"], second["rid"], second["write_nr"]) == ("server", f"{B:016x}", 4)
    assert list(second["events"]) == ["begin", "term", "elect", "fence"]
    assert second["events"]["elect"]["term"] == 5
    assert second["events"]["elect"]["write_nr"] == 3
    assert (third["state"], third["error"], third["write_nr"]) == ("unreadable", "broken", None)


EVENTS = st.lists(st.tuples(st.sampled_from(Event), st.sampled_from([A, B, C, D]), st.integers(0, 9)), max_size=8)


@settings(deadline=None, max_examples=200)
@given(st.dictionaries(st.integers(0, 14), st.one_of(EVENTS, st.just("broken")), max_size=5))
def test_any_blocks(blocks: dict[int, list[tuple[Event, int, int]] | str]) -> None:
    view = seen(blocks)
    json.dumps(view.to_dict())
    for slot in view.slots:
        assert slot.text
    servers = [slot.slot for slot in view.slots if slot.state is SlotState.SERVER]
    assert servers == ([view.server.slot] if view.server else [])
    # every leader that may serve has to be fenced before another may
    assert view.server is None or view.server.rid in {leader.rid for leader in view.to_fence}
