"""Whether the slots of a volume allow a mount to be the member of one of them (spec 02 §2.2)."""

from __future__ import annotations

import errno
import ipaddress

from format.block import QUORUM_MAX_SLOTS
from format.quorum import QuorumConfig, SlotAddress
from scoutfs.errors import ScoutfsError

_ZERO_NET = ipaddress.IPv4Network("0.0.0.0/8")
_BROADCAST = ipaddress.IPv4Address("255.255.255.255")


def verify_slots(config: QuorumConfig, slot: int) -> SlotAddress:
    """Return the address of `slot` if a member may run in it; raises ScoutfsError (EINVAL) with one line otherwise.

    In slot order: every address is unicast, every port is 1..65534, no two slots share address and port; then there
    are slots at all, and ours is one of them.  A volume with IPv6 slots is refused: members that cannot reach those
    slots, or do not count them, would count other majorities than the members that do.
    """
    for nr, address in sorted(config.slots.items()):
        _verify_address(nr, address)
        for other, other_address in sorted(config.slots.items()):
            if other > nr and other_address == address:
                raise _refused(f"quorum slots {nr} and {other} have the same address {address}")
    if config.ipv6_slots:
        numbers = ",".join(str(nr) for nr in config.ipv6_slots)
        raise _refused(f"quorum slots {numbers} have IPv6 addresses, which are not supported")
    if not config.slots:
        raise _refused("the volume has no usable quorum slots: define some with 'scoutfs change-quorum-config'")
    if slot not in config.slots:
        raise _refused(f"quorum_slot_nr={slot} is not a slot of this volume, usable slots: {usable_slots(config)}")
    return config.slots[slot]


def usable_slots(config: QuorumConfig) -> str:
    """Return the numbers of the present slots, separated by commas without spaces."""
    return ",".join(str(nr) for nr in sorted(config.slots))


def _verify_address(nr: int, address: SlotAddress) -> None:
    if not 0 <= nr < QUORUM_MAX_SLOTS:
        raise _refused(f"quorum slot {nr} is not between 0 and {QUORUM_MAX_SLOTS - 1}")
    ip = ipaddress.IPv4Address(address.address)
    if ip.is_multicast or ip == _BROADCAST or ip in _ZERO_NET:
        raise _refused(f"quorum slot {nr} has the address {address.address}, which is not a unicast address")
    if address.port in (0, 65535):
        raise _refused(f"quorum slot {nr} at {address} has port {address.port}, allowed are 1 to 65534")


def _refused(text: str) -> ScoutfsError:
    return ScoutfsError(text, errno.EINVAL)
