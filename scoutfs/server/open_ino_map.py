"""Which inodes some mount has open: a question of one mount to all others (spec 03 §8.12).  Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from format.payloads import OpenInoMap, OpenInoMapArgs, parse_payload

_WORDS = 16
_MASK = (1 << 64) - 1


class Ask(NamedTuple):
    """Send the request OPEN_INO_MAP with `payload` to the mount `rid`."""

    rid: int
    payload: bytes


class Answer(NamedTuple):
    """Answer the request `id` of the mount `rid` with `payload`."""

    rid: int
    id: int
    payload: bytes


Send = Ask | Answer


@dataclass
class _Question:
    rid: int
    id: int
    group: int
    bits: int = 0
    waiting: set[int] = field(default_factory=set)


class OpenInoMaps:
    """The questions that are open.  Methods return what is to be sent; nothing if a mount is gone."""

    def __init__(self) -> None:
        self._mounts: dict[int, None] = {}
        self._questions: dict[int, _Question] = {}
        self._deferred: list[_Question] = []
        self._last_id = 0

    def greeted(self, rid: int) -> list[Send]:
        """A mount has greeted this server for the first time: it is asked, once more if it was already."""
        self._mounts[rid] = None
        return [
            Ask(rid, _args(question.group, id)) for id, question in self._questions.items() if rid in question.waiting
        ]

    def request(self, rid: int, id: int, payload: bytes, *, defer: bool) -> list[Send]:
        """A mount asks; `defer` says that some that may have inodes open have not greeted yet.  Raises FormatError."""
        args = parse_payload(OpenInoMapArgs, payload, "OPEN_INO_MAP")
        question = _Question(rid, id, args.group_nr)
        if defer:
            self._deferred.append(question)
            return []
        return self._ask(question)

    def all_greeted(self) -> list[Send]:
        """Nobody is missing any more: ask what was deferred."""
        deferred, self._deferred = self._deferred, []
        return [send for question in deferred for send in self._ask(question)]

    def answered(self, rid: int, payload: bytes) -> list[Send]:
        """A mount has answered; raises FormatError.  What nobody asked it is ignored."""
        answer = parse_payload(OpenInoMap, payload, "OPEN_INO_MAP")
        question = self._questions.get(answer.args.req_id)
        if question is None or rid not in question.waiting or answer.args.group_nr != question.group:
            return []
        question.bits |= sum(word << 64 * index for index, word in enumerate(answer.bits))
        question.waiting.discard(rid)
        return self._finished(answer.args.req_id, question)

    def leave(self, rid: int) -> list[Send]:
        """A mount is gone, and has nothing open."""
        self._mounts.pop(rid, None)
        self._deferred = [question for question in self._deferred if question.rid != rid]
        sends: list[Send] = []
        for id, question in list(self._questions.items()):
            if question.rid == rid:
                del self._questions[id]
            elif rid in question.waiting:
                question.waiting.discard(rid)
                sends += self._finished(id, question)
        return sends

    def _ask(self, question: _Question) -> list[Send]:
        self._last_id += 1
        id = self._last_id
        question.waiting = set(self._mounts) - {question.rid}
        self._questions[id] = question
        asks: list[Send] = [Ask(rid, _args(question.group, id)) for rid in self._mounts if rid != question.rid]
        return asks + self._finished(id, question)

    def _finished(self, id: int, question: _Question) -> list[Send]:
        if question.waiting:
            return []
        del self._questions[id]
        bits = [question.bits >> 64 * word & _MASK for word in range(_WORDS)]
        payload = OpenInoMap.build({"args": {"group_nr": question.group, "req_id": id}, "bits": bits})
        return [Answer(question.rid, question.id, payload)]


def _args(group: int, id: int) -> bytes:
    return OpenInoMapArgs.build({"group_nr": group, "req_id": id})
