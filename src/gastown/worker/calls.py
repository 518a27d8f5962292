"""The requests to the worker API: what counts them, and under which labels."""

from __future__ import annotations

from gastown.metrics.counters import Attempts

__all__ = ["CALLBACK", "outcome_of", "route_of", "worker_calls"]

CALLBACK = "callback"
"""The route of a request to an address of a caller's choice."""


def worker_calls() -> Attempts:
    return Attempts("gastown_worker_calls_total", "gastown_worker_call_duration_seconds")


def route_of(path: str) -> str:
    """The route of a path below the town: the word after all ids. The metrics table lists them."""
    parts = path.split("/")
    if "review-queue" in parts:
        return "review-queue"
    return parts[-2] if parts[-1] == "batch" else parts[-1]


def outcome_of(status: int) -> str:
    if status < 300:
        return "ok"
    if status in (401, 403):
        return "unauthorized"
    if status == 404:
        return "not_found"
    return "failed" if status >= 500 or status in (408, 429) else "refused"
