"""What a server and its mounts say to each other of locks, through sessions."""

from __future__ import annotations

from format.net import Command, Header
from format.payloads import LockMode
from scoutfs.files.store import inode_request
from scoutfs.metadata.commit import SequenceNumbers
from scoutfs.network.framing import Frame
from scoutfs.network.locks import LockMessage
from scoutfs.network.session import Request, Response, ServerSession
from scoutfs.server.conversations import Conversations
from tests.network.capture import Message, messages

NULL, READ, WRITE, _ = LockMode
A, B = 1, 2
ONE, OTHER = inode_request(1).start, inode_request(2).start


class World:
    """Two mounts and what they were told."""

    def __init__(self) -> None:
        self.sessions = {rid: ServerSession(1) for rid in (A, B)}
        self.talk = Conversations(SequenceNumbers(), (), self.sessions.get)
        self.seqs = {A: 1, B: 1}
        for rid, session in self.sessions.items():
            session.attach()
            self.talk.greeted(rid)

    def told(self, rid: int) -> list[Message]:
        return messages(self.sessions[rid].take(100).data)

    def asks(self, rid: int, id: int, key: bytes, mode: LockMode) -> None:
        received = self._comes(rid, id, LockMessage(key, NULL, mode), response=False)
        assert isinstance(received, Request)
        self.talk.request(rid, self.sessions[rid], received, all_greeted=True)

    def answers(self, rid: int, id: int, key: bytes, old: LockMode, new: LockMode) -> None:
        received = self._comes(rid, id, LockMessage(key, old, new), response=True)
        assert isinstance(received, Response)
        self.talk.answered(rid, received)

    def _comes(self, rid: int, id: int, lock: LockMessage, *, response: bool) -> Request | Response | None:
        self.seqs[rid] += 1
        return self.sessions[rid].receive(
            Frame(Header(self.seqs[rid], 0, id, 48, Command.LOCK, response), lock.build())
        )


def test_an_answer_to_the_previous_server_is_not_taken_for_one_to_us() -> None:
    """Spec 05 §2.10, R8: mounts of the original may send it, with a number that we have given to something else."""
    world = World()
    for id, key in enumerate((ONE, OTHER), 10):
        world.asks(A, id, key, WRITE)
        world.asks(B, id, key, WRITE)
    world.told(B)
    asked = [message for message in world.told(A) if not message.flags]
    assert [LockMessage.parse(message.payload).key for message in asked] == [ONE, OTHER]
    world.answers(A, asked[0].id, inode_request(3).start, WRITE, NULL)
    (again,) = world.told(A)
    assert (again.id, LockMessage.parse(again.payload)) == (asked[1].id + 1, LockMessage(ONE, WRITE, NULL))
    assert world.told(B) == []
    world.answers(A, again.id, ONE, WRITE, NULL)
    world.answers(A, asked[1].id, OTHER, WRITE, NULL)
    assert [LockMessage.parse(message.payload).key for message in world.told(B)] == [ONE, OTHER]
