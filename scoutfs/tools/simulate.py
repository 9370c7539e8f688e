"""`scoutfs simulate`: runs a simulated cluster from a seed, and shows what happened or how many seeds held."""

from __future__ import annotations

import argparse
import time
from typing import Any

from scoutfs.simulation.faults import SCENARIOS
from scoutfs.simulation.invariants import Violation
from scoutfs.simulation.runs import Run, SimulationFailure, run_seed
from scoutfs.simulation.timeline import Line, format_line

MEMBERS_MAX = 15


def add_parser(subparsers: Any) -> None:
    """Add the command to the dispatcher's parsers."""
    scenarios = "\n".join(f"  {name:<10} {scenario.text}" for name, scenario in SCENARIOS.items())
    parser = subparsers.add_parser(
        "simulate",
        help="run a simulated cluster from a seed and print what happened",
        description="Runs election, fencing and servers of a whole cluster in virtual time, with faults drawn from a "
        "seed, and asserts the invariants of the protocol after every step. The same seed gives the same run.",
        epilog=f"scenarios:\n{scenarios}\n\nExit status: 0 if every invariant held, 1 if not.",
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


def run(args: argparse.Namespace) -> int:
    """Run the command; returns 1 if an invariant was violated."""
    return _replay(args) if args.seeds is None else _many(args)


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
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text} is negative")
    return number


def _members(text: str) -> int:
    number = int(text)
    if not 1 <= number <= MEMBERS_MAX:
        raise argparse.ArgumentTypeError(f"{text} is not between 1 and {MEMBERS_MAX}")
    return number


def _seconds(text: str) -> float:
    number = float(text)
    if not 0.0 < number <= 1e7:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 10000000")
    return number
