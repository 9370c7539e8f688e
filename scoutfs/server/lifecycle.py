"""The life of a server: started when its mount is elected, stopped when it is not any more (spec 02 §7, spec 03 §6).

The agent that starts and stops it never waits: a server has a thread and a trio loop of its own.  A start that fails,
or a server that has to stop, says why in the log and goes DOWN; nothing is written at the end, but what a commit that
has begun writes.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import trio

from format.quorum import Event, EventRecord, QuorumConfig
from scoutfs.counters import Counters
from scoutfs.errors import ScoutfsError
from scoutfs.metadata.btree import Root
from scoutfs.metadata.snapshot import Roots
from scoutfs.network.connection import KEEPALIVE_DEFAULT_MS
from scoutfs.network.listener import Listener, listen
from scoutfs.network.statfs import Statfs
from scoutfs.offload import Offload
from scoutfs.quorum.election import ServerStatus
from scoutfs.quorum.fencing import Answer, FenceRequests
from scoutfs.quorum.leaders import fenced_rids
from scoutfs.server.clients import Clients
from scoutfs.server.committed_volume import CommittedVolume, Transactions
from scoutfs.server.log_trees import all_log_trees
from scoutfs.server.mounted_clients import RecordedMount, recorded_mounts
from scoutfs.server.requests import MERGE_WAIT_DEFAULT_MS
from scoutfs.server.service import Service
from scoutfs.server.statfs import count_free
from scoutfs.server.takeover import Blocks, Leadership, fence_previous_leaders, read_all_blocks
from scoutfs.storage.volume import Volume

Log = Callable[[int, str], None]
FencesFactory = Callable[[trio.Nursery], FenceRequests]
_Result = TypeVar("_Result")


class StartError(ScoutfsError):
    """A server could not start; the text says which step failed and why."""


@dataclass(frozen=True, slots=True)
class ClientInfo:
    """A client as status pages show it.

    `parked_since` is when its connection broke, in seconds of `time.monotonic`, None while it is connected; `farewell`
    says why its wish to leave waits, None if it has none.
    """

    rid: int
    address: str
    member: bool
    connected: bool
    parked_since: float | None
    farewell: str | None


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """A server as status pages show it: an immutable snapshot."""

    status: ServerStatus = ServerStatus.DOWN
    term: int = 0
    address: str = ""
    clients: tuple[ClientInfo, ...] = ()
    awaited_slots: tuple[int, ...] = ()


class ServerThread:
    """The server of one member: DOWN until `start`, and again after each end.

    `on_status` is called with each new status, in the server's thread; like `log` it must be safe there and not wait.
    `fences_factory` is called in the server's loop for each start.  `keepalive_ms` and `merge_wait_ms`,
    see `Requests`, may be changed at any time.
    """

    def __init__(
        self,
        volume: Volume,
        config: QuorumConfig,
        slot: int,
        rid: int,
        fmt_vers: int,
        *,
        fences_factory: FencesFactory,
        log: Log,
        counters: Counters,
        on_status: Callable[[ServerStatus], None],
        keepalive_ms: int = KEEPALIVE_DEFAULT_MS,
        merge_wait_ms: int = MERGE_WAIT_DEFAULT_MS,
    ) -> None:
        self.volume, self.config, self.slot, self.rid, self.fmt_vers = volume, config, slot, rid, fmt_vers
        self.fences_factory = fences_factory
        self.log, self.counters = log, counters
        self.keepalive_ms, self.merge_wait_ms = keepalive_ms, merge_wait_ms
        self._on_status = on_status
        self._status = ServerStatus.DOWN
        self._run: ServerRun | None = None
        self._lock = threading.Lock()

    @property
    def status(self) -> ServerStatus:
        """What the server is doing now."""
        return self._status

    def start(self, term: int, overwritten: tuple[tuple[int, EventRecord], ...] = ()) -> None:
        """Start the server of `term`; ignored unless it is DOWN.  See `Leadership` for `overwritten`."""
        with self._lock:
            if self._status is not ServerStatus.DOWN:
                return
            self._status = ServerStatus.STARTING
            run = self._run = ServerRun(self, Leadership(self.slot, self.rid, term, overwritten))
        thread = threading.Thread(target=self._live, args=(run,), name=f"server-{term}", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            self.log(logging.ERROR, f"server failed to start a thread: {error}")
            self._ended()

    def stop(self) -> None:
        """Ask a server that is STARTING or UP to stop; ignored otherwise."""
        with self._lock:
            run = self._run
        if run is not None:
            run.stop()

    def info(self) -> ServerInfo:
        """Return a snapshot for status pages."""
        with self._lock:
            return self._run.info if self._run is not None else ServerInfo()

    def answer_fence(self, rid: int, answer: Answer) -> None:
        """Record what a fence daemon wrote; ignored without a server, whose requests are forgotten then."""
        with self._lock:
            run = self._run
        if run is not None and run.fences is not None:
            run.fences.answer(rid, answer)

    def _live(self, run: ServerRun) -> None:
        """The server's thread."""
        try:
            trio.run(run.main)
        finally:
            self._ended()

    def _ended(self) -> None:
        with self._lock:
            self._run = None
            self._status = ServerStatus.DOWN
        self._on_status(ServerStatus.DOWN)

    def set_status(self, status: ServerStatus) -> None:
        """For the run: tell everybody."""
        self._status = status
        self._on_status(status)


class ServerRun:
    """One server from its start to its end, in its own loop; `info` and `fences` may be read from other threads."""

    def __init__(self, server: ServerThread, us: Leadership, offload: Offload | None = None) -> None:
        self.info = ServerInfo(ServerStatus.STARTING, us.term, str(server.config.slots[us.slot]))
        self.fences: FenceRequests | None = None
        self._server, self._us = server, us
        self._offload = offload or Offload()
        self._address = server.config.slots[us.slot]
        self._service: Service | None = None
        self._status = ServerStatus.STARTING
        self._stop_wanted = False
        self._stopped: trio.Event | None = None
        self._token: trio.lowlevel.TrioToken | None = None
        self._lock = threading.Lock()

    def stop(self) -> None:
        """Ask the server to stop, from any thread."""
        with self._lock:
            self._stop_wanted = True
            token = self._token
        if token is not None:
            try:
                token.run_sync_soon(self._stop_now)
            except trio.RunFinishedError:
                return  # it has ended already

    def _stop_now(self) -> None:
        if self._stopped is not None and not self._stopped.is_set():
            self._stopped.set()
            self._enter(ServerStatus.STOPPING)

    async def main(self) -> None:
        """Start, serve until asked to stop or until something fails, and end."""
        server, log = self._server, self._server.log
        self._stopped = trio.Event()
        with self._lock:
            self._token = trio.lowlevel.current_trio_token()
        log(logging.INFO, f"server starting at {self._address}")
        self._enter(ServerStatus.STARTING)
        if self._stop_wanted:
            self._stop_now()
        async with trio.open_nursery() as nursery:
            self.fences = server.fences_factory(nursery)
            try:
                await self._start_and_serve(nursery, self.fences, self._stopped)
            except StartError as error:
                log(logging.ERROR, f"{error}, error -{error.errno}")
            except ScoutfsError as error:
                log(logging.ERROR, f"server failed: {error}, error -{error.errno}")
            self._enter(ServerStatus.STOPPING)
            log(logging.INFO, f"server shutting down at {self._address}")
            self.fences.clear()
            nursery.cancel_scope.cancel()
        log(logging.INFO, f"server stopped at {self._address}")

    async def _start_and_serve(self, nursery: trio.Nursery, fences: FenceRequests, stopped: trio.Event) -> None:
        listening: list[trio.socket.SocketType] = []
        try:
            with trio.CancelScope() as starting:
                nursery.start_soon(_cancel_when, stopped, starting)
                self._service = await self._start(fences, listening)
            if self._service is None or self._stop_wanted:
                return
            self._server.log(logging.INFO, f"server ready at {self._address}")
            self._enter(ServerStatus.UP)
            await self._service.run(stopped)
        finally:
            for sock in listening:
                sock.close()

    async def _start(self, fences: FenceRequests, listening: list[trio.socket.SocketType]) -> Service:
        """Everything up to serving (spec 02 §7): nothing of the volume is read before the first step is done."""
        server, us, volume = self._server, self._us, self._server.volume
        blocks = await self._step(
            "fence previous leaders",
            fence_previous_leaders(
                us, server.config, volume.fsid, self._read_blocks, fences, server.log, server.counters
            ),
        )
        try:
            listening.append(listen(self._address))
        except OSError as error:
            number = error.errno or errno.EIO
            raise StartError(f"server failed to bind to {self._address}: {os.strerror(number)}", number) from error
        transactions = await self._step("read the super block", self._offload(Transactions, volume, self._client_count))
        recorded = await self._step("read what the volume records", self._offload(_read_recorded, transactions))
        self._volume = CommittedVolume(transactions)
        refused = fenced_rids(blocks) - {us.rid}
        running = _running_members(blocks)
        clients = Clients(
            volume.fsid,
            server.fmt_vers,
            us.term,
            server.config.votes_needed,
            trio.current_time(),
            expected={rid: slot for rid, slot in running.items() if rid not in refused},
            refused=refused,
            recorded={mount.rid: mount for mount in recorded},
        )
        listener = Listener(listening[0], server.counters, server.log, lambda: server.keepalive_ms)
        return Service(
            clients,
            listener,
            fences,
            self._volume,
            volume.data.size,
            partial(self._statfs, self._volume),
            partial(self._roots, self._volume),
            self._running_members,
            server.log,
            server.counters,
            self._publish,
            lambda: server.merge_wait_ms,
        )

    async def _step(self, what: str, step: Awaitable[_Result]) -> _Result:
        try:
            return await step
        except ScoutfsError as error:
            raise StartError(f"server failed to {what}: {error}", error.errno) from error

    async def _read_blocks(self) -> Blocks:
        return await self._offload(read_all_blocks, self._server.volume, tuple(self._server.config.slots))

    async def _statfs(self, volume: CommittedVolume) -> Statfs:
        return await volume.change(lambda current: count_free(volume.reader, current.stable))

    async def _roots(self, volume: CommittedVolume) -> Roots:
        raw = volume.stable.raw
        return Roots(*(Root.of(raw[name]) for name in Roots._fields))

    def _client_count(self) -> int:
        return 1 if self._service is None else len(self._service.clients.clients)

    async def _running_members(self) -> dict[int, int] | None:
        try:
            return _running_members(await self._read_blocks())
        except ScoutfsError:
            return None  # what cannot be read changes nothing

    def _enter(self, status: ServerStatus) -> None:
        if status is not self._status or status is ServerStatus.STARTING:
            self._status = status
            self._server.set_status(status)
            self._publish()

    def _publish(self) -> None:
        """Make a new snapshot; what it holds is of the loop's clock, what it shows of the host's."""
        service = self._service
        if service is None:
            self.info = ServerInfo(self._status, self._us.term, str(self._address))
            return
        now, clients = trio.current_time(), service.clients
        shift = time.monotonic() - now
        held_back = clients.held_back(now)
        infos = tuple(
            ClientInfo(
                rid,
                str(client.address),
                client.member,
                service.connected(rid),
                None if client.parked_since is None else client.parked_since + shift,
                held_back.get(rid),
            )
            for rid, client in sorted(clients.clients.items())
        )
        awaited = tuple(sorted(clients.awaited(now).values()))
        self.info = ServerInfo(self._status, self._us.term, str(self._address), infos, awaited)


def _read_recorded(transactions: Transactions) -> list[RecordedMount]:
    """Return the mounts that the volume records; new sequence numbers will be greater than all that items have."""
    volume = transactions.current
    for trees in all_log_trees(volume):
        volume.seqs.raise_to(trees.max_item_seq)
    return recorded_mounts(volume)


async def _cancel_when(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()


def _running_members(blocks: Blocks) -> dict[int, int]:
    """Return rid to slot of the members whose blocks say that an agent may run."""
    return {
        block.event(Event.BEGIN).rid: slot
        for slot, block in blocks.items()
        if block.agent_may_run and block.event(Event.BEGIN).rid
    }
