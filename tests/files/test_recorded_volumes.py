"""Every file of every volume that the kernel wrote, against what the kernel itself showed of it."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable

import pytest

from format.keys import InodeIndexType
from format.quota import QuotaOp, QuotaRuleFlag
from scoutfs.files.filesystem import Filesystem
from scoutfs.files.quota import Rule
from tests import kernel_images
from tests.files.manifests import described, expected_fields, manifest, walk

Opened = Callable[[str], Filesystem]

VOLUMES = [name for name in (*kernel_images.KEPT, *kernel_images.OTHERS) if name != "mkfs-v2"]
CRASHED = [name for name in VOLUMES if name.startswith(("crash1", "multi3-M"))]
CLEAN = [name for name in VOLUMES if name not in CRASHED]


@pytest.mark.parametrize("name", VOLUMES)
def test_every_path_with_all_that_the_kernel_says_of_it(opened: Opened, name: str) -> None:
    files = opened(name)
    expected = manifest(name)
    paths = dict(walk(files))
    if name == "rich-v1":
        # its manifest ends early
        assert len(paths) == 5645
        assert expected.keys() < paths.keys()
    else:
        assert paths.keys() == expected.keys()
    if name == "fresh-v2":
        # its mount moved atimes in memory only
        del expected[b"."]["atime_ns"]
    for path, entry in expected.items():
        assert described(files, paths[path], entry) == expected_fields(entry), path


@pytest.mark.parametrize("name", VOLUMES)
def test_directories_are_listed_as_by_the_kernel(opened: Opened, name: str) -> None:
    files = opened(name)
    lines = kernel_images.recording(name, "readdir.jsonl", "recovered-readdir.jsonl").splitlines()
    assert lines
    for directory in map(json.loads, lines):
        ino = files.resolve(base64.b64decode(directory["dir_b64"])).ino
        listed = list(files.readdir(ino))
        expected = directory["ents"]
        found = [[entry.ino, entry.next_pos, entry.d_type, base64.b64encode(entry.name).decode()] for entry in listed]
        assert found == expected, directory["dir"]
        for entry, (_, d_off, *_) in zip(listed[:50], expected[:50]):
            behind = next(files.readdir(ino, d_off), None)
            after = listed.index(entry) + 1
            assert behind == (listed[after] if after < len(listed) else None)


@pytest.mark.parametrize("name", VOLUMES)
def test_names_lead_to_inodes_and_inodes_to_names(opened: Opened, name: str) -> None:
    files = opened(name)
    by_ino: dict[int, set[bytes]] = {}
    for path, inode in walk(files):
        assert files.resolve(path, follow=False) == inode
        by_ino.setdefault(inode.ino, set()).add(path.removeprefix(b"./"))
    assert by_ino.pop(1) == {b"."}
    assert list(files.paths(1)) == []
    for ino, paths in by_ino.items():
        found = list(files.paths(ino))
        assert {path for path, _ in found} == paths
        assert len(found) == len(paths)
        for path, link in found[:3]:
            assert next(files.paths(ino, link.dir_ino, link.pos)) == (path, link)


@pytest.mark.parametrize("name", CLEAN)
def test_the_indexes_of_inodes(opened: Opened, name: str) -> None:
    text = kernel_images.recording(name, "walk-inodes.txt").decode()
    for index, kind in ((InodeIndexType.META_SEQ, "meta_seq"), (InodeIndexType.DATA_SEQ, "data_seq")):
        section = re.search(rf"== walk-inodes {kind}\n(.*?)(?:\n==|\Z)", text, re.DOTALL)
        assert section
        rows = re.findall(r"^\d+ +(\d+) +0 +(\d+) *$", section[1], re.MULTILINE)
        assert [(str(seq), str(ino)) for seq, ino in opened(name).walk_inodes(index)] == rows


@pytest.mark.parametrize("name", VOLUMES)
def test_searched_attributes_totals_and_the_index_of_attributes(opened: Opened, name: str) -> None:
    files = opened(name)
    if name in CRASHED:
        text = kernel_images.recording(name, "recovered-xattr-queries.txt").decode()
    else:
        text = (
            kernel_images.recording(name, "search-xattrs.txt").decode()
            + kernel_images.recording(name, "xattr-totals-index.txt").decode()
        )
    sections = re.findall(r"^== (\S+)(?: (\S+))?.*\n((?:(?!==).*\n)*)", text, re.MULTILINE)
    for command, argument, lines in sections:
        rows = [row for row in lines.splitlines() if "rror" not in row]
        if command == "search-xattrs":
            assert list(map(str, files.search_xattrs(argument.encode()))) == rows
        elif command == "read-xattr-totals":
            totals = [f"{'.'.join(map(str, sum.name))} = {sum.total}, {sum.count}" for sum in files.totals()]
            assert totals == rows
        elif command == "read-xattr-index" and "not supported" not in lines:
            assert [f"{major}.{minor} = {ino}" for major, minor, ino in files.xattr_index()] == rows


@pytest.mark.parametrize("name", CLEAN)
def test_free_space(opened: Opened, name: str) -> None:
    text = kernel_images.recording(name, "df-statfs.txt").decode()
    free = opened(name).statfs()
    assert int(re.findall(r"total_meta_blocks (\d+)", text)[0]) == free.total_meta_blocks
    assert int(re.findall(r"total_data_blocks (\d+)", text)[0]) == free.total_data_blocks
    # files in use; the free blocks of an unmounted volume are others than those of the mounted one
    assert (
        int(re.findall(rf"^/dev\S+ +{free.total_meta_blocks * 32} +(\d+)", text, re.MULTILINE)[0]) == free.inode_count
    )


def rule_text(rule: Rule) -> str:
    """Return a rule as quota-list prints it (spec 06 §9.2)."""
    names = " ".join(f"{value},{'LPUG'[source]},{'S' if select else '-'}" for value, source, select in rule.names)
    op = {QuotaOp.INODE: "I", QuotaOp.DATA: "D"}[rule.op]
    return f"{rule.prio:3} {names} {op} {rule.limit} {'C' if rule.rule_flags & QuotaRuleFlag.TOTL_COUNT else '-'}"


def test_quota_rules(opened: Opened) -> None:
    text = kernel_images.recording("rich-v2-merged", "df-statfs.txt").decode()
    printed = set(re.findall(r"^ *\d+ \S+,[LPUG],[S-] .*$", text, re.MULTILINE))
    assert {rule_text(rule) for rule in opened("rich-v2-merged").quota_rules()} == printed


def test_the_names_that_the_manifest_of_v1_lacks(opened: Opened) -> None:
    """Against find: every path, with type, mode, links, owners, size, blocks, number, times and target."""
    files = opened("rich-v1")
    numbers = rb"\t(.)\t(0?\d+)\t(\d+)\t(\d+)\t(\d+)\t(\d+)\t(\d+)\t(\d+)\t(\S+)\t(\S+)\t(\S+)\t"
    pattern = rb"(\.(?:/.*?)?)" + numbers + rb"(.*?)\n(?=\./|\Z)"
    rows = re.findall(pattern, kernel_images.recording("rich-v1", "find.txt"), re.DOTALL)
    assert len(rows) == 5645
    paths = dict(walk(files))
    assert {row[0] for row in rows} == paths.keys()
    for path, _, mode, nlink, uid, gid, size, blocks, ino, *times, target in rows:
        inode = paths[path]
        found = [inode.mode & 0o7777, inode.nlink, inode.uid, inode.gid, inode.size, inode.blocks, inode.ino]
        assert found == [int(mode, 8), *map(int, (nlink, uid, gid, size, blocks, ino))], path
        assert [inode.atime, inode.mtime, inode.ctime] == [_nanoseconds(time) for time in times], path
        assert target == (files.readlink(inode.ino) if inode.is_symlink else b"")


def _nanoseconds(text: bytes) -> int:
    """Convert find's seconds, of which only the whole ones may be negative, and whose fraction has a digit too many."""
    seconds, _, fraction = text.partition(b".")
    return int(seconds) * 1_000_000_000 + int(fraction[:9])


def test_the_attributes_that_the_manifest_of_v1_lacks(opened: Opened) -> None:
    """Against getfattr, which lists the root without its dot and escapes bytes in octal."""
    files = opened("rich-v1")
    blocks = kernel_images.recording("rich-v1", "getfattr.txt").decode().strip().split("\n\n")
    expected = {}
    for block in blocks:
        first, *lines = block.split("\n")
        name = first.removeprefix("# file: ").encode()
        path = re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8)]), name)
        names = dict(line.partition("=")[::2] for line in lines)
        expected[b"./" + path] = {name: bytes.fromhex(value.removeprefix("0x")) for name, value in names.items()}
    found = {}
    for path, inode in walk(files):
        names = files.listxattr(inode.ino)
        if names:
            found[path] = {name.decode(): files.getxattr(inode.ino, name) for name in names}
    assert found == expected
