"""What the tools' routes share: reading the caller and the body."""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel, ValidationError
from quart import request

from gastown.contract.identifiers import is_identifier
from gastown.hall.api.answers import ApiError, issues, read_json

__all__ = ["as_agent", "body_as", "sender"]

_LIMIT = 2 * 1024 * 1024
_Body = TypeVar("_Body", bound=BaseModel)


async def body_as(model: type[_Body]) -> _Body:
    """The body as `model`; ApiError 400 with what is wrong and where. No body at all is an empty object."""
    given = await read_json(_LIMIT) if request.content_length or request.content_type else {}
    try:
        return model.model_validate(given)
    except ValidationError as error:
        found = issues(error)
        first = found[0]
        where = ".".join(str(part) for part in first["path"])
        said = str(first["message"]).removeprefix("Value error, ")
        raise ApiError(400, f"Invalid request body: {where + ': ' if where else ''}{said}", issues=found) from None


def sender() -> str | None:
    """The agent that the request says it is from, in the header that the broker sets itself."""
    agent_id = request.headers.get("X-Gastown-Agent-Id")
    if agent_id is not None and not is_identifier(agent_id):
        raise ApiError(400, "X-Gastown-Agent-Id is not an identifier")
    return agent_id


def as_agent(agent_id: str | None) -> str | None:
    """The agent that the path or the body names; ApiError 403 when the header names another one."""
    said = sender()
    if said is not None and agent_id is not None and said != agent_id:
        raise ApiError(403, f"Agent {said} may not speak for agent {agent_id}")
    return agent_id or said
