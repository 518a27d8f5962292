"""Access to the control port: which web pages, bearers and tickets are admitted, and to what.

`AuthMiddleware` wraps the framework and refuses unauthenticated callers before a body is read. What the scope of a
caller allows is checked where the route is known: `admit_request` and `admit_websocket` are the app's hooks.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import cast

import structlog
from quart import g, request, websocket

from gastown.asgi.origins import (
    App,
    Callers,
    GuardOrigins,
    Receive,
    Send,
    is_loopback,
    refuse,
)
from gastown.asgi.origins import Scope as AsgiScope
from gastown.contract.access import Scope, bearer_of
from gastown.contract.errors import BearerNeeded, ScopeTooSmall, TicketRefused, TicketRequired
from gastown.contract.identifiers import printable
from gastown.contract.town import CONFIG_HEADER
from gastown.control.auth.tickets import Tickets
from gastown.control.auth.tokens import Tokens
from gastown.settings import Settings

__all__ = [
    "AccessPolicy",
    "AuthMiddleware",
    "access_policy",
    "admit_request",
    "admit_websocket",
    "caller_scope",
    "ticket_agent",
]

log = structlog.get_logger()

_REMEDY = "set GASTOWN_CONTROL_TOKEN"
_CALLER = "gastown.caller"
"""The key in ASGI's scope under which the caller's `Scope` is found."""
_PREFLIGHT = (
    (b"access-control-allow-methods", b"GET, POST, PUT, PATCH, DELETE"),
    (b"access-control-allow-headers", b"authorization, content-type, x-town-config"),
    (b"access-control-max-age", b"600"),
)
_EXPOSED = (b"access-control-expose-headers", b"allow, retry-after, www-authenticate")


@dataclass(frozen=True)
class AccessPolicy:
    """What admits a caller. Without `tokens` every caller that `callers` accepts may do everything."""

    tokens: Tokens
    callers: Callers
    require_tickets: bool = False
    """Whether a websocket without a bearer needs a stream ticket. With tokens it always does."""

    @property
    def wants_tickets(self) -> bool:
        return self.require_tickets or bool(self.tokens)

    def warn_if_open(self, host: str) -> None:
        """Log a warning when the control port, on `host`, needs no token."""
        if self.tokens:
            return
        if self.callers.loopback_only:
            consequence = "every process of this machine may do everything with the town, its agents' commands too"
            log.warning("control.unlocked", host=host, consequence=consequence, remedy=_REMEDY)
        else:
            consequence = "every caller that reaches the port may run commands here and use the town's credentials"
            log.warning("control.open_to_all", host=host, consequence=consequence, remedy=_REMEDY)


def access_policy(settings: Settings, host: str) -> AccessPolicy:
    """The policy of a container that listens on `host`."""
    given = {
        Scope.CONTROL: settings.gastown_control_token,
        Scope.ATTACH: settings.gastown_attach_token,
        Scope.READ: settings.gastown_read_token,
    }
    tokens = Tokens({scope: token for scope, token in given.items() if token is not None})
    callers = Callers(
        # With tokens, a page that guesses a name still has no token. Beyond loopback our names are unknown.
        loopback_only=not tokens and is_loopback(host),
        named_origins=bool(tokens),
        listed=frozenset(settings.gastown_control_origins),
        hint="; GASTOWN_CONTROL_ORIGINS lists those that may",
    )
    return AccessPolicy(tokens, callers, settings.gastown_require_tickets)


class AuthMiddleware:
    """Refuses requests without a valid token, except those for `open_paths`."""

    def __init__(self, app: App, policy: AccessPolicy, open_paths: Collection[str]) -> None:
        self._app = app
        self._policy = policy
        self._open = open_paths
        self._guard = GuardOrigins(self._enter, policy.callers, lambda reason: {"error": reason})

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
        else:
            await self._guard(scope, receive, send)

    async def _enter(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        origin = self._policy.callers.listed_origin(scope["headers"])
        if origin is not None and scope["type"] == "http":
            send = partial(_allow_origin, send, origin.encode("latin-1"))
            if _is_preflight(scope):
                await send({"type": "http.response.start", "status": 204, "headers": list(_PREFLIGHT)})
                await send({"type": "http.response.body", "body": b"", "more_body": False})
                return
        bearer = bearer_of(scope["headers"])
        held = self._policy.tokens.scope_of(bearer) if self._policy.tokens else Scope.CONTROL
        ticket = scope["type"] == "websocket" and not bearer
        if held is None and not ticket and scope["path"] not in self._open:
            log.info("request.unknown_bearer", path=scope["path"][:200], shown=bool(bearer))
            unauthenticated = BearerNeeded()
            headers = [(b"www-authenticate", b"Bearer")]
            await refuse(
                scope, send, unauthenticated.status, unauthenticated.body.model_dump(exclude_none=True), headers
            )
            return
        await self._app({**scope, _CALLER: held or Scope.OPEN}, receive, send)


def _is_preflight(scope: AsgiScope) -> bool:
    asks = any(name.lower() == b"access-control-request-method" for name, _ in scope["headers"])
    return scope["method"] == "OPTIONS" and asks


async def _allow_origin(send: Send, origin: bytes, message: dict[str, object]) -> None:
    """Add the CORS headers that let a page of `origin` read the answer."""
    if message["type"] == "http.response.start":
        headers = cast("list[tuple[bytes, bytes]]", message["headers"])
        cors = [(b"access-control-allow-origin", origin), (b"vary", b"Origin"), _EXPOSED]
        message = {**message, "headers": [*headers, *cors]}
    await send(message)


def _of(scope: object) -> Scope:
    return cast(Scope, cast(AsgiScope, scope)[_CALLER])


def caller_scope() -> Scope:
    """What the token of the present request allows."""
    return _of(request.scope)


def admit_request(scopes: Mapping[str, Scope]) -> None:
    """Raise `BearerNeeded` or `ScopeTooSmall` when the present request may not. `scopes` are those of endpoints.

    An unknown path needs `read`, so that its 404 tells nothing to others; a route without a scope needs `control`.
    """
    endpoint = request.endpoint
    needed = Scope.READ if endpoint is None else scopes.get(endpoint, Scope.CONTROL)
    if CONFIG_HEADER in request.headers:
        needed = Scope.CONTROL  # it changes the town, whatever the route is
    _check(needed, caller_scope())


def _check(needed: Scope, held: Scope) -> None:
    if held < needed:
        raise BearerNeeded if held is Scope.OPEN else ScopeTooSmall(needed, held)


def admit_websocket(policy: AccessPolicy, tickets: Tickets, scopes: Mapping[str, Scope]) -> None:
    """Check the present websocket before it is accepted: by its bearer, else by its ticket.

    A ticket that is shown is used up, and must be valid even where none is required. Raises the error that
    becomes the answer to the upgrade.
    """
    held = _of(websocket.scope)
    by_bearer = bool(policy.tokens) and held is not Scope.OPEN
    if by_bearer:
        _check(scopes.get(websocket.endpoint or "", Scope.READ), held)
    agent_id = (websocket.view_args or {}).get("agent_id") or websocket.args.get("agentId") or None
    name = websocket.args.get("ticket")
    g.ticket_agent = None
    if name:
        g.ticket_agent = _use(tickets, name, agent_id)
    elif policy.wants_tickets and not by_bearer:
        raise TicketRequired


def _use(tickets: Tickets, name: str, agent_id: str | None) -> str:
    holder = tickets.use(name)
    if holder is None:
        raise TicketRefused("The stream ticket is unknown, used or expired")
    if holder != agent_id:
        raise TicketRefused(f"The stream ticket is for agent {printable(holder)}")
    return holder


def ticket_agent() -> str | None:
    """The only agent that the ticket of the present websocket opens; None when it came without one."""
    return cast("str | None", g.ticket_agent)
