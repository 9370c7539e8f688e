"""The text of `quorum/status`, read back (spec 02 §9.2): our own, and that of kernel mounts."""

from __future__ import annotations

import errno
import re

from scoutfs.errors import ScoutfsError
from scoutfs.quorum.status import PAGE_SIZE, Delay, Exchange, QuorumStatus, Role

_NUMBER = r"(\d{1,20})"
_SECONDS = r"(-?\d{1,20})\.(\d{9})"
_HEAD = re.compile(
    rf"quorum_slot_nr {_NUMBER}\n"
    rf"term {_NUMBER}\n"
    rf"server_start_term {_NUMBER}\n"
    rf"server_event {_NUMBER}\n"
    r"role ([012]) \((follower|candidate|leader)\)\n"
    r"vote_for (-1|\d{1,20})\n"
    rf"vote_bits 0x([0-9a-f]{{1,16}}) \(count {_NUMBER}\)\n"
    rf"timeout_in_secs {_SECONDS}\n",
    re.ASCII,
)
_EXCHANGE = re.compile(
    rf"(last_send to|last_recv from) {_NUMBER} term {_NUMBER} type {_NUMBER} secs_since {_SECONDS}", re.ASCII
)
_DELAYS_HEADER = "HB Delay(s)      Count  Secs Since"
_DELAY = re.compile(rf" *{_NUMBER} +{_NUMBER}  {_SECONDS}", re.ASCII)


class StatusError(ScoutfsError):
    """A text that is no status."""

    def __init__(self, text: str) -> None:
        super().__init__(f"not the text of a quorum status: {text}", errno.EPROTO)


def parse_status(text: str, now: float) -> QuorumStatus:
    """Return the snapshot whose text was read at `now`: the inverse of `format_status`.  Raises StatusError.

    A last line that the end of the page has cut in two is left out.
    """
    head = _HEAD.match(text)
    if head is None:
        raise StatusError(f"it starts with {text[:40]!r}")
    slot, term, server_start_term, server_event, role, role_name, vote_for, votes, count, *timeout = head.groups()
    if Role(int(role)).name.lower() != role_name:
        raise StatusError(f"role {role} is not {role_name!r}")
    if int(votes, 16).bit_count() != int(count):
        raise StatusError(f"vote_bits 0x{votes} are not {count}")
    exchanges: dict[str, dict[int, Exchange]] = {"last_send to": {}, "last_recv from": {}}
    delays: dict[int, Delay] = {}
    in_delays = False
    for line in _lines(text, head.end()):
        if line == _DELAYS_HEADER:
            in_delays = True
        elif in_delays and (found := _DELAY.fullmatch(line)):
            late, occurrences, *since = found.groups()
            delays[int(late)] = Delay(int(occurrences), now - _seconds(*since))
        elif not in_delays and (found := _EXCHANGE.fullmatch(line)):
            label, peer, peer_term, type_, *since = found.groups()
            exchanges[label][int(peer)] = Exchange(int(peer_term), int(type_), now - _seconds(*since))
        else:
            raise StatusError(f"line {line!r}")
    return QuorumStatus(
        slot=int(slot),
        term=int(term),
        role=Role(int(role)),
        vote_for=int(vote_for),
        votes=int(votes, 16),
        timeout=now + _seconds(*timeout),
        server_start_term=int(server_start_term),
        server_event=int(server_event),
        last_send=exchanges["last_send to"],
        last_recv=exchanges["last_recv from"],
        delays=delays,
    )


def _lines(text: str, start: int) -> list[str]:
    *lines, rest = text[start:].split("\n")
    if rest and len(text) < PAGE_SIZE - 1:
        # one byte less than a page: the kernel keeps one for the end of its string
        raise StatusError(f"line {rest!r} has no end")
    return lines


def _seconds(whole: str, nanoseconds: str) -> float:
    """Whole seconds are rounded towards minus infinity, nanoseconds are added: -1.600000000 is -0.4 s."""
    return int(whole) + int(nanoseconds) / 1_000_000_000
