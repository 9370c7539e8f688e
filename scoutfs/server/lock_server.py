"""Which mount holds which lock in which mode, and who waits for it (spec 05 §3).  Pure.

Requests for a lock are served strictly in the order in which they came: those at the head that agree with what is held
are granted together, the first that does not waits until the others have given the lock up, and all behind it wait for
it.  Everything is in memory: a new server asks the clients of the old one what they hold, and grants nothing before
all have answered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from format.block import FormatError
from format.keys import Key
from format.payloads import LockMode
from scoutfs.network.locks import NO_KEY, LockMessage, may_write
from scoutfs.network.session import SessionError

_KEY_AFTER_ALL = Key.ONES.sort_bytes


class Grant(NamedTuple):
    """Answer the request `id` of a client."""

    rid: int
    id: int
    lock: LockMessage


class Invalidate(NamedTuple):
    """Ask a client to go down from the old to the new mode of `lock`."""

    rid: int
    lock: LockMessage


class Recover(NamedTuple):
    """Ask a client for the locks that it holds, from the name `key` on."""

    rid: int
    key: bytes


Send = Grant | Invalidate | Recover
"""What to send a client, in this order; nothing if the client is gone."""


class LockEntry(NamedTuple):
    """A line of a listing: `state` is granted, requested or invalidated; `id` 0 for what was recovered."""

    key: bytes
    mode: LockMode
    state: str
    rid: int
    id: int

    def __str__(self) -> str:
        """Return the line of the original's file `server_locks` (spec 05 §3.4)."""
        mode = self.mode.name.lower()
        return f"{Key.from_sort_bytes(self.key)} {mode} {self.state} rid {self.rid:016x} net_id {self.id}"


class _Held(NamedTuple):
    mode: LockMode
    id: int


class _Wish(NamedTuple):
    rid: int
    id: int
    mode: LockMode


class _Loss(NamedTuple):
    """What a client was asked to give up, and what stays with it."""

    held: _Held
    left: LockMode


@dataclass(slots=True)
class _Lock:
    granted: dict[int, _Held] = field(default_factory=dict)
    requested: list[_Wish] = field(default_factory=list)
    invalidated: dict[int, _Loss] = field(default_factory=dict)

    @property
    def is_unused(self) -> bool:
        return not (self.granted or self.requested or self.invalidated)


class LockServer:
    """The locks of all clients.

    `next_seq` returns a sequence number greater than all before, `raise_seq` has the next ones be greater than what it
    is given.  `recovering` are the rids of clients that may hold locks of the previous server.  Methods return what is
    to be sent and raise SessionError for what no correct client sends: its connection is to be closed.
    """

    def __init__(
        self, next_seq: Callable[[], int], raise_seq: Callable[[int], None], recovering: Iterable[int] = ()
    ) -> None:
        self._next_seq, self._raise_seq = next_seq, raise_seq
        self._recovering = dict.fromkeys(recovering, NO_KEY)
        self._locks: dict[bytes, _Lock] = {}

    @property
    def recovering(self) -> frozenset[int]:
        """The clients that have not told yet what they hold: nothing is granted before they have, or are gone."""
        return frozenset(self._recovering)

    def entries(self) -> Iterator[LockEntry]:
        """Yield everything that is known, in the order of the names."""
        for key, lock in sorted(self._locks.items()):
            for rid, held in lock.granted.items():
                yield LockEntry(key, held.mode, "granted", rid, held.id)
            for wish in lock.requested:
                yield LockEntry(key, wish.mode, "requested", wish.rid, wish.id)
            for rid, loss in lock.invalidated.items():
                yield LockEntry(key, loss.held.mode, "invalidated", rid, loss.held.id)

    def request(self, rid: int, id: int, message: LockMessage) -> list[Send]:
        """A client asks for a lock in `new_mode`, NULL to give it back; its `old_mode` counts for nothing."""
        lock = self._locks.setdefault(message.key, _Lock())
        if any(wish.rid == rid for wish in lock.requested):
            raise SessionError(f"mount {rid:016x} asks twice for lock {_name(message.key)}")
        lock.requested.append(_Wish(rid, id, message.new_mode))
        return self._process(message.key, lock)

    def invalidated(self, rid: int, message: LockMessage) -> list[Send]:
        """A client has done what it was asked to: the message repeats the request."""
        lock = self._locks.get(message.key)
        loss = lock.invalidated.get(rid) if lock is not None else None
        if lock is None or loss is None or loss.left != message.new_mode:
            raise SessionError(f"mount {rid:016x} was not asked to give up lock {_name(message.key)}")
        del lock.invalidated[rid]
        if loss.left != LockMode.NULL:
            lock.granted[rid] = _Held(loss.left, loss.held.id)
        return self._process(message.key, lock)

    def greeted(self, rid: int) -> list[Send]:
        """A client has greeted for the first time; whatever it said of its locks on an earlier connection is void."""
        if rid not in self._recovering:
            return []
        for lock in self._locks.values():
            lock.granted.pop(rid, None)
        self._recovering[rid] = NO_KEY
        return [Recover(rid, NO_KEY)]

    def recovered(self, rid: int, locks: Sequence[LockMessage]) -> list[Send]:
        """A client tells what it holds, in the order of the names; nothing when that is all."""
        if rid not in self._recovering:
            raise SessionError(f"mount {rid:016x} was not asked for its locks")
        if not locks:
            return self._recovery_ended(rid)
        for message in locks:
            if message.key < self._recovering[rid]:
                raise SessionError(f"mount {rid:016x} tells of lock {_name(message.key)} out of order")
            if message.key == _KEY_AFTER_ALL:
                raise SessionError(f"mount {rid:016x} tells of a lock with the last of all keys")
            self._recovering[rid] = _after(message.key)
            lock = self._locks.setdefault(message.key, _Lock())
            lock.granted[rid] = _Held(message.new_mode, 0)
            self._raise_seq(message.write_seq)
        return [Recover(rid, self._recovering[rid])]

    def leave(self, rid: int) -> list[Send]:
        """A client is gone, and nothing can come from it any more; others get what it had."""
        sends: list[Send] = []
        for key, lock in sorted(self._locks.items()):
            before = len(lock.granted), len(lock.requested), len(lock.invalidated)
            lock.granted.pop(rid, None)
            lock.invalidated.pop(rid, None)
            lock.requested = [wish for wish in lock.requested if wish.rid != rid]
            if before != (len(lock.granted), len(lock.requested), len(lock.invalidated)):
                sends += self._process(key, lock)
        return sends + (self._recovery_ended(rid) if rid in self._recovering else [])

    def _recovery_ended(self, rid: int) -> list[Send]:
        del self._recovering[rid]
        if self._recovering:
            return []
        return [send for key, lock in sorted(self._locks.items()) for send in self._process(key, lock)]

    def _process(self, key: bytes, lock: _Lock) -> list[Send]:
        """Grant what can be, and ask for what the next request needs (S3)."""
        sends: list[Send] = []
        while lock.requested and not lock.invalidated and not self._recovering:
            wish = lock.requested[0]
            for rid, held in list(lock.granted.items()):
                if not _agree(rid, held.mode, wish):
                    left = LockMode.NULL
                    if held.mode == LockMode.WRITE and wish.mode == LockMode.READ:
                        left = LockMode.READ
                    del lock.granted[rid]
                    lock.invalidated[rid] = _Loss(held, left)
                    sends.append(Invalidate(rid, LockMessage(key, held.mode, left)))
            if lock.invalidated:
                break
            del lock.requested[0]
            old = lock.granted.pop(wish.rid, None)
            write_seq = self._next_seq() if may_write(wish.mode) else 0
            old_mode = LockMode.NULL if old is None else old.mode
            sends.append(Grant(wish.rid, wish.id, LockMessage(key, old_mode, wish.mode, write_seq)))
            if wish.mode != LockMode.NULL:
                lock.granted[wish.rid] = _Held(wish.mode, wish.id)
        if lock.is_unused:
            self._locks.pop(key, None)
        return sends


def _agree(rid: int, mode: LockMode, wish: _Wish) -> bool:
    """Whether a client may hold the lock in `mode` when the wish is granted (spec 05 §2.1)."""
    if mode == wish.mode and mode in (LockMode.READ, LockMode.WRITE_ONLY):
        return True
    if rid == wish.rid:
        return mode == LockMode.READ and wish.mode == LockMode.WRITE
    return LockMode.NULL in (mode, wish.mode)


def _after(key: bytes) -> bytes:
    return Key.from_sort_bytes(key).increment().sort_bytes


def _name(key: bytes) -> str:
    try:
        return str(Key.from_sort_bytes(key))
    except FormatError:
        return key.hex()
