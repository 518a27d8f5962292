"""The worker API (contract section 2), as far as a town on one machine needs it.

Kept: the registry, snapshots, container events, and, as such events, the single reports of an agent or of the
container (completed, waiting, review results, evictions, container-ready). Frequent reports of agents are in
`agent_api`.
"""

from __future__ import annotations

import re
import secrets
from datetime import timedelta
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError
from quart import Blueprint, Response, request

from gastown.contract.git import ReviewResult
from gastown.contract.identifiers import is_identifier
from gastown.contract.secret import Secret
from gastown.contract.wire import Wire
from gastown.contract.worker import AgentCompleted, MayorContext, RegistryEntry
from gastown.hall.api.answers import Answer, ApiError, issues, ok, read_bytes, read_json, reply, reply_with_secrets
from gastown.hall.api.context import context
from gastown.hall.api.responses import StoredRegistry, Token, TokenGiven
from gastown.hall.domain.town import TownRecord, mayor_context, registry_to_keep, resumed_registry
from gastown.hall.git_http.addresses import git_token, town_at
from gastown.hall.reconcile import facts
from gastown.hall.tokens import REFRESH_WINDOW, InvalidToken, claimed_town, mint, verify

__all__ = ["SNAPSHOT_LIMIT", "worker_api"]

SNAPSHOT_LIMIT = 64 * 1024 * 1024
_EVENT_LIMIT = 256 * 1024
_EVENT_NAME = re.compile(r"[a-z][a-z0-9_.-]{0,99}\Z")
_ENTRIES = TypeAdapter(list[RegistryEntry])
_AGENT = "/rigs/<rig_id>/agents/<agent_id>"
_REFRESH = "refresh_container_token"
_Report = TypeVar("_Report", bound=Wire)

worker_api = Blueprint("worker_api", __name__, url_prefix="/api/towns/<town_id>")


@worker_api.before_request
async def require_token() -> None:
    """401 without a token of this hall, 403 with that of another town. A refresh may come an hour late."""
    scheme, _, shown = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not shown:
        raise ApiError(401, "A container token is needed")
    late = REFRESH_WINDOW if request.endpoint == f"{worker_api.name}.{_REFRESH}" else timedelta()
    try:
        # For an unknown town no token is valid: its secret is a random one.
        token = Secret(shown)
        secret = await context().store.jwt_secret(claimed_town(token))
        town_id = verify(token, secret or Secret(secrets.token_hex()), context().now(), late)
    except InvalidToken as error:
        raise ApiError(401, f"Not a valid container token: {error}") from None
    if town_id != (request.view_args or {}).get("town_id"):
        raise ApiError(403, "The token is for another town")


@worker_api.before_request
async def require_identifiers() -> None:
    """400 when a segment of the path cannot name a rig, an agent or a review."""
    for name, value in (request.view_args or {}).items():
        if not is_identifier(value):
            raise ApiError(400, f"The path's {name} is not an identifier")


@worker_api.get("/container-registry")
async def get_registry(town_id: str) -> Answer[StoredRegistry]:
    """The newest registry that the container sent, with the town's repositories of now."""
    entries = await context().store.registry(town_id)
    return reply(StoredRegistry(data=resumed_registry(entries, await _town(town_id))))


@worker_api.post("/container-registry")
async def post_registry(town_id: str) -> Answer[None]:
    """Replace the registry. What is kept is what was sent, with the keys of newer containers; no gateway token."""
    entries = await read_json()
    try:
        _ENTRIES.validate_python(entries)
    except ValidationError as error:
        raise ApiError(400, "Invalid request body", issues=issues(error)) from None
    await context().store.replace_registry(town_id, registry_to_keep(entries))
    return ok()


@worker_api.get("/mayor-id")
async def get_mayor_id(town_id: str) -> Answer[MayorContext]:
    """What the mayor's next start will bring."""
    found = mayor_context(await _town(town_id))
    return reply_with_secrets(found)


@worker_api.get(f"{_AGENT}/db-snapshot")
async def get_snapshot(town_id: str, rig_id: str, agent_id: str) -> Response:
    """The agent's database, or 404: it starts fresh."""
    content = await context().store.snapshot(town_id, rig_id, agent_id)
    if content is None:
        raise ApiError(404, "There is no snapshot of this agent")
    return Response(content, content_type="application/octet-stream")


@worker_api.post(f"{_AGENT}/db-snapshot")
async def post_snapshot(town_id: str, rig_id: str, agent_id: str) -> Answer[None]:
    """Keep the agent's database in place of the one before."""
    place = town_id, rig_id, agent_id
    content = await read_bytes(SNAPSHOT_LIMIT)
    if not content:
        raise ApiError(400, "The snapshot is empty")
    await context().store.save_snapshot(*place, content)
    return ok()


@worker_api.delete(f"{_AGENT}/db-snapshot")
async def delete_snapshot(town_id: str, rig_id: str, agent_id: str) -> Answer[None]:
    """Forget the agent's database; also when there is none."""
    await context().store.delete_snapshot(town_id, rig_id, agent_id)
    return ok()


@worker_api.post("/container-events")
async def post_event(town_id: str) -> Answer[None]:
    """Keep a container event."""
    body = await _object(_EVENT_LIMIT)
    event = body.get("event")
    if not isinstance(event, str) or not _EVENT_NAME.match(event):
        raise ApiError(400, "Invalid request body", issues=[{"path": ["event"], "message": "must name an event"}])
    if body.get("townId", town_id) != town_id:
        raise ApiError(400, "Invalid request body", issues=[{"path": ["townId"], "message": "is another town"}])
    await context().store.add_event(town_id, event, body)
    return ok()


@worker_api.post("/refresh-container-token", endpoint=_REFRESH)
async def refresh_token(town_id: str) -> Answer[TokenGiven]:
    """A new container token for one that is valid or expired at most an hour ago."""
    store, now = context().store, context().now()
    secret = await store.jwt_secret(town_id)
    if secret is None:
        raise ApiError(404, "Not found")
    return reply_with_secrets(TokenGiven(data=Token(token=mint(secret, town_id, now))))


@worker_api.post("/rigs/<rig_id>/refresh-git-token")
async def refresh_git_token(town_id: str, rig_id: str) -> Answer[TokenGiven]:
    """For a folder a new token of ours; for all other rigs the town's GitHub token."""
    here, town = context(), await _town(town_id)
    is_folder = any(rig.rig_id == rig_id and rig.folder is not None for rig in town.rigs)
    token = await git_token(here.store, town_id, here.now()) if is_folder else town.git_auth.github_token
    if not token:
        raise ApiError(404, "The town has no git token")
    return reply_with_secrets(TokenGiven(data=Token(token=token)))


@worker_api.post("/<any('container-ready','container-eviction'):report>")
async def post_container_report(town_id: str, report: str) -> Answer[None]:
    """What the container reports once about itself."""
    body = await _object(_EVENT_LIMIT)
    await context().store.add_event(town_id, report.replace("-", "."), body)
    return ok()


@worker_api.post(f"{_AGENT}/<any('completed','waiting','eviction-context'):report>")
async def post_agent_report(town_id: str, rig_id: str, agent_id: str, report: str) -> Answer[None]:
    """What an agent reports once about itself. The end of one is told to the reconciler."""
    place = {"rigId": rig_id, "agentId": agent_id}
    body = await _object(_EVENT_LIMIT)
    ended = _valid(AgentCompleted, body | place) if report == "completed" else None
    await context().store.add_event(town_id, f"agent.{report.replace('-', '_')}", body | place)
    if ended is not None:
        reason = ended.reason or "no reason given"
        fact = facts.AgentEnded(agent_id=agent_id, attempt_id=ended.attempt_id, reason=reason)
        await context().store.tell(town_id, fact)
    return ok()


@worker_api.post("/rigs/<rig_id>/review-queue/<entry_id>/complete")
async def post_review_result(town_id: str, rig_id: str, entry_id: str) -> Answer[None]:
    """How a merge ended."""
    place = {"rigId": rig_id, "entryId": entry_id}
    body = await _object(_EVENT_LIMIT)
    result = _valid(ReviewResult, body | {"entry_id": entry_id})
    await context().store.add_event(town_id, "review.complete", body | place)
    await context().store.tell(town_id, _end_of_merge(result))
    return ok()


def _end_of_merge(result: ReviewResult) -> facts.Fact:
    if result.status == "merged":
        nothing = bool(result.nothing_to_merge)
        return facts.Merged(merge_id=result.entry_id, commit=result.commit_sha, nothing=nothing)
    if result.reason in ("failed", "checks", "person"):
        checks, for_person = result.reason == "checks", result.reason == "person"
        return facts.MergeFailed(
            merge_id=result.entry_id, reason=result.message, checks=checks, for_person=for_person
        )
    if result.reason == "moved":
        return facts.MergeMoved(merge_id=result.entry_id, head=result.head)
    return facts.MergeConflicted(merge_id=result.entry_id, files=result.conflicting_files or ())


def _valid(kind: type[_Report], body: dict[str, Any]) -> _Report:
    try:
        return kind.model_validate(body)
    except ValidationError as error:
        raise ApiError(400, "Invalid request body", issues=issues(error)) from None


async def _town(town_id: str) -> TownRecord:
    here = context()
    town = await town_at(here.store, town_id, here.url, here.now())
    if town is None:
        raise ApiError(404, "Not found")
    return town


async def _object(limit: int) -> dict[str, Any]:
    body = await read_json(limit)
    if not isinstance(body, dict):
        raise ApiError(400, "Invalid request body", issues=[{"path": [], "message": "must be an object"}])
    return body
