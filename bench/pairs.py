"""`make bench-pairs BASE=REV`: the benchmarks of this checkout and of another revision, in turn, figure by figure.

A machine's speed drifts by more than most changes are worth. So both are measured in the same minutes, in the
order A B, B A, A B …, and what is compared is the quotient of each pair. A figure is *worse* when the 95 %
interval of that quotient lies beyond 1.05, *better* when it lies below 1/1.05; else the runs tell no difference.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.figures import COLLECTED, Figure
from bench.table import machine, shown

ROOT = Path(__file__).parent.parent
MARGIN = 1.05
"""How much worse a figure may be before it counts as worse."""
STUDENT = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23, 2.20, 2.18, 2.16, 2.14, 2.13)
"""Student's t for a two-sided 95 % interval with 1, 2, 3 … degrees of freedom."""


@dataclass(frozen=True)
class Compared:
    """One figure over all pairs. `quotients` are ours over theirs, turned so that more than 1 is worse."""

    figure: Figure
    ours: float
    theirs: float
    quotients: tuple[float, ...]

    @property
    def quotient(self) -> float:
        """The geometric mean of the quotients."""
        return math.exp(statistics.fmean(map(math.log, self.quotients)))

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of `quotient`; boundless for a single pair."""
        logs = [math.log(one) for one in self.quotients]
        if len(logs) < 2:
            return 0.0, math.inf
        t = STUDENT[min(len(logs) - 1, len(STUDENT)) - 1]
        reach = t * statistics.stdev(logs) / math.sqrt(len(logs))
        middle = statistics.fmean(logs)
        return math.exp(middle - reach), math.exp(middle + reach)

    @property
    def verdict(self) -> str:
        low, high = self.interval
        if low > MARGIN:
            return "**worse**"
        return "better" if high < 1 / MARGIN else "same"


def compare(pairs: Sequence[tuple[Sequence[Figure], Sequence[Figure]]]) -> list[Compared]:
    """The figures that both sides of every pair have, `(ours, theirs)` each."""
    found: dict[tuple[str, str], list[tuple[Figure, Figure]]] = {}
    for ours, theirs in pairs:
        known = {(one.group, one.name): one for one in theirs}
        for one in ours:
            if other := known.get((one.group, one.name)):
                found.setdefault((one.group, one.name), []).append((one, other))
    return [_compared(both) for both in found.values() if len(both) == len(pairs)]


def _compared(both: Sequence[tuple[Figure, Figure]]) -> Compared:
    first = both[0][0]
    quotients = tuple(
        theirs.value / ours.value if ours.more_is_better else ours.value / theirs.value for ours, theirs in both
    )
    ours, theirs = (statistics.median(one.value for one in side) for side in zip(*both, strict=True))
    return Compared(first, ours, theirs, quotients)


def rows(compared: Sequence[Compared]) -> Iterator[str]:
    yield "| | figure | this, median | other, median | worse by factor (95 % interval) | |"
    yield "|---|---|---|---|---|---|"
    for one in compared:
        unit, (low, high) = one.figure.unit, one.interval
        values = f"{shown(one.ours, unit)} | {shown(one.theirs, unit)}"
        quotient = f"{one.quotient:.3f} ({low:.3f} to {high:.3f})"
        yield f"| {one.figure.group} | {one.figure.name} | {values} | {quotient} | {one.verdict} |"


@contextmanager
def checkout(revision: str) -> Iterator[Path]:
    """A checkout of `revision` with an environment of its own, for the length of the block."""
    with tempfile.TemporaryDirectory(prefix="gastown-bench-") as folder:
        place = Path(folder) / "other"
        subprocess.run(["git", "worktree", "add", "--quiet", "--detach", place, revision], cwd=ROOT, check=True)
        try:
            subprocess.run(["make", "setup"], cwd=place, check=True, env=_environment())
            yield place
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", place], cwd=ROOT, check=True)


def _environment() -> Mapping[str, str]:
    """Ours, without what make tells the makes that it starts."""
    return {name: value for name, value in os.environ.items() if not name.startswith("MAKE") and name != "MFLAGS"}


def measure(place: Path, part: str, options: Sequence[str]) -> list[Figure]:
    """Run one part in a checkout, as a process of its own."""
    with tempfile.TemporaryDirectory(prefix="gastown-bench-") as folder:
        report = Path(folder) / "figures.json"
        command = [place / ".venv/bin/python", "-m", f"bench.{part}", *options, "--json", report]
        ended = subprocess.run(command, cwd=place, check=False, stdout=subprocess.DEVNULL, env=_environment())
        if ended.returncode:
            raise SystemExit(f"bench: {part} has no figures in {place}")
        found: dict[str, Any] = json.loads(report.read_text("utf-8"))
    return list(COLLECTED[part](found))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {' '.join(COLLECTED)} (all)")
    side = parser.add_mutually_exclusive_group(required=True)
    side.add_argument("--base", metavar="REV", help="the revision to compare with; is checked out and set up")
    side.add_argument("--checkout", metavar="DIR", type=Path, help="a checkout to compare with, already set up")
    parser.add_argument("--pairs", type=int, default=5, help="pairs of runs (5)")
    parser.add_argument(
        "--option", action="append", default=[], help="handed to each part, as --option=--agents=2"
    )
    options = parser.parse_args()
    if strange := set(options.parts) - set(COLLECTED):
        parser.error(f"no part of the benchmark: {' '.join(sorted(strange))}")
    if options.checkout is not None:
        return _run(options, options.checkout.absolute())
    with checkout(options.base) as place:
        return _run(options, place)


def _run(options: argparse.Namespace, other: Path) -> int:
    worse = False
    print(f"{options.pairs} pairs, {machine()}", flush=True)
    for part in options.parts or COLLECTED:
        pairs = []
        for number in range(options.pairs):
            sides = [ROOT, other] if number % 2 == 0 else [other, ROOT]
            found = {place: measure(place, part, options.option) for place in sides}
            pairs.append((found[ROOT], found[other]))
            print(f"{part}: pair {number + 1} of {options.pairs}", file=sys.stderr, flush=True)
        compared = compare(pairs)
        worse = worse or any(one.verdict == "**worse**" for one in compared)
        print("\n".join(rows(compared)), flush=True)
    return int(worse)


if __name__ == "__main__":
    raise SystemExit(main())
