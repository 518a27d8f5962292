"""Paired benchmarks: what counts as worse, and what two series of runs do not tell apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from bench.figures import Figure
from bench.pairs import compare, rows

SECONDS = Figure("boot", "to /health", "s", 1.0, "importing", 0.4)
RATE = Figure("events", "to one client", "/s", 1000.0, "parsing", 5000.0, more_is_better=True)


def pairs(
    figure: Figure, ours: Sequence[float], theirs: Sequence[float]
) -> list[tuple[list[Figure], list[Figure]]]:
    return [
        ([replace(figure, value=mine)], [replace(figure, value=other)])
        for mine, other in zip(ours, theirs, strict=True)
    ]


@pytest.mark.parametrize(
    ("ours", "verdict"),
    [([1.2, 1.21, 1.19], "**worse**"), ([1.0, 1.01, 0.99], "same"), ([0.8, 0.81, 0.79], "better")],
)
def test_a_figure_is_worse_when_its_whole_interval_is(ours: list[float], verdict: str) -> None:
    """The 95 % interval of the quotient decides, not its middle."""
    (found,) = compare(pairs(SECONDS, ours, [1.0, 1.0, 1.0]))
    assert found.verdict == verdict


def test_scattered_runs_tell_nothing() -> None:
    """A mean that is 20 % worse is not worse when the pairs disagree."""
    (found,) = compare(pairs(SECONDS, [0.8, 1.9, 1.1], [1.0, 1.0, 1.0]))
    assert found.quotient > 1.15
    assert found.verdict == "same"


def test_a_machine_that_drifts_is_no_change() -> None:
    """Each pair is compared with itself: a machine that gets slower by half is neither side's doing."""
    (found,) = compare(pairs(SECONDS, [1.0, 1.5, 2.0], [1.0, 1.5, 2.0]))
    assert found.quotient == pytest.approx(1)
    assert found.verdict == "same"


def test_of_a_rate_less_is_worse() -> None:
    (found,) = compare(pairs(RATE, [800, 810, 790], [1000, 1000, 1000]))
    assert found.quotient == pytest.approx(1.25, abs=0.01)
    assert found.verdict == "**worse**"


def test_one_pair_is_never_a_verdict() -> None:
    (found,) = compare(pairs(SECONDS, [9.0], [1.0]))
    assert found.verdict == "same"


def test_what_only_one_side_measures_is_left_out() -> None:
    """A figure that is new, or gone, has nothing to be compared with."""
    assert compare([([SECONDS], [RATE])]) == []


def test_a_row_shows_both_medians_and_the_interval() -> None:
    *_, row = rows(compare(pairs(SECONDS, [1.2, 1.21, 1.19], [1.0, 1.0, 1.0])))
    assert row.startswith("| boot | to /health | 1.20 s | 1.00 s | 1.200 (")
