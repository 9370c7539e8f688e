"""A mount while it runs: what it serves, what ends it, and in which order it leaves (spec 02 §1.3, §8.3).

One event loop, in the mount process.  Its tasks are the link to the member, the client, the FUSE loop, the signals and
the socket for umount; the first thing that ends the mount decides how it leaves.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Protocol

import pyfuse3
import trio

from mount import kernel
from mount.attributes import Statfs
from mount.control import ControlTree, control_directory
from mount.daemon import ExitCode, notify_service_manager
from mount.operations import Operations
from mount.preparation import RootDirectory
from mount.reading import RootsSource
from mount.view import Connection, MemberProcess, MountView
from mount.watchers import Watchers
from mount.writing import Writing

MAX_TASKS = 10_000
"""Requests in progress at most: those that wait for a server must not keep others, `.scoutfs` above all, from it."""

READAHEAD_KB = 4096
"""What the kernel asks for ahead of a reader: four of the largest requests."""

ENDING_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""What unmounts; the last only in the foreground."""

DETACH_PATIENCE = 5.0
"""Seconds in which a mount that is abandoned must have detached its directory."""


class Client(Connection, RootsSource, Protocol):
    """The client of this mount, see `scoutfs.client`."""

    async def run(self, *, task_status: trio.TaskStatus[None] = ...) -> None: ...
    async def statfs(self) -> Statfs: ...
    async def wait_usable(self) -> None: ...
    async def farewell(self, hold_back: Callable[[str], None], /) -> None: ...
    def abandon(self) -> None: ...


class Member(MemberProcess, Protocol):
    """The member of this mount, see `scoutfs.quorum.member`."""

    async def run(self, log: Callable[[int, str], None], task_status: trio.TaskStatus[None] = ...) -> None: ...
    async def leave(self) -> None: ...
    def kill(self) -> None: ...


class Departure(Enum):
    """What ends a mount."""

    UNMOUNTED = "the directory was detached by somebody else"
    ASKED = "a signal asks for it, or nobody wants it any more"
    FORCED = "nothing further may be written"


@dataclass(frozen=True, slots=True)
class Attached:
    """Where a mount is attached: the directory, the FUSE descriptor, the device number in the mount table."""

    directory: str
    fuse: int
    device: str

    def is_mounted(self) -> bool:
        """Whether the directory still shows this mount."""
        mounted = kernel.mounted_at(self.directory)
        return mounted is not None and mounted.device == self.device


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a mount ended: whether it left cleanly, what its process exits with, and why if that is no success."""

    clean: bool
    code: ExitCode = ExitCode.SUCCESS
    text: str = ""


class RunningMount:
    """A mount from the moment at which its directory is attached.

    `root` is the root directory as it was before.  Without `writing` it only reads.  `listening` is the socket for
    umount.  `on_detached` is called as soon as the directory is free for other mounts.
    """

    def __init__(
        self,
        attached: Attached,
        root: RootDirectory,
        view: MountView,
        client: Client,
        member: Member | None,
        *,
        writing: Writing | None = None,
        listening: socket.socket | None,
        on_detached: Callable[[], None],
    ) -> None:
        self._attached, self._view, self._client, self._member = attached, view, client, member
        self._writing, self._listening, self._on_detached = writing, listening, on_detached
        self._log = view.log
        self._watchers = Watchers(view.pids, lambda: self._end_as(Departure.FORCED))
        self._departure: Departure | None = None
        self._ending, self._forced, self._session_over = trio.Event(), trio.Event(), trio.Event()
        self._aborted = False
        self._fuse_poll = select.poll()
        self._fuse_poll.register(attached.fuse, 0)
        acl = view.options.given.acl
        self.operations = Operations(
            view.volume,
            root,
            client,
            ControlTree(control_directory(view)),
            client.statfs,
            self._log,
            acl=acl,
            owner=(os.geteuid(), os.getegid()),
            connection_lost=self._connection_lost,
            waiting_for=lambda: view.waiting_text().strip() if writing is None else writing.waiting_for,
            files=None if writing is None else partial(writing.files, root, acl=acl),
        )
        view.errors_text = self.operations.requests.errors_text
        view.requests_text = lambda: self.operations.in_progress.text(trio.current_time())

    async def run(self, ready: Callable[[], None], wait: float | None) -> Outcome:
        """Serve until the mount ends and has left.

        `ready` is called once it serves, or with `wait` seconds once it is usable.
        """
        failure: Outcome | None = None
        clean = False
        async with trio.open_nursery() as nursery:
            await nursery.start(self._take_signals)
            if self._member is not None:
                await nursery.start(self._member.run, self._log)
            if self._writing is not None:
                await nursery.start(self._writing.run)
            await nursery.start(self._client.run)
            nursery.start_soon(self.operations.in_progress.watch)
            nursery.start_soon(self._serve_kernel)
            nursery.start_soon(self._enlarge_readahead)
            if self._listening is not None:
                nursery.start_soon(self._watchers.serve, self._listening)
            failure = await self._become_ready(ready, wait)
            await self._ending.wait()
            clean = await self._leave()
            nursery.cancel_scope.cancel()
        return Outcome(clean) if failure is None else Outcome(clean, failure.code, failure.text)

    # -- how it begins -----------------------------------------------------------------------------------------------

    async def _become_ready(self, ready: Callable[[], None], wait: float | None) -> Outcome | None:
        """Say that it is ready; return an outcome if it will not be."""
        if wait is None or await self._usable_within(wait):
            ready()
            return None
        if self._ending.is_set():
            return Outcome(False, ExitCode.INTERRUPTED, "interrupted while it waited for a server; unmounted again")
        reason = self._view.waiting_text().strip() or "no server answers"
        text = f"not usable within {wait:.0f} s: {reason}"
        self._log(logging.ERROR, text)
        self._end_as(Departure.ASKED)
        return Outcome(False, ExitCode.FAILURE, f"{text}; unmounted again")

    async def _usable_within(self, seconds: float) -> bool:
        """Whether the filesystem is usable before `seconds` are over or the mount ends."""
        usable = False
        with trio.move_on_after(seconds):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_cancel_on, self._ending, nursery.cancel_scope)
                await self._client.wait_usable()
                usable = True
                nursery.cancel_scope.cancel()
        return usable

    async def _enlarge_readahead(self) -> None:
        """Have the kernel read files in large pieces; who may not change that goes without."""
        await self.operations.greeted.wait()
        with contextlib.suppress(OSError), open(f"/sys/class/bdi/{self._attached.device}/read_ahead_kb", "w") as file:
            file.write(f"{READAHEAD_KB}\n")

    async def _serve_kernel(self) -> None:
        """Answer the kernel until the session is over."""
        await pyfuse3.main(max_tasks=MAX_TASKS)
        # A connection that was aborted, not just closed, had requests in progress, or is mounted still: then somebody
        # has forced it.  An unmount that was forced while nothing was in progress looks like any other.
        forced = self._aborted or self._attached.is_mounted()
        self._session_over.set()
        if not self._view.leaving:
            self._end_as(Departure.FORCED if forced else Departure.UNMOUNTED)

    def _connection_lost(self) -> bool:
        """Whether the kernel has ended the connection; asked by requests that wait, which keep the session open."""
        lost = bool(self._fuse_poll.poll(0))
        self._aborted |= lost
        return lost

    # -- how it ends -------------------------------------------------------------------------------------------------

    def _end_as(self, departure: Departure) -> None:
        if departure is Departure.FORCED:
            self._departure = departure
            self._forced.set()
        elif self._departure is None:
            self._departure = departure
        self._ending.set()

    async def _take_signals(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        in_background = os.getsid(0) == os.getpid()
        with trio.open_signal_receiver(*ENDING_SIGNALS) as signals:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING_SIGNALS)
            task_status.started()
            async for number in signals:
                if number == signal.SIGHUP and in_background:
                    continue
                # whoever asks twice does not want to wait for other mounts
                again = self._departure is Departure.ASKED
                self._end_as(Departure.FORCED if again else Departure.ASKED)

    async def _leave(self) -> bool:
        """Leave; return whether that was clean."""
        self._view.leaving = True
        notify_service_manager("STOPPING=1")
        clean = False
        if not self._forced.is_set():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_cancel_on, self._forced, nursery.cancel_scope)
                clean = await self._leave_cleanly()
                nursery.cancel_scope.cancel()
        if self._forced.is_set() and not clean:
            await self._abandon()
        return clean

    async def _leave_cleanly(self) -> bool:
        if not self._session_over.is_set():
            await self._detach()
        self._on_detached()
        leave = self._client.farewell if self._writing is None else self._writing.leave
        await leave(self._held_back)
        left = True
        if self._member is not None:
            await self._member.leave()
            left = self._member.left is None
            if not left:
                self._log(logging.WARNING, f"the member did not leave cleanly: {self._member.left}")
        self._log(logging.INFO, "unmounted")
        return left

    async def _detach(self) -> None:
        directory = self._attached.directory
        try:
            await trio.to_thread.run_sync(kernel.detach, directory, abandon_on_cancel=True)
        except kernel.AttachError as error:
            self._log(logging.WARNING, f"{error}: it is detached all the same, and its users get errors")
            await self._detach_lazily()

    async def _detach_lazily(self) -> None:
        def detach() -> None:
            kernel.detach(self._attached.directory, lazy=True)

        try:
            await trio.to_thread.run_sync(detach, abandon_on_cancel=True)
        except kernel.AttachError as error:
            self._log(logging.WARNING, f"cannot detach {error}")

    def _held_back(self, text: str) -> None:
        self._log(logging.INFO, f"cannot leave yet: {text}")
        self._watchers.say(text)

    async def _abandon(self) -> None:
        """Leave as a forced unmount: no farewell, no datagram, no write."""
        if self._member is not None:
            self._member.kill()
        self._client.abandon()
        self._log(logging.WARNING, "forcing unmount, data may be lost")
        if self._attached.is_mounted():
            with trio.move_on_after(DETACH_PATIENCE):
                await self._detach_lazily()
        self._on_detached()


async def _cancel_on(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()
