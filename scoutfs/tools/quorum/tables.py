"""Aligned columns of text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of cells under a title; `styles` names the style of each row, empty for none.

    Columns whose header starts with `>` are aligned to the right; the sign is not shown.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    styles: tuple[str, ...] = ()

    @property
    def columns(self) -> list[tuple[str, bool]]:
        """Header and alignment (True: to the right) of each column."""
        return [(header.removeprefix(">"), header.startswith(">")) for header in self.header]

    def style(self, row: int) -> str:
        """The style of a row."""
        return self.styles[row] if row < len(self.styles) else ""


def plain_lines(table: Table) -> list[str]:
    """Return the lines of a table: its title, its header, its rows; no line has a space at its end."""
    columns = table.columns
    cells = [tuple(header for header, _ in columns), *table.rows]
    widths = [max(len(row[index]) for row in cells) for index in range(len(columns))]
    lines = [_line(row, widths, columns) for row in cells]
    return [table.title, *lines] if table.title else lines


def _line(row: Sequence[str], widths: Sequence[int], columns: Sequence[tuple[str, bool]]) -> str:
    padded = (
        cell.rjust(width) if right else cell.ljust(width)
        for cell, width, (_, right) in zip(row, widths, columns, strict=True)
    )
    return "  ".join(padded).rstrip()
