"""Questions to the files of a volume out of an event loop.

What is in the cache is answered at once; a question that needs the device goes to a worker thread, one at a time.  The
roots that answers go by are looked at again at most once a second, when something is asked: on a server, or in the
super block for a mount without one.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Protocol, TypeVar

import trio

from mount.interrupts import interruptible
from scoutfs.files.filesystem import Filesystem
from scoutfs.metadata.blocks import NotCached
from scoutfs.metadata.snapshot import Roots
from scoutfs.storage.volume import Volume

LOOK_INTERVAL = 1.0
"""Seconds that answers may be older than the present roots: how long the kernel may keep what may change."""

UNCHANGING_TIMEOUT = 3600.0
"""Seconds that the kernel may keep what nobody changes."""

SOON = 0.2
"""Seconds in which a server that works answers, however busy it is."""

DATA_THREADS = 16
"""Readings of contents at once at most."""

CACHE_BYTES = 48 << 20
"""Bytes of metadata that a mount keeps in memory."""

_Result = TypeVar("_Result")

Log = Callable[[int, str], None]


class RootsSource(Protocol):
    """Where roots come from.

    `unchanging`: nobody is expected to write the volume; if one does that is said.  `connected`: an answer will come
    soon.
    """

    @property
    def unchanging(self) -> bool: ...
    @property
    def connected(self) -> bool: ...
    async def roots(self) -> Roots: ...


class VolumeReader:
    """The files of `volume` as of the roots of `source`.  To be used in one event loop.

    `interrupted` tells whether the thread of a number wants its answer no more; waits end then with OSError (EINTR).
    """

    def __init__(self, volume: Volume, source: RootsSource, log: Log, interrupted: Callable[[int], bool]) -> None:
        self.files = Filesystem(volume, get_roots=self._roots_for_forest, cache_bytes=CACHE_BYTES)
        self.generation = 0
        """Counts the changes of the roots: what was read under another one may be outdated."""
        self.data_threads = trio.CapacityLimiter(DATA_THREADS)
        """For readings of contents: a data device that does not answer must not take the threads of others."""
        self._source, self._log, self._interrupted = source, log, interrupted
        self._unchanging = source.unchanging
        self._roots: Roots | None = None
        self._given: Roots | None = None
        self._due = 0.0
        self._inline = False
        self._asker = 0
        self._turn = trio.CapacityLimiter(1)
        self._look = trio.Semaphore(1)

    @property
    def unchanging(self) -> bool:
        """Whether nobody has changed the volume, nor is going to."""
        return self._unchanging

    @property
    def timeout(self) -> float:
        """Seconds that the kernel may keep an answer."""
        return UNCHANGING_TIMEOUT if self._unchanging else LOOK_INTERVAL

    async def ask(self, pid: int, question: Callable[..., _Result], *arguments: Any) -> _Result:
        """Return what `question` makes of `self.files`, or raise what it raises; the thread `pid` wants to know.

        It may be called twice, and in another thread.  Raises OSError (EINTR) too.  Who waits may be cancelled; the
        thread goes on then, and others wait for its end.
        """
        if trio.current_time() >= self._due:
            await self._renew(pid)
        if self._turn.available_tokens:
            self._turn_to_new_roots()
            self._inline = True
            try:
                with self.files.blocks.only_cached():
                    return question(*arguments)
            except NotCached:
                pass
            finally:
                self._inline = False
            return await self._ask_in_thread(pid, question, *arguments)
        # whoever has the turn may wait for a server
        return await interruptible(pid, partial(self._ask_in_thread, pid, question, *arguments), self._interrupted)

    async def _ask_in_thread(self, pid: int, question: Callable[..., _Result], *arguments: Any) -> _Result:
        """Wait for the turn, and keep it until the thread has ended, even if nobody waits for that any more."""

        def run() -> _Result:
            self._turn_to_new_roots()
            self._asker = pid
            return question(*arguments)

        return await trio.to_thread.run_sync(run, limiter=self._turn, abandon_on_cancel=True)

    async def ask_soon(self, pid: int, question: Callable[..., _Result], *arguments: Any) -> _Result | None:
        """Return what `ask` returns, or None if that would take long: there is no server, or it is slow."""
        if not self._source.connected and trio.current_time() >= self._due:
            return None
        with trio.move_on_after(SOON):
            return await self.ask(pid, question, *arguments)
        return None

    async def fresh(self, pid: int) -> int:
        """Look at the roots again if that is due; return the generation."""
        if trio.current_time() >= self._due:
            await self._renew(pid)
        return self.generation

    async def wait_for_change(self, pid: int, generation: int) -> None:
        """Wait until the volume is no longer as it was in `generation`.  Raises OSError (EINTR) as all waits do."""

        async def look() -> None:
            while self.generation == generation:
                await trio.sleep_until(self._due)
                await self._fetch_if_due()

        await interruptible(pid, look, self._interrupted)

    # -- roots -------------------------------------------------------------------------------------------------------

    async def _renew(self, pid: int) -> None:
        """Fetch roots; whoever asks meanwhile waits for the same answer."""
        await interruptible(pid, self._fetch_if_due, self._interrupted)

    async def _fetch_if_due(self) -> None:
        async with self._look:
            if trio.current_time() >= self._due:
                await self._fetch()

    async def _fetch(self) -> Roots:
        roots = await self._source.roots()
        self._due = trio.current_time() + LOOK_INTERVAL
        if self._roots is None:
            self._roots = roots
        elif roots != self._roots:
            self._roots = roots
            self.generation += 1
            self._note_change()
        return self._roots

    def _note_change(self) -> None:
        if self._unchanging:
            self._unchanging = False
            text = "somebody writes the volume: what is read may be of different times"
            kept = f"what the kernel has kept stays as it was for up to {UNCHANGING_TIMEOUT:.0f} s"
            self._log(logging.WARNING, f"{text}, and {kept}")

    def _turn_to_new_roots(self) -> None:
        """Let the next question see the latest roots.  Only while no question is under way."""
        if self._given is not None and self._given is not self._roots:
            self.files.refresh()

    def _roots_for_forest(self) -> Roots:
        """Return roots; asked again after the latest, return newer ones, from within a worker thread."""
        if self._roots is None or self._given is self._roots:
            if self._inline:
                raise NotCached
            ask: Callable[[], Awaitable[Roots]] = partial(interruptible, self._asker, self._fetch, self._interrupted)
            self._given = trio.from_thread.run(ask)
        else:
            self._given = self._roots
        return self._given
