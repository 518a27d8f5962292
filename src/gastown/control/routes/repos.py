"""`/repos/setup` and `/git/merge`: accepted at once, done after the answer."""

from __future__ import annotations

from functools import partial

from quart import Blueprint, Response, request

from gastown.agents.launch.repositories import register_rig, set_up
from gastown.contract.access import Scope
from gastown.contract.errors import (
    ChangesNotRead,
    InvalidRequest,
    Issue,
    MergeNotFound,
    RigNotFound,
    WorkerNotConfigured,
)
from gastown.contract.git import (
    NO_BRANCH,
    Accepted,
    Changes,
    MergeRequest,
    MergeState,
    SetupRequest,
    is_branch_name,
)
from gastown.control.context import town
from gastown.control.requests import check_town, parse
from gastown.control.responses import reply
from gastown.control.route_table import Routes
from gastown.git.errors import BranchMissing, GitError
from gastown.git.merging.changes import look_at_changes

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


@routes.get("/rigs/<rig_id>/changes", answers={200: Changes}, scope=Scope.CONTROL)
async def changes(rig_id: str) -> Response:
    """What `?branch=` has that `?target=` has not, to be looked at before a merge.

    Without `target` it is the rig's default branch. The newest state of the remote is fetched
    first; nothing is checked out. The `head` of the answer is what a merge may be bound to.
    """
    branch, target = request.args.get("branch", ""), request.args.get("target")
    for name, value in (("branch", branch), ("target", target)):
        if value is not None and not is_branch_name(value):
            raise InvalidRequest([Issue(path=(name,), message=NO_BRANCH)])
    repositories = town().services.repositories
    rig = repositories.rigs.get(rig_id)
    if rig is None:
        raise RigNotFound(rig_id)
    try:
        found = await look_at_changes(repositories, rig, branch, target or rig.default_branch)
    except GitError as error:
        raise ChangesNotRead(str(error), 404 if isinstance(error, BranchMissing) else 502) from error
    return reply(found, without_unset=True)
