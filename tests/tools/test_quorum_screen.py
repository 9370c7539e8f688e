"""What `scoutfs quorum watch` shows of what is known."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest

from format.quorum import Event, QuorumBlock, SlotAddress
from format.superblock import SuperBlock
from scoutfs.quorum.overview import Overview, overview
from scoutfs.quorum.status import Delay, QuorumStatus, Role
from scoutfs.quorum.status_parser import parse_status
from scoutfs.storage.creation import NewVolume
from scoutfs.tools.quorum.live import FenceRequest, MountView, Snapshot
from scoutfs.tools.quorum.screen import plain_text, tables
from scoutfs.tools.quorum.terminal import rich_text
from tests.quorum.machine import FSID, block_with

SERIES = Path(__file__).parents[1] / "data" / "kernel" / "sysfs" / "status-series-failover.txt"
TIME = "2026-11-24 20:00:00+00:00"


def recorded_views() -> list[MountView]:
    """Return a view for every status of the recorded failover, in the order in which they were read."""
    views = []
    for part in re.split(r"(?m)^### ", SERIES.read_text("ascii"))[1:]:
        heading, _, text = part.partition("\n")
        text = re.sub(r"(?m)^(cat|ls): .*\n", "", text)
        if not text:
            continue
        path = heading.split()[2]
        status = parse_status(text, 0.0)
        rid = int(path.rpartition(".")[2], 16) << 40
        views.append(MountView(path, FSID, rid, status.slot, status, heading.endswith("is_leader=1")))
    return views


def latest(views: list[MountView]) -> tuple[MountView, ...]:
    """Return the last view of each slot, in their order."""
    return tuple(view for _, view in sorted({view.slot: view for view in views}.items()))


def volume() -> Overview:
    slots = {slot: SlotAddress("127.0.0.1", 19700 + slot) for slot in range(3)}
    super_block = SuperBlock.parse(NewVolume(FSID, bytes(16), 0, 2, 2048, 16384, slots).super_block(is_meta=True))
    blocks: dict[int, QuorumBlock | str] = {slot: QuorumBlock(FSID, slot) for slot in range(15)}
    rid = 0xC9E76D0000000000
    blocks[0] = block_with(0, (Event.BEGIN, rid, 0), (Event.TERM, rid, 11), (Event.ELECT, rid, 11))
    blocks[1] = "m: quorum block 18: crc is 0x1, expected 0x2"
    return overview(super_block, blocks)


def test_three_members_of_the_kernel() -> None:
    snapshot = Snapshot("/dev/m0", TIME, volume(), latest(recorded_views()[:3]))
    unusable = "m: quorum block 18: crc is 0x1, expected 0x2"
    # by the texts: slot 0 leads term 11 with the votes 0x3, slot 1 voted for it 18.9 s ago, slot 2 only hears it
    assert (
        plain_text(snapshot)
        == f"""\
ScoutFS quorum of /dev/m0 at {TIME}

slot  address          mount             role      term  vote  votes  timeout
   0  127.0.0.1:19700  c9e76d0000000000  leader      11     -  0,1      0.0 s
   1  127.0.0.1:19701  52f8960000000000  follower    11     0  -        9.9 s
   2  127.0.0.1:19702  24fa060000000000  follower    11     -  -        9.9 s

Recorded on the device
slot  state
   0  leads term 11, its server may run
   1  unreadable: {unusable}
   2  never used

Messages
slot  peer  last sent  term     ago  last received  term     ago
   0     1  heartbeat    11   0.1 s  vote             11  19.1 s
   0     2  heartbeat    11   0.1 s  -                 -       -
   1     0  vote         11  19.0 s  heartbeat        11   0.1 s
   2     0  -             -       -  heartbeat        11   0.1 s

Mounts on this host
slot  mount             at                                 client
   0  c9e76d0000000000  /sys/fs/scoutfs/f.e55dd1.r.c9e76d  -
   1  52f8960000000000  /sys/fs/scoutfs/f.e55dd1.r.52f896  -
   2  24fa060000000000  /sys/fs/scoutfs/f.e55dd1.r.24fa06  -

Server:   mount c9e76d0000000000 of slot 0 at 127.0.0.1:19700 may serve, elected for term 11
Members:  may be running in slot 0: fewer than the 2 that make a leader
Terms:    the greatest is 11
To fence: mount c9e76d0000000000 of slot 0, elected for term 11, once another mount leads
Problem:  slot 1: its block cannot be used ({unusable}): until that is repaired no server starts, and clients find none

"""
    )


def test_one_member_knows_the_others_by_their_messages() -> None:
    views = recorded_views()
    follower = Snapshot("/mnt", TIME, None, (views[1],))
    assert plain_text(follower).startswith(f"""\
ScoutFS quorum of /mnt at {TIME}

slot  mount             role              term  vote  votes  timeout
   0  -                 leader 0.1 s ago    11     -  -            -
   1  52f8960000000000  follower            11     0  -        9.9 s

""")
    leader = Snapshot("/mnt", TIME, None, (views[2],))
    [row] = [row for row in tables(leader)[0].rows if row[0] == "1"]
    assert row == ("1", "-", "sent vote 19.1 s ago", "11", "-", "-", "-")


def test_a_recorded_failover() -> None:
    leaders = []
    seen: list[MountView] = []
    for view in recorded_views():
        seen.append(view)
        table = tables(Snapshot("/mnt", TIME, None, (view,)))[0]
        [row] = [row for row in table.rows if row[0] == str(view.slot)]
        assert view.status is not None
        assert row[2:4] == (view.status.role.name.lower(), str(view.status.term))
        if row[2] == "leader" and leaders[-1:] != [(row[0], row[3])]:
            leaders.append((row[0], row[3]))
    # slot 0 was unmounted by force; the next term had a leader in another slot
    assert leaders[0] == ("0", "11")
    assert len(leaders) == 2
    assert int(leaders[1][1]) > 11
    assert leaders[1][0] in ("1", "2")


def leader(**fields: object) -> MountView:
    status = QuorumStatus(slot=0, term=3, role=Role.LEADER, vote_for=-1, votes=1, timeout=0.1)
    defaults: dict[str, object] = {"path": "/mnt", "fsid": FSID, "rid": 0xA, "slot": 0, "status": status}
    return MountView(**{**defaults, "is_leader": True, **fields})  # type: ignore[arg-type]


def test_delays_and_fence_requests() -> None:
    status = QuorumStatus(
        slot=0,
        term=3,
        role=Role.LEADER,
        vote_for=-1,
        votes=1,
        timeout=-2.5,
        delays={5: Delay(2, -0.1), 1: Delay(9, -77)},
    )
    fences = (
        FenceRequest(0xB, "10.0.0.2", "quorum_block_leader", 12, False, False),
        FenceRequest(0xC, "10.0.0.3", "client_recovery", 3, True, False),
    )
    text = plain_text(Snapshot("/mnt", TIME, None, (leader(status=status, fences=fences),)))
    assert "   0  000000000000000a  leader     3     -  0       -2.5 s\n" in text
    assert (
        """\
Late heartbeats
slot  late by  times  last ago
   0      1 s      9    77.0 s
   0      5 s      2     0.1 s

Fence requests
slot  mount to fence    address   reason                for  state
   0  000000000000000b  10.0.0.2  quorum_block_leader  12 s  waiting
   0  000000000000000c  10.0.0.3  client_recovery       3 s  fenced
"""
        in text
    )


def test_mounts_that_are_no_members_or_have_no_status_yet() -> None:
    text = plain_text(Snapshot("/mnt", TIME, None, (leader(slot=-1, status=None, is_leader=False),)))
    assert "This mount is not a member and sees no election" in text
    assert "   -  000000000000000a  /mnt  -\n" in text
    text = plain_text(Snapshot("/mnt", TIME, None, (leader(status=None, is_leader=False),)))
    assert "   0  000000000000000a  starting     -     -  -            -\n" in text


def test_nothing_but_a_problem() -> None:
    snapshot = Snapshot("/mnt", TIME, None, (), ("/mnt: no answer",))
    assert plain_text(snapshot) == f"ScoutFS quorum of /mnt at {TIME}\n\nProblem:  /mnt: no answer\n\n"


def test_for_programs() -> None:
    snapshot = Snapshot("/dev/m0", TIME, volume(), latest(recorded_views()[:3]), ("hm",))
    found = snapshot.to_dict()
    assert json.loads(json.dumps(found)) == found
    assert found["volume"]["server"]["slot"] == 0
    assert found["problems"] == ["hm"]
    first, second, _ = found["mounts"]
    assert first["is_leader"] is True
    assert first["status"]["role"] == "leader"
    assert first["status"]["votes"] == [0, 1]
    assert first["status"]["vote_for"] is None
    assert first["status"]["last_recv"] == [{"slot": 1, "term": 11, "type": "vote", "secs_since": 19.071904673}]
    assert second["status"]["vote_for"] == 0
    assert second["status"]["timeout_in_secs"] == 9.908281841


def test_what_comes_from_elsewhere_does_not_control_the_terminal() -> None:
    hostile = leader(path="/m\x1b[31m\n\udcff", notes=("a\rb",))
    text = plain_text(Snapshot("/t\x1b", TIME, None, (hostile,), ("p\x07",)))
    assert text.startswith("ScoutFS quorum of /t? at ")
    assert "   0  000000000000000a  /m?[31m??  a?b\n" in text
    assert "Problem:  p?\n" in text


def test_colours() -> None:
    console = pytest.importorskip("rich.console")
    hostile = leader(path="[red]/mnt[/red] \x1b[31m", notes=("[bold]x",))
    snapshot = Snapshot("/dev/m0", TIME, volume(), (hostile,), ("broken",))
    output = io.StringIO()
    console.Console(file=output, width=300, force_terminal=True, color_system="standard").print(rich_text(snapshot))
    text = output.getvalue()
    # what a mount says is not taken for markup, nor for control characters
    assert "[red]/mnt[/red] ?[31m" in text
    assert "[bold]x" in text
    bare = re.sub(r"\x1b\[[0-9;]*m", "", text)
    for table in tables(snapshot):
        for row in table.rows:
            assert row[0] in bare
    assert re.search(r"\x1b\[1;32m *0", text), "the leader's row is green"
    assert re.search(r"\x1b\[31mProblem:  broken", text)
