"""The routes about a town's repositories: which there are, and how their work is reviewed and merged."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from functools import partial
from typing import Any

import trio

from gastown.hall.api.answers import ApiError
from gastown.hall.api.context import context, on_board
from gastown.hall.domain.policy import RigPolicy
from gastown.hall.domain.town import RigRecord, secrets_of
from gastown.hall.places import NoPlace, rig_at
from gastown.hall.store import policies, rigs
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


async def add_rig(town: str, body: bodies.NewRig) -> shown.Repository:
    """Add a repository to the town. Its work may begin at once; a container that is up begins to fetch it."""
    try:
        rig = await trio.to_thread.run_sync(partial(rig_at, body.place, rig_id=body.id, branch=body.branch))
    except NoPlace as error:
        raise ApiError(400, str(error)) from error
    policy = replace(RigPolicy(), **_settings(body, exclude=("place", "id", "branch")))
    hall = context()
    await on_board(town, lambda board: rigs.add_rig(board, rig, policy))
    known = await hall.store.town(town)
    if known is not None:
        hall.secrets[:] = secrets_of(known)
    if hall.desk.rig_added is not None:
        hall.desk.rig_added(rig.rig_id)
    return _shown(rig, policy)


async def remove_rig(town: str, rig: str) -> shown.RigRemoved:
    """Take a repository from the town. Refused while it has work that is not finished."""
    known = await context().store.town(town)
    places = {one.rig_id: one.place for one in known.rigs} if known is not None else {}
    left = await on_board(town, lambda board: rigs.remove_rig(board, rig))
    return shown.RigRemoved(
        id=rig,
        place=places.get(rig, ""),
        left=tuple(shown.Left(bead=one.bead_id, branch=one.branch or "", agent=one.author) for one in left),
    )


async def set_rig(town: str, rig: str, body: bodies.RigSettings) -> shown.Repository:
    """Change the settings that the body names. They hold at once."""
    changes = _settings(body)

    def change(board: Transaction) -> None:
        policies.change_rig_policy(board, rig, replace(policies.rig_policy(board, rig), **changes))
        take_rules(board)

    await on_board(town, change)
    return next(one for one in await list_rigs(town) if one.id == rig)


def _settings(body: bodies.RigSettings, exclude: Collection[str] = ()) -> dict[str, Any]:
    given: dict[str, Any] = body.model_dump(exclude_unset=True, exclude={*exclude})
    return {name: value for name, value in given.items() if value is not None or name == _MAY_BE_NULL}


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
    Route(method="POST", path="/rigs", handler=add_rig, answer=shown.Repository, body=bodies.NewRig),
    Route(method="DELETE", path="/rigs/<rig>", handler=remove_rig, answer=shown.RigRemoved),
    Route(method="PATCH", path="/rigs/<rig>", handler=set_rig, answer=shown.Repository, body=bodies.RigSettings),
)
