"""How names, which are bytes, are printed: as GNU ls does, and in JSON."""

from __future__ import annotations

import base64
import re
import sys
from collections.abc import Callable, Iterator
from types import MappingProxyType
from typing import Any

Quote = Callable[[bytes], bytes]

_ESCAPES = MappingProxyType({7: "a", 8: "b", 9: "t", 10: "n", 11: "v", 12: "f", 13: "r"})
_PLAIN = re.compile(rb"[A-Za-z0-9%+,\-./:@_\]{}][A-Za-z0-9%+,\-./:@_\]{}#~]*")
"""Names that a shell takes as they are."""
_DOUBLE_QUOTED = re.compile(rb"[A-Za-z0-9 '%+,\-./:@_]*")
"""Names with single quotes that need nothing but double quotes around them."""


def literal(name: bytes) -> bytes:
    """Return the name as it is."""
    return name


def escaped(name: bytes, *, space: bool = True) -> bytes:
    r"""Return the name with C escapes: `\n`, and `\377` for bytes that are no printable character (`ls -b`)."""
    return "".join(
        _escape(piece, valid)
        if not valid or not piece.isprintable()
        else ("\\" + piece if piece == "\\" or (piece == " " and space) else piece)
        for piece, valid in _characters(name)
    ).encode()


def shell_quoted(name: bytes) -> bytes:
    """Return the name so that a shell understands it, as `ls` prints it on a terminal (its style shell-escape)."""
    if _PLAIN.fullmatch(name):
        return name
    pieces = list(_characters(name))
    if all(valid and piece.isprintable() for piece, valid in pieces):
        if b"'" not in name:
            return name if not _needs_quotes(name) else b"'" + name + b"'"
        if _DOUBLE_QUOTED.fullmatch(name):
            return b'"' + name + b'"'
    text = "'"
    inside = True
    for piece, valid in pieces:
        if not valid or not piece.isprintable():
            text += ("'$'" if inside else "") + _escape(piece, valid)
            inside = False
            continue
        if piece == "'":
            text += "'\\''"
        else:
            text += piece if inside else "''" + piece
        inside = True
    return (text + "'").encode()


def quoting(stream: Any = None) -> Quote:
    """Return how names are printed unless something else was asked for: quoted on a terminal, else as they are."""
    return shell_quoted if (stream or sys.stdout).isatty() else literal


def json_name(field: str, name: bytes) -> dict[str, str]:
    """Return a name for JSON: as text, and where it is no UTF-8 also in base64, as `FIELD_b64`."""
    try:
        return {field: name.decode()}
    except UnicodeDecodeError:
        return {field: name.decode(errors="replace"), f"{field}_b64": base64.b64encode(name).decode("ascii")}


def shown(name: bytes) -> str:
    """Return a name for messages."""
    return escaped(name, space=False).decode()


def _characters(name: bytes) -> Iterator[tuple[str, bool]]:
    """Yield the characters of a name; bytes that are no UTF-8 one by one, as characters of that number, and False."""
    for character in name.decode("utf-8", "surrogateescape"):
        if "\udc80" <= character <= "\udcff":
            yield chr(ord(character) - 0xDC00), False
        else:
            yield character, True


def _escape(character: str, valid: bool) -> str:
    if valid and ord(character) in _ESCAPES:
        return "\\" + _ESCAPES[ord(character)]
    raw = character.encode() if valid else bytes([ord(character)])
    return "".join(f"\\{byte:03o}" for byte in raw)


def _needs_quotes(name: bytes) -> bool:
    return bool(re.search(rb"[\x20!\"$&()*;<=>?\[\\^`|]", name)) or name[:1] in (b"#", b"~") or name == b""
