"""Shows looks at a cluster live: with `rich` if it is installed, otherwise as plain text."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING

from scoutfs.tools.quorum.live import Snapshot
from scoutfs.tools.quorum.screen import lines, plain_text, tables, title

if TYPE_CHECKING:
    import rich.console

Show = Callable[[Snapshot], None]

_STYLES: Mapping[str, str] = MappingProxyType(
    {
        "leader": "bold green",
        "candidate": "yellow",
        "starting": "yellow",
        "late": "yellow",
        "waiting": "yellow",
        "failed": "bold red",
        "unreadable": "red",
        "Problem": "red",
    }
)
_CLEAR = "\x1b[H\x1b[2J"


@contextmanager
def json_lines() -> Iterator[Show]:
    """Print an object a line."""
    yield lambda snapshot: print(json.dumps(snapshot.to_dict()), flush=True)


@contextmanager
def plain(*, clear: bool = False) -> Iterator[Show]:
    """Print one text behind the other, or each on a cleared terminal."""

    def show(snapshot: Snapshot) -> None:
        sys.stdout.write((_CLEAR if clear else "") + plain_text(snapshot))
        sys.stdout.flush()

    yield show


@contextmanager
def full_screen() -> Iterator[Show]:
    """Take the terminal over, and give it back as it was; plain text on a cleared terminal without `rich`."""
    try:
        import rich.live
    except ImportError:
        with plain(clear=True) as show:
            yield show
        return
    with rich.live.Live(screen=True, auto_refresh=False) as live:
        yield lambda snapshot: live.update(rich_text(snapshot), refresh=True)


def rich_text(snapshot: Snapshot) -> rich.console.Group:
    """Return the same as `plain_text` for a console of `rich`, with colours."""
    import rich.console
    import rich.table
    import rich.text

    parts: list[rich.console.RenderableType] = [rich.text.Text(title(snapshot), style="bold")]
    for table in tables(snapshot):
        shown = rich.table.Table(
            title=table.title or None,
            title_justify="left",
            title_style="bold",
            box=None,
            pad_edge=False,
            padding=(0, 1),
        )
        for index, (header, right) in enumerate(table.columns):
            # only the last column has texts: it alone gives way on a narrow terminal
            is_text = index == len(table.columns) - 1
            shown.add_column(header, justify="right" if right else "left", no_wrap=not is_text, header_style="dim")
        for index, row in enumerate(table.rows):
            # As text: what is read from a mount or a device must not be taken for markup.
            shown.add_row(*map(rich.text.Text, row), style=_STYLES.get(table.style(index)))
        parts += [rich.text.Text(), shown]
    parts.append(rich.text.Text())
    parts += [rich.text.Text(line, style=_STYLES.get(line.partition(":")[0], "")) for line in lines(snapshot)]
    return rich.console.Group(*parts)
