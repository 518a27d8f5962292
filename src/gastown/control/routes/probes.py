"""`/livez`, `/readyz` and `/metrics`: what the container's platform asks."""

from __future__ import annotations

from quart import Blueprint, Response

from gastown.contract.access import Scope
from gastown.contract.probes import Liveness, MetricsText, Readiness
from gastown.control.context import town
from gastown.control.responses import reply
from gastown.control.route_table import Routes

__all__ = ["blueprint", "routes"]

blueprint = Blueprint("probes", __name__)
routes = Routes(blueprint)


@routes.get("/livez", answers={200: Liveness}, scope=Scope.OPEN)
async def livez() -> Response:
    """Whether the event loop goes round. One that is blocked answers nothing, and the probe times out."""
    return reply(Liveness())


@routes.get("/readyz", answers={200: Readiness, 503: Readiness}, scope=Scope.OPEN)
async def readyz() -> Response:
    """Whether a start would begin at once: the hydration gate is open, and no drain is on."""
    here = town()
    answer = Readiness(
        ready=here.gate.is_open and not here.drain.is_set,
        reasons=(
            *(("gate closed",) if not here.gate.is_open else ()),
            *(("draining",) if here.drain.is_set else ()),
        ),
    )
    return reply(answer, 200 if answer.ready else 503)


@routes.get("/metrics", answers={200: MetricsText})
async def metrics() -> Response:
    """What the container counts and measures, for Prometheus."""
    # Imported here: nobody scrapes before the first probe, and it costs the boot 15 ms.
    from gastown.control.metrics.exposition import exposition  # noqa: PLC0415

    return Response(exposition(town()), content_type=MetricsText.media_type)
