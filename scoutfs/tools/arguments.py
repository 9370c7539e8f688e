"""Command lines of tools that the original has too, with its texts and exit codes (spec 01 §6.1, §6.2).

Options and operands may be mixed, long options abbreviated.  A wrong command line is a `UsageError`; a bad value of an
option is a `BadValue`, after which nothing more is parsed, but what was given so far is still checked.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NoReturn

from scoutfs.errors import ScoutfsError

EXIT_USAGE = 64

_U64_MAX = 2**64 - 1
_NUMBER = r"0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*"
_DIGITS_MAX = 40
"""Decimal digits that are looked at: far more than fit 64 bits, and few enough for int()."""
_SHIFTS = {"K": 10, "M": 20, "G": 30, "T": 40, "P": 50}
_USAGE_WIDTH = 79


class CommandParser(argparse.ArgumentParser):
    """A parser that ends the process with status 64 and a hint at --help when the command line is wrong."""

    def error(self, message: str) -> NoReturn:
        """Print what is wrong and where help is, and exit."""
        self.exit(EXIT_USAGE, f"{self.prog}: {message}\nTry `{self.prog} --help' for more information.\n")


class UsageError(Exception):
    """The command line as a whole is wrong: exit status 64 and a hint at --help."""


class BadValue(Exception):
    """The value of an option is wrong; the text is printed, on stdout where the original does that."""

    def __init__(self, text: str, *, on_stdout: bool = False) -> None:
        self.on_stdout = on_stdout
        super().__init__(text)


@dataclass(frozen=True, slots=True)
class Option:
    """An option; `letter` is empty if it has only a long name."""

    name: str
    letter: str = ""
    takes_value: bool = False


def scan(argv: Sequence[str], options: Sequence[Option]) -> Iterator[tuple[Option | None, str]]:
    """Yield each option of `argv` with its value as it is found, then each operand, with None for the option.

    Raises UsageError when it comes to an option that is unknown or lacks its value.
    """
    operands: list[str] = []
    words = list(argv)
    while words:
        word = words.pop(0)
        if word == "--":
            operands += words
            break
        if word.startswith("--"):
            yield _long(word[2:], words, options)
        elif word.startswith("-") and word != "-":
            yield from _short(word[1:], words, options)
        else:
            operands.append(word)
    for operand in operands:
        yield None, operand


def parse_size(text: str) -> int:
    """Return the bytes of a number in C notation, optionally followed by one of K M G T P, powers of 1024.

    What follows the letter is ignored: 80MB is 80M.  Raises BadValue.
    """
    match = re.match(_NUMBER, text)
    number = _number(match[0]) if match else 0
    suffix = text[match.end() :] if match else text
    if not match or (suffix and suffix[0] not in _SHIFTS):
        raise BadValue(f"unknown suffix: '{suffix[:1]}'")
    size = number << _SHIFTS[suffix[0]] if suffix else number
    if size > _U64_MAX:
        raise BadValue(f"size too big: '{text}'")
    return size


def parse_number(text: str) -> int:
    """Return a number of 64 bits in C notation; raises BadValue."""
    if not re.fullmatch(_NUMBER, text) or _number(text) > _U64_MAX:
        raise BadValue(f"invalid 64bit value: '{text}'")
    return _number(text)


def run_command(command: str, program: str, body: Callable[[], int]) -> int:
    """Run the body of `command`, invoked as `program`, and return its exit status.

    What it raises is printed: UsageError as `PROGRAM: TEXT` and a hint, status 64; ScoutfsError as its text and
    `scoutfs: COMMAND failed: STRERROR (ERRNO)`, status 1; for an OSError see `output_lost`, status 1.
    """
    try:
        status = body()
        sys.stdout.flush()
        return status
    except OSError as error:
        output_lost(program, error)
        return 1
    except UsageError as error:
        hint = f"Try `{program} --help' or `{program} --usage' for more information."
        print(f"{program}: {error}", textwrap.fill(hint, _USAGE_WIDTH), sep="\n", file=sys.stderr)
        return EXIT_USAGE
    except ScoutfsError as error:
        failed = f"scoutfs: {command} failed: {os.strerror(error.errno)} ({error.errno})"
        print(error, failed, sep="\n", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"scoutfs: {command} was interrupted", file=sys.stderr)
        return 130


def output_lost(program: str, error: OSError) -> None:
    """Print that standard output takes no more, as `error` says, unless whoever read it has just seen enough.

    Raises the error again if it is that of a file with a name.
    """
    if error.filename is not None:
        raise error
    # The interpreter would complain of what is still buffered while it shuts down.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if not isinstance(error, BrokenPipeError):
        print(f"{program}: standard output: {error.strerror}", file=sys.stderr)


def _long(word: str, words: list[str], options: Sequence[Option]) -> tuple[Option, str]:
    name, equals, value = word.partition("=")
    found = [option for option in options if option.name.startswith(name)]
    exact = [option for option in found if option.name == name]
    if not found:
        raise UsageError(f"unrecognized option '--{name}'")
    if len(found) > 1 and not exact:
        possibilities = " ".join(f"'--{option.name}'" for option in found)
        raise UsageError(f"option '--{word}' is ambiguous; possibilities: {possibilities}")
    option = (exact or found)[0]
    if not option.takes_value and equals:
        raise UsageError(f"option '--{option.name}' doesn't allow an argument")
    if option.takes_value and not equals:
        if not words:
            raise UsageError(f"option '--{option.name}' requires an argument")
        value = words.pop(0)
    return option, value


def _short(cluster: str, words: list[str], options: Sequence[Option]) -> Iterator[tuple[Option, str]]:
    while cluster:
        letter, cluster = cluster[0], cluster[1:]
        option = next((option for option in options if option.letter == letter), None)
        if option is None:
            raise UsageError(f"invalid option -- '{letter}'")
        if not option.takes_value:
            yield option, ""
            continue
        if not cluster:
            if not words:
                raise UsageError(f"option requires an argument -- '{letter}'")
            cluster = words.pop(0)
        yield option, cluster
        return


def _number(text: str) -> int:
    """Convert what matched `_NUMBER`."""
    if text[:2] in ("0x", "0X"):
        return int(text, 16)
    if text.startswith("0"):
        return int(text, 8)
    return int(text[:_DIGITS_MAX])
