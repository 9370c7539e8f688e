"""`scoutfs change-quorum-config`: replaces the quorum slots of a volume that is not mounted (spec 01 §8.1, §8.2)."""

from __future__ import annotations

import errno
import os
import sys
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from format.block import SMALL_BLOCK_SIZE, SUPER_BLKNO, BlockError, build, seal
from format.quorum import Event, EventRecord, QuorumBlock, QuorumConfig, SlotAddress, config_to_struct
from format.superblock import FORMAT_VERSION_MAX, FORMAT_VERSION_MIN, SuperBlock, SuperBlockStruct
from scoutfs.errors import ScoutfsError
from scoutfs.quorum.leaders import greatest_fence
from scoutfs.quorum.registration import LocalFencer
from scoutfs.storage import Device, DeviceError, Sharing, SystemIO, read_quorum_block
from scoutfs.storage.volume import SUPER_OFFSET
from scoutfs.tools.arguments import BadValue, Option, UsageError, run_command, scan
from scoutfs.tools.quorum_slots import add_slot, check_slots, slot_lines, slot_warnings

_COMMAND = "change-quorum-config"
_HOW_TO_GO_ON = "The filesystem must be fully recovered and cleanly unmounted to change the quorum config"

_OPTIONS = (
    Option("offline", "F"),
    Option("quorum-slot", "Q", takes_value=True),
    Option("dry-run", "n"),
    Option("usage"),
    Option("help", "h"),
)

_USAGE = "usage: scoutfs change-quorum-config {-F|--offline} -Q NR,ADDRESS,PORT... META-DEVICE"

_HELP = """\

Replaces all quorum slots of a volume that no host has mounted by the given ones.  A volume on one
device is given as that device.

  -F, --offline                      say that no host has the volume mounted; always needed
  -Q, --quorum-slot NR,ADDRESS,PORT  a slot, 0 to 14, and the IPv4 address and port of its member
  -n, --dry-run                      check everything and print the result, but change nothing
  -h, --help                         print this

A mount that may still run is a reason to refuse, unless it is proved dead: a later leader has fenced
it, or it was a mount of this host and its processes are gone.

example:
  scoutfs change-quorum-config --offline -Q 0,10.0.0.1,6000 -Q 1,10.0.0.2,6000 /dev/meta"""

IsDead = Callable[[int, int], bool]
"""Whether the mount with this fsid and rid is known to be dead."""


@dataclass
class _Request:
    slots: dict[int, SlotAddress] = field(default_factory=dict)
    paths: list[str] = field(default_factory=list)
    offline: bool = False
    dry_run: bool = False
    information: str = ""


def main(argv: Sequence[str] | None = None, *, io: SystemIO | None = None, is_dead: IsDead | None = None) -> int:
    """Run the command with these arguments, by default those of the process, and return the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)

    def body() -> int:
        request = _parse(arguments)
        if request.information:
            print(request.information)
        else:
            _change(request, io or SystemIO(), is_dead or _is_dead_here)
        return 0

    return run_command(_COMMAND, _COMMAND, body)


def running_mount(
    blocks: Mapping[int, QuorumBlock], is_dead: Callable[[int], bool]
) -> tuple[int, EventRecord, EventRecord] | None:
    """Return (slot, BEGIN, END) of the first slot whose mount may still run; None if there is none.

    `blocks` are those of all present slots.  A slot whose mount has begun and not ended does not count if that mount
    led in a term below the greatest FENCE and did not stop: the leader that wrote that FENCE had fenced it.  Nor does
    it count if `is_dead` says so of the mount's rid.
    """
    fenced_below = greatest_fence(blocks)
    for slot, block in sorted(blocks.items()):
        begin = block.event(Event.BEGIN)
        leader = block.leader
        is_fenced = leader is not None and leader.rid == begin.rid and leader.term < fenced_below
        if block.agent_may_run and not is_fenced and not is_dead(begin.rid):
            return slot, begin, block.event(Event.END)
    return None


def _parse(arguments: Sequence[str]) -> _Request:
    """Parse and check all that can be checked without the device; raises UsageError."""
    request = _Request()
    try:
        for option, value in scan(arguments, _OPTIONS):
            match option.name if option else "":
                case "offline":
                    request.offline = True
                case "quorum-slot":
                    add_slot(request.slots, value)
                case "dry-run":
                    request.dry_run = True
                case "usage":
                    request.information = _USAGE
                    return request
                case "help":
                    request.information = f"{_USAGE}\n{_HELP}"
                    return request
                case _:
                    if request.paths:
                        raise UsageError("more than one metadata device argument given")
                    request.paths.append(value)
    except BadValue as error:
        print(error, file=sys.stdout if error.on_stdout else sys.stderr)
        request.paths.clear()
    if not request.offline:
        raise UsageError("must specify --offline")
    if not request.slots:
        check_slots(request.slots)
    if not request.paths:
        raise UsageError("no metadata device argument given")
    check_slots(request.slots)
    return request


def _change(request: _Request, io: SystemIO, is_dead: IsDead) -> None:
    """Check everything, write the super block, print the result; raises ScoutfsError."""
    path = request.paths[0]
    with _open(path, request.dry_run, io) as device:
        old = _read_super(device)
        _check_unused(device, old, is_dead)
        block = _with_slots(old, request.slots)
        new = SuperBlock.parse(block)
        if not request.dry_run:
            device.write(SUPER_OFFSET, block, durable=True)
        for line in slot_warnings(request.slots):
            print(line, file=sys.stderr)
        print(_summary(device, new, request.dry_run))


def _with_slots(super_block: SuperBlock, slots: Mapping[int, SlotAddress]) -> bytes:
    """Return the super block with the given slots in place of all that it has, its write counter started anew."""
    raw = super_block.raw
    config = QuorumConfig(raw.qconf.version + 1, slots)
    fields = {**raw, "hdr": {**raw.hdr, "seq": 1}, "qconf": config_to_struct(config)}
    return seal(build(SuperBlockStruct, fields, "super block"), SMALL_BLOCK_SIZE)


def _open(path: str, dry_run: bool, io: SystemIO) -> Device:
    sharing = Sharing.NONE if dry_run else Sharing.EXCLUSIVE
    try:
        return Device.open(path, writable=not dry_run, sharing=sharing, io=io)
    except DeviceError as error:
        text = f"failed to open meta device '{path}': {os.strerror(error.errno)} ({error.errno})"
        if error.errno in (errno.EBUSY, errno.ENOTBLK):
            text += f": {str(error).removeprefix(f'{path}: ')}"
        raise ScoutfsError(text, error.errno) from error


def _read_super(device: Device) -> SuperBlock:
    """Read the super block of the metadata device; raises ScoutfsError, EIO if it cannot be read or is damaged."""
    try:
        super_block = SuperBlock.parse(device.read(SUPER_OFFSET, SMALL_BLOCK_SIZE))
    except DeviceError as error:
        raise _unreadable(str(error), error.errno) from error
    except BlockError as error:
        if error.field == "fmt_vers":
            text = f"meta super block has format version {error.stored} outside of supported version range"
            raise ScoutfsError(f"{text} {FORMAT_VERSION_MIN}-{FORMAT_VERSION_MAX}", errno.EINVAL) from error
        raise _unreadable(_damage(error), errno.EIO) from error
    if not super_block.is_meta:
        text = "is the data device of its volume, the metadata device has to be given"
        raise ScoutfsError(f"{device.path}: {text}", errno.EINVAL)
    return super_block


def _damage(error: BlockError) -> str:
    """Say what is wrong with the super block in the words of the original."""
    block = f"read blkno {SUPER_BLKNO}"
    stored, expected = error.stored or 0, error.expected or 0
    if error.field == "crc":
        return f"crc of {block} failed, stored {stored:08x} != calculated {expected:08x}"
    if error.field == "magic":
        return f"{block} has bad magic {stored:08x} != expected {expected:08x}"
    return f"{block} has bad {error.field} {stored} != expected {expected}"


def _unreadable(text: str, code: int) -> ScoutfsError:
    return ScoutfsError(f"{text}\nfailed to read meta super block: {os.strerror(code)} ({code})", code)


def _check_unused(device: Device, super_block: SuperBlock, is_dead: IsDead) -> None:
    """Raise ScoutfsError, EBUSY, if the volume may be mounted anywhere."""
    if super_block.raw.mounted_clients.ref.blkno:
        text = "meta superblock mounted clients btree is not empty."
        raise ScoutfsError(f"{text}\n{_HOW_TO_GO_ON}", errno.EBUSY)
    blocks = {}
    for slot in sorted(super_block.quorum_config.slots):
        try:
            blocks[slot] = read_quorum_block(device, super_block.fsid, slot)
        except (DeviceError, BlockError) as error:
            code = error.errno if isinstance(error, DeviceError) else errno.EIO
            text = f"cannot tell whether a mount in quorum slot {slot} is still running"
            raise ScoutfsError(f"{error}\n{text}", code) from error
    running = running_mount(blocks, lambda rid: is_dead(super_block.fsid, rid))
    if running is not None:
        slot, begin, end = running
        lines = (
            f"mount in quorum slot {slot} could still be running.",
            f"  begin event: write_nr {begin.write_nr} timestamp {_timestamp(begin)}",
            f"    end event: write_nr {end.write_nr} timestamp {_timestamp(end)}",
            _HOW_TO_GO_ON,
        )
        raise ScoutfsError("\n".join(lines), errno.EBUSY)


def _timestamp(record: EventRecord) -> str:
    sec, nsec = divmod(record.ts, 1_000_000_000)
    return f"{sec}.{nsec:08d}"


def _is_dead_here(fsid: int, rid: int) -> bool:
    """Ask this host's register of its own mounts; nothing is killed."""
    return LocalFencer(fsid=fsid, own_rid=0).fence(rid, given_up=lambda: True).dead


def _summary(device: Device, super_block: SuperBlock, dry_run: bool) -> str:
    config = super_block.quorum_config
    done = "Would change" if dry_run else "Successfully changed"
    return "\n".join(
        (
            f"{done} quorum config for scoutfs filesystem:",
            f"  meta device path:       {device.path}",
            f"  fsid:                   {super_block.fsid:x}",
            f"  uuid:                   {uuid.UUID(bytes=super_block.uuid)}",
            f"  quorum config version:  {config.version}",
            slot_lines(config.slots),
        )
    )


if __name__ == "__main__":
    sys.exit(main())
