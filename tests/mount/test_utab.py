"""The table of mount options that userspace keeps."""

from __future__ import annotations

import fcntl

import pytest

from mount import utab

OTHERS = "ID=40 SRC=/dev/sdb1 TARGET=/mnt/b ROOT=/ OPTS=x-gvfs-show\nTARGET=/mnt/abc ROOT=/ OPTS=uhelper=udisks2\n"


def test_an_entry_comes_and_goes(tmp_path):
    (tmp_path / "utab").write_text(OTHERS)
    utab.record("/dev/loop0", "/mnt/ab", "acl,quorum_slot_nr=0", tmp_path)
    line = "SRC=/dev/loop0 TARGET=/mnt/ab ROOT=/ OPTS=acl,quorum_slot_nr=0\n"
    assert (tmp_path / "utab").read_text() == OTHERS + line
    utab.record("/dev/loop0", "/mnt/ab", "noacl", tmp_path)
    assert (tmp_path / "utab").read_text() == OTHERS + line.replace("acl,quorum_slot_nr=0", "noacl")
    utab.remove("/mnt/ab", tmp_path)
    assert (tmp_path / "utab").read_text() == OTHERS
    utab.remove("/mnt/ab", tmp_path)
    assert (tmp_path / "utab").read_text() == OTHERS
    assert {path.name for path in tmp_path.iterdir()} == {"utab", "utab.lock"}


def test_the_table_is_made_if_there_is_none(tmp_path):
    utab.record("/dev/a", "/mnt", "acl", tmp_path / "mount")
    assert (tmp_path / "mount" / "utab").read_text() == "SRC=/dev/a TARGET=/mnt ROOT=/ OPTS=acl\n"
    assert (tmp_path / "mount" / "utab").stat().st_mode & 0o777 == 0o644


def test_names_are_escaped(tmp_path):
    utab.record("/dev/a b", "/mnt/tab\there\\", "metadev_path=/x y", tmp_path)
    assert (tmp_path / "utab").read_text() == (
        "SRC=/dev/a\\040b TARGET=/mnt/tab\\011here\\134 ROOT=/ OPTS=metadev_path=/x\\040y\n"
    )
    utab.remove("/mnt/tab\there\\", tmp_path)
    assert (tmp_path / "utab").read_text() == ""


def test_a_lock_that_is_never_given_up_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(utab, "_PATIENCE", 0.05)
    with (tmp_path / "utab.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(BlockingIOError):
            utab.record("/dev/a", "/mnt", "acl", tmp_path)
