"""TCP messages: the recorded ones of spec 03 §13 both ways, and what a receiver must refuse."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from format.block import FormatError
from format.clients import MountedClient, MountedClientFlag
from format.keys import Key, KeyStruct
from format.net import (
    MAX_DATA_LEN,
    Command,
    Greeting,
    GreetingFlag,
    Header,
    NetError,
    NetGreeting,
    NetHeaderError,
    NetStatfs,
)
from format.payloads import (
    LOCK_RECOVER_MAX,
    LockMode,
    NetCount,
    NetInodeAlloc,
    NetLock,
    NetRoots,
    OpenInoMap,
    OpenInoMapArgs,
    build_lock_recover,
    parse_lock_recover,
    parse_payload,
)
from format.quorum import SlotAddress, address_from_struct, address_to_struct
from format.superblock import VolumeOptions

FSID, RID = 0x62F572033142D14C, 0x0123456789ABCDEF
INODE_GROUP = Key(zone=16, first=0x400)


def key_fields(key: Key) -> dict[str, int]:
    """The fields of a key as its declaration names them."""
    return {field: getattr(key, field) for field in ("first", "second", "third", "fourth", "zone", "type")}


def lock(write_seq: int) -> dict[str, Any]:
    """The lock of the recorded request for the inode group 1."""
    return {
        "key": key_fields(INODE_GROUP),
        "write_seq": write_seq,
        "old_mode": LockMode.NULL,
        "new_mode": LockMode.WRITE,
        "garbage": bytes(6),
    }


# Name, bytes, header, declaration of the payload and its fields.
VECTORS: dict[str, tuple[str, Header, Any, dict[str, Any]]] = {
    "V1": (
        """
        02 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00
        02 00 00 00 00 00 00 00 28 00 00 00 00 00 00 00
        4c d1 42 31 03 72 f5 62 02 00 00 00 00 00 00 00
        00 00 00 00 00 00 00 00 ef cd ab 89 67 45 23 01
        02 00 00 00 00 00 00 00
        """,
        Header(2, 0, 2, 40, Command.GREETING),
        NetGreeting,
        {"fsid": FSID, "fmt_vers": 2, "server_term": 0, "rid": RID, "flags": 2},
    ),
    "V2": (
        """
        01 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00
        02 00 00 00 00 00 00 00 28 00 00 01 00 00 00 00
        4c d1 42 31 03 72 f5 62 02 00 00 00 00 00 00 00
        07 00 00 00 00 00 00 00 ef cd ab 89 67 45 23 01
        00 00 00 00 00 00 00 00
        """,
        Header(1, 0, 2, 40, Command.GREETING, response=True),
        NetGreeting,
        {"fsid": FSID, "fmt_vers": 2, "server_term": 7, "rid": RID, "flags": 0},
    ),
    "V3": (
        """
        01 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00
        02 00 00 00 00 00 00 00 00 00 00 01 05 00 00 00
        """,
        Header(1, 0, 2, 0, Command.GREETING, response=True, error=NetError.EINVAL),
        None,
        {},
    ),
    "V4": (
        """
        05 00 00 00 00 00 00 00 04 00 00 00 00 00 00 00
        05 00 00 00 00 00 00 00 08 00 01 00 00 00 00 00
        00 28 00 00 00 00 00 00
        """,
        Header(5, 4, 5, 8, Command.ALLOC_INODES),
        NetCount,
        {"count": 10240},
    ),
    "V5": (
        """
        06 00 00 00 00 00 00 00 05 00 00 00 00 00 00 00
        05 00 00 00 00 00 00 00 10 00 01 01 00 00 00 00
        00 04 00 00 00 00 00 00 00 28 00 00 00 00 00 00
        """,
        Header(6, 5, 5, 16, Command.ALLOC_INODES, response=True),
        NetInodeAlloc,
        {"ino": 1024, "nr": 10240},
    ),
    "V6": (
        """
        01 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00
        01 00 00 00 00 00 00 00 30 00 07 00 00 00 00 00
        00 04 00 00 00 00 00 00 00 00 00 00 00 00 00 00
        00 00 00 00 00 00 00 00 00 10 00 00 00 00 00 00
        00 00 00 00 00 00 00 00 00 02 00 00 00 00 00 00
        """,
        Header(1, 0, 1, 48, Command.LOCK),
        NetLock,
        lock(0),
    ),
    "V7": (
        """
        02 00 00 00 00 00 00 00 01 00 00 00 00 00 00 00
        01 00 00 00 00 00 00 00 30 00 07 01 00 00 00 00
        00 04 00 00 00 00 00 00 00 00 00 00 00 00 00 00
        00 00 00 00 00 00 00 00 00 10 00 00 00 00 00 00
        2a 00 00 00 00 00 00 00 00 02 00 00 00 00 00 00
        """,
        Header(2, 1, 1, 48, Command.LOCK, response=True),
        NetLock,
        lock(42),
    ),
    "V8": (
        """
        02 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00
        01 00 00 00 00 00 00 00 20 00 08 00 00 00 00 00
        00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00
        00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00
        """,
        Header(2, 0, 1, 32, Command.LOCK_RECOVER),
        KeyStruct,
        key_fields(Key.ZEROS),
    ),
    "V10": (
        """
        0a 00 00 00 00 00 00 00 09 00 00 00 00 00 00 00
        0a 00 00 00 00 00 00 00 10 00 0d 00 00 00 00 00
        01 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00
        """,
        Header(10, 9, 10, 16, Command.OPEN_INO_MAP),
        OpenInoMapArgs,
        {"group_nr": 1, "req_id": 0},
    ),
    "V11": (
        """
        0b 00 00 00 00 00 00 00 03 00 00 00 00 00 00 00
        02 00 00 00 00 00 00 00 90 00 0d 01 00 00 00 00
        01 00 00 00 00 00 00 00 01 00 00 00 00 00 00 00
        01 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00
        """
        + "00" * 96
        + "00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 80",
        Header(11, 3, 2, 144, Command.OPEN_INO_MAP, response=True),
        OpenInoMap,
        {"args": {"group_nr": 1, "req_id": 1}, "bits": [1, *[0] * 14, 1 << 63]},
    ),
    "V12": (
        "14 00 00 00 00 00 00 00 13 00 00 00 00 00 00 00 14 00 00 00 00 00 00 00 00 00 13 00 00 00 00 00",
        Header(20, 19, 20, 0, Command.FAREWELL),
        None,
        {},
    ),
    "V13": (
        "15 00 00 00 00 00 00 00 14 00 00 00 00 00 00 00 14 00 00 00 00 00 00 00 00 00 13 01 00 00 00 00",
        Header(21, 20, 20, 0, Command.FAREWELL, response=True),
        None,
        {},
    ),
    "V14": (
        "04 00 00 00 00 00 00 00 03 00 00 00 00 00 00 00 03 00 00 00 00 00 00 00 00 00 04 00 00 00 00 00",
        Header(4, 3, 3, 0, Command.SYNC_LOG_TREES),
        None,
        {},
    ),
    "V15": (
        """
        0c 00 00 00 00 00 00 00 0b 00 00 00 00 00 00 00
        0c 00 00 00 00 00 00 00 08 02 0f 00 00 00 00 00
        01 00 00 00 00 00 00 00 00 00 20 00 00 00 00 00
        """
        + "00" * 504,
        Header(12, 11, 12, 520, Command.SET_VOLOPT),
        VolumeOptions,
        {"set_bits": 1, "data_alloc_zone_blocks": 2097152, "future_expansion": [0] * 63},
    ),
}


@pytest.mark.parametrize("name", VECTORS)
def test_recorded_messages(name: str) -> None:
    text, header, declaration, fields = VECTORS[name]
    message = bytes.fromhex(text)
    assert Header.parse(message[:32]) == header
    assert header.build() == message[:32]
    assert len(message) == 32 + header.data_len
    if declaration is None:
        assert header.data_len == 0
        return
    assert declaration.build(fields) == message[32:]
    assert declaration.build(parse_payload(declaration, message[32:], name)) == message[32:]


def test_recorded_greetings() -> None:
    asked = bytes.fromhex(VECTORS["V1"][0])[32:]
    answered = bytes.fromhex(VECTORS["V2"][0])[32:]
    assert Greeting.parse(asked) == Greeting(FSID, 2, 0, RID, GreetingFlag.QUORUM)
    assert Greeting(FSID, 2, 0, RID, GreetingFlag.QUORUM).build() == asked
    assert Greeting.parse(answered) == Greeting(FSID, 2, 7, RID)
    assert Greeting(FSID, 2, 7, RID).build() == answered


def test_recorded_answer_without_locks() -> None:
    # V9: an answer to V8.
    message = bytes.fromhex(
        """
        09 00 00 00 00 00 00 00 02 00 00 00 00 00 00 00
        01 00 00 00 00 00 00 00 08 00 08 01 00 00 00 00
        00 00 00 00 00 00 00 00
        """
    )
    assert Header.parse(message[:32]) == Header(9, 2, 1, 8, Command.LOCK_RECOVER, response=True)
    assert parse_lock_recover(message[32:]) == []
    assert build_lock_recover([]) == message[32:]


def test_recorded_mounted_client() -> None:
    stored = bytes.fromhex("010050c30302010a" + "00" * 24 + "01" + "00" * 7)
    client = MountedClient.parse(stored)
    assert address_from_struct(client.addr) == SlotAddress("10.1.2.3", 50000)
    assert client.flags == MountedClientFlag.QUORUM
    address = address_to_struct(SlotAddress("10.1.2.3", 50000))
    assert MountedClient.build({"addr": address, "flags": 1, "garbage": bytes(7)}) == stored


def test_recorded_roots() -> None:
    empty = {"ref": {"blkno": 0, "seq": 0}, "height": 0}
    roots = {"fs_root": {"ref": {"blkno": 2, "seq": 1}, "height": 1}, "logs_root": empty, "srch_root": empty}
    stored = bytes.fromhex("020000000000000001000000000000000100000000000000") + bytes(48)
    assert NetRoots.build(roots) == stored
    assert parse_payload(NetRoots, stored, "roots").fs_root.ref.blkno == 2


HEADER = Header(2, 1, 3, 16, Command.STATFS).build()


def with_byte(offset: int, *data: int) -> bytes:
    """A valid header with other bytes at `offset`."""
    return HEADER[:offset] + bytes(data) + HEADER[offset + len(data) :]


@pytest.mark.parametrize(
    "header",
    [
        with_byte(0, 0),
        with_byte(16, 0),
        *[with_byte(26, command) for command in (20, 21, 255)],
        *[with_byte(27, flags) for flags in (2, 3, 4, 128, 255)],
        *[with_byte(27, 1, error) for error in (7, 8, 0xEA, 255)],
        with_byte(24, 0x4D, 0x04),
        with_byte(24, 0xFF, 0xFF),
        *[with_byte(28, error) for error in range(1, 8)],
        HEADER[:31],
        HEADER + b"\0",
        b"",
    ],
)
def test_bad_headers_are_refused(header: bytes) -> None:
    with pytest.raises(NetHeaderError):
        Header.parse(header)


def test_the_bounds_themselves_are_allowed() -> None:
    assert Header.parse(with_byte(24, 0x4C, 0x04)).data_len == MAX_DATA_LEN == 1100
    assert Header.parse(with_byte(26, 19)).command == Command.FAREWELL
    for error in NetError:
        assert Header.parse(with_byte(27, 1, error)).error == error
    greatest = Header(2**64 - 1, 2**64 - 1, 2**64 - 1, 0, Command.LOCK)
    assert Header.parse(greatest.build()) == greatest


def test_pads_of_headers_are_not_looked_at() -> None:
    assert Header.parse(with_byte(29, 1, 2, 3)) == Header.parse(HEADER)


def test_greetings_have_one_length_and_ignore_unknown_flags() -> None:
    greeting = Greeting(FSID, 2, 5, RID, GreetingFlag.FAREWELL | GreetingFlag.QUORUM)
    stored = greeting.build()
    assert Greeting.parse(stored) == greeting
    assert Greeting.parse(stored[:32] + b"\xff" * 8) == greeting
    for length in (0, 39, 41, 48):
        with pytest.raises(FormatError):
            Greeting.parse(stored.ljust(length, b"\0")[:length])


def test_errors_travel_as_their_codes() -> None:
    codes = {0: 0, errno.ENOENT: 1, errno.ENOMEM: 2, errno.EIO: 3, errno.ENOSPC: 4, errno.EINVAL: 5, errno.ENOLINK: 6}
    for number, code in codes.items():
        assert NetError.from_errno(number) == code
        assert NetError(code).errno == number
    for unknown in (errno.EPERM, errno.ESTALE, errno.EDQUOT, 9999):
        assert NetError.from_errno(unknown) == NetError.EINVAL


def test_numbers_that_do_not_fit_are_refused() -> None:
    for header in (Header(2**64, 0, 1, 0, Command.LOCK), Header(1, -1, 1, 0, Command.LOCK)):
        with pytest.raises(FormatError):
            header.build()
    with pytest.raises(FormatError):
        Header(1, 0, 1, 65536, Command.LOCK).build()
    with pytest.raises(FormatError):
        Greeting(2**64, 1, 1, 1).build()


def test_recovered_locks() -> None:
    locks = [lock(seq) for seq in range(LOCK_RECOVER_MAX)]
    payload = build_lock_recover(locks)
    assert len(payload) == 1064
    found = parse_lock_recover(payload)
    assert [item.write_seq for item in found] == list(range(22))
    assert all(item.key.zone == 16 and item.new_mode == LockMode.WRITE for item in found)
    for wrong in (b"", payload[:7], payload[:-1], payload + b"\0", b"\x15" + payload[1:], b"\x17" + payload[1:]):
        with pytest.raises(FormatError):
            parse_lock_recover(wrong)
    too_many = (23).to_bytes(2, "little") + bytes(6 + 48 * 23)
    with pytest.raises(FormatError):
        parse_lock_recover(too_many)
    with pytest.raises(FormatError):
        build_lock_recover([*locks, lock(0)])


@pytest.mark.parametrize("declaration", [NetCount, NetRoots, NetLock, NetStatfs, OpenInoMap, VolumeOptions])
def test_payloads_have_one_length(declaration: Any) -> None:
    for length in (0, declaration.sizeof() - 1, declaration.sizeof() + 1):
        with pytest.raises(FormatError, match="payload"):
            parse_payload(declaration, bytes(length), "payload")
