"""What the commands say of every volume that the kernel wrote, against what the kernel itself showed of it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import stat
from collections.abc import Callable
from typing import Any

import pytest

from tests import kernel_images
from tests.files.manifests import OFFLINE, manifest
from tests.tools.reading.conftest import Commands

On = Callable[[str], Commands]

VOLUMES = [name for name in (*kernel_images.KEPT, *kernel_images.OTHERS) if name not in ("mkfs-v2", "rich-v1")]
CLEAN = [name for name in (*VOLUMES, "rich-v1") if not name.startswith(("crash1", "multi3-M"))]
_READ_AT_ONCE = 64 << 20


def path_of(entry: dict[str, Any]) -> bytes:
    """Return the path in a line of JSON."""
    return base64.b64decode(entry["path_b64"]) if "path_b64" in entry else entry["path"].encode()


def nanoseconds(text: str) -> int:
    """Convert seconds, a dot and nanoseconds."""
    seconds, _, fraction = text.partition(".")
    return int(seconds) * 1_000_000_000 + int(fraction or 0)


def by_path(out: bytes) -> dict[bytes, dict[str, Any]]:
    """Return the objects of JSON lines by path."""
    return {path_of(entry): entry for entry in map(json.loads, out.splitlines())}


@pytest.mark.parametrize("name", VOLUMES)
def test_find_shows_every_path_with_its_attributes(on_volume: On, name: str) -> None:
    done = on_volume(name).on_paths("find", "--json", ".")
    assert (done.status, done.err) == (0, "")
    found = by_path(done.out)
    expected = manifest(name)
    assert found.keys() == expected.keys()
    paths = [path_of(entry) for entry in map(json.loads, done.out.splitlines())]
    seen = set()
    for path in paths:
        assert path == b"." or path.rpartition(b"/")[0] in seen, "a directory comes before what is in it"
        seen.add(path)
    for path, entry in expected.items():
        shown = found[path]
        numbers = {field: entry[field] for field in ("ino", "size", "blocks", "nlink", "uid", "gid")}
        assert {field: shown[field] for field in numbers} == numbers, path
        assert int(shown["mode"], 8) == stat.S_IMODE(int(entry["mode"], 8))
        times = ("mtime", "ctime") if name == "fresh-v2" else ("atime", "mtime", "ctime")
        for time in times:
            if f"{time}_ns" in entry:
                assert nanoseconds(shown[time]) == entry[f"{time}_ns"], path
        if "rdev" in entry:
            assert shown["rdev"] == "{}:{}".format(*entry["rdev"])
        for field, value in entry.get("attr_x", {}).items():
            if field == "error":
                continue
            same = nanoseconds if field.endswith("time") else int
            assert same(str(shown[field])) == same(value), (path, field)


@pytest.mark.parametrize("name", VOLUMES)
def test_cat_writes_the_contents(on_volume: On, name: str) -> None:
    expected = manifest(name)
    wanted = [
        (path, entry)
        for path, entry in expected.items()
        if entry.get("sha256", OFFLINE) != OFFLINE and entry["size"] < _READ_AT_ONCE
    ]
    for at in range(0, len(wanted), 1000):
        group = wanted[at : at + 1000]
        done = on_volume(name).on_paths("cat", *(path for path, _ in group))
        assert (done.status, done.err) == (0, "")
        start = 0
        for path, entry in group:
            assert hashlib.sha256(done.out[start : start + entry["size"]]).hexdigest() == entry["sha256"], path
            start += entry["size"]
        assert start == len(done.out)


@pytest.mark.parametrize("name", VOLUMES)
def test_xattr_shows_all_attributes(on_volume: On, name: str) -> None:
    expected = {}
    for path, entry in manifest(name).items():
        complete = "hidden_xattrs" in entry or "attr_x" in entry
        if complete and (found := entry.get("xattrs", {}) | entry.get("hidden_xattrs", {})):
            expected[path] = {name.encode("utf-8", "surrogateescape"): value for name, value in found.items()}
    done = on_volume(name).on_paths("xattr", "-R", "-d", "--json", "--hidden", ".")
    assert (done.status, done.err) == (0, "")
    found_xattrs: dict[bytes, dict[bytes, str]] = {}
    for line in map(json.loads, done.out.splitlines()):
        value = base64.b64decode(line["value_b64"]).hex()
        found_xattrs.setdefault(path_of(line), {})[line["name"].encode()] = value
    sampled = {path for path, entry in manifest(name).items() if "attr_x" not in entry}
    assert {path: names for path, names in found_xattrs.items() if path not in sampled} == expected


@pytest.mark.parametrize("name", VOLUMES)
def test_ls_shows_targets_and_all_names(on_volume: On, name: str) -> None:
    expected = manifest(name)
    done = on_volume(name).on_paths("ls", "-RA", "--json", ".")
    assert (done.status, done.err) == (0, "")
    found = by_path(done.out)
    assert found.keys() == expected.keys() - {b"."}
    for path, shown in found.items():
        if "target_b64" in expected[path]:
            target = shown.get("target_b64") or base64.b64encode(shown["target"].encode()).decode()
            assert target == expected[path]["target_b64"], path


@pytest.mark.parametrize("name", [name for name in VOLUMES if name.startswith("rich")])
def test_ls_without_sorting_lists_as_the_kernel(on_volume: On, name: str) -> None:
    for line in kernel_images.recording(name, "readdir.jsonl").splitlines():
        directory = json.loads(line)
        names = [base64.b64decode(entry[3]) for entry in directory["ents"]]
        path = base64.b64decode(directory["dir_b64"])
        done = on_volume(name).on_paths("ls", "-aU", "--zero", path)
        assert done.out.split(b"\0")[:-1] == names
        done = on_volume(name).on_paths("ls", "-A", "--zero", path)
        assert done.out.split(b"\0")[:-1] == sorted(names[2:])


@pytest.mark.parametrize("name", VOLUMES)
def test_fiemaps(on_volume: On, name: str) -> None:
    letters = {"O": 0x2, "U": 0x800, "L": 0x1}
    commands = on_volume(name)
    entries = [(path, entry) for path, entry in manifest(name).items() if "fiemap" in entry and b"/big/" not in path]
    with_many_kinds = [(path, entry) for path, entry in entries if path.startswith((b"./files/", b"./archive/"))]
    for path, entry in with_many_kinds if name == "rich-v2-merged" else entries[::7][:20]:
        *lines, last = commands.on_paths("get-fiemap", "-b", path).out.decode().splitlines()
        assert last == f"extents: {len(entry['fiemap'])}"
        for number, (line, (logical, physical, length, flags)) in enumerate(zip(lines, entry["fiemap"], strict=True)):
            shown = "".join(letter if flags & bit else "." for letter, bit in letters.items())
            assert line == f"{number}: offset: {logical} {physical} length: {length} flags: {shown}"


@pytest.mark.parametrize("name", CLEAN)
@pytest.mark.parametrize("index", ["meta_seq", "data_seq"])
def test_walk_inodes_prints_what_was_recorded(on_volume: On, name: str, index: str) -> None:
    text = kernel_images.recording(name, "walk-inodes.txt").decode()
    section = re.search(rf"== walk-inodes {index}\n(.*?)(?===|\Z)", text, re.DOTALL)
    assert section
    for options in ([], ["--stable"]):
        done = on_volume(name).query("walk-inodes", *options, index, "0", "-1")
        assert (done.status, done.out.decode(), done.err) == (0, section[1], "")
    entries = re.findall(r"^\d+ +(\d+) +0 +(\d+)", section[1], re.MULTILINE)
    done = on_volume(name).query("walk-inodes", "--json", index, "0.0.0", "--", "-1.-1.-1")
    assert [(str(line["major"]), str(line["ino"])) for line in map(json.loads, done.out.splitlines())] == entries


@pytest.mark.parametrize("name", [*VOLUMES, "rich-v1"])
def test_attribute_queries_print_what_was_recorded(on_volume: On, name: str) -> None:
    files = ("recovered-xattr-queries.txt",)
    if name in CLEAN:
        files = ("search-xattrs.txt", "xattr-totals-index.txt")
    text = "".join(kernel_images.recording(name, file).decode() for file in files)
    sections = re.findall(r"^== (\S+)(.*)\n((?:(?!==).*\n)*)", text, re.MULTILINE)
    assert {command for command, _, _ in sections} >= {"search-xattrs", "read-xattr-totals"}
    for command, arguments, lines in sections:
        if "rror" in lines or "not supported" in lines:
            continue
        done = on_volume(name).query(command, *arguments.split())
        assert (done.status, done.out.decode(), done.err) == (0, lines, ""), command


@pytest.mark.parametrize("name", CLEAN)
def test_df_shows_the_recorded_totals(on_volume: On, name: str) -> None:
    """The blocks that a mount has taken for itself count as free, so that only few differ after its unmount.

    A server with several clients reserves 18311 blocks of metadata for each of them.
    """
    other_clients = 1 if name == "multi3-final" else 0
    recorded = re.search(
        r"^ +Type +Size .*\n(.*)\n(.*)\n", kernel_images.recording(name, "df-statfs.txt").decode(), re.M
    )
    assert recorded
    done = on_volume(name).query("df")
    header, *rows = done.out.decode().splitlines()
    assert header.split() == ["Type", "Size", "Total", "Used", "Free", "Use%"]
    for row, line in zip(rows, recorded.groups(), strict=True):
        (kind, size, total, used, free, percent), expected = row.split(), line.split()
        assert [kind, size, total] == expected[:3]
        reserved = other_clients * 18311 if kind == "MetaData" else 0
        assert abs(int(used) + reserved - int(expected[3])) <= 64
        assert int(used) + int(free) == int(total)
        assert int(percent) == int(used) * 100 // int(total)


@pytest.mark.parametrize("name", [name for name in VOLUMES if name.startswith(("rich", "multi3-final"))])
def test_stat_prints_the_lines_of_the_original(on_volume: On, name: str) -> None:
    text = kernel_images.recording(name, "scoutfs-stat.txt").decode("utf-8", "surrogateescape")
    blocks = re.findall(r"^== (.*)\n((?:\w+ +[\d.]+\n){6})", text, re.MULTILINE)
    assert len(blocks) > 50
    paths = [path.encode("utf-8", "surrogateescape") for path, _ in blocks]
    done = on_volume(name).on_paths("stat", *paths)
    assert (done.status, done.err) == (0, "")
    for path, (_, lines) in zip(paths, blocks):
        shown = done.out[done.out.index(b"== " + path + b"\n") :]
        assert lines.encode() in shown.partition(b"\n== ")[0] + b"\n", path


@pytest.mark.parametrize("name", [name for name in VOLUMES if name.startswith("rich")])
def test_ino_path_prints_all_paths(on_volume: On, name: str) -> None:
    paths: dict[int, set[bytes]] = {}
    for path, entry in manifest(name).items():
        paths.setdefault(entry["ino"], set()).add(path.removeprefix(b"./"))
    assert paths.pop(1) == {b"."}
    chosen = sorted(paths, key=lambda ino: -len(paths[ino]))[:20]
    for ino in (*chosen, *list(paths)[::200]):
        done = on_volume(name).query("ino-path", "-z", str(ino))
        assert (done.status, set(done.out.split(b"\0")) - {b""}) == (0, paths[ino])
        assert done.out.count(b"\0") == len(paths[ino])
    assert on_volume(name).query("ino-path", "1") == (0, b"", "")


def test_xattr_in_hexadecimal_prints_the_blocks_of_getfattr(on_volume: On) -> None:
    recorded = kernel_images.recording("rich-v1", "getfattr.txt").strip().split(b"\n\n")
    done = on_volume("rich-v1").on_paths("xattr", "-R", "-d", "-e", "hex", ".")

    def blocks(pieces: list[bytes]) -> dict[bytes, list[bytes]]:
        found = {}
        for piece in pieces:
            first, *lines = piece.split(b"\n")
            found[first.replace(b"# file: ./", b"# file: ")] = sorted(lines)
        return found

    assert blocks(done.out.strip().split(b"\n\n")) == blocks(recorded)
