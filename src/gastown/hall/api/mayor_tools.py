"""The routes of the mayor's tools (contract section 5), one a tool."""

from __future__ import annotations

from enum import StrEnum

from quart import Blueprint, request

from gastown.hall.api.answers import Answer, ApiError, ok
from gastown.hall.api.context import context, on_board
from gastown.hall.api.responses import Assignment, Bead, Convoy, ConvoyParts, Deleted, RigAgent, RigShown, Total
from gastown.hall.api.tool_bodies import (
    BeadChanges,
    BeadIds,
    BeadsOfStatus,
    ConvoyBead,
    ConvoyChanges,
    Mail,
    Reassignment,
    Sling,
    SlingBatch,
    UiAction,
)
from gastown.hall.api.tool_requests import as_agent, body_as, sender
from gastown.hall.api.worker_api import require_identifiers, require_token
from gastown.hall.domain.bead import BeadState, BeadType
from gastown.hall.store import beads, convoys, rig_agents
from gastown.hall.store import board as work
from gastown.hall.store.transaction import Transaction

__all__ = ["mayor_tools"]

mayor_tools = Blueprint("mayor_tools", __name__, url_prefix="/api/mayor/<town_id>/tools")
mayor_tools.before_request(require_token)
mayor_tools.before_request(require_identifiers)

_BEAD = "/rigs/<rig_id>/beads/<bead_id>"


@mayor_tools.post("/sling")
async def sling(town_id: str) -> Answer[Assignment]:
    """Make a bead. Its agent begins as soon as it may."""
    body, creator = await body_as(Sling), sender()

    def do(board: Transaction) -> Assignment:
        made = work.sling(
            board, body.rig_id, body.title,
            body=body.body, metadata=body.metadata, labels=body.labels, created_by=creator,
        )  # fmt: skip
        return Assignment.of(work.assignment(board, made.id))

    return ok(await on_board(town_id, do))


@mayor_tools.post("/sling-batch")
async def sling_batch(town_id: str) -> Answer[ConvoyParts]:
    plan = (await body_as(SlingBatch)).plan(sender())
    return ok(ConvoyParts.made(*await on_board(town_id, lambda board: convoys.make_convoy(board, plan))))


@mayor_tools.get("/rigs")
async def list_rigs(town_id: str) -> Answer[list[RigShown]]:
    town = await context().store.town(town_id)
    rigs = town.rigs if town is not None else ()
    return ok(
        [
            RigShown(
                id=rig.rig_id,
                name=rig.rig_id,
                git_url=rig.place,
                default_branch=rig.default_branch,
            )
            for rig in rigs
        ]
    )


@mayor_tools.get("/rigs/<rig_id>/beads")
async def list_beads(town_id: str, rig_id: str) -> Answer[list[Bead]]:
    status, kind = _choice("status", BeadState), _choice("type", BeadType)

    def do(board: Transaction) -> list[Bead]:
        board.require_rig(rig_id)
        return [Bead.of(one) for one in beads.beads(board, rig_id, status, kind)]

    return ok(await on_board(town_id, do))


@mayor_tools.get("/rigs/<rig_id>/agents")
async def list_agents(town_id: str, rig_id: str) -> Answer[list[RigAgent]]:
    def do(board: Transaction) -> list[RigAgent]:
        board.require_rig(rig_id)
        return [RigAgent.of(one) for one in rig_agents.agents(board, rig_id)]

    return ok(await on_board(town_id, do))


@mayor_tools.get("/convoys")
async def list_convoys(town_id: str) -> Answer[list[Convoy]]:
    return ok([Convoy.without_beads(one) for one in await on_board(town_id, convoys.convoys)])


@mayor_tools.get("/convoys/<convoy_id>")
async def convoy_status(town_id: str, convoy_id: str) -> Answer[Convoy]:
    return ok(Convoy.of(await on_board(town_id, lambda board: convoys.convoy(board, convoy_id))))


@mayor_tools.patch("/convoys/<convoy_id>")
async def convoy_update(town_id: str, convoy_id: str) -> Answer[Convoy]:
    body = await body_as(ConvoyChanges)
    change = body.merge_mode, body.feature_branch
    found = await on_board(town_id, lambda board: convoys.change_convoy(board, convoy_id, *change))
    return ok(Convoy.without_beads(found))


@mayor_tools.post("/convoys/<convoy_id>/start")
async def convoy_start(town_id: str, convoy_id: str) -> Answer[ConvoyParts]:
    return ok(ConvoyParts.made(*await on_board(town_id, lambda board: convoys.start_convoy(board, convoy_id))))


@mayor_tools.post("/convoys/<convoy_id>/close")
async def convoy_close(town_id: str, convoy_id: str) -> Answer[Convoy]:
    closed = await on_board(town_id, lambda board: convoys.close_convoy(board, convoy_id))
    return ok(Convoy.without_beads(closed))


@mayor_tools.post("/convoys/<convoy_id>/add-bead")
async def convoy_add_bead(town_id: str, convoy_id: str) -> Answer[Total]:
    body = await body_as(ConvoyBead)
    change = convoy_id, body.bead_id, body.depends_on
    return ok(Total.of(await on_board(town_id, lambda board: convoys.add_bead(board, *change))))


@mayor_tools.post("/convoys/<convoy_id>/remove-bead")
async def convoy_remove_bead(town_id: str, convoy_id: str) -> Answer[Total]:
    body = await body_as(ConvoyBead)
    return ok(Total.of(await on_board(town_id, lambda board: convoys.remove_bead(board, convoy_id, body.bead_id))))


@mayor_tools.post("/mail")
async def mail_send(town_id: str) -> Answer[None]:
    body = await body_as(Mail)
    origin = as_agent(body.from_agent_id)

    def do(board: Transaction) -> None:
        board.require_rig(body.rig_id)
        rig_agents.send_mail(board, body.rig_id, origin, body.to_agent_id, body.subject, body.body)

    await on_board(town_id, do)
    return ok()


@mayor_tools.patch(_BEAD)
async def bead_update(town_id: str, rig_id: str, bead_id: str) -> Answer[Bead]:
    """Change what the body names. The mayor speaks for a person, and so may open a finished bead again."""
    body = await body_as(BeadChanges)
    changes = body.model_dump(exclude_unset=True, exclude={"depends_on", "status"})

    def change(board: Transaction) -> Bead:
        changed = work.change(board, rig_id, bead_id, changes, blockers=body.depends_on, status=body.status)
        return Bead.of(changed)

    return ok(await on_board(town_id, change))


@mayor_tools.delete(_BEAD)
async def bead_delete(town_id: str, rig_id: str, bead_id: str) -> Answer[None]:
    def do(board: Transaction) -> None:
        beads.bead(board, bead_id, rig_id)
        work.delete(board, rig_id, [bead_id])

    await on_board(town_id, do)
    return ok()


@mayor_tools.post("/rigs/<rig_id>/beads/bulk-delete")
async def beads_delete(town_id: str, rig_id: str) -> Answer[Deleted]:
    body = await body_as(BeadIds)
    deleted = await on_board(town_id, lambda board: work.delete(board, rig_id, body.bead_ids))
    return ok(Deleted(deleted=deleted))


@mayor_tools.post("/rigs/<rig_id>/beads/delete-by-status")
async def beads_delete_by_status(town_id: str, rig_id: str) -> Answer[Deleted]:
    body = await body_as(BeadsOfStatus)

    def do(board: Transaction) -> int:
        board.require_rig(rig_id)
        found = beads.beads(board, rig_id, body.status, body.type)
        return work.delete(board, rig_id, [one.id for one in found])

    return ok(Deleted(deleted=await on_board(town_id, do)))


@mayor_tools.post(f"{_BEAD}/reassign")
async def bead_reassign(town_id: str, rig_id: str, bead_id: str) -> Answer[Bead]:
    body = await body_as(Reassignment)

    def assign(board: Transaction) -> Bead:
        return Bead.of(work.assign(board, rig_id, bead_id, body.agent_id))

    return ok(await on_board(town_id, assign))


@mayor_tools.post("/rigs/<rig_id>/agents/<agent_id>/reset")
async def agent_reset(town_id: str, rig_id: str, agent_id: str) -> Answer[RigAgent]:
    """End what the agent does now. Its bead begins again."""
    freed = await on_board(town_id, lambda board: RigAgent.of(work.reset(board, rig_id, agent_id)))
    return ok(freed)


@mayor_tools.post("/escalations/<escalation_id>/acknowledge")
async def escalation_acknowledge(town_id: str, escalation_id: str) -> Answer[Bead]:
    def do(board: Transaction) -> Bead:
        found = beads.bead(board, escalation_id, kind=BeadType.ESCALATION)
        if found.status == BeadState.OPEN:
            found = beads.move_bead(board, escalation_id, BeadState.IN_PROGRESS)
        return Bead.of(found)

    return ok(await on_board(town_id, do))


@mayor_tools.post("/ui-action")
async def ui_action(town_id: str) -> Answer[None]:
    """Kept among the town's events, where a dashboard finds it."""
    body = await body_as(UiAction)
    await context().store.add_event(town_id, "ui.action", body.action.model_dump())
    return ok()


def _choice(name: str, allowed: type[StrEnum]) -> str | None:
    """A value of the query; ApiError 400 when it is not one of those that there are."""
    value = request.args.get(name) or None
    if value is not None and value not in list(allowed):
        raise ApiError(400, f"{name} must be one of {', '.join(allowed)}")
    return value
