"""What a client reads from the metadata device: where the server is, and whether the mount counts as gone.  Blocks.

Nothing here is locked: what is read may be old or half replaced, and then it says nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from format.block import BlockError
from format.keys import Key, Zone
from format.quorum import Event, QuorumBlock, QuorumConfig, SlotAddress
from scoutfs.errors import ScoutfsError
from scoutfs.metadata.btree import tree_of
from scoutfs.quorum.leaders import Leader, find_server
from scoutfs.storage.volume import Volume


@dataclass(frozen=True, slots=True)
class Quorum:
    """The quorum as it is recorded now; `blocks` has None for a slot whose block cannot be read."""

    config: QuorumConfig
    blocks: dict[int, QuorumBlock | None]

    @property
    def unreadable(self) -> list[int]:
        """Slots whose blocks cannot be read."""
        return [slot for slot, block in self.blocks.items() if block is None]

    def mounted_slots(self, but_rid: int) -> list[int]:
        """Slots whose blocks say that a mount other than `but_rid` may run in them; unreadable ones too."""
        return [
            slot
            for slot, block in self.blocks.items()
            if block is None or (block.agent_may_run and block.event(Event.BEGIN).rid != but_rid)
        ]


@dataclass(frozen=True, slots=True)
class Server:
    """Where a server may run, and since which term."""

    leader: Leader
    address: SlotAddress


def read_quorum(volume: Volume) -> Quorum:
    """Read the slots and their blocks afresh.  Raises ScoutfsError when the super block cannot be read."""
    config = volume.read_super().quorum_config
    blocks = volume.read_quorum_blocks(config.slots)
    readable = {slot: block if isinstance(block, QuorumBlock) else None for slot, block in blocks.items()}
    return Quorum(config, readable)


def find(quorum: Quorum) -> Server | None:
    """Return the latest leader whose server may run (spec 02 §5.4); an unreadable block is no obstacle (W11)."""
    leader = find_server(quorum.blocks)
    return None if leader is None else Server(leader, quorum.config.slots[leader.slot])


def has_left(volume: Volume, rid: int) -> bool:
    """Whether a mount that a server once accepted, and that has asked to leave, has left though nobody answered it.

    The volume records every mount before it is accepted, and until all that it had is taken back: no record, no more to
    do (spec 03 §3.2 step 2, §11 I6).  What cannot be read says nothing.
    """
    try:
        root = volume.read_super().raw.mounted_clients
        return tree_of(volume, root).lookup(Key(Zone.MOUNTED_CLIENT, rid).sort_bytes) is None
    except (ScoutfsError, BlockError):
        return False


def held_back_text(quorum: Quorum, rid: int, member: bool, waiting_for: str) -> str:
    """Return why a farewell is not answered, as far as the volume tells, and what to do (spec 02 §8.3).

    `waiting_for` says why there is no server, empty if there is one.
    """
    if waiting_for:
        return (
            f"no server can be told that this mount leaves: {waiting_for}; 'umount -f' leaves without telling anybody"
        )
    if not member:
        return "the server has not answered yet"
    others = quorum.mounted_slots(but_rid=rid)
    if not others:
        return "the last quorum member leaves after every mount without a quorum slot: unmount those first"
    needed = quorum.config.votes_needed
    slots = ", ".join(f"slot {slot} at {quorum.config.slots[slot].address}" for slot in others)
    run = "it still runs" if len(others) == 1 else "they still run"
    return (
        f"the last {needed} quorum members leave together, after every mount without a quorum slot: "
        f"unmount {slots} too, as far as {run}"
    )
