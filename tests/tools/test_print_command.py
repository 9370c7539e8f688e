"""The command line of print, on files and on block devices in use."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from format.quorum import SlotAddress
from scoutfs import cli
from scoutfs.storage.creation import NewVolume, write_volume
from scoutfs.storage.device import Device
from scoutfs.storage.volume import Volume
from tests import images
from tests.loops import loop_device, needs_loop_devices

NAME = "v2-1slot"
EXPECTED = (images.DIRECTORY / f"{NAME}.print.txt").read_text("ascii")


@pytest.fixture
def metadata(tmp_path: Path) -> Path:
    return images.unpack(NAME, "meta", tmp_path / "m")


def test_success(metadata: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["print", str(metadata)]) == 0
    assert capsys.readouterr() == (EXPECTED, "")


@pytest.mark.parametrize("option", ["-S", "--skip-likely-huge"])
def test_large_trees_left_out(metadata: Path, option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["print", option, str(metadata)]) == 0
    assert capsys.readouterr().out == EXPECTED[: EXPECTED.index("meta_alloc[0] btree")]


def test_something_missing(metadata: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with metadata.open("r+b") as file:
        file.truncate(1030 * 65536)
    assert cli.main(["print", str(metadata)]) == 1
    out, err = capsys.readouterr()
    start, end = EXPECTED.index("meta_alloc[1] btree"), EXPECTED.index("data_alloc btree")
    assert out == EXPECTED[:start] + EXPECTED[end:]
    assert err.startswith("scoutfs: print: meta_alloc[1] btree block 1030: incomplete pread: ")
    assert err.count("\n") == 1


def test_a_data_device(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = images.unpack(NAME, "data", tmp_path / "d")
    assert cli.main(["print", str(data)]) == 1
    out, err = capsys.readouterr()
    assert out.startswith("super blkno 16\n")
    assert err == f"scoutfs: print: {data}: Printing from data device is not allowed, name the metadata device\n"


def test_no_device(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["print", str(tmp_path / "absent")]) == 1
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"scoutfs: print: {tmp_path}/absent: opening: No such file or directory\n")


def test_a_reader_that_has_seen_enough(metadata: Path) -> None:
    command = [sys.executable, "-m", "scoutfs.cli", "print", str(metadata)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "super blkno 16\n"
        process.stdout.close()
        assert process.stderr
        assert process.stderr.read() == ""
        process.wait(timeout=60)


def test_a_volume_on_one_device(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    new = NewVolume(7, bytes(16), 0, 2, 2048, 16384, {0: SlotAddress("10.0.0.1", 4000)})
    texts = []
    for name, size, data_at in (("one", (2048 + 1024) * 65536, 2048 * 65536), ("meta", 2048 * 65536, None)):
        path, other = tmp_path / name, tmp_path / "data"
        for file, length in ((path, size), (other, 16384 * 4096)):
            with file.open("wb") as image:
                image.truncate(length)
        with Device.open(path, writable=True) as device, Device.open(other, writable=True) as separate:
            if data_at is None:
                write_volume(device, separate, new)
            else:
                write_volume(device.part(0, data_at), device.part(data_at, size - data_at), new)
        assert cli.main(["print", str(path)]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1]
    assert "    quorum slot  0: 10.0.0.1:4000\n" in texts[0]


@needs_loop_devices
def test_a_block_device_in_use(metadata: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = images.unpack(NAME, "data", tmp_path / "d")
    with loop_device(metadata) as device, Volume.open(data, device):
        assert cli.main(["print", device]) == 0
    assert capsys.readouterr() == (EXPECTED, "")


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["print", "--help"])
    assert caught.value.code == 0
    assert "scoutfs print -S /dev/meta" in capsys.readouterr().out
