"""What an agent may ask of which service. Pure functions over the table of tools; what is not named is refused."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from functools import cache
from urllib.parse import unquote_to_bytes

from gastown.broker.grants import AgentIdentity
from gastown.contract.identifiers import is_identifier
from gastown.contract.tools import tools

__all__ = ["Refused", "Route", "To", "gateway_path", "own_gateway_path", "route"]

_MOST_BYTES = 2048
_RAW_SEGMENT = re.compile(rb"(?:[A-Za-z0-9._:@~-]|%[0-9A-Fa-f]{2})+\Z")
_SEGMENT = re.compile(r"[A-Za-z0-9_~][A-Za-z0-9._:@~-]*\Z")
_QUERY = re.compile(rb"[\x21-\x7e]{0,4096}\Z")

_MODELS = frozenset(
    f"/api/openrouter/{name}" for name in ("chat/completions", "responses", "messages", "embeddings")
)
_OF_ORGANIZATION = {"/api/openrouter/models": "models", "/api/defaults": "defaults"}
_GATEWAY = (
    # What kilo 7.7.7 asks of its gateway for a conversation; everything else of it is for a person's account.
    ("POST", ("api", "openrouter", "chat", "completions")),
    ("POST", ("api", "openrouter", "responses")),
    ("POST", ("api", "openrouter", "messages")),
    ("POST", ("api", "openrouter", "embeddings")),
    ("GET", ("api", "openrouter", "models")),
    ("GET", ("api", "defaults")),
    ("GET", ("api", "user")),
    ("GET", ("api", "profile")),
    ("GET", ("api", "profile", "balance")),
    # The tool `websearch`: in every other session kilo has the gateway search, in the rest it goes to another
    # service by itself, without a credential.
    ("POST", ("api", "exa", "search")),
)


class To(Enum):
    """The service that answers."""

    WORKER = "worker"
    GATEWAY = "gateway"
    REFRESH = "refresh"
    """The broker, in place of the worker: agents refresh a token that they do not have."""
    ENVIRONMENT = "environment"
    """The broker itself: the live part of the shell's environment."""


@dataclass(frozen=True)
class Route:
    """`path` is canonical: nothing in it needs quoting, and no part of it leads upwards."""

    to: To
    path: str

    @property
    def is_model_call(self) -> bool:
        """Whether what comes back is a model's, which costs something."""
        return self.to is To.GATEWAY and self.path in _MODELS


class Refused(Exception):
    """A request that is not let through; the sentence may go back to the agent.

    `path` is what was asked for, where it is made of plain names.
    """

    def __init__(self, status: int, message: str, path: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.path = path


def route(identity: AgentIdentity, method: str, raw_path: bytes, query: bytes = b"") -> Route:
    """Where a request of that agent goes. Raises `Refused`: 400 for a strange path, 403 for one not its own."""
    segments = _segments(raw_path)
    if not _QUERY.match(query):
        raise Refused(400, "The query holds characters that do not belong into one")
    path = "/" + "/".join(segments)
    if (method, segments) in _GATEWAY:
        return Route(To.GATEWAY, path)
    if (method, segments) == ("POST", ("api", "towns", identity.town_id, "refresh-container-token")):
        return Route(To.REFRESH, path)
    if (method, segments) == ("GET", ("broker", "environment")):
        return Route(To.ENVIRONMENT, path)
    if any(method == verb and _fits(identity, pattern, segments) for verb, pattern in _calls(identity.is_mayor)):
        return Route(To.WORKER, path)
    raise Refused(403, f"Agent {identity.agent_id} may not do this", path)


def gateway_path(path: str, organization: str | None) -> str:
    """Where a path of the gateway's is asked for an agent whose organisation this is.

    A kilo that knows of an organisation asks it for its models and its defaults, and everything else at the same
    places as without one. With the broker it knows of none, so the broker does that for it.
    """
    of_organization = _OF_ORGANIZATION.get(path)
    if of_organization and organization and is_identifier(organization):
        return f"/api/organizations/{organization}/{of_organization}"
    return path


def own_gateway_path(path: str) -> str | None:
    """Where a path of kilo's is at a gateway with OpenAI's paths, below its base; None for what none has."""
    kilos = "/api/openrouter"
    return path.removeprefix(kilos) if path.startswith(f"{kilos}/") else None


def _segments(raw_path: bytes) -> tuple[str, ...]:
    """The path's segments, decoded once. One that holds anything but a plain name is refused."""
    if not raw_path.startswith(b"/") or len(raw_path) > _MOST_BYTES:
        raise Refused(400, "The path is too long, or is none")
    found = []
    for raw in raw_path[1:].split(b"/"):
        text = unquote_to_bytes(raw).decode("latin-1") if _RAW_SEGMENT.match(raw) else ""
        if not _SEGMENT.match(text):
            raise Refused(400, "The path holds a segment that is no plain name")
        found.append(text)
    return tuple(found)


@cache
def _calls(mayor: bool) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Method and pattern of each call of the role's tools."""

    def all_calls() -> Iterator[tuple[str, tuple[str, ...]]]:
        for tool in tools():
            if (tool.role == "mayor") is mayor:
                yield from ((call.method, tuple(call.path[1:].split("/"))) for call in tool.calls)

    return tuple(all_calls())


def _fits(identity: AgentIdentity, pattern: tuple[str, ...], segments: tuple[str, ...]) -> bool:
    own = {"{$agent}": identity.agent_id, "{$rig}": identity.rig_id, "{$town}": identity.town_id}
    return len(pattern) == len(segments) and all(
        given == own[wanted] if wanted in own else is_identifier(given) if wanted[0] == "{" else given == wanted
        for wanted, given in zip(pattern, segments, strict=True)
    )
