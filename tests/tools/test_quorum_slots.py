"""Quorum slots on command lines."""

from __future__ import annotations

import ipaddress
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from format.quorum import QuorumConfig, SlotAddress
from scoutfs.errors import ScoutfsError
from scoutfs.quorum.slots import verify_slots
from scoutfs.tools.arguments import BadValue, UsageError
from scoutfs.tools.quorum_slots import add_slot, check_slots, parse_slot, slot_lines, slot_warnings


@pytest.mark.parametrize(
    ("text", "nr", "address", "port"),
    [
        ("0,127.0.0.1,12345", 0, "127.0.0.1", 12345),
        ("14,192.168.100.200,1", 14, "192.168.100.200", 1),
        ("2,10.11.12.13,65535", 2, "10.11.12.13", 65535),
        ("1,1.2,5", 1, "1.0.0.2", 5),
        ("1,0x7f000001,5", 1, "127.0.0.1", 5),
        ("1,0300.0250.1.1,5", 1, "192.168.1.1", 5),
        ("+1,1.2.3.4,+5", 1, "1.2.3.4", 5),
    ],
)
def test_slots(text, nr, address, port):
    assert parse_slot(text) == (nr, SlotAddress(address, port))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("15,1.2.3.4,5", "invalid nr '15' in quorum slot '15,1.2.3.4,5', must be between 0 and 14"),
        ("-1,1.2.3.4,5", "invalid nr '-1' in quorum slot '-1,1.2.3.4,5', must be between 0 and 14"),
        ("0,1.2.3.4,0", "invalid ipv4 port '0' in quorum slot '0,1.2.3.4,0', must be between 1 and 65535"),
        ("0,1.2.3.4,65536", "invalid ipv4 port '65536' in quorum slot '0,1.2.3.4,65536', must be between 1 and 65535"),
        ("0,0.0.0.0,5", "invalid ipv4 address '0.0.0.0' in quorum slot '0,0.0.0.0,5'"),
        ("0,255.255.255.255,5", "invalid ipv4 address '255.255.255.255' in quorum slot '0,255.255.255.255,5'"),
        ("0,foo,5", "invalid ipv4 address 'foo' in quorum slot '0,foo,5'"),
        ("0,::1,5", "invalid ipv4 address '::1' in quorum slot '0,::1,5'"),
        ("0,1.2.3.4 x,5", "invalid ipv4 address '1.2.3.4 x' in quorum slot '0,1.2.3.4 x,5'"),
        ("0,1.2.3.4,5x", "extra unparsed trailing characters in quorum slot '0,1.2.3.4,5x'"),
        ("0,1.2.3.4,5,6", "extra unparsed trailing characters in quorum slot '0,1.2.3.4,5,6'"),
        ("0,1.2.3.4", "extra unparsed trailing characters in quorum slot '0,1.2.3.4'"),
        ("0", "extra unparsed trailing characters in quorum slot '0'"),
        ("x", "extra unparsed trailing characters in quorum slot 'x'"),
        ("", "error parsing quorum slot '': it must be NR,ADDR,PORT"),
    ],
)
def test_wrong_slots(text, message):
    with pytest.raises(BadValue, match=f"^{re.escape(message)}$") as caught:
        parse_slot(text)
    assert caught.value.on_stdout


@pytest.mark.parametrize("address", ["0.1.2.3", "0.255.255.255", "224.0.0.1", "239.255.255.255"])
def test_addresses_that_no_member_accepts(address):
    """The original lets them through, and then no member mounts the volume."""
    with pytest.raises(BadValue, match=f"^invalid ipv4 address '{address}' in .*, members refuse it"):
        parse_slot(f"0,{address},5")


@given(st.integers(0, 14), st.integers(1, 2**32 - 2).map(ipaddress.IPv4Address), st.integers(1, 65535))
def test_members_mount_with_every_slot_that_is_accepted_without_a_warning(nr, address, port):
    try:
        slots = dict([parse_slot(f"{nr},{address},{port}")])
    except BadValue:
        slots = {}
    accepted = bool(slots) and not slot_warnings(slots)
    config = QuorumConfig(1, {nr: SlotAddress(str(address), port)})
    try:
        verify_slots(config, nr)
    except ScoutfsError:
        assert not accepted
    else:
        assert accepted


@given(st.text())
def test_any_text_is_a_slot_or_refused(text):
    try:
        nr, address = parse_slot(text)
    except BadValue:
        return
    assert 0 <= nr <= 14
    assert ipaddress.IPv4Address(address.address)


def test_a_number_is_given_once():
    slots = {}
    add_slot(slots, "0,1.2.3.4,5")
    with pytest.raises(UsageError, match=r"^Quorum slot 0 already specified before slot '0,1\.2\.3\.5,5'\n$"):
        add_slot(slots, "0,1.2.3.5,5")
    assert slots == {0: SlotAddress("1.2.3.4", 5)}


def test_an_address_is_given_once(capsys):
    slots = {}
    for text in ("9,1.2.3.4,6", "3,1.2.3.4,5", "0,1.2.3.4,5"):
        add_slot(slots, text)
    with pytest.raises(UsageError, match=r"^invalid quorum slot configuration$"):
        check_slots(slots)
    assert capsys.readouterr().err == "quorum slot nr 0 and 3 have the same address 1.2.3.4:5\n"
    del slots[0]
    check_slots(slots)


def test_at_least_one():
    with pytest.raises(UsageError, match=r"^must specify at least one quorum slot with --quorum-slot\|-Q$"):
        check_slots({})


def test_lines():
    slots = {10: SlotAddress("10.0.0.2", 2), 1: SlotAddress("10.0.0.1", 1)}
    assert slot_lines(slots) == "  quorum slots:           1: 10.0.0.1:1\n                          10: 10.0.0.2:2"


def test_warnings():
    slots = {2: SlotAddress("10.0.0.2", 65535), 1: SlotAddress("10.0.0.1", 65534)}
    assert slot_warnings(slots) == [
        "warning: quorum slot 2 at 10.0.0.2:65535: members refuse port 65535 when they mount"
    ]
