"""Keys: bytes, order, neighbours and text."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from format.block import FormatError
from format.keys import Key, KeyStruct
from tests.images import DIRECTORY

RECORDED = json.loads((DIRECTORY / "hashes.json").read_text())

u8 = st.integers(0, 255)
u64 = st.one_of(st.integers(0, 2**64 - 1), st.sampled_from([0, 1, 255, 256, 2**63, 2**64 - 1]))
keys = st.builds(Key, u8, u64, u8, u64, u64, u8)


def rank(key: Key) -> tuple[int, ...]:
    """The fields in the order of spec 01 §4.1."""
    return key.zone, key.first, key.type, key.second, key.third, key.fourth


@pytest.mark.parametrize("vector", RECORDED["keys"])
def test_recorded_bytes_and_text(vector: dict[str, Any]) -> None:
    data = bytes.fromhex(vector["bytes"])
    key = Key.parse(data)
    assert str(key) == vector["print"]
    assert Key.from_text(vector["print"]) == key
    assert key.build() == data


@pytest.mark.parametrize("vector", RECORDED["key_inc_dec"])
def test_recorded_neighbours(vector: dict[str, str]) -> None:
    key = Key.from_text(vector["key"])
    assert str(key.increment()) == vector["inc"]
    assert str(key.decrement()) == vector["dec"]


def test_keys_of_messages() -> None:
    rid = 0x0123456789ABCDEF
    client = bytes.fromhex("efcdab89674523010000000000000000 000000000000000000 1c 000000000000")
    log = bytes.fromhex("efcdab89674523010300000000000000 000000000000000000 18 000000000000")
    assert Key(zone=28, first=rid).build() == client
    assert Key(zone=24, first=rid, second=3).build() == log


def test_least_and_greatest() -> None:
    assert Key.ZEROS.build() == bytes(32)
    assert Key.ONES.build() == b"\xff" * 27 + bytes(5)
    assert Key.ZEROS.decrement() == Key.ONES
    assert Key.ONES.increment() == Key.ZEROS


@given(keys, keys)
def test_order_is_that_of_the_fields_and_of_the_sort_form(one: Key, other: Key) -> None:
    assert (one < other) == (rank(one) < rank(other)) == (one.sort_bytes < other.sort_bytes)
    assert (one == other) == (one.sort_bytes == other.sort_bytes)


@given(keys)
def test_every_form_says_the_same(key: Key) -> None:
    assert Key.parse(key.build()) == key
    assert Key.from_sort_bytes(key.sort_bytes) == key
    assert Key.from_text(str(key)) == key
    assert len(key.build()) == 32
    assert len(key.sort_bytes) == 27


@given(keys)
def test_nothing_lies_between_neighbours(key: Key) -> None:
    assert key.increment().decrement() == key.decrement().increment() == key
    if key != Key.ONES:
        successor = key.increment()
        assert successor > key
        ladder = int.from_bytes(successor.sort_bytes, "big") - int.from_bytes(key.sort_bytes, "big")
        assert ladder == 1


@given(st.binary(min_size=32, max_size=32))
def test_fields_equal_those_of_the_declaration(data: bytes) -> None:
    key, declared = Key.parse(data), KeyStruct.parse(data)
    for field in ("zone", "first", "type", "second", "third", "fourth"):
        assert getattr(key, field) == declared[field]
    assert key.build() == KeyStruct.build(declared) == data[:27] + bytes(5)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1.2.3.4.5",
        "1.2.3.4.5.6.7",
        "256.0.0.0.0.0",
        "0.18446744073709551616.0.0.0.0",
        "0.0.256.0.0.0",
        "0.0.0.0.0.256",
        "1.2.3.4.5.",
        "1.2.3.4.5.x",
        "1.2.3.4.5.-6",
        "1.2.3.4.5.+6",
        "1.2.3.4.5.\u00b2",
        " 1.2.3.4.5.6",
        "1." + "9" * 5000 + ".3.4.5.6",
    ],
)
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(FormatError):
        Key.from_text(text)


@pytest.mark.parametrize("length", [0, 26, 28, 31, 33])
def test_other_lengths_are_refused(length: int) -> None:
    with pytest.raises(FormatError):
        Key.parse(bytes(length))
    with pytest.raises(FormatError):
        Key.from_sort_bytes(bytes(length))


@pytest.mark.parametrize("field", ["zone", "first", "type", "second", "third", "fourth"])
@pytest.mark.parametrize("value", [-1, 2**64])
def test_fields_out_of_range_are_refused(field: str, value: int) -> None:
    key = Key(**{field: value})
    with pytest.raises(FormatError):
        key.build()
    with pytest.raises(FormatError):
        _ = key.sort_bytes
