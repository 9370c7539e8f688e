"""A network that loses, delays, repeats, reorders and corrupts datagrams, each direction of a link by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from random import Random

from format.message import Message
from scoutfs.simulation.schedule import Schedule

Deliver = Callable[[int, Message | None], None]
"""`deliver(destination, message)`: a datagram arrives at the address of a slot; None is one with a bad checksum."""

REORDERING_DELAY = 0.05
"""Seconds by which a reordered datagram is late at most."""


class Network:
    """Carries messages between the addresses of slots.

    `delay` is the range of one-way latencies in seconds.  The four probabilities are those that one datagram is lost,
    arrives corrupted, arrives twice, or is overtaken by later ones.
    """

    __slots__ = (
        "_blocked",
        "_corruption",
        "_delay",
        "_delay_span",
        "_deliver",
        "_duplication",
        "_faulty",
        "_held",
        "_loss",
        "_random",
        "_reordering",
        "_schedule",
        "waiting",
    )

    def __init__(self, schedule: Schedule, random: Random, deliver: Deliver, delay: tuple[float, float]) -> None:
        self._schedule = schedule
        self._random = random.random
        self._deliver = deliver
        self._blocked: dict[tuple[int, int], int] = {}
        self._held: frozenset[tuple[int, int]] = frozenset()
        self.waiting: list[tuple[int, int, Message]] = []
        self.set_delay(delay)
        self.set_faults()

    def set_delay(self, delay: tuple[float, float]) -> None:
        """Set the range of one-way latencies, in seconds."""
        self._delay = delay[0]
        self._delay_span = delay[1] - delay[0]

    def set_faults(
        self, *, loss: float = 0.0, corruption: float = 0.0, duplication: float = 0.0, reordering: float = 0.0
    ) -> None:
        """Set all four probabilities."""
        self._loss = loss
        self._corruption = loss + corruption
        self._duplication = self._corruption + duplication
        self._reordering = self._duplication + reordering
        self._faulty = self._reordering > 0.0

    def cut(self, links: Iterable[tuple[int, int]]) -> None:
        """Let nothing through from the first to the second slot of each pair, until every such cut is mended."""
        for link in links:
            self._blocked[link] = self._blocked.get(link, 0) + 1

    def mend(self, links: Iterable[tuple[int, int]]) -> None:
        """Undo one `cut` of each pair; a pair that is not cut is left alone."""
        for link in links:
            cuts = self._blocked.pop(link, 0) - 1
            if cuts > 0:
                self._blocked[link] = cuts

    def hold(self, links: Iterable[tuple[int, int]]) -> None:
        """Let what is sent from the first to the second slot of each of these pairs, and of no others, wait.

        It waits in `waiting`, as (source, destination, message), until it is taken out and given to `arrive`.
        """
        self._held = frozenset(links)

    def arrive(self, destination: int, message: Message) -> None:
        """Let a datagram arrive now, whatever happens to others."""
        self._schedule.at(self._schedule.now, self._deliver, destination, message)

    def heal(self) -> None:
        """Mend every cut, and take all probabilities to zero."""
        self._blocked.clear()
        self.set_faults()

    def connected(self, source: int, destination: int) -> bool:
        """Return whether datagrams can pass from `source` to `destination`."""
        return (source, destination) not in self._blocked

    def send(self, source: int, destination: int, message: Message) -> None:
        """Send one datagram."""
        if self._blocked and (source, destination) in self._blocked:
            return
        if self._held and (source, destination) in self._held:
            self.waiting.append((source, destination, message))
            return
        schedule = self._schedule
        random = self._random
        arrival = schedule.now + self._delay + self._delay_span * random()
        if self._faulty:
            draw = random()
            if draw < self._loss:
                return
            if draw < self._corruption:
                schedule.at(arrival, self._deliver, destination, None)
                return
            if draw < self._duplication:
                schedule.at(arrival + REORDERING_DELAY * random(), self._deliver, destination, message)
            elif draw < self._reordering:
                arrival += REORDERING_DELAY * random()
        schedule.at(arrival, self._deliver, destination, message)
