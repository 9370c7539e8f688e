"""The commands of transcripts: each does something to a simulated cluster, or shows something of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from format.message import Message, MessageType
from scoutfs.quorum.actions import STRICT_RULES, Rules
from scoutfs.quorum.election import ServerStatus
from scoutfs.quorum.status import Role
from scoutfs.simulation.cluster import Cluster, ClusterConfig, Fencing, links_between
from scoutfs.simulation.disk import DiskPath
from scoutfs.simulation.invariants import Violation
from scoutfs.simulation.member import Member
from scoutfs.simulation.server import STRICT_SERVER_RULES
from scoutfs.simulation.stage import CommandError, Stage

_FILLERS = frozenset({"slot", "slots", "and"})
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s)")
_CONDITION_LIMIT = 600.0
_MEMBERS_MAX = 15


def perform(stage: Stage, line: str) -> None:
    """Do one command; raises CommandError, and Violation if the cluster has all its rules."""
    name, *rest = line.split()
    words = [word for word in rest if word not in _FILLERS]
    command = _COMMANDS.get(name)
    if command is None:
        raise CommandError(f"there is no command '{name}', only: {', '.join(sorted(_COMMANDS))}")
    if stage.over:
        raise CommandError("an invariant is violated: nothing can follow")
    if name != "cluster" and not stage.is_set:
        raise CommandError("the first command must be: cluster")
    try:
        command.function(stage, words)
    except (ValueError, IndexError, KeyError) as error:
        raise CommandError(f"cannot understand '{line}', usage: {name} {command.usage}") from error
    except Violation as violation:
        stage.violated(violation)


# -- words -----------------------------------------------------------------------------------------------------------


def _duration(word: str) -> float:
    match = _DURATION.fullmatch(word)
    if match is None:
        raise ValueError(word)
    return float(match[1]) * (0.001 if match[2] == "ms" else 1.0)


def _for(words: list[str]) -> tuple[list[str], float | None]:
    """Split `... for 3s` off."""
    if len(words) >= 2 and words[-2] == "for":
        return words[:-2], _duration(words[-1])
    return words, None


def _link(words: Sequence[str], stage: Stage) -> list[tuple[int, int]]:
    """`0 -> 1`, `0 <-> 1`, or `all`."""
    if list(words) == ["all"]:
        return links_between(stage.cluster.slots, stage.cluster.slots)
    left, arrow, right = words
    (source,), (destination,) = stage.slots([left]), stage.slots([right])
    if arrow == "<->":
        return [(source, destination), (destination, source)]
    if arrow != "->":
        raise ValueError(arrow)
    return [(source, destination)]


# -- the cluster and its time ----------------------------------------------------------------------------------------


def _cluster(stage: Stage, words: list[str]) -> None:
    given = dict(word.split("=", 1) for word in words)
    members = int(given.pop("members"))
    if not 1 <= members <= _MEMBERS_MAX:
        raise CommandError(f"{members} members are not between 1 and {_MEMBERS_MAX}")
    originals = [int(slot) for slot in given.pop("originals", "").split(",") if slot]
    without = tuple(rule for rule in given.pop("without", "").split(",") if rule)
    rules, server_rules = STRICT_RULES, STRICT_SERVER_RULES
    for rule in without:
        if rule in Rules._fields:
            rules = rules._replace(**{rule: False})
        elif rule in server_rules._fields:
            server_rules = server_rules._replace(**{rule: False})
        else:
            raise CommandError(f"there is no rule '{rule}'")
    config = ClusterConfig(
        members=members,
        heartbeat_timeout=_duration(given.pop("heartbeat_timeout", "10s")),
        rules=rules,
        server_rules=server_rules,
        originals=frozenset(originals),
    )
    seed = int(given.pop("seed"))
    if given:
        raise CommandError(f"a cluster has no '{next(iter(given))}'")
    stage.make(config, seed, without)


def _run(stage: Stage, words: list[str]) -> None:
    if words[0] != "until":
        (word,) = words
        stage.cluster.run(_duration(word))
        return
    condition, within, limit = words[1], words[2], _duration(words[3])
    if within != "within" or limit > _CONDITION_LIMIT or len(words) > 4:
        raise ValueError(within)
    if not stage.cluster.run_until(_CONDITIONS[condition](stage.cluster), limit):
        stage.say(f"not {condition} within {limit:g} s")


_CONDITIONS: Mapping[str, Callable[[Cluster], Callable[[], bool]]] = MappingProxyType(
    {
        "served": lambda cluster: lambda: cluster.serving_leader is not None,
        "elected": lambda cluster: lambda: bool(cluster.leaders),
        "unmounted": lambda cluster: lambda: not any(member.leaving for member in cluster.members.values()),
    }
)


# -- mounts ----------------------------------------------------------------------------------------------------------


def _mount(stage: Stage, words: list[str]) -> None:
    for slot in stage.slots(words):
        if slot in stage.cluster.members:
            raise CommandError(f"slot {slot} is mounted already")
        stage.cluster.start(slot)


def _replace(stage: Stage, words: list[str]) -> None:
    for member in stage.members(words):
        stage.cluster.start(member.slot)


def _unmount(stage: Stage, words: list[str]) -> None:
    for member in stage.members(words):
        member.unmount()


def _force_unmount(stage: Stage, words: list[str]) -> None:
    for member in stage.members(words):
        member.force_unmount()


def _crash(stage: Stage, words: list[str]) -> None:
    fuse = None
    if words[-1] == "actions":
        after, count = words[-3:-1]
        if after != "after":
            raise ValueError(after)
        words, fuse = words[:-3], int(count)
    for member in stage.members(words):
        if fuse is None:
            member.crash()
        else:
            member.fuse = fuse


def _pause(stage: Stage, words: list[str]) -> None:
    words, seconds = _for(words)
    if seconds is None:
        raise ValueError("for how long?")
    for member in stage.members(words):
        member.pause(seconds)


def _server(stage: Stage, words: list[str]) -> None:
    *words, verb = words
    if verb != "fails":
        raise ValueError(verb)
    for member in stage.members(words):
        member.server.fail()


def _heartbeat_timeout(stage: Stage, words: list[str]) -> None:
    *words, seconds = words
    for member in stage.members(words):
        member.set_heartbeat_timeout(_duration(seconds))


# -- the network -----------------------------------------------------------------------------------------------------


def _cut_links(stage: Stage, links: list[tuple[int, int]], seconds: float | None) -> None:
    network = stage.cluster.network
    network.cut(links)
    stage.later(seconds, lambda: network.mend(links))


def _cut(stage: Stage, words: list[str]) -> None:
    words, seconds = _for(words)
    _cut_links(stage, _link(words, stage), seconds)


def _isolate(stage: Stage, words: list[str]) -> None:
    words, seconds = _for(words)
    for slot in stage.slots(words):
        _cut_links(stage, links_between((slot,), stage.cluster.slots), seconds)


def _split(stage: Stage, words: list[str]) -> None:
    words, seconds = _for(words)
    bar = words.index("|")
    _cut_links(stage, links_between(stage.slots(words[:bar]), stage.slots(words[bar + 1 :])), seconds)


def _network(stage: Stage, words: list[str]) -> None:
    """`loss 0.3 duplication 0.1`: what is not named is zero."""
    words, seconds = _for(words)
    names = ("loss", "corruption", "duplication", "reordering")
    chances = {name: float(value) for name, value in zip(words[::2], words[1::2], strict=True)}
    if not chances or not set(chances) <= set(names) or not 0.0 <= sum(chances.values()) <= 1.0:
        raise ValueError(words)
    stage.cluster.network.set_faults(**chances)
    stage.later(seconds, stage.cluster.network.set_faults)


def _delay(stage: Stage, words: list[str]) -> None:
    (word,), seconds = _for(words)
    network = stage.cluster.network
    network.set_delay((_duration(word), _duration(word)))
    stage.later(seconds, lambda: network.set_delay(stage.cluster.config.network_delay))


def _hold(stage: Stage, words: list[str]) -> None:
    stage.cluster.network.hold([] if words == ["nothing"] else _link(words, stage))


def _messages(stage: Stage, words: list[str]) -> None:
    if words:
        raise ValueError(words)
    for source, destination, message in stage.cluster.network.waiting:
        stage.say(f"{message.type.name} {message.term} of slot {source} to slot {destination}")


def _deliver(stage: Stage, words: list[str]) -> None:
    for _, destination, message in _take_waiting(stage, words):
        stage.cluster.network.arrive(destination, message)
    stage.cluster.run(0.0)


def _drop(stage: Stage, words: list[str]) -> None:
    _take_waiting(stage, words)


def _take_waiting(stage: Stage, words: list[str]) -> list[tuple[int, int, Message]]:
    """Take held datagrams out: `[TYPE] 0 -> 1` or `[TYPE] all`."""
    kind = MessageType[words[0]] if words[0].isupper() else None
    links = _link(words if kind is None else words[1:], stage)
    network = stage.cluster.network
    taken = [held for held in network.waiting if held[:2] in links and kind in (None, held[2].type)]
    if not taken:
        raise CommandError("no such message waits")
    network.waiting = [held for held in network.waiting if held not in taken]
    return taken


def _forge(stage: Stage, words: list[str]) -> None:
    """`HEARTBEAT 9 from 1 to 0`: whoever sent it, it has the address of slot 1."""
    kind, term, of, sender, to, *destinations = words
    if (of, to) != ("from", "to"):
        raise ValueError(words)
    message = Message(int(term), MessageType[kind], int(sender))
    for slot in stage.slots(destinations):
        stage.cluster.network.arrive(slot, message)
    stage.cluster.run(0.0)


# -- disks and fence agents ------------------------------------------------------------------------------------------


def _disk(stage: Stage, words: list[str]) -> None:
    """`1 slow 50`, `1 stalled for 3s`, `1 cannot read 0`, `1 cannot write`, each with `for 3s`."""
    words, seconds = _for(words)
    slot_word, fault, *rest = words
    cluster = stage.cluster
    for slot in stage.slots([slot_word]):
        path = cluster.paths[slot]
        if fault == "slow":
            (factor,) = rest
            path.slowness = float(factor)
        elif fault == "stalled" and seconds is not None and not rest:
            path.stalled_until = cluster.now + seconds
        elif fault == "cannot" and rest[0] == "read":
            path.unreadable |= frozenset(stage.slots(rest[1:]))
        elif fault == "cannot" and rest == ["write"]:
            path.unwritable = True
        else:
            raise ValueError(words)
        stage.later(seconds, lambda slot=slot: cluster.paths.update({slot: DiskPath()}))  # type: ignore[misc]


def _fence_agent(stage: Stage, words: list[str]) -> None:
    *words, state = words
    for slot in stage.slots(words):
        stage.cluster.fencing[slot] = _FENCING[state]


_FENCING = MappingProxyType({"works": Fencing.WORKS, "fails": Fencing.FAILS, "absent": Fencing.ABSENT})


def _heal(stage: Stage, words: list[str]) -> None:
    if words:
        raise ValueError(words)
    cluster = stage.cluster
    stage.healed()
    cluster.network.heal()
    cluster.network.set_delay(cluster.config.network_delay)
    for slot in cluster.slots:
        cluster.paths[slot] = DiskPath()
        cluster.fencing[slot] = Fencing.WORKS


# -- looking ---------------------------------------------------------------------------------------------------------


def _status(stage: Stage, words: list[str]) -> None:
    for slot in stage.slots(words or ["all"]):
        stage.say(f"slot {slot}: {_member_status(stage.cluster.members.get(slot))}")


def _member_status(member: Member | None) -> str:
    if member is None:
        return "not mounted"
    election = member.election
    if election is None:
        return "has not begun"
    status = election.status
    parts = [f"{status.role.name.lower()} of term {status.term}"]
    if election.finished:
        parts = [f"takes no part any more, in term {status.term}"]
    elif status.role is Role.FOLLOWER:
        parts.append("gave no vote" if status.vote_for < 0 else f"voted for {status.vote_for}")
    else:
        votes = [str(slot) for slot in member.cluster.slots if status.votes >> slot & 1]
        parts.append(f"has votes of {', '.join(votes)}")
    if member.server.status is not ServerStatus.DOWN:
        parts.append(f"server of term {member.server.term} is {member.server.status.name}")
    return "; ".join(parts)


def _blocks(stage: Stage, words: list[str]) -> None:
    for slot in stage.slots(words or ["all"]):
        block = stage.cluster.disk.blocks[slot]
        events = sorted(block.events.items(), key=lambda item: item[1].write_nr)
        texts = [f"{record.write_nr}: {event.name} {record.term} by {record.rid:x}" for event, record in events]
        stage.say(f"block of slot {slot}: {'; '.join(texts) or 'empty'}")


class _Command(NamedTuple):
    function: Callable[[Stage, list[str]], None]
    usage: str


_COMMANDS: Mapping[str, _Command] = MappingProxyType(
    {
        "cluster": _Command(
            _cluster, "members=N seed=N [heartbeat_timeout=10s] [originals=SLOT,...] [without=RULE,...]"
        ),
        "run": _Command(_run, "DURATION | until served|elected|unmounted within DURATION"),
        "mount": _Command(_mount, "SLOTS"),
        "replace": _Command(_replace, "SLOTS"),
        "unmount": _Command(_unmount, "SLOTS"),
        "force-unmount": _Command(_force_unmount, "SLOTS"),
        "crash": _Command(_crash, "SLOTS [after N actions]"),
        "pause": _Command(_pause, "SLOTS for DURATION"),
        "server": _Command(_server, "SLOTS fails"),
        "heartbeat_timeout": _Command(_heartbeat_timeout, "SLOTS DURATION"),
        "cut": _Command(_cut, "SLOT ->|<-> SLOT [for DURATION]"),
        "isolate": _Command(_isolate, "SLOTS [for DURATION]"),
        "split": _Command(_split, "SLOTS | SLOTS [for DURATION]"),
        "network": _Command(_network, "loss|corruption|duplication|reordering CHANCE... [for DURATION]"),
        "delay": _Command(_delay, "DURATION [for DURATION]"),
        "hold": _Command(_hold, "SLOT ->|<-> SLOT | all | nothing"),
        "messages": _Command(_messages, ""),
        "deliver": _Command(_deliver, "[TYPE] SLOT ->|<-> SLOT | [TYPE] all"),
        "drop": _Command(_drop, "[TYPE] SLOT ->|<-> SLOT | [TYPE] all"),
        "forge": _Command(_forge, "TYPE TERM from SLOT to SLOTS"),
        "disk": _Command(_disk, "SLOT slow FACTOR | stalled | cannot read SLOTS | cannot write [for DURATION]"),
        "fence-agent": _Command(_fence_agent, "SLOTS works|fails|absent"),
        "heal": _Command(_heal, ""),
        "status": _Command(_status, "[SLOTS]"),
        "blocks": _Command(_blocks, "[SLOTS]"),
    }
)
