"""`quorum/status` as the original prints it (spec 02 §9.2)."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from scoutfs.quorum.status import Delay, Exchange, QuorumStatus, Role, format_status

RECORDED = """\
quorum_slot_nr 1
term 6
server_start_term 0
server_event 0
role 0 (follower)
vote_for -1
vote_bits 0x0 (count 0)
timeout_in_secs 9.900000000
last_recv from 0 term 6 type 1 secs_since 0.000000000
last_recv from 2 term 6 type 2 secs_since 0.100000000
HB Delay(s)      Count  Secs Since
          1          1  5.300000000
          3          1  6.400000000
          5          1  0.100000000
"""


def test_text_of_the_original() -> None:
    status = QuorumStatus(
        slot=1,
        term=6,
        role=Role.FOLLOWER,
        vote_for=-1,
        votes=0,
        timeout=1009.9,
        last_send={0: Exchange(0, 0, 1.0)},
        last_recv={2: Exchange(6, 2, 999.9), 0: Exchange(6, 1, 1000.0)},
        delays={5: Delay(1, 999.9), 1: Delay(1, 994.7), 3: Delay(1, 993.6)},
    )
    assert format_status(status, 1000.0) == RECORDED


def test_overdue_timeout_is_floored() -> None:
    status = QuorumStatus(0, 1, Role.LEADER, -1, 0b11, timeout=10.0, server_start_term=1, server_event=3)
    assert "timeout_in_secs -1.600000000\n" in format_status(status, 10.4)
    assert "vote_bits 0x3 (count 2)\n" in format_status(status, 10.4)
    assert "role 2 (leader)\n" in format_status(status, 10.4)


@given(st.integers(0, 2**64 - 1), st.floats(-1e6, 1e6), st.integers(0, 59))
def test_text_fits_a_page_and_snapshots_survive_json(term: int, now: float, delays: int) -> None:
    slots = {slot: Exchange(term, 2, now) for slot in range(15)}
    late = {second: Delay(2**32, now) for second in range(1, delays + 1)}
    status = QuorumStatus(14, term, Role.CANDIDATE, 14, 0x7FFF, now, 0, 0, slots, slots, late)
    assert len(format_status(status, 0.0)) <= 4096
    assert QuorumStatus.from_dict(status.to_dict()) == status
