"""What the handlers of a writable mount need of the client of the volume."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from format.payloads import LockMode
from scoutfs.files.change import Change
from scoutfs.files.extent_map import Piece
from scoutfs.files.rename import Names
from scoutfs.files.store import LockRequest

P = ParamSpec("P")
Result = TypeVar("Result")


class Held(Protocol):
    """A lock that is held."""

    async def ask(self, question: Callable[..., Result], *arguments: Any) -> Result:
        """Return what `question` makes of items under the lock; it may be called more than once.

        Its first argument are the items.  Raises what it raises.
        """

    async def read_blocks(self, pieces: Sequence[Piece], buffer: memoryview) -> None:
        """Fill `buffer`, which must have their size, with neighbouring pieces of a file, as they were written last."""


class LosingLock(Protocol):
    """A lock whose mode has fallen here, while the server does not know of that: until it does the old one counts.

    `start` and `end` are the sort forms of the keys that it covers.
    """

    start: bytes
    end: bytes
    old_mode: LockMode
    new_mode: LockMode

    def held(self, mode: LockMode) -> AbstractAsyncContextManager[Held]:
        """Hold it all the same: for requests that have to end before it can be given up.  `old_mode` must serve."""

    async def perform(self, operation: Callable[Concatenate[Change, P], Result], *a: P.args, **k: P.kwargs) -> Result:
        """Run an operation on items under it, as `VolumeClient.perform` does; what it changes is committed in time."""


class KernelSide(Protocol):
    """What the client tells of locks and inodes before others may change what they cover."""

    async def give_up(self, lock: LosingLock) -> None:
        """Have the kernel forget what it knows of the inodes under a lock that is lost, dirty pages written."""


class VolumeClient(Protocol):
    """Items under locks, and operations on them.

    All waits end when they are cancelled, and then nothing has been done.  An operation that has been done is returned
    without another checkpoint, and a lock is released without one: who goes by what was read under it answers before
    anybody else can change it.
    """

    @property
    def fmt_vers(self) -> int: ...

    @property
    def total_data_blocks(self) -> int: ...

    @property
    def waiting_for(self) -> str:
        """What keeps requests waiting that have no answer, as far as that is known; empty if nothing does."""

    def locked(self, request: LockRequest) -> AbstractAsyncContextManager[Held]:
        """Hold a lock, while no other one is held."""

    def is_free(self, request: LockRequest) -> bool:
        """Whether the lock can be held without waiting."""

    def generation(self, ino: int) -> int:
        """Return since which grant everything known of an inode is true; 0 if nothing is, or not for long."""

    async def perform(self, operation: Callable[Concatenate[Change, P], Result], *a: P.args, **k: P.kwargs) -> Result:
        """Run an operation of `scoutfs.files` in a transaction, under the locks that it asks for.

        It is run again for locks, for items that have to be read, and for commits that make space.
        """

    async def rename(self, names: Names, flags: int) -> None:
        """Rename as `scoutfs.files.rename.rename` does, with the locks and the kinship that this takes."""

    async def new_ino(self, *, directory: bool) -> int:
        """Return a number for an inode that never was in use."""

    async def sync(self) -> None:
        """Have everything that was done before on the devices, for good."""

    def keep_inode(self, ino: int) -> None:
        """Note that the kernel knows an inode: while it does no mount may delete it.  Called under its lock."""

    def drop_inode(self, ino: int, *, unlinked: bool) -> None:
        """Note that the kernel has forgotten an inode; it is deleted in the background if it has no name any more.

        `unlinked`: it had none when it was seen last.
        """

    def serve_kernel(self, kernel: KernelSide) -> None:
        """Have `kernel` told, from now on, what is lost."""
