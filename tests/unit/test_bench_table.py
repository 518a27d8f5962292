"""The table of benchmarks: what is compared, and what is called worse."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from bench.figures import COLLECTED, Figure
from bench.table import BASELINE, accept, ratios, table, verdict

FIGURE = Figure("boot", "to /health", "s", 0.8, "importing", 0.4, noise=0.3)
RATE = replace(FIGURE, name="to one client", unit="/s", value=20_000, yardstick=100_000, more_is_better=True)


def test_a_slower_machine_is_no_change() -> None:
    assert replace(FIGURE, value=8.0, yardstick=4.0).worse_by(FIGURE.ratio) == pytest.approx(0)


@pytest.mark.parametrize(("value", "said"), [(0.8, "0% better"), (1.0, "25% worse"), (0.4, "50% better")])
def test_what_lies_within_the_noise_is_said_and_not_flagged(value: float, said: str) -> None:
    assert verdict(replace(FIGURE, value=value), 2.0) == said


def test_what_is_worse_by_more_than_its_noise_is_flagged() -> None:
    assert verdict(replace(FIGURE, value=1.2), 2.0) == "**50% worse** (noise 30%)"


def test_of_a_rate_less_is_worse() -> None:
    assert verdict(replace(RATE, value=10_000), 0.2) == "**100% worse** (noise 30%)"
    assert verdict(replace(RATE, value=40_000), 0.2) == "50% better"


def test_a_figure_that_the_baseline_does_not_have_is_new() -> None:
    (row,) = table({"boot": [FIGURE]}, {})
    assert row.split(" | ")[-2:] == ["new", "boot |"]


def test_a_row_names_its_yardstick_and_both_ratios() -> None:
    (row,) = table({"boot": [FIGURE]}, {"boot: to /health": 1.9})
    assert row == "| boot | to /health | 0.80 s | importing: 0.40 s | 2 | 1.9 | 5% worse | boot |"


def test_the_ratios_of_a_run_are_read_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text(json.dumps({"figures": [{"group": "boot", "name": "to /health", "ratio": 2.0}]}))
    assert ratios(path) == {"boot: to /health": 2.0}
    assert ratios(tmp_path / "none.json") == {}


def test_every_part_is_a_program_whose_figures_are_collected() -> None:
    assert [part for part in COLLECTED if not (BASELINE.parent / f"{part}.py").is_file()] == []


def test_a_baseline_that_is_committed_has_figures_of_every_part() -> None:
    """None is better than one of a busy machine: every figure is then said to be new."""
    groups = {name.partition(":")[0] for name in ratios(BASELINE)}
    assert not groups or groups >= {
        "boot",
        "gate",
        "starts",
        "refresh",
        "events",
        "broker",
        "git",
        "memory",
        "drain",
    }


def test_what_a_run_has_not_measured_stays_in_the_baseline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.table.BASELINE", path := tmp_path / "baseline.json")
    for figures in ([("boot", "a", 1.0), ("git", "b", 2.0)], [("git", "b", 3.0)]):
        accept([{"group": group, "name": name, "ratio": ratio} for group, name, ratio in figures], "today")
    assert ratios(path) == {"boot: a": 1.0, "git: b": 3.0}
