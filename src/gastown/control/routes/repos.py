"""`/repos/setup` and `/git/merge`: accepted at once, done after the answer."""

from __future__ import annotations

from functools import partial

from quart import Blueprint, Response

from gastown.agents.launch.repositories import register_rig, set_up
from gastown.contract.errors import MergeNotFound, WorkerNotConfigured
from gastown.contract.git import Accepted, MergeRequest, MergeState, SetupRequest
from gastown.control.context import town
from gastown.control.requests import check_town, parse
from gastown.control.responses import reply
from gastown.control.route_table import Routes

__all__ = ["blueprint", "routes"]

blueprint = Blueprint("repos", __name__)
routes = Routes(blueprint)


@routes.post("/repos/setup", body=SetupRequest, answers={202: Accepted})
async def setup() -> Response:
    """Clone a rig's repository and make its browse worktree. `/health` tells how far it is."""
    body = await parse(SetupRequest)
    here = town()
    here.drain.check()
    rig = register_rig(
        here.services,
        body.rig_id,
        body.git_url,
        body.default_branch,
        variables=body.env_vars,
        integration_id=body.platform_integration_id,
    )
    work = partial(set_up, here.services, rig)
    here.background.start(f"setup {body.rig_id}", work)
    return reply(Accepted(message=f"The repository of rig {body.rig_id} is being set up"), 202)


@routes.post("/git/merge", body=MergeRequest, answers={202: Accepted})
async def merge() -> Response:
    """Merge a branch into another one and push it. The result goes to the callback, else to the review queue.

    It may be asked again with the same `entryId`: while that merge runs, it is one merge, and what is merged
    already is found to be. A merge that the end of the container cut is run again by the next one on the same
    disk, and its result then goes to the review queue.
    """
    body = await parse(MergeRequest)
    here = town()
    check_town(here, body.town_id)
    here.drain.check()
    if not here.services.reports.has_worker:
        raise WorkerNotConfigured
    rig = register_rig(here.services, body.rig_id, body.git_url, body.target_branch, variables=body.env_vars)
    await here.merges.accept(here.services, body, rig, here.background.start)
    return reply(Accepted(message=f"{body.branch} is being merged into {body.target_branch}"), 202)


@routes.get("/git/merges/<entry_id>", answers={200: MergeState})
async def merge_state(entry_id: str) -> Response:
    """How a merge stands or has ended, until a day after its end."""
    record = town().merges.state(entry_id)
    if record is None:
        raise MergeNotFound(entry_id)
    return reply(record, without_unset=True)
