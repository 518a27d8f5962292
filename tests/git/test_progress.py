"""How far a long operation is: told at once, logged now and then."""

from __future__ import annotations

import pytest
import structlog
import trio

from gastown.contract.git import Progress
from gastown.git.progress import log_progress

pytestmark = pytest.mark.virtual_time


async def test_progress_is_told_at_once_and_logged_every_five_seconds() -> None:
    told: list[int] = []
    with structlog.testing.capture_logs() as logs:
        take = log_progress("r", lambda progress: told.append(progress.percent))
        for percent in range(13):
            take(Progress(step="receiving objects", percent=percent, done=percent, total=100))
            await trio.sleep(1)
    assert told == list(range(13))
    assert [(line["event"], line["rig_id"], line["percent"]) for line in logs] == [
        ("git.progress", "r", 5),
        ("git.progress", "r", 10),
    ]
