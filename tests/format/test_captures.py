"""Everything that kernel mounts said to each other in the recorded captures is read, and built again byte for byte."""

from __future__ import annotations

import lzma
import re
from collections import Counter
from typing import Any

import pytest

from format.checksum import checksum
from format.keys import KeyStruct
from format.logs import LogMergeComplete, LogMergeRequest, LogTrees
from format.message import Message, MessageError, MessageType
from format.net import Command, Greeting, Header, NetError, NetGreeting, NetStatfs
from format.payloads import (
    NetCount,
    NetInodeAlloc,
    NetLock,
    NetRoots,
    NetSeq,
    OpenInoMap,
    OpenInoMapArgs,
    build_lock_recover,
    parse_lock_recover,
    parse_payload,
)
from format.quorum import Event, EventRecord, QuorumBlock
from format.srch import SrchCompact
from format.superblock import VolumeOptions
from tests.format.datagrams import DATA, Datagram, datagrams
from tests.network.capture import messages as by_hand_messages
from tests.network.capture import tcp_streams

CLUSTER_FSID, GUESTS_FSID = 0xE55DD113BCB49A2B, 0xCB2893C02BEB21BF
GUEST = ("10.99.0.10", 19700)
NOT_IN: dict[str, set[Command]] = {
    "cluster3/lo": set(),
    "three-guests/br0": {Command.COMMIT_LOG_MERGE, Command.GET_VOLOPT},
}


def read(datagram: Datagram, fsid: int) -> Message:
    """Decode a datagram, and make sure that the message builds it again."""
    message = Message.parse(datagram.data, fsid)
    assert message.build(fsid) == datagram.data
    return message


@pytest.mark.parametrize(
    ("name", "fsid", "count"), [("cluster3/lo", CLUSTER_FSID, 732), ("three-guests/br0", GUESTS_FSID, 841)]
)
def test_datagrams_of_clusters(name: str, fsid: int, count: int) -> None:
    found = datagrams(name)
    assert len(found) == count
    slots: dict[tuple[str, int], set[int]] = {}
    for datagram in found:
        slots.setdefault(datagram.source, set()).add(read(datagram, fsid).sender)
    assert sorted(slots.items()) == [(source, {slot}) for slot, source in enumerate(sorted(slots))]


@pytest.mark.parametrize("name", ["single-slot-vs-fake-peer/a", "single-slot-vs-fake-peer/b"])
def test_datagrams_that_another_program_decoded(name: str) -> None:
    # The peer was a test program of its own, whose log tells what it sent and received.
    log = (DATA / f"{name}-peer-log.txt").read_text()
    fsid = int(re.search(r"fsid ([0-9a-f]{16})", log)[1], 16)  # type: ignore[index]
    from_guest = []
    bad = 0
    for datagram in datagrams(name):
        if datagram.source == GUEST:
            message = read(datagram, fsid)
            assert message.sender == 0
            from_guest.append((message.type.name, message.term))
        elif checksum(datagram.data[:28]).to_bytes(4, "little") == datagram.data[28:]:
            assert read(datagram, fsid).sender == 1
        else:
            bad += 1
            with pytest.raises(MessageError, match="crc"):
                Message.parse(datagram.data, fsid)
    assert bad == log.count(" bad crc\n")
    logged = [(kind, int(term)) for term, kind in re.findall(r"'term': (\d+), 'type': '(\w+)'", log)]
    assert len(logged) >= 8
    assert not Counter(logged) - Counter(from_guest)
    for text in re.findall(r"\b[0-9a-f]{64}\b", log):
        assert Message.parse(bytes.fromhex(text), fsid).build(fsid) == bytes.fromhex(text)


def test_elections_of_the_cluster_read_as_its_timeline_tells() -> None:
    messages = [Message.parse(datagram.data, CLUSTER_FSID) for datagram in datagrams("cluster3/lo")]
    leaders = {(message.term, message.sender) for message in messages if message.type == MessageType.HEARTBEAT}
    assert len({term for term, _ in leaders}) == len(leaders)
    resigned = [(m.term, m.sender) for m in messages if m.type == MessageType.RESIGNATION]
    assert set(resigned) <= leaders


# Payload of requests and of responses, spec 03 §4; None where there is no payload.
PAYLOADS: dict[Command, tuple[Any, Any]] = {
    Command.GREETING: (NetGreeting, NetGreeting),
    Command.ALLOC_INODES: (NetCount, NetInodeAlloc),
    Command.GET_LOG_TREES: (None, LogTrees),
    Command.COMMIT_LOG_TREES: (LogTrees, None),
    Command.SYNC_LOG_TREES: (None, None),
    Command.GET_ROOTS: (None, NetRoots),
    Command.GET_LAST_SEQ: (None, NetSeq),
    Command.LOCK: (NetLock, NetLock),
    Command.SRCH_GET_COMPACT: (None, SrchCompact),
    Command.GET_LOG_MERGE: (None, LogMergeRequest),
    Command.COMMIT_LOG_MERGE: (LogMergeComplete, None),
    Command.OPEN_INO_MAP: (OpenInoMapArgs, OpenInoMap),
    Command.GET_VOLOPT: (None, VolumeOptions),
    Command.STATFS: (None, NetStatfs),
    Command.FAREWELL: (None, None),
}


def read_stream(data: bytes) -> list[tuple[Header, bytes]]:
    """Return the messages of a whole stream, which a decoder by hand cuts in the same way."""
    found = []
    position = 0
    for by_hand in by_hand_messages(data):
        header = Header.parse(data[position : position + 32])
        assert header.build() == data[position : position + 32]
        assert (header.seq, header.recv_seq, header.id) == (by_hand.seq, by_hand.recv_seq, by_hand.id)
        assert (header.command, header.error, header.data_len) == (by_hand.cmd, by_hand.error, by_hand.data_len)
        assert header.response == (by_hand.flags == 1)
        found.append((header, by_hand.payload))
        position += 32 + header.data_len
    assert len(data) - position < 32
    return found


def check_payload(header: Header, payload: bytes) -> None:
    """Make sure that a payload is what its command says, and is built again byte for byte."""
    if header.command == Command.LOCK_RECOVER:
        if header.response:
            assert build_lock_recover([dict(lock) for lock in parse_lock_recover(payload)]) == payload
            return
        declaration = KeyStruct
    else:
        declaration = PAYLOADS[header.command][header.response]
    if declaration is None or header.error:
        assert payload == b""
        return
    assert declaration.build(parse_payload(declaration, payload, header.command.name)) == payload


@pytest.mark.parametrize(("name", "fsid"), [("cluster3/lo", CLUSTER_FSID), ("three-guests/br0", GUESTS_FSID)])
def test_streams_of_clusters(name: str, fsid: int) -> None:
    seen = set()
    for stream in tcp_streams(name):
        messages = read_stream(stream.data)
        header, payload = messages[0]
        greeting = Greeting.parse(payload)
        assert header.command == Command.GREETING
        assert (greeting.fsid, greeting.fmt_vers) == (fsid, 2)
        assert greeting.build() == payload
        assert not (header.response and greeting.flags)
        for header, payload in messages:
            check_payload(header, payload)
            seen.add(header.command)
            assert header.error in (NetError.NONE, NetError.ENOENT)
    assert seen == {*PAYLOADS, Command.LOCK_RECOVER} - NOT_IN[name]


def test_quorum_blocks_of_the_cluster_have_the_checksums_that_were_printed() -> None:
    # The text is from the original's print; each block is built from it and must have the checksum in it.
    text = lzma.decompress((DATA / "cluster3" / "print.txt.xz").read_bytes()).decode()
    blocks = re.findall(
        r"quorum blkno (\d+) \(slot (\d+)\)\n  hdr: crc (\w+) .*\n  write_nr (\d+)\n((?: +\w+: rid.*\n){6})", text
    )
    assert len(blocks) == 15
    written = 0
    for blkno, slot, crc, write_nr, lines in blocks:
        events = {}
        for line in lines.splitlines():
            name, rid, term, nr, sec, nsec = re.findall(
                r" +(\w+): rid (\w+) term (\d+) write_nr (\d+) ts (\d+)\.(\d+)", line
            )[0]
            ts = int(sec) * 1_000_000_000 + int(nsec)
            record = EventRecord(int(nr), int(rid, 16), int(term), ts)
            if record != EventRecord():
                events[Event[name.upper()]] = record
                written += 1
        block = QuorumBlock(CLUSTER_FSID, int(slot), int(write_nr), events)
        data = block.build()
        assert f"{int.from_bytes(data[:4], 'little'):08x}" == crc
        assert int(blkno) == 17 + int(slot)
        assert QuorumBlock.parse(data, fsid=CLUSTER_FSID, slot=int(slot)) == block
    assert written == 14
