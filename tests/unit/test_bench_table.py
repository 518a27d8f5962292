"""The table of benchmarks: what is compared, and what is called worse."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from bench.figures import COLLECTED, Figure
from bench.table import BASELINE, PAGE, accept, main, ratios, table, verdict
from tools.site.markdown import title_and_lead
from tools.site.pages import DOCS

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


def test_what_is_to_be_known_about_a_value_stands_beside_it() -> None:
    (row,) = table({"events": [replace(RATE, note="3 of 9 told as lost")]}, {})
    assert "| 20,000/s, 3 of 9 told as lost | importing: 100,000/s |" in row


def test_what_was_lost_stands_beside_the_rates_of_events() -> None:
    rows = [
        {"clients": 0, "worker_per_second": 9_000.0, "merged": 5, "dropped": 1000},
        {"clients": 50, "each_per_second": 9_000.0, "told_lost": 1234.0},
    ]
    figures = list(COLLECTED["events"]({"events": 200_000, "direct_per_second": 90_000.0, "rows": rows}))
    assert [figure.ratio for figure in figures] == [0.1, 0.1]
    assert [figure.note for figure in figures] == ["5 merged, 1,000 dropped", "1,234 of 200,000 told as lost"]


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


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """A run of the table over parts that each have one figure; what it writes is in `tmp_path`."""
    for name in ("BASELINE", "LATEST", "PAGE"):
        monkeypatch.setattr(f"bench.table.{name}", tmp_path / name)

    def run(*arguments: str, value: float = 0.8) -> int:
        monkeypatch.setattr("bench.table.run", lambda part: [replace(FIGURE, group=part, value=value)])
        monkeypatch.setattr("sys.argv", ["table", *arguments])
        return main()

    return run


def test_a_run_of_some_parts_is_compared_and_leaves_the_page_alone(
    run: Callable[..., int], tmp_path: Path
) -> None:
    assert run("--accept", "broker") == 0
    assert run("broker", "events", value=1.2) == 1
    assert run("events", value=1.2) == 0
    assert ratios(tmp_path / "BASELINE") == {"broker: to /health": 2.0}
    assert ratios(tmp_path / "LATEST") == {"events: to /health": pytest.approx(3.0)}
    assert not (tmp_path / "PAGE").exists()


def test_a_run_of_all_parts_writes_a_page_of_the_site(run: Callable[..., int], tmp_path: Path) -> None:
    """A row a figure, in a folder whose pages are all in the menu."""
    assert run("--accept") == 0
    page = (tmp_path / "PAGE").read_text()
    title, lead = title_and_lead(page)
    assert (title, lead[:18]) == ("Benchmarks", "What a town takes,")
    assert [line.split(" | ")[0] for line in page.splitlines()[-len(COLLECTED) :]] == [f"| {p}" for p in COLLECTED]
    assert PAGE.parent == DOCS / "explanation"


def test_a_part_that_fails_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["table", "broker"])
    monkeypatch.setattr("bench.table.command_of_module", lambda *_: ["false"])
    with pytest.raises(SystemExit, match="broker has no figures"):
        main()
