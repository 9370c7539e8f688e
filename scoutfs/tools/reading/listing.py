"""Lines of ls(1): sorted, and with aligned columns."""

from __future__ import annotations

import argparse
import stat
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from scoutfs.files.inode import Inode
from scoutfs.tools.reading.describe import group_name, human_size, size_text, time_text, user_name
from scoutfs.tools.reading.names import Quote
from scoutfs.tools.reading.walk import sorted_within_bounds

_KEY_OFFSET = 1 << 127
_KEY_SIZE = 16
_COMPLEMENT = bytes(range(255, -1, -1))
_SUFFIXES = {stat.S_IFDIR: b"/", stat.S_IFLNK: b"@", stat.S_IFIFO: b"|", stat.S_IFSOCK: b"="}


class Row(NamedTuple):
    """A file that is listed; `inode` is None where nothing but the name is needed."""

    name: bytes
    path: bytes
    ino: int
    inode: Inode | None


def sorted_rows(rows: Iterable[Row], order: str | None, *, reverse: bool = False) -> Iterator[Row]:
    """Yield rows sorted by name, by "size" or "time", largest and newest first, or as they come ("none").

    However many there are, few are kept in memory.
    """
    if order == "none":
        return iter(rows)
    return sorted_within_bounds((_key(row, order, reverse), row) for row in rows)


def format_rows(
    rows: list[Row], args: argparse.Namespace, quote: Quote, target: Callable[[Row], bytes], now_ns: int
) -> Iterator[bytes]:
    """Yield a line for each row, as the options of ls in `args` ask for; columns are aligned among them.

    `target` returns that of a symbolic link.
    """
    columns = [list(_columns(row, args, now_ns)) for row in rows]
    widths = [max(len(cell) for cell, _ in column) for column in zip(*columns)]
    for row, cells in zip(rows, columns):
        aligned = [
            cell.rjust(width) if to_the_right else cell.ljust(width)
            for (cell, to_the_right), width in zip(cells, widths)
        ]
        line = " ".join([*aligned, ""]).encode() + quote(row.name)
        if row.inode is not None:
            if args.classify:
                line += _suffix(row.inode, args)
            if args.long and row.inode.is_symlink:
                line += b" -> " + quote(target(row))
        yield line


def _key(row: Row, order: str | None, reverse: bool) -> bytes:
    """Return what rows are to be ordered by; no two names of a directory have the same."""
    number = 0
    if order and row.inode is not None:
        number = row.inode.size if order == "size" else row.inode.mtime
    key = (_KEY_OFFSET - number).to_bytes(_KEY_SIZE, "big") + row.name + b"\0"
    return key.translate(_COMPLEMENT) if reverse else key


def _columns(row: Row, args: argparse.Namespace, now_ns: int) -> Iterator[tuple[str, bool]]:
    """Yield the cells in front of the name, and whether they are aligned to the right."""
    inode = row.inode
    if args.inode:
        yield str(row.ino), True
    if inode is None:
        return
    if args.size:
        kib = inode.blocks // 2
        yield (human_size(kib * 1024) if args.human_readable else str(kib)), True
    if args.long:
        numeric = args.numeric_uid_gid
        yield stat.filemode(inode.mode), False
        yield str(inode.nlink), True
        yield (str(inode.uid) if numeric else user_name(inode.uid)), numeric
        yield (str(inode.gid) if numeric else group_name(inode.gid)), numeric
        yield size_text(inode, human=args.human_readable), True
        yield time_text(inode.mtime, args.time_style, now_ns), False


def _suffix(inode: Inode, args: argparse.Namespace) -> bytes:
    kind = stat.S_IFMT(inode.mode)
    if kind == stat.S_IFLNK and args.long:
        return b""
    if kind == stat.S_IFREG:
        return b"*" if inode.mode & 0o111 else b""
    return _SUFFIXES.get(kind, b"")
