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


@dataclass(slots=True)
class Departure:
    """Whether a mount that has asked to leave counts as gone though nobody answered (spec 03 §3.2 step 2).

    A record's absence only says that we are gone if the record has been seen.
    """

    rid: int
    member: bool
    recorded: bool = False

    def is_over(self, volume: Volume) -> bool:
        """Read the volume; return whether the mount need not wait for a server any more."""
        try:
            root = volume.read_super().raw.mounted_clients
            if tree_of(volume, root).lookup(Key(Zone.MOUNTED_CLIENT, self.rid).sort_bytes) is not None:
                self.recorded = True
                return False
            if self.recorded:
                return True
            return root.ref.blkno == 0 and self._nobody_is_left(read_quorum(volume))
        except (ScoutfsError, BlockError):
            return False

    def _nobody_is_left(self, quorum: Quorum) -> bool:
        """Whether every other member has left cleanly, so that there is no server to come, nor one to miss us."""
        could_lead_alone = self.member and quorum.config.votes_needed == 1
        return not could_lead_alone and not quorum.mounted_slots(but_rid=self.rid)


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
