"""The table of metrics keeps to the conventions of Prometheus, and to a known number of series."""

from __future__ import annotations

import re
from typing import get_args

import pytest

from gastown.concurrency.slots import Priority
from gastown.contract.agents import Condition
from gastown.contract.town import HydrationState
from gastown.metrics.table import METRICS, Metric, MetricType

TYPE_WORDS = {"counter", "gauge", "histogram", "summary", "metric"}
OTHER_UNITS = re.compile(r"_(ms|milliseconds|minutes|hours|kb|kib|mb|mib|percent|kilobytes|megabytes)(_|$)")
MOST_SERIES = 1200


def every(*types: MetricType) -> list[pytest.ParameterSet]:
    return [pytest.param(metric, id=metric.name) for metric in METRICS.values() if metric.type in types]


@pytest.mark.parametrize("metric", every(*MetricType))
def test_a_name_is_in_snake_case_with_our_prefix_and_without_a_type_or_a_small_unit(metric: Metric) -> None:
    assert re.fullmatch(r"(gastown|process)(_[a-z0-9]+)+", metric.name)
    assert not TYPE_WORDS & set(metric.name.split("_"))
    assert not OTHER_UNITS.search(metric.name)


@pytest.mark.parametrize("metric", every(*MetricType))
def test_only_counters_end_in_total(metric: Metric) -> None:
    assert metric.name.endswith("_total") == (metric.type is MetricType.COUNTER)
    assert not metric.name.endswith(("_count", "_sum", "_bucket", "_created"))


@pytest.mark.parametrize("metric", every(*MetricType))
def test_the_unit_of_a_metric_is_in_its_name_and_in_its_help(metric: Metric) -> None:
    named = re.search(r"_(seconds|bytes)(_total)?$", metric.name)
    assert (named[1] if named else "") == metric.unit
    if metric.unit:
        assert re.search(metric.unit, metric.help, re.IGNORECASE)


@pytest.mark.parametrize("metric", every(*MetricType))
def test_a_help_text_is_a_sentence(metric: Metric) -> None:
    assert re.fullmatch(r"[A-Z0-9].{15,}\.", metric.help)


@pytest.mark.parametrize("metric", every(*MetricType))
def test_labels_are_in_snake_case_and_stand_for_no_agent(metric: Metric) -> None:
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", label) for label in metric.labels)
    assert not {"agent", "agent_id", "session", "town", "rig", "le", "quantile"} & metric.labels.keys()
    assert all(len(set(values)) == len(values) for values in metric.labels.values())


@pytest.mark.parametrize("metric", every(MetricType.HISTOGRAM))
def test_the_buckets_of_a_histogram_grow(metric: Metric) -> None:
    assert list(metric.buckets) == sorted(set(metric.buckets))
    assert 5 <= len(metric.buckets) <= 15


@pytest.mark.parametrize("deadline", [1.0, 6.0, 10.0, 20.0, 30.0, 60.0])
def test_every_deadline_of_the_house_is_a_bound_of_a_starts_buckets(deadline: float) -> None:
    assert deadline in METRICS["gastown_agent_start_duration_seconds"].buckets


def test_no_two_metrics_are_one_family() -> None:
    """`x` beside `x_total`, or beside the `x_count` of a histogram, is refused by Prometheus' parser."""
    families = [metric.name.removesuffix("_total") for metric in METRICS.values()]
    samples = [name for metric in METRICS.values() for name in metric.samples]
    assert (len(set(families)), len(set(samples))) == (len(families), len(samples))


def test_the_number_of_series_is_bounded_whatever_the_town_does() -> None:
    assert sum(metric.most_series for metric in METRICS.values()) <= MOST_SERIES


def test_the_values_of_a_label_are_those_of_the_enumeration_that_it_shows() -> None:
    labels = {name: metric.labels for name, metric in METRICS.items()}
    assert set(labels["gastown_hydration_state"]["state"]) == set(get_args(HydrationState))
    assert labels["gastown_spawn_slots_waiting"]["urgency"] == tuple(u.name.lower() for u in Priority)


def test_the_conditions_are_those_that_the_contract_explains() -> None:
    explained = set(re.findall(r"`(\w+)`", Condition.__doc__ or "")) - {"progress", "attempt", "next"}
    assert set(METRICS["gastown_agent_conditions"].labels["condition"]) == explained | {"other"}
