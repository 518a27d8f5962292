"""The routes of the rig agents' tools (contract section 5), one a tool."""

from __future__ import annotations

import json

from quart import Blueprint

from gastown.contract.agents import Role
from gastown.hall.api.answers import Answer, Refusal, done
from gastown.hall.api.responses import (
    Bead,
    Letter,
    Molecule,
    MoleculeAdvanced,
    NudgeLeft,
    Primer,
    ReviewBead,
    ReworkBead,
)
from gastown.hall.api.tool_bodies import (
    Checkpoint,
    Closing,
    Done,
    Escalation,
    Nudge,
    ReworkRequest,
    RigMail,
    StatusLine,
    StepSummary,
    TriageResolution,
)
from gastown.hall.api.tool_requests import as_agent, body_as, sender
from gastown.hall.api.worker_api import require_identifiers, require_token
from gastown.hall.store import beads, rig_agents
from gastown.hall.store.database import Row
from gastown.hall.store.transaction import Ledger, in_ledger

__all__ = ["rig_tools"]

rig_tools = Blueprint("rig_tools", __name__, url_prefix="/api/towns/<town_id>/rigs/<rig_id>")
rig_tools.before_request(require_token)
rig_tools.before_request(require_identifiers)

_AGENT = "/agents/<agent_id>"


@rig_tools.get(f"{_AGENT}/prime")
async def prime(town_id: str, rig_id: str, agent_id: str) -> Answer[Primer]:
    as_agent(agent_id)
    return done(
        await in_ledger(
            town_id, lambda ledger: rig_agents.prime(ledger, rig_agents.caller(ledger, rig_id, agent_id))
        )
    )


@rig_tools.get("/beads/<bead_id>")
async def bead_status(town_id: str, rig_id: str, bead_id: str) -> Answer[Bead]:
    return done(
        await in_ledger(town_id, lambda ledger: beads.show_bead(ledger, beads.bead(ledger, bead_id, rig_id)))
    )


@rig_tools.post("/beads/<bead_id>/close")
async def bead_close(town_id: str, rig_id: str, bead_id: str) -> Answer[Bead]:
    as_agent((await body_as(Closing)).agent_id)

    def work(ledger: Ledger) -> Bead:
        beads.bead(ledger, bead_id, rig_id)
        beads.close_bead(ledger, bead_id)
        return beads.show_bead(ledger, beads.bead(ledger, bead_id))

    return done(await in_ledger(town_id, work))


@rig_tools.post(f"{_AGENT}/done")
async def work_done(town_id: str, rig_id: str, agent_id: str) -> Answer[ReviewBead]:
    """Work goes to review as a merge request; a review that asks for nothing more is finished with its work."""
    as_agent(agent_id)
    body = await body_as(Done)

    def work(ledger: Ledger) -> ReviewBead:
        worker, held = _holding(ledger, rig_id, agent_id)
        rig_agents.set_agent(ledger, agent_id, "bead_id", None)
        if held["type"] != "merge_request":
            return ReviewBead(review_bead_id=_hand_in(ledger, worker, held, body))
        if not beads.open_blockers(ledger, held["id"]):
            beads.close_bead(ledger, held["id"])
            if source := json.loads(held["metadata"]).get("source_bead_id"):
                beads.close_bead(ledger, source)
        return ReviewBead(review_bead_id=held["id"])

    return done(await in_ledger(town_id, work))


@rig_tools.post(f"{_AGENT}/request-changes")
async def request_changes(town_id: str, rig_id: str, agent_id: str) -> Answer[ReworkBead]:
    """Make a bead for the changes, which the review waits for."""
    as_agent(agent_id)
    body = await body_as(ReworkRequest)

    def work(ledger: Ledger) -> ReworkBead:
        _, held = _holding(ledger, rig_id, agent_id)
        if held["type"] != "merge_request":
            raise Refusal(409, f"Agent {agent_id} reviews nothing")
        about = json.loads(held["metadata"]) | {"files": body.files, "review_bead_id": held["id"]}
        rework = beads.make_bead(
            ledger, rig_id, "issue", f"Rework: {held['title']}",
            body=body.feedback, metadata=about, created_by=agent_id,
        )  # fmt: skip
        beads.link_rework(ledger, rework, held["id"])
        beads.set_blockers(ledger, held["id"], [*_blockers(ledger, held["id"]), rework])
        rig_agents.assign(ledger, rework, rig_agents.someone_for(ledger, rig_id))
        return ReworkBead(rework_bead_id=rework)

    return done(await in_ledger(town_id, work))


@rig_tools.post("/mail")
async def mail_send(town_id: str, rig_id: str) -> Answer[None]:
    body = await body_as(RigMail)
    origin = as_agent(body.from_agent_id)

    def work(ledger: Ledger) -> None:
        ledger.require_rig(rig_id)
        rig_agents.send_mail(ledger, rig_id, origin, body.to_agent_id, body.subject, body.body)

    await in_ledger(town_id, work)
    return done()


@rig_tools.get(f"{_AGENT}/mail")
async def mail_check(town_id: str, rig_id: str, agent_id: str) -> Answer[list[Letter]]:
    as_agent(agent_id)

    def work(ledger: Ledger) -> list[Letter]:
        rig_agents.caller(ledger, rig_id, agent_id)
        return rig_agents.read_mail(ledger, agent_id)

    return done(await in_ledger(town_id, work))


@rig_tools.post("/escalations")
async def escalate(town_id: str, rig_id: str) -> Answer[Bead]:
    """A bead for the mayor to look at."""
    body, origin = await body_as(Escalation), sender()

    def work(ledger: Ledger) -> Bead:
        ledger.require_rig(rig_id)
        bead_id = beads.make_bead(
            ledger, rig_id, "escalation", body.title,
            body=body.body, priority=body.priority, metadata=body.metadata,
            created_by=origin, assignee=ledger.mayor,
        )  # fmt: skip
        return beads.show_bead(ledger, beads.bead(ledger, bead_id))

    return done(await in_ledger(town_id, work))


@rig_tools.post(f"{_AGENT}/checkpoint")
async def checkpoint(town_id: str, rig_id: str, agent_id: str) -> Answer[None]:
    as_agent(agent_id)
    body = await body_as(Checkpoint)

    def work(ledger: Ledger) -> None:
        rig_agents.caller(ledger, rig_id, agent_id)
        rig_agents.keep_checkpoint(ledger, agent_id, body.data)

    await in_ledger(town_id, work)
    return done()


@rig_tools.get(f"{_AGENT}/molecule/current")
async def molecule_current(town_id: str, rig_id: str, agent_id: str) -> Answer[Molecule]:
    as_agent(agent_id)
    return done(
        await in_ledger(town_id, lambda ledger: beads.current_step(_bead_in_steps(ledger, rig_id, agent_id)))
    )


@rig_tools.post(f"{_AGENT}/molecule/advance")
async def molecule_advance(town_id: str, rig_id: str, agent_id: str) -> Answer[MoleculeAdvanced]:
    as_agent(agent_id)
    body = await body_as(StepSummary)
    return done(
        await in_ledger(
            town_id,
            lambda ledger: beads.advance_molecule(ledger, _bead_in_steps(ledger, rig_id, agent_id), body.summary),
        )
    )


@rig_tools.post(f"{_AGENT}/status")
async def status(town_id: str, rig_id: str, agent_id: str) -> Answer[None]:
    as_agent(agent_id)
    body = await body_as(StatusLine)

    def work(ledger: Ledger) -> None:
        rig_agents.caller(ledger, rig_id, agent_id)
        rig_agents.set_agent(ledger, agent_id, "status_message", body.message)

    await in_ledger(town_id, work)
    return done()


@rig_tools.post("/triage/resolve")
async def triage_resolve(town_id: str, rig_id: str) -> Answer[Bead]:
    """Close the request, with what was decided kept in it. To act on it is the dispatcher's."""
    body, origin = await body_as(TriageResolution), sender()

    def work(ledger: Ledger) -> Bead:
        found = beads.bead(ledger, body.triage_request_bead_id, rig_id)
        if found["status"] == "closed":
            raise Refusal(409, f"The request {found['id']} has been settled")
        resolution = {"action": body.action, "notes": body.resolution_notes, "agent_id": origin}
        metadata = json.loads(found["metadata"]) | {"resolution": resolution}
        beads.change_bead(ledger, found["id"], {"status": "closed", "metadata": metadata})
        return beads.show_bead(ledger, beads.bead(ledger, found["id"]))

    return done(await in_ledger(town_id, work))


@rig_tools.post("/nudge")
async def nudge(town_id: str, rig_id: str) -> Answer[NudgeLeft]:
    """Of agents of the rig, and of the mayor, who may nudge in any rig."""
    body, origin = await body_as(Nudge), sender()

    def work(ledger: Ledger) -> NudgeLeft:
        ledger.require_rig(rig_id)
        target = body.target_agent_id
        return NudgeLeft(nudge_id=rig_agents.nudge(ledger, rig_id, origin, target, body.message, body.mode))

    return done(await in_ledger(town_id, work))


def _holding(ledger: Ledger, rig_id: str, agent_id: str) -> tuple[Row, Row]:
    """The calling agent and the bead that it works on; Refusal 409 when it has none."""
    worker = rig_agents.caller(ledger, rig_id, agent_id)
    if worker["bead_id"] is None:
        raise Refusal(409, f"Agent {agent_id} works on no bead")
    return worker, beads.bead(ledger, worker["bead_id"])


def _bead_in_steps(ledger: Ledger, rig_id: str, agent_id: str) -> Row:
    worker = rig_agents.caller(ledger, rig_id, agent_id)
    if worker["bead_id"] is None:
        raise Refusal(404, f"Agent {agent_id} works on no bead")
    return beads.bead(ledger, worker["bead_id"])


def _hand_in(ledger: Ledger, worker: Row, held: Row, body: Done) -> str:
    """Put finished work into review, and give the review to a refinery; the review's id.

    The rework of a review is finished with that: the review that asked for it goes on. When that one is closed
    or gone, the rework is work like any other.
    """
    if review := beads.open_review_of(ledger, held["id"]):
        beads.close_bead(ledger, held["id"])
        if rig_agents.holder_of(ledger, review) is None:
            rig_agents.assign(ledger, review, rig_agents.someone_for(ledger, held["rig_id"], Role.REFINERY))
        return review
    beads.change_bead(ledger, held["id"], {"status": "in_review"})
    metadata = {"branch": body.branch, "pr_url": body.pr_url, "source_bead_id": held["id"]}
    review = beads.make_bead(
        ledger, held["rig_id"], "merge_request", f"Review: {held['title']}",
        body=body.summary, metadata=metadata, created_by=worker["id"],
    )  # fmt: skip
    rig_agents.assign(ledger, review, rig_agents.someone_for(ledger, held["rig_id"], Role.REFINERY))
    return review


def _blockers(ledger: Ledger, bead_id: str) -> list[str]:
    shown = beads.show_bead(ledger, beads.bead(ledger, bead_id))
    return list(shown.depends_on)
