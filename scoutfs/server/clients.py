"""Which mounts a server has as clients, whom it lets in, and who may leave (spec 03 §3.3 to §3.6, spec 02 §8.3).  Pure.

The volume records whom the previous server had.  Those who have not come back yet may be alive: for a while the last
members do not leave before they are back.  Whether they can lead nobody knows, so others do not leave because of them.
Once a client shows that there was another server, members whose quorum blocks say that they run, and any mounts that
nothing is known of, are awaited for a while too before the last members may leave.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from format.block import FormatError
from format.net import Greeting, GreetingFlag, Header
from format.quorum import SlotAddress
from scoutfs.network.session import Request, ServerSession
from scoutfs.server.mounted_clients import RecordedMount

RECOVERY_TIME = 30.0
"""Seconds from its start in which a server counts members of its predecessor as mounted, though they are not back."""

SETTLING_TIME = 2.0
"""Seconds from its start in which a server that took over reckons with mounts without a slot that are not back yet."""

CLIENTS_MAX = 1024
"""Mounts that one server takes on."""

RID_MAX = (1 << 64) - 1
"""All ones: never a rid; nor is 0."""


class Newcomer(NamedTuple):
    """A mount that this server does not know; `is_new` says that no server ever accepted it."""

    mount: RecordedMount
    is_new: bool


class Verdict(Enum):
    """What becomes of a connection that greeted."""

    ACCEPT = "answered"
    REFUSE = "answered with EINVAL, then closed"
    DROP = "closed without an answer"


@dataclass(frozen=True, slots=True)
class Welcome:
    """The judgement of a greeting.

    With ACCEPT: `session` is to be attached to the connection, whatever connection it or an earlier session of the rid
    had before is to be closed, and `first_contact` says that this server had not met the client.
    """

    verdict: Verdict
    text: str = ""
    rid: int = 0
    session: ServerSession | None = None
    first_contact: bool = False


@dataclass(slots=True)
class Client:
    """A mount: what a mounted-client item says of it, and its session.

    `session` is None once it was given up: the mount is being fenced.  `parked_since` is when its connection was lost.
    """

    rid: int
    member: bool
    address: SlotAddress
    session: ServerSession | None
    parked_since: float | None = None
    recorded: bool = True
    """Whether the volume records the mount; if not, nothing is left of it but its wish to be told so."""


class Farewell(NamedTuple):
    """A mount's wish to leave: answer `request` in `session` when it may."""

    rid: int
    session: ServerSession
    request: Request


@dataclass
class Clients:
    """The clients of the server of `term`.

    `expected` are rids of members that may be mounted though they have not greeted yet, with their slots; `recorded`
    are the mounts that the volume recorded at the start and that have not greeted yet; `refused` are rids that were
    fenced; `started` is when the server came up.  Times are seconds of one monotonic clock.
    """

    fsid: int
    fmt_vers: int
    term: int
    votes_needed: int
    started: float
    expected: dict[int, int] = field(default_factory=dict)
    refused: set[int] = field(default_factory=set)
    recorded: dict[int, RecordedMount] = field(default_factory=dict)
    clients: dict[int, Client] = field(default_factory=dict)
    took_over: bool = False
    _farewells: dict[int, Farewell] = field(default_factory=dict)

    # -- greetings -----------------------------------------------------------------------------------------------

    def newcomer(self, payload: bytes, peer: SlotAddress) -> Newcomer | None:
        """Return who greets, if what the volume records of the mount has to be known before `greet` is called."""
        try:
            greeting = Greeting.parse(payload)
            self._check(greeting)
        except FormatError:
            return None
        if greeting.rid in self.clients or greeting.rid in self.refused:
            return None
        mount = RecordedMount(greeting.rid, bool(greeting.flags & GreetingFlag.QUORUM), peer)
        return Newcomer(mount, greeting.server_term == 0)

    def greet(self, header: Header, payload: bytes, peer: SlotAddress, *, recorded: bool = True) -> Welcome:
        """Judge a greeting request that came from `peer` (spec 03 §3.3, §3.4).

        `recorded` says whether the volume records the mount.
        """
        try:
            greeting = Greeting.parse(payload)
            self._check(greeting)
        except FormatError as error:
            return Welcome(Verdict.REFUSE, str(error))
        rid, leaving = greeting.rid, bool(greeting.flags & GreetingFlag.FAREWELL)
        client = self.clients.get(rid)
        session = client.session if client is not None else None
        if rid in self.refused:
            if leaving:
                return Welcome(Verdict.ACCEPT, "", rid, ServerSession(header.id))
            return _drop(rid, "was fenced, and must not be let in again")
        if session is not None and header.id <= session.greeting_id:
            return _drop(rid, "greeted once more on an older connection")
        if not recorded and not leaving:
            return _drop(rid, "is not recorded on the volume: it was taken for dead")
        if greeting.server_term != self.term:
            return self._first_contact(header, greeting, peer, recorded)
        if session is None and not leaving:
            return _drop(rid, "has lost its session and is to be fenced")
        if session is None:
            session = ServerSession(header.id)
        session.greeting_id = header.id
        if client is not None:
            client.session, client.address, client.parked_since = session, peer, None
        return Welcome(Verdict.ACCEPT, "", rid, session)

    def _first_contact(self, header: Header, greeting: Greeting, peer: SlotAddress, recorded: bool) -> Welcome:
        """A client that does not know this server: whatever state there is was never of use to it."""
        rid = greeting.rid
        if rid not in self.clients and len(self.clients) >= CLIENTS_MAX:
            return _drop(rid, f"is one more than the {CLIENTS_MAX} mounts that a server takes")
        session = ServerSession(header.id)
        self._farewells.pop(rid, None)
        self.expected.pop(rid, None)
        self.recorded.pop(rid, None)
        if greeting.server_term:
            self.took_over = True
        client = self.clients.get(rid)
        if client is None:
            member = bool(greeting.flags & GreetingFlag.QUORUM)
            self.clients[rid] = Client(rid, member, peer, session, recorded=recorded)
        else:
            client.session, client.address, client.parked_since = session, peer, None
        return Welcome(Verdict.ACCEPT, "", rid, session, first_contact=True)

    def _check(self, greeting: Greeting) -> None:
        if greeting.fsid != self.fsid:
            raise FormatError(f"its volume is {greeting.fsid:016x}, this is {self.fsid:016x}")
        if greeting.fmt_vers != self.fmt_vers:
            raise FormatError(f"its format version is {greeting.fmt_vers}, that of the volume {self.fmt_vers}")
        if greeting.rid in (0, RID_MAX):
            raise FormatError(f"its rid is {greeting.rid:016x}, which no mount has")

    # -- disconnecting and fencing -------------------------------------------------------------------------------

    def parked(self, rid: int, session: ServerSession, now: float) -> bool:
        """The connection of a session is gone.

        True if the client is awaited; False if it may leave, whether the answer reached it or not, or is back already.
        """
        client = self.clients.get(rid)
        if client is None or client.session is not session:
            return False
        client.parked_since = now
        return True

    def give_up(self, rid: int) -> None:
        """The client did not come back: its session is lost and it is being fenced.  It still counts as mounted."""
        client = self.clients.get(rid)
        if client is not None:
            client.session, client.parked_since = None, None
        self._farewells.pop(rid, None)
        self.refused.add(rid)

    def fenced(self, rid: int) -> None:
        """The mount certainly cannot do anything any more: it counts no longer, and is not let in again."""
        self.clients.pop(rid, None)
        self.expected.pop(rid, None)
        self.recorded.pop(rid, None)
        self._farewells.pop(rid, None)
        self.refused.add(rid)

    # -- leaving -------------------------------------------------------------------------------------------------

    def farewell(self, rid: int, session: ServerSession, request: Request) -> None:
        """A client asks to leave; `leaving` says when it may."""
        self._farewells[rid] = Farewell(rid, session, request)

    def leaving(self, now: float, owing: Collection[int] = ()) -> list[Farewell]:
        """Return the farewells to answer now, and count those mounts as gone (spec 02 §8.3).

        To be called whenever a farewell arrived, a client greeted or was fenced, and at `deadline`.  `owing` are mounts
        that have not told which locks they hold: their farewells wait.
        """
        members, others = self._counts()
        ready: list[Farewell] = []
        undecided: list[Farewell] = []
        for farewell in self._farewells.values():
            client = self.clients.get(farewell.rid)
            if client is not None and client.recorded and client.member:
                undecided.append(farewell)
                continue
            if client is not None and client.recorded:
                others -= 1
            ready.append(farewell)
        asking = len(undecided)
        awaited = bool(self.awaited(now)) or self._may_come_back(now) or self._is_settling(now)
        for farewell in undecided:
            if members > self.votes_needed or (asking == members and others == 0 and not awaited):
                ready.append(farewell)
                members -= 1
                asking -= 1
        ready = [farewell for farewell in ready if farewell.rid not in owing]
        for farewell in ready:
            del self._farewells[farewell.rid]
            self.clients.pop(farewell.rid, None)
        return ready

    def held_back(self, now: float) -> dict[int, str]:
        """Return why each mount that asked to leave is still waiting, by rid."""
        if not self._farewells:
            return {}
        _, others = self._counts()
        remaining = sorted(rid for rid, client in self.clients.items() if client.member and rid not in self._farewells)
        reasons = []
        if remaining:
            reasons.append(f"the last members leave together: {_listed(remaining)} not leaving yet")
        if others:
            reasons.append(f"{others} mount{'s' if others > 1 else ''} without a quorum slot must leave first")
        awaited = self.awaited(now)
        if awaited:
            slots = ", ".join(str(slot) for slot in sorted(awaited.values()))
            reasons.append(f"members of slots {slots} may be mounted and have not come back yet")
        elif self._may_come_back(now):
            reasons.append(f"{len(self.recorded)} mounts that the volume records have not come back yet")
        elif self._is_settling(now):
            reasons.append("mounts of the previous server may not have come back yet")
        text = "; ".join(reasons)
        return dict.fromkeys(self._farewells, text)

    def awaited(self, now: float) -> dict[int, int]:
        """Return the members, rid to slot, that may be mounted and have not come back from the previous server."""
        return {} if not self.took_over or self.recovery_is_over(now) else dict(self.expected)

    def recovery_is_over(self, now: float) -> bool:
        """Whether nobody is awaited any more, whoever has not come back."""
        return now >= self.started + RECOVERY_TIME

    def narrow(self, running: Mapping[int, int]) -> None:
        """Await no member that is not among `running`: those, rid to slot, whose quorum blocks say so now."""
        self.expected = {rid: slot for rid, slot in self.expected.items() if running.get(rid) == slot}

    def deadline(self, now: float) -> float | None:
        """When `leaving` or `awaited` may change though nothing else happened; None for never."""
        if not (self.took_over or self.recorded):
            return None
        times = (self.started + SETTLING_TIME, self.started + RECOVERY_TIME)
        return next((time for time in times if time > now), None)

    def _may_come_back(self, now: float) -> bool:
        """Whether mounts that the volume records are awaited; later they are taken for dead, and fenced."""
        return bool(self.recorded) and not self.recovery_is_over(now)

    def _is_settling(self, now: float) -> bool:
        return self.took_over and now < self.started + SETTLING_TIME

    def _counts(self) -> tuple[int, int]:
        """Members and other mounts that are clients."""
        mounts = [client.member for client in self.clients.values() if client.recorded]
        members = sum(mounts)
        return members, len(mounts) - members


def _drop(rid: int, text: str) -> Welcome:
    return Welcome(Verdict.DROP, f"mount {rid:016x} {text}", rid)


def _listed(rids: list[int]) -> str:
    names = ", ".join(f"{rid:016x}" for rid in rids)
    return f"{names} {'is' if len(rids) == 1 else 'are'}"
