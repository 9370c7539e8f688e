"""The fault scenarios of spec 02 §13.3, one test a row, under our rules; times are those of the spec where it has some.

Rows that are not here need a kernel, real sockets or clients, and are tested elsewhere:

* "non-member killed": clients are no part of an election (`tests/mounted`, `tests/server/test_clients.py`);
* "duplicate slot, same host": bind() refuses (`tests/quorum/test_link.py`);
* the farewell rules of "unmount of leader", the reclaim of "leader killed" and "all members killed"
  (`tests/server`, `tests/mounted`);
* EINTR of "interrupt of a waiting mount" (`tests/mount`); what it leaves on disk is here.

Every test asserts all invariants after each step as well: the cluster does.
"""

from __future__ import annotations

from itertools import pairwise

import pytest

from format.message import MessageType
from format.quorum import Event
from scoutfs.quorum.election import ServerStatus
from scoutfs.quorum.status import Role
from scoutfs.simulation.cluster import Fencing, links_between
from scoutfs.simulation.faults import Kind
from scoutfs.simulation.server import FENCE_WAIT
from tests.simulation.scene import Scene

pytestmark = pytest.mark.parametrize("seed", range(8))

HEARTBEAT_TIMEOUT = 10.0
FAILOVER = (HEARTBEAT_TIMEOUT - 0.1, HEARTBEAT_TIMEOUT + 0.9)
"""Seconds from the last heartbeat until another leads: spec 02 §12.2 has 9.91 to 10.60; ours adds up to 150 ms of
jitter and a look at the blocks."""

LOOK = 1.1
"""Seconds in which a leader sees what another slot recorded: a look each second, and what it takes."""


def assert_between(value: float, limits: tuple[float, float]) -> None:
    assert limits[0] <= value <= limits[1]


def test_leader_killed(seed: int) -> None:
    scene = Scene(seed)
    old = scene.lead()
    scene.fault(Kind.CRASH, old.slot)
    assert_between(scene.until_other_leads(old, 20.0), FAILOVER)
    (new,) = scene.leaders
    assert old.term < new.term <= old.term + 2
    scene.until_other_serves(old, FENCE_WAIT)
    assert new.server.fenced == {old.rid}
    scene.run(0.1)
    assert scene.block(new).event(Event.FENCE).term == new.term
    left = scene.block(old)
    assert left.event(Event.ELECT).term == old.term > left.event(Event.STOP).term
    assert left.event(Event.BEGIN).write_nr > left.event(Event.END).write_nr


def test_follower_killed(seed: int) -> None:
    scene = Scene(seed)
    leader = scene.lead()
    dead, other = scene.followers()
    scene.fault(Kind.CRASH, dead.slot)
    scene.run(60.0)
    assert scene.serving_leader is leader
    assert scene.elections == 1
    assert scene.block(dead).event(Event.BEGIN).write_nr > scene.block(dead).event(Event.END).write_nr
    back = scene.start(dead.slot)
    scene.run(30.0)
    assert scene.serving_leader is leader
    assert back.role is other.role is Role.FOLLOWER


def test_leader_paused_and_fenced_never_resumes(seed: int) -> None:
    scene = Scene(seed)
    old = scene.lead()
    scene.fault(Kind.PAUSE, old.slot, 30.0)
    assert_between(scene.until_other_leads(old, 20.0), FAILOVER)
    scene.run(FENCE_WAIT)
    assert not old.alive
    assert scene.serving_leader not in (None, old)


def test_leader_paused_and_not_fenced_stops_as_soon_as_it_resumes(seed: int) -> None:
    scene = Scene(seed)
    old = scene.lead()
    term = old.term
    for slot in scene.slots:
        scene.fault(Kind.FENCE_ABSENT, slot)
    scene.fault(Kind.PAUSE, old.slot, 30.0)
    scene.run(29.99)
    assert old.server.status is ServerStatus.UP
    scene.run(0.02)
    assert old.server.status in (ServerStatus.STOPPING, ServerStatus.DOWN)
    assert old.role is Role.FOLLOWER
    assert old.term > term
    scene.until(lambda: scene.has_stopped(old, term), 0.5)


def test_follower_paused(seed: int) -> None:
    scene = Scene(seed)
    leader = scene.lead()
    paused, _ = scene.followers()
    scene.fault(Kind.PAUSE, paused.slot, 30.0)
    scene.run(90.0)
    assert scene.serving_leader is leader
    assert scene.elections == 1
    assert (paused.role, paused.term) == (Role.FOLLOWER, leader.term)


def test_leader_cut_off_steps_down_before_it_is_reached_again(seed: int) -> None:
    """The original goes on until the cut heals; a look at the blocks ends it about a second after the new ELECT."""
    scene = Scene(seed)
    old = scene.lead()
    term = old.term
    for slot in scene.slots:
        scene.fencing[slot] = Fencing.ABSENT
    scene.fault(Kind.ISOLATE, old.slot, 60.0)
    assert_between(scene.until_other_leads(old, 20.0), FAILOVER)
    (new,) = (leader for leader in scene.leaders if leader is not old)
    assert term < new.term <= term + 2
    scene.until(lambda: scene.has_stopped(old, term), LOOK + 0.5)
    # It has recorded STOP, so it need not be fenced: the new server waits for that a moment, or else for its agent.
    for slot in scene.slots:
        scene.fencing[slot] = Fencing.WORKS
    scene.until_other_serves(old, 2 * FENCE_WAIT)
    scene.settle()


def test_leader_cut_off_is_fenced_by_the_majority(seed: int) -> None:
    scene = Scene(seed)
    old = scene.lead()
    scene.fault(Kind.ISOLATE, old.slot, 60.0)
    new = scene.until_other_serves(old, FAILOVER[1] + FENCE_WAIT)
    assert not old.alive or scene.has_stopped(old, scene.block(old).event(Event.ELECT).term)
    scene.run(30.0)
    assert scene.serving_leader is new


def test_follower_cut_off_does_not_depose_the_leader_when_it_returns(seed: int) -> None:
    """The original's raises its term 3.4 times a second and deposes the leader (W8)."""
    scene = Scene(seed)
    leader = scene.lead()
    term = leader.term
    isolated, _ = scene.followers()
    scene.fault(Kind.ISOLATE, isolated.slot, 60.0)
    scene.run(59.0)
    assert scene.serving_leader is leader
    assert isolated.role is Role.CANDIDATE
    assert isolated.term == term + 1
    scene.run(40.0)
    assert scene.serving_leader is leader
    assert leader.term == term
    assert isolated.role is Role.FOLLOWER
    assert scene.elections == 1


def test_minority_of_five_never_leads(seed: int) -> None:
    scene = Scene(seed, members=5)
    leader = scene.lead()
    minority = [member for member in scene.members.values() if member is not leader][:2]
    links = links_between((m.slot for m in minority), (s for s in scene.slots if s not in [m.slot for m in minority]))
    scene.network.cut(links)
    scene.run(60.0)
    assert scene.serving_leader is leader
    assert scene.elections == 1
    assert all(member.role is not Role.LEADER for member in minority)
    scene.network.mend(links)
    scene.run(30.0)
    assert scene.serving_leader is leader


def test_majority_of_five_replaces_the_leader_of_the_minority(seed: int) -> None:
    scene = Scene(seed, members=5)
    old = scene.lead()
    minority = (old.slot, scene.followers()[0].slot)
    links = links_between(minority, (slot for slot in scene.slots if slot not in minority))
    scene.network.cut(links)
    assert_between(scene.until_other_leads(old, 20.0), FAILOVER)
    new = scene.until_other_serves(old, FENCE_WAIT)
    assert new.slot not in minority
    scene.run(LOOK)
    assert scene.leaders == [new]
    scene.network.mend(links)
    scene.run(30.0)
    assert scene.serving_leader is new


def test_two_slots_split_leave_one_server(seed: int) -> None:
    scene = Scene(seed, members=2)
    old = scene.lead()
    scene.fault(Kind.SPLIT, 1, 120.0)
    begun = scene.now
    new = scene.until_other_serves(old, FAILOVER[1] + FENCE_WAIT)
    assert new.term == old.term + 1 or not old.alive
    assert scene.servers == [new]
    scene.run(100.0 - (scene.now - begun))
    assert len(scene.servers) == 1
    scene.settle()


def test_two_slots_that_start_at_once_unheard_leave_one_server(seed: int) -> None:
    """Both may lead the same term: one is fenced, and neither is silenced by the other's heartbeat (W9)."""
    scene = Scene(seed, members=2)
    scene.fault(Kind.SPLIT, 1, 0.37)
    scene.start_all()
    scene.run(0.365)
    assert scene.leaders
    scene.until(lambda: scene.serving_leader is not None, HEARTBEAT_TIMEOUT)
    scene.run(5.0)
    assert len(scene.servers) == 1
    leader = scene.serving_leader
    assert leader is not None
    since = scene.now
    scene.run(1.0)
    assert len(scene.texts(leader.slot, "beat", since)) >= 9
    scene.settle()


def test_own_block_unreadable_ends_a_follower_at_its_next_update(seed: int) -> None:
    scene = Scene(seed, members=5)
    old = scene.lead()
    blind = scene.followers()[0]
    scene.fault(Kind.READ_ERROR, blind.slot, peer=blind.slot)
    scene.run(30.0)
    assert scene.serving_leader is old
    assert blind.participates
    scene.fault(Kind.CRASH, old.slot)
    new = scene.until_other_serves(old, FAILOVER[1] + FENCE_WAIT)
    assert new is not blind
    assert not blind.participates
    assert any("read error while recording TERM" in text for text in scene.texts(blind.slot, "log"))


def test_own_block_unreadable_ends_a_leader_and_its_server_first(seed: int) -> None:
    """The original's server goes on alone until it is fenced (W6)."""
    scene = Scene(seed)
    scene.start_all()
    scene.until(lambda: bool(scene.servers), 5.0)
    (leader,) = scene.servers
    scene.fault(Kind.READ_ERROR, leader.slot, peer=leader.slot)
    scene.run(0.05)
    assert any("while recording FENCE" in text for text in scene.texts(leader.slot, "log"))
    assert not leader.participates
    assert leader.server.status is not ServerStatus.UP
    new = scene.until_other_serves(leader, FAILOVER[1] + FENCE_WAIT)
    assert scene.leaders == [new]


def test_block_of_another_slot_unreadable_leaves_running_agents_alone(seed: int) -> None:
    scene = Scene(seed)
    leader = scene.lead()
    for follower in scene.followers():
        scene.fault(Kind.READ_ERROR, follower.slot, peer=leader.slot)
        scene.fault(Kind.READ_ERROR, leader.slot, peer=follower.slot)
    scene.run(60.0)
    assert scene.serving_leader is leader
    assert scene.elections == 1


def test_block_of_another_slot_unreadable_at_the_start_is_skipped(seed: int) -> None:
    scene = Scene(seed)
    leader = scene.lead()
    again, _ = scene.followers()
    scene.fault(Kind.CRASH, again.slot)
    scene.fault(Kind.READ_ERROR, again.slot, peer=leader.slot)
    back = scene.start(again.slot)
    scene.run(30.0)
    assert scene.serving_leader is leader
    assert back.participates
    assert back.role is Role.FOLLOWER


def test_block_of_another_slot_unreadable_fails_every_server_start(seed: int) -> None:
    scene = Scene(seed)
    old = scene.lead()
    blind, sighted = scene.followers()
    scene.fault(Kind.READ_ERROR, blind.slot, peer=old.slot)
    scene.fault(Kind.CRASH, old.slot)
    new = scene.until_other_serves(old, 60.0)
    assert new is sighted
    assert "is UP" not in " ".join(scene.texts(blind.slot, "server"))


def test_write_error_in_the_middle_of_an_election_ends_the_agent(seed: int) -> None:
    scene = Scene(seed)
    scene.start_all()
    scene.until(lambda: any(m.role is Role.CANDIDATE for m in scene.members.values()), 1.0)
    broken = next(m for m in scene.members.values() if m.role is Role.CANDIDATE)
    scene.fault(Kind.WRITE_ERROR, broken.slot)
    # If it has said that it leads before ELECT failed, the others wait for its heartbeats.
    scene.until(lambda: scene.serving_leader is not None, FAILOVER[1] + FENCE_WAIT)
    assert scene.serving_leader is not broken
    assert not broken.participates
    assert any("This mount no longer takes part in quorum" in text for text in scene.texts(broken.slot, "log"))


def test_slot_of_a_leader_taken_on_another_host(seed: int) -> None:
    """The look at the blocks finds it, so that it does not take until the next election."""
    scene = Scene(seed)
    first = scene.lead()
    scene.fault(Kind.REPLACE, first.slot, 1.0)
    second = scene.members[first.slot]
    assert second is not first
    scene.until(lambda: first.election is not None and first.election.finished, 1.0 + LOOK)
    assert any("two mounts with one slot" in text for text in scene.texts(first.slot, "log"))
    scene.until(lambda: first.server.status is ServerStatus.DOWN, 0.5)
    scene.until(lambda: scene.serving_leader is not None, FAILOVER[1] + FENCE_WAIT)
    assert second.participates


def test_slot_of_a_follower_taken_on_another_host(seed: int) -> None:
    """Nothing happens until the first mount must write or stand: then it leaves."""
    scene = Scene(seed)
    leader = scene.lead()
    first, _ = scene.followers()
    scene.fault(Kind.REPLACE, first.slot, 1.0)
    scene.until(lambda: first.election is not None and first.election.finished, FAILOVER[1] + 1.0)
    assert any("two mounts with one slot" in text for text in scene.texts(first.slot, "log"))
    assert scene.serving_leader is leader
    assert scene.elections == 1


def test_clocks_of_hosts_have_nothing_to_do_with_each_other(seed: int) -> None:
    """They differ by up to 11 days, and run up to 0.1 % too fast or too slow."""
    scene = Scene(seed, clock_drift=0.001)
    leader = scene.lead()
    scene.run(120.0)
    assert scene.serving_leader is leader
    scene.fault(Kind.CRASH, leader.slot)
    assert_between(scene.until_other_leads(leader, 20.0), FAILOVER)


@pytest.mark.parametrize("heartbeat_timeout", [2.0, 10.0])
def test_loss_of_30_percent_makes_no_election(seed: int, heartbeat_timeout: float) -> None:
    scene = Scene(seed, heartbeat_timeout=heartbeat_timeout)
    leader = scene.lead()
    scene.fault(Kind.LOSS, amount=0.3)
    scene.run(600.0)
    assert scene.serving_leader is leader
    assert scene.elections == 1


def test_loss_of_30_percent_lengthens_elections(seed: int) -> None:
    """Of 2000 first elections the longest took 1.42 s (spec 02 §12.1)."""
    scene = Scene(seed)
    scene.fault(Kind.LOSS, amount=0.3)
    scene.start_all()
    assert_between(scene.until(lambda: bool(scene.leaders), 10.0), (0.25, 2.0))


def test_datagrams_that_arrive_twice_count_once(seed: int) -> None:
    scene = Scene(seed)
    scene.fault(Kind.DUPLICATION, amount=1.0)
    leader = scene.lead()
    assert leader.term <= 3
    warnings = [text for text in scene.texts(leader.slot, "log") if "second vote" in text]
    followers_warned = [text for m in scene.followers() for text in scene.texts(m.slot, "log") if "second" in text]
    assert len(warnings) <= 2
    assert followers_warned == []
    scene.run(60.0)
    assert scene.serving_leader is leader
    assert len(scene.texts(leader.slot, "role")) == 2
    scene.fault(Kind.UNMOUNT, leader.slot)
    assert_between(scene.until_other_leads(leader, 15.0), (0.25, FAILOVER[1]))


def test_a_vote_that_arrives_twice_is_reported_and_no_majority(seed: int) -> None:
    scene = Scene(seed, members=5)
    scene.fault(Kind.DUPLICATION, amount=1.0)
    scene.start_all()
    for slot in (2, 3, 4):
        scene.fault(Kind.ISOLATE, slot)
    scene.run(30.0)
    assert scene.leaders == []


def test_datagrams_that_are_overtaken(seed: int) -> None:
    """A heartbeat that comes after its leader's resignation makes a follower wait for a heartbeat timeout."""
    scene = Scene(seed)
    leader = scene.lead()
    scene.fault(Kind.REORDERING, amount=1.0)
    scene.run(60.0)
    assert scene.serving_leader is leader
    assert scene.elections == 1
    scene.fault(Kind.UNMOUNT, leader.slot)
    assert_between(scene.until_other_leads(leader, 15.0), (0.25, FAILOVER[1]))


def test_datagrams_that_are_corrupt_are_as_good_as_lost(seed: int) -> None:
    """Nobody hears anybody: followers stand in vain, and nothing happens to the leader, then or later.

    They see each other's terms on the disk, and outbid each other with delays up to 5 s.
    """
    scene = Scene(seed)
    leader = scene.lead()
    term = leader.term
    scene.fault(Kind.CORRUPTION, seconds=60.0, amount=1.0)
    scene.run(59.0)
    assert scene.serving_leader is leader
    assert all(member.role is Role.CANDIDATE for member in scene.followers())
    assert max(member.term for member in scene.followers()) <= term + 30
    scene.run(40.0)
    assert scene.elections == 1
    assert scene.serving_leader is leader


@pytest.mark.parametrize("kind", MessageType)
def test_forged_absurd_term_is_refused(seed: int, kind: MessageType) -> None:
    scene = Scene(seed)
    leader = scene.lead()
    term = leader.term
    scene.forge(kind, 2**64 - 1, scene.followers()[0].slot)
    scene.run(30.0)
    assert scene.serving_leader is leader
    assert all(member.term == term for member in scene.members.values())


def test_forged_vote_request_does_not_depose_a_healthy_leader(seed: int) -> None:
    scene = Scene(seed)
    leader = scene.lead()
    scene.forge(MessageType.REQUEST_VOTE, leader.term + 5, scene.followers()[0].slot)
    scene.run(30.0)
    assert scene.serving_leader is leader
    assert scene.elections == 1


def test_forged_heartbeat_deposes_the_leader_and_another_follows(seed: int) -> None:
    """Whoever can send from a slot's address can do that; the shell refuses other addresses (W13)."""
    scene = Scene(seed)
    leader = scene.lead()
    term = leader.term
    scene.forge(MessageType.HEARTBEAT, term + 1, scene.followers()[0].slot)
    assert leader.role is Role.FOLLOWER
    scene.until(lambda: scene.has_stopped(leader, term), 0.5)
    assert_between(scene.until(lambda: scene.serving_leader is not None, 30.0), (9.0, FAILOVER[1] + FENCE_WAIT))


def test_fence_agent_absent_lets_every_server_start_fail(seed: int) -> None:
    """One attempt each 15.3 to 15.7 s (spec 02 §12.5), and ours gives a living leader half a second to stop."""
    scene = Scene(seed)
    old = scene.lead()
    for slot in scene.slots:
        scene.fencing[slot] = Fencing.ABSENT
    scene.fault(Kind.CRASH, old.slot)
    scene.run(100.0)
    starts = [line.time for line in scene.lines if line.text.endswith("is STARTING") and line.time > FAILOVER[0]]
    assert len(starts) >= 5
    for earlier, later in pairwise(starts):
        assert_between(later - earlier, (FENCE_WAIT + 0.25, FENCE_WAIT + 2.0))
    assert scene.servers == []
    for slot in scene.slots:
        scene.fencing[slot] = Fencing.WORKS
    new = scene.until_other_serves(old, 2 * FENCE_WAIT)
    assert old.rid in new.server.fenced


def test_fence_command_that_lies_about_a_running_leader_is_survived(seed: int) -> None:
    """Nothing detects the lie, but a leader that runs stops by itself: two servers for no longer than a look."""
    scene = Scene(seed)
    old = scene.lead()
    for slot in scene.slots:
        scene.fencing[slot] = Fencing.LIES
    scene.fault(Kind.ISOLATE, old.slot, 60.0)
    scene.until_other_leads(old, 20.0)
    scene.until(lambda: old.server.status is not ServerStatus.UP, LOOK)
    scene.until_other_serves(old, FENCE_WAIT)
    assert old.alive


def test_fence_command_that_lies_about_a_paused_leader_gives_two_servers(seed: int) -> None:
    """Until it goes on; assumption A3 is that this does not happen."""
    scene = Scene(seed)
    old = scene.lead()
    for slot in scene.slots:
        scene.fencing[slot] = Fencing.LIES
    scene.fault(Kind.PAUSE, old.slot, 30.0)
    new = scene.until_other_serves(old, 30.0)
    assert old.rid in new.server.fenced
    assert set(scene.servers) == {old, new}
    scene.until(lambda: scene.servers == [new], 30.0)
    assert old.role is Role.FOLLOWER


def test_unmount_of_the_leader(seed: int) -> None:
    """About 0.3 s (spec 02 §12.3: p50 284, p99 352 ms from the resignation), and nobody is fenced."""
    scene = Scene(seed)
    old = scene.lead()
    term, block = old.term, scene.block(old)
    since = scene.now
    scene.fault(Kind.UNMOUNT, old.slot)
    assert_between(scene.until_other_leads(old, 20.0), (0.25, 1.5))
    new = scene.until_other_serves(old, 1.0)
    assert new.server.fenced == set()
    assert scene.has_stopped(old, term)
    told = scene.texts(old.slot, "write", since) + scene.texts(old.slot, "send", since)
    assert f"writes STOP {term}" in told
    assert any(text.startswith(f"sends RESIGNATION {term}") for text in told)
    after = scene.block(old)
    assert block.write_nr < after.event(Event.STOP).write_nr < after.event(Event.END).write_nr


def test_forced_unmount_of_the_leader(seed: int) -> None:
    scene = Scene(seed)
    old = scene.lead()
    block, since = scene.block(old), scene.now
    scene.fault(Kind.FORCE_UNMOUNT, old.slot)
    assert_between(scene.until_other_leads(old, 20.0), FAILOVER)
    new = scene.until_other_serves(old, FENCE_WAIT)
    assert new.server.fenced == {old.rid}
    assert scene.block(old) == block
    assert scene.texts(old.slot, "send", since) + scene.texts(old.slot, "beat", since) == []


def test_all_members_killed_then_mounted_again(seed: int) -> None:
    scene = Scene(seed)
    old = scene.lead()
    for slot in scene.slots:
        scene.fault(Kind.CRASH, slot)
    scene.run(5.0)
    scene.start_all()
    scene.until(lambda: scene.serving_leader is not None, FAILOVER[1] + FENCE_WAIT)
    new = scene.serving_leader
    assert new is not None
    assert new.server.fenced == {old.rid}
    assert new.term > old.term
    scene.settle()


def test_interrupt_of_a_waiting_mount(seed: int) -> None:
    """Like a forced unmount: BEGIN without END, and nobody is hindered by it."""
    scene = Scene(seed)
    scene.start_all()
    scene.run(0.1)
    interrupted = scene.members[seed % 3]
    scene.fault(Kind.FORCE_UNMOUNT, interrupted.slot)
    block = scene.block(interrupted)
    assert block.event(Event.BEGIN).write_nr > block.event(Event.END).write_nr
    assert_between(scene.until(lambda: scene.serving_leader is not None, 5.0), (0.1, 2.0))
    scene.settle()
