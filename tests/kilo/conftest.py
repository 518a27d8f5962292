"""Fixtures of the tests with the real kilo."""

from __future__ import annotations

from collections.abc import Iterator
from io import StringIO

import pytest
import structlog

from gastown import logs


@pytest.fixture
def log() -> Iterator[StringIO]:
    """What is logged in this process, a JSON object a line."""
    log = StringIO()
    logs.configure(tuple, log)
    yield log
    structlog.reset_defaults()
