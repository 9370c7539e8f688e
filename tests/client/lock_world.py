"""Mounts whose tasks take locks from servers that come and go: every order of events follows from a seed."""

from __future__ import annotations

import random
from collections import deque
from typing import Any

from format.net import Command
from format.payloads import LockMode
from scoutfs.client.lock_client import Answer, Ask, Holder, LockClient, Lower, Ready
from scoutfs.files.store import ORPHAN_LOCK, QUOTA_LOCK, RENAME_LOCK, LockRequest, inode_request
from scoutfs.network.locks import LockMessage, may_read, may_write
from scoutfs.network.session import Request
from scoutfs.server.lock_server import Grant, Invalidate, LockServer, Recover

NAMES = [inode_request(1), inode_request(2), inode_request(3), ORPHAN_LOCK, QUOTA_LOCK, RENAME_LOCK]
MODES = (LockMode.READ, LockMode.WRITE, LockMode.WRITE_ONLY)


class Task:
    """Takes some locks one after the other, uses them, and lets go."""

    def __init__(self, wanted: list[LockRequest]) -> None:
        self.holder = Holder()
        self.wanted = deque(wanted)


class Mount:
    """A client; `sent` are its requests without an answer, by id, which a new server gets again."""

    def __init__(self, rid: int, idle_count: int) -> None:
        self.rid = rid
        self.locks = LockClient(idle_count)
        self.epoch = 0
        self.next_id = 1
        self.sent: dict[int, LockMessage] = {}
        self.tasks: list[Task] = []
        self.lowering: list[Lower] = []
        self.up: deque[tuple[str, Any]] = deque()
        self.down: deque[tuple[str, Any]] = deque()
        self.seen: dict[bytes, tuple[int, int]] = {}


class World:
    """`done` counts finished tasks; events happen one at a time, which one is drawn."""

    def __init__(self, seed: int, *, mounts: int = 3, idle_count: int = 1000, names: int = len(NAMES)) -> None:
        self.random = random.Random(seed)
        self.names = NAMES[:names]
        self.epoch = 0
        self.persisted_seq = self.seq = 0
        self.done = 0
        self.versions: dict[bytes, int] = {}
        self.writers: dict[bytes, tuple[int, int]] = {}
        self.arrived: dict[bytes, deque[int]] = {}
        self.greeting: list[Mount] = []
        self.mounts = {rid: Mount(rid, idle_count) for rid in range(1, mounts + 1)}
        self.start_server(recover=False)

    # The server

    def start_server(self, *, recover: bool = True) -> None:
        """Another server takes over: what the old one had sent or was sent is lost."""
        self.epoch += 1
        self.seq = self.persisted_seq
        self.arrived.clear()
        self.server = LockServer(self.next_seq, self.raise_seq, self.mounts if recover else ())
        for mount in self.mounts.values():
            mount.up.clear()
            mount.down.clear()
        self.greeting = list(self.mounts.values())

    def next_seq(self) -> int:
        """Return the next of the server's numbers."""
        self.seq += 1
        return self.seq

    def raise_seq(self, seq: int) -> None:
        """Go on behind a number."""
        self.seq = max(self.seq, seq)

    def greet(self, mount: Mount) -> None:
        """A mount meets the new server, and asks again what was not answered."""
        self.greeting.remove(mount)
        mount.epoch = self.epoch
        self.send(self.server.greeted(mount.rid))
        for id, message in mount.sent.items():
            mount.up.append(("request", (id, message)))
        self.act(mount, mount.locks.server_changed())

    def send(self, sends: list[Any]) -> None:
        """Send what a server wants to."""
        for send in sends:
            mount = self.mounts.get(send.rid)
            if isinstance(send, Grant):
                expected = self.arrived[send.lock.key]
                assert expected.popleft() == send.rid, "not in the order in which it was asked for"
            if mount is None:
                continue
            if isinstance(send, Grant):
                mount.down.append(("grant", send))
            elif isinstance(send, Invalidate):
                mount.down.append(("invalidate", send.lock))
            else:
                assert isinstance(send, Recover)
                mount.down.append(("recover", send.key))

    def receive(self, mount: Mount) -> None:
        """The server gets the next message of a mount."""
        kind, what = mount.up.popleft()
        if kind == "request":
            id, message = what
            self.arrived.setdefault(message.key, deque()).append(mount.rid)
            self.send(self.server.request(mount.rid, id, message))
        elif kind == "answer":
            self.send(self.server.invalidated(mount.rid, what))
        else:
            self.send(self.server.recovered(mount.rid, what))

    def kill(self, rid: int) -> None:
        """A mount dies, and is fenced: what it has written and not committed nobody has seen."""
        mount = self.mounts.pop(rid)
        if mount in self.greeting:
            self.greeting.remove(mount)
        for waiting in self.arrived.values():
            while rid in waiting:
                waiting.remove(rid)
        for start, (writer, seq) in self.writers.items():
            if writer == rid and seq > self.persisted_seq:
                self.writers[start] = (0, 0)
        self.send(self.server.leave(rid))

    # Mounts

    def deliver(self, mount: Mount) -> None:
        """A mount gets the next message of the server."""
        kind, what = mount.down.popleft()
        if kind == "grant":
            del mount.sent[what.id]
            self.act(mount, mount.locks.granted(what.lock))
        elif kind == "invalidate":
            request = Request(Command.LOCK, self.random.randrange(1 << 30), b"", mount.epoch)
            self.act(mount, mount.locks.invalidate(request, what))
        else:
            mount.up.append(("recovered", mount.locks.held_from(what)))

    def act(self, mount: Mount, actions: list[Any]) -> None:
        """Do what a mount's locks ask for."""
        for action in actions:
            if isinstance(action, Ask):
                id, mount.next_id = mount.next_id, mount.next_id + 1
                mount.sent[id] = action.lock
                if mount.epoch == self.epoch:
                    mount.up.append(("request", (id, action.lock)))
            elif isinstance(action, Answer):
                if action.request.epoch == mount.epoch == self.epoch:
                    mount.up.append(("answer", action.lock))
            elif isinstance(action, Lower):
                mount.lowering.append(action)
            else:
                assert isinstance(action, Ready)

    def start_task(self, mount: Mount) -> None:
        """A task begins that wants some locks."""
        chosen = self.random.sample(self.names, self.random.randint(1, min(3, len(self.names))))
        wanted = sorted(request._replace(mode=self.random.choice(MODES)) for request in chosen)
        mount.tasks.append(Task(wanted))

    def step_task(self, mount: Mount, task: Task) -> None:
        """A task takes its next lock, or uses all and lets go."""
        self.check_users()
        if task.wanted:
            self.act(mount, mount.locks.take(task.holder, task.wanted.popleft()))
            return
        for request in task.holder.held:
            self.use(mount, request)
        mount.tasks.remove(task)
        self.done += 1
        self.act(mount, mount.locks.release(task.holder))

    def use(self, mount: Mount, request: LockRequest) -> None:
        """Read what nobody may have changed unseen; write with a number above all others' before."""
        start, version = request.start, self.versions.get(request.start, 0)
        if may_read(request.mode):
            gen = mount.locks.refresh_gen(start)
            assert gen
            known_gen, known_version = mount.seen.get(start, (0, 0))
            assert known_gen != gen or known_version == version, "what was known is not true any more"
            mount.seen[start] = (gen, version)
        if may_write(request.mode):
            write_seq = mount.locks.write_seq(start)
            writer, last = self.writers.get(start, (0, 0))
            shared = request.mode == LockMode.WRITE_ONLY
            assert write_seq > last or writer == mount.rid or shared, "a number that was used by another"
            assert write_seq
            self.writers[start] = (mount.rid, max(write_seq, last))
            self.versions[start] = version + 1
            if request.mode == LockMode.WRITE:
                mount.seen[start] = (mount.locks.refresh_gen(start), version + 1)

    def lowered(self, mount: Mount, lower: Lower) -> None:
        """A mount has committed with the server, which learns the numbers of the items, and forgotten what it must."""
        mount.lowering.remove(lower)
        assert [lock.mode for lock in mount.locks.infos() if lock.start == lower.start] == [lower.new_mode]
        if may_write(lower.old_mode):
            self.persisted_seq = max(self.persisted_seq, self.writers.get(lower.start, (0, 0))[1])
            self.raise_seq(self.persisted_seq)
        self.act(mount, mount.locks.lowered(lower.start))

    # Time

    def events(self) -> list[Any]:
        """Return what may happen next."""
        found: list[Any] = [(self.greet, (mount,)) for mount in self.greeting]
        for mount in self.mounts.values():
            if mount.up:
                found.append((self.receive, (mount,)))
            if mount.down:
                found.append((self.deliver, (mount,)))
            connected = mount.epoch == self.epoch
            found += [
                (self.lowered, (mount, lower)) for lower in mount.lowering if connected or not may_write(lower.old_mode)
            ]
            found += [(self.step_task, (mount, task)) for task in mount.tasks if task.holder.waiting is None]
        return found

    def run(self, tasks: int, *, restarts: float = 0.0, deaths: float = 0.0) -> None:
        """Start so many tasks among other events, then let all that goes on end."""
        started = 0
        for _ in range(tasks * 300):
            events = self.events()
            if started < tasks and (not events or self.random.random() < 0.1):
                started += 1
                self.start_task(self.random.choice(list(self.mounts.values())))
                continue
            if started < tasks and self.random.random() < restarts:
                self.start_server()
            elif started < tasks and len(self.mounts) > 1 and self.random.random() < deaths:
                self.kill(self.random.choice(list(self.mounts)))
            elif events:
                event, arguments = self.random.choice(events)
                event(*arguments)
                self.check_holders()
            else:
                break
        assert not self.events(), "it does not come to an end"
        assert not any(mount.tasks for mount in self.mounts.values()), "a task waits for ever"
        assert {entry.state for entry in self.server.entries()} <= {"granted"}

    # Invariants

    def check_holders(self) -> None:
        """Readers, or those that only write, or one that writes (I1); those that are being lowered count as before."""
        holders: dict[bytes, list[LockMode]] = {}
        for mount in self.mounts.values():
            for lock in mount.locks.infos():
                lowering = [lower.old_mode for lower in mount.lowering if lower.start == lock.start]
                holders.setdefault(lock.start, []).append(lowering[0] if lowering else lock.mode)
        for start, modes in holders.items():
            held = [mode for mode in modes if mode != LockMode.NULL]
            compatible = len(held) < 2 or (len(set(held)) == 1 and held[0] != LockMode.WRITE)
            assert compatible, f"{start.hex()} is held as {held}"

    def check_users(self) -> None:
        """What tasks believe to hold, their mounts hold."""
        for mount in self.mounts.values():
            modes = {lock.start: lock.mode for lock in mount.locks.infos()}
            for task in mount.tasks:
                for request in task.holder.held:
                    served = (request.mode, LockMode.WRITE if may_read(request.mode) else request.mode)
                    assert modes[request.start] in served
