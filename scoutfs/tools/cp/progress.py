"""How far a copy is, on terminals: with `rich` if it is installed, otherwise not at all."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from scoutfs.errors import ScoutfsError
from scoutfs.files.filesystem import Filesystem

Advance = Callable[[int, int], None]
"""Is told that so many more files and bytes are done."""


@contextmanager
def shown_progress(files: Filesystem, sources: Sequence[bytes]) -> Iterator[Advance]:
    """Show how far the copy of `sources` is while it lasts; yields what is to be called with each step."""
    if not sys.stderr.isatty():
        yield lambda count, size: None
        return
    try:
        from rich import console, filesize, progress
    except ImportError:
        yield lambda count, size: None
        return
    columns = (
        progress.TextColumn("{task.completed} files"),
        progress.BarColumn(),
        progress.TextColumn("{task.fields[size]}"),
        progress.TimeElapsedColumn(),
    )
    with progress.Progress(*columns, console=console.Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=_expected(files, sources), size="")
        done = 0

        def advance(count: int, size: int) -> None:
            nonlocal done
            done += size
            bar.update(task, advance=count, size=filesize.decimal(done))

        yield advance


def _expected(files: Filesystem, sources: Sequence[bytes]) -> int | None:
    """Return how many files there are if all are to be copied, else None."""
    if any(source.strip(b"/.") for source in sources):
        return None
    try:
        return files.statfs().inode_count
    except ScoutfsError:
        return None
