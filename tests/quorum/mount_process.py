"""A mount without FUSE: a process with a member, driven by words on its standard input, reporting on its output.

    python -m tests.quorum.mount_process '{"meta": ..., "data": ..., "slots": {"0": ["127.0.0.1", 4000]}, "slot": 0}'

Every line of output is a JSON object: `spawned` (pid), `refused` (text, errno), `log` (level, text), `status` (text),
`facts` and `left`.  Words: `facts`, `leave`, `kill`, `option NAME VALUE`, `fenced RID`, `error RID`.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import trio

from format.quorum import EventRecord, QuorumConfig, SlotAddress
from scoutfs.errors import ScoutfsError
from scoutfs.quorum.election import ServerStatus
from scoutfs.quorum.member import MemberHandle, MemberOptions, spawn_member
from scoutfs.quorum.process import MonotonicClock, ServerSetup, server_thread
from scoutfs.quorum.registration import Registration
from scoutfs.server.lifecycle import ServerInfo
from scoutfs.storage.volume import Volume


def say(**event: Any) -> None:
    print(json.dumps(event), flush=True)


class InstantServer:
    """Up as soon as it is started, down as soon as it is stopped."""

    def __init__(self, setup: ServerSetup) -> None:
        self.setup = setup
        self.status = ServerStatus.DOWN
        self.term = 0

    def start(self, term: int, overwritten: tuple[tuple[int, EventRecord], ...] = ()) -> None:
        self.term = term
        self._become(ServerStatus.STARTING)
        self._become(ServerStatus.UP)

    def stop(self) -> None:
        self._become(ServerStatus.STOPPING)
        self._become(ServerStatus.DOWN)

    def info(self) -> ServerInfo:
        return ServerInfo(self.status, self.term)

    def _become(self, status: ServerStatus) -> None:
        self.status = status
        self.setup.on_status(status)


class BrokenServer(InstantServer):
    """Has a defect."""

    def start(self, term: int, overwritten: tuple[tuple[int, EventRecord], ...] = ()) -> None:
        raise ZeroDivisionError("a defect")


class UnbuildableServer(InstantServer):
    """Cannot even be made."""

    def __init__(self, setup: ServerSetup) -> None:
        os.abort()


SERVERS = {"instant": InstantServer, "broken": BrokenServer, "unbuildable": UnbuildableServer, "real": server_thread}


def main() -> None:
    given = json.loads(sys.argv[1])
    os.pipe()
    volume = Volume.open(given["data"], given.get("meta"))
    config = volume.super.quorum_config
    if "slots" in given:
        config = QuorumConfig(1, {int(nr): SlotAddress(*address) for nr, address in given["slots"].items()})
    rid, slot = given["rid"], given["slot"]
    registration = Registration.create(fsid=volume.fsid, rid=rid, slot=slot, directory=Path(given["registrations"]))
    options = MemberOptions(given.get("heartbeat_timeout_ms", 2000), local_fencing=given.get("local_fencing", True))
    server = SERVERS[given.get("server", "instant")]
    try:
        handle = spawn_member(volume, config, slot, rid, options, registration, make_server=server)
    except ScoutfsError as error:
        say(refused=str(error), errno=error.errno)
        registration.release(clean=True)
        return
    say(spawned=handle.pid)
    trio.run(serve, handle, registration, clock=MonotonicClock())


async def serve(handle: MemberHandle, registration: Registration) -> None:
    shown: list[tuple[object, ...]] = [()]

    def show() -> None:
        """Report what matters of the status, whenever it changes."""
        status = handle.status
        if status is None:
            return
        now = (status.term, status.role, status.server_event, handle.alive, handle.server.get("status"), handle.fences)
        if now != shown[0]:
            shown[0] = now
            say(status=facts(handle))

    handle.on_change = show
    async with trio.open_nursery() as nursery:
        await nursery.start(handle.run, lambda level, text: say(log=text, level=level))
        async for line in trio.wrap_file(sys.stdin):
            word, *rest = line.split()
            if word == "facts":
                say(facts=facts(handle))
            elif word == "option":
                handle.set_option(rest[0], int(rest[1]))
            elif word in ("fenced", "error"):
                handle.answer_fence(int(rest[0], 16), "fenced" if word == "fenced" else "error")
            elif word == "kill":
                handle.kill()
            elif word == "leave":
                await handle.leave()
                registration.release(clean=handle.left is None)
                say(left=handle.left)
                break
        nursery.cancel_scope.cancel()


def facts(handle: MemberHandle) -> dict[str, Any]:
    status = handle.status
    return {
        "alive": handle.alive,
        "leader": handle.is_leader,
        "term": status.term if status else None,
        "event": status.server_event if status else None,
        "text": handle.status_text(),
        "counters": {name: value for name, value in handle.counters.items() if value},
        "server": handle.server,
        "fences": [f"{view.rid:016x} {int(view.fenced)}{int(view.error)}" for view in handle.fences],
        "left": handle.left,
    }


if __name__ == "__main__":
    main()
