"""`scoutfs simulate`: runs a simulated cluster from a seed or a transcript, and shows what happened or what held."""

from __future__ import annotations

import argparse
import errno
import os
import time
from pathlib import Path
from typing import Any

from scoutfs.errors import ScoutfsError
from scoutfs.simulation.faults import SCENARIOS
from scoutfs.simulation.invariants import Violation
from scoutfs.simulation.runs import Run, SimulationFailure, run_seed
from scoutfs.simulation.timeline import Line, format_line
from scoutfs.simulation.transcript import difference, replay

MEMBERS_MAX = 15

_SECONDS_MAX = 10_000_000
_EXAMPLES = (
    "--seed 7",
    "--seed 7 --scenario network --members 5 --seconds 60",
    "--seeds 1000 --scenario storm",
    "--transcript tests/simulation/transcripts/cold-election.txt",
)


def add_parser(subparsers: Any) -> None:
    """Add the command to the dispatcher's parsers."""
    scenarios = "\n".join(f"  {name:<10} {scenario.text}" for name, scenario in SCENARIOS.items())
    examples = "\n".join(f"  scoutfs simulate {words}" for words in _EXAMPLES)
    parser = subparsers.add_parser(
        "simulate",
        help="run a simulated cluster from a seed and print what happened",
        description="Run election, fencing and servers of a whole cluster in virtual time, with faults drawn from a\n"
        "seed, and assert the invariants of the protocol after every step.  The same seed gives the same run.",
        epilog=f"scenarios:\n{scenarios}\n\n"
        "exit status: 0 if every invariant held and a transcript has the output that\n"
        "it expects, 1 if not, 64 for a wrong command line\n\n"
        f"examples:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seed", type=_natural, default=0, metavar="N", help="the seed, or the first one (default 0)")
    parser.add_argument(
        "--seeds", type=_natural, metavar="N", help="run N seeds without a timeline and report the rate and failures"
    )
    parser.add_argument("--scenario", choices=SCENARIOS, default="faulty", help="which faults (default faulty)")
    parser.add_argument("--members", type=_members, default=3, metavar="N", help="members of the cluster (default 3)")
    parser.add_argument(
        "--seconds", type=_seconds, default=300.0, metavar="S", help="virtual seconds with faults (default 300)"
    )
    parser.add_argument("--heartbeats", action="store_true", help="show every heartbeat in the timeline, too")
    parser.add_argument(
        "--transcript",
        type=Path,
        metavar="FILE",
        help="do the commands of a text file instead, and show where their output is not what the file expects",
    )
    parser.add_argument(
        "--rewrite", action="store_true", help="with --transcript: write the real output into the file (not in CI)"
    )


def run(args: argparse.Namespace) -> int:
    """Run the command; returns 1 if an invariant was violated or a transcript has other output."""
    if args.transcript is not None:
        return _rewrite_transcript(args.transcript) if args.rewrite else _check_transcript(args.transcript)
    if args.rewrite:
        raise ScoutfsError("--rewrite needs --transcript FILE")
    return _replay(args) if args.seeds is None else _many(args)


def _check_transcript(path: Path) -> int:
    found = difference(_read_transcript(path), str(path))
    print(found or f"{path}: every output is as expected\n", end="")
    return 1 if found else 0


def _rewrite_transcript(path: Path) -> int:
    if os.environ.get("CI"):
        raise ScoutfsError("--rewrite is refused in CI: rewrite at home, and read the difference")
    text = _read_transcript(path)
    actual = replay(text, str(path))
    if actual == text:
        print(f"{path}: every output is as expected")
        return 0
    try:
        path.write_text(actual)
    except OSError as error:
        raise ScoutfsError(f"cannot write {path}: {error.strerror}", error.errno or errno.EIO) from error
    print(f"{path}: rewritten, read the difference")
    return 0


def _read_transcript(path: Path) -> str:
    try:
        return path.read_text()
    except OSError as error:
        raise ScoutfsError(f"cannot read {path}: {error.strerror}", error.errno or errno.EIO) from error
    except UnicodeDecodeError as error:
        raise ScoutfsError(f"{path} is not text") from error


def _replay(args: argparse.Namespace) -> int:
    def tell(at: float, slot: int, kind: str, text: str) -> None:
        if kind != "beat" or args.heartbeats:
            print(format_line(Line(at, slot, kind, text)))

    try:
        result = run_seed(args.seed, tell=tell, **_parameters(args))
    except Violation as violation:
        print(f"\n{violation}")
        return 1
    print(
        f"\nseed {result.seed}: every invariant held in {result.seconds:g} s with faults; elections won: "
        f"{result.elections}; a leader served {result.settled:.2f} s after the last fault was repaired"
    )
    return 0


def _many(args: argparse.Namespace) -> int:
    begun = time.process_time()
    runs: list[Run] = []
    failures: list[SimulationFailure] = []
    for seed in range(args.seed, args.seed + args.seeds):
        try:
            runs.append(run_seed(seed, **_parameters(args)))
        except SimulationFailure as failure:
            failures.append(failure)
            print(failure, end="\n\n")
    used = max(time.process_time() - begun, 1e-9)
    faulty = sum(run.seconds for run in runs)
    total = sum(run.total_seconds for run in runs)
    print(
        f"{len(runs)} of {args.seeds} seeds held every invariant: {faulty:.0f} cluster-seconds with faults, "
        f"{sum(run.elections for run in runs)} elections won, {sum(run.events for run in runs)} events"
    )
    print(
        f"{used:.1f} s of CPU: {total / used * 60:,.0f} cluster-seconds a minute, "
        f"{faulty / used * 60:,.0f} of them with faults"
    )
    for failed in failures:
        print(f"failed: {failed.violation} ({failed.origin})")
    return 1 if failures else 0


def _parameters(args: argparse.Namespace) -> dict[str, Any]:
    return {"scenario": args.scenario, "members": args.members, "seconds": args.seconds}


def _natural(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"'{text}' is no number from 0")
    return int(text)


def _members(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= MEMBERS_MAX:
        raise argparse.ArgumentTypeError(f"'{text}' is not between 1 and {MEMBERS_MAX}")
    return int(text)


def _seconds(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0.0 < number <= _SECONDS_MAX:
        raise argparse.ArgumentTypeError(f"'{text}' is not more than 0 and at most {_SECONDS_MAX}")
    return number
