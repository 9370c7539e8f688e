"""Command lines of mount.scoutfs and umount.scoutfs."""

from __future__ import annotations

import contextlib
import errno

import pytest

from mount import helper, kernel, unmount
from mount.daemon import ExitCode


@pytest.mark.parametrize(
    "words",
    [
        ["/dev/d", "/mnt", "-o", "ro,quorum_slot_nr=1"],
        ["-o", "ro,quorum_slot_nr=1", "/dev/d", "/mnt"],
        ["/dev/d", "-oro,quorum_slot_nr=1", "/mnt"],
        ["/dev/d", "/mnt", "-o", "ro", "-o", "quorum_slot_nr=1"],
        ["-r", "/dev/d", "/mnt", "-o", "quorum_slot_nr=1"],
        ["-t", "fuse.scoutfs", "-r", "--options=quorum_slot_nr=1", "--", "/dev/d", "/mnt"],
    ],
)
def test_options_before_and_behind(words):
    line = helper.parse_command_line(words)
    assert line == helper.CommandLine("/dev/d", "/mnt", "ro,quorum_slot_nr=1")


def test_flags():
    line = helper.parse_command_line(["-sfnv", "-N", "/proc/1/ns/mnt", "/dev/d", "/mnt"])
    assert (line.sloppy, line.fake, line.record, line.verbose) == (True, True, False, True)
    assert line.namespace == "/proc/1/ns/mnt"
    long = helper.parse_command_line(["--fake", "--no-mtab", "--verbose", "--foreground", "/dev/d", "/mnt"])
    assert (long.fake, long.record, long.verbose, long.options) == (True, False, True, "foreground")


@pytest.mark.parametrize(
    "words", [[], ["/dev/d"], ["a", "b", "c"], ["-z", "a", "b"], ["a", "b", "-o"], ["-t", "x", "a", "b"]]
)
def test_bad_command_lines(words, capsys):
    assert helper.main(words) == ExitCode.USAGE
    assert "mount.scoutfs: " in capsys.readouterr().err


def test_a_refused_option_is_one_line_with_the_code_of_a_failure(capsys):
    assert helper.main(["/dev/d", "/mnt", "-o", "wat"]) == ExitCode.FAILURE
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith('mount.scoutfs: Unknown or malformed option "wat"')
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize("program", [helper, unmount])
def test_help_and_version(program, capsys):
    for word in ("-h", "--help"):
        assert program.main([word]) == 0
        shown = capsys.readouterr().out
        assert shown.startswith("usage: ")
        assert "examples:" in shown
        assert max(map(len, shown.splitlines())) <= 120
    for word in ("-V", "--version"):
        assert program.main([word, "/mnt"]) == 0
        assert "scoutfs 0." in capsys.readouterr().out


def test_remount_of_what_is_not_mounted(tmp_path, capsys):
    assert helper.main(["/dev/d", str(tmp_path), "-o", "remount,ro"]) == ExitCode.FAILURE
    assert "no ScoutFS volume is mounted here" in capsys.readouterr().err


def test_umount_words():
    # as umount(8) calls it
    line = unmount.parse_command_line(["/mnt", "-f", "-l", "-n", "-t", "fuse.scoutfs"])
    assert (line.target, line.force, line.lazy) == ("/mnt", True, True)
    assert unmount.parse_command_line(["-rv", "/mnt"]) == unmount.CommandLine("/mnt", read_only=True, verbose=True)
    for words in ([], ["a", "b"], ["-x", "a"]):
        assert unmount.main(words) == ExitCode.USAGE


@pytest.mark.parametrize(("errors", "tries"), [([], 1), ([errno.EBUSY] * 3, 4), ([errno.EPERM], 1)])
def test_unmounting_bears_with_who_only_looks(monkeypatch: pytest.MonkeyPatch, errors: list[int], tries: int):
    tried = []

    def detach(target: str) -> None:
        tried.append(target)
        if len(tried) <= len(errors):
            raise kernel.AttachError("in use", errors[len(tried) - 1])

    monkeypatch.setattr(kernel, "detach", detach)
    with pytest.raises(kernel.AttachError) if tries == len(errors) else contextlib.nullcontext():
        unmount.detach_patiently("/mnt")
    assert tried == ["/mnt"] * tries


def test_unmounting_what_stays_in_use_fails(monkeypatch: pytest.MonkeyPatch):
    tried = []

    def detach(target: str) -> None:
        tried.append(target)
        raise kernel.AttachError("in use", errno.EBUSY)

    monkeypatch.setattr(kernel, "detach", detach)
    monkeypatch.setattr(unmount, "BUSY_PATIENCE", 0.1)
    with pytest.raises(kernel.AttachError):
        unmount.detach_patiently("/mnt")
    assert len(tried) > 1
