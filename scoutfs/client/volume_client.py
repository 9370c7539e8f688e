"""A volume as a mount of a cluster uses it: items under cluster locks, and operations on them (spec 05 §4, 04 §8, §9).

Everything runs in one trio loop; what blocks is done in threads, one function at a time.  Whoever loses a lock has the
kernel forget first, then commits, then forgets itself, and only then answers the server.
"""

from __future__ import annotations

import errno
import logging
import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

import trio

from format.keys import KEY_SIZE, Key, Zone
from format.net import Command
from format.payloads import LockMode, NetCount, NetInodeAlloc, OpenInoMapArgs, parse_payload
from scoutfs.client import lock_client
from scoutfs.client.client import Client
from scoutfs.client.exclusive import Exclusive
from scoutfs.client.held_locks import HeldLock, KernelSide, LosingLock, NoKernel, OperationLocks
from scoutfs.client.item_cache import ItemCache, RootsNeeded
from scoutfs.client.lock_client import Holder, LockClient, Lower
from scoutfs.client.mount_quotas import MountQuotas, TotalsNeeded
from scoutfs.client.open_inodes import OpenInodes
from scoutfs.client.renewed_roots import RenewedRoots
from scoutfs.client.transactions import Log, Server, Transactions
from scoutfs.errors import ScoutfsError
from scoutfs.files.change import Change, Surroundings
from scoutfs.files.ino_pools import BATCH, InoPools
from scoutfs.files.inode import BLOCK_SIZE
from scoutfs.files.links import parent
from scoutfs.files.rename import Kinship, Names, find_kinship, rename
from scoutfs.files.store import QUOTA_LOCK, RENAME_LOCK, CommitNeeded, LockRequest, LocksNeeded, inode_request
from scoutfs.metadata.blocks import BlockReader, StaleBlockError
from scoutfs.metadata.forest import super_roots
from scoutfs.metadata.lock_ranges import LOCK_GROUP
from scoutfs.metadata.snapshot import Snapshot
from scoutfs.metadata.writer import BlockWriter
from scoutfs.network.locks import LockMessage, build_recovered, may_read
from scoutfs.network.session import Request, Response, SessionError
from scoutfs.storage.volume import Volume

WRITE_PATIENCE = 15.0
"""Seconds without a server after which nothing is written: after 20 a server may begin to fence the mount."""

P = ParamSpec("P")
Result = TypeVar("Result")

EXPLAIN_INTERVAL = 2.0
"""Seconds between two looks at what keeps a mount from leaving."""

GUESSES_MAX = 64
"""Kinds of operations whose locks are remembered."""

CACHE_BYTES = 128 << 20
"""Memory for blocks of metadata."""


class Worker(Protocol):
    """Works in the background of a mount."""

    async def stop(self) -> None:
        """End, and return when nothing is being done any more."""


class VolumeClient:
    """The use that one mount makes of `volume`, through `client`, its connection to the servers.

    All waits end when they are cancelled, and then nothing has been done.  An operation that has been done is returned
    without another checkpoint, and a lock is released without one.
    """

    def __init__(self, volume: Volume, client: Client, log: Log, *, cache_bytes: int = CACHE_BYTES) -> None:
        self.volume, self.client = volume, client
        self.locks = LockClient()
        self.open_inodes = OpenInodes()
        self.ino_pools = InoPools()
        self._log = log
        reader = BlockReader(volume.meta, volume.fsid, cache_bytes=cache_bytes)
        writer = BlockWriter(reader, new_seq)
        self._reader = reader
        self._cache = ItemCache(reader, self.locks.write_seq)
        self._exclusive = Exclusive(reader)
        self._roots = RenewedRoots(self._cache, self.locks, self._exclusive, client.roots)
        server = Server(client.ask, client.wait_usable, lambda: client.abandoned)
        self.transactions = Transactions(volume, writer, self._cache, self._exclusive, server, log)
        self._quotas = MountQuotas(time.monotonic)
        self._kernel: KernelSide = NoKernel()
        self._waits: dict[Holder, trio.Event] = {}
        self._allocating = trio.Lock()
        self._guesses: dict[Callable[..., Any] | None, tuple[LockRequest, ...]] = {}
        self._background: trio.Nursery | None = None
        self._dropped: set[int] = set()
        self._dropped_some = trio.Event()
        self._leaving = False
        self.worker: Worker | None = None
        """What works in the background, and has to end before the mount leaves."""
        client.conversation = self

    # -- what is known without asking ------------------------------------------------------------------------------

    @property
    def fmt_vers(self) -> int:
        """The format version of the volume."""
        return self.volume.fmt_vers

    @property
    def total_data_blocks(self) -> int:
        """Blocks of 4 KiB that the data device has."""
        return self.volume.data.size // BLOCK_SIZE

    @property
    def waiting_for(self) -> str:
        """What keeps requests waiting that have no answer, as far as that is known; empty if nothing does."""
        waiting = [self.client.waiting_for, self.transactions.waiting_for]
        if self._waits:
            holder = next(iter(self._waits))
            if holder.waiting is not None:
                waiting.append(f"lock {Key.from_sort_bytes(holder.waiting.start)} is waited for")
        return "; ".join(text for text in waiting if text)

    def is_free(self, request: LockRequest) -> bool:
        """Whether the lock can be held without waiting."""
        return self.locks.is_free(request)

    def generation(self, ino: int) -> int:
        """Return since which grant everything known of an inode is true; 0 if nothing is, or not for long."""
        start = inode_request(ino // LOCK_GROUP).start
        return self.locks.refresh_gen(start) if self.locks.is_lasting(start) else 0

    # -- reading and changing --------------------------------------------------------------------------------------

    @asynccontextmanager
    async def locked(self, request: LockRequest) -> AsyncIterator[HeldLock]:
        """Hold a lock, while no other one is held."""
        holder = Holder()
        try:
            await self.take(holder, request)
            yield HeldLock(self, request.start)
        finally:
            self.release(holder)

    async def read(self, starts: Sequence[bytes], question: Callable[[ItemCache], Result]) -> Result:
        """Return what `question` makes of the items under locks that are held; it may be called more than once."""
        while True:
            self._check_alive()
            try:
                async with self._exclusive.alone():
                    self._roots.check(starts)
                    return await self._exclusive.run(lambda: question(self._cache))
            except (RootsNeeded, StaleBlockError) as error:
                await self._roots.renew(error)

    async def perform(self, operation: Callable[Concatenate[Change, P], Result], *a: P.args, **k: P.kwargs) -> Result:
        """Run an operation of `scoutfs.files` in a transaction, under the locks that it asks for.

        It is run again for locks, for items that have to be read, and for commits that make space.
        """
        return await self.perform_under(Holder(), None, lambda change: operation(change, *a, **k), operation)

    async def perform_under(
        self,
        holder: Holder,
        losing: LosingLock | None,
        operation: Callable[[Change], Result],
        kind: Callable[..., Any] | None = None,
    ) -> Result:
        """Run an operation under the locks that `holder` has, which stay, and others that it asks for.

        It begins with those that the last operation of this `kind` has asked for, as far as they can be had at once.
        """
        kept, wanted = len(holder.held), tuple[LockRequest, ...]()
        locks = OperationLocks(holder, losing)
        try:
            for request in self._guesses.get(kind, ()):
                if not self.locks.try_take(holder, request):
                    break
            while True:
                missing = [request for request in wanted if not locks.holds(request)]
                if missing and len(holder.held) > kept and not _in_order(holder.held[-1], missing[0]):
                    self._release_to(holder, kept)
                    missing = [request for request in wanted if not locks.holds(request)]
                for request in missing:
                    await self.take(holder, request)
                try:
                    return await self._attempt(locks, operation)
                except LocksNeeded as needed:
                    wanted = needed.locks
                    if kind is not None:
                        if len(self._guesses) >= GUESSES_MAX:
                            self._guesses.clear()
                        self._guesses[kind] = wanted
        finally:
            self._release_to(holder, kept)

    async def rename(self, names: Names, flags: int) -> None:
        """Rename as `scoutfs.files.rename.rename` does, with the locks and the kinship that this takes."""
        holder = Holder()
        try:
            kinship = None
            if names.old_dir != names.new_dir:
                await self.take(holder, RENAME_LOCK)
                kinship = await self._kinship(holder, names)
            await self.perform_under(holder, None, lambda change: rename(change, names, flags, kinship))
        finally:
            self.release(holder)

    async def _kinship(self, holder: Holder, names: Names) -> Kinship:
        walk = find_kinship(names.old_dir, names.new_dir)
        try:
            ino = next(walk)
            while True:
                request = inode_request(ino // LOCK_GROUP, LockMode.READ)
                await self.take(holder, request)
                found = await self.read((request.start,), partial(parent, ino=ino))
                self._release_to(holder, 1)
                ino = walk.send(found)
        except StopIteration as end:
            return end.value

    async def new_ino(self, *, directory: bool) -> int:
        """Return a number for an inode that never was in use.  Raises ScoutfsError (ENOSPC) if none is left."""
        while (ino := self.ino_pools.take(directory=directory)) is None:
            async with self._allocating:
                if (ino := self.ino_pools.take(directory=directory)) is not None:
                    return ino
                payload = await self.client.ask(Command.ALLOC_INODES, NetCount.build({"count": BATCH}))
                found = parse_payload(NetInodeAlloc, payload, "ALLOC_INODES")
                if not found.nr:
                    raise ScoutfsError("no inode number is left", errno.ENOSPC)
                self.ino_pools.add(found.ino, found.nr, directory=directory)
        return ino

    async def sync(self) -> None:
        """Have everything that was done before on the devices, for good."""
        await self.transactions.commit()

    async def _attempt(self, locks: OperationLocks, operation: Callable[[Change], Result]) -> Result:
        """Run an operation until it succeeds or needs other locks.

        Its locks are kept while it waits: were they given away each time, others could keep it from ever ending.
        """
        while True:
            await self.transactions.wait_open()
            await self._wait_trusted()
            if self._leaving:
                raise ScoutfsError("the volume is being unmounted", errno.ESHUTDOWN)
            try:
                async with self._exclusive.alone():
                    transaction = self.transactions.current
                    if not self.transactions.is_open or transaction is None:
                        continue
                    if not transaction.is_full(self._cache):
                        self._roots.check(locks.starts)
                        parts = (self._cache, locks, transaction, transaction.space, self._quotas, self.fmt_vers)
                        return await self._exclusive.run(partial(_once, Surroundings(*parts), operation))
                await self.transactions.commit()
            except CommitNeeded:
                await self.transactions.commit()
            except TotalsNeeded:
                await self._read_totals()
            except (RootsNeeded, StaleBlockError) as error:
                await self._roots.renew(error)

    async def _wait_trusted(self) -> None:
        """Wait for a server if there has been none for so long that others may soon use what this mount writes to."""
        since = self.client.waiting_since
        if since is not None and time.monotonic() - since > WRITE_PATIENCE:
            await self.client.wait_usable()

    # -- inodes in use ---------------------------------------------------------------------------------------------

    def keep_inode(self, ino: int) -> None:
        """Note that the kernel knows an inode: while it does no mount may delete it.  Called under its lock."""
        self.open_inodes.add(ino)
        self._dropped.discard(ino)

    def drop_inode(self, ino: int, *, unlinked: bool) -> None:
        """Note that the kernel has forgotten an inode; it is deleted in the background if it has no name any more.

        `unlinked`: it had none when it was seen last.
        """
        self.open_inodes.discard(ino)
        if unlinked:
            self._dropped.add(ino)
            self._dropped_some.set()

    async def dropped(self) -> set[int]:
        """Wait until inodes without names were dropped; return and forget their numbers."""
        while not self._dropped:
            self._dropped_some = trio.Event()
            await self._dropped_some.wait()
        return self.take_dropped()

    def take_dropped(self) -> set[int]:
        """Return and forget the numbers of inodes without names that were dropped."""
        found, self._dropped = self._dropped, set()
        return found

    def serve_kernel(self, kernel: KernelSide) -> None:
        """Have `kernel` told, from now on, what is lost."""
        self._kernel = kernel

    # -- life ------------------------------------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve the locks and the transactions until cancelled, while `Client.run` runs too."""
        async with trio.open_nursery() as nursery:
            self._background = nursery
            nursery.start_soon(self.transactions.run)
            task_status.started()

    async def leave(self, hold_back: Callable[[str], None]) -> None:
        """Commit what is left and say farewell; see `Client.farewell`.  Nothing can be changed any more."""
        if self.worker is not None:
            await self.worker.stop()
        self._leaving = True
        if self.client.server is not None or self.transactions.current is not None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._explain, hold_back)
                await self.transactions.end()
                nursery.cancel_scope.cancel()
        await self.client.farewell(hold_back)

    async def _explain(self, hold_back: Callable[[str], None]) -> None:
        said = ""
        while True:
            await trio.sleep(EXPLAIN_INTERVAL)
            text = self.client.waiting_for or "what was changed last is being written"
            if text != said:
                said = text
                hold_back(text)

    # -- locks -----------------------------------------------------------------------------------------------------

    async def take(self, holder: Holder, request: LockRequest) -> None:
        """Take a lock behind those that a task has.  Raises Deadlock, and EIO once the mount is abandoned."""
        self._check_alive()
        self._act(self.locks.take(holder, request))
        if holder.waiting is None:
            return
        granted = self._waits[holder] = trio.Event()
        try:
            await granted.wait()
            self._check_alive()
        finally:
            del self._waits[holder]

    def _check_alive(self) -> None:
        if self.client.abandoned:
            raise ScoutfsError("the mount was given up, and the volume is used by others", errno.EIO)

    def release(self, holder: Holder) -> None:
        """Let go of all locks of a task."""
        self._act(self.locks.release(holder))

    def _release_to(self, holder: Holder, kept: int) -> None:
        """Let go of all but the locks that a task took first."""
        if holder.waiting is not None or not kept:
            rest = holder.held[:kept]
            del holder.held[:kept]
            self._act(self.locks.release(holder))
            holder.held[:] = rest
        while len(holder.held) > kept:
            self._act(self.locks.release_last(holder))

    def _act(self, actions: Sequence[lock_client.Action]) -> None:
        for action in actions:
            if isinstance(action, lock_client.Ask):
                self.client.send(Command.LOCK, action.lock.build())
            elif isinstance(action, lock_client.Answer):
                self.client.answer(action.request, action.lock.build())
            elif isinstance(action, Lower):
                assert self._background is not None
                self._background.start_soon(self._lower, action)
            elif action.holder in self._waits:
                self._waits[action.holder].set()

    async def _lower(self, lower: Lower) -> None:
        """Do what is due before a lock is given up."""
        try:
            if lower.start[0] == Zone.FS and not self._leaving:
                await self._kernel.give_up(LosingLock(self, lower))
            while self._cache.is_dirty(lower.start):
                await self.transactions.commit()
            if not may_read(lower.new_mode):
                if lower.start == QUOTA_LOCK.start:
                    self._quotas.forget()
                async with self._exclusive.alone():
                    self._cache.forget(lower.start)
        except ScoutfsError as error:
            # the mount is abandoned, and will be fenced: others get the lock then
            self._log(logging.ERROR, f"lock {Key.from_sort_bytes(lower.start)} cannot be given up: {error}")
            return
        self._act(self.locks.lowered(lower.start))

    # -- helpers ---------------------------------------------------------------------------------------------------

    async def offload(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Return what a function returns that blocks; it ends even if the caller is cancelled."""
        return await self._exclusive.in_thread(function, *arguments)

    async def _read_totals(self) -> None:
        roots = await trio.to_thread.run_sync(super_roots, self.volume)
        self._quotas.install(Snapshot(self._reader, roots))

    # -- what the server says --------------------------------------------------------------------------------------

    def server_changed(self) -> None:
        """Another server has accepted us."""
        self._act(self.locks.server_changed())

    def asked(self, request: Request) -> bytes | None:
        """Answer the server; None for locks that are given up later.  Raises FormatError."""
        if request.command is Command.LOCK:
            self._act(self.locks.invalidate(request, LockMessage.parse(request.payload)))
            return None
        if request.command is Command.LOCK_RECOVER:
            if len(request.payload) != KEY_SIZE:
                raise SessionError(f"LOCK_RECOVER with {len(request.payload)} bytes of payload")
            return build_recovered(self.locks.held_from(Key.parse(request.payload).sort_bytes))
        if request.command is Command.OPEN_INO_MAP:
            args = parse_payload(OpenInoMapArgs, request.payload, "OPEN_INO_MAP")
            return self.open_inodes.answer(args.group_nr, args.req_id)
        if request.command is Command.SYNC_LOG_TREES and not request.payload:
            self.transactions.want_commit()
            return b""
        raise SessionError(f"{request.command.name} is no request to this client")

    def abandoned(self) -> None:
        """The mount is given up: whoever waits for locks or commits gets an error."""
        self.transactions.fail(ScoutfsError("the mount was given up", errno.EIO))
        for granted in self._waits.values():
            granted.set()

    def answered(self, response: Response) -> None:
        """Take a grant of the server.  Raises FormatError."""
        if response.error:
            raise SessionError(f"LOCK was answered with {response.error.name}")
        self._act(self.locks.granted(LockMessage.parse(response.payload)))


def _once(surroundings: Surroundings, operation: Callable[[Change], Result]) -> Result:
    with Change(surroundings, now=time.time_ns()) as change:
        return operation(change)


def _in_order(held: LockRequest, wanted: LockRequest) -> bool:
    """Whether a lock may be taken behind one that is held."""
    return (held.kind, held.start) < (wanted.kind, wanted.start)


def new_seq() -> int:
    """Return the random identity of a new version of a block."""
    return secrets.randbits(64)
