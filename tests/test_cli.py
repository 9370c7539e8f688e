"""The dispatcher: what it prints and with what status, whatever the commands do."""

from __future__ import annotations

import os
import subprocess
import sys
import types

import pytest

from format.block import BlockError
from scoutfs import cli
from scoutfs.errors import ScoutfsError


def test_without_a_command_lists_all_and_fails(capsys):
    assert cli.main([]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert all(f"\n  {name} " in err for name in cli.COMMANDS)


def test_unknown_command_is_named_and_the_known_ones_listed(capsys):
    assert cli.main(["mkfz", "/dev/sda"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("scoutfs: there is no command 'mkfz'\n")
    assert all(f"\n  {name} " in err for name in cli.COMMANDS)


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_shows_examples_and_succeeds(capsys, option):
    assert cli.main([option]) == 0
    out, err = capsys.readouterr()
    assert "examples:\n  scoutfs mkfs -Q 0," in out
    assert err == ""


@pytest.mark.parametrize("option", ["-V", "--version"])
def test_version(capsys, option):
    assert cli.main([option]) == 0
    assert capsys.readouterr().out.startswith("scoutfs 0.")


def test_help_imports_no_declarations():
    code = "import sys, scoutfs.cli; scoutfs.cli.main(['--help']); sys.exit('construct' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, timeout=60).returncode == 0


@pytest.fixture
def command(monkeypatch):
    """Replace the module of `simulate` by one whose `run` is the given function."""

    def replace(run):
        module = types.ModuleType("scoutfs.tools.simulate")
        module.add_parser = lambda subparsers: subparsers.add_parser("simulate").add_argument("--seed", type=int)
        module.run = run
        monkeypatch.setitem(sys.modules, "scoutfs.tools.simulate", module)

    return replace


def test_status_and_arguments_of_a_command(command):
    seen = []
    command(lambda args: seen.append(args.seed) or 7)
    assert cli.main(["simulate", "--seed", "3"]) == 7
    assert seen == [3]


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ScoutfsError("/dev/x: is gone"), "scoutfs: simulate: /dev/x: is gone\n"),
        (BlockError("block 17", "crc", 1, 2), "scoutfs: simulate: block 17: crc is 0x1, expected 0x2\n"),
    ],
)
def test_an_error_is_one_line(command, capsys, error, text):
    def run(args):
        raise error

    command(run)
    assert cli.main(["simulate"]) == 1
    assert capsys.readouterr().err == text


def test_an_interrupt_is_quiet(command, capsys):
    def run(args):
        raise KeyboardInterrupt

    command(run)
    assert cli.main(["simulate"]) == 130
    assert capsys.readouterr().err == ""


def test_a_reader_that_leaves_is_no_error():
    code = (
        "import sys, types; from scoutfs import cli; m = types.ModuleType('m');"
        "m.main = lambda argv: print('x' * 1000000) or 0;"
        "sys.modules['scoutfs.tools.print'] = m; sys.exit(cli.main(['print']))"
    )
    read, write = os.pipe()
    process = subprocess.Popen([sys.executable, "-c", code], stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    os.close(read)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (1, b"")


PRINTS = (
    "import sys, types; from scoutfs import cli; m = types.ModuleType('m');"
    "m.main = lambda argv: print('x') or 0; sys.modules['scoutfs.tools.print'] = m; sys.exit(cli.main(sys.argv[1:]))"
)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["print"], "scoutfs: print: standard output: No space left on device\n"),
        (["--help"], "scoutfs: standard output: No space left on device\n"),
        (["--version"], "scoutfs: standard output: No space left on device\n"),
        (["df", "--help"], ""),
    ],
)
@pytest.mark.parametrize("buffered", [True, False])
def test_output_that_does_not_fit_is_an_error_in_one_line(words, text, buffered):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, *([] if buffered else ["-u"]), "-c", PRINTS, *words],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            env=environment,
        )
    if text:
        assert (done.returncode, done.stderr) == (1, text)
    assert "Traceback" not in done.stderr


def test_standard_output_that_is_closed():
    command = [sys.executable, "-c", PRINTS, "print"]
    done = subprocess.run(["sh", "-c", 'exec "$@" >&-', "sh", *command], stderr=subprocess.PIPE, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (1, "scoutfs: standard output is closed\n")


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_help_of_each_command_has_examples(name):
    done = subprocess.run(
        [sys.executable, "-m", "scoutfs.cli", name, "--help"], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "\nexample" in done.stdout


@pytest.mark.parametrize("name", sorted(set(cli.COMMANDS) - {"fsck"}))
def test_wrong_command_lines_have_one_status_and_a_hint(name):
    done = subprocess.run(
        [sys.executable, "-m", "scoutfs.cli", name, "--no-such-option"], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (64, "")
    assert " --help'" in done.stderr
