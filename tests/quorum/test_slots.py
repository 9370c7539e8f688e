"""Slot verification: every refusal of spec 02 §2.2, in its order."""

from __future__ import annotations

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from format.quorum import QuorumConfig, SlotAddress
from scoutfs.errors import ScoutfsError
from scoutfs.quorum.slots import verify_slots

GOOD = {0: SlotAddress("127.0.0.1", 45000), 1: SlotAddress("127.0.0.1", 45001), 2: SlotAddress("10.1.2.3", 45000)}


def config(slots: dict[int, SlotAddress], ipv6: tuple[int, ...] = ()) -> QuorumConfig:
    return QuorumConfig(1, slots, ipv6)


def refusal(slots: dict[int, SlotAddress], slot: int = 0, ipv6: tuple[int, ...] = ()) -> str:
    with pytest.raises(ScoutfsError) as caught:
        verify_slots(config(slots, ipv6), slot)
    assert caught.value.errno == errno.EINVAL
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("slot", [0, 1, 2])
def test_a_slot_that_is_configured_is_accepted(slot: int) -> None:
    assert verify_slots(config(GOOD), slot) == GOOD[slot]


@pytest.mark.parametrize(
    "address", ["224.0.0.1", "239.255.255.255", "232.1.2.3", "255.255.255.255", "0.0.0.0", "0.1.2.3", "0.255.255.255"]
)
def test_an_address_that_is_not_unicast_is_refused(address: str) -> None:
    text = refusal({**GOOD, 5: SlotAddress(address, 45000)})
    assert "slot 5" in text
    assert address in text


@pytest.mark.parametrize("address", ["1.0.0.0", "127.255.255.255", "223.255.255.255", "240.0.0.1", "192.168.1.255"])
def test_every_other_address_is_accepted(address: str) -> None:
    assert verify_slots(config({3: SlotAddress(address, 1)}), 3) == SlotAddress(address, 1)


@pytest.mark.parametrize("port", [0, 65535])
def test_a_port_that_cannot_be_used_is_refused(port: int) -> None:
    text = refusal({**GOOD, 7: SlotAddress("10.0.0.1", port)})
    assert "slot 7" in text
    assert f"10.0.0.1:{port}" in text


@pytest.mark.parametrize("port", [1, 65534])
def test_the_limits_of_ports_are_accepted(port: int) -> None:
    assert verify_slots(config({0: SlotAddress("10.0.0.1", port)}), 0).port == port


def test_two_slots_at_one_address_and_port_are_refused() -> None:
    text = refusal({**GOOD, 4: SlotAddress("127.0.0.1", 45001)})
    assert "1 and 4" in text
    assert "127.0.0.1:45001" in text


def test_a_volume_without_slots_is_refused() -> None:
    assert "no usable quorum slots" in refusal({})


def test_a_slot_that_is_absent_is_refused_with_the_list_of_those_that_are_not() -> None:
    slots = {nr: SlotAddress("127.0.0.1", 45000 + nr) for nr in (12, 2, 1, 0)}
    text = refusal(slots, 3)
    assert "quorum_slot_nr=3" in text
    assert text.endswith(" 0,1,2,12")


def test_ipv6_slots_are_refused_with_their_numbers() -> None:
    text = refusal(GOOD, 0, (4, 9))
    assert "IPv6" in text
    assert "4,9" in text


def test_what_is_wrong_with_another_slot_is_said_before_ours_is_missing() -> None:
    assert "slot 5" in refusal({5: SlotAddress("224.0.0.1", 1)}, 0)


def test_the_first_wrong_slot_is_named_address_before_port_before_duplicate() -> None:
    bad = {
        2: SlotAddress("127.0.0.1", 45000),
        3: SlotAddress("127.0.0.1", 0),
        4: SlotAddress("127.0.0.1", 45000),
        5: SlotAddress("224.0.0.1", 0),
    }
    assert "slots 2 and 4" in refusal(bad)
    del bad[4]
    assert "port 0" in refusal(bad)
    del bad[3]
    assert "not a unicast address" in refusal(bad)


addresses = st.builds(SlotAddress, st.ip_addresses(v=4).map(str), st.integers(0, 65535))


@given(st.dictionaries(st.integers(0, 14), addresses), st.integers(0, 14))
def test_any_configuration_is_accepted_or_refused_in_one_line(slots: dict[int, SlotAddress], slot: int) -> None:
    first_octets = [int(address.address.split(".")[0]) for address in slots.values()]
    unicast = all(
        octet != 0 and not 224 <= octet < 240 and address.address != "255.255.255.255"
        for octet, address in zip(first_octets, slots.values(), strict=True)
    )
    ports_usable = all(0 < address.port < 65535 for address in slots.values())
    distinct = len(set(slots.values())) == len(slots)
    if unicast and ports_usable and distinct and slot in slots:
        assert verify_slots(config(slots), slot) == slots[slot]
    else:
        refusal(slots, slot)
