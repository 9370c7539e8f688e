"""What the devices of a volume may hold after a power cut at any point of what was written to them."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from tests.memory import PAGE, Image, MemoryIO

SECTOR = 512
ZEROS = bytes(PAGE)

Pages = dict[tuple[str, int], bytes]
"""Contents of pages of 4 KiB by device and number."""


class Write(NamedTuple):
    """A write; with `durable` it is on stable storage when it returns."""

    device: str
    offset: int
    data: bytes
    durable: bool


class Flush(NamedTuple):
    """All writes to a device that have returned are on stable storage."""

    device: str


class Recorded(MemoryIO):
    """Devices in memory; `log` has what happened to them, in order, whichever thread did it."""

    def __init__(self, images: dict[str, Image]) -> None:
        super().__init__(images)
        self.log: list[Write | Flush] = []
        self._lock = threading.Lock()

    def open(self, path, flags):
        with self._lock:
            return super().open(path, flags)

    def pread(self, fd, buffer, offset):
        with self._lock:
            return super().pread(fd, buffer, offset)

    def pwrite(self, fd, buffer, offset, *, durable=False):
        with self._lock:
            self.log.append(Write(self._opened[fd], offset, bytes(buffer), durable))
            return super().pwrite(fd, buffer, offset)

    def flush(self, fd):
        with self._lock:
            self.log.append(Flush(self._opened[fd]))


class TrackedImage(Image):
    """An image that knows which pages were read before they were written."""

    def __init__(self, size: int, pages: dict[int, bytes] | None = None) -> None:
        super().__init__(size, pages)
        self.read_pages: set[int] = set()
        self.written_pages: set[int] = set()

    def read(self, offset: int, length: int) -> bytes:
        """Return up to `length` bytes, fewer at the end."""
        self.read_pages.update(set(range(offset // PAGE, -(-(offset + length) // PAGE))) - self.written_pages)
        return super().read(offset, length)

    def write(self, offset: int, data: bytes) -> None:
        """Store whole pages."""
        assert offset % PAGE == len(data) % PAGE == 0
        first = offset // PAGE
        for number in range(len(data) // PAGE):
            self.pages[first + number] = data[number * PAGE : (number + 1) * PAGE]
            self.written_pages.add(first + number)


@dataclass
class Cut:
    """The devices after a power cut: `stable` pages, and over them those of `lost`: what was not flushed.

    `place` is how many entries of the log had begun; all but the last of them had returned.
    """

    place: int
    kind: str
    images: dict[str, Image]
    overlay: Pages = field(default_factory=dict)

    def page(self, device: str, number: int) -> bytes:
        """Return the contents of a page."""
        found = self.overlay.get((device, number))
        return self.images[device].pages.get(number, ZEROS) if found is None else found

    def built(self) -> dict[str, Image]:
        """Return independent images that know what is read of them."""
        built: dict[str, Image] = {name: TrackedImage(i.size, i.pages) for name, i in self.images.items()}
        for (device, number), data in self.overlay.items():
            built[device].pages[number] = data
        return built


def cuts(base: dict[str, Image], log: Sequence[Write | Flush], seed: int, random_cuts: int) -> Iterator[Cut]:
    """Yield what the devices may hold after a cut at each place of a log; each is valid until the next is taken.

    Of what was not flushed there is: nothing; all of it; `random_cuts` times any of it in any order, whole or torn
    between pages of 4 KiB or sectors of 512 bytes.  Pages written durably are whole: those are the super block and
    quorum blocks.
    """
    rng = random.Random(seed)
    stable = {name: image.copy() for name, image in base.items()}
    pending: list[Write] = []
    for place, entry in enumerate(log, 1):
        if isinstance(entry, Flush):
            yield Cut(place - 1, "nothing", stable)
            for write in pending:
                if write.device == entry.device:
                    stable[write.device].write(write.offset, write.data)
            pending = [write for write in pending if write.device != entry.device]
            continue
        pending.append(entry)
        yield Cut(place, "everything", stable, _overlay(stable, pending))
        for _ in range(random_cuts if len(pending) > 1 or not entry.durable else 1):
            yield Cut(place, "random", stable, _some(stable, pending, rng))
        if entry.durable:
            stable[entry.device].write(entry.offset, entry.data)
            pending.pop()
    yield Cut(len(log), "nothing", stable)
    yield Cut(len(log), "everything", stable, _overlay(stable, pending))


def _overlay(stable: dict[str, Image], writes: Sequence[Write]) -> Pages:
    overlay: Pages = {}
    for write in writes:
        first = write.offset // PAGE
        for number in range(len(write.data) // PAGE):
            overlay[write.device, first + number] = write.data[number * PAGE : (number + 1) * PAGE]
    return overlay


def _some(stable: dict[str, Image], pending: Sequence[Write], rng: random.Random) -> Pages:
    overlay: Pages = {}
    for write in rng.sample(pending, rng.randint(0, len(pending))):
        first, count = write.offset // PAGE, len(write.data) // PAGE
        torn = not write.durable and rng.random() < 0.5
        for number in rng.sample(range(count), rng.randint(0, count)) if torn else range(count):
            data = write.data[number * PAGE : (number + 1) * PAGE]
            key = write.device, first + number
            if torn and rng.random() < 0.2:
                old = overlay.get(key)
                data = _torn(stable[write.device].pages.get(key[1], ZEROS) if old is None else old, data, rng)
            overlay[key] = data
    return overlay


def _torn(old: bytes, new: bytes, rng: random.Random) -> bytes:
    """Return a page of which some sectors are new."""
    return b"".join((new if rng.random() < 0.5 else old)[start : start + SECTOR] for start in range(0, PAGE, SECTOR))
