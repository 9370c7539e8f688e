"""Which volume is meant, what is refused and how, and forms of output that nothing else covers."""

from __future__ import annotations

import base64
import json
import os
import pty
import re
import subprocess
import sys
import tracemalloc
from bisect import bisect_left
from collections.abc import Callable
from pathlib import Path

import pytest

from format.keys import FsType
from scoutfs.cli import COMMANDS
from scoutfs.files.filesystem import Filesystem
from scoutfs.files.items import fs_key, key_fields
from scoutfs.metadata.btree import Root, tree_of
from scoutfs.tools.reading import arguments, listing, walk
from scoutfs.tools.reading.names import json_name
from tests import kernel_images
from tests.files.manifests import manifest
from tests.tools.reading.conftest import Commands
from tests.tools.recorded import sparse

ON_PATHS = ("ls", "tree", "stat", "cat", "find", "xattr", "get-fiemap")
QUERIES = ("df", "walk-inodes", "ino-path", "search-xattrs", "read-xattr-totals", "read-xattr-index")
OPERANDS = {"walk-inodes": ["meta_seq", "0", "-1"], "ino-path": ["1"], "search-xattrs": ["scoutfs.srch.x"]}


@pytest.mark.parametrize("command", [*ON_PATHS, *QUERIES, "cp"])
def test_help_has_examples_and_exit_statuses(rich: Commands, command: str) -> None:
    assert command in COMMANDS
    done = rich.run(command, "--help")
    text = done.out.decode()
    assert done.status == 0
    assert f"usage: scoutfs {command} " in text
    assert f"examples:\n  scoutfs {command} " in text
    assert "exit status: 0 " in text


@pytest.mark.parametrize("command", [*ON_PATHS, *QUERIES, "cp"])
def test_wrong_command_lines_exit_with_64_and_a_hint(rich: Commands, command: str) -> None:
    done = rich.run(command, "--no-such-option")
    assert done.status == 64
    assert done.err.endswith(f"Try `scoutfs {command} --help' for more information.\n")
    assert done.out == b""


@pytest.mark.parametrize("command", [*ON_PATHS, *QUERIES])
def test_devices_that_are_none_exit_with_1_and_one_line(rich: Commands, command: str, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    sparse(empty, 1 << 20)
    for device, text in ((tmp_path / "nowhere", "No such file or directory"), (empty, "not a ScoutFS volume")):
        if command in QUERIES:
            done = rich.run(command, "-p", str(device), *OPERANDS.get(command, []))
        else:
            done = rich.run(command, str(device), "x")
        assert (done.status, done.out) == (1, b"")
        assert str(device) in done.err
        assert text in done.err


@pytest.mark.parametrize("command", ON_PATHS)
def test_paths_that_are_not_there(rich: Commands, command: str) -> None:
    done = rich.on_paths(command, "names/nothing")
    assert (done.status, done.out.replace(b"\n0 directories, 0 files\n", b"")) == (1, b"")
    assert "No such file or directory" in done.err
    if command != "get-fiemap":
        assert done.err == f"scoutfs: {command}: names/nothing: No such file or directory\n"
    done = rich.on_paths(command, "files/one/below")
    assert done.status == 1
    assert "Not a directory" in done.err


def test_refusals_name_files_as_they_were_given(rich: Commands) -> None:
    for words, text in (
        (["get-fiemap", "/names"], "/names: this is a directory, not a regular file\n"),
        (["get-fiemap", "/nothing"], "/nothing: No such file or directory\n"),
        (["find", "/", "-newer", "/nothing"], "scoutfs: find: -newer /nothing: No such file or directory\n"),
        (["stat", "-i", "-5"], "scoutfs: stat: -5: No such file or directory\n"),
    ):
        assert rich.on_paths(*words).err.startswith(text), words
    done = rich.query("search-xattrs", "user.x")
    assert done.err.startswith("attribute user.x: only names with the tag srch can be searched\n")


@pytest.mark.parametrize(
    ("words", "text"),
    [(["ls"], "DEVICE"), (["get-fiemap"], "DEVICE"), (["walk-inodes", "meta_seq"], "FIRST, LAST")],
)
def test_what_is_missing_is_named(rich: Commands, words: list[str], text: str) -> None:
    assert rich.run(*words).err.startswith(f"scoutfs {words[0]}: the following arguments are required: {text}\n")


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["walk-inodes", "meta_seq", "x", "-1"], "argument FIRST: 'x' is no position of an inode: 'x' is not a number"),
        (["tree", "-L", "-1", "device"], "argument -L/--level: '-1' is not a number from 1"),
        (["tree", "-L", "x", "device"], "argument -L/--level: 'x' is not a number from 1"),
    ],
)
def test_numbers_that_are_none(rich: Commands, words: list[str], text: str) -> None:
    done = rich.run(*words)
    assert done.status == 64
    assert done.err.startswith(f"scoutfs {words[0]}: {text}\n")


class TestNamingTheVolume:
    def test_the_two_devices_in_either_order(self, rich: Commands) -> None:
        expected = rich.on_paths("ls", "dirs").out
        assert expected
        assert rich.run("ls", str(rich.meta), "-m", str(rich.data), "dirs").out == expected
        assert rich.run("ls", f"--metadev={rich.meta}", str(rich.data), "dirs").out == expected

    def test_one_device_of_two_is_refused_with_what_to_do(self, rich: Commands) -> None:
        for device, kind, other in ((rich.meta, "metadata", "data"), (rich.data, "data", "metadata")):
            done = rich.run("ls", str(device))
            text = f"this is the {kind} device of a volume on two devices: name the {other} device too"
            assert (done.status, done.err) == (1, f"scoutfs: ls: {device}: {text}, one of them with -m\n")

    def test_devices_of_two_volumes(self, rich: Commands, on_volume: Callable[[str], Commands]) -> None:
        other = on_volume("fresh-v2")
        done = rich.run("ls", "-m", str(other.meta), str(rich.data))
        assert done.status == 1
        assert "the two devices are of different volumes" in done.err

    def test_a_volume_on_one_device(self, rich: Commands, tmp_path: Path) -> None:
        """Behind each other in one file the two devices are a volume on one."""
        single = tmp_path / "single"
        with open(single, "wb") as file, Filesystem.open(rich.data, rich.meta) as files:
            split = files.volume.super.total_meta_blocks << 16
            for path, start in ((rich.meta, 0), (rich.data, split)):
                with open(path, "rb") as source:
                    _copy_data(source.fileno(), file.fileno(), start)
            file.truncate(split + rich.data.stat().st_size)
        for command in ("find", "tree"):
            assert rich.run(command, str(single)).out == rich.on_paths(command).out
        assert rich.run("df", "-p", str(single)).out == rich.query("df").out

    def test_a_path_on_a_mount_of_a_volume_on_one_device(
        self, rich: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Such a mount tells that device for its metadata, too: it is opened as one, and not as two."""
        (tmp_path / ".scoutfs/mount_options").mkdir(parents=True)
        (tmp_path / ".scoutfs/mount_options/metadev_path").write_text(f"{rich.meta}\n")
        mounts = tmp_path / "mountinfo"
        mounts.write_text(f"36 21 0:42 / {tmp_path} rw - fuse.scoutfs {rich.meta} rw\n")
        monkeypatch.setattr(arguments, "_MOUNTS", mounts)
        done = rich.run("ls", str(tmp_path))
        assert done.status == 1
        assert "this is the metadata device of a volume on two devices" in done.err

    @pytest.mark.parametrize("command", ["ls", "df"])
    def test_a_directory_without_a_mount(self, rich: Commands, tmp_path: Path, command: str) -> None:
        done = rich.run(command, *(["-p"] if command == "df" else []), str(tmp_path))
        assert done.status == 1
        assert f"{tmp_path}: no ScoutFS is mounted here" in done.err

    @pytest.mark.parametrize("kind", ["fuse.scoutfs", "scoutfs"])
    def test_a_path_on_a_mount(
        self, rich: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
    ) -> None:
        point = tmp_path / "a mount"
        (point / "dirs/three").mkdir(parents=True)
        options = f"rw,metadev_path={rich.meta}"
        if kind != "scoutfs":
            options = "rw,user_id=0"
            (point / ".scoutfs/mount_options").mkdir(parents=True)
            (point / ".scoutfs/mount_options/metadev_path").write_text(f"{rich.meta}\n")
        escaped = str(point).replace(" ", "\\040")
        mounts = tmp_path / "mountinfo"
        mounts.write_text(
            "21 1 0:1 / / rw - ext4 /dev/sda rw\n"
            f"36 21 0:42 / {escaped} rw,nosuid shared:7 - {kind} {rich.data} {options}\n"
        )
        monkeypatch.setattr(arguments, "_MOUNTS", mounts)
        assert rich.run("ls", str(point / "dirs/three")).out == b"a\nb\nc\n"
        assert rich.run("cat", str(point / "dirs"), "three/a").out == rich.on_paths("cat", "dirs/three/a").out
        assert rich.run("find", str(point), "-maxdepth", "0").out == b"/\n"
        monkeypatch.chdir(point / "dirs")
        assert rich.run("read-xattr-totals").out == rich.query("read-xattr-totals").out
        monkeypatch.chdir(tmp_path)
        assert rich.run("read-xattr-totals").status == 1
        monkeypatch.setenv("SCOUTFS_MOUNT_PATH", str(point))
        assert rich.run("read-xattr-totals").out == rich.query("read-xattr-totals").out


def _copy_data(source: int, target: int, offset: int) -> None:
    """Copy what is no hole."""
    end, size = 0, os.fstat(source).st_size
    while end < size:
        try:
            start = os.lseek(source, end, os.SEEK_DATA)
        except OSError:
            return
        end = os.lseek(source, start, os.SEEK_HOLE)
        for at in range(start, end, 1 << 20):
            os.pwrite(target, os.pread(source, min(1 << 20, end - at), at), offset + at)


class TestDamage:
    @pytest.fixture
    def damaged(self, rich: Commands, tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> Commands:
        """The volume with two zeroed leaves of the tree of files: with inodes, and with the names in a directory."""
        meta = tmp_path / "meta.img"
        subprocess.run(["cp", "--sparse=always", rich.meta, meta], check=True, timeout=60)
        with Filesystem.open(rich.data, rich.meta) as files:
            root = Root.of(files.volume.read_super().raw.fs_root)
            tree = tree_of(files.volume, files.volume.read_super().raw.fs_root)
            assert root.height == 2
            parent = tree.blocks.btree_block(root.ref, 1)
            name = fs_key(files.resolve(b"dirs/big").ino, FsType.READDIR, 2500)
            leaves = [len(parent.refs) // 2, bisect_left(parent.keys, name)]
            self.lost_inodes = files.blocks.btree_block(parent.refs[leaves[0]], 0).keys
        with open(meta, "r+b") as file:
            for leaf in leaves:
                file.seek(parent.refs[leaf].blkno << 16)
                file.write(bytes(65536))
        return Commands(meta, rich.data, capsysbinary)

    @pytest.mark.parametrize("command", ["find", "ls", "tree", "xattr"])
    def test_the_rest_is_shown_and_the_block_named(self, rich: Commands, damaged: Commands, command: str) -> None:
        options = {"ls": ["-lR"], "xattr": ["-R", "-d"]}.get(command, [])
        whole = rich.on_paths(command, *options, "/")
        done = damaged.on_paths(command, *options, "/")
        assert done.status == 1
        assert f"{damaged.meta}: btree block " in done.err
        assert all(line.startswith(f"scoutfs: {command}: /") for line in done.err.splitlines())
        lines = whole.out.splitlines()
        if command == "tree":
            # the names are there once more
            assert sorted(done.out.splitlines()) == sorted(lines)
        if command == "find":
            shown = set(done.out.splitlines())
            inodes = {key_fields(key)[1] for key in self.lost_inodes if key_fields(key)[2] == FsType.INODE}
            paths = {b"/" + path[2:] for path, entry in manifest("rich-v2-merged").items() if entry["ino"] in inodes}
            assert len(paths) > 50
            assert set(lines) - shown == paths

    def test_cp_copies_the_rest(self, damaged: Commands, target: Path) -> None:
        found = damaged.on_paths("find", ".", "-type", "f", "!", "-offline", "-size", "-1G")
        done = damaged.on_paths("cp", "-r", ".", str(target))
        assert done.status == 1
        copied = {
            os.path.relpath(os.path.join(directory, name), target)
            for directory, _, names in os.walk(target)
            for name in names
        }
        assert len(copied) > 100
        assert "Input/output error" in done.err
        missing = {
            line.removeprefix(b"./").decode("utf-8", "surrogateescape") for line in found.out.splitlines()
        } - copied
        # those whose extents or attributes were in the block
        assert len(missing) < 300


class TestOutput:
    def test_names_are_raw_unless_on_a_terminal(self, rich: Commands) -> None:
        out = rich.on_paths("ls", "names").out
        assert any(b"\xff" in line or b"\xfe" in line for line in out.splitlines())
        assert b"new\nline\n" in out
        assert b"new\\nline\n" in rich.on_paths("ls", "-b", "names").out

    def test_names_on_a_terminal_are_quoted(self, rich: Commands) -> None:
        main_fd, terminal = pty.openpty()
        command = [sys.executable, "-m", "scoutfs.cli", "ls", "-m", rich.meta, rich.data, "names"]
        done = subprocess.Popen(command, stdout=terminal, stdin=subprocess.DEVNULL)
        os.close(terminal)
        out = b""
        try:
            while piece := os.read(main_fd, 65536):
                out += piece
        except OSError:
            # all have closed the terminal
            pass
        os.close(main_fd)
        assert done.wait(timeout=60) == 0
        assert b"'new'$'\\n''line'\r\n" in out
        assert b"\xff" not in out

    def test_json_of_names_that_are_no_text(self) -> None:
        assert json_name("path", "é".encode()) == {"path": "é"}
        assert json_name("path", b"a\xff") == {"path": "a\ufffd", "path_b64": "Yf8="}

    def test_find_names_that_are_no_text(self, rich: Commands) -> None:
        bad = next(path for path in manifest("rich-v2-merged") if b"bad-utf8" in path)
        assert rich.on_paths("find", ".", "-name", b"*" + bad.rpartition(b"/")[2][-9:], "-print0").out == bad + b"\0"
        assert rich.on_paths("cat", bad).status == 0

    def test_find_by_attributes(self, rich: Commands) -> None:
        entries = manifest("rich-v2-merged")
        names = {path: [*entry.get("xattrs", {}), *entry.get("hidden_xattrs", {})] for path, entry in entries.items()}
        for glob, start in (("user.*", "user."), ("scoutfs.hide.*", "scoutfs.hide."), ("*", "")):
            found = rich.on_paths("find", ".", "!", "-path", "./dirs/big/*", "-xattr", glob, "-print0").out.split(b"\0")
            expected = {path for path, all_of_them in names.items() if any(n.startswith(start) for n in all_of_them)}
            assert set(found) - {b""} == {path for path in expected if not path.startswith(b"./dirs/big/")}
        found = rich.on_paths("find", ".", "-offline", "-print0").out.split(b"\0")
        offline = {path for path, entry in entries.items() if entry.get("attr_x", {}).get("offline_blocks", "0") != "0"}
        assert set(found) - {b""} == offline
        found = rich.on_paths("find", ".", "-project", "+0", "-print0").out.split(b"\0")
        projects = {path for path, entry in entries.items() if entry.get("attr_x", {}).get("project_id", "0") != "0"}
        assert set(found) - {b""} == projects

    def test_expressions_that_cannot_be_understood(self, rich: Commands) -> None:
        for words, text in (
            (["-foo"], "'-foo' is no test that is known here"),
            (["-name"], "something is missing behind '-name'"),
            (["(", "-name", "a"], "something is missing behind '('"),
            (["-name", "a", ")"], "')' does not belong here"),
            (["-mtime", "5x"], "-mtime cannot take '5x'"),
            (["-size", "5q"], "-size cannot take '5q'"),
            (["-type", "z"], "-type cannot take 'z'"),
            (["-newermt", "soon"], "-newermt cannot take 'soon'"),
            (["-user", "nobody-of-that-name"], "-user cannot take 'nobody-of-that-name'"),
            (["!"], "something is missing behind '!'"),
        ):
            done = rich.on_paths("find", ".", *words)
            assert (done.status, done.err.splitlines()[0]) == (64, f"scoutfs find: {text}")

    def test_stat_of_one_field(self, rich: Commands) -> None:
        entry = manifest("rich-v2-merged")[b"./archive/rel_mid"]
        done = rich.on_paths("stat", "-s", "offline_blocks", "archive/rel_mid")
        assert done.out.decode().strip() == entry["attr_x"]["offline_blocks"]
        done = rich.on_paths("stat", "--json", "-i", str(entry["ino"]))
        assert json.loads(done.out)["extents"] == len(entry["fiemap"])
        assert rich.on_paths("stat", "-s", "nothing", "archive/rel_mid").status == 64
        assert "this is no number of an inode" in rich.on_paths("stat", "-i", "x").err

    def test_stat_follows_links_if_asked(self, rich: Commands) -> None:
        kinds = [rich.on_paths("stat", *option, "-s", "type", "links/slrel").out for option in ([], ["-L"])]
        assert kinds[0] == b"symbolic link\n" != kinds[1]

    def test_cat_ends_where_contents_are_offline(self, rich: Commands) -> None:
        done = rich.on_paths("cat", "archive/rel_all", "files/sz7")
        assert done.status == 1
        assert done.err.startswith("scoutfs: cat: archive/rel_all: inode ")
        assert "offline" in done.err
        assert len(done.out) == 7
        done = rich.on_paths("cat", "dirs")
        assert (done.status, done.err) == (1, "scoutfs: cat: dirs: this is a directory, not a regular file\n")

    def test_tree(self, rich: Commands) -> None:
        assert rich.on_paths("tree", "dirs/rd_renamed", "dirs/three").out.decode() == (
            "dirs/rd_renamed\n├── in\n└── rd2\ndirs/three\n├── a\n├── b\n└── c\n\n1 directory, 4 files\n"
        )
        done = rich.on_paths("tree", "-d", "-L", "1", "dirs")
        assert done.out.decode().endswith("└── three\n\n6 directories\n") or b"three" in done.out
        whole = rich.on_paths("tree", "-a", ".").out.decode("utf-8", "surrogateescape")
        entries = manifest("rich-v2-merged")
        directories = sum(entry["mode"].startswith("4") for entry in entries.values())
        assert whole.endswith(f"\n{directories - 1} directories, {len(entries) - directories} files\n")
        assert len(rich.on_paths("tree", "-a", "--json", ".").out.splitlines()) == len(entries)

    def test_xattr_of_one_name(self, rich: Commands) -> None:
        entry = manifest("rich-v2-merged")[b"./xattrs/small"]
        value = bytes.fromhex(entry["xattrs"]["user.bin"])
        assert rich.on_paths("xattr", "-n", "user.bin", "--only-values", "xattrs/small").out == value
        done = rich.on_paths("xattr", "-n", "user.nothing", "xattrs/small")
        assert done.err == "scoutfs: xattr: xattrs/small: No data available: there is no attribute user.nothing\n"
        assert done.status == 1

    def test_hidden_attributes_only_if_asked(self, rich: Commands) -> None:
        entry = manifest("rich-v2-merged")[b"./xattrs/tags"]
        shown, all_of_them = (
            {line for line in rich.on_paths("xattr", *option, "xattrs/tags").out.decode().splitlines()[1:] if line}
            for option in ([], ["--hidden"])
        )
        assert shown == entry["xattrs"].keys()
        assert all_of_them == entry["xattrs"].keys() | entry["hidden_xattrs"].keys()
        matching = rich.on_paths("xattr", "--hidden", "--match", r"^scoutfs\.hide\.", "xattrs/tags").out.decode()
        assert set(matching.split()[3:]) == {name for name in all_of_them if name.startswith("scoutfs.hide.")}

    def test_df_for_people_and_programs(self, rich: Commands) -> None:
        numbers = json.loads(rich.query("df", "--json").out)
        rows = [line.split() for line in rich.query("df").out.decode().splitlines()]
        assert rows[1][2:5] == [
            str(numbers["total_meta_blocks"]),
            str(numbers["total_meta_blocks"] - numbers["usable_meta_blocks"]),
            str(numbers["usable_meta_blocks"]),
        ]
        assert rows[2][4] == str(numbers["free_data_blocks"])
        assert rich.query("df", "-h").out.decode().splitlines()[1].split()[2] == "8.00GB"


class TestQueries:
    @pytest.mark.parametrize(
        ("first", "last", "low", "high"),
        [
            ("2", "59", (2, 0), (59, 0)),
            ("59.0.0", "59.0.-1", (59, 0), (59, 2**64 - 1)),
            ("0x3b", "073.0.18446744073709551615", (59, 0), (59, 2**64 - 1)),
            ("60", "59", (60, 0), (59, 0)),
            ("-1", "-1", (2**64 - 1, 0), (2**64 - 1, 0)),
        ],
    )
    def test_ranges_of_inodes(
        self, rich: Commands, first: str, last: str, low: tuple[int, int], high: tuple[int, int]
    ) -> None:
        lines = rich.query("walk-inodes", "--json", "meta_seq", "0", "-1").out.splitlines()
        entries = [(line["major"], line["ino"]) for line in map(json.loads, lines)]
        done = rich.query("walk-inodes", "--json", "meta_seq", first, last)
        found = [(line["major"], line["ino"]) for line in map(json.loads, done.out.splitlines())]
        assert found == [entry for entry in entries if low <= entry <= high]
        assert done.status == 0

    @pytest.mark.parametrize("position", ["x", "1.2.3.4", "", "1..2", "99999999999999999999"])
    def test_positions_that_are_none(self, rich: Commands, position: str) -> None:
        assert rich.query("walk-inodes", "meta_seq", position, "-1").status == 64

    def test_an_open_transaction_ends_the_stable_part(self, on_volume: Callable[[str], Commands]) -> None:
        """In this state mounts had transactions open, as print shows: they had seqs, and had not committed them."""
        commands = on_volume("multi3-M1_busy3")
        with Filesystem.open(commands.data, commands.meta) as files:
            stable = files.last_stable_seq()
        everything = commands.query("walk-inodes", "--json", "meta_seq", "0", "-1").out.splitlines()
        done = commands.query("walk-inodes", "--json", "--stable", "meta_seq", "0", "-1").out.splitlines()
        assert done == [line for line in everything if json.loads(line)["major"] <= stable]
        assert stable == _stable_seq_as_printed("multi3-M1_busy3")

    def test_ranges_of_the_attribute_index(self, rich: Commands) -> None:
        everything = rich.query("read-xattr-index").out.splitlines()
        assert rich.query("read-xattr-index", "0", "255.-1.-1").out.splitlines() == everything
        threes = [line for line in everything if line.startswith(b"3.")]
        assert rich.query("read-xattr-index", "3.0.0", "3.-1.-1").out.splitlines() == threes != []
        assert rich.query("read-xattr-index", "--json", "3", "3.-1.-1").out.count(b"\n") == len(threes)
        assert rich.query("read-xattr-index", "256").status == 64
        done = rich.query("read-xattr-index", "4", "3")
        assert done.err.endswith("scoutfs: read-xattr-index failed: Invalid argument (22)\n")
        assert done.status == 1

    def test_names_that_cannot_be_searched(self, rich: Commands) -> None:
        done = rich.query("search-xattrs", "user.a")
        assert done.status == 1
        assert done.err.endswith("scoutfs: search-xattrs failed: Invalid argument (22)\n")

    def test_paths_of_no_inode(self, rich: Commands) -> None:
        done = rich.query("ino-path", "123456789")
        assert done.status == 1
        assert done.err.endswith("scoutfs: ino-path failed: No such file or directory (2)\n")
        assert rich.query("ino-path", "one").status == 64

    def test_fiemap_forms(self, rich: Commands) -> None:
        extents = manifest("rich-v2-merged")[b"./archive/punched"]["fiemap"]
        for option, part in (("-L", 0), ("-P", 1)):
            lines = rich.on_paths("get-fiemap", option, "archive/punched").out.decode().splitlines()
            places = [line.split()[2] for line in lines[:-1]]
            assert places == [str(extent[part] // 4096) for extent in extents]
        lines = [json.loads(line) for line in rich.on_paths("get-fiemap", "--json", "archive/punched").out.splitlines()]
        assert [[line["logical"], line["physical"], line["length"]] for line in lines] == [e[:3] for e in extents]
        assert [line["flags"] for line in lines] == [["offline"], ["offline", "last"]]
        assert "this is a directory" in rich.on_paths("get-fiemap", "dirs").err


def _stable_seq_as_printed(name: str) -> int:
    """Compute it from the text that the original prints of the volume."""
    text = kernel_images.printed(name)
    last_given = re.search(r"inode_count \d+ seq (\d+)$", text, re.MULTILINE)
    assert last_given
    pairs = re.findall(r"get_trans_seq: (\d+)\s+commit_trans_seq: (\d+)", text)
    is_open = [int(get) - 1 for get, commit in pairs if int(get) > int(commit)]
    assert is_open, "a transaction is open in this state"
    return min(int(last_given[1]) - 1, *is_open)


def test_sorting_goes_through_temporary_files_when_there_is_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walk, "SORTED_IN_MEMORY", 7)
    names = [b"%d" % (number * 7919 % 1000) for number in range(1000)]
    rows = [listing.Row(name, name, int(name), None) for name in names]
    assert [row.name for row in listing.sorted_rows(rows, None)] == sorted(names)
    assert [row.name for row in listing.sorted_rows(rows, None, reverse=True)] == sorted(names, reverse=True)
    assert list(listing.sorted_rows(rows, "none")) == rows


def test_memory_does_not_grow_with_the_volume(rich: Commands) -> None:
    """The greatest directory has 5000 entries: a hundred times of what is read at once is not kept."""
    tracemalloc.start()
    try:
        with Filesystem.open(rich.data, rich.meta, cache_bytes=1 << 20) as files:
            start = files.resolve(b"dirs/big")
            seen = 0
            tracemalloc.reset_peak()
            for _ in walk.walk(files, start, b"big", lambda path, error: None):
                seen += 1
            peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert seen > 5000
    assert peak < 6 << 20


def test_contents_as_json(rich: Commands) -> None:
    plain = rich.on_paths("cat", "files/random").out
    pieces = [json.loads(line) for line in rich.on_paths("cat", "--json", "files/random").out.splitlines()]
    assert b"".join(base64.b64decode(piece["data_b64"]) for piece in pieces) == plain
    assert [piece["path"] for piece in pieces] == ["files/random"] * len(pieces)
    (hole,) = [json.loads(line) for line in rich.on_paths("cat", "--json", "files/zeros").out.splitlines()]
    assert hole == {"path": "files/zeros", "offset": 0, "length": len(rich.on_paths("cat", "files/zeros").out)}
