"""The routes about beads: what there is, why it waits, and what a person decides."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

from quart import request

from gastown.contract.identifiers import is_identifier
from gastown.hall.api.answers import ApiError
from gastown.hall.api.context import on_board
from gastown.hall.domain.bead import Bead, BeadState
from gastown.hall.store import board as work
from gastown.hall.store import people
from gastown.hall.store.transaction import Transaction
from gastown.hall.user_api import bodies, shown, views
from gastown.hall.user_api.routes import Route

__all__ = ["ROUTES"]


async def list_beads(town: str) -> list[shown.BeadShown]:
    """Every piece of work and every escalation, oldest first."""
    rig, status = request.args.get("rig") or None, _choice("status", BeadState)
    return await on_board(town, lambda board: views.beads_shown(board, rig, status))


async def sling(town: str, body: bodies.Slung) -> shown.BeadShown:
    """Put a piece of work on the board, without a turn of the mayor. It begins as soon as it may."""

    def do(board: Transaction) -> shown.BeadShown:
        blockers = [people.named(board, one).id for one in body.depends_on]
        made = work.sling(board, body.rig, body.title, blockers=blockers, body=body.body, priority=body.priority)
        return views.one_bead(board, made)

    return await on_board(town, do)


async def show_bead(town: str, bead: str) -> shown.Detail:
    """All that is known of a bead. Its id may be shortened, as long as no other one begins so, here and below."""
    return await on_board(town, lambda board: views.detail(board, people.named(board, bead)))


async def change_bead(town: str, bead: str, body: bodies.Changes) -> shown.BeadShown:
    """Change what a bead says, how urgent it is, or what it waits for."""

    def do(board: Transaction, found: Bead) -> Bead:
        named = body.model_dump(exclude_none=True, exclude={"depends_on"})
        blockers = None
        if body.depends_on is not None:
            blockers = [people.named(board, one).id for one in body.depends_on]
        return work.change(board, found.rig_id, found.id, named, blockers=blockers)

    return await _decided(town, bead, do)


async def why(town: str, bead: str) -> shown.Why:
    """Why a bead does not go on, and what would move it."""
    return await on_board(town, lambda board: views.why(board, people.named(board, bead)))


async def approve(town: str, bead: str, body: bodies.Approval) -> shown.BeadShown:
    """Agree to the merge of what was handed in. A new commit on the branch asks again."""
    return await _decided(town, bead, lambda board, found: people.approve(board, found.id, body.head))


async def reject(town: str, bead: str, body: bodies.Rejection) -> shown.BeadShown:
    """Send what was handed in back to its author."""
    return await _decided(town, bead, lambda board, found: people.reject(board, found.id, body.message))


async def retry(town: str, bead: str, body: bodies.Empty) -> shown.BeadShown:
    """Let a bead go on that waits for a person, or begin a finished one again."""
    del body
    return await _decided(town, bead, lambda board, found: people.retry(board, found.id))


async def revert(town: str, bead: str, body: bodies.Empty) -> shown.BeadShown:
    """Make a piece of work that takes back what a merged bead brought, and is merged as any other."""
    del body
    return await _decided(town, bead, lambda board, found: people.revert(board, found.id))


async def close(town: str, bead: str, body: bodies.Closing) -> shown.BeadShown:
    """End a bead without a merge. Its branch stays."""
    return await _decided(town, bead, lambda board, found: people.close(board, found.id, failed=body.failed))


async def stop(town: str, bead: str, body: bodies.Empty) -> shown.BeadShown:
    """End what agents do with a bead: it waits until it is retried or closed. What they made is kept."""
    del body
    return await _decided(town, bead, lambda board, found: people.stop(board, found.id))


async def stop_agent(town: str, agent: str, body: bodies.Empty) -> shown.BeadShown:
    """End what an agent does: its bead, which is answered, waits until it is retried or closed."""
    del body
    if not is_identifier(agent):
        raise ApiError(404, "That names no agent")
    return await on_board(town, lambda board: views.one_bead(board, people.stop_agent(board, agent)))


async def _decided(town: str, bead: str, decide: Callable[[Transaction, Bead], Bead]) -> shown.BeadShown:
    def do(board: Transaction) -> shown.BeadShown:
        return views.one_bead(board, decide(board, people.named(board, bead)))

    return await on_board(town, do)


def _choice(name: str, allowed: type[StrEnum]) -> str | None:
    """A value of the query; ApiError 400 when it is not one of those that there are."""
    value = request.args.get(name) or None
    if value is not None and value not in list(allowed):
        raise ApiError(400, f"{name} must be one of {', '.join(allowed)}")
    return value


_BEAD = "/beads/<bead>"
_FILTERS = {"rig": "only those of this rig", "status": f"only those that are {', '.join(BeadState)}"}

ROUTES = (
    Route(method="GET", path="/beads", handler=list_beads, answer=shown.BeadShown, many=True, query=_FILTERS),
    Route(method="POST", path="/beads", handler=sling, answer=shown.BeadShown, body=bodies.Slung),
    Route(method="GET", path=_BEAD, handler=show_bead, answer=shown.Detail),
    Route(method="PATCH", path=_BEAD, handler=change_bead, answer=shown.BeadShown, body=bodies.Changes),
    Route(method="GET", path=f"{_BEAD}/why", handler=why, answer=shown.Why),
    Route(method="POST", path=f"{_BEAD}/approve", handler=approve, answer=shown.BeadShown, body=bodies.Approval),
    Route(method="POST", path=f"{_BEAD}/reject", handler=reject, answer=shown.BeadShown, body=bodies.Rejection),
    Route(method="POST", path=f"{_BEAD}/retry", handler=retry, answer=shown.BeadShown, body=bodies.Empty),
    Route(method="POST", path=f"{_BEAD}/revert", handler=revert, answer=shown.BeadShown, body=bodies.Empty),
    Route(method="POST", path=f"{_BEAD}/close", handler=close, answer=shown.BeadShown, body=bodies.Closing),
    Route(method="POST", path=f"{_BEAD}/stop", handler=stop, answer=shown.BeadShown, body=bodies.Empty),
    Route(
        method="POST", path="/agents/<agent>/stop", handler=stop_agent, answer=shown.BeadShown, body=bodies.Empty
    ),
)
