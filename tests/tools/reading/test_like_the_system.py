"""The commands on a recorded volume against those of the system of the same name on a copy of it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from scoutfs.files.filesystem import Filesystem
from scoutfs.tools.reading.names import escaped, shell_quoted
from tests.files.manifests import OFFLINE, manifest
from tests.tools.reading.conftest import Commands

NAME = "rich-v2-merged"
ENVIRONMENT = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "TZ": "UTC"}

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may make devices and give files to others")


@pytest.fixture(scope="module")
def copied(unpacked: Callable[[str], tuple[Path, Path]]) -> Iterator[Path]:
    """A copy of the volume; contents that are offline are holes."""
    from scoutfs.cli import main

    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as directory:
        top = Path(directory) / "copy"
        meta, data = unpacked(NAME)
        main(["cp", "-r", "--errors", f"{directory}/errors", "-m", str(meta), str(data), "/", str(top)])
        with Filesystem.open(data, meta) as files:
            for path, entry in manifest(NAME).items():
                if entry.get("sha256") != OFFLINE:
                    continue
                there = os.fsencode(top) + b"/" + path
                above = os.stat(os.path.dirname(there))
                with open(there, "wb") as file:
                    file.truncate(entry["size"])
                inode = files.resolve(path)
                os.chmod(there, inode.mode & 0o7777)
                os.utime(there, ns=(inode.atime, inode.mtime))
                os.utime(os.path.dirname(there), ns=(above.st_atime_ns, above.st_mtime_ns))
        yield top


def system(top: Path, *words: str) -> bytes:
    """Run a command of the system at the top of the copy."""
    return subprocess.run(
        words, cwd=top, env=ENVIRONMENT, stdout=subprocess.PIPE, check=True, timeout=60, stdin=subprocess.DEVNULL
    ).stdout


EXPRESSIONS = [
    "",
    "-name *a*",
    "-name .*",
    "-iname CASE",
    "-name caf?",
    "-name [ab]*[!b]",
    "-path ./dirs/*/*1",
    "-ipath ./XATTRS/*",
    "-type f",
    "-type d,l",
    "-type p -o -type s -o -type b -o -type c",
    "-type f -size 0",
    "-size +1M",
    "-type f -size -2",
    "-size 4097c",
    "-size 8192c",
    "-type f -size -100k -size +3k",
    "-size +1G -type f",
    "-empty",
    "-type d -empty",
    "-mtime +1000",
    "-mtime -1000",
    "-mmin +5000000",
    "-newer files/one",
    "-newermt 2030-01-01",
    "-links +2",
    "-links 6",
    "-uid 0",
    "-uid +1000",
    "-gid -1000000000",
    "-user root ! -gid 0",
    "-perm 644",
    "-perm -4000",
    "-perm /7000",
    "-perm -222 -type d",
    "-maxdepth 1",
    "-name *b* -mindepth 2 -maxdepth 3",
    "-maxdepth 0",
    "-name big -prune -o -name *1*",
    "-name big -prune -o -print0",
    "-name big -prune -print0 -o -name *1* -print0",
    "! -name *a* -a -not -name *e* -maxdepth 2",
    "( -name *1 -o -name *2 ) -type l",
    "( -name a -o ! ( -type f -o -type d ) )",
    "-false -o -true -name one",
]


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_find_finds_what_find_finds(on_volume: Callable[[str], Commands], copied: Path, expression: str) -> None:
    words = expression.split()
    if not any(word.startswith("-print") for word in words):
        depth_options = [word for word in words if word.endswith("depth")]
        at = len(words) - 2 * len(depth_options)
        words, depths = words[:at], words[at:]
        words = [*depths, *(["(", *words, ")"] if words else []), "-print0"]
    expected = system(copied, "find", ".", *words)
    assert expected.count(b"\0") > 0
    done = on_volume(NAME).on_paths("find", ".", *words)
    assert (done.status, done.err) == (0, "")
    assert set(done.out.split(b"\0")) == set(expected.split(b"\0"))
    assert len(done.out) == len(expected)


@pytest.mark.parametrize(
    "options",
    [
        ["-1"],
        ["-1A"],
        ["-1a"],
        ["-1r"],
        ["-1S"],
        ["-1t"],
        ["-1tr"],
        ["-1F"],
        ["-1b"],
        ["-1N"],
        ["-1R"],
        ["-1d"],
        ["-ln", "--time-style=full-iso"],
        ["-l", "--time-style=long-iso"],
        ["-l", "--time-style=iso"],
        ["-lA", "--time-style=locale"],
        ["-lhS", "--time-style=+%s"],
        ["-lF", "--full-time"],
        ["-lR", "--full-time"],
    ],
    ids=" ".join,
)
def test_ls_prints_what_ls_prints(
    on_volume: Callable[[str], Commands], copied: Path, options: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Columns are compared without their widths: the system's ls marks access control lists in one of its own."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    time.tzset()
    directories = ["."] if "R" in options[0] else ["dirs/three", "names", "special", "files"]
    if "S" not in options[0]:
        directories += ["links", "perms", "xattrs", "links/sl1", "files/one"]
    for directory in directories:
        text = system(copied, "ls", *options, *([] if "b" in options[0] else ["-N"]), directory)
        lines = [line for line in text.splitlines() if not re.fullmatch(rb"total [0-9.KMGTE]+", line)]
        done = on_volume(NAME).on_paths("ls", *options, directory)
        assert (done.status, done.err) == (0, "")
        if "l" in options[0]:
            # sizes of directories are their own business, as are those of links, which count a zero byte
            assert [_comparable(line) for line in done.out.splitlines()] == [_comparable(line) for line in lines]
        else:
            assert done.out.splitlines() == lines


def _comparable(line: bytes) -> bytes:
    words = line.split(b" ")
    line = b" ".join(word for word in words if word)
    line = re.sub(rb"^([-a-zA-Z]{10})[+@.]", rb"\1", line)
    return re.sub(rb"^([dl]\S+ \S+ \S+ \S+) \S+", rb"\1", line)


def test_names_are_quoted_as_ls_quotes_them(tmp_path: Path) -> None:
    pieces = [
        b"a",
        b"'",
        b'"',
        b" ",
        b"\n",
        b"\t",
        b"\xff",
        "é".encode(),
        b"$",
        b"\\",
        b"#",
        b"\x01",
        "\u0085".encode(),
    ]
    names = {first + second + third for first in pieces for second in pieces for third in (b"", b"b", b"\x7f")}
    for name in names:
        os.close(os.open(os.fsencode(tmp_path) + b"/" + name, os.O_CREAT))
    for style, quote in (("escape", escaped), ("shell-escape", shell_quoted)):
        order = system(tmp_path, "ls", "-1U", "--zero").split(b"\0")[:-1]
        lines = system(tmp_path, "ls", "-1U", f"--quoting-style={style}").split(b"\n")[:-1]
        different = [(name, line) for name, line in zip(order, lines, strict=True) if quote(name) != line]
        # names with a quote and with escapes are put together in more than one way
        assert [name for name, _ in different if b"'" not in name] == []
        assert len(different) < len(names) / 10
    for name in names:
        echoed = subprocess.run(["bash", "-c", b"printf %s " + shell_quoted(name)], stdout=subprocess.PIPE, timeout=60)
        assert echoed.stdout == name


@pytest.mark.skipif(shutil.which("getfattr") is None, reason="there is no getfattr")
@pytest.mark.parametrize("options", [["-d"], ["-d", "-e", "hex"], ["-d", "-e", "base64"], ["-d", "-e", "text"], []])
def test_xattr_prints_what_getfattr_prints(
    on_volume: Callable[[str], Commands], copied: Path, options: list[str]
) -> None:
    for path in ("xattrs/small", "xattrs/many", "xattrs/emptyval", "xattrs/acl", "xattrs/large"):
        theirs = system(copied, "getfattr", *options, "-m", "-", path)
        ours = on_volume(NAME).on_paths("xattr", *options, path).out
        assert sorted(ours.splitlines()) == sorted(theirs.splitlines())
