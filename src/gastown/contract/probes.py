"""What probes and Prometheus are answered on the control API."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import RootModel

from gastown.contract.wire import Wire

__all__ = ["Liveness", "MetricsText", "Readiness"]


class Liveness(Wire):
    """`GET /livez`: the event loop goes round, or it could not have answered."""

    status: Literal["ok"] = "ok"


class Readiness(Wire):
    """`GET /readyz`: whether a start would begin at once, and what is in its way."""

    ready: bool
    reasons: tuple[Literal["gate closed", "draining"], ...] = ()


class MetricsText(RootModel[str]):
    """Prometheus' text format; the metrics are those of the reference."""

    media_type: ClassVar[str] = "text/plain; version=0.0.4; charset=utf-8"
