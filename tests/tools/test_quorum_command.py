"""`scoutfs quorum DEV`: its text, its JSON, its errors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from format.quorum import Event, SlotAddress
from scoutfs import cli
from scoutfs.storage.creation import NewVolume, write_volume
from scoutfs.storage.device import Device
from scoutfs.storage.volume import Volume
from tests import images, kernel_images
from tests.loops import loop_device, needs_loop_devices

M2_KILLED = """\
ScoutFS volume 8a9e71ae9a3e07db, uuid 87c05cfe-4980-47cd-9f8f-df74ef760ec0, on {path}
3 quorum slots, configuration version 1; 2 votes make a leader

slot  address          mount             recorded
   0  127.0.0.1:19700  1e97e322913247ef  leads term 1, its server may run
   1  127.0.0.1:19701  aa2e479194a91480  a member may run
   2  127.0.0.1:19702  9885e826dd425832  a member may run

Terms of the events in each slot's block [number of the write]:
slot  begin   term  elect  fence  stop  end
   0  0 [1]  1 [2]  1 [3]  1 [4]     -    -
   1  0 [1]  1 [2]      -      -     -    -
   2  0 [1]  1 [2]      -      -     -    -

Server:   mount 1e97e322913247ef of slot 0 at 127.0.0.1:19700 may serve, elected for term 1
Members:  may be running in slots 0, 1, 2
Terms:    the greatest is 1
To fence: mount 1e97e322913247ef of slot 0, elected for term 1, once another mount leads
Mounts:   recorded; the volume is mounted, or was not unmounted cleanly
"""


def small_part(name: str, directory: Path) -> Path:
    """Return a file with only the first 1 MiB of a metadata device: more is not read."""
    image = kernel_images.unpack(name, "meta", directory / "m")
    with image.open("r+b") as file:
        file.truncate(1 << 20)
    return image


def test_a_volume_that_a_member_vanished_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = small_part("multi3-M2_killed", tmp_path)
    assert cli.main(["quorum", str(image)]) == 0
    assert capsys.readouterr() == (M2_KILLED.format(path=image), "")


def test_a_volume_that_was_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = small_part("multi3-final", tmp_path)
    assert cli.main(["quorum", str(image)]) == 0
    out = capsys.readouterr().out
    assert "   0  127.0.0.1:19700  1e97e322913247ef  has left\n" in out
    assert "   0  0 [1]  1 [2]  1 [3]  1 [4]  1 [5]  1 [6]\n" in out
    assert "Server:   none recorded\n" in out
    # slot 1 was unmounted by force, which writes nothing
    assert "Members:  may be running in slot 1: fewer than the 2 that make a leader\n" in out


def test_for_programs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = small_part("multi3-M2_killed", tmp_path)
    assert cli.main(["quorum", "--json", str(image)]) == 0
    view = json.loads(capsys.readouterr().out)
    assert view["device"] == str(image)
    assert view["fsid"] == "8a9e71ae9a3e07db"
    assert view["server"] == {"slot": 0, "term": 1, "rid": "1e97e322913247ef", "address": "127.0.0.1:19700"}
    assert view["members"] == [0, 1, 2]
    assert [slot["state"] for slot in view["slots"]] == ["server", "member", "member"]
    assert view["slots"][0]["events"]["begin"]["monotonic_seconds"] == 4.434969522


@pytest.fixture
def metadata(tmp_path: Path) -> Path:
    return images.unpack("v2-3slot", "meta", tmp_path / "m")


def test_a_damaged_block(metadata: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with metadata.open("r+b") as file:
        file.seek(65536 + 4096 * 2 + 100)
        file.write(b"x")
    assert cli.main(["quorum", str(metadata)]) == 1
    out = capsys.readouterr().out
    assert f"   1  127.0.0.1:12346  -      unreadable: {metadata}: quorum block 18: crc is " in out
    assert "   1      ?     ?      ?      ?     ?    ?\n" in out
    assert "Server:   none recorded in the slots that can be read\n" in out
    assert f"Problems:\n  slot 1: its block cannot be used ({metadata}: quorum block 18: crc is " in out


def test_a_data_device(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = images.unpack("v2-3slot", "data", tmp_path / "d")
    assert cli.main(["quorum", str(data)]) == 1
    text = "is the data device of a volume, the metadata device has to be given"
    assert capsys.readouterr() == ("", f"scoutfs: quorum: {data}: {text}\n")


def test_no_volume(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty = tmp_path / "empty"
    empty.write_bytes(bytes(1 << 20))
    assert cli.main(["quorum", str(empty)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"scoutfs: quorum: {empty}: block 16: magic is 0x0")
    assert cli.main(["quorum", str(tmp_path / "absent")]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_a_volume_on_one_device(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "one"
    with path.open("wb") as file:
        file.truncate(3072 * 65536)
    new = NewVolume(7, bytes(16), 0, 2, 2048, 16384, {3: SlotAddress("10.0.0.1", 4000)})
    with Device.open(path, writable=True) as device:
        write_volume(device.part(0, 2048 * 65536), device.part(2048 * 65536, 1024 * 65536), new)
    assert cli.main(["quorum", str(path)]) == 0
    assert "   3  10.0.0.1:4000  -      never used\n" in capsys.readouterr().out


@needs_loop_devices
def test_a_live_volume(metadata: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = images.unpack("v2-3slot", "data", tmp_path / "d")
    with loop_device(metadata) as device, Volume.open(data, device) as volume:
        volume.write_quorum_block(volume.read_quorum_block(2).updated(Event.BEGIN, 0xABC, 7, 0))
        assert cli.main(["quorum", device]) == 0
        assert "   2  127.0.0.1:12347  0000000000000abc  a member may run\n" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["quorum", "--help"], ["quorum", "watch", "--help"]])
def test_help(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 0
    assert "examples:" in capsys.readouterr().out


def test_a_directory_is_for_watch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["quorum", str(tmp_path)]) == 1
    text = "is a directory: `scoutfs quorum watch` takes one, this a metadata device"
    assert capsys.readouterr() == ("", f"scoutfs: quorum: {tmp_path}: {text}\n")
