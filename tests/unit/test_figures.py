"""Counters and histograms without a library; the lag of the event loop; what the boot does not import."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import trio
from prometheus_client import CollectorRegistry
from prometheus_client import Histogram as TheirHistogram
from trio.testing import MockClock

from gastown.agents.lifecycle.start_metrics import CountedStart, Starts
from gastown.broker.metrics import BrokerMetrics
from gastown.concurrency.lag import PERIOD_SECONDS, LoopLag
from gastown.concurrency.phases import PhaseLog
from gastown.control.metrics.readings import kilo_version
from gastown.isolation.proc import resident_bytes
from gastown.metrics.counters import Attempts, Counter, Histogram
from gastown.metrics.table import METRICS
from gastown.worker.calls import outcome_of, route_of

WAIT = "gastown_gate_wait_seconds"
SERVERS = "gastown_servers"
SPAWNS = "gastown_server_spawns_total"


def test_a_counter_has_every_combination_from_the_beginning_and_grows() -> None:
    counter = Counter(SPAWNS)
    assert set(counter.values.values()) == {0}
    counter.add("ready")
    counter.add("ready", by=2)
    assert counter.values["ready",] == 3
    assert sum(counter.values.values()) == 3


@pytest.mark.parametrize("labels", [("nonsense",), (), ("ready", "ready")])
def test_labels_that_the_table_does_not_have_are_refused(labels: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r"no series|shorter|longer"):
        Counter(SPAWNS).add(*labels)


def test_a_value_that_nobody_named_is_other_where_there_is_an_other() -> None:
    assert METRICS[SERVERS].key(("polecat",)) == ("polecat",)
    assert METRICS[SERVERS].key(("astronaut",)) == ("other",)


def test_a_counter_is_no_histogram() -> None:
    with pytest.raises(ValueError, match="is a counter, not a histogram"):
        Histogram(SPAWNS)
    with pytest.raises(KeyError):
        Counter("gastown_unknown_total")


def test_a_histogram_counts_as_prometheus_own_one_does() -> None:
    values = [0.0, 0.05, 0.050001, 1, 1.5, 6, 19.999, 20, 20.001, 60, 61, 1e9]
    ours = Histogram(WAIT)
    theirs = TheirHistogram("x", "x", registry=CollectorRegistry(), buckets=METRICS[WAIT].buckets)
    for value in values:
        ours.observe(value)
        theirs.observe(value)
    assert ours.values[()].counts == [bucket.get() for bucket in theirs._buckets]
    assert ours.values[()].total == theirs._sum.get()


def test_a_histogram_with_few_combinations_has_them_from_the_beginning() -> None:
    histogram = Histogram("gastown_agent_start_duration_seconds")
    assert {labels: sum(found.counts) for labels, found in histogram.values.items()} == dict.fromkeys(
        [("request",), ("registry",), ("comeback",)], 0
    )


def test_a_histogram_with_many_begins_a_series_when_it_is_seen() -> None:
    histogram = Histogram("gastown_agent_start_phase_duration_seconds")
    assert histogram.values == {}
    histogram.observe(1, "spawn")
    assert histogram.values.keys() == {("spawn",)}


@pytest.mark.parametrize(
    ("status", "outcome"), [(99, "1xx"), (101, "1xx"), (299, "2xx"), (599, "5xx"), (999, "5xx")]
)
async def test_a_request_is_counted_whatever_number_an_upstream_answers(status: int, outcome: str) -> None:
    figures = BrokerMetrics()
    with figures.passage("gateway") as passage:
        passage.ends_with(status)
    assert {labels for labels, times in figures.over.values.items() if times} == {("gateway", outcome)}


@pytest.mark.parametrize("end", ["well", "cut"])
async def test_an_attempt_is_counted_and_timed_however_it_ends(autojump_clock: MockClock, end: str) -> None:
    attempts = Attempts("gastown_snapshot_operations_total", "gastown_snapshot_duration_seconds")
    with trio.move_on_after(5):
        with attempts.attempt("save") as attempt:
            await trio.sleep(3 if end == "well" else 10)
            attempt.outcome = "saved"
    assert attempts.over.values["save", "saved" if end == "well" else "cut"] == 1
    assert attempts.seconds.values["save",].total == (3 if end == "well" else 5)


async def test_the_lag_is_how_late_a_wake_up_comes(mock_clock: MockClock) -> None:
    lag = LoopLag()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lag.measure)
        for late in (0.0, 1.25, 0.0):
            await trio.testing.wait_all_tasks_blocked()
            mock_clock.jump(PERIOD_SECONDS + late)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert (lag.beats, lag.lags.values[()].total) == (3, 1.25)
    assert lag.lags.values[()].counts[0] == 2


async def test_a_start_counts_once_and_only_its_own_phases(autojump_clock: MockClock) -> None:
    starts, phases = Starts(), PhaseLog()
    first = CountedStart(starts, "mayor", "registry", phases, trio.current_time())
    phases.enter("claimed")
    await trio.sleep(100)
    phases.enter("spawn")
    await trio.sleep(2)
    first.end("running")
    first.end("failed")
    second = first.again()
    phases.enter("spawn")  # the phase goes on: it is the same one
    phases.close()
    phases.enter("pause")
    await trio.sleep(1)
    second.end("failed")
    assert starts.seconds.values["registry",].total == 2
    assert starts.phase_seconds.values.keys() == {("claimed",), ("spawn",), ("pause",)}
    assert sum(starts.phase_seconds.values["spawn",].counts) == 1
    assert {key for key, value in starts.over.values.items() if value} == {
        ("mayor", "registry", "running"),
        ("mayor", "comeback", "failed"),
    }
    assert starts.failures.values["pause", "failed"] == 1


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/mayor-id", "mayor-id"),
        ("/rigs/r/agents/a/db-snapshot", "db-snapshot"),
        ("/rigs/r/agent-events", "agent-events"),
        ("/rigs/r/agent-events/batch", "agent-events"),
        ("/rigs/r/review-queue/entry/complete", "review-queue"),
        ("/rigs/heartbeat/agents/completed/waiting", "waiting"),
    ],
)
def test_a_path_of_the_worker_is_counted_under_its_route(path: str, route: str) -> None:
    assert route_of(path) == route
    assert route in METRICS["gastown_worker_calls_total"].labels["route"]


@pytest.mark.parametrize("status", [200, 204, 302, 400, 401, 403, 404, 408, 409, 413, 429, 500, 503, 599])
def test_every_status_of_the_worker_is_an_outcome_of_the_table(status: int) -> None:
    assert outcome_of(status) in METRICS["gastown_worker_calls_total"].labels["outcome"]


def test_a_process_that_is_gone_takes_no_memory() -> None:
    assert resident_bytes(2**22 + 1) == 0


@pytest.mark.parametrize("package", [None, "{", "[]", "{}"])
def test_a_kilo_without_a_package_that_can_be_read_is_of_an_unknown_version(
    tmp_path: Path, package: str | None
) -> None:
    binary = tmp_path / "bin" / "kilo"
    binary.parent.mkdir()
    if package is not None:
        (tmp_path / "package.json").write_text(package)
    assert kilo_version(str(binary)) == "unknown"


def test_the_boot_does_not_import_what_only_a_scrape_needs() -> None:
    seen = "import sys, gastown.main, gastown.control.routes.probes; print('prometheus_client' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", seen], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "False"
