"""A volume that goes from one recorded state to the next while it is read: what is read is never a mixture.

Several states of one volume were recorded (tests/data/kernel/README.md).  Every block that a state does not use any
more is taken to be reused for something else at once, which is the worst that can happen to a reader.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from format.block import LARGE_BLOCK_SIZE
from format.keys import FsType, InodeIndexType
from scoutfs.files.filesystem import Filesystem
from scoutfs.files.items import fs_key
from scoutfs.metadata.snapshot import Snapshot
from scoutfs.storage.volume import Volume

STATES = {
    "three mounts": ("multi3-M1_busy3", "multi3-M2_killed", "multi3-M3_reclaimed", "multi3-final"),
    "one mount": ("crash1-A_synced", "crash1-B_openunlinked", "crash1-C_dirty", "crash1-D_merge", "crash1-KILL"),
}


class Changing:
    """A volume in the first of its states; after `countdown` more reads of a block it goes to the next."""

    path = "/dev/meta"

    def __init__(self, states: list[Volume], used: list[set[int]]) -> None:
        self.states, self.used = states, used
        self.seen: set[int] = set()
        self.at = 0
        self.countdown = -1
        self.size = states[0].meta.size

    def read(self, offset: int, length: int) -> bytes:
        """Read a block as it is now."""
        self.countdown -= 1
        if self.countdown == 0 and self.at + 1 < len(self.states):
            self.at += 1
        self.seen.add(offset // LARGE_BLOCK_SIZE)
        if offset // LARGE_BLOCK_SIZE not in self.used[self.at]:
            return bytes(length)
        return self.states[self.at].meta.read(offset, length)

    def filesystem(self, cache_bytes: int) -> Filesystem:
        """Return the volume as a reader sees it."""
        first = self.states[0]
        volume: Any = SimpleNamespace(
            meta=self, data=first.data, fsid=first.fsid, fmt_vers=first.fmt_vers, metadata_path=self.path
        )
        volume.read_super = lambda: self.states[self.at].read_super()
        return Filesystem(volume, cache_bytes=cache_bytes)


@pytest.fixture(params=STATES)
def states(request: pytest.FixtureRequest, opened: Callable[[str], Filesystem]) -> list[Volume]:
    volumes = [opened(name).volume for name in STATES[request.param]]
    assert len({volume.fsid for volume in volumes}) == 1
    return volumes


@pytest.fixture
def used(states: list[Volume]) -> list[set[int]]:
    """Return the blocks that each state uses for items."""
    found = []
    for volume in states:
        changing = Changing([volume], [set()])
        changing.used[0] = changing.seen
        files = changing.filesystem(1 << 25)
        everything(files.forest.snapshot)
        # the bloom blocks too
        files.forest.lookup(fs_key(1, FsType.INODE))
        found.append(changing.seen)
    return found


def everything(snapshot: Snapshot) -> list[tuple[bytes, bytes]]:
    return list(snapshot.items())


def test_operations_see_one_state(states: list[Volume], used: list[set[int]]) -> None:
    expected = [everything(Filesystem(volume).forest.snapshot) for volume in states]
    source = random.Random(1)
    seen = set()
    for _ in range(6):
        changing = Changing(states, used)
        files = changing.filesystem(source.choice([1, 1 << 20]))
        for _ in states:
            changing.countdown = source.randrange(1, 30)
            files.blocks.forget()
            state = expected.index(files.forest.run(everything))
            seen.add(state)
            assert state <= changing.at
            assert files.forest.run(lambda snapshot: list(snapshot.items_reversed()))[::-1] in expected
    assert len(seen) > 2, "changes came at different times"


def test_walks_go_over_from_one_state_to_the_next(states: list[Volume], used: list[set[int]]) -> None:
    """Each item of an iterator is of a state; once a later one was seen, no earlier one follows."""
    expected = [dict(everything(Filesystem(volume).forest.snapshot)) for volume in states]
    source = random.Random(2)
    last_states = set()
    for _ in range(10):
        changing = Changing(states, used)
        files = changing.filesystem(1)
        changing.countdown = source.randrange(3, 15)
        previous, state = b"", 0
        for key, value in files.forest.items():
            assert key > previous
            previous = key
            while expected[state].get(key) != value:
                state += 1
                assert state <= changing.at
        last_states.add(state)
    assert 1 in last_states


def test_files_can_be_read_all_the_time(states: list[Volume], used: list[set[int]]) -> None:
    source = random.Random(3)
    names = [dict(paths_of(Filesystem(volume))) for volume in states]
    for _ in range(3):
        changing = Changing(states, used)
        files = changing.filesystem(1 << 18)
        for _ in range(4 * len(states)):
            changing.countdown = source.randrange(1, 10)
            files.blocks.forget()
            ino = source.choice(list(names[changing.at].values()))
            found = {path for path, _ in files.paths(ino)}
            now = range(changing.at + 1)
            assert any(found == {path for path, at in names[state].items() if at == ino} for state in now)


def paths_of(files: Filesystem) -> list[tuple[bytes, int]]:
    inos = {seq_ino.ino for seq_ino in files.walk_inodes(InodeIndexType.META_SEQ)}
    return [(path, ino) for ino in sorted(inos) for path, _ in files.paths(ino)]
