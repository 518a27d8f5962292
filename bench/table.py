"""`make bench`: every part of the benchmark, one after the other, as one table beside the committed baseline.

Seconds of another machine say nothing. So each figure stands beside a yardstick that the same run has measured,
and what is compared with bench/baseline.json is the ratio of the two. Writes bench/latest.json, and
docs/explanation/benchmarks.md after a run of all parts; ends with 1 when a ratio is worse than the baseline's by
more than the figure's noise, or a part has failed. Needs a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.figures import COLLECTED, Figure
from bench.processes import command_of_module

FOLDER = Path(__file__).parent
BASELINE = FOLDER / "baseline.json"
LATEST = FOLDER / "latest.json"
PAGE = FOLDER.parent / "docs" / "explanation" / "benchmarks.md"

HEAD = """\
# Benchmarks

What a town takes, and beside it what the same machine takes for the plainest form of that. Made by `make bench` on
{when} ({machine}). Each figure stands beside a yardstick of the same run: the *ratio* of
the two is what can be compared between machines, and *change* compares it with the one in bench/baseline.json.
The part in the last column is run alone with `make bench-…`.

| | figure | this run | yardstick of this run | ratio | baseline | change | part |
|---|---|---|---|---|---|---|---|
"""


def run(part: str) -> list[Figure]:
    """Run one part as a process of its own; its table goes to the terminal."""
    print(f"\n== {part}: python -m bench.{part}", flush=True)
    with tempfile.TemporaryDirectory(prefix="gastown-bench-") as folder:
        report = Path(folder) / "figures.json"
        if subprocess.run(command_of_module(f"bench.{part}", "--json", str(report)), check=False).returncode:
            raise SystemExit(f"bench: {part} has no figures, see above; nothing was written")
        return list(COLLECTED[part](json.loads(report.read_text())))


def ratios(path: Path) -> dict[str, float]:
    """Name of each figure in a file of figures, and its ratio."""
    if not path.exists():
        return {}
    return {f"{one['group']}: {one['name']}": one["ratio"] for one in json.loads(path.read_text())["figures"]}


def verdict(figure: Figure, baseline: float | None) -> str:
    if baseline is None:
        return "new"
    worse = figure.worse_by(baseline)
    if worse > figure.noise:
        return f"**{worse:.0%} worse** (noise {figure.noise:.0%})"
    return f"{abs(worse):.0%} {'worse' if worse > 0 else 'better'}"


def table(found: Mapping[str, Sequence[Figure]], baseline: Mapping[str, float]) -> list[str]:
    """A row of the page for each figure."""
    rows = []
    for part, figures in found.items():
        for one in figures:
            before = baseline.get(f"{one.group}: {one.name}")
            value = shown(one.value, one.unit) + (f", {one.note}" if one.note else "")
            values = f"{value} | {one.against}: {shown(one.yardstick, one.unit)}"
            was = "" if before is None else number(before)
            compared = f"{number(one.ratio)} | {was} | {verdict(one, before)}"
            rows.append(f"| {one.group} | {one.name} | {values} | {compared} | {part} |")
    return rows


def number(value: float) -> str:
    return f"{value:.2g}" if value < 10 else f"{value:.0f}"


def shown(value: float, unit: str) -> str:
    return f"{value:.2f} {unit}" if unit in ("s", "ms") else f"{value:,.0f}{'' if unit[0] == '/' else ' '}{unit}"


def machine() -> str:
    return f"{len(os.sched_getaffinity(0))} cores, {platform.machine()}, Python {platform.python_version()}"


def accept(figures: Sequence[Mapping[str, Any]], when: str) -> None:
    """Make these the baseline; what this run has not measured stays."""
    measured = {(one["group"], one["name"]) for one in figures}
    before = json.loads(BASELINE.read_text())["figures"] if BASELINE.exists() else []
    kept = [one for one in before if (one["group"], one["name"]) not in measured]
    content = {"when": when, "machine": machine(), "figures": [*kept, *figures]}
    BASELINE.write_text(json.dumps(content, indent=2) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {' '.join(COLLECTED)} (all)")
    parser.add_argument("--accept", action="store_true", help="make this run the baseline")
    options = parser.parse_args()
    if strange := set(options.parts) - set(COLLECTED):
        parser.error(f"no part of the benchmark: {' '.join(sorted(strange))}")
    when = f"{datetime.now(UTC):%Y-%m-%d}"
    found = {part: run(part) for part in options.parts or COLLECTED}
    baseline = ratios(BASELINE)
    rows = table(found, baseline)
    figures = [asdict(one) | {"ratio": one.ratio} for part in found.values() for one in part]
    latest = json.dumps({"when": when, "machine": machine(), "figures": figures}, indent=2) + "\n"
    LATEST.write_text(latest)
    print("\n" + "\n".join(rows))
    if not options.parts:
        PAGE.write_text(HEAD.format(when=when, machine=machine()) + "\n".join(rows) + "\n")
    if options.accept:
        accept(figures, when)
        return 0
    return int(any("worse**" in row for row in rows))


if __name__ == "__main__":
    raise SystemExit(main())
