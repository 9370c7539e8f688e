"""Lays out what `scoutfs quorum watch` shows.  Pure: a snapshot in, tables and lines out."""

from __future__ import annotations

from dataclasses import replace

from format.message import MessageType
from scoutfs.quorum.status import Exchange
from scoutfs.tools.quorum.live import MountView, Snapshot, heard_from, type_name
from scoutfs.tools.quorum.report import leader_lines
from scoutfs.tools.quorum.tables import Table, plain_lines

_NONE = "-"


def title(snapshot: Snapshot) -> str:
    """The first line."""
    return _printable(f"ScoutFS quorum of {snapshot.target} at {snapshot.time}")


def tables(snapshot: Snapshot) -> list[Table]:
    """Return the tables, those left out that would be empty; styles are roles and states."""
    found = (
        _slot_table(snapshot),
        _recorded_table(snapshot),
        _message_table(snapshot),
        _delay_table(snapshot),
        _fence_table(snapshot),
        _mount_table(snapshot),
    )
    return [_printable_table(table) for table in found if table.rows]


def lines(snapshot: Snapshot) -> list[str]:
    """Return what is said below the tables: who may lead as far as the device knows, and problems."""
    found = leader_lines(snapshot.volume) if snapshot.volume else []
    if snapshot.volume is None and snapshot.mounts and all(mount.slot < 0 for mount in snapshot.mounts):
        found.append("This mount is not a member and sees no election: watch the metadata device, or a member's mount")
    problems = [*snapshot.problems, *(snapshot.volume.problems if snapshot.volume else ())]
    return [_printable(line) for line in (*found, *(f"Problem:  {problem}" for problem in problems))]


def plain_text(snapshot: Snapshot) -> str:
    """Return everything as plain lines, with an empty one between the parts and at the end."""
    parts = [[title(snapshot)], *(plain_lines(table) for table in tables(snapshot)), lines(snapshot)]
    return "".join("\n".join(part) + "\n\n" for part in parts if part)


def _slot_table(snapshot: Snapshot) -> Table:
    volume = snapshot.volume
    members = {mount.slot: mount for mount in snapshot.mounts if mount.slot >= 0}
    recorded = {view.slot: view for view in volume.slots} if volume else {}
    slots = set(members) | set(recorded)
    for mount in members.values():
        if mount.status:
            slots |= set(mount.status.last_send) | set(mount.status.last_recv)
    header: tuple[str, ...] = (">slot", "mount", "role", ">term", ">vote", "votes", ">timeout")
    if volume:
        header = (">slot", "address", *header[1:])
    rows: list[tuple[str, ...]] = []
    styles = []
    for slot in sorted(slots):
        member, view = members.get(slot), recorded.get(slot)
        cells = _member_cells(member) if member else _peer_cells(heard_from(slot, snapshot.mounts))
        rid = f"{member.rid:016x}" if member else f"{view.rid:016x}" if view and view.rid else _NONE
        address = (str(view.address) if view else _NONE,) if volume else ()
        rows.append((str(slot), *address, rid, *cells))
        styles.append(cells[0])
    return Table("", header, tuple(rows), tuple(styles))


def _member_cells(mount: MountView) -> tuple[str, str, str, str, str]:
    """Role, term, vote, votes and timeout of a member that was asked itself."""
    status = mount.status
    if status is None:
        return "starting", _NONE, _NONE, _NONE, _NONE
    votes = ",".join(str(slot) for slot in range(64) if status.votes >> slot & 1)
    voted = _NONE if status.vote_for < 0 else str(status.vote_for)
    return status.role.name.lower(), str(status.term), voted, votes or _NONE, _seconds(status.timeout)


def _peer_cells(heard: Exchange | None) -> tuple[str, str, str, str, str]:
    """The same for a member that is only known by its messages: its last one tells what it was then."""
    if heard is None:
        return _NONE, _NONE, _NONE, _NONE, _NONE
    role = "leader" if heard.type == MessageType.HEARTBEAT else f"sent {type_name(heard.type)}"
    return f"{role} {_seconds(-heard.time)} ago", str(heard.term), _NONE, _NONE, _NONE


def _recorded_table(snapshot: Snapshot) -> Table:
    slots = snapshot.volume.slots if snapshot.volume else ()
    rows = tuple((str(view.slot), view.text) for view in slots)
    return Table("Recorded on the device", (">slot", "state"), rows, tuple(str(view.state) for view in slots))


def _message_table(snapshot: Snapshot) -> Table:
    rows = []
    for mount in snapshot.mounts:
        status = mount.status
        if status is None:
            continue
        for peer in sorted(set(status.last_send) | set(status.last_recv)):
            sent, received = status.last_send.get(peer), status.last_recv.get(peer)
            rows.append((str(status.slot), str(peer), *_message_cells(sent), *_message_cells(received)))
    header = (">slot", ">peer", "last sent", ">term", ">ago", "last received", ">term", ">ago")
    return Table("Messages", header, tuple(rows))


def _message_cells(exchange: Exchange | None) -> tuple[str, str, str]:
    if exchange is None:
        return _NONE, _NONE, _NONE
    return type_name(exchange.type), str(exchange.term), _seconds(-exchange.time)


def _delay_table(snapshot: Snapshot) -> Table:
    rows = [
        (str(mount.status.slot), f"{late} s", str(delay.occurrences), _seconds(-delay.time))
        for mount in snapshot.mounts
        if mount.status
        for late, delay in sorted(mount.status.delays.items())
    ]
    header = (">slot", ">late by", ">times", ">last ago")
    return Table("Late heartbeats", header, tuple(rows), ("late",) * len(rows))


def _fence_table(snapshot: Snapshot) -> Table:
    rows = tuple(
        (_slot_text(mount), f"{fence.rid:016x}", fence.address, fence.reason, f"{fence.elapsed} s", fence.state)
        for mount in snapshot.mounts
        for fence in mount.fences
    )
    header = (">slot", "mount to fence", "address", "reason", ">for", "state")
    return Table("Fence requests", header, rows, tuple(row[-1] for row in rows))


def _mount_table(snapshot: Snapshot) -> Table:
    rows = tuple(
        (_slot_text(mount), f"{mount.rid:016x}", mount.path, "; ".join(mount.notes) or _NONE)
        for mount in snapshot.mounts
    )
    return Table("Mounts on this host", (">slot", "mount", "at", "client"), rows)


def _slot_text(mount: MountView) -> str:
    return _NONE if mount.slot < 0 else str(mount.slot)


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s"


def _printable_table(table: Table) -> Table:
    return replace(table, rows=tuple(tuple(_printable(cell) for cell in row) for row in table.rows))


def _printable(text: str) -> str:
    """What comes from a mount, a device or a path must not control the terminal."""
    return "".join(character if character.isprintable() else "?" for character in text)
