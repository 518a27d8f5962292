"""The town as a whole: health, credentials, configuration, dashboard context."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import trio
from quart import Blueprint, Response, request

from gastown import __version__
from gastown.agents.lifecycle.refresh import renew_all
from gastown.contract.access import Scope
from gastown.contract.town import (
    DashboardContextRequest,
    Health,
    HealthAnswer,
    HealthStatus,
    Pushed,
    RefreshAnswer,
    RefreshTokenRequest,
    RefusedServer,
    Synced,
)
from gastown.contract.wire import iso
from gastown.control.auth.policy import caller_scope
from gastown.control.context import Town, town
from gastown.control.requests import parse, pass_gate
from gastown.control.responses import reply
from gastown.control.route_table import Routes
from gastown.isolation.ownership import read_small, write_whole
from gastown.isolation.users import run_as

__all__ = ["blueprint", "routes"]

blueprint = Blueprint("town", __name__)
routes = Routes(blueprint)

_KEPT_SNAPSHOTS = 5
_LONGEST_NONCE = 200


@routes.get("/health", answers={200: HealthAnswer}, scope=Scope.OPEN)
async def health() -> Response:
    """Whether the container serves, and what boot hydration did. Answers before hydration has begun.

    Where tokens are configured, a caller without one gets the `status` alone.
    """
    here = town()
    status: Literal["ok", "degraded"] = "degraded" if here.report.state == "failed" else "ok"
    if caller_scope() < Scope.READ:
        return reply(HealthStatus(status=status))
    if caller_scope() >= Scope.CONTROL:
        _acknowledge(here)
    answer = Health(
        status=status,
        version=__version__,
        agents=here.roster.count_active(),
        servers=len(here.services.pool.servers),
        uptime=round(trio.current_time() - here.process_start, 3),
        started_at=here.started_at,
        draining=here.drain.is_set or None,
        mayor_ready_at=here.report.mayor_ready_at,
        hydration=here.report.to_wire(here.gate),
        refused=_refused(here) or None,
        rigs=tuple(report.to_wire() for report in here.services.repositories.reports) or None,
    )
    return reply(answer, without_unset=True)


def _refused(here: Town) -> tuple[RefusedServer, ...]:
    return tuple(
        RefusedServer(agent_id=one.spec.env["GASTOWN_AGENT_ID"], missing=tuple(one.reason.missing))
        for one in here.services.pool.refused.values()
    )


def _acknowledge(here: Town) -> None:
    """A nonce of our own town in the headers is answered by a report that this container is ready."""
    nonce = request.headers.get("X-Drain-Nonce", "")
    ours = here.town_id is not None and request.headers.get("X-Town-Id") == here.town_id
    if ours and 0 < len(nonce) <= _LONGEST_NONCE:
        here.services.reports.container_ready(nonce)


@routes.post("/refresh-token", body=RefreshTokenRequest, answers={200: RefreshAnswer}, gated=True)
async def refresh_token() -> Response:
    """Make a new container token live, at once and for every agent.

    A server whose frozen variables differ is restarted at the end of its turn.
    """
    body = await parse(RefreshTokenRequest)
    here = town()
    await pass_gate(here)
    here.services.credentials.replace_token(body.token)
    agents = here.roster.active()
    for agent in agents:
        agent.announce()
    results = await renew_all(agents, here.services)
    return reply(RefreshAnswer(agents_restarted=0, agents_failed=0, results=results), without_unset=True)


@routes.post("/sync-config", answers={200: Synced})
async def sync_config() -> Response:
    """Take the town configuration from the header, as any request does. It is live for every agent at once."""
    here = town()
    return reply(Synced(results=await renew_all(here.roster.active(), here.services)), without_unset=True)


@routes.post("/dashboard-context", body=DashboardContextRequest, answers={200: Pushed})
async def dashboard_context() -> Response:
    """Keep what the user's dashboard shows, the newest five, where the mayor's plugin reads them."""
    body = await parse(DashboardContextRequest)
    here = town()
    async with here.dashboard:
        await run_as(here.services.users.mayor, _keep, here, body.context)
    return reply(Pushed())


def _keep(here: Town, context: str) -> None:
    path = here.dashboard_file
    path.parent.mkdir(parents=True, exist_ok=True)
    newest = [{"context": context, "receivedAt": iso(here.now())}, *_kept(path)][:_KEPT_SNAPSHOTS]
    write_whole(path, json.dumps(newest))


def _kept(path: Path) -> list[dict[str, str]]:
    """What is kept so far; an unreadable file counts as empty, since only the newest page matters."""
    try:
        kept = json.loads(read_small(path) or "[]")
    except (ValueError, RecursionError):
        return []
    return kept if isinstance(kept, list) else []
