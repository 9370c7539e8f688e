"""Every recorded status is read, and gives the same text again."""

from __future__ import annotations

import lzma
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scoutfs.quorum.status import Delay, Exchange, QuorumStatus, Role, format_status
from scoutfs.quorum.status_parser import StatusError, parse_status

DATA = Path(__file__).parents[1] / "data" / "kernel"

WITH_DELAYS = """\
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


def series(path: Path) -> list[str]:
    """Return the texts of a file in which each comes behind a line that starts with ###."""
    data = path.read_bytes()
    text = (lzma.decompress(data) if path.suffix == ".xz" else data).decode("ascii")
    # when a mount went away, its files were missing
    text = re.sub(r"(?m)^(cat|ls): .*\n", "", text)
    texts = re.split(r"(?m)^###.*\n", text)[1:]
    return [text for text in texts if text.startswith("quorum_slot_nr")]


def of_sysfs(path: Path) -> str:
    """Return the status in the listing of a mount's sysfs directory."""
    _, _, rest = path.read_text("ascii").partition("/quorum/status\n")
    lines = []
    for line in rest.split("\n"):
        if not line.startswith("   | "):
            break
        lines.append(line.removeprefix("   | ") + "\n")
    return "".join(lines)


RECORDED = [
    WITH_DELAYS,
    *series(DATA / "sysfs" / "status-series-failover.txt"),
    *(of_sysfs(DATA / "sysfs" / f"sysfs-mount{name}.txt") for name in ("0-leader", "1-follower", "2-follower")),
    *series(DATA / "wire" / "three-guests" / "status-series-guest0.txt.xz"),
    *series(DATA / "wire" / "three-guests" / "status-series-guest2.txt.xz"),
]


def test_all_are_here() -> None:
    failover = (DATA / "sysfs" / "status-series-failover.txt").read_text("ascii")
    assert len(RECORDED) >= 4 + 194 + failover.count("quorum_slot_nr")
    assert any("role 2 (leader)" in text for text in RECORDED)
    assert any("role 1 (candidate)" in text for text in RECORDED)


@pytest.mark.parametrize("now", [0.0, 12345.5])
def test_recorded_texts(now: float) -> None:
    for text in RECORDED:
        assert format_status(parse_status(text, now), now) == text


def test_what_a_text_says() -> None:
    status = parse_status(WITH_DELAYS, 100.0)
    assert status == QuorumStatus(
        slot=1,
        term=6,
        role=Role.FOLLOWER,
        vote_for=-1,
        votes=0,
        timeout=109.9,
        last_recv={0: Exchange(6, 1, 100.0), 2: Exchange(6, 2, 99.9)},
        delays={1: Delay(1, 94.7), 3: Delay(1, 93.6), 5: Delay(1, 99.9)},
    )


def test_times_that_have_passed() -> None:
    text = WITH_DELAYS.replace("9.900000000", "-1.998904055")
    assert parse_status(text, 0.0).timeout == pytest.approx(-0.001095945, abs=1e-12)


def test_a_page_that_ends_within_a_line() -> None:
    exchange = "last_recv from {} term 18446744073709551615 type 2 secs_since 4.000000000\n"
    text = WITH_DELAYS.partition("last_recv")[0] + "".join(exchange.format(slot) for slot in range(60))
    assert len(text) > 4096
    for size in (4095, 4096):
        status = parse_status(text[:size], 0.0)
        assert 40 < len(status.last_recv) < 60
    with pytest.raises(StatusError, match="has no end"):
        parse_status(WITH_DELAYS[:-4], 0.0)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("quorum_slot_nr 1", "quorum_slot_nr x"),
        ("role 0 (follower)", "role 3 (follower)"),
        ("role 0 (follower)", "role 0 (leader)"),
        ("vote_bits 0x0 (count 0)", "vote_bits 0x3 (count 1)"),
        ("9.900000000", "9.9"),
        ("last_recv from 2", "last_heard from 2"),
        ("HB Delay(s)      Count  Secs Since\n", ""),
        ("          3          1  6.400000000", "last_recv from 0 term 6 type 1 secs_since 0.000000000"),
        ("term 6\n", ""),
    ],
)
def test_refusals(old: str, new: str) -> None:
    assert old in WITH_DELAYS
    with pytest.raises(StatusError, match=r"^not the text of a quorum status: "):
        parse_status(WITH_DELAYS.replace(old, new, 1), 0.0)


@settings(deadline=None)
@given(st.one_of(st.text(), st.text().map(lambda tail: WITH_DELAYS + tail)))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        parse_status(text, 0.0)
    except StatusError:
        return
    assert text.startswith(WITH_DELAYS)


TERMS = st.integers(1, 2**64 - 1)
TIMES = st.integers(-(10**13), 10**13).map(lambda nanoseconds: nanoseconds / 1e9)
SLOTS = st.integers(0, 14)
EXCHANGES = st.dictionaries(SLOTS, st.builds(Exchange, TERMS, st.integers(0, 255), TIMES), max_size=4)


@settings(deadline=None)
@given(
    st.builds(
        QuorumStatus,
        slot=SLOTS,
        term=TERMS,
        role=st.sampled_from(Role),
        vote_for=st.integers(-1, 14),
        votes=st.integers(0, 2**15 - 1),
        timeout=TIMES,
        server_start_term=TERMS,
        server_event=st.sampled_from([0, 2, 3]),
        last_send=EXCHANGES,
        last_recv=EXCHANGES,
        delays=st.dictionaries(st.integers(1, 59), st.builds(Delay, st.integers(1, 2**40), TIMES), max_size=8),
    )
)
def test_texts_are_read_as_they_were_made(status: QuorumStatus) -> None:
    text = format_status(status, 0.0)
    assert format_status(parse_status(text, 0.0), 0.0) == text
