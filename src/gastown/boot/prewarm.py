"""Starting the mayor's server before the user asks for the mayor."""

from __future__ import annotations

import structlog
import trio

from gastown.agents.launch.desired import Desired
from gastown.agents.launch.environment import model_name
from gastown.agents.launch.plan import StartPlan, workspace
from gastown.agents.roster import Roster, workdir_of
from gastown.boot.report import BootReport
from gastown.concurrency.phases import PhaseLog
from gastown.concurrency.slots import Priority
from gastown.contract.agents import Role, StartAgentRequest
from gastown.contract.worker import MayorContext, PrewarmComplete
from gastown.isolation.agent_users import prepare_home
from gastown.kilo.pool import Server
from gastown.worker.client import WorkerClient

__all__ = ["ConversationUnknown", "expected_request", "prewarm_mayor"]

log = structlog.get_logger()


class ConversationUnknown(Exception):
    """The mayor's stored conversation could not be asked for."""

    def __init__(self) -> None:
        super().__init__("the stored conversation could not be asked for")


def expected_request(context: MayorContext, town_id: str) -> StartAgentRequest:
    """The start that will come for this mayor, as far as its server depends on it."""
    request = StartAgentRequest(
        agent_id=context.agent_id or "",
        rig_id=context.rig_id or f"mayor-{town_id}",
        town_id=town_id,
        role=Role.MAYOR,
        name=context.name or "mayor",
        identity="",
        prompt="",
        model=context.model or "",
        small_model=context.small_model,
        git_url="",
        branch="",
        default_branch="",
    )
    if context.knows_organization:
        return request.model_copy(update={"organization_id": context.organization_id})
    return request


async def prewarm_mayor(worker: WorkerClient, roster: Roster, report: BootReport) -> None:
    """Leave a ready server in the pool that the mayor's start will find. Sets `report.prewarm`.

    Skipped when the worker names no mayor, model or token, and when the mayor's start came first. Raises what the
    worker and the pool raise.
    """
    services = roster.services
    report.prewarm = "asking"
    given = services.credentials.next_generation()
    with report.bar("mayor context"), trio.fail_after(10):
        context = await worker.mayor_context()
    missing = [
        name
        for name, value in (
            ("agent", context.agent_id),
            ("model", context.model),
            ("token", context.kilocode_token or services.defaults.counts.kilocode_token),
        )
        if not value
    ]
    if missing:
        report.prewarm = f"skipped: the mayor context has no {' and no '.join(missing)}"
        log.info("mayor.prewarm_skipped", missing=missing)
        return
    report.prewarm = "running"
    began = trio.current_time()
    services.credentials.adopt_context(context, given)
    request = expected_request(context, worker.town_id)
    if not await _warm(request, roster, report):
        report.prewarm = "skipped: the mayor has been started already"
        return
    elapsed = trio.current_time() - began
    report.prewarm = "ready"
    report.mayor_ready_at = services.now()
    services.telemetry.send(
        PrewarmComplete(town_id=worker.town_id, agent_id=request.agent_id, duration_ms=round(elapsed * 1000))
    )


async def _check_model(request: StartAgentRequest, workdir: str, server: Server) -> None:
    """Warn early of a model that kilo does not know. Asking makes kilo load its providers: the first word of the
    first turn then comes 0.5 s after the prompt instead of 1.1 s (7.7.7, 2 cores).
    """
    model = model_name(request.model)
    if not await server.rest.knows_model(workdir, model):
        log.warning("mayor.model_unknown", model=model)


async def _warm(request: StartAgentRequest, roster: Roster, report: BootReport) -> bool:
    """Returns whether there was a server to start. A start that comes meanwhile waits for it."""
    services = roster.services
    desired = Desired(request, services.credentials.next_generation())
    workdir = workdir_of(request, services.paths)
    plan = StartPlan(lambda: desired, workdir, services.users.of(request), services)
    with report.bar("workspace", request.agent_id):
        await workspace(plan)
        await prepare_home(plan.home, plan.user)

    mayor = roster.find(request.agent_id)
    if mayor is not None and mayor.is_active and not mayor.is_resumed:
        # It leases the server already, and the broker knows it by its own request.
        return False
    with report.bar(
        "snapshot", request.agent_id
    ) as bar:  # before the spawn: kilo opens its database while it starts
        bar.outcome = await services.snapshots.restore(plan.home, request.rig_id, request.agent_id, user=plan.user)
    if bar.outcome == "unavailable":
        # A server that is warm without the stored conversation would have to go when it can be had.
        raise ConversationUnknown
    with report.bar("prewarm", request.agent_id):
        async with services.pool.lease(plan.spec, Priority.PREWARM, PhaseLog()) as lease:
            await _check_model(request, plan.workdir, lease.server)
            lease.park()
    return True
