"""Quorum slots on a command line, and in the summaries of tools (spec 01 §6.1)."""

from __future__ import annotations

import ipaddress
import re
import socket
import sys
from collections.abc import Mapping

from format.block import QUORUM_MAX_SLOTS
from format.quorum import SlotAddress
from scoutfs.tools.arguments import BadValue, UsageError

PORT_MAX = 65535

_SLOT = re.compile(r"([+-]?[0-9]{1,20}),([^,]{1,45}),([+-]?[0-9]{1,20})")
_ZERO_NET = ipaddress.IPv4Network("0.0.0.0/8")


def parse_slot(text: str) -> tuple[int, SlotAddress]:
    """Return slot number and address of NR,ADDR,PORT; raises BadValue.

    Port 65535, which members refuse, is let through for the sake of volumes that have it: see `slot_warnings`.
    """
    if not text:
        raise BadValue("error parsing quorum slot '': it must be NR,ADDR,PORT", on_stdout=True)
    match = _SLOT.fullmatch(text)
    if not match:
        raise BadValue(f"extra unparsed trailing characters in quorum slot '{text}'", on_stdout=True)
    nr, address, port = int(match[1]), match[2], int(match[3])
    if not 0 <= nr < QUORUM_MAX_SLOTS:
        text = f"invalid nr '{nr}' in quorum slot '{text}', must be between 0 and {QUORUM_MAX_SLOTS - 1}"
        raise BadValue(text, on_stdout=True)
    if not 1 <= port <= PORT_MAX:
        text = f"invalid ipv4 port '{port}' in quorum slot '{text}', must be between 1 and {PORT_MAX}"
        raise BadValue(text, on_stdout=True)
    parsed = _ipv4(address)
    if parsed is None:
        raise BadValue(f"invalid ipv4 address '{address}' in quorum slot '{text}'", on_stdout=True)
    if parsed.is_multicast or parsed in _ZERO_NET:
        text = (
            f"invalid ipv4 address '{address}' in quorum slot '{text}', members refuse it: it is not a unicast address"
        )
        raise BadValue(text, on_stdout=True)
    return nr, SlotAddress(str(parsed), port)


def add_slot(slots: dict[int, SlotAddress], text: str) -> None:
    """Parse a slot and add it to `slots`; raises BadValue, or UsageError if its number is already taken."""
    nr, address = parse_slot(text)
    if nr in slots:
        raise UsageError(f"Quorum slot {nr} already specified before slot '{text}'\n")
    slots[nr] = address


def check_slots(slots: Mapping[int, SlotAddress]) -> None:
    """Raise UsageError if there are no slots, or two of the same address and port."""
    if not slots:
        raise UsageError("must specify at least one quorum slot with --quorum-slot|-Q")
    seen: dict[SlotAddress, int] = {}
    for nr, address in sorted(slots.items()):
        if address in seen:
            print(f"quorum slot nr {seen[address]} and {nr} have the same address {address}", file=sys.stderr)
            raise UsageError("invalid quorum slot configuration")
        seen[address] = nr


def slot_warnings(slots: Mapping[int, SlotAddress]) -> list[str]:
    """Return a line for each slot with which no member will mount the volume."""
    return [
        f"warning: quorum slot {nr} at {address}: members refuse port {PORT_MAX} when they mount"
        for nr, address in sorted(slots.items())
        if address.port == PORT_MAX
    ]


def slot_lines(slots: Mapping[int, SlotAddress]) -> str:
    """Return the last lines of a summary."""
    return "\n".join(
        f"{'' if index else '  quorum slots:':26}{nr}: {address}"
        for index, (nr, address) in enumerate(sorted(slots.items()))
    )


def _ipv4(text: str) -> ipaddress.IPv4Address | None:
    """Parse any form that inet_aton(3) takes, such as 127.1; None for anything else, or all ones or zeros."""
    if any(character.isspace() for character in text):
        return None
    try:
        address = ipaddress.IPv4Address(socket.inet_aton(text))
    except OSError:
        return None
    return None if int(address) in (0, 2**32 - 1) else address
