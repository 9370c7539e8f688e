"""Every interleaving of three members over small terms: no term has two leaders, and no term goes back."""

from __future__ import annotations

import re

import pytest

from scoutfs.quorum.actions import STRICT_RULES
from scoutfs.quorum.election import Election
from scoutfs.simulation.search import Bounds, search

STEP = re.compile(
    r"slot [0-2] (its (timer fires|server fails)|dies|mounts again"
    r"|receives (REQUEST_VOTE|VOTE|HEARTBEAT|RESIGNATION) \d of slot [0-2]"
    r"|(dies, )?(BEGIN|TERM|ELECT|FENCE|STOP|END) \d is on disk)"
)


def assert_is_readable(path: tuple[str, ...], violation: str) -> None:
    *steps, last = path
    assert all(STEP.fullmatch(step) for step in steps)
    assert last.endswith(f": {violation}")
    assert STEP.fullmatch(last.removesuffix(f": {violation}"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "bounds",
    [
        pytest.param(Bounds(term=2, deaths=2, restarts=1, server_ends=0), id="two-die-and-one-returns"),
        pytest.param(Bounds(term=2, deaths=1, restarts=1, server_ends=1), id="one-returns-and-a-server-fails"),
        pytest.param(Bounds(term=3, deaths=0, restarts=0, server_ends=0), id="three-terms"),
    ],
)
def test_no_interleaving_gives_two_leaders_of_a_term_or_takes_a_term_back(bounds: Bounds) -> None:
    result = search(bounds=bounds)
    assert result.violation is None, "\n".join(result.path)
    assert result.states > 100_000
    assert result.depth > 20


def test_a_member_that_votes_again_after_its_restart_elects_a_second_leader() -> None:
    """W1 of spec 02 §13.2."""
    result = search(STRICT_RULES._replace(abstain_in_start_term=False), Bounds(2, 1, 1, 0))
    assert result.violation is not None
    assert re.fullmatch("slot [0-2] and slot [0-2] both lead term 1", result.violation)
    assert_is_readable(result.path, result.violation)
    voters = [re.search(r"receives VOTE 1 of slot (\d)", step) for step in result.path]
    assert len([voter for voter in voters if voter]) == 2
    assert "slot 0 mounts again" in result.path


def test_a_leader_whose_server_failed_elects_a_second_leader_of_its_term() -> None:
    """The exception of I4."""
    result = search(STRICT_RULES._replace(keep_vote_after_resigning=False), Bounds(2, 0, 0, 1))
    assert result.violation is not None
    assert_is_readable(result.path, result.violation)
    assert any(step.endswith("its server fails") for step in result.path)


def test_two_slots_need_no_vote_so_both_can_lead_a_term() -> None:
    """Spec 02 §2.3; fencing decides between them."""
    result = search(bounds=Bounds(1, 0, 0, 0), members=2)
    assert result.violation is not None
    assert not any("VOTE" in step for step in result.path)


def test_a_term_that_goes_back_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    stand = Election._stand
    monkeypatch.setattr(Election, "_stand", lambda self, term, now: stand(self, term - 2, now))
    result = search(bounds=Bounds(1, 0, 0, 0))
    assert result.violation == "term went from 0 to -1"
    assert result.path == ("slot 0 its timer fires: term went from 0 to -1",)


def test_too_many_states_are_an_error() -> None:
    with pytest.raises(RuntimeError, match="more than 100 states"):
        search(bounds=Bounds(1, 0, 0, 0), limit=100)
