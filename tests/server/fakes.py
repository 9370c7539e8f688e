"""A volume in memory whose quorum blocks tests write, and a log that tests read."""

from __future__ import annotations

import errno
import logging
import socket

from format.block import BlockError
from format.quorum import Event, QuorumBlock, QuorumConfig, QuorumConfigStruct, SlotAddress, config_to_struct
from format.superblock import SuperBlock
from scoutfs.errors import ScoutfsError
from scoutfs.server.committed_volume import Change, Transactions
from scoutfs.server.mounted_clients import RecordedMount, record
from scoutfs.storage.volume import SUPER_OFFSET, Volume
from tests import images
from tests.memory import MemoryIO

RECORDED = "v2-3slot"


def memory_volume(name: str = RECORDED) -> Volume:
    """Open a recorded volume that is copied to memory."""
    io = MemoryIO({"/dev/meta": images.load(name, "meta"), "/dev/data": images.load(name, "data")})
    return Volume.open("/dev/data", "/dev/meta", io=io)


def record_mount(volume: Volume, rid: int, *, member: bool = True) -> None:
    """Record a mount, as the server does that accepted it first."""
    change = Change(lambda current: record(current, RecordedMount(rid, member, SlotAddress("10.0.0.9", 50000))))
    Transactions(volume).run([change])
    assert change.error is None


class FakeVolume:
    """A new volume in memory, and quorum blocks as tests set them; a block may be an error."""

    metadata_path = "/dev/meta"

    def __init__(self, config: QuorumConfig) -> None:
        self.volume = memory_volume()
        self.meta, self.data = self.volume.meta, self.volume.data
        self.super = self.volume.super
        self.super.raw.qconf = QuorumConfigStruct.parse(QuorumConfigStruct.build(config_to_struct(config)))
        self.meta.write(SUPER_OFFSET, self.super.build())
        self.fsid, self.fmt_vers, self.uuid = self.super.fsid, self.super.fmt_vers, self.super.uuid
        self.config = config
        self.blocks: dict[int, QuorumBlock | ScoutfsError | BlockError] = {
            slot: QuorumBlock(self.fsid, slot) for slot in config.slots
        }
        self.super_error: ScoutfsError | None = None
        self.reads = 0

    def read_super(self) -> SuperBlock:
        if self.super_error is not None:
            raise self.super_error
        return self.volume.read_super()

    def read_quorum_blocks(self, slots):
        self.reads += 1
        return {slot: self.blocks[slot] for slot in slots}

    def record(self, slot: int, event: Event, rid: int, term: int) -> None:
        block = self.blocks[slot]
        assert isinstance(block, QuorumBlock)
        self.blocks[slot] = block.updated(event, rid, term, 0)

    def elected(self, slot: int, rid: int, term: int) -> None:
        """A member begins, is elected, and its server comes up."""
        for event in (Event.BEGIN, Event.TERM, Event.ELECT, Event.FENCE):
            self.record(slot, event, rid, term)

    def break_block(self, slot: int) -> None:
        self.blocks[slot] = ScoutfsError("/dev/meta: reading: Input/output error", errno.EIO)


class RecordedLog:
    """Collects log lines; `entries` are (level, text)."""

    def __init__(self) -> None:
        self.entries: list[tuple[int, str]] = []

    def __call__(self, level: int, text: str) -> None:
        self.entries.append((level, text))

    @property
    def lines(self) -> list[str]:
        return [text for _, text in self.entries]

    @property
    def errors(self) -> list[str]:
        return [text for level, text in self.entries if level >= logging.ERROR]

    def has(self, fragment: str) -> bool:
        return any(fragment in text for text in self.lines)


def free_port(address: str = "127.0.0.1") -> int:
    """A TCP port of `address` that nobody uses now."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((address, 0))
        return sock.getsockname()[1]


def quorum_config(slots: int = 3) -> QuorumConfig:
    """Slots 0.. at 127.0.1.x, each with a port that is free now."""
    addresses = [f"127.0.1.{slot + 1}" for slot in range(slots)]
    return QuorumConfig(1, {slot: SlotAddress(address, free_port(address)) for slot, address in enumerate(addresses)})
