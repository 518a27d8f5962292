"""What a soak calls flat."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench.soak import ALLOWED, Sample, TooShort, grown

REST = Sample(0, 0, memory_mb=75, handles=20, threads=5, descendants=0, temporary_files=3)


def samples(*memory: float) -> list[Sample]:
    return [replace(REST, seconds=20 * number, memory_mb=mb) for number, mb in enumerate(memory)]


@pytest.mark.parametrize(
    "memory",
    [
        [75] * 9,
        [60, 65, 70, 75, 75, 75, 75, 75, 75],
        [75, 75, 75, 76, 74, 77, 75, 78, 74],
        [75, 75, 75, 75, 75, 75, 75, 75, 200],
    ],
    ids=["the same each time", "a warm-up", "noise", "one outlier"],
)
def test_what_does_not_grow_is_flat(memory) -> None:
    assert grown(samples(*memory)) == []


def test_memory_that_grows_with_each_round_is_named_with_its_figure() -> None:
    assert grown(samples(*range(75, 93, 2))) == ["memory_mb grew by 6.0, allowed are 4"]


@pytest.mark.parametrize("name", ["handles", "threads", "descendants", "temporary_files"])
def test_anything_that_is_left_behind_in_each_round_is_seen(name: str) -> None:
    leaking = [replace(REST, **{name: getattr(REST, name) + 2 * number}) for number in range(12)]
    assert [fault.split()[0] for fault in grown(leaking)] == [name]
    assert name in ALLOWED


def test_a_soak_of_few_rounds_tells_nothing() -> None:
    with pytest.raises(TooShort, match="SECONDS"):
        grown(samples(75, 75, 75, 75))
