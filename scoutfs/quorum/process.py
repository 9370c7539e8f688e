"""The member process: the agent in the main thread, the server in its own, the link to the mount.

It is a forked child of the mount.  It never acts on its own account after the mount is gone: the end of the link, or
the death of the parent, ends it on the spot, without another datagram or write.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import logging
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import trio

from format.quorum import EventRecord, QuorumConfig
from scoutfs.counters import Counters
from scoutfs.errors import ScoutfsError
from scoutfs.quorum.agent import Agent, bind_socket
from scoutfs.quorum.election import ServerStatus
from scoutfs.quorum.fencing import FenceRequests, FenceView, LocalFencer
from scoutfs.quorum.link import (
    Decoder,
    Entry,
    LinkError,
    Outbox,
    decode_pair,
    encode,
    encode_fences,
    receive,
)
from scoutfs.quorum.status import QuorumStatus
from scoutfs.storage.volume import Volume

if TYPE_CHECKING:
    from scoutfs.server.lifecycle import ServerInfo

NAME = "scoutfs-member"
"""What ps and top show of the process."""

NICE = -10
OOM_SCORE = -800
"""A member that is late or gone is fenced: it should be neither before anything else is."""

SERVER_INFO_INTERVAL = 1.0
_FAREWELL_TIME = 5.0
_SWITCH_INTERVAL = 0.001
_TRACEBACK_LINES = 40
_PR_SET_PDEATHSIG = 1
_IGNORED_SIGNALS = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGTSTP,
    signal.SIGTTIN,
    signal.SIGTTOU,
)
"""What a terminal or a service manager sends to all processes of a group: the mount decides what it means."""


@dataclass(frozen=True, slots=True)
class MemberOptions:
    """Mount options that concern the member; `local_fencing` False leaves every fence request to the fence daemon."""

    heartbeat_timeout_ms: int = 10_000
    tcp_keepalive_timeout_ms: int = 24_000
    log_merge_wait_timeout_ms: int = 500
    local_fencing: bool = True


class Server(Protocol):
    """The server of this member; no method waits."""

    @property
    def status(self) -> ServerStatus: ...
    def start(self, term: int, overwritten: tuple[tuple[int, EventRecord], ...] = ()) -> None: ...
    def stop(self) -> None: ...
    def info(self) -> ServerInfo: ...


@dataclass(frozen=True, slots=True)
class ServerSetup:
    """What a server is made of.

    Its loop calls `make_fences` with a nursery of each run, and `on_status` may be called from any thread.
    """

    volume: Volume
    config: QuorumConfig
    slot: int
    rid: int
    options: MemberOptions
    log: Callable[[int, str], None]
    counters: Counters
    make_fences: Callable[[trio.Nursery], FenceRequests]
    on_status: Callable[[ServerStatus], None]


ServerFactory = Callable[[ServerSetup], Server]


def server_thread(setup: ServerSetup) -> Server:
    """Return the real server."""
    # late: only the member process needs it
    from scoutfs.server.lifecycle import ServerThread

    return ServerThread(
        setup.volume,
        setup.config,
        setup.slot,
        setup.rid,
        setup.volume.fmt_vers,
        fences_factory=setup.make_fences,
        log=setup.log,
        counters=setup.counters,
        on_status=setup.on_status,
        keepalive_ms=setup.options.tcp_keepalive_timeout_ms,
        merge_wait_ms=setup.options.log_merge_wait_timeout_ms,
    )


class MonotonicClock(trio.abc.Clock):
    """Trio's clock as the plain monotonic clock, which the other processes of the host read too."""

    def start_clock(self) -> None:
        """Nothing to prepare."""

    def current_time(self) -> float:
        """Return seconds of CLOCK_MONOTONIC."""
        return time.monotonic()

    def deadline_to_sleep_time(self, deadline: float) -> float:
        """Return the seconds until `deadline`."""
        return deadline - time.monotonic()


def run_in_child(
    link: socket.socket,
    parent: int,
    keep: Iterable[int],
    volume: Volume,
    config: QuorumConfig,
    slot: int,
    rid: int,
    options: MemberOptions,
    make_server: ServerFactory,
    registrations: Path | None,
) -> None:
    """Be the member process; only returns when it should exit.

    `link` is our end of the socketpair, `parent` the pid of the mount, `keep` the descriptors that are ours besides
    the link and the standard ones: all others are closed, since the mount's must not outlive it in us.
    `registrations` is where this host's mounts are registered, None for the usual place.
    """
    _close_others({0, 1, 2, link.fileno(), *keep})
    for number in _IGNORED_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    signal.set_wakeup_fd(-1)
    _die_with(parent)
    _take_precedence()
    gc.enable()
    sys.setswitchinterval(_SWITCH_INTERVAL)
    member = _Member(volume, config, slot, rid, options, make_server, registrations)
    threading.excepthook = member.on_defect
    trio.run(member.main, link, clock=MonotonicClock())


class _Member:
    def __init__(
        self,
        volume: Volume,
        config: QuorumConfig,
        slot: int,
        rid: int,
        options: MemberOptions,
        make_server: ServerFactory,
        registrations: Path | None,
    ) -> None:
        self._volume, self._config, self._slot, self._rid = volume, config, slot, rid
        self._options, self._make_server = options, make_server
        self._registrations = registrations
        self._counters = Counters()
        self._counted: dict[str, int] = self._counters.snapshot()
        self._outbox = Outbox()
        self._fences: FenceRequests | None = None
        self._server: Server
        self._server_changed = trio.Event()
        self._info_sent = -float("inf")
        self._agent: Agent

    async def main(self, link: socket.socket) -> None:
        link.setblocking(False)
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(link))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._send, stream)
            try:
                self._set_up()
            except ScoutfsError as error:
                self._outbox.append("failed", [error.errno, str(error)])
            else:
                async with trio.open_nursery() as inner:
                    inner.start_soon(self._obey, stream)
                    await self._take_part()
                    inner.cancel_scope.cancel()
            self._outbox.close()
            # a mount that does not listen must not keep us
            nursery.cancel_scope.deadline = trio.current_time() + _FAREWELL_TIME

    def on_defect(self, defect: threading.ExceptHookArgs) -> None:
        """Log the exception that has ended the server's thread."""
        for line in _traceback(defect.exc_value):
            self._log(logging.ERROR, line)

    def _set_up(self) -> None:
        sock = bind_socket(self._slot, self._config.slots[self._slot])
        token = trio.lowlevel.current_trio_token()
        self._server = self._make_server(
            ServerSetup(
                self._volume,
                self._config,
                self._slot,
                self._rid,
                self._options,
                self._log,
                self._counters,
                self._make_fences,
                partial(self._on_server_status, token),
            )
        )
        self._agent = Agent(
            self._volume,
            self._config,
            slot=self._slot,
            rid=self._rid,
            heartbeat_timeout=self._options.heartbeat_timeout_ms / 1000,
            sock=sock,
            server=self._server,
            log=self._log,
            counters=self._counters,
            publish=self._publish,
        )

    async def _take_part(self) -> None:
        """Be the agent until it has left, or until a defect ends it; then the server goes down too."""
        results: list[str | None] = []

        async def run_agent(task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
            results.append(await self._agent.run(task_status))

        async with trio.open_nursery() as nursery:
            await nursery.start(run_agent)
            if not results:
                self._outbox.append("started")
        if self._server.status is not ServerStatus.DOWN:
            self._server.stop()
        while self._server.status is not ServerStatus.DOWN:
            await self._server_changed.wait()
        self._outbox.append("left", results[0])

    # -- the link ----------------------------------------------------------------------------------------------------

    async def _send(self, stream: trio.SocketStream) -> None:
        try:
            await self._outbox.send_all(stream)
        except LinkError:
            _end_now()

    async def _obey(self, stream: trio.SocketStream) -> None:
        decoder = Decoder()
        while True:
            try:
                for entry in await receive(stream, decoder):
                    self._do(entry)
            except LinkError:
                _end_now()

    def _do(self, entry: Entry) -> None:
        if entry.kind == "leave":
            self._agent.leave()
        elif entry.kind == "option":
            name, value = decode_pair(entry.payload, str, int)
            if name == "quorum_heartbeat_timeout_ms":
                self._agent.set_heartbeat_timeout(value / 1000)
        elif entry.kind == "fence":
            rid, answer = decode_pair(entry.payload, int, str)
            if self._fences is not None:
                self._fences.answer(rid, "fenced" if answer == "fenced" else "error")
        else:
            raise LinkError(f"unknown kind {entry.kind!r}")

    def _log(self, level: int, text: str) -> None:
        self._outbox.append("log", [level, text])

    def _publish(self, status: QuorumStatus) -> None:
        self._outbox.put("status", status.to_dict)
        self._outbox.put("counters", self._changed_counters)
        now = trio.current_time()
        if self._server.status is not ServerStatus.DOWN and now >= self._info_sent + SERVER_INFO_INTERVAL:
            self._info_sent = now
            self._outbox.put("server", self._server_info)

    def _changed_counters(self) -> dict[str, int]:
        before, self._counted = self._counted, self._counters.snapshot()
        return {name: value for name, value in self._counted.items() if value != before[name]}

    # -- the server --------------------------------------------------------------------------------------------------

    def _make_fences(self, nursery: trio.Nursery) -> FenceRequests:
        fencer = None
        if self._options.local_fencing:
            fencer = LocalFencer(fsid=self._volume.fsid, own_rid=self._rid, directory=self._registrations)
        self._fences = FenceRequests(nursery, self._log, fencer=fencer, on_change=self._on_fences)
        return self._fences

    def _on_fences(self, views: tuple[FenceView, ...]) -> None:
        # called in the server's loop, whose clock is its own
        shift = time.monotonic() - trio.current_time()
        shifted = tuple(replace(view, started=view.started + shift) for view in views)
        self._outbox.put("fences", lambda: encode_fences(shifted))

    def _server_info(self) -> dict[str, Any]:
        info = self._server.info()
        return {**asdict(info), "status": info.status.name.lower()}

    def _on_server_status(self, token: trio.lowlevel.TrioToken, status: ServerStatus) -> None:
        self._agent.server_changed(status)
        self._outbox.put("server", self._server_info)
        with contextlib.suppress(trio.RunFinishedError):
            token.run_sync_soon(self._rouse)

    def _rouse(self) -> None:
        self._server_changed.set()
        self._server_changed = trio.Event()


def _end_now() -> None:
    """The mount is gone: nothing may be sent or written any more, not even by other threads."""
    os._exit(1)


def _close_others(keep: set[int]) -> None:
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in keep:
            with contextlib.suppress(OSError):
                os.close(int(name))


def _die_with(parent: int) -> None:
    """Have the kernel kill us with our parent: the link's end is only noticed when the loop runs."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:
        _end_now()


def _take_precedence() -> None:
    """Be named, be scheduled early and be killed late, as far as this process may ask for it."""
    with contextlib.suppress(OSError):
        Path("/proc/self/comm").write_text(NAME)
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, NICE)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(OOM_SCORE))


def report_defect(link: socket.socket, defect: BaseException) -> None:
    """Say on the link, as far as that works, which exception is ending the member."""
    cause = defect
    while isinstance(cause, BaseExceptionGroup):
        cause = cause.exceptions[0]
    said = [encode("log", [logging.ERROR, line]) for line in _traceback(defect)]
    said.append(encode("left", f"defect in the member: {type(cause).__name__}: {cause}"))
    with contextlib.suppress(OSError):
        link.settimeout(1.0)
        link.sendall(b"".join(said))


def _traceback(defect: BaseException | None) -> list[str]:
    return "".join(traceback.format_exception(defect)).splitlines()[-_TRACEBACK_LINES:]
