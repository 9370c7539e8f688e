"""The items of a volume while others change it: snapshots under roots that are renewed when they are too old (spec 04
§2.1, §7)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

from scoutfs.metadata.blocks import BlockReader, DamagedBlock, StaleBlockError
from scoutfs.metadata.btree import FIRST_KEY, LAST_KEY, Root, after, before
from scoutfs.metadata.snapshot import Batch, Batches, Roots, Snapshot
from scoutfs.storage.volume import Volume

_T = TypeVar("_T")


def super_roots(volume: Volume) -> Roots:
    """Read the roots from the super block as it is on the device now.  Blocks; raises VolumeError or DeviceError."""
    raw = volume.read_super().raw
    return Roots(*(Root.of(root) for root in (raw.fs_root, raw.logs_root, raw.srch_root, raw.log_merge)))


class Forest(Batches):
    """All items of a volume by key, as of the last `refresh`, or later where blocks of that time were reused.

    `get_roots` fetches present roots: `super_roots`, or the question to a server.  Every method may block on the device
    and in `get_roots`, and raise what that raises, DeviceError, and DamagedBlock: for contents that make no sense, and
    for blocks that are not what the present roots lead to.  Not for several threads at once.
    """

    def __init__(self, blocks: BlockReader, get_roots: Callable[[], Roots]) -> None:
        self.blocks = blocks
        self._get_roots = get_roots
        self._snapshot: Snapshot | None = None

    @property
    def snapshot(self) -> Snapshot:
        """The snapshot that is read from; its methods raise StaleBlockError."""
        if self._snapshot is None:
            self._snapshot = Snapshot(self.blocks, self._get_roots())
        return self._snapshot

    def refresh(self) -> None:
        """Read everything as it is from now on: needed after a cluster lock was granted."""
        roots = self._get_roots()
        if self._snapshot is None or self._snapshot.roots != roots:
            self._snapshot = Snapshot(self.blocks, roots)

    def run(self, operation: Callable[[Snapshot], _T]) -> _T:
        """Return what `operation` makes of a snapshot.

        It is called again, with a newer one, when blocks turn out to have been reused, and must not have kept anything.
        """
        failed = None
        while True:
            snapshot = self.snapshot
            try:
                return operation(snapshot)
            except StaleBlockError as error:
                failed = self._renewed(snapshot.roots, failed, error)

    def lookup(self, key: bytes) -> bytes | None:
        """Return the value of the item with `key`, None if there is none."""
        return self.run(lambda snapshot: snapshot.lookup(key))

    def next(self, key: bytes, last: bytes = LAST_KEY) -> tuple[bytes, bytes] | None:
        """Return key and value of the first item at or behind `key` and not behind `last`, None if there is none."""
        return self.run(lambda snapshot: snapshot.next(key, last))

    def previous(self, key: bytes, first: bytes = FIRST_KEY) -> tuple[bytes, bytes] | None:
        """Return key and value of the last item at or before `key` and not before `first`, None if there is none."""
        return self.run(lambda snapshot: snapshot.previous(key, first))

    def batches(self, first: bytes = FIRST_KEY, last: bytes = LAST_KEY) -> Iterator[Batch]:
        """Yield the items from `first` to `last` in batches, none of them empty, ascending.

        Roots may be renewed on the way, so that later batches are of a later time; each is of one time.
        """
        failed = None
        while first <= last:
            snapshot = self.snapshot
            try:
                for batch in snapshot.batches(first, last):
                    yield batch
                    failed = None
                    if batch.keys[-1] == LAST_KEY:
                        return
                    first = after(batch.keys[-1])
                return
            except StaleBlockError as error:
                failed = self._renewed(snapshot.roots, failed, error)

    def batches_reversed(self, first: bytes = FIRST_KEY, last: bytes = LAST_KEY) -> Iterator[Batch]:
        """Yield the items from `first` to `last` in batches that descend; otherwise as `batches`."""
        failed = None
        while first <= last:
            snapshot = self.snapshot
            try:
                for batch in snapshot.batches_reversed(first, last):
                    yield batch
                    failed = None
                    if batch.keys[0] == FIRST_KEY:
                        return
                    last = before(batch.keys[0])
                return
            except StaleBlockError as error:
                failed = self._renewed(snapshot.roots, failed, error)

    def _renewed(self, roots: Roots, failed: Roots | None, error: StaleBlockError) -> Roots:
        """Fetch roots because `roots` were stale; return these, or call it damage if they have `failed` before."""
        if roots == failed:
            raise DamagedBlock(str(error)) from error
        self._snapshot = None
        return roots
