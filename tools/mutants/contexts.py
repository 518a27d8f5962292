"""A pytest plugin: it notes which test runs which line, and runs a chosen few in a chosen order."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import coverage
import pytest

__all__ = ["CHOSEN", "DURATIONS"]

CHOSEN = "GASTOWN_MUTANT_TESTS"
"""Names a file with a JSON list of test ids: only these run, in this order."""
DURATIONS = "GASTOWN_MUTANT_DURATIONS"
"""Names the file that gets the seconds of each test that passed, as a JSON object."""

_total: dict[str, float] = {}
_failed: set[str] = set()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Everything that a test runs, fixtures included, is recorded as its own."""
    measured = coverage.Coverage.current()
    if measured is not None:
        measured.switch_context(item.nodeid)
    try:
        return (yield)
    finally:
        if measured is not None:
            measured.switch_context("")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    _total[report.nodeid] = _total.get(report.nodeid, 0.0) + report.duration
    if report.failed:
        _failed.add(report.nodeid)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    named = os.environ.get(CHOSEN)
    if named is None:
        return
    order = {test: place for place, test in enumerate(json.loads(Path(named).read_text("utf-8")))}
    left = [item for item in items if item.nodeid not in order]
    items[:] = sorted((item for item in items if item.nodeid in order), key=lambda item: order[item.nodeid])
    config.hook.pytest_deselected(items=left)


def pytest_sessionfinish() -> None:
    named = os.environ.get(DURATIONS)
    if named is not None:
        passed = {test: seconds for test, seconds in _total.items() if test not in _failed}
        Path(named).write_text(json.dumps(passed), "utf-8")
