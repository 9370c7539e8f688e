"""Transcripts: text files that tell a scenario command by command, each with the output that it must have.

The format is described in `docs/transcripts.md`; what the commands do is `scoutfs.simulation.commands`.  A transcript
is replayed into the text that it should be: what comes out differs from the file exactly where an expectation fails.
"""

from __future__ import annotations

import difflib
from typing import NamedTuple

from scoutfs.errors import ScoutfsError
from scoutfs.simulation.commands import perform
from scoutfs.simulation.invariants import Violation
from scoutfs.simulation.stage import CommandError, Stage

SEPARATOR = "----"


class TranscriptError(ScoutfsError):
    """A transcript that cannot be replayed, with file and line."""

    def __init__(self, name: str, line: int, text: str) -> None:
        self.line = line
        super().__init__(f"{name}:{line}: {text}")


class Command(NamedTuple):
    """One command with the number of its line, from 1."""

    line: int
    text: str


class Step(NamedTuple):
    """Commands and the output that they must have together.

    `source` are the lines of the file up to the separator, comments and blank lines included; the last step of a file
    may have no commands, its source is what stands at the end.
    """

    source: tuple[str, ...]
    commands: tuple[Command, ...]
    expected: tuple[str, ...]


def parse(text: str, name: str) -> list[Step]:
    """Take a transcript apart; raises TranscriptError."""
    steps: list[Step] = []
    source: list[str] = []
    commands: list[Command] = []
    lines = text.splitlines()
    position = 0
    while position < len(lines):
        line = lines[position].rstrip()
        position += 1
        source.append(line)
        if line != SEPARATOR:
            if line and not line.startswith("#"):
                commands.append(Command(position, line))
            continue
        if not commands:
            raise TranscriptError(name, position, f"'{SEPARATOR}' without a command before it")
        end = position
        while end < len(lines) and lines[end].strip():
            end += 1
        expected = tuple(line.rstrip() for line in lines[position:end])
        steps.append(Step(tuple(source), tuple(commands), expected))
        source, commands, position = [], [], end
    if commands:
        raise TranscriptError(name, commands[-1].line, f"no '{SEPARATOR}' after the last command")
    if any(source):
        steps.append(Step(tuple(source), (), ()))
    return steps


def replay(text: str, name: str) -> str:
    """Return the transcript with the output that its commands really have; raises TranscriptError.

    A violated invariant is an error as well, unless the cluster was made without one of the rules: then it is the last
    output, and no command may follow it.
    """
    stage = Stage()
    lines: list[str] = []
    for step in parse(text, name):
        lines += step.source
        for command in step.commands:
            try:
                perform(stage, command.text)
            except CommandError as error:
                raise TranscriptError(name, command.line, str(error)) from error
            except Violation as violation:
                raise TranscriptError(name, command.line, str(violation)) from violation
        lines += stage.taken()
    return "\n".join(lines) + "\n"


def difference(text: str, name: str) -> str:
    """Return where the output of a transcript is not what it expects, as a unified diff; empty if nowhere."""
    actual = replay(text, name)
    return "".join(
        difflib.unified_diff(text.splitlines(True), actual.splitlines(True), f"{name} (expected)", f"{name} (actual)")
    )
