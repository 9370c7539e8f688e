"""Tags in the names of attributes, and the numbers behind them (spec 06 §4.3, §4.4)."""

from __future__ import annotations

from typing import NamedTuple

from format.xattr import TOTL_MAX_NUMBERS
from scoutfs.files.errors import FileError

_PREFIX = b"scoutfs."
_TAG_SIZE = len(b"hide.")
_TAGGED_MIN = len(_PREFIX) + _TAG_SIZE + 1
_MAX = 2**64 - 1


class BadTag(FileError):
    """A name that has no valid tags, or no valid numbers (EINVAL)."""


class Tags(NamedTuple):
    """The tags of a name."""

    hide: bool = False
    indx: bool = False
    srch: bool = False
    totl: bool = False


NO_TAGS = Tags()
_NAMES = tuple(f"{field}.".encode() for field in Tags._fields)


def parse_tags(name: bytes) -> Tags:
    """Return the tags of an attribute's name; other names, and those too short for one, have none.

    Raises BadTag for a name that should have a tag and has not, or has one twice.
    """
    if not name.startswith(_PREFIX) or len(name) < _TAGGED_MIN:
        return NO_TAGS
    found = set()
    start = len(_PREFIX)
    while (tag := name[start : start + _TAG_SIZE]) in _NAMES:
        if tag in found:
            raise BadTag(f"attribute {name!r}: tag {tag.decode()} is there twice")
        found.add(tag)
        start += _TAG_SIZE
    if not found:
        raise BadTag(f"attribute {name!r}: no tag behind {_PREFIX.decode()}")
    return Tags(*(tag in found for tag in _NAMES))


def is_hidden(name: bytes) -> bool:
    """Whether listxattr(2) leaves the name out."""
    try:
        return parse_tags(name).hide
    except BadTag:
        return False


def totl_name(name: bytes) -> tuple[int, int, int]:
    """Return the three numbers at the end of the name of a totl attribute.  Raises BadTag."""
    first, second, third = _numbers(name, 3)
    return first, second, third


def indx_name(name: bytes) -> tuple[int, int]:
    """Return major and minor at the end of the name of an indx attribute.  Raises BadTag."""
    major, minor = _numbers(name, 2)
    if major > 255:
        raise BadTag(f"attribute {name!r}: major {major}, at most 255 is possible")
    return major, minor


def parse_number(text: bytes) -> int:
    """Return the number that `text` writes in decimal, 0x hexadecimal or 0 octal, 64 bits at most.  Raises BadTag.

    As in the original the text ends at a null, before which one newline may be.
    """
    bad = BadTag(f"{text!r} is no number of 64 bits")
    if not 1 <= len(text) <= TOTL_MAX_NUMBERS or text.endswith(b"\n"):
        raise bad
    digits, null, _ = text.partition(b"\0")
    if null:
        digits = digits.removesuffix(b"\n")
    if digits[:2].lower() == b"0x":
        base, digits, allowed = 16, digits[2:], b"0123456789abcdefABCDEF"
    elif digits[:1] == b"0":
        base, allowed = 8, b"01234567"
    else:
        base, allowed = 10, b"0123456789"
    if not digits or digits.strip(allowed):
        raise bad
    number = int(digits, base)
    if number > _MAX:
        raise bad
    return number


def _numbers(name: bytes, count: int) -> list[int]:
    fields = name.rsplit(b".", count)
    if len(fields) != count + 1:
        raise BadTag(f"attribute {name!r}: {count} numbers are expected at its end")
    return [parse_number(field) for field in fields[1:]]
