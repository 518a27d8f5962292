"""The stand-in for a worker, in a container that was given none."""

from __future__ import annotations

import inspect

from gastown.worker.client import WorkerClient
from gastown.worker.no_worker import NoWorker


def test_every_call_of_the_worker_has_a_stand_in() -> None:
    """A call that is added to the client cannot be forgotten here: it would reach for a connection."""
    calls = {name for name, call in vars(WorkerClient).items() if inspect.iscoroutinefunction(call)}
    public = {name for name in calls if not name.startswith("_")}
    assert public <= vars(NoWorker).keys()
