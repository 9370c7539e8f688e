"""What `scoutfs quorum DEV` prints for people.  Pure."""

from __future__ import annotations

import uuid

from format.quorum import Event
from scoutfs.quorum.leaders import Leader
from scoutfs.quorum.overview import Overview, SlotView
from scoutfs.tools.quorum.tables import Table, plain_lines


def report(view: Overview, path: str) -> str:
    """Return the text about the volume with the metadata device `path`; ends with a newline."""
    sections = [_volume_lines(view, path)]
    if view.slots:
        sections += [plain_lines(slot_table(view)), plain_lines(event_table(view))]
    sections.append(leader_lines(view))
    if view.problems:
        sections.append(["Problems:", *(f"  {problem}" for problem in view.problems)])
    return "\n\n".join("\n".join(lines) for lines in sections) + "\n"


def slot_table(view: Overview) -> Table:
    """A row for each slot: its address, its mount, what is known of it."""
    rows = tuple(
        (str(slot.slot), str(slot.address), f"{slot.rid:016x}" if slot.rid else "-", slot.text) for slot in view.slots
    )
    styles = tuple(str(slot.state) for slot in view.slots)
    return Table("", (">slot", "address", "mount", "recorded"), rows, styles)


def event_table(view: Overview) -> Table:
    """A row for each slot: the term of each event, and in brackets the number of the write that recorded it."""
    header = (">slot", *(f">{event.name.lower()}" for event in Event))
    rows = tuple((str(slot.slot), *_event_cells(slot)) for slot in view.slots)
    return Table("Terms of the events in each slot's block [number of the write]:", header, rows)


def leader_lines(view: Overview) -> list[str]:
    """Lines about who may lead, and who has to be fenced."""
    lines = [f"Server:   {_server(view)}", f"Members:  {_members(view)}"]
    terms = f"the greatest is {view.greatest_term}"
    if view.fenced_below > 1:
        terms += f"; leaders of terms below {view.fenced_below} have been fenced"
    lines.append(f"Terms:    {terms}")
    for index, leader in enumerate(view.to_fence):
        label = "To fence:" if index == 0 else " " * 9
        lines.append(f"{label} {_mount(leader)}, elected for term {leader.term}, once another mount leads")
    if view.mounts_recorded:
        lines.append("Mounts:   recorded; the volume is mounted, or was not unmounted cleanly")
    return lines


def _volume_lines(view: Overview, path: str) -> list[str]:
    config = view.config
    slots = _counted(len(config.slots), "quorum slot")
    votes = "1 vote makes" if config.votes_needed == 1 else f"{config.votes_needed} votes make"
    return [
        f"ScoutFS volume {view.fsid:016x}, uuid {uuid.UUID(bytes=view.uuid)}, on {path}",
        f"{slots}, configuration version {config.version}; {votes} a leader",
    ]


def _event_cells(slot: SlotView) -> list[str]:
    if slot.block is None:
        return ["?" for _ in Event]
    records = [slot.block.event(event) for event in Event]
    return [f"{record.term} [{record.write_nr}]" if record.write_nr else "-" for record in records]


def _server(view: Overview) -> str:
    server = view.server
    if server is None:
        return "none recorded" + (" in the slots that can be read" if view.unreadable else "")
    return f"{_mount(server)} at {view.config.slots[server.slot]} may serve, elected for term {server.term}"


def _members(view: Overview) -> str:
    members, needed = len(view.members), view.config.votes_needed
    if not members:
        return "none may be running"
    slots = ", ".join(str(slot) for slot in view.members)
    text = f"may be running in slot{'s' if members > 1 else ''} {slots}"
    return text if members >= needed else f"{text}: fewer than the {needed} that make a leader"


def _mount(leader: Leader) -> str:
    return f"mount {leader.rid:016x} of slot {leader.slot}"


def _counted(count: int, noun: str) -> str:
    return f"{count or 'no'} {noun}{'' if count == 1 else 's'}"
