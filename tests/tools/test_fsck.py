"""The command: devices, output, exit statuses."""

from __future__ import annotations

import json
import os

import pytest

from scoutfs import cli
from scoutfs.tools import fsck
from scoutfs.tools.fsck import devices
from scoutfs.tools.mkfs import main as mkfs
from tests import images, kernel_images
from tests.fsck.corruption import SUPER, Corruption
from tests.fsck.damage import DAMAGE
from tests.memory import MemoryIO


@pytest.fixture
def damaged():
    """A volume with one wrong link count."""
    return _io("file_nlink")


def _io(name: str) -> MemoryIO:
    volume = Corruption(DAMAGE[name].volume)
    DAMAGE[name].do(volume)
    return MemoryIO({"/m": volume.meta, "/d": volume.data})


@pytest.fixture
def clean():
    volume = Corruption("fresh-v2")
    return MemoryIO({"/m": volume.meta, "/d": volume.data})


@pytest.mark.parametrize("paths", [["/m", "/d"], ["/d", "/m"]])
def test_a_clean_volume(clean, capsys, paths):
    assert fsck.main(["-n", *paths], io=clean) == 0
    out, err = capsys.readouterr()
    assert out == "/m: no damage found (1 inodes, 8 metadata blocks checked)\n"
    assert err == ""


def test_damage_is_told_with_what_it_means(damaged, capsys):
    assert fsck.main(["-n", "-f", "/m", "/d"], io=damaged) == 4
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "error: inode-nlink"
    assert "nlink is 2, 1 would be right" in lines[1]
    assert lines[2] == "    The inode may be deleted while names still lead to it, or never."
    assert lines[-1].startswith("/m: 1 error, 1 note (")
    assert lines[-1].endswith("; nothing was changed")


def test_damage_of_a_volume_that_may_be_in_use(capsys):
    assert fsck.main(["/m", "/d"], io=_io("orphan_item")) == 4
    assert "/m: the volume may be in use: unmount it everywhere and check again" in capsys.readouterr().out


def test_json(damaged, capsys):
    assert fsck.main(["--json", "/m", "/d"], io=damaged) == 4
    found = json.loads(capsys.readouterr().out)
    assert (found["clean"], found["errors"], found["counts"]["inode-nlink"]) == (False, 1, 1)
    finding = next(finding for finding in found["findings"] if finding["severity"] == "error")
    assert finding["kind"] == "inode-nlink"
    assert finding["details"] == {"stored": 2, "expected": 1}
    assert found["checked"]["inodes"] > 100


def test_many_findings_are_shown_in_part_or_all(capsys):
    io = MemoryIO({"/m": Corruption("crash1-D_merge").meta})
    assert fsck.main(["/m"], io=io) == 0
    assert "  and 16 more, -v shows them\n" in capsys.readouterr().out
    assert fsck.main(["-v", "/m"], io=io) == 0
    out = capsys.readouterr().out
    assert "-v shows" not in out
    assert out.count("waits to be deleted") == 21


def test_the_metadata_device_alone(clean, capsys):
    assert fsck.main(["/m"], io=clean) == 0
    assert capsys.readouterr().out.startswith("note: device-unchecked\n")


def test_the_data_device_alone_is_refused(clean, capsys):
    assert fsck.main(["/d"], io=clean) == 8
    assert "name its metadata device as well" in capsys.readouterr().err


def test_one_device_given_twice_is_refused(clean, capsys):
    assert fsck.main(["/m", "/m"], io=clean) == 8
    assert "the same device" in capsys.readouterr().err


def test_a_volume_on_one_device(tmp_path, capsys):
    path = tmp_path / "image"
    with path.open("wb") as file:
        file.truncate(16 << 30)
    assert mkfs(["-q", "-A", "-Q", "0,127.0.0.1,6000", str(path)]) == 0
    capsys.readouterr()
    assert fsck.main([str(path)]) == 0
    assert "no damage found (1 inodes" in capsys.readouterr().out
    assert fsck.main(["--json", str(path)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["data_device"] == str(path)
    assert found["findings"] == []


def test_real_devices_of_the_kernel(tmp_path, capsys):
    paths = [str(kernel_images.unpack("fresh-v2", role, tmp_path / role)) for role in ("meta", "data")]
    assert fsck.main(paths) == 0
    assert capsys.readouterr().out.endswith("no damage found (1 inodes, 8 metadata blocks checked)\n")


@pytest.mark.parametrize("option", ["-a", "-p", "-y", "-r"])
def test_repairs_are_refused(option, capsys):
    assert fsck.main([option, "/m"]) == 16
    assert f"{option} asks for repairs, but this program only checks" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["-n"], ["a", "b", "c"], ["-z", "a"], ["-Cx", "a"]])
def test_wrong_usage(arguments, capsys):
    assert fsck.main(arguments) == 16
    assert "usage: " in capsys.readouterr().err


def test_a_device_that_is_not_there(capsys, tmp_path):
    assert fsck.main([str(tmp_path / "none")]) == 8
    assert "none" in capsys.readouterr().err


def test_a_device_without_a_volume(capsys):
    io = MemoryIO({"/m": images.load("v2-1slot", "meta")})
    io.images["/m"].write(SUPER, bytes(4096))
    assert fsck.main(["/m"], io=io) == 8
    assert "there is no ScoutFS super block" in capsys.readouterr().err


def test_an_interrupt(clean, capsys, monkeypatch):
    def interrupt(*_arguments, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr(fsck, "check_volume", interrupt)
    assert fsck.main(["/m", "/d"], io=clean) == 32
    assert "interrupted" in capsys.readouterr().err


@pytest.mark.parametrize("options", [["-h"], ["--help"], ["-V"]])
def test_information(options, capsys):
    assert fsck.main(options) == 0
    assert capsys.readouterr().out


def test_progress_for_programs(clean):
    read, write = os.pipe()
    monotonic = iter(range(10_000))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scoutfs.tools.fsck.output.time.monotonic", lambda: next(monotonic))
        assert fsck.main([f"-C{write}", "/m", "/d"], io=clean) == 0
    os.close(write)
    with os.fdopen(read) as lines:
        first = lines.readline()
    walk, blocks, expected, path = first.split()
    assert (walk, path) == ("1", "/m")
    assert 0 < int(blocks) <= int(expected)


def test_progress_on_a_terminal(capsys):
    with pytest.MonkeyPatch.context() as patch:
        monotonic = iter(range(10_000))
        patch.setattr("scoutfs.tools.fsck.output.time.monotonic", lambda: next(monotonic))
        assert fsck.main(["-C", "/m", "/d"], io=_io("file_nlink")) == 4
    err = capsys.readouterr().err
    assert "\r/m: [" in err
    assert "walk 2" not in err
    assert err.endswith("\r\x1b[K")


def test_a_mounted_volume_is_checked_with_a_warning(clean, capsys, monkeypatch, tmp_path):
    mounts = tmp_path / "mounts"
    mounts.write_text(
        "/dev/sda1 / ext4 rw 0 0\n/d /mnt/scoutfs fuse.scoutfs rw 0 0\n/x /y scoutfs metadev_path=/m 0 0\n"
    )
    monkeypatch.setattr(devices, "_MOUNTS", mounts)
    assert fsck.main(["/m", "/d"], io=clean) == 0
    err = capsys.readouterr().err
    assert "warning: mounted on /mnt/scoutfs" in err
    assert "warning: mounted on /y" in err
    assert fsck.main(["-f", "/m", "/d"], io=clean) == 0
    assert capsys.readouterr().err == ""


def test_it_is_a_command_of_scoutfs(capsys):
    assert cli.main(["fsck", "-y", "x"]) == 16
    assert "asks for repairs" in capsys.readouterr().err
