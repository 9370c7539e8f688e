"""`scoutfs cp`: copies of a recorded volume, compared file by file with what the kernel showed of it."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scoutfs.files.errors import DamagedItem
from scoutfs.files.filesystem import Filesystem
from scoutfs.tools.cp.copier import Copier, Settings
from scoutfs.tools.cp.report import Report
from tests.files.manifests import LARGE_FILE, OFFLINE, manifest
from tests.tools.reading.conftest import Commands
from tests.tools.reading.test_recorded_volumes import path_of

NAME = "rich-v2-merged"

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files to others")


def tree(top: Path) -> dict[bytes, os.stat_result]:
    """Return what there is below a directory, by path as in the manifests."""
    root = os.fsencode(top)
    found = {b".": os.lstat(root)}
    for directory, directories, names in os.walk(root):
        for name in (*directories, *names):
            path = os.path.join(directory, name)
            found[b"." + path[len(root) :]] = os.lstat(path)
    return found


def assert_same(path: bytes, there: bytes, found: os.stat_result, entry: dict[str, Any]) -> None:
    """Compare a copy with the line of the manifest."""
    mode = int(entry["mode"], 8)
    assert found.st_mode == mode, path
    assert (found.st_uid, found.st_gid) == (entry["uid"], entry["gid"]), path
    assert found.st_mtime_ns == entry["mtime_ns"], path
    # finding out where a link leads has changed its atime
    assert found.st_atime_ns == entry["atime_ns"] or stat.S_ISLNK(mode), path
    if "rdev" in entry:
        assert [os.major(found.st_rdev), os.minor(found.st_rdev)] == entry["rdev"], path
    if stat.S_ISLNK(mode):
        assert base64.b64encode(os.readlink(there)).decode() == entry["target_b64"], path
    if stat.S_ISREG(mode):
        assert (found.st_size, found.st_nlink) == (entry["size"], entry["nlink"]), path
        assert found.st_blocks <= entry["blocks"], "holes stay holes"
        if found.st_size < LARGE_FILE:
            assert hashlib.sha256(Path(os.fsdecode(there)).read_bytes()).hexdigest() == entry["sha256"], path
        else:
            assert [list(part) for part in segments(there)] == entry["data_segments_sha256"], path
    names = os.listxattr(there, follow_symlinks=False)
    xattrs = {name: os.getxattr(there, name, follow_symlinks=False).hex() for name in names}
    expected = {name: value for name, value in entry.get("xattrs", {}).items() if not name.startswith("scoutfs.")}
    assert xattrs == expected, path


def segments(path: bytes) -> Iterator[tuple[int, int, str]]:
    """Yield offset, length and hash of the parts of a file that are no holes."""
    with open(path, "rb", buffering=0) as file:
        end = 0
        size = os.fstat(file.fileno()).st_size
        while end < size:
            try:
                start = os.lseek(file.fileno(), end, os.SEEK_DATA)
            except OSError:
                return
            end = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            yield (
                start,
                end - start,
                hashlib.sha256(os.pread(file.fileno(), min(end - start, 16 << 20), start)).hexdigest(),
            )


def expected_losses() -> set[tuple[bytes, str, str]]:
    """Return path, kind and name of what cannot be copied, as the manifest tells it."""
    lost = set()
    for path, entry in manifest(NAME).items():
        if entry.get("sha256") == OFFLINE:
            lost.add((path, "offline", ""))
            continue
        for name in (*entry.get("xattrs", {}), *entry.get("hidden_xattrs", {})):
            if name.startswith("scoutfs."):
                lost.add((path, "xattr", name))
        extended = entry.get("attr_x", {})
        if extended.get("project_id", "0") != "0":
            lost.add((path, "project", ""))
        if extended.get("retention", "0") != "0":
            lost.add((path, "retention", ""))
    return lost


def listed_losses(errors: Path) -> set[tuple[bytes, str, str]]:
    """Return the same as the list of errors tells it."""
    return {
        (path_of(line), line["what"], line.get("name", "")) for line in map(json.loads, errors.read_text().splitlines())
    }


def copy(rich: Commands, target: Path, *options: str) -> Any:
    """Copy the whole volume."""
    return rich.on_paths("cp", "-r", *options, ".", str(target))


@as_root
def test_everything_is_copied_but_what_is_listed(rich: Commands, target: Path, tmp_path: Path) -> None:
    errors = tmp_path / "errors"
    done = copy(rich, target, "--errors", str(errors))
    assert done.status == 1
    assert f"listed in {errors}:\n" in done.err
    assert listed_losses(errors) == expected_losses()
    expected = manifest(NAME)
    offline = {path for path, what, _ in expected_losses() if what == "offline"}
    found = tree(target)
    assert found.keys() == expected.keys() - offline
    inodes: dict[int, int] = {}
    for path, status in found.items():
        assert_same(path, os.fsencode(target) + b"/" + path, status, expected[path])
        if not stat.S_ISDIR(status.st_mode):
            assert inodes.setdefault(expected[path]["ino"], status.st_ino) == status.st_ino, "links are links"


@as_root
def test_lost_attributes_are_listed_with_their_values(rich: Commands, target: Path, tmp_path: Path) -> None:
    rich.on_paths("cp", "-r", "--errors", str(tmp_path / "errors"), "xattrs", str(target))
    expected = manifest(NAME)[b"./xattrs/tags"]
    found = {
        line["name"]: base64.b64decode(line["value_b64"]).hex()
        for line in map(json.loads, (tmp_path / "errors").read_text().splitlines())
        if line["path"] == "xattrs/tags"
    }
    both = expected["xattrs"] | expected["hidden_xattrs"]
    assert found == {name: value for name, value in both.items() if name.startswith("scoutfs.")}


@as_root
def test_a_second_run_copies_only_what_is_missing_or_different(rich: Commands, target: Path) -> None:
    first = copy(rich, target)
    before = tree(target)
    there = {path: os.fsencode(target) + b"/" + path for path in before}
    lost = (b"./files/one", b"./names/case", b"./links/b/hl2", b"./special/fifo", b"./links/sl1")
    for path in lost:
        os.unlink(there[path])
    os.truncate(there[b"./files/random"], 1)
    os.utime(there[b"./files/append"])
    os.unlink(there[b"./files/sz4095"])
    os.mkfifo(there[b"./files/sz4095"])
    os.unlink(there[b"./links/b/hl3"])
    Path(os.fsdecode(there[b"./links/b/hl3"])).write_bytes(Path(os.fsdecode(there[b"./links/b/hl1"])).read_bytes())
    copied_again = {*lost, b"./files/random", b"./files/append", b"./files/sz4095", b"./links/b/hl3"}
    os.chmod(there[b"./files/sz7"], 0o777)
    os.setxattr(there[b"./files/sz7"], "trusted.not_there", b"1")
    os.removexattr(there[b"./xattrs/small"], "trusted.t")
    again = copy(rich, target)
    os.removexattr(there[b"./files/sz7"], "trusted.not_there")
    assert again.status == first.status == 1
    assert f"{len(copied_again)} files copied, " in again.err
    after = tree(target)
    assert after.keys() == before.keys()
    expected = manifest(NAME)
    for path, status in after.items():
        assert_same(path, there[path], status, expected[path])
    kept = before.keys() - copied_again
    assert all(after[path].st_ino == before[path].st_ino for path in kept)
    links = [after[b"./links/b/hl%d" % number].st_ino for number in range(5)]
    assert len(set(links)) == 1


def test_an_interrupted_copy_leaves_nothing_incomplete_and_goes_on(
    rich: Commands, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_read = Filesystem.read
    reads = 0

    def read(files: Filesystem, ino: int, offset: int, size: int) -> bytes:
        nonlocal reads
        reads += 1
        if reads == 30:
            raise KeyboardInterrupt
        return real_read(files, ino, offset, size)

    with monkeypatch.context() as patched:
        patched.setattr(Filesystem, "read", read)
        done = rich.on_paths("cp", "-r", "files", str(target))
    assert done.status == 130
    assert "interrupted; run the same command again to go on\n" in done.err
    expected = manifest(NAME)

    def complete() -> set[bytes]:
        found = tree(target)
        for path, status in found.items():
            if stat.S_ISREG(status.st_mode):
                assert status.st_size == expected[path]["size"]
                if status.st_size < LARGE_FILE:
                    contents = Path(os.fsdecode(os.fsencode(target) + b"/" + path)).read_bytes()
                    assert hashlib.sha256(contents).hexdigest() == expected[path]["sha256"]
        return set(found)

    first = complete()
    everything = {path for path in expected if path == b"." or (path + b"/").startswith(b"./files/")}
    assert first < everything
    done = rich.on_paths("cp", "-r", "files", str(target))
    assert (done.status, done.err) == (0, "")
    assert complete() == everything


def test_what_is_offline_is_left_out_or_copied_in_part(rich: Commands, target: Path) -> None:
    done = rich.on_paths("cp", "archive/rel_mid", str(target / "file"))
    assert done.status == 1
    assert "scoutfs: cp: archive/rel_mid: offline: " in done.err
    assert os.listdir(target) == []
    done = rich.on_paths("cp", "--partial", "archive/rel_mid", str(target / "file"))
    assert done.status == 1
    assert os.listdir(target) == ["file.partial"]
    # what is offline of it, as its extents were recorded
    holes = [(extent[0], extent[2]) for extent in manifest(NAME)[b"./archive/rel_mid"]["fiemap"] if extent[3] & 2]
    contents = (target / "file.partial").read_bytes()
    assert len(contents) == 65536
    for start in range(0, len(contents), 4096):
        is_offline = any(offset <= start < offset + length for offset, length in holes)
        assert (contents[start : start + 4096].strip(b"\0") == b"") == is_offline


def test_where_copies_go(rich: Commands, target: Path) -> None:
    target.mkdir()
    assert rich.on_paths("cp", "dirs/three/a", str(target / "new")).status == 0
    assert rich.on_paths("cp", "dirs/three/a", "dirs/three/b", str(target)).status == 0
    assert rich.on_paths("cp", "dirs/three/a", str(target / "made") + "/").status == 0
    for _ in range(2):
        assert rich.on_paths("cp", "-r", "dirs/three", str(target / "tree")).status == 0
        assert rich.on_paths("cp", "-r", "-T", "dirs/three", str(target / "itself")).status == 0
    found = {path.decode() for path, status in tree(target).items() if stat.S_ISREG(status.st_mode)}
    threes = [f"{directory}/{name}" for directory in ("./tree/three", "./itself") for name in "abc"]
    assert found == {"./new", "./a", "./b", "./made/a", *threes}


def test_refused(rich: Commands, target: Path) -> None:
    done = rich.on_paths("cp", "dirs", str(target))
    assert (done.status, target.exists()) == (1, False)
    assert "scoutfs: cp: dirs: read: this is a directory, which needs -r\n" in done.err
    done = rich.on_paths("cp", "nowhere", "files/one", str(target))
    assert done.status == 1
    assert "scoutfs: cp: nowhere: read: No such file or directory\n" in done.err
    assert os.listdir(target) == ["one"]
    assert rich.on_paths("cp", "files/one").status == 64
    assert rich.on_paths("cp", "-T", "files/one", "files/sz7", str(target)).status == 64
    done = rich.on_paths("cp", "files/one", str(target / "one" / "below" / ""))
    assert done.status == 1
    assert done.err == f"scoutfs: cp: {target}/one: File exists\n"


def test_a_full_target_ends_the_copy(rich: Commands, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> int:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "pwrite", full)
    done = rich.on_paths("cp", "-r", "files", str(target))
    assert done.status == 1
    assert "No space left on device; run the same command again to go on\n" in done.err
    names = os.listdir(target / "files")
    assert not [name for name in names if name.startswith(".scoutfs")]
    assert b"./files/sz7" not in tree(target)


@as_root
def test_setuid_is_not_given_to_another_owner(rich: Commands, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*arguments: object, **more: object) -> None:
        raise OSError(1, os.strerror(1))

    monkeypatch.setattr(os, "lchown", refused)
    done = rich.on_paths("cp", "-r", "perms", str(target))
    assert done.status == 1
    assert "owner: Operation not permitted" in done.err
    for path, status in tree(target).items():
        entry = manifest(NAME)[path]
        if (entry["uid"], entry["gid"]) != (status.st_uid, status.st_gid):
            assert not status.st_mode & 0o6000
    done = rich.on_paths("cp", "-r", "--no-owner", "perms", str(target))
    assert "owner" not in done.err


def test_damaged_files_do_not_stop_it(rich: Commands, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real_read = Filesystem.read
    damaged = manifest(NAME)[b"./files/sz8192"]["ino"]

    def read(files: Filesystem, ino: int, offset: int, size: int) -> bytes:
        if ino == damaged:
            raise DamagedItem("an extent is damaged")
        return real_read(files, ino, offset, size)

    monkeypatch.setattr(Filesystem, "read", read)
    done = rich.on_paths("cp", "-r", "files", str(target))
    assert done.status == 1
    assert "scoutfs: cp: files/sz8192: contents: an extent is damaged\n" in done.err
    names = {path for path in manifest(NAME) if path.startswith(b"./files/")} - {b"./files/sz8192"}
    assert tree(target).keys() == {b".", b"./files", *names}


def test_times_that_the_target_does_not_hold_are_named(
    rich: Commands, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on filesystems that end in the year 2446, or count seconds only."""
    real_utime = os.utime

    def utime(path: bytes, *, ns: tuple[int, int], follow_symlinks: bool) -> None:
        real_utime(path, ns=(ns[0], ns[1] // 10**9 * 10**9), follow_symlinks=follow_symlinks)

    monkeypatch.setattr(os, "utime", utime)
    done = rich.on_paths("cp", "files/one", str(target / "one"))
    assert done.status == 1
    assert "scoutfs: cp: files/one: times: the target does not hold such times\n" in done.err
    assert (target / "one").read_bytes() == rich.on_paths("cat", "files/one").out


def test_a_list_of_errors_that_cannot_be_written(rich: Commands, target: Path) -> None:
    done = rich.on_paths("cp", "-r", "--errors", "/dev/full", "archive", str(target))
    assert (done.status, done.err) == (1, "scoutfs: cp: /dev/full: No space left on device\n")


def test_sums_as_json(rich: Commands, target: Path) -> None:
    done = rich.on_paths("cp", "-r", "--json", "files/sz4097", "files/sz7", "archive/rel_all", str(target))
    assert (done.status, done.err) == (1, "")
    problem = {"what": "offline", "error": "contents that are not on the volume", "count": 1}
    assert json.loads(done.out) == {"files": 2, "kept": 0, "ended": None, "problems": [problem]}
    done = rich.on_paths("cp", "--json", "files/sz4097", str(target))
    assert (done.status, json.loads(done.out)["kept"]) == (0, 1)


@as_root
@pytest.mark.parametrize("mode", [0o000, 0o400, 0o444, 0o500, 0o755])
def test_attributes_of_what_its_owner_may_not_write(rich: Commands, target: Path, mode: int) -> None:
    """Users who are not root copy attributes of such files and directories, too, and do so again."""
    target.mkdir()
    target.parent.chmod(0o755)
    os.chown(target, 65534, 65534)
    reports = []
    with Filesystem.open(rich.data, rich.meta) as files:
        names = [b"dirs/empty", b"files/sz7"]
        found = [files.resolve(name) for name in names]
        changed = [inode._replace(mode=stat.S_IFMT(inode.mode) | mode) for inode in found]
        attributes = [(b"user.x", b"1"), (b"user.y", b"2")]
        files.xattrs = lambda ino: iter(attributes)  # type: ignore[method-assign]
        os.seteuid(65534)
        try:
            for _ in range(2):
                report = Report(io.StringIO())
                copier = Copier(files, Settings(with_owner=False), report, lambda count, size: None)
                for name, inode in zip(names, changed):
                    copier.copy(inode, name, bytes(target), name.rpartition(b"/")[2])
                reports.append(report)
        finally:
            os.seteuid(0)
    for name, inode in zip(names, changed):
        path = target / os.fsdecode(name.rpartition(b"/")[2])
        assert {os.fsencode(name): os.getxattr(path, name) for name in os.listxattr(path)} == dict(attributes)
        assert (path.stat().st_mode, path.stat().st_mtime_ns) == (inode.mode, inode.mtime)
    assert [(report.count, report.kept) for report in reports] == [(0, 0), (0, 1)]
