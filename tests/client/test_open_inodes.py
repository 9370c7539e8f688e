"""The map of inodes in use, in the form in which mounts tell each other of it (spec 05 §6.1)."""

from __future__ import annotations

from scoutfs.client.open_inodes import OpenInodes, open_elsewhere


def test_bit_n_is_bit_n_modulo_64_of_word_n_through_64() -> None:
    inodes = OpenInodes()
    for ino in (1024, 1024 + 70, 1024 + 1023, 5000):
        inodes.add(ino)
    payload = inodes.answer(1, 77)
    assert payload[:16] == (1).to_bytes(8, "little") + (77).to_bytes(8, "little")
    bits = payload[16:]
    assert len(bits) == 128
    assert {8 * byte + bit for byte in range(128) for bit in range(8) if bits[byte] >> bit & 1} == {0, 70, 1023}
    assert open_elsewhere(payload) == 1 | 1 << 70 | 1 << 1023


def test_what_is_not_in_use_any_more() -> None:
    inodes = OpenInodes()
    inodes.add(7)
    inodes.add(8)
    inodes.add(8)
    inodes.discard(8)
    inodes.discard(9)
    assert 7 in inodes
    assert 8 not in inodes
    assert open_elsewhere(inodes.answer(0, 1)) == 1 << 7
    inodes.discard(7)
    assert open_elsewhere(inodes.answer(0, 1)) == 0
