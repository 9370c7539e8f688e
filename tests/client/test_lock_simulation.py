"""Locks of mounts and servers together, in every order that a seed brings about."""

from __future__ import annotations

import pytest

from tests.client.lock_world import World


@pytest.mark.parametrize("seed", range(25))
def test_tasks_get_their_locks_and_nobody_else_has_them(seed: int) -> None:
    world = World(seed)
    world.run(60)
    assert world.done == 60


@pytest.mark.parametrize("seed", range(25))
def test_one_lock_that_everybody_wants(seed: int) -> None:
    world = World(seed, mounts=5, names=1)
    world.run(60)
    assert world.done == 60


@pytest.mark.parametrize("seed", range(25))
def test_servers_change_while_locks_change_hands(seed: int) -> None:
    world = World(seed, names=3)
    world.run(60, restarts=0.02)
    assert world.done == 60


@pytest.mark.parametrize("seed", range(25))
def test_unused_locks_are_given_back_all_the_time(seed: int) -> None:
    world = World(seed, idle_count=1)
    world.run(60, restarts=0.01)
    assert world.done == 60


@pytest.mark.parametrize("seed", range(25))
def test_mounts_die_and_the_others_go_on(seed: int) -> None:
    world = World(seed, mounts=5, names=3)
    world.run(60, restarts=0.01, deaths=0.005)
