"""What holds for all files of the repository."""

from __future__ import annotations

import ast
import contextlib
import importlib
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mount import options
from scoutfs import cli
from scoutfs.cli import COMMANDS

ROOT = Path(__file__).parents[1]
CODE = ("format", "scoutfs", "mount", "tests", "scripts")
MANUALS = sorted((ROOT / "docs" / "man").glob("*.[1-8]"))
LINES_MAX = 700


def _python_files(*directories: str) -> Iterator[Path]:
    for directory in directories:
        for path in sorted((ROOT / directory).rglob("*")):
            if "__pycache__" in path.parts or "data" in path.parts or not path.is_file():
                continue
            if path.suffix == ".py" or (not path.suffix and b"python" in path.read_bytes()[:40]):
                yield path


def _texts() -> Iterator[Path]:
    names = subprocess.run(
        ["git", "-c", "safe.directory=*", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.split("\0")
    for name in filter(None, names):
        path = ROOT / name
        if "data" not in Path(name).parts and path.is_file():
            yield path


def test_no_module_is_longer_than_a_reader_s_patience() -> None:
    lengths = {path: len(path.read_text().splitlines()) for path in _python_files(*CODE)}
    assert lengths
    assert not {str(path): lines for path, lines in lengths.items() if lines > LINES_MAX}


def test_imports_go_one_way() -> None:
    forbidden = {"format": {"scoutfs", "mount", "tests"}, "scoutfs": {"mount", "tests"}, "mount": {"tests"}}
    for package, others in forbidden.items():
        for path in _python_files(package):
            assert not _imports(path) & others, path


def test_the_format_is_pure() -> None:
    for path in _python_files("format"):
        assert not _imports(path) & {"logging", "os", "random", "socket", "subprocess", "threading", "time", "trio"}, (
            path
        )


def _imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found


def test_no_file_names_the_machine_it_was_written_on() -> None:
    # written in pieces, since this file is looked at as well
    private = re.compile("|".join(rf"(?<![\w.])/{name}/" for name in ("work", "root", "home")))
    for path in _texts():
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        assert not private.search(text), f"{path}: {private.search(text)}"


def test_links_between_documents_lead_somewhere() -> None:
    documents = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "docs" / "decisions").glob("*.md")]
    assert len(documents) > 5
    for document in documents:
        text = re.sub(r"```.*?```", "", document.read_text(), flags=re.DOTALL)
        anchors = {_anchor(title) for title in re.findall(r"^#+ (.*)$", text, re.MULTILINE)}
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            if "://" in target:
                continue
            path, _, anchor = target.partition("#")
            assert (document.parent / path).exists(), f"{document}: {target}"
            assert path or anchor in anchors, f"{document}: {target}"


def _anchor(title: str) -> str:
    return re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", MANUALS, ids=lambda path: path.name)
def test_manual_pages_are_set_without_warnings(page: Path) -> None:
    if shutil.which("man") is None or shutil.which("groff") is None:
        pytest.skip("no man and groff here")
    run = subprocess.run(["man", "--warnings", "-l", str(page)], capture_output=True, text=True, check=True, timeout=30)
    assert run.stderr == ""
    assert len(run.stdout.splitlines()) > 30


def test_every_mount_option_has_its_place_in_the_manual() -> None:
    page = (ROOT / "docs" / "man" / "mount.scoutfs.8").read_text()
    section = page.partition(".Sh MOUNT OPTIONS")[2].partition(".Sh ")[0]
    described = {word for line in section.splitlines() if line.startswith(".It") for word in line.split()}
    assert {"quorum_slot_nr", "metadev_path", "wait", "fence"} <= described
    for option in options.NUMBERS.values():
        assert option.name in described
    for name, option in options.NUMBERS.items():
        entry = re.search(rf"^\.It Cm {name} .*?(?=^\.It)", section + ".It", re.MULTILINE | re.DOTALL)
        assert entry is not None
        if option.default >= 0:
            assert re.search(rf"Default {option.default}\.|default {option.default}\.", entry[0]), name


def test_messages_that_the_guide_explains_are_printed_by_somebody() -> None:
    section = (ROOT / "docs/user-guide.md").read_text().partition("## Troubleshooting by message\n")[2]
    rows = [line.split(" | ")[0] for line in section.splitlines() if re.match(r"\| .*`.* \| ", line)]
    assert len(rows) > 40
    # Texts that are put together over several lines are one text; what is between braces differs.
    code = "".join(path.read_text() for path in _python_files("scoutfs", "mount", "format"))
    code = re.sub(r'"\s*f?"', "", re.sub(r"\{[^{}\"\n]*\}", "", code))
    explained = re.findall(r"`([^`]+)`", "\n".join(rows))
    parts = [part.strip(" :") for message in explained for part in re.split(r"\b[A-Z]{4,}\b|\bN\b", message)]
    assert [part for part in parts if part not in code] == NOT_OURS


NOT_OURS = ["failed to open /dev/fuse", "Input/output error", "crc is"]
"""Words of the system and of fusermount3, and of what is put together from the name of a field."""

PROGRAMS = {
    "mkfs.scoutfs.8": ("scoutfs.tools.mkfs",),
    "fsck.scoutfs.8": ("scoutfs.tools.fsck",),
    "scoutfs-fenced.8": ("scoutfs.tools.fenced",),
    "mount.scoutfs.8": ("mount.helper", "mount.unmount"),
}
NO_ENTRY = {"mkfs", "fsck"}
"""Commands with pages of their own."""


@pytest.mark.parametrize(("page", "module"), [(page, module) for page, found in PROGRAMS.items() for module in found])
def test_every_option_of_a_program_has_its_place_in_the_manual(
    page: str, module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [page.rpartition(".")[0], "--help"])
    with contextlib.suppress(SystemExit):
        importlib.import_module(module).main()
    _assert_described(capsys.readouterr().out, (ROOT / "docs/man" / page).read_text())


@pytest.mark.parametrize("command", [*sorted(COMMANDS.keys() - NO_ENTRY), "quorum watch"])
def test_every_option_of_a_command_has_its_place_in_the_manual(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (ROOT / "docs/man/scoutfs.8").read_text()
    entries = re.findall(rf"^\.It Cm {command}(?! watch)[ \n].*?(?=^\.It|^\.El)", page, re.MULTILINE | re.DOTALL)
    assert entries
    common = page.partition(".Sh READING VOLUMES")[2].partition(".Sh ")[0]
    with contextlib.suppress(SystemExit):
        cli.main([*command.split(), "--help"])
    _assert_described(capsys.readouterr().out, common + "".join(entries))


def _assert_described(help: str, manual: str) -> None:
    """Assert that each option that the help lists is in the manual by one of its names."""
    described: set[str] = set()
    for found in re.findall(r"\bFl ((?:[^ \n]+(?: [,|] )?)+)", manual):
        for flag in re.split(r" [,|] ", found):
            described |= {flag, *flag} if not flag.startswith("-") else {flag[1:]}
    lines = re.findall(r"^ {2,6}(-.*?)(?:  |$)", help, re.MULTILINE)
    assert lines
    for line in lines:
        names = re.findall(r"(?:^|, )-+([\w-]+)", line)
        assert names == ["h", "help"] or names == ["help"] or described & set(names), line
