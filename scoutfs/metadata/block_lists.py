"""Lists of single metadata blocks, which transactions take blocks from and free them to (spec 04 §6.1, §6.3)."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any, NamedTuple

from format.alloc import LIST_MAX_BLOCKS, build_list_block, read_list_block
from format.block import LARGE_BLOCK_SIZE, META_START_BLKNO, NO_REF, BlockError, Magic, Ref
from scoutfs.metadata.blocks import DamagedBlock, StaleBlockError
from scoutfs.metadata.writer import BlockWriter

_KIND = "list of blocks"


class ListHead(NamedTuple):
    """The head of a list, see `format.alloc.AllocListHead`: its first block, the entries in all and in that block."""

    ref: Ref = NO_REF
    total_nr: int = 0
    first_nr: int = 0
    flags: int = 0

    @classmethod
    def of(cls, parsed: Any) -> ListHead:
        """Convert a parsed `format.alloc.AllocListHead`."""
        return cls(Ref(parsed.ref.blkno, parsed.ref.seq), parsed.total_nr, parsed.first_nr, parsed.flags)

    def fields(self) -> dict[str, Any]:
        """Return what `format.alloc.AllocListHead` is built from."""
        return self._asdict() | {"ref": self.ref._asdict()}


NO_LIST = ListHead()
"""The head of an empty list."""


class ListNode:
    """A block of a list that is changed: `blknos` are its entries from place `start` on, `next` the block behind it."""

    magic = Magic.ALLOC_LIST

    def __init__(self, next: Ref = NO_REF, blknos: Iterable[int] = (), start: int = 0) -> None:
        self.next = next
        self.blknos = deque(blknos)
        self.start = start
        self._encoded = b""

    def add(self, blknos: Iterable[int]) -> None:
        """Add entries, behind the others while there is a place, in front of them after that."""
        for blkno in blknos:
            if self.start + len(self.blknos) < LIST_MAX_BLOCKS:
                self.blknos.append(blkno)
            else:
                self.blknos.appendleft(blkno)
                self.start -= 1

    def take(self, count: int) -> list[int]:
        """Take entries from the front and return them."""
        taken = [self.blknos.popleft() for _ in range(count)]
        self.start = self.start + count if self.blknos else 0
        return taken

    def sort(self) -> None:
        """Bring the entries in ascending order."""
        self.blknos = deque(sorted(self.blknos))

    def run(self) -> int:
        """Return how many of the entries at the front are consecutive numbers."""
        first = self.blknos[0]
        for count, blkno in enumerate(self.blknos):
            if blkno != first + count:
                return count
        return len(self.blknos)

    def encode(self, fsid: int, ref: Ref) -> bytes:
        """Return the 64 KiB of the block, sealed."""
        self._encoded = build_list_block(fsid, ref, list(self.blknos), start=self.start, next=self.next)
        return self._encoded

    def clean(self) -> tuple[bytes, int]:
        """Return what a reader keeps."""
        return self._encoded, LARGE_BLOCK_SIZE


class BlockList:
    """A list whose blocks belong to one writer; `head` follows its changes."""

    def __init__(self, head: ListHead = NO_LIST) -> None:
        self.head = head

    def counted(self, change: int) -> None:
        """Note that entries of the first block have become more, or fewer."""
        nr = self.head.first_nr + change
        self.head = self.head._replace(first_nr=nr, total_nr=self.head.total_nr + change)


def read_node(writer: BlockWriter, ref: Ref) -> ListNode:
    """Return the dirty block of a list that `ref` refers to, or a new node with the entries of a stable one.

    A list has one owner, so a block that is another one is damage: raises DamagedBlock, or DeviceError.
    """
    node = writer.find(ref, ListNode, _KIND)
    if node is not None:
        return node
    name = writer.name(ref, _KIND)
    total = writer.reader.device.size // LARGE_BLOCK_SIZE
    try:
        block = read_list_block(writer.reader.read(ref, Magic.ALLOC_LIST, _KIND), name)
    except (StaleBlockError, BlockError) as error:
        raise DamagedBlock(str(error)) from error
    if block.blknos and not META_START_BLKNO <= min(block.blknos) <= max(block.blknos) < total:
        raise DamagedBlock(f"{name}: has entries that are no blocks of the device")
    return ListNode(block.next, block.blknos, block.start)


def read_first(writer: BlockWriter, head: ListHead) -> ListNode:
    """Return the first block of a list as `read_node` does; a new one if it has none.

    Raises DamagedBlock too if the head says something else of it.
    """
    node = read_node(writer, head.ref) if head.ref.blkno else ListNode()
    if len(node.blknos) != head.first_nr:
        text = f"has {len(node.blknos)} entries, its head says {head.first_nr}"
        raise DamagedBlock(f"{writer.name(head.ref, _KIND)}: {text}")
    return node
