"""Fence requests of a running server: who must be proven dead before shared metadata is touched (spec 02 §6).

A request is serviced first by this host itself, if the mount was one of its own (`LocalFencer`); only what this host
knows nothing of is shown in the mount's `fence/` directory, where the fence daemon services it.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

import trio

from scoutfs.errors import ScoutfsError
from scoutfs.quorum.registration import FenceOutcome, Host, LocalFencer, Registration, Verdict

__all__ = [
    "FenceError",
    "FenceOutcome",
    "FenceReason",
    "FenceRequests",
    "FenceTimeout",
    "FenceView",
    "Host",
    "LocalFencer",
    "Registration",
    "Verdict",
]

REQUEST_TIMEOUT = 30.0
"""Seconds after which a request that nobody serviced counts as failed."""

LEADERS_TIMEOUT = 15.0
"""Seconds that a new server waits for previous leaders to be fenced."""

Log = Callable[[int, str], None]
Answer = Literal["fenced", "error"]


class FenceReason(StrEnum):
    """Why a mount is fenced; the text of the file `reason` (spec 02 §6.1)."""

    QUORUM_BLOCK_LEADER = "quorum_block_leader"
    CLIENT_RECOVERY = "client_recovery"
    CLIENT_RECONNECT = "client_reconnect"


class FenceError(ScoutfsError):
    """A mount could not be fenced (EIO)."""

    def __init__(self, rid: int) -> None:
        super().__init__(f"mount {rid:016x} could not be fenced", errno.EIO)


class FenceTimeout(ScoutfsError):
    """A mount was not fenced in time (ETIMEDOUT)."""

    def __init__(self, rid: int, seconds: float) -> None:
        super().__init__(f"mount {rid:016x} was not fenced within {seconds:.0f} s", errno.ETIMEDOUT)


@dataclass(frozen=True, slots=True)
class FenceView:
    """What the directory of a request shows (spec 02 §6.3); `started` is absolute monotonic seconds."""

    rid: int
    address: str
    reason: str
    started: float
    fenced: bool = False
    error: bool = False

    def age(self, now: float) -> int:
        """Return whole seconds since creation, what `elapsed_secs` shows."""
        return max(0, int(now - self.started))


class _Request:
    def __init__(self, rid: int, address: str, reason: FenceReason, started: float) -> None:
        self.rid, self.address, self.reason, self.started = rid, address, reason, started
        self.fenced = self.error = False
        self.shown = False
        self.scope = trio.CancelScope()
        self.removed = False

    def give_up(self) -> None:
        self.removed = True
        self.scope.cancel()

    def given_up(self) -> bool:
        return self.removed

    def view(self) -> FenceView:
        return FenceView(self.rid, self.address, str(self.reason), self.started, self.fenced, self.error)


class FenceRequests:
    """The requests of one server, in order of creation.

    The server's loop owns it: every method is called there, except `answer` and `snapshot`, which any thread may call.
    Tasks run in `nursery`, whose cancellation ends them; `clear` ends them too.  `fencer` None leaves every request to
    the fence daemon.  `on_change` is called, in the loop, with each new `snapshot`.
    """

    def __init__(
        self,
        nursery: trio.Nursery,
        log: Log,
        *,
        fencer: LocalFencer | None = None,
        on_change: Callable[[tuple[FenceView, ...]], None] | None = None,
    ) -> None:
        self._nursery, self._log = nursery, log
        self._fencer, self._on_change = fencer, on_change
        self._requests: dict[int, _Request] = {}
        self._views: tuple[FenceView, ...] = ()
        self._changed = trio.Event()
        self._token = trio.lowlevel.current_trio_token()

    def start(self, rid: int, address: str, reason: FenceReason) -> None:
        """Ask for `rid`, last seen at the dotted quad `address`, to be fenced.  A rid already asked for stays as is."""
        if rid in self._requests:
            return
        request = _Request(rid, address, reason, trio.current_time())
        self._requests[rid] = request
        self._nursery.start_soon(self._service, request)
        self._publish()

    async def is_dead(self, rid: int) -> bool:
        """Whether this host knows that the mount `rid` is dead; nobody is asked for anything."""
        if self._fencer is None:
            return False
        verdict = await trio.to_thread.run_sync(self._fencer.look, rid, abandon_on_cancel=True)
        return verdict.dead

    def mark_fenced(self, rid: int) -> None:
        """Record that `rid` can certainly not write any more; an unknown rid is ignored."""
        request = self._requests.get(rid)
        if request is not None and not request.fenced:
            request.fenced = True
            self._publish()

    def mark_error(self, rid: int) -> None:
        """Record that `rid` cannot be fenced; wins over fenced.  An unknown rid is ignored."""
        request = self._requests.get(rid)
        if request is not None and not request.error:
            request.error = True
            self._log(logging.ERROR, f"error indicated by fence action for rid {rid:016x}")
            self._publish()

    def answer(self, rid: int, answer: Answer) -> None:
        """Record what a fence daemon wrote, from any thread."""
        mark = self.mark_fenced if answer == "fenced" else self.mark_error
        try:
            self._token.run_sync_soon(mark, rid)
        except trio.RunFinishedError:
            return  # the server has ended and its requests with it

    async def wait_all(self, timeout: float = LEADERS_TIMEOUT) -> None:
        """Wait until every request is fenced; raises FenceError (EIO) or FenceTimeout (ETIMEDOUT).

        In order of creation: an error behind a request that is not fenced yet is not seen before that one is fenced.
        """
        deadline = trio.current_time() + timeout
        while (request := self._first_open()) is not None:
            if request.error:
                raise FenceError(request.rid)
            with trio.move_on_at(deadline) as scope:
                await self._changed.wait()
            if scope.cancelled_caught:
                raise FenceTimeout(request.rid, timeout)

    def serviced(self) -> FenceView | None:
        """Return the first request with fenced or error, None if there is none (spec 02 §6.4)."""
        return next((request.view() for request in self._requests.values() if request.fenced or request.error), None)

    async def changed(self) -> None:
        """Wait until any request is added, removed, fenced or failed after this call."""
        await self._changed.wait()

    def remove(self, rid: int) -> None:
        """Forget a request whose mount is reclaimed."""
        request = self._requests.pop(rid, None)
        if request is not None:
            request.give_up()
            self._publish()

    def clear(self) -> None:
        """Forget every request: the server stops."""
        for request in self._requests.values():
            request.give_up()
        self._requests.clear()
        self._publish()

    def snapshot(self) -> tuple[FenceView, ...]:
        """Return the requests that `fence/` shows: those that this host is still servicing itself are left out."""
        return self._views

    def pending(self) -> tuple[FenceView, ...]:
        """Return all requests in order of creation, also those that this host is still servicing itself."""
        return tuple(request.view() for request in self._requests.values())

    def _first_open(self) -> _Request | None:
        """The first request with an error or not fenced: what the wait for all is about (spec 02 §6.2)."""
        return next((request for request in self._requests.values() if request.error or not request.fenced), None)

    def _publish(self) -> None:
        views = tuple(request.view() for request in self._requests.values() if request.shown)
        if views != self._views:
            self._views = views
            if self._on_change is not None:
                self._on_change(views)
        self._changed.set()
        self._changed = trio.Event()

    async def _service(self, request: _Request) -> None:
        with request.scope:
            with trio.move_on_at(request.started + REQUEST_TIMEOUT):
                await self._fence_locally(request)
                await self._until_fenced(request)
                return
            if not request.fenced:
                request.shown = True
                self._log(
                    logging.ERROR,
                    f"fence request for rid {request.rid:016x} was not serviced in {REQUEST_TIMEOUT * 1000:.0f} ms",
                )
                if not request.error:
                    request.error = True
                    self._publish()

    async def _fence_locally(self, request: _Request) -> None:
        if self._fencer is None:
            why = "fencing by this host is switched off"
        else:
            verdict = await trio.to_thread.run_sync(
                self._fencer.fence, request.rid, request.given_up, abandon_on_cancel=True
            )
            if verdict.dead:
                self._log(logging.INFO, f"fenced rid {request.rid:016x}: {verdict.text}")
                request.shown = True
                request.fenced = True
                self._publish()
                return
            why = verdict.text
        self._log(logging.INFO, f"rid {request.rid:016x} at {request.address} is left to the fence daemon: {why}")
        request.shown = True
        self._publish()

    async def _until_fenced(self, request: _Request) -> None:
        while not request.fenced:
            await self._changed.wait()
