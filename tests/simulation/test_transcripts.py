"""Every transcript has the output that it expects; the runner refuses what it cannot understand.

`pytest tests/simulation/test_transcripts.py --rewrite` puts in what comes out: read the difference before it is kept.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from scoutfs.cli import main
from scoutfs.simulation.cluster import Cluster
from scoutfs.simulation.commands import perform
from scoutfs.simulation.invariants import Violation
from scoutfs.simulation.stage import CommandError, Stage
from scoutfs.simulation.transcript import TranscriptError, difference, parse, replay

TRANSCRIPTS = sorted((Path(__file__).parent / "transcripts").glob("*.txt"))

MOUNTED = """\
cluster members=1 seed=1
mount 0
run 5ms
----
    0.000 s slot 0  mounts with rid a001
    0.003 s slot 0  writes BEGIN 0
"""


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_transcript(path: Path, request: pytest.FixtureRequest) -> None:
    text = path.read_text()
    if request.config.getoption("--rewrite"):
        path.write_text(replay(text, path.name))
    else:
        assert not (found := difference(text, path.name)), f"\n{found}"


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_every_transcript_begins_with_what_it_shows_and_expects_something(path: Path) -> None:
    first, *_ = steps = parse(path.read_text(), path.name)
    assert first.source[0].startswith("# ")
    assert all(step.expected for step in steps)


def test_a_wrong_expectation_is_shown_as_a_difference_and_only_that_is_rewritten() -> None:
    wrong = MOUNTED.replace("a001", "a002").replace("mount 0", "\n# why\nmount 0")
    found = difference(wrong, "wrong.txt").splitlines()
    assert [line for line in found if line[0] in "+-"][2:] == [
        "-    0.000 s slot 0  mounts with rid a002",
        "+    0.000 s slot 0  mounts with rid a001",
    ]
    assert replay(wrong, "wrong.txt") == wrong.replace("a002", "a001")


def test_a_missing_and_a_superfluous_line_are_differences() -> None:
    assert difference(MOUNTED, "right.txt") == ""
    lines = MOUNTED.splitlines(True)
    assert difference("".join(lines[:-1]), "short.txt")
    assert difference(MOUNTED + lines[-1], "long.txt")


def test_text_without_steps_is_kept() -> None:
    text = f"# before\n\n{MOUNTED}\n# after\n"
    assert replay(text, "text.txt") == text


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("----\n", "bad.txt:1: '----' without a command before it"),
        ("# only\nmount 0\n", "bad.txt:2: no '----' after the last command"),
        ("mount 0\n----\n", "bad.txt:1: the first command must be: cluster"),
        ("cluster members=1 seed=1\n\n# x\nexplode 0\n----\n", "bad.txt:4: there is no command 'explode', only: "),
        ("cluster members=1 seed=1\nmount 0\nmount 0\n----\n", "bad.txt:3: slot 0 is mounted already"),
        (
            "cluster members=1\n----\n",
            "bad.txt:1: cannot understand 'cluster members=1', usage: cluster members=N seed=N",
        ),
    ],
)
def test_an_error_names_file_and_line(text: str, error: str) -> None:
    with pytest.raises(TranscriptError) as raised:
        replay(text, "bad.txt")
    assert str(raised.value).startswith(error)


@pytest.mark.parametrize(
    "command",
    [
        "cluster members=3 seed=1",
        "run",
        "run 5",
        "run -1s",
        "run until doomsday within 1s",
        "run until served after 1s",
        "run until served within 100000s",
        "mount",
        "mount 3",
        "mount x",
        "crash leader",
        "crash 1",
        "crash 0 before 2 actions",
        "pause 0",
        "server 0 sleeps",
        "heartbeat_timeout 0 2",
        "cut 0 1",
        "cut 0 => 1",
        "split 0 1",
        "network",
        "network luck 0.5",
        "network loss 0.7 duplication 0.7",
        "network loss",
        "deliver VOTE 0 -> 1",
        "deliver NOTE 0 -> 1",
        "messages 0",
        "forge HEARTBEAT 1 to 0 from 1",
        "disk 0 slow",
        "disk 0 stalled",
        "disk 0 cannot dance",
        "fence-agent 0 sleeps",
        "heal 0",
        "status 7",
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line(command: str) -> None:
    stage = Stage()
    perform(stage, "cluster members=3 seed=1")
    perform(stage, "mount 0")
    with pytest.raises(CommandError) as raised:
        perform(stage, command)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("words", ["members=16", "members=0", "members=3 rules=none", "members=3 without=sleep"])
def test_a_cluster_that_cannot_be_is_refused(words: str) -> None:
    with pytest.raises(CommandError):
        perform(Stage(), f"cluster seed=1 {words}")


def _fails(cluster: Cluster, seconds: float) -> None:
    raise Violation("I10", cluster.now + seconds, 2, "too many leaders")


def test_a_violated_invariant_is_an_error_with_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Cluster, "run", _fails)
    with pytest.raises(TranscriptError) as raised:
        replay("cluster members=3 seed=1\n# why\nrun 2s\n----\n", "bad.txt")
    assert str(raised.value) == "bad.txt:3: I10 violated at 2.000000 s, slot 2: too many leaders"


def test_a_cluster_without_a_rule_shows_a_violated_invariant_and_then_nothing_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Cluster, "run", _fails)
    text = "cluster members=3 seed=1 without=abstain_in_start_term\nrun 2s\n----\n"
    assert replay(text, "fault.txt") == f"{text}I10 violated at 2.000000 s, slot 2: too many leaders\n"
    with pytest.raises(TranscriptError, match=r"fault.txt:3: an invariant is violated: nothing can follow"):
        replay(text.replace("----", "run 1s\n----"), "fault.txt")


def test_a_fault_ends_after_its_time_but_not_one_that_came_after_it_was_healed() -> None:
    stage = Stage()
    perform(stage, "cluster members=3 seed=1")
    network = stage.cluster.network
    perform(stage, "cut 0 -> 1 for 1s")
    assert not network.connected(0, 1)
    assert network.connected(1, 0)
    perform(stage, "run 500ms")
    perform(stage, "heal")
    assert network.connected(0, 1)
    perform(stage, "cut slot 0 -> 1 for 1s")
    perform(stage, "run 900ms")
    assert not network.connected(0, 1)
    perform(stage, "run 100ms")
    assert network.connected(0, 1)


def test_held_datagrams_wait_until_they_are_delivered_or_dropped() -> None:
    stage = Stage()
    for command in ("cluster members=3 seed=111", "hold all", "mount all", "run 330ms"):
        perform(stage, command)
    stage.taken()
    perform(stage, "drop REQUEST_VOTE 1 <-> 0")
    perform(stage, "messages")
    assert stage.taken() == ["REQUEST_VOTE 1 of slot 1 to slot 2", "REQUEST_VOTE 1 of slot 0 to slot 2"]
    perform(stage, "hold nothing")
    perform(stage, "deliver REQUEST_VOTE 1 -> 2")
    perform(stage, "run until elected within 100ms")
    assert [member.slot for member in stage.cluster.leaders] == [1]


def test_the_command_compares_and_rewrites_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CI", raising=False)
    path = tmp_path / "mount.txt"
    path.write_text(MOUNTED.replace("a001", "a002"))
    arguments = ["simulate", "--transcript", str(path)]
    assert main(arguments) == 1
    assert "-    0.000 s slot 0  mounts with rid a002\n+    0.000 s slot 0  mounts with rid a001\n" in (
        capsys.readouterr().out
    )
    assert main([*arguments, "--rewrite"]) == 0
    assert path.read_text() == MOUNTED
    capsys.readouterr()
    assert main(arguments) == 0
    assert capsys.readouterr().out == f"{path}: every output is as expected\n"


def test_the_command_refuses_to_rewrite_in_ci_and_without_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mount.txt"
    path.write_text(wrong := MOUNTED.replace("a001", "a002"))
    monkeypatch.setenv("CI", "true")
    assert main(["simulate", "--transcript", str(path), "--rewrite"]) == 1
    assert path.read_text() == wrong
    assert "refused in CI" in capsys.readouterr().err
    assert main(["simulate", "--rewrite"]) == 1
    assert main(["simulate", "--transcript", str(tmp_path / "none.txt")]) == 1
    assert capsys.readouterr().err.endswith("none.txt: No such file or directory\n")
