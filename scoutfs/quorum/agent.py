"""The election agent of a member: the shell around `Election` (spec 02 §3.3, §3.4, §4).

One task owns the machine and the socket.  Blocks are read and written in worker threads, so that heartbeats never wait
for a disk; what they found, and what other threads ask, comes back as inputs of that task.
"""

from __future__ import annotations

import errno
import logging
import random as _random
import socket
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Protocol

import trio

from format.message import MESSAGE_SIZE, Message, MessageError, MessageType
from format.quorum import Event, EventRecord, QuorumBlock, QuorumConfig, SlotAddress
from scoutfs.counters import Counters
from scoutfs.errors import ScoutfsError
from scoutfs.quorum.actions import (
    STRICT_RULES,
    Action,
    Count,
    Left,
    Publish,
    ReadBlocks,
    Report,
    Rules,
    Send,
    StartServer,
    StopServer,
    WriteEvent,
)
from scoutfs.quorum.blocks import QuorumBlockError, update_block
from scoutfs.quorum.election import Election, ServerStatus
from scoutfs.quorum.leaders import Blocks
from scoutfs.quorum.status import QuorumStatus
from scoutfs.storage.volume import Volume

PUBLISH_INTERVAL = 0.1
"""Seconds between two snapshots of the status at least, except where the election itself asks for one."""

_DATAGRAM_MAX = 64
"""Bytes read of a datagram: its first 32 count."""

_DRAIN_MAX = 1024
"""Datagrams taken in a row at most: more than a socket's buffer holds, so that a flood cannot stop the timers."""

_STRICTLY_AFTER = 1e-6
"""Seconds: timeouts expire strictly after their time."""

_TRANSIENT = frozenset(
    {
        errno.ECONNREFUSED,
        errno.EHOSTUNREACH,
        errno.ENETUNREACH,
        errno.EHOSTDOWN,
        errno.ENETDOWN,
        errno.ENOBUFS,
        errno.ENOMEM,
    }
)
"""Receive errors that tell of a peer or a shortage, never of our socket: they must not end the agent."""

Log = Callable[[int, str], None]
Input = Callable[[float], list[Action]]
RunSync = Callable[[Callable[[], object]], Awaitable[object]]


class Server(Protocol):
    """What an agent asks of the server; neither call waits."""

    def start(self, term: int, overwritten: tuple[tuple[int, EventRecord], ...] = ()) -> None:
        """Start the server of `term`; see `StartServer`."""

    def stop(self) -> None:
        """Ask the server to stop."""


def bind_socket(slot: int, address: SlotAddress) -> socket.socket:
    """Return the UDP socket of `slot`; raises ScoutfsError, EADDRINUSE if another member of this host has the slot.

    Bound to the slot's address and not shared: that the second bind fails is what finds a duplicate member.
    """
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        sock.bind((address.address, address.port))
    except OSError as error:
        sock.close()
        hint = {
            errno.EADDRINUSE: ": another mount on this host uses the slot, or another program the port",
            errno.EADDRNOTAVAIL: ": no interface of this host has that address, is this the slot of another host?",
        }.get(error.errno or 0, "")
        text = f"quorum slot {slot}: cannot bind UDP {address}: {error.strerror}{hint}"
        raise ScoutfsError(text, error.errno or errno.EIO) from error
    return sock


async def in_thread(function: Callable[[], object]) -> object:
    """Run `function` in a worker thread; on cancellation it is left to itself."""
    return await trio.to_thread.run_sync(function, abandon_on_cancel=True)


class Agent:
    """The agent of `slot`.

    `sock` is what `bind_socket` returned and is closed at the end of `run`.  `heartbeat_timeout` is in seconds.
    `publish` gets every snapshot of the status, its times those of trio's clock; it must not wait.
    """

    def __init__(
        self,
        volume: Volume,
        config: QuorumConfig,
        *,
        slot: int,
        rid: int,
        heartbeat_timeout: float,
        sock: socket.socket,
        server: Server,
        log: Log,
        counters: Counters,
        publish: Callable[[QuorumStatus], None],
        random: _random.Random | None = None,
        rules: Rules = STRICT_RULES,
        run_sync: RunSync = in_thread,
    ) -> None:
        self._volume, self._slot, self._rid = volume, slot, rid
        self._addresses = {nr: (address.address, address.port) for nr, address in config.slots.items()}
        self._heartbeat_timeout = heartbeat_timeout
        self._sock, self._server, self._log, self._counters = sock, server, log, counters
        self._publish_status = publish
        self._random = random or _random.Random()
        self._rules, self._run_sync = rules, run_sync
        self._token: trio.lowlevel.TrioToken | None = None
        self._election: Election
        self._nursery: trio.Nursery
        self._inputs: deque[Input] = deque()
        self._waiting: trio.CancelScope | None = None
        self._left: Left | None = None
        self._has_begun = False
        self._silent = False
        self._stale = True
        self._published = -float("inf")
        self._strangers: set[int] = set()
        self._unreadable: dict[int, str] = {}

    # -- what other tasks and threads ask ----------------------------------------------------------------------------

    def leave(self) -> None:
        """Ask the agent to leave cleanly; any thread may call this and those below."""
        self._post(lambda now: self._election.leave(now))

    def abandon(self) -> None:
        """Forced unmount: no datagram and no block write any more."""
        self._silent = True
        self._post(lambda now: self._election.abandon(now))

    def set_heartbeat_timeout(self, seconds: float) -> None:
        """Use `seconds` the next time a heartbeat timeout is set."""
        self._post(lambda now: self._election.set_heartbeat_timeout(seconds, now))

    def server_changed(self, status: ServerStatus) -> None:
        """Tell the agent what its server's status is now."""
        self._post(lambda now: self._election.server_changed(status, now))

    # -- the loop ----------------------------------------------------------------------------------------------------

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> str | None:
        """Be the agent until it has left; returns the reason if that was not asked for, None otherwise.

        Started once BEGIN is recorded: from then on the agent takes part.  If that fails it is finished by then.
        """
        announced = False
        try:
            blocks = await self._read_blocks()
            now = trio.current_time()
            self._election = Election(
                slot=self._slot,
                present=self._addresses,
                rid=self._rid,
                heartbeat_timeout=self._heartbeat_timeout,
                blocks=blocks,
                now=now,
                random=self._random,
                rules=self._rules,
            )
            self._token = trio.lowlevel.current_trio_token()
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                self._perform(self._election.start(now, self._unreadable.get(self._slot, "")))
                while self._left is None:
                    if self._has_begun and not announced:
                        announced = True
                        task_status.started()
                    await self._wait()
                    self._step()
                # what still runs is a read, or a write after which nothing would be done
                nursery.cancel_scope.cancel()
            if not announced:
                task_status.started()
            return self._left.error if self._left else None
        finally:
            self._sock.close()

    def _step(self) -> None:
        """Take everything that has happened; let time act only if nothing was left to take at that time."""
        now = trio.current_time()
        self._receive_all()
        while self._inputs and self._left is None:
            self._perform(self._inputs.popleft()(trio.current_time()))
        if self._left is None and now > self._election.deadline:
            self._perform(self._election.timer(now))
        if self._stale and now >= self._published + PUBLISH_INTERVAL:
            self._publish()

    async def _wait(self) -> None:
        deadline = self._election.deadline + _STRICTLY_AFTER
        if self._stale:
            deadline = min(deadline, self._published + PUBLISH_INTERVAL)
        if self._inputs:
            deadline = -float("inf")
        with trio.CancelScope(deadline=deadline) as self._waiting:
            await trio.lowlevel.wait_readable(self._sock)
        self._waiting = None

    def _post(self, input: Input) -> None:
        if self._token is None:
            self._feed(input)  # before `run` has started: taken first
            return
        try:
            self._token.run_sync_soon(self._feed, input)
        except trio.RunFinishedError:
            return  # the agent is gone: nobody is left to be told

    def _feed(self, input: Input) -> None:
        self._inputs.append(input)
        if self._waiting is not None:
            self._waiting.cancel()

    # -- receiving ---------------------------------------------------------------------------------------------------

    def _receive_all(self) -> None:
        for _ in range(_DRAIN_MAX):
            if self._left is not None:
                return
            try:
                datagram, source = self._sock.recvfrom(_DATAGRAM_MAX)
            except BlockingIOError:
                return
            except OSError as error:
                self._counters.add("quorum_recv_error")
                if error.errno not in _TRANSIENT:
                    self._perform(self._election.socket_failed(f"error receiving: {error.strerror}", self._now()))
                continue
            message = self._checked(datagram, source)
            if message is None:
                self._counters.add("quorum_recv_invalid")
            else:
                self._perform(self._election.received(message, self._now()))

    def _checked(self, datagram: bytes, source: tuple[str, int]) -> Message | None:
        """Return the message if it is one of this volume, from the address of the slot that it names (remedy W13)."""
        try:
            message = Message.parse(datagram, self._volume.fsid)
        except MessageError:
            return None
        expected = self._addresses.get(message.sender)
        if expected is None:
            return None
        if source != expected:
            if message.sender not in self._strangers:
                self._strangers.add(message.sender)
                text = f"message of slot {message.sender} came from {source[0]}:{source[1]}, not from its address "
                self._log(logging.WARNING, f"{text}{expected[0]}:{expected[1]}: dropped, as all others like it will be")
            return None
        return message

    # -- acting ------------------------------------------------------------------------------------------------------

    def _perform(self, actions: list[Action]) -> None:
        self._stale = self._stale or bool(actions)
        regular = Count("quorum_send_heartbeat") in actions
        for action in actions:
            match action:
                case Send(to, message):
                    self._send(to, message, regular)
                case WriteEvent():
                    self._nursery.start_soon(self._write, action)
                case ReadBlocks():
                    self._nursery.start_soon(self._read)
                case StartServer(term, overwritten):
                    self._server.start(term, overwritten)
                case StopServer():
                    self._server.stop()
                case Report(level, text):
                    self._log(level, text)
                case Count(counter, number):
                    self._counters.add(counter, number)
                case Publish():
                    self._publish()
                case Left():
                    self._left = action

    def _send(self, to: int, message: Message, regular: bool) -> None:
        if self._silent:
            return
        try:
            sent = self._sock.sendto(message.build(self._volume.fsid), self._addresses[to]) == MESSAGE_SIZE
        except OSError:
            sent = False
        self._election.sent(to, message, self._now())
        if not sent and regular and message.type is MessageType.HEARTBEAT:
            self._counters.add("quorum_send_heartbeat_dropped")

    async def _write(self, action: WriteEvent) -> None:
        if self._silent:
            return
        event, term, named = action
        try:
            await self._run_sync(lambda: update_block(self._volume, self._slot, event, self._rid, term, named=named))
        except QuorumBlockError as error:
            text = str(error)
            self._feed(lambda now: self._election.write_failed(text, now))
        else:
            self._has_begun |= event is Event.BEGIN
            self._feed(lambda now: self._election.wrote(now))

    async def _read(self) -> None:
        blocks = await self._read_blocks()
        self._feed(lambda now: self._election.blocks_read(blocks, now))

    async def _read_blocks(self) -> Blocks:
        read: dict[int, QuorumBlock | Exception] = {}
        await self._run_sync(lambda: read.update(self._volume.read_quorum_blocks(self._addresses)))
        blocks: dict[int, QuorumBlock | None] = {}
        for slot, block in read.items():
            blocks[slot] = block if isinstance(block, QuorumBlock) else None
            error = "" if isinstance(block, QuorumBlock) else str(block)
            # a leader reads every second: a block that stays bad is reported once
            if error and self._unreadable.get(slot) != error:
                self._log(logging.ERROR, f"error reading quorum block of slot {slot}: {error}")
            self._unreadable[slot] = error
        return blocks

    def _publish(self) -> None:
        self._stale = False
        self._published = self._now()
        self._publish_status(self._election.status)

    def _now(self) -> float:
        return trio.current_time()
