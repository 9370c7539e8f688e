"""Whether a volume is sound after a power cut, and holds what it must."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from dataclasses import dataclass, field

from scoutfs.files.inode import BLOCK_SIZE
from scoutfs.fsck.check import check_volume
from scoutfs.fsck.kinds import Severity
from scoutfs.server.mounted_clients import recorded_mounts
from scoutfs.storage import Device
from scoutfs.storage.volume import SUPER_OFFSET
from tests.client.file_trees import ABSENT, Found, State, found_tree
from tests.client.memory_cluster import snapshot
from tests.client.power_cuts import SECTOR, Cut, TrackedImage
from tests.memory import PAGE, Image, MemoryIO
from tests.server.mounts import Server

SUPER_PAGE = SUPER_OFFSET // PAGE


@dataclass
class History:
    """What was done to a tree: its state after each operation, when each began and had returned, and what was synced.

    Times are lengths of the log of the devices.  `synced` has, for each sync, when it had returned, and how many
    operations had before it began.
    """

    name: bytes
    states: list[State] = field(default_factory=lambda: [ABSENT])
    begun: list[int] = field(default_factory=list)
    ended: list[int] = field(default_factory=list)
    synced: list[tuple[int, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._by_shape: dict[frozenset, list[int]] = defaultdict(list)
        self._known = 0

    def possible(self, place: int) -> range:
        """Return after how many operations the tree may be found when the power was cut at `place`."""
        first = max((count for time, count in self.synced if time < place), default=0)
        return range(first, bisect_right(self.begun, place) + 1)

    def with_shape(self, shape: frozenset) -> list[int]:
        """Return after which operations it had this shape."""
        for number in range(self._known, len(self.states)):
            self._by_shape[self.states[number].shape].append(number)
        self._known = len(self.states)
        return self._by_shape.get(shape, [])


@dataclass
class Opened:
    """A volume that was opened after a cut: what was read of its metadata, and what its trees are."""

    pages: dict[int, bytes]
    found: dict[bytes, Found]
    images: dict[str, Image]


class Checker:
    """Checks cuts of one run.

    What a server and a checker do after a cut follows from what they read: where all of that is as after another cut,
    it comes out the same.  So each super block's volume is opened once, and for other cuts the pages are compared that
    were read then; every `sample`-th cut is opened all the same.
    """

    def __init__(self, histories: list[History], sample: int) -> None:
        self.histories, self.sample = histories, sample
        self.known: dict[bytes, Opened] = {}
        self.count = self.opened = 0

    async def check(self, cut: Cut) -> Opened:
        """Check what is left after a cut."""
        self.count += 1
        super_page = cut.page("meta", SUPER_PAGE)
        known = self.known.get(super_page)
        where = self._where(cut)
        if known is None or self.count % self.sample == 0 or not self._same(cut, known):
            self.opened += 1
            known = await self.reopened(cut)
            self.known.setdefault(super_page, known)
        for history in self.histories:
            self._check_tree(cut, history, known.found[history.name], where)
        return known

    async def reopened(self, cut: Cut) -> Opened:
        """Open the volume after a cut, on independent images."""
        return await opened(cut.built(), [history.name for history in self.histories], self._where(cut))

    def _where(self, cut: Cut) -> str:
        return f"cut {self.count} ({cut.kind} of what was pending) at {cut.place}"

    def _same(self, cut: Cut, known: Opened) -> bool:
        page = cut.page
        return all(page("meta", number) == data for number, data in known.pages.items())

    def _check_tree(self, cut: Cut, history: History, found: Found, where: str) -> None:
        possible = history.possible(cut.place)
        numbers = [number for number in history.with_shape(found.state.shape) if number in possible]
        if not numbers:
            raise AssertionError(
                f"{where}: tree {history.name!r} is not as after {possible} operations, {nearest(history, found.state)}"
            )
        wrong = ""
        for number in numbers:
            wrong = self._wrong_contents(cut, history, found, number, possible.stop)
            if not wrong:
                return
        raise AssertionError(f"{where}: tree {history.name!r} after {numbers} operations: {wrong}")

    def _wrong_contents(self, cut: Cut, history: History, found: Found, number: int, stop: int) -> str:
        """Return what is wrong with the contents of files after `number` operations, none if nothing is.

        Written blocks are changed in place: a sector may have what a later operation wrote that is not there otherwise.
        """
        contents = history.states[number].contents
        mapped: dict[int, set[int]] = defaultdict(set)
        for ino, extent in found.extents:
            for block in range(extent.start, extent.end):
                start = block * BLOCK_SIZE
                expected = contents[ino][start : start + BLOCK_SIZE]
                mapped[ino].add(block)
                page = cut.page("data", extent.blkno + block - extent.start)
                if page.startswith(expected):
                    continue
                for sector in range(0, len(expected), SECTOR):
                    there = page[sector : sector + SECTOR][: len(expected) - sector]
                    at = slice(start + sector, start + sector + len(there))
                    states = history.states[number:stop]
                    may_be = {state.contents.get(ino, b"")[at].ljust(len(there), b"\0") for state in states}
                    if there not in may_be:
                        return f"inode {ino}, byte {at.start}: not what was written"
        for ino, data in contents.items():
            for start in range(0, len(data), BLOCK_SIZE):
                if start // BLOCK_SIZE not in mapped[ino] and any(data[start : start + BLOCK_SIZE]):
                    return f"inode {ino}, byte {start}: a hole"
        return ""


def nearest(history: History, found: State) -> str:
    """Return how a state differs from the one of a history that is most like it."""
    number = min(range(len(history.states)), key=lambda each: len(history.states[each].shape ^ found.shape))
    wanted = history.states[number].shape
    return (
        f"after {number} there was {sorted(wanted - found.shape, key=str)}, now {sorted(found.shape - wanted, key=str)}"
    )


def damage(images: dict[str, Image]) -> list[str]:
    """Return the errors that the checker finds."""
    io = MemoryIO(images)
    with Device.open("meta", io=io) as meta, Device.open("data", io=io) as data:
        findings = check_volume(meta, data).report.findings()
    return [finding.text for finding in findings if finding.kind.severity is Severity.ERROR]


async def opened(images: dict[str, Image], names: list[bytes], where: str) -> Opened:
    """Have a server recover a volume whose mounts are all dead; it must be sound before and after that."""
    found_damage = damage(images)
    assert not found_damage, f"{where}: {found_damage}"
    meta = images["meta"]
    assert isinstance(meta, TrackedImage)
    before = dict(meta.pages)
    server = Server(images)
    async with server.running():
        for mount in await server.volume.change(recorded_mounts):
            await server.requests.reclaim(mount.rid)
        assert await server.volume.change(recorded_mounts) == []
    found = {}
    items = snapshot(server.device_volume)
    for name in names:
        found[name] = found_tree(server.device_volume, items, name)
    found_damage = damage(images)
    assert not found_damage, f"{where}, recovered: {found_damage}"
    zeros = bytes(PAGE)
    return Opened({number: before.get(number, zeros) for number in meta.read_pages}, found, images)
