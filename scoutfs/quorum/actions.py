"""What an election machine asks its shell to do, and the rules it may be run with."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

from format.message import Message
from format.quorum import Event, EventRecord


class Send(NamedTuple):
    """Send one datagram to a slot: never blocking, never repeated, a failure is only counted."""

    to: int
    message: Message


class WriteEvent(NamedTuple):
    """Update an event of the own block (spec 02 §5.2); answer with `wrote` or `write_failed`.  One at a time.

    The record names our rid, or `rid` if that is not 0; the block must be ours in either case.
    """

    event: Event
    term: int
    rid: int = 0


class ReadBlocks(NamedTuple):
    """Read the blocks of all present slots; answer with `blocks_read`.  One at a time."""


class StartServer(NamedTuple):
    """Start the server of `term`, not waiting.

    `overwritten` are (slot, ELECT record) of earlier mounts of the own slot that its block no longer shows: the server
    must see them fenced too.
    """

    term: int
    overwritten: tuple[tuple[int, EventRecord], ...] = ()


class StopServer(NamedTuple):
    """Ask the server to stop, not waiting."""


class Report(NamedTuple):
    """Log a line at a level of the standard library's logging."""

    level: int
    text: str


class Count(NamedTuple):
    """Add to a counter of spec 02 §10.2."""

    counter: str
    number: int = 1


class Publish(NamedTuple):
    """The status changed in a way that readers should see before the next actions are performed."""


class Left(NamedTuple):
    """The agent is finished; `error` says why unless it was asked to leave."""

    error: str | None


Action: TypeAlias = Send | WriteEvent | ReadBlocks | StartServer | StopServer | Report | Count | Publish | Left


class Rules(NamedTuple):
    """Where the election is stricter than the original's; each rule is explained in `docs/decisions/election-rules.md`.

    All are compatible on the wire and on disk.  Tests switch one off to show the fault that it prevents; with all off
    the machine follows spec 02 §4 to the letter, except that block updates do not stop it from receiving.
    """

    abstain_in_start_term: bool = True
    keep_vote_after_resigning: bool = True
    persist_before_sending: bool = True
    read_before_standing: bool = True
    defer_to_heard_leader: bool = True
    repeat_request_while_isolated: bool = True
    yield_before_requesting: bool = True
    decline_while_led: bool = True
    watch_blocks_while_leading: bool = True
    stop_server_on_fatal_error: bool = True
    ignore_rival_heartbeat: bool = True
    follow_the_winner: bool = True
    refuse_absurd_terms: bool = True
    ignore_own_slot: bool = True
    jitter_heartbeat_timeout: bool = True
    wait_for_server_when_leaving: bool = True
    remember_overwritten_leader: bool = True
    stand_at_once_after_own_death: bool = True


STRICT_RULES = Rules()
"""All of ours."""

ORIGINAL_RULES = Rules(*(False for _ in Rules._fields))
"""The rules of the original: none of ours."""
