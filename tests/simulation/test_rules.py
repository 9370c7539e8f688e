"""Each rule of ours in a cluster: the fault that it prevents shows without it, and does not with it.

`docs/decisions/election-rules.md` explains the rules.  A scenario returns whether the fault shows; one that violates an
invariant shows it, too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from format.message import Message, MessageType
from format.quorum import Event
from scoutfs.quorum.actions import ORIGINAL_RULES, STRICT_RULES, Rules
from scoutfs.quorum.election import ServerStatus
from scoutfs.quorum.status import Role
from scoutfs.simulation.cluster import Fencing, links_between
from scoutfs.simulation.faults import Kind
from scoutfs.simulation.invariants import Violation
from scoutfs.simulation.measure import isolation_return
from scoutfs.simulation.server import STRICT_SERVER_RULES, ServerRules
from tests.simulation.scene import Scene

Scenario = Callable[..., bool]
SEEDS = range(12)
EVERY, SOME = 1.0, 1 / len(SEEDS)

SCENARIOS: dict[str, tuple[Scenario, float, float]] = {}
"""By rule: its scenario, the least share of seeds that show the fault without the rule, and the greatest with it."""


def scenario(rule: str, without: float = EVERY, with_it: float = 0.0) -> Callable[[Scenario], Scenario]:
    def register(function: Scenario) -> Scenario:
        SCENARIOS[rule] = (function, without, with_it)
        return function

    return register


def share_that_shows(function: Scenario, **rules: Any) -> float:
    shown = 0
    for seed in SEEDS:
        try:
            shown += function(seed, **rules)
        except Violation:
            shown += 1
    return shown / len(SEEDS)


def rules_without(name: str) -> dict[str, Any]:
    """The rules of a ClusterConfig without one of ours."""
    if name in Rules._fields:
        return {"rules": STRICT_RULES._replace(**{name: False})}
    return {"server_rules": STRICT_SERVER_RULES._replace(**{name: False})}


@pytest.mark.parametrize("rule", [*Rules._fields, *ServerRules._fields])
def test_without_the_rule_the_fault_shows_and_with_it_it_does_not(rule: str) -> None:
    function, least, most = SCENARIOS[rule]
    assert share_that_shows(function) <= most
    assert share_that_shows(function, **rules_without(rule)) >= least


# -- two candidates of one term ----------------------------------------------------------------------------------------


def two_candidates(seed: int, *, voter: bool = True, **config: Any) -> Scene:
    """Slots 0 and 1 ask for votes of term 1 at once: their disks stall while they read the blocks; no datagram arrives.

    The third, if it is a voter, stands still until 0.6 s.
    """
    scene = Scene(seed, **config)
    scene.start_all() if voter else [scene.start(slot) for slot in (0, 1)]
    scene.run(0.2)
    scene.network.hold(links_between(scene.slots, scene.slots))
    for slot in (0, 1):
        scene.fault(Kind.STALLED_DISK, slot, 0.3)
    if voter and len(scene.slots) > 2:
        scene.fault(Kind.PAUSE, 2, 0.4)
    scene.run(0.32)
    return scene


def deliver(scene: Scene, kind: MessageType, source: int, destination: int) -> None:
    """Let a message that waits arrive."""
    message = next(m for s, d, m in scene.network.waiting if (s, d, m.type) == (source, destination, kind))
    scene.network.arrive(destination, message)


@scenario("abstain_in_start_term")
def a_voter_that_restarts_within_a_term_gives_a_second_leader(seed: int, **config: Any) -> bool:
    scene = two_candidates(seed, **config)
    deliver(scene, MessageType.REQUEST_VOTE, 0, 2)
    scene.run(0.1)
    deliver(scene, MessageType.VOTE, 2, 0)
    scene.members[2].crash()
    scene.start(2)
    scene.run(0.02)
    deliver(scene, MessageType.REQUEST_VOTE, 1, 2)
    scene.run(0.02)
    for source, destination, message in scene.network.waiting:
        if message == Message(1, MessageType.VOTE, 2) and destination == 1:
            scene.network.arrive(destination, message)
            assert source == 2
    scene.run(0.02)
    assert scene.members[0] in scene.leaders
    return [leader.term for leader in scene.leaders] == [1, 1]


@scenario("keep_vote_after_resigning")
def a_leader_whose_server_failed_gives_its_term_a_second_leader(seed: int, **config: Any) -> bool:
    scene = two_candidates(seed, **config)
    deliver(scene, MessageType.REQUEST_VOTE, 0, 2)
    scene.run(0.1)
    deliver(scene, MessageType.VOTE, 2, 0)
    first, rival = scene.members[0], scene.members[1]
    scene.until(lambda: first.server.status is ServerStatus.UP, 0.5)
    assert (first.role, first.term) == (Role.LEADER, 1)
    scene.fault(Kind.SERVER_FAILURE, 0)
    scene.until(lambda: first.role is Role.FOLLOWER, 0.5)
    deliver(scene, MessageType.REQUEST_VOTE, 1, 0)
    scene.run(0.01)
    for _, destination, message in scene.network.waiting:
        if message == Message(1, MessageType.VOTE, 0):
            scene.network.arrive(destination, message)
    scene.run(0.01)
    return rival.role is Role.LEADER and rival.term == 1


@scenario("yield_before_requesting")
def two_that_expire_within_one_disk_write_split_the_vote(seed: int, **config: Any) -> bool:
    """Of three slots two are mounted: each needs the other's vote."""
    scene = Scene(seed, **config)
    for slot in (0, 1):
        scene.start(slot)
    scene.run(0.2)
    for slot in (0, 1):
        scene.fault(Kind.STALLED_DISK, slot, 0.3)
    scene.run(0.2999)
    scene.paths[1].slowness = 20.0
    scene.until(lambda: bool(scene.leaders), 5.0)
    return scene.leaders[0].term > 1


@scenario("follow_the_winner")
def a_losing_candidate_misses_the_end_of_the_winner(seed: int, **config: Any) -> bool:
    scene = two_candidates(seed, **config)
    deliver(scene, MessageType.REQUEST_VOTE, 0, 2)
    scene.run(0.1)
    deliver(scene, MessageType.VOTE, 2, 0)
    scene.network.hold(())
    winner, loser = scene.members[0], scene.members[1]
    scene.until(lambda: scene.serving_leader is winner, 1.0)
    scene.run(0.2)
    assert winner.term == loser.term == 1
    since = scene.now
    scene.fault(Kind.PAUSE, 2, 8.0)
    scene.fault(Kind.UNMOUNT, 0)
    scene.run(2.0)
    return not any(text.startswith("sends REQUEST_VOTE") for text in scene.texts(1, "send", since))


@scenario("ignore_rival_heartbeat")
def two_leaders_of_one_term_silence_each_other(seed: int, **config: Any) -> bool:
    scene = two_candidates(seed, members=2, **config)
    for slot in scene.slots:
        scene.fencing[slot] = Fencing.ABSENT
    scene.run(0.1)
    assert [leader.term for leader in scene.leaders] == [1, 1]
    scene.network.hold(())
    scene.run(1.0)
    since = scene.now
    scene.run(2.0)
    assert len(scene.leaders) == 2
    return any(len(scene.texts(slot, "beat", since)) < 10 for slot in scene.slots)


# -- restarts ----------------------------------------------------------------------------------------------------------


@scenario("persist_before_sending", SOME)
def a_candidate_that_dies_asks_for_votes_of_the_same_term_again(seed: int, **config: Any) -> bool:
    scene = Scene(seed, **config)
    for asked in (2, 4):
        scene.start(0)
        scene.until(lambda number=asked: len(scene.texts(0, "send")) == number, 1.0)  # type: ignore[misc]
        scene.fault(Kind.CRASH, 0)
    requests = [text for text in scene.texts(0, "send") if text.endswith("to 1")]
    return requests == ["sends REQUEST_VOTE 1 to 1"] * 2


def new_mount_of_an_unfenced_leaders_slot(seed: int, **config: Any) -> bool:
    """A leader stands still before its FENCE; its slot is mounted elsewhere, elected, and must have it fenced."""
    scene = Scene(seed, **config)
    scene.start_all()
    scene.until(lambda: bool(scene.servers), 5.0)
    (old,) = scene.servers
    old.pause(60.0)
    new = scene.start(old.slot)
    scene.until(lambda: new.server.status is ServerStatus.UP, 30.0)
    return old.rid not in new.server.fenced


SCENARIOS["remember_overwritten_leader"] = (new_mount_of_an_unfenced_leaders_slot, EVERY, 0.0)
SCENARIOS["fence_overwritten_leader"] = (new_mount_of_an_unfenced_leaders_slot, EVERY, 0.0)


@scenario("stand_at_once_after_own_death")
def a_killed_leader_waits_for_itself(seed: int, **config: Any) -> bool:
    scene = Scene(seed, members=1, **config)
    leader = scene.lead()
    scene.fault(Kind.CRASH, leader.slot)
    scene.start(leader.slot)
    return scene.until(lambda: bool(scene.leaders), 15.0) > 1.0


@scenario("wait_for_server_when_leaving")
def a_leader_that_leaves_while_its_server_stops_is_fenced(seed: int, **config: Any) -> bool:
    scene = Scene(seed, **config)
    old = scene.lead()
    scene.fault(Kind.SERVER_FAILURE, old.slot)
    scene.run(0.0005)
    scene.fault(Kind.UNMOUNT, old.slot)
    return old.rid in scene.until_other_serves(old, 20.0).server.fenced


# -- isolated members --------------------------------------------------------------------------------------------------


@scenario("read_before_standing")
def an_isolated_member_stands_in_a_term_that_is_over(seed: int, **config: Any) -> bool:
    scene = Scene(seed, **config)
    scene.lead()
    isolated = scene.followers()[0]
    scene.fault(Kind.ISOLATE, isolated.slot)
    for _ in range(3):
        scene.run(1.0)
        leader = scene.serving_leader
        assert leader is not None
        scene.fault(Kind.SERVER_FAILURE, leader.slot)
        scene.run(0.3)
        scene.until(lambda: scene.serving_leader is not None, 5.0)
    led = max(leader.term for leader in scene.leaders)
    scene.until(lambda: isolated.role is Role.CANDIDATE, 15.0)
    return isolated.term <= led


def isolate_a_follower(seed: int, seconds: float, **config: Any) -> tuple[Scene, Any, Any]:
    scene = Scene(seed, **config)
    leader = scene.lead()
    isolated = scene.followers()[0]
    scene.fault(Kind.ISOLATE, isolated.slot, seconds)
    scene.run(seconds)
    return scene, leader, isolated


@scenario("defer_to_heard_leader")
def a_returning_member_never_follows_a_leader_of_a_smaller_term(seed: int, **config: Any) -> bool:
    scene, leader, isolated = isolate_a_follower(seed, 30.0, **config)
    scene.run(10.0)
    return not (scene.serving_leader is leader and isolated.role is Role.FOLLOWER)


@scenario("repeat_request_while_isolated")
def an_isolated_member_raises_its_term_all_the_time(seed: int, **config: Any) -> bool:
    _, leader, isolated = isolate_a_follower(seed, 30.0, **config)
    return isolated.term > leader.term + 50


@scenario("decline_while_led")
def a_late_request_of_a_returning_member_deposes_a_healthy_leader(seed: int, **config: Any) -> bool:
    scene = Scene(seed, **config)
    leader = scene.lead()
    isolated = scene.followers()[0]
    scene.network.hold(links_between((isolated.slot,), scene.slots))
    scene.run(12.0)
    for slot in scene.slots:
        if slot != isolated.slot:
            deliver(scene, MessageType.REQUEST_VOTE, isolated.slot, slot)
    scene.network.hold(())
    scene.run(15.0)
    return scene.elections > 1 or scene.serving_leader is not leader


@scenario("watch_blocks_while_leading")
def an_isolated_leader_serves_until_it_is_fenced(seed: int, **config: Any) -> bool:
    scene = Scene(seed, **config)
    old = scene.lead()
    for slot in scene.slots:
        scene.fencing[slot] = Fencing.ABSENT
    scene.fault(Kind.ISOLATE, old.slot)
    scene.until_other_leads(old, 20.0)
    scene.run(5.0)
    return old.role is Role.LEADER and old.server.status is ServerStatus.UP


@scenario("jitter_heartbeat_timeout", 0.8, 0.3)
def all_followers_stand_at_once_after_the_death_of_their_leader(seed: int, **config: Any) -> bool:
    """With jitter only those do that draw timeouts within a disk write of each other, about one pair in eight."""
    scene = Scene(seed, heartbeat_timeout=2.0, **config)
    old = scene.lead()
    since = scene.now
    scene.fault(Kind.CRASH, old.slot)
    scene.until_other_leads(old, 5.0)
    told = [text for slot in scene.slots for text in scene.texts(slot, "role", since)]
    return sum("candidate" in text for text in told) > 1


# -- errors and forgeries ----------------------------------------------------------------------------------------------


@scenario("stop_server_on_fatal_error")
def the_server_of_an_agent_that_gave_up_runs_on(seed: int, **config: Any) -> bool:
    scene = Scene(seed, **config)
    scene.start_all()
    scene.until(lambda: bool(scene.servers), 5.0)
    (leader,) = scene.servers
    scene.fault(Kind.READ_ERROR, leader.slot, peer=leader.slot)
    scene.run(2.0)
    assert not leader.participates
    return leader.server.status is ServerStatus.UP


@scenario("refuse_absurd_terms")
def one_forged_datagram_uses_up_all_terms(seed: int, **config: Any) -> bool:
    scene = Scene(seed, **config)
    leader = scene.lead()
    scene.forge(MessageType.HEARTBEAT, 2**64 - 1, scene.followers()[0].slot)
    return leader.term == 2**64 - 1 == max(block.greatest_term for block in scene.disk.blocks.values())


@scenario("ignore_own_slot")
def an_echo_takes_the_vote_of_a_member(seed: int, **config: Any) -> bool:
    scene = Scene(seed, **config)
    scene.start_all()
    scene.run(0.1)
    scene.network.arrive(0, Message(1, MessageType.REQUEST_VOTE, 0))
    scene.run(0.05)
    return scene.texts(0, "send") == ["sends VOTE 1 to 0"]


# -- servers -----------------------------------------------------------------------------------------------------------


@scenario("yield_to_later_leader", 0.5)
def a_leader_whose_disk_was_slow_serves_beside_a_later_one(seed: int, **config: Any) -> bool:
    """W2; its own look at the blocks would end it as well."""
    scene = Scene(seed, heartbeat_timeout=2.0, rules=STRICT_RULES._replace(watch_blocks_while_leading=False), **config)
    scene.start_all()
    scene.until(lambda: any(scene.texts(slot, "send") for slot in scene.slots), 5.0)
    slow = next(member for member in scene.members.values() if scene.texts(member.slot, "send"))
    scene.fault(Kind.STALLED_DISK, slow.slot, 12.0)
    scene.run(0.05)
    if scene.leaders != [slow]:
        return False
    scene.fault(Kind.ISOLATE, slow.slot)
    scene.run(11.0)
    assert len(scene.servers) == 1
    scene.run(5.0)
    return scene.block(slow).event(Event.FENCE).rid == slow.rid


@scenario("fence_error_is_failure")
def a_server_starts_although_the_paused_leader_cannot_be_fenced(seed: int, **config: Any) -> bool:
    """W3."""
    scene = Scene(seed, **config)
    old = scene.lead()
    for slot in scene.slots:
        scene.fencing[slot] = Fencing.FAILS
    scene.fault(Kind.PAUSE, old.slot, 40.0)
    scene.run(30.0)
    return len(scene.servers) > 1


@scenario("await_stop")
def a_leader_that_nobody_hears_is_fenced_although_it_stops(seed: int, **config: Any) -> bool:
    """It hears its successor at once, and its server is down long before half a second has passed."""
    scene = Scene(seed, **config)
    old = scene.lead()
    scene.fault(Kind.MUTE, old.slot)
    scene.until_other_serves(old, 30.0)
    scene.run(5.0)
    return not old.alive


def test_every_rule_has_a_scenario() -> None:
    assert sorted(SCENARIOS) == sorted([*Rules._fields, *ServerRules._fields])


# -- all of them -------------------------------------------------------------------------------------------------------


def test_an_isolated_member_that_returns_deposes_the_originals_leader_and_never_ours() -> None:
    """W8; spec 02 §13.2 has 60 of 60 for the original."""
    seeds = range(50)
    assert sum(isolation_return(seed, rules=ORIGINAL_RULES) for seed in seeds) >= 48
    assert sum(isolation_return(seed) for seed in seeds) == 0
