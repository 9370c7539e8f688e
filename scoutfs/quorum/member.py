"""The member as its mount sees it: started, told things, listened to, and missed when it is gone."""

from __future__ import annotations

import contextlib
import errno
import gc
import logging
import os
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import trio

from format.quorum import QuorumConfig
from scoutfs.errors import ScoutfsError
from scoutfs.quorum.fencing import Answer, FenceView
from scoutfs.quorum.link import (
    Decoder,
    Entry,
    LinkError,
    Outbox,
    decode_counters,
    decode_fences,
    decode_pair,
    decode_status,
    receive,
)
from scoutfs.quorum.process import MemberOptions, ServerFactory, report_defect, run_in_child, server_thread
from scoutfs.quorum.registration import Registration
from scoutfs.quorum.slots import verify_slots
from scoutfs.quorum.status import QuorumStatus, Role, format_status
from scoutfs.storage.volume import Volume

__all__ = ["MemberHandle", "MemberOptions", "spawn_member"]

START_TIMEOUT = 30.0
"""Seconds in which a member must have bound its socket and read the quorum blocks."""

Log = Callable[[int, str], None]


def spawn_member(
    volume: Volume,
    config: QuorumConfig,
    slot: int,
    rid: int,
    options: MemberOptions,
    registration: Registration | None,
    *,
    make_server: ServerFactory = server_thread,
    timeout: float = START_TIMEOUT,
) -> MemberHandle:
    """Fork the member of `slot` and return once its agent takes part; raises ScoutfsError with the reason if not.

    Must be called before this process has other threads or an event loop.  `registration` is None for a mount that
    could not be registered: no fencer of this host will know it.
    """
    verify_slots(config, slot)
    ours, theirs = socket.socketpair()
    parent = os.getpid()
    keep = volume.descriptors if registration is None else (*volume.descriptors, registration.fileno())
    # what exists now is never freed by the child: leave its pages shared
    gc.collect()
    gc.freeze()
    try:
        pid = os.fork()
    except OSError as error:
        ours.close()
        theirs.close()
        text = f"cannot start the member process: {error.strerror}"
        raise ScoutfsError(text, error.errno or errno.EAGAIN) from error
    if pid == 0:
        code = 1
        try:
            registrations = None if registration is None else registration.path.parent
            run_in_child(theirs, parent, keep, volume, config, slot, rid, options, make_server, registrations)
            code = 0
        except BaseException as defect:  # noqa: BLE001 - a child must never return into its parent's frames
            report_defect(theirs, defect)
        finally:
            os._exit(code)
    gc.unfreeze()
    theirs.close()
    handle = MemberHandle(pid, ours)
    try:
        if registration is not None:
            with contextlib.suppress(OSError):
                registration.add_process(pid)
        handle.wait_for_start(timeout)
    except BaseException:
        handle.reap()
        raise
    return handle


class MemberHandle:
    """A running member.

    `status`, `is_leader`, `counters`, `fences` and `server` are what it last told; `on_change` is called after any of
    them has changed, in the loop that `run` is in.
    """

    def __init__(self, pid: int, sock: socket.socket) -> None:
        self.pid = pid
        self.alive = True
        self.left: str | None = None
        self.counters: dict[str, int] = {}
        self.fences: tuple[FenceView, ...] = ()
        self.server: dict[str, Any] = {}
        self.on_change: Callable[[], None] = lambda: None
        self._sock = sock
        self._pidfd = os.pidfd_open(pid)
        self._decoder = Decoder()
        self._early_lines: list[tuple[int, str]] = []
        self._outbox = Outbox()
        self._status: QuorumStatus | None = None
        self._leaving = False
        self._has_left = False
        self._gone = trio.Event()
        self._log: Log = lambda level, text: self._early_lines.append((level, text))
        self._started = False

    # -- what it shows -----------------------------------------------------------------------------------------------

    @property
    def status(self) -> QuorumStatus | None:
        """The last snapshot, its times those of time.monotonic(); a member that is gone leads nothing."""
        if self.alive or self._status is None:
            return self._status
        return replace(self._status, role=Role.FOLLOWER)

    @property
    def is_leader(self) -> bool:
        """What `quorum/is_leader` shows."""
        return self.alive and self._status is not None and self._status.is_leader

    def status_text(self) -> str:
        """Return the text of `quorum/status` as of now, empty before the first snapshot."""
        status = self.status
        return "" if status is None else format_status(status, time.monotonic())

    # -- what it is told ---------------------------------------------------------------------------------------------

    def set_option(self, name: str, value: int) -> None:
        """Tell the member the new value of a mount option."""
        self._outbox.append("option", [name, value])

    def answer_fence(self, rid: int, answer: Answer) -> None:
        """Tell the member what was written into the directory of a fence request."""
        self._outbox.append("fence", [rid, answer])

    async def leave(self) -> None:
        """Have the member leave cleanly, and wait until it is gone: server stopped, STOP and END recorded.

        `left` says afterwards why if it did not leave cleanly.  Returns at once if it is gone already.
        """
        if not self._leaving:
            self._leaving = True
            self._outbox.append("leave")
        await self._gone.wait()

    def kill(self) -> None:
        """Forced unmount: end the member on the spot, without another datagram or write."""
        self._leaving = True
        with contextlib.suppress(OSError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    # -- the link ----------------------------------------------------------------------------------------------------

    def wait_for_start(self, timeout: float) -> None:
        """Block until the member takes part; raises ScoutfsError if it does not."""
        deadline = time.monotonic() + timeout
        while not self._started:
            self._sock.settimeout(max(0.0, deadline - time.monotonic()) or 1e-6)
            try:
                data = self._sock.recv(65536)
            except TimeoutError as error:
                text = f"the member process did not start within {timeout:.0f} s: is the metadata device responding?"
                raise ScoutfsError(text, errno.ETIMEDOUT) from error
            except OSError as error:
                raise ScoutfsError(f"the member process is gone: {error.strerror}", errno.EIO) from error
            if not data:
                raise ScoutfsError("the member process ended before it took part", errno.EIO)
            for entry in self._decoder.feed(data):
                self._take(entry)
            if self._has_left:
                raise ScoutfsError(f"the member process failed: {self.left}", errno.EIO)

    async def run(self, log: Log, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Listen and talk to the member until it is gone; a task of the mount for its whole life."""
        self._log = log
        for level, text in self._early_lines:
            log(level, text)
        self._early_lines.clear()
        self._sock.setblocking(False)
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(self._sock))
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._send, stream)
                task_status.started()
                await self._listen(stream)
                nursery.cancel_scope.cancel()
            await trio.lowlevel.wait_readable(self._pidfd)
            self._is_gone()
        finally:
            stream.socket.close()

    def reap(self) -> None:
        """Kill the process and wait for its end, where `run` does not watch it."""
        self.kill()
        os.waitpid(self.pid, 0)
        self.alive = False
        os.close(self._pidfd)
        self._sock.close()

    async def _send(self, stream: trio.SocketStream) -> None:
        # a broken link is what `_listen` sees too, and acts upon
        with contextlib.suppress(LinkError):
            await self._outbox.send_all(stream)

    async def _listen(self, stream: trio.SocketStream) -> None:
        while True:
            try:
                entries = await receive(stream, self._decoder)
            except LinkError:
                break
            try:
                for entry in entries:
                    self._take(entry)
            except LinkError as error:
                self._log(logging.ERROR, f"member process {self.pid}: {error}")
                break
        # whatever is wrong with the link: a member that the mount cannot hear must not go on
        if not self._has_left:
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def _take(self, entry: Entry) -> None:
        match entry:
            case Entry("status", payload):
                self._status = decode_status(payload)
            case Entry("counters", payload):
                self.counters.update(decode_counters(payload))
            case Entry("fences", payload):
                self.fences = decode_fences(payload)
            case Entry("server", dict(payload)):
                self.server = payload
            case Entry("log", payload):
                level, text = decode_pair(payload, int, str)
                self._log(level, text)
                return
            case Entry("started", None):
                self._started = True
            case Entry("failed", payload):
                code, text = decode_pair(payload, int, str)
                raise ScoutfsError(text, code)
            case Entry("left", None | str() as reason):
                self._has_left, self.left = True, reason
            case _:
                raise LinkError(f"unknown entry of kind {entry.kind!r}")
        self.on_change()

    def _is_gone(self) -> None:
        """The process has ended: reap it, and say so unless that was asked for."""
        _, status = os.waitpid(self.pid, 0)
        os.close(self._pidfd)
        self.alive = False
        self.fences = ()
        if not self._has_left:
            code = os.waitstatus_to_exitcode(status)
            self.left = f"killed by signal {-code}" if code < 0 else f"exited with status {code}"
            if not self._leaving:
                self._log(
                    logging.ERROR,
                    f"member process {self.pid} is gone ({self.left}): this mount goes on as a client and no longer "
                    "takes part in quorum; remount it to restore that",
                )
        self._gone.set()
        self.on_change()
