"""The routes of the mayor's tools (contract section 5), one a tool."""

from __future__ import annotations

from typing import get_args

from quart import Blueprint, request

from gastown.contract.git import Remote
from gastown.hall.api.answers import Answer, Refusal, done
from gastown.hall.api.context import context
from gastown.hall.api.responses import Assignment, Bead, Convoy, ConvoyParts, CrewMember, Deleted, RigShown, Total
from gastown.hall.api.tool_bodies import (
    BeadChanges,
    BeadIds,
    BeadStatus,
    BeadType,
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
from gastown.hall.store import beads, convoys, rig_agents
from gastown.hall.store.transaction import Ledger, in_ledger

__all__ = ["mayor_tools"]

mayor_tools = Blueprint("mayor_tools", __name__, url_prefix="/api/mayor/<town_id>/tools")
mayor_tools.before_request(require_token)
mayor_tools.before_request(require_identifiers)

_BEAD = "/rigs/<rig_id>/beads/<bead_id>"


@mayor_tools.post("/sling")
async def sling(town_id: str) -> Answer[Assignment]:
    """Make a bead and give it to an agent that has nothing to do, or to a new one."""
    body, creator = await body_as(Sling), sender()

    def work(ledger: Ledger) -> Assignment:
        ledger.require_rig(body.rig_id)
        bead_id = beads.make_bead(
            ledger, body.rig_id, "issue", body.title,
            body=body.body, metadata=body.metadata, labels=body.labels, created_by=creator,
        )  # fmt: skip
        taker = rig_agents.assign(ledger, bead_id, rig_agents.someone_for(ledger, body.rig_id))
        shown = beads.show_bead(ledger, beads.bead(ledger, bead_id))
        return Assignment(bead=shown, agent=rig_agents.show_agent(taker))

    return done(await in_ledger(town_id, work))


@mayor_tools.post("/sling-batch")
async def sling_batch(town_id: str) -> Answer[ConvoyParts]:
    body, creator = await body_as(SlingBatch), sender()
    return done(await in_ledger(town_id, lambda ledger: convoys.make_convoy(ledger, body, creator)))


@mayor_tools.get("/rigs")
async def list_rigs(town_id: str) -> Answer[list[RigShown]]:
    town = await context().store.town(town_id)
    rigs = town.rigs if town is not None else ()
    return done(
        [
            RigShown(
                id=rig.rig_id, name=rig.rig_id, git_url=_address(rig.git_url), default_branch=rig.default_branch
            )
            for rig in rigs
        ]
    )


@mayor_tools.get("/rigs/<rig_id>/beads")
async def list_beads(town_id: str, rig_id: str) -> Answer[list[Bead]]:
    status, kind = _choice("status", get_args(BeadStatus)), _choice("type", get_args(BeadType))

    def work(ledger: Ledger) -> list[Bead]:
        ledger.require_rig(rig_id)
        return beads.beads(ledger, rig_id, status, kind)

    return done(await in_ledger(town_id, work))


@mayor_tools.get("/rigs/<rig_id>/agents")
async def list_agents(town_id: str, rig_id: str) -> Answer[list[CrewMember]]:
    def work(ledger: Ledger) -> list[CrewMember]:
        ledger.require_rig(rig_id)
        return rig_agents.agents(ledger, rig_id)

    return done(await in_ledger(town_id, work))


@mayor_tools.get("/convoys")
async def list_convoys(town_id: str) -> Answer[list[Convoy]]:
    return done(await in_ledger(town_id, convoys.convoys))


@mayor_tools.get("/convoys/<convoy_id>")
async def convoy_status(town_id: str, convoy_id: str) -> Answer[Convoy]:
    return done(await in_ledger(town_id, lambda ledger: convoys.show_convoy(ledger, convoy_id, with_beads=True)))


@mayor_tools.patch("/convoys/<convoy_id>")
async def convoy_update(town_id: str, convoy_id: str) -> Answer[Convoy]:
    body = await body_as(ConvoyChanges)
    change = body.merge_mode, body.feature_branch
    return done(await in_ledger(town_id, lambda ledger: convoys.change_convoy(ledger, convoy_id, *change)))


@mayor_tools.post("/convoys/<convoy_id>/start")
async def convoy_start(town_id: str, convoy_id: str) -> Answer[ConvoyParts]:
    return done(await in_ledger(town_id, lambda ledger: convoys.start_convoy(ledger, convoy_id)))


@mayor_tools.post("/convoys/<convoy_id>/close")
async def convoy_close(town_id: str, convoy_id: str) -> Answer[Convoy]:
    return done(await in_ledger(town_id, lambda ledger: convoys.close_convoy(ledger, convoy_id)))


@mayor_tools.post("/convoys/<convoy_id>/add-bead")
async def convoy_add_bead(town_id: str, convoy_id: str) -> Answer[Total]:
    body = await body_as(ConvoyBead)
    return done(
        await in_ledger(town_id, lambda ledger: convoys.add_bead(ledger, convoy_id, body.bead_id, body.depends_on))
    )


@mayor_tools.post("/convoys/<convoy_id>/remove-bead")
async def convoy_remove_bead(town_id: str, convoy_id: str) -> Answer[Total]:
    body = await body_as(ConvoyBead)
    return done(await in_ledger(town_id, lambda ledger: convoys.remove_bead(ledger, convoy_id, body.bead_id)))


@mayor_tools.post("/mail")
async def mail_send(town_id: str) -> Answer[None]:
    body = await body_as(Mail)
    origin = as_agent(body.from_agent_id)

    def work(ledger: Ledger) -> None:
        ledger.require_rig(body.rig_id)
        rig_agents.send_mail(ledger, body.rig_id, origin, body.to_agent_id, body.subject, body.body)

    await in_ledger(town_id, work)
    return done()


@mayor_tools.patch(_BEAD)
async def bead_update(town_id: str, rig_id: str, bead_id: str) -> Answer[Bead]:
    """Change what the body names."""
    body = await body_as(BeadChanges)
    changes = body.model_dump(exclude_unset=True, exclude={"depends_on"})

    def work(ledger: Ledger) -> Bead:
        beads.bead(ledger, bead_id, rig_id)
        beads.change_bead(ledger, bead_id, changes)
        if body.depends_on is not None:
            beads.set_blockers(ledger, bead_id, body.depends_on)
        return beads.show_bead(ledger, beads.bead(ledger, bead_id))

    return done(await in_ledger(town_id, work))


@mayor_tools.delete(_BEAD)
async def bead_delete(town_id: str, rig_id: str, bead_id: str) -> Answer[None]:
    def work(ledger: Ledger) -> None:
        beads.bead(ledger, bead_id, rig_id)
        beads.delete_beads(ledger, rig_id, [bead_id])

    await in_ledger(town_id, work)
    return done()


@mayor_tools.post("/rigs/<rig_id>/beads/bulk-delete")
async def beads_delete(town_id: str, rig_id: str) -> Answer[Deleted]:
    body = await body_as(BeadIds)
    deleted = await in_ledger(town_id, lambda ledger: beads.delete_beads(ledger, rig_id, body.bead_ids))
    return done(Deleted(deleted=deleted))


@mayor_tools.post(f"{_BEAD}/reassign")
async def bead_reassign(town_id: str, rig_id: str, bead_id: str) -> Answer[Bead]:
    body = await body_as(Reassignment)

    def work(ledger: Ledger) -> Bead:
        beads.bead(ledger, bead_id, rig_id)
        rig_agents.assign(ledger, bead_id, rig_agents.agent(ledger, rig_id, body.agent_id))
        return beads.show_bead(ledger, beads.bead(ledger, bead_id))

    return done(await in_ledger(town_id, work))


@mayor_tools.post("/rigs/<rig_id>/agents/<agent_id>/reset")
async def agent_reset(town_id: str, rig_id: str, agent_id: str) -> Answer[CrewMember]:
    """Free the agent on the board. Its server, if it has one, is the container's."""

    def work(ledger: Ledger) -> CrewMember:
        rig_agents.let_go(ledger, rig_agents.agent(ledger, rig_id, agent_id))
        return rig_agents.show_agent(rig_agents.agent(ledger, rig_id, agent_id))

    return done(await in_ledger(town_id, work))


@mayor_tools.post("/escalations/<escalation_id>/acknowledge")
async def escalation_acknowledge(town_id: str, escalation_id: str) -> Answer[Bead]:
    def work(ledger: Ledger) -> Bead:
        found = beads.bead(ledger, escalation_id, kind="escalation")
        if found["status"] == "open":
            beads.change_bead(ledger, escalation_id, {"status": "in_progress"})
        return beads.show_bead(ledger, beads.bead(ledger, escalation_id))

    return done(await in_ledger(town_id, work))


@mayor_tools.post("/ui-action")
async def ui_action(town_id: str) -> Answer[None]:
    """Kept among the town's events, where a dashboard finds it."""
    body = await body_as(UiAction)
    await context().store.add_event(town_id, "ui.action", body.action.model_dump())
    return done()


def _address(git_url: str) -> str:
    """A repository's address without the login in it; empty for one that cannot be read."""
    try:
        return Remote.parse(git_url).url
    except ValueError:
        return ""


def _choice(name: str, allowed: tuple[str, ...]) -> str | None:
    """A value of the query; Refusal 400 when it is not one of those that there are."""
    value = request.args.get(name) or None
    if value is not None and value not in allowed:
        raise Refusal(400, f"{name} must be one of {', '.join(allowed)}")
    return value
