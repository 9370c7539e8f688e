"""Command lines: options in any order and form, and the original's words for what is wrong with them."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scoutfs.errors import ScoutfsError
from scoutfs.tools.arguments import BadValue, Option, UsageError, parse_number, parse_size, run_command, scan

OPTIONS = (
    Option("quorum-slot", "Q", takes_value=True),
    Option("force", "f"),
    Option("format-version", "V", takes_value=True),
    Option("allow-small-size", "A"),
    Option("json"),
)


def scanned(*words):
    return [(option.name if option else None, value) for option, value in scan(words, OPTIONS)]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], []),
        (["m", "d"], [(None, "m"), (None, "d")]),
        (["m", "-f", "d"], [("force", ""), (None, "m"), (None, "d")]),
        (["-fA", "m"], [("force", ""), ("allow-small-size", ""), (None, "m")]),
        (["-fQ0", "m"], [("force", ""), ("quorum-slot", "0"), (None, "m")]),
        (["-Q", "-1,x", "m"], [("quorum-slot", "-1,x"), (None, "m")]),
        (["-Q", ""], [("quorum-slot", "")]),
        (["--quorum-slot", "0,1", "--quorum-slot=2=3"], [("quorum-slot", "0,1"), ("quorum-slot", "2=3")]),
        (["--q", "0", "--forc", "--js"], [("quorum-slot", "0"), ("force", ""), ("json", "")]),
        (["-f", "--", "-x", "--json"], [("force", ""), (None, "-x"), (None, "--json")]),
        (["-", "-f"], [("force", ""), (None, "-")]),
        (["-Q", "--", "m"], [("quorum-slot", "--"), (None, "m")]),
    ],
)
def test_scan(words, expected):
    assert scanned(*words) == expected


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--bogus"], "unrecognized option '--bogus'"),
        (["--bogus=1"], "unrecognized option '--bogus'"),
        (["-x"], "invalid option -- 'x'"),
        (["-fx"], "invalid option -- 'x'"),
        (["-Q"], "option requires an argument -- 'Q'"),
        (["--quorum-slot"], "option '--quorum-slot' requires an argument"),
        (["--force=1"], "option '--force' doesn't allow an argument"),
        (["--fo"], "option '--fo' is ambiguous; possibilities: '--force' '--format-version'"),
    ],
)
def test_wrong_command_lines(words, text):
    with pytest.raises(UsageError, match=f"^{re.escape(text)}$"):
        scanned(*words)


def test_what_comes_before_a_wrong_option_is_seen():
    scanning = scan(["-f", "--bogus"], OPTIONS)
    assert next(scanning) == (OPTIONS[1], "")
    with pytest.raises(UsageError):
        next(scanning)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("4096", 4096),
        ("0x10", 16),
        ("010", 8),
        ("0x10K", 16384),
        ("80M", 80 << 20),
        ("80MB", 80 << 20),
        ("80Mfoo", 80 << 20),
        ("3G", 3 << 30),
        ("2T", 2 << 40),
        ("1P", 1 << 50),
        ("18446744073709551615", 2**64 - 1),
        ("16383P", 16383 << 50),
    ],
)
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("10x", "unknown suffix: 'x'"),
        ("10 M", "unknown suffix: ' '"),
        ("10m", "unknown suffix: 'm'"),
        ("08", "unknown suffix: '8'"),
        ("-1", "unknown suffix: '-'"),
        ("M", "unknown suffix: 'M'"),
        ("", "unknown suffix: ''"),
        ("99999999P", "size too big: '99999999P'"),
        ("16384P", "size too big: '16384P'"),
        ("18446744073709551616", "size too big: '18446744073709551616'"),
        ("9" * 5000, "size too big: '" + "9" * 5000 + "'"),
    ],
)
def test_wrong_sizes(text, message):
    with pytest.raises(BadValue, match=f"^{re.escape(message)}$") as caught:
        parse_size(text)
    assert not caught.value.on_stdout


@pytest.mark.parametrize(
    ("text", "number"), [("2", 2), ("0x10", 16), ("010", 8), ("0", 0), (str(2**64 - 1), 2**64 - 1)]
)
def test_numbers(text, number):
    assert parse_number(text) == number


@pytest.mark.parametrize(
    "text", ["x", "", "1x", "-1", "+1", " 1", "1 ", "08", str(2**64), "0x1" + "0" * 16, "9" * 5000]
)
def test_wrong_numbers(text):
    with pytest.raises(BadValue, match=f"^{re.escape(f'invalid 64bit value: {text!r}')}$"):
        parse_number(text)


@given(st.integers(0, 2**64 - 1), st.sampled_from("dxo"))
def test_numbers_in_all_notations(number, notation):
    prefix = {"d": "", "x": "0x", "o": "0"}[notation]
    assert parse_number(f"{prefix}{number:{notation}}") == number
    assert parse_size(f"{prefix}{number:{notation}}") == number


@given(st.text())
def test_any_text_is_a_value_or_refused(text):
    for parse in (parse_size, parse_number):
        try:
            assert 0 <= parse(text) < 2**64
        except BadValue:
            continue


def fails_with(error):
    def body():
        raise error

    return body


def test_the_status_of_the_body_is_returned(capsys):
    assert run_command("mkfs", "mkfs", lambda: 3) == 3
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("program", "hint"),
    [
        ("mkfs", "Try `mkfs --help' or `mkfs --usage' for more information.\n"),
        (
            "prepare-empty-data-device",
            "Try `prepare-empty-data-device --help' or `prepare-empty-data-device --usage'\nfor more information.\n",
        ),
    ],
)
def test_usage_errors(capsys, program, hint):
    assert run_command("mkfs", program, fails_with(UsageError("no device"))) == 64
    assert capsys.readouterr() == ("", f"{program}: no device\n{hint}")


def test_other_errors(capsys):
    assert run_command("mkfs", "mkfs.scoutfs", fails_with(ScoutfsError("m: is full", 28))) == 1
    assert capsys.readouterr() == ("", "m: is full\nscoutfs: mkfs failed: No space left on device (28)\n")


def test_an_interrupt(capsys):
    assert run_command("mkfs", "mkfs", fails_with(KeyboardInterrupt())) == 130
    assert capsys.readouterr() == ("", "scoutfs: mkfs was interrupted\n")
