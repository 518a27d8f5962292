"""The routes about a town's repositories: which there are, and how their work is reviewed and merged."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from gastown.hall.api.context import context, on_board
from gastown.hall.domain.policy import RigPolicy
from gastown.hall.domain.town import RigRecord
from gastown.hall.store import policies
from gastown.hall.store.town_state import take_rules
from gastown.hall.store.transaction import Transaction
from gastown.hall.user_api import bodies, shown
from gastown.hall.user_api.routes import Route

__all__ = ["ROUTES"]

_MAY_BE_NULL = "slots"


async def list_rigs(town: str) -> tuple[shown.Repository, ...]:
    """The town's repositories."""
    known = await context().store.town(town)
    rigs = known.rigs if known is not None else ()

    def read(board: Transaction) -> tuple[shown.Repository, ...]:
        return tuple(_shown(rig, policies.rig_policy(board, rig.rig_id)) for rig in rigs)

    return await on_board(town, read)


async def set_rig(town: str, rig: str, body: bodies.RigSettings) -> shown.Repository:
    """Change the settings that the body names. They hold at once."""
    given: dict[str, Any] = body.model_dump(exclude_unset=True)
    changes = {name: value for name, value in given.items() if value is not None or name == _MAY_BE_NULL}

    def change(board: Transaction) -> None:
        policies.change_rig_policy(board, rig, replace(policies.rig_policy(board, rig), **changes))
        take_rules(board)

    await on_board(town, change)
    return next(one for one in await list_rigs(town) if one.id == rig)


def _shown(rig: RigRecord, policy: RigPolicy) -> shown.Repository:
    return shown.Repository(
        id=rig.rig_id,
        place=rig.place,
        branch=rig.default_branch,
        merge=policy.merge,
        review=policy.review,
        checks=policy.checks,
        check_seconds=policy.check_seconds,
        slots=policy.slots,
    )


ROUTES = (
    Route(method="GET", path="/rigs", handler=list_rigs, answer=shown.Repository, many=True),
    Route(method="PATCH", path="/rigs/<rig>", handler=set_rig, answer=shown.Repository, body=bodies.RigSettings),
)
