"""The routes of the rig agents' tools (contract section 5), one a tool."""

from __future__ import annotations

from quart import Blueprint

from gastown.hall.api.answers import Answer, ok
from gastown.hall.api.context import on_board
from gastown.hall.api.responses import (
    Bead,
    Letter,
    Molecule,
    MoleculeAdvanced,
    NudgeLeft,
    Primer,
    ReviewBead,
    ReworkBead,
    RigAgent,
    StepShown,
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
from gastown.hall.domain import bead as domain
from gastown.hall.domain.bead import BeadState, BeadType, current_step
from gastown.hall.domain.errors import Conflict, NotFound
from gastown.hall.store import beads, rig_agents
from gastown.hall.store import board as work
from gastown.hall.store.transaction import Transaction

__all__ = ["rig_tools"]

rig_tools = Blueprint("rig_tools", __name__, url_prefix="/api/towns/<town_id>/rigs/<rig_id>")
rig_tools.before_request(require_token)
rig_tools.before_request(require_identifiers)

_AGENT = "/agents/<agent_id>"


@rig_tools.get(f"{_AGENT}/prime")
async def prime(town_id: str, rig_id: str, agent_id: str) -> Answer[Primer]:
    """What the agent should know when it begins. Its mail stays unread."""
    as_agent(agent_id)

    def do(board: Transaction) -> Primer:
        agent = rig_agents.caller(board, rig_id, agent_id)
        return Primer(
            agent=RigAgent.of(agent),
            hooked_bead=None if agent.bead_id is None else Bead.of(beads.bead(board, agent.bead_id)),
            undelivered_mail=tuple(Letter.of(one) for one in rig_agents.unread_mail(board, agent_id)),
            open_beads=tuple(Bead.of(one) for one in beads.beads(board, rig_id, BeadState.OPEN, BeadType.ISSUE)),
        )

    return ok(await on_board(town_id, do))


@rig_tools.get("/beads/<bead_id>")
async def bead_status(town_id: str, rig_id: str, bead_id: str) -> Answer[Bead]:
    return ok(Bead.of(await on_board(town_id, lambda board: beads.bead(board, bead_id, rig_id))))


@rig_tools.post("/beads/<bead_id>/close")
async def bead_close(town_id: str, rig_id: str, bead_id: str) -> Answer[Bead]:
    as_agent((await body_as(Closing)).agent_id)

    closed = await on_board(town_id, lambda board: work.close_by_agent(board, rig_id, bead_id))
    return ok(Bead.of(closed))


@rig_tools.post(f"{_AGENT}/done")
async def work_done(town_id: str, rig_id: str, agent_id: str) -> Answer[ReviewBead]:
    """Work goes to review as a merge request; a reviewer agrees with what it has read."""
    as_agent(agent_id)
    given = (await body_as(Done)).model_dump()
    review = await on_board(town_id, lambda board: work.finish_work(board, rig_id, agent_id, **given))
    return ok(ReviewBead(review_bead_id=review))


@rig_tools.post(f"{_AGENT}/request-changes")
async def request_changes(town_id: str, rig_id: str, agent_id: str) -> Answer[ReworkBead]:
    """The author goes on with the same bead, whose id is answered."""
    as_agent(agent_id)
    asked = (await body_as(ReworkRequest)).model_dump()
    rework = await on_board(town_id, lambda board: work.request_changes(board, rig_id, agent_id, **asked))
    return ok(ReworkBead(rework_bead_id=rework))


@rig_tools.post("/mail")
async def mail_send(town_id: str, rig_id: str) -> Answer[None]:
    body = await body_as(RigMail)
    origin = as_agent(body.from_agent_id)

    def do(board: Transaction) -> None:
        board.require_rig(rig_id)
        rig_agents.send_mail(board, rig_id, origin, body.to_agent_id, body.subject, body.body)

    await on_board(town_id, do)
    return ok()


@rig_tools.get(f"{_AGENT}/mail")
async def mail_check(town_id: str, rig_id: str, agent_id: str) -> Answer[list[Letter]]:
    as_agent(agent_id)

    def do(board: Transaction) -> list[Letter]:
        rig_agents.caller(board, rig_id, agent_id)
        return [Letter.of(one) for one in rig_agents.read_mail(board, agent_id)]

    return ok(await on_board(town_id, do))


@rig_tools.post("/escalations")
async def escalate(town_id: str, rig_id: str) -> Answer[Bead]:
    """A bead for the mayor to look at."""
    body, origin = await body_as(Escalation), sender()

    def do(board: Transaction) -> Bead:
        board.require_rig(rig_id)
        made = beads.make_bead(
            board, rig_id, BeadType.ESCALATION, body.title,
            body=body.body, priority=body.priority, metadata=body.metadata,
            created_by=origin, assignee=board.mayor,
        )  # fmt: skip
        return Bead.of(made)

    return ok(await on_board(town_id, do))


@rig_tools.post(f"{_AGENT}/checkpoint")
async def checkpoint(town_id: str, rig_id: str, agent_id: str) -> Answer[None]:
    as_agent(agent_id)
    body = await body_as(Checkpoint)

    def do(board: Transaction) -> None:
        rig_agents.caller(board, rig_id, agent_id)
        rig_agents.keep_checkpoint(board, agent_id, body.data)

    await on_board(town_id, do)
    return ok()


@rig_tools.get(f"{_AGENT}/molecule/current")
async def molecule_current(town_id: str, rig_id: str, agent_id: str) -> Answer[Molecule]:
    as_agent(agent_id)

    def do(board: Transaction) -> Molecule:
        held = _held_bead(board, rig_id, agent_id)
        step = current_step(held)
        return Molecule(
            moleculeId=held.id,
            currentStep=step.index,
            totalSteps=step.total,
            step=StepShown.of(step),
            status=held.status,
        )

    return ok(await on_board(town_id, do))


@rig_tools.post(f"{_AGENT}/molecule/advance")
async def molecule_advance(town_id: str, rig_id: str, agent_id: str) -> Answer[MoleculeAdvanced]:
    as_agent(agent_id)
    body = await body_as(StepSummary)

    def do(board: Transaction) -> MoleculeAdvanced:
        held = _held_bead(board, rig_id, agent_id)
        finished = beads.advance_step(board, held, body.summary)
        return MoleculeAdvanced(
            moleculeId=held.id,
            previousStep=finished.index,
            currentStep=finished.index + 1,
            totalSteps=finished.total,
            completed=finished.index + 1 == finished.total,
        )

    return ok(await on_board(town_id, do))


@rig_tools.post(f"{_AGENT}/status")
async def status(town_id: str, rig_id: str, agent_id: str) -> Answer[None]:
    as_agent(agent_id)
    body = await body_as(StatusLine)

    def do(board: Transaction) -> None:
        rig_agents.caller(board, rig_id, agent_id)
        rig_agents.set_agent(board, agent_id, "status_message", body.message)

    await on_board(town_id, do)
    return ok()


@rig_tools.post("/triage/resolve")
async def triage_resolve(town_id: str, rig_id: str) -> Answer[Bead]:
    """Close the request, with what was decided kept in it. The decision is not carried out here."""
    body, origin = await body_as(TriageResolution), sender()

    def do(board: Transaction) -> Bead:
        found = beads.bead(board, body.triage_request_bead_id, rig_id)
        if found.status == BeadState.CLOSED:
            raise Conflict(f"The request {found.id} has been settled")
        resolution = {"action": body.action, "notes": body.resolution_notes, "agent_id": origin}
        beads.change_bead(board, found.id, {"metadata": found.metadata | {"resolution": resolution}})
        return Bead.of(beads.move_bead(board, found.id, BeadState.CLOSED))

    return ok(await on_board(town_id, do))


@rig_tools.post("/nudge")
async def nudge(town_id: str, rig_id: str) -> Answer[NudgeLeft]:
    """From agents of the rig, and from the mayor, which may nudge agents of any rig."""
    body, origin = await body_as(Nudge), sender()

    def do(board: Transaction) -> NudgeLeft:
        board.require_rig(rig_id)
        target = body.target_agent_id
        return NudgeLeft(nudge_id=rig_agents.nudge(board, rig_id, origin, target, body.message, body.mode))

    return ok(await on_board(town_id, do))


def _held_bead(board: Transaction, rig_id: str, agent_id: str) -> domain.Bead:
    """The bead that the calling agent works on; NotFound when it has none."""
    worker = rig_agents.caller(board, rig_id, agent_id)
    if worker.bead_id is None:
        raise NotFound(f"Agent {agent_id} works on no bead")
    return beads.bead(board, worker.bead_id)
