"""What a server and its mounts say to each other without the volume: locks, open inodes, wishes to commit.

A thin shell around the pure cores: it finds the sessions that their messages go to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from format.keys import Key
from format.net import Command
from scoutfs.metadata.commit import SequenceNumbers
from scoutfs.network.locks import LockMessage, parse_recovered
from scoutfs.network.session import Request, Response, ServerSession, SessionError
from scoutfs.server import lock_server, open_ino_map
from scoutfs.server.lock_server import LockServer
from scoutfs.server.open_ino_map import OpenInoMaps


class Conversations:
    """Locks and open inodes of the mounts of one server.

    `session` returns the session of a mount, None if it has lost it; `recovering` are the mounts that the previous
    server may have given locks to.  Who calls anything here has to wake the connections of all mounts then.
    """

    def __init__(
        self, seqs: SequenceNumbers, recovering: Iterable[int], session: Callable[[int], ServerSession | None]
    ) -> None:
        self.locks = LockServer(seqs.next, seqs.raise_to, recovering)
        self._maps = OpenInoMaps()
        self._session = session
        self._requests: dict[tuple[int, Command, int], tuple[ServerSession, Request]] = {}
        self._invalidations: dict[tuple[int, int], LockMessage] = {}

    def greeted(self, rid: int) -> None:
        """A mount has greeted this server for the first time."""
        self._send_locks(self.locks.greeted(rid))
        self._send_maps(self._maps.greeted(rid))

    def request(self, rid: int, session: ServerSession, request: Request, *, all_greeted: bool) -> None:
        """Take LOCK or OPEN_INO_MAP of a mount.  Raises FormatError: close the connection."""
        self._requests[rid, request.command, request.id] = session, request
        if request.command is Command.LOCK:
            self._send_locks(self.locks.request(rid, request.id, LockMessage.parse(request.payload)))
        else:
            self._send_maps(self._maps.request(rid, request.id, request.payload, defer=not all_greeted))

    def all_greeted(self) -> None:
        """Every mount that the volume records has greeted, or is gone."""
        self._send_maps(self._maps.all_greeted())

    def answered(self, rid: int, response: Response) -> None:
        """Take an answer of a mount.  Raises FormatError: close the connection."""
        if response.command is Command.SYNC_LOG_TREES:
            return
        if response.error:
            raise SessionError(f"{response.command.name} was answered with {response.error.name}")
        if response.command is Command.LOCK:
            self._given_up(rid, response.id, LockMessage.parse(response.payload))
        elif response.command is Command.LOCK_RECOVER:
            self._send_locks(self.locks.recovered(rid, parse_recovered(response.payload)))
        else:
            self._send_maps(self._maps.answered(rid, response.payload))

    def ask_to_commit(self, rid: int) -> None:
        """Ask a mount to commit its transaction, if it can be reached."""
        self._ask(rid, Command.SYNC_LOG_TREES, b"")

    def leave(self, rid: int) -> None:
        """A mount is gone and nothing can come from it any more."""
        self._send_locks(self.locks.leave(rid))
        self._send_maps(self._maps.leave(rid))
        for key in [key for key in self._requests if key[0] == rid]:
            del self._requests[key]
        for asked in [asked for asked in self._invalidations if asked[0] == rid]:
            del self._invalidations[asked]

    def _given_up(self, rid: int, id: int, lock: LockMessage) -> None:
        """Take the answer to an invalidation.

        A mount of the original may answer what the previous server has asked, with a number that is ours by now (spec
        05 §2.10 R8): then it is asked once more.
        """
        asked = self._invalidations.pop((rid, id), None)
        if asked is not None and (asked.key, asked.new_mode) != (lock.key, lock.new_mode):
            self._invalidate(rid, asked)
        else:
            self._send_locks(self.locks.invalidated(rid, lock))

    def _invalidate(self, rid: int, lock: LockMessage) -> None:
        id = self._ask(rid, Command.LOCK, lock.build())
        if id is not None:
            self._invalidations[rid, id] = lock

    def _send_locks(self, sends: Iterable[lock_server.Send]) -> None:
        for send in sends:
            if isinstance(send, lock_server.Grant):
                self._answer(send.rid, Command.LOCK, send.id, send.lock.build())
            elif isinstance(send, lock_server.Invalidate):
                self._invalidate(send.rid, send.lock)
            else:
                self._ask(send.rid, Command.LOCK_RECOVER, Key.from_sort_bytes(send.key).build())

    def _send_maps(self, sends: Iterable[open_ino_map.Send]) -> None:
        for send in sends:
            if isinstance(send, open_ino_map.Answer):
                self._answer(send.rid, Command.OPEN_INO_MAP, send.id, send.payload)
            else:
                self._ask(send.rid, Command.OPEN_INO_MAP, send.payload)

    def _ask(self, rid: int, command: Command, payload: bytes) -> int | None:
        """Send a request and return its id; None if the mount cannot be reached."""
        session = self._session(rid)
        return None if session is None else session.request(command, payload)

    def _answer(self, rid: int, command: Command, id: int, payload: bytes) -> None:
        found = self._requests.pop((rid, command, id), None)
        if found is not None:
            session, request = found
            session.respond(request, payload)
