"""What an agent may ask of whom."""

from __future__ import annotations

from contextlib import suppress
from string import ascii_letters, digits
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gastown.broker.grants import AgentIdentity
from gastown.broker.policy import Refused, To, gateway_path, route
from gastown.contract.identifiers import is_identifier
from gastown.contract.tools import tools

MAYOR = AgentIdentity("mayor-1", "mayor-oak", "oak", "mayor")
POLE = AgentIdentity("pole-1", "r1", "oak", "polecat")
OTHER = AgentIdentity("pole-2", "r2", "oak", "polecat")
OWN = {"{$agent}": "pole-1", "{$rig}": "r1", "{$town}": "oak"}
R, M = "/api/towns/oak/rigs/r1", "/api/mayor/oak/tools"


def path_of(template: str, identity: AgentIdentity) -> str:
    for name, value in zip(("{$agent}", "{$rig}", "{$town}"), identity[:3], strict=True):
        template = template.replace(name, value)
    return "/".join("thing-7" if part.startswith("{") else part for part in template.split("/"))


@pytest.mark.parametrize("tool", tools(), ids=lambda tool: f"{tool.role}-{tool.name}")
def test_every_call_of_a_role_s_tools_is_allowed_to_it_and_its_own_to_nobody_else(tool) -> None:
    identity = MAYOR if tool.role == "mayor" else POLE
    for call in tool.calls:
        path = path_of(call.path, identity)
        assert route(identity, call.method, path.encode()).to is To.WORKER
        assert route(identity, call.method, path.encode()).path == path
        if "/agents/pole-1/" in path or "{$rig}" in call.path:
            with pytest.raises(Refused):
                route(OTHER, call.method, path.encode())
        if path.startswith("/api/mayor"):
            with pytest.raises(Refused):
                route(POLE, call.method, path.encode())


ALLOWED = [
    (MAYOR, "GET", f"{M}/rigs/any-rig/beads", To.WORKER),
    (MAYOR, "POST", "/api/towns/oak/rigs/any-rig/nudge", To.WORKER),
    (POLE, "GET", f"{R}/agents/pole-1/prime", To.WORKER),
    (POLE, "GET", f"{R}/agents/pole%2D1/prime", To.WORKER),
    (POLE, "POST", "/api/towns/oak/refresh-container-token", To.REFRESH),
    (POLE, "GET", "/broker/environment", To.ENVIRONMENT),
    (POLE, "POST", "/api/openrouter/chat/completions", To.GATEWAY),
    (MAYOR, "GET", "/api/openrouter/models", To.GATEWAY),
    (POLE, "POST", "/api/exa/search", To.GATEWAY),
    (POLE, "GET", "/api/defaults", To.GATEWAY),
    (MAYOR, "GET", "/api/user", To.GATEWAY),
]
REFUSED = [
    # another's things
    (POLE, "GET", f"{R}/agents/pole-2/prime", 403),
    (POLE, "GET", "/api/towns/oak/rigs/r2/agents/pole-1/prime", 403),
    (POLE, "GET", "/api/towns/elm/rigs/r1/agents/pole-1/prime", 403),
    (POLE, "POST", "/api/towns/elm/refresh-container-token", 403),
    (POLE, "GET", "/api/towns/oak/rigs/r2/beads/b", 403),
    (MAYOR, "GET", "/api/mayor/elm/tools/rigs", 403),
    (POLE, "GET", f"{M}/rigs", 403),
    (MAYOR, "GET", f"{R}/agents/pole-1/prime", 403),
    # the container's own, though of the same town
    (POLE, "GET", "/api/towns/oak/container-registry", 403),
    (POLE, "GET", "/api/towns/oak/mayor-id", 403),
    (POLE, "POST", f"{R}/refresh-git-token", 403),
    (POLE, "GET", f"{R}/agents/pole-1/db-snapshot", 403),
    (POLE, "POST", f"{R}/agents/pole-1/completed", 403),
    (MAYOR, "GET", "/api/towns/oak/container-registry", 403),
    # another method
    (POLE, "POST", f"{R}/agents/pole-1/prime", 403),
    (POLE, "DELETE", f"{R}/beads/b", 403),
    (POLE, "HEAD", f"{R}/agents/pole-1/prime", 403),
    (POLE, "get", f"{R}/agents/pole-1/prime", 403),
    # the rest of the gateway
    (POLE, "GET", "/api/trpc/cliSessionsV2.list", 403),
    (POLE, "POST", "/api/gastown/git-credentials", 403),
    (POLE, "GET", "/api/organizations/org-1/models", 403),
    (POLE, "GET", "/api/organizations/org-1/modes", 403),
    (POLE, "GET", "/api/organizations/org-1/defaults", 403),
    (POLE, "GET", "/api/exa/search", 403),
    (POLE, "POST", "/api/exa/contents", 403),
    (POLE, "POST", "/api/fim/completions", 403),
    (POLE, "POST", "/api/gateway/v1/audio/transcriptions", 403),
    (POLE, "GET", "/api/users/notifications", 403),
    (POLE, "POST", "/api/defaults", 403),
    (POLE, "GET", "/", 400),
    # more or less than a route
    (POLE, "GET", f"{R}/agents/pole-1", 403),
    (POLE, "GET", f"{R}/agents/pole-1/prime/", 400),
    (POLE, "GET", f"{R}/agents/pole-1//prime", 400),
    (POLE, "GET", f"/{R}/agents/pole-1/prime", 400),
    (POLE, "GET", "", 400),
    (POLE, "GET", "http://elsewhere/api/openrouter/models", 400),
    (POLE, "GET", "*", 400),
    (POLE, "GET", "/" + "a/" * 2000 + "a", 400),
    # ways up and around
    (POLE, "GET", f"{R}/agents/pole-1/../pole-2/prime", 400),
    (POLE, "GET", f"{R}/agents/pole-2/../pole-1/prime", 400),
    (POLE, "GET", f"{R}/agents/pole-1/%2e%2e/pole-2/prime", 400),
    (POLE, "GET", f"{R}/agents/pole-1/.%2E/prime", 400),
    (POLE, "GET", f"{R}/agents/./pole-1/prime", 400),
    (POLE, "GET", f"{R}/beads/..", 400),
    (POLE, "GET", f"{R}/beads/b%2Fclose", 400),
    (POLE, "GET", f"{R}/beads/b%252Fclose", 400),
    (POLE, "GET", f"{R}/beads/b%5cclose", 400),
    (POLE, "GET", f"{R}/beads/b\\close", 400),
    (POLE, "GET", f"{R}/beads/b;close", 400),
    (POLE, "GET", f"{R}/beads/b%00", 400),
    (POLE, "GET", f"{R}/beads/b%0d%0aX-Y: z", 400),
    (POLE, "GET", f"{R}/beads/b%3Fx", 400),
    (POLE, "GET", f"{R}/beads/b%23", 400),
    (POLE, "GET", f"{R}/beads/b%", 400),
    (POLE, "GET", f"{R}/beads/b%zz", 400),
    (POLE, "GET", f"{R}/beads/%c0%ae%c0%ae", 400),
    (POLE, "GET", f"{R}/beads/{'b' * 200}", 403),
]


@pytest.mark.parametrize(
    ("path", "organization", "asked"),
    [
        ("/api/openrouter/models", "org-1", "/api/organizations/org-1/models"),
        ("/api/defaults", "org-1", "/api/organizations/org-1/defaults"),
        ("/api/defaults", None, "/api/defaults"),
        ("/api/openrouter/models", None, "/api/openrouter/models"),
        ("/api/openrouter/models", "", "/api/openrouter/models"),
        ("/api/openrouter/models", "../../user", "/api/openrouter/models"),
        ("/api/openrouter/models", "org-1/modes?", "/api/openrouter/models"),
        ("/api/openrouter/chat/completions", "org-1", "/api/openrouter/chat/completions"),
        ("/api/exa/search", "org-1", "/api/exa/search"),
    ],
)
def test_an_organisation_is_asked_for_its_models_and_defaults_and_for_nothing_else(
    path: str, organization: str | None, asked: str
) -> None:
    assert gateway_path(path, organization) == asked


@pytest.mark.parametrize(("identity", "method", "path", "to"), ALLOWED)
def test_what_is_an_agents_own_goes_through(identity: AgentIdentity, method: str, path: str, to: To) -> None:
    assert route(identity, method, path.encode()).to is to


@pytest.mark.parametrize(("identity", "method", "path", "status"), REFUSED)
def test_what_is_not_is_refused(identity: AgentIdentity, method: str, path: str, status: int) -> None:
    with pytest.raises(Refused) as refused:
        route(identity, method, path.encode())
    assert refused.value.status == status


@pytest.mark.parametrize("query", [b"a b", b"a\r\nb", b"\xff", b"a" * 5000, b"\x00"])
def test_a_strange_query_is_refused(query: bytes) -> None:
    with pytest.raises(Refused):
        route(MAYOR, "GET", f"{M}/rigs".encode(), query)


PIECES = st.one_of(
    st.sampled_from(
        ["..", ".", "", "pole-1", "pole-2", "r1", "r2", "oak", "agents", "rigs", "prime", "%2e", "%2f"]
    ),
    st.text(ascii_letters + digits + "._:@~-%/\\;?# ", max_size=12),
)


@given(st.lists(PIECES, max_size=10), st.sampled_from(["GET", "POST", "PATCH", "DELETE"]), st.booleans())
def test_what_goes_through_is_a_plain_path_that_names_nobody_else(
    pieces: list[str], method: str, encode: bool
) -> None:
    """However it is spelled: what goes upstream has no way up, and is let through a second time as it is."""
    path = "/api/towns/oak/rigs/r1/" + "/".join(quote(piece, safe="") if encode else piece for piece in pieces)
    try:
        found = route(POLE, method, path.encode())
    except Refused:
        return
    segments = found.path[1:].split("/")
    assert all(is_identifier(segment) for segment in segments)
    assert segments[:5] == ["api", "towns", "oak", "rigs", "r1"]
    assert segments[5] != "agents" or segments[6] == "pole-1"
    assert route(POLE, method, found.path.encode()) == found


@given(st.binary(max_size=60), st.binary(max_size=20))
def test_no_bytes_at_all_are_a_crash(path: bytes, query: bytes) -> None:
    with suppress(Refused):
        route(POLE, "GET", b"/" + path, query)
