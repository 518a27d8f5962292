"""`/repos/setup` and `/git/merge`: accepted at once, done behind the answer."""

from __future__ import annotations

from functools import partial

from quart import Blueprint, Response

from gastown.agents.launch.repositories import register_rig, set_up
from gastown.contract.errors import WorkerNotConfigured
from gastown.contract.git import Accepted, MergeRequest, SetupRequest
from gastown.control.context import town
from gastown.control.requests import parse
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
    """Merge a branch into another one and push it. The result goes to the callback, else to the review queue."""
    body = await parse(MergeRequest)
    here = town()
    here.drain.check()
    if not here.services.reports.has_worker:
        raise WorkerNotConfigured
    rig = register_rig(here.services, body.rig_id, body.git_url, body.target_branch, variables=body.env_vars)
    work = partial(here.merges.run, here.services, body, rig)
    here.background.start(f"merge {body.entry_id}", work)
    return reply(Accepted(message=f"{body.branch} is being merged into {body.target_branch}"), 202)
