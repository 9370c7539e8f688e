"""The cluster locks of a mount: who uses them, what is asked of the server, what it wants back (spec 05 §2).  Pure.

A task takes locks one by one in their order, as a `Holder`.  Whoever waits for a lock becomes its user in the moment
the grant arrives, so that an invalidation right behind the grant finds the lock in use.  From when the server wants a
lock back until it has it, nobody new may use it in a mode that is going to be lost: a stream of short uses cannot hold
it for ever.  So no task may take a lock that it holds already.
"""

from __future__ import annotations

import errno
from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from heapq import nsmallest
from typing import NamedTuple

from format.keys import Key
from format.payloads import LOCK_RECOVER_MAX, LockMode
from scoutfs.errors import ScoutfsError
from scoutfs.files.store import LockRequest
from scoutfs.network.locks import LockMessage, may_read, serves
from scoutfs.network.session import Request, SessionError

IDLE_COUNT_DEFAULT = 10_000
"""Locks that a mount keeps, used or not, before it gives unused ones back."""


class Ask(NamedTuple):
    """Send a request; its answer goes to `LockClient.granted`."""

    lock: LockMessage


class Answer(NamedTuple):
    """Answer the request of a server, if it is still our server."""

    request: Request
    lock: LockMessage


class Lower(NamedTuple):
    """Do what is due when the mode of a lock falls, then call `LockClient.lowered` (spec 05 §4.1).

    What was changed under it is to be committed if it could be written; what is known of the keys from `start` to `end`
    is to be forgotten if it cannot be read any more.
    """

    start: bytes
    end: bytes
    old_mode: LockMode
    new_mode: LockMode


class Ready(NamedTuple):
    """The lock that a holder waits for is his."""

    holder: Holder


Action = Ask | Answer | Lower | Ready


class LockInfo(NamedTuple):
    """A lock as status pages show it; counts are (reading, writing, only writing)."""

    start: bytes
    end: bytes
    refresh_gen: int
    mode: LockMode
    waiters: tuple[int, int, int]
    users: tuple[int, int, int]

    def __str__(self) -> str:
        """Return the line of the original's file `client_locks` (spec 05 §3.4)."""
        start, end = Key.from_sort_bytes(self.start), Key.from_sort_bytes(self.end)
        waiters, users = ("rd {} wr {} wo {}".format(*counts) for counts in (self.waiters, self.users))
        place = f"start {start} end {end} refresh_gen {self.refresh_gen} mode {int(self.mode)}"
        return f"{place} waiters: {waiters} users: {users}"


class Deadlock(ScoutfsError):
    """Locks were asked for in an order in which tasks could wait for each other (EDEADLK)."""

    def __init__(self, text: str) -> None:
        super().__init__(text, errno.EDEADLK)


class Holder:
    """A task with the locks that it has; `waiting` is the request it waits with.

    While `in_transaction` it may not take any: whoever commits waits for it.
    """

    def __init__(self) -> None:
        self.held: list[LockRequest] = []
        self.waiting: LockRequest | None = None
        self.in_transaction = False

    def holds(self, request: LockRequest) -> bool:
        """Whether the lock is held in a mode that serves."""
        return any(held.start == request.start and serves(held.mode, request.mode) for held in self.held)

    def check_order(self, request: LockRequest) -> None:
        """Raise Deadlock unless the lock comes behind all that are held."""
        if self.in_transaction:
            raise Deadlock("a lock is asked for in a transaction")
        if self.waiting is not None:
            raise Deadlock("a lock is asked for while another one is waited for")
        if self.held and (request.kind, request.start) <= (self.held[-1].kind, self.held[-1].start):
            raise Deadlock(f"lock {request.start.hex()} is asked for behind {self.held[-1].start.hex()}")


class _Invalidation(NamedTuple):
    request: Request
    lock: LockMessage


@dataclass(slots=True)
class _Lock:
    start: bytes
    end: bytes
    mode: LockMode = LockMode.NULL
    invalidating_mode: LockMode = LockMode.NULL
    request_pending: bool = False
    users: dict[LockMode, int] = field(default_factory=dict)
    waiters: deque[Holder] = field(default_factory=deque)
    invalidations: deque[_Invalidation] = field(default_factory=deque)
    refresh_gen: int = 0
    write_seq: int = 0
    late_grant: LockMessage | None = None
    """A grant of a new server that came while the lock is still being lowered for the old one."""

    @property
    def is_idle(self) -> bool:
        return not (self.request_pending or self.invalidations or self.waiters or self.users)

    @property
    def is_lowering(self) -> bool:
        """Whether an invalidation has begun: the mode is the new one already."""
        return self.invalidating_mode != LockMode.NULL

    @property
    def recovery_mode(self) -> LockMode:
        """The mode that a server must know of."""
        if self.late_grant is not None:
            return self.late_grant.new_mode
        return self.invalidating_mode if self.is_lowering else self.mode

    def admits(self, wanted: LockMode) -> bool:
        if not serves(self.mode, wanted):
            return False
        return not self.invalidations or serves(self.invalidations[0].lock.new_mode, wanted)


class LockClient:
    """All locks of a mount.

    `idle_count` may be changed at any time.  Methods return what is to be done, in this order.
    """

    def __init__(self, idle_count: int = IDLE_COUNT_DEFAULT) -> None:
        self.idle_count = idle_count
        self._locks: dict[bytes, _Lock] = {}
        self._idle: OrderedDict[bytes, None] = OrderedDict()
        self._last_gen = 0

    def __len__(self) -> int:
        return len(self._locks)

    # -- tasks ---------------------------------------------------------------------------------------------------

    def take(self, holder: Holder, request: LockRequest) -> list[Action]:
        """Take a lock for a task: `holder.waiting` is None if it has it, else wait for `Ready`.  Raises Deadlock."""
        holder.check_order(request)
        lock = self._locks.get(request.start)
        if lock is None:
            lock = self._locks[request.start] = _Lock(request.start, request.end)
        else:
            self._idle.pop(request.start, None)
        actions: list[Action] = []
        if self._idle and len(self._locks) > self.idle_count:
            actions = self._give_back(next(iter(self._idle)))
        if not lock.waiters and lock.admits(request.mode):
            self._use(lock, holder, request)
            return actions
        holder.waiting = request
        lock.waiters.append(holder)
        return actions + self._serve(lock)

    def try_take(self, holder: Holder, request: LockRequest) -> bool:
        """Take a lock if that needs nobody else; never asks the server."""
        lock = self._locks.get(request.start)
        if lock is None or lock.waiters or not lock.admits(request.mode):
            return False
        holder.check_order(request)
        self._idle.pop(request.start, None)
        self._use(lock, holder, request)
        return True

    def release(self, holder: Holder) -> list[Action]:
        """Let go of all locks of a task, and of the wish for one."""
        actions: list[Action] = []
        if holder.waiting is not None:
            lock = self._locks[holder.waiting.start]
            lock.waiters.remove(holder)
            holder.waiting = None
            actions += self._serve(lock)
            self._rest(lock)
        for request in reversed(holder.held):
            lock = self._locks[request.start]
            lock.users[request.mode] -= 1
            if not lock.users[request.mode]:
                del lock.users[request.mode]
            actions += self._next_invalidation(lock)
            self._rest(lock)
        holder.held.clear()
        return actions

    def release_last(self, holder: Holder) -> list[Action]:
        """Let go of the lock that a task took last."""
        only = Holder()
        only.held = [holder.held.pop()]
        return self.release(only)

    def shrink_all(self) -> list[Action]:
        """Give back all locks that nobody uses."""
        actions: list[Action] = []
        for start in list(self._idle):
            actions += self._give_back(start)
        return actions

    def write_seq(self, start: bytes) -> int:
        """Return the number of the grant of a lock that is held for writing."""
        return self._locks[start].write_seq

    def refresh_gen(self, start: bytes) -> int:
        """Return since which grant, counted over all locks, everything known under a lock is true; 0 if nothing is."""
        lock = self._locks.get(start)
        return lock.refresh_gen if lock is not None and may_read(lock.mode) else 0

    def granted_gen(self, start: bytes) -> int:
        """Return the generation of the last grant of a lock for reading, even if that has been given up since."""
        lock = self._locks.get(start)
        return 0 if lock is None else lock.refresh_gen

    @property
    def last_gen(self) -> int:
        """The generation of the newest grant for reading."""
        return self._last_gen

    def is_free(self, request: LockRequest) -> bool:
        """Whether the lock can be taken without waiting."""
        lock = self._locks.get(request.start)
        return lock is not None and not lock.waiters and lock.admits(request.mode)

    def is_lasting(self, start: bytes) -> bool:
        """Whether the server has not asked to have the lock back."""
        lock = self._locks.get(start)
        return lock is not None and not lock.invalidations

    def infos(self) -> Iterator[LockInfo]:
        """Yield all locks in the order of their names."""
        for start in sorted(self._locks):
            lock = self._locks[start]
            wanted = [holder.waiting.mode for holder in lock.waiters if holder.waiting is not None]
            modes = (LockMode.READ, LockMode.WRITE, LockMode.WRITE_ONLY)
            read, write, only = (wanted.count(mode) for mode in modes)
            users = (lock.users.get(modes[0], 0), lock.users.get(modes[1], 0), lock.users.get(modes[2], 0))
            yield LockInfo(start, lock.end, lock.refresh_gen, lock.mode, (read, write, only), users)

    # -- the server ----------------------------------------------------------------------------------------------

    def granted(self, message: LockMessage) -> list[Action]:
        """The server answers a request of ours.  Raises SessionError."""
        lock = self._locks.get(message.key)
        if lock is None or not lock.request_pending:
            raise SessionError(f"a grant of lock {message.key.hex()} that was not asked for")
        lock.request_pending = False
        if lock.is_lowering:
            lock.late_grant = message
            return []
        self._grant(lock, message)
        actions = self._serve(lock)
        self._rest(lock)
        return actions

    def invalidate(self, request: Request, message: LockMessage) -> list[Action]:
        """The server wants a lock back, or just its readers' half."""
        lock = self._locks.get(message.key)
        if lock is None:
            return [Answer(request, message)]
        self._idle.pop(message.key, None)
        lock.invalidations.append(_Invalidation(request, message))
        return self._next_invalidation(lock)

    def lowered(self, start: bytes) -> list[Action]:
        """What `Lower` asked for is done."""
        lock = self._locks[start]
        lock.invalidating_mode = LockMode.NULL
        request, message = lock.invalidations.popleft()
        actions: list[Action] = [Answer(request, message)]
        if lock.late_grant is not None:
            self._grant(lock, lock.late_grant)
            lock.late_grant = None
        actions += self._next_invalidation(lock)
        actions += self._serve(lock)
        self._rest(lock)
        return actions

    def server_changed(self) -> list[Action]:
        """Another server has accepted us: what the old one wants back counts no more, except where that has begun."""
        actions: list[Action] = []
        for lock in list(self._locks.values()):
            if lock.invalidations:
                begun = lock.invalidations.popleft() if lock.is_lowering else None
                lock.invalidations.clear()
                if begun is not None:
                    lock.invalidations.append(begun)
                actions += self._serve(lock)
                self._rest(lock)
        return actions

    def held_from(self, key: bytes) -> list[LockMessage]:
        """Return up to 22 locks from the name `key` on as a new server must count them: those being lost too."""
        held = (
            LockMessage(start, mode, mode, lock.write_seq if lock.late_grant is None else lock.late_grant.write_seq)
            for start, lock in self._locks.items()
            if start >= key and (mode := lock.recovery_mode) != LockMode.NULL
        )
        return nsmallest(LOCK_RECOVER_MAX, held)

    # -- one lock ------------------------------------------------------------------------------------------------

    def _grant(self, lock: _Lock, message: LockMessage) -> None:
        if may_read(message.new_mode) and not (may_read(message.old_mode) and may_read(lock.mode)):
            self._last_gen += 1
            lock.refresh_gen = self._last_gen
        lock.mode, lock.write_seq = message.new_mode, message.write_seq

    def _use(self, lock: _Lock, holder: Holder, request: LockRequest) -> None:
        lock.users[request.mode] = lock.users.get(request.mode, 0) + 1
        holder.held.append(request)

    def _serve(self, lock: _Lock) -> list[Action]:
        """Let those who wait use the lock as far as its mode serves them, and ask for what the next one needs."""
        actions: list[Action] = []
        for holder in list(lock.waiters):
            wanted = holder.waiting
            assert wanted is not None
            if lock.admits(wanted.mode):
                lock.waiters.remove(holder)
                holder.waiting = None
                self._use(lock, holder, wanted)
                actions.append(Ready(holder))
        for holder in lock.waiters:
            assert holder.waiting is not None
            if not lock.request_pending and not serves(lock.mode, holder.waiting.mode):
                lock.request_pending = True
                actions.append(Ask(LockMessage(lock.start, lock.mode, holder.waiting.mode)))
        return actions

    def _next_invalidation(self, lock: _Lock) -> list[Action]:
        """Begin with the oldest invalidation if no use stands in its way."""
        if not lock.invalidations or lock.is_lowering:
            return []
        request, message = lock.invalidations[0]
        left = message.new_mode if serves(lock.mode, message.new_mode) else LockMode.NULL
        if any(not serves(left, used) for used in lock.users):
            return []
        if lock.mode == left:
            # the server believes in more than there is, as after a change of servers
            lock.invalidations.popleft()
            actions: list[Action] = [Answer(request, message)]
            return actions + self._next_invalidation(lock) + self._serve(lock)
        lock.invalidating_mode, lock.mode = lock.mode, left
        return [Lower(lock.start, lock.end, lock.invalidating_mode, left)]

    def _rest(self, lock: _Lock) -> None:
        """Keep a lock that nobody needs among the unused ones, or forget it."""
        if not lock.is_idle:
            return
        if lock.mode == LockMode.NULL:
            self._locks.pop(lock.start, None)
            self._idle.pop(lock.start, None)
        else:
            self._idle[lock.start] = None
            self._idle.move_to_end(lock.start)

    def _give_back(self, start: bytes) -> list[Action]:
        del self._idle[start]
        lock = self._locks[start]
        lock.request_pending = True
        return [Ask(LockMessage(start, lock.mode, LockMode.NULL))]
