"""Protects servers on a machine with a browser from requests of web pages.

A browser can connect to loopback on behalf of any page that it shows. A page may send simple requests and open
websockets without a preflight (the browser then names the page in `Origin`). A page whose host name resolves to
127.0.0.1 even has the server's own origin for the browser (its name is then in `Host`).
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import structlog

from gastown.contract.identifiers import printable

__all__ = ["App", "Callers", "GuardOrigins", "Headers", "Receive", "Scope", "Send", "is_loopback", "refuse"]

log = structlog.get_logger()

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = Iterable[tuple[bytes, bytes]]

_AUTHORITY = re.compile(r"(?:\[([0-9a-f:.]+)\]|([^\[\]:/@\s]+))(?::([0-9]{1,5}))?")
_WEB_ORIGIN = re.compile(r"(https?)://(.+)")
_PORTS = {"http": "80", "https": "443"}


class _Authority(NamedTuple):
    name: str
    port: str | None

    @classmethod
    def of(cls, text: str) -> _Authority | None:
        found = _AUTHORITY.fullmatch(text.lower())
        return None if found is None else cls(found[1] or found[2], found[3])


def is_loopback(name: str) -> bool:
    """Whether a host name or an address without brackets means this machine to itself."""
    address = _address(name)
    return name.lower() == "localhost" if address is None else address.is_loopback


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None


@dataclass(frozen=True)
class Callers:
    """Which host names a server answers to, and which web pages may call it.

    With `loopback_only`, `Host` must name loopback. A page of the server's own origin may call; without
    `named_origins` only when that is an address or `localhost`, since any name can be made to resolve to us.
    `listed` are further origins, in lower case; `hint` ends the refusal of a page.
    """

    loopback_only: bool
    named_origins: bool = False
    listed: frozenset[str] = frozenset()
    hint: str = ""

    def refusal(self, headers: Headers) -> str | None:
        """Why a request with these headers is refused; None when it is accepted."""
        hosts, origins = _values(headers, b"host"), _values(headers, b"origin")
        host = _Authority.of(hosts[0]) if len(hosts) == 1 else None
        if self.loopback_only and (host is None or not is_loopback(host.name)):
            return (
                f"This server answers to loopback only, not to {printable(', '.join(hosts)) or 'no host at all'}"
            )
        for origin in origins:
            if origin.lower() not in self.listed and not self._is_own(origin.lower(), host):
                return f"Web pages of {printable(origin) or 'nowhere'} may not call this server{self.hint}"
        return None

    def listed_origin(self, headers: Headers) -> str | None:
        """The listed origin that the page with these headers is of."""
        origins = _values(headers, b"origin")
        return origins[0] if len(origins) == 1 and origins[0].lower() in self.listed else None

    def _is_own(self, origin: str, host: _Authority | None) -> bool:
        parts = _WEB_ORIGIN.fullmatch(origin)
        page = _Authority.of(parts[2]) if parts is not None else None
        if parts is None or page is None or host is None:
            return False
        usual = _PORTS[parts[1]]
        same = (page.name, page.port or usual) == (host.name, host.port or usual)
        return same and (self.named_origins or page.name == "localhost" or _address(page.name) is not None)


def _values(headers: Headers, name: bytes) -> list[str]:
    return [value.decode("latin-1").strip() for key, value in headers if key.lower() == name]


@dataclass(frozen=True)
class GuardOrigins:
    """Middleware that answers 403 to requests that `callers` refuses, before any body is read.

    `body` makes the answer's JSON from the reason.
    """

    app: App
    callers: Callers
    body: Callable[[str], Mapping[str, Any]]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        reason = self.callers.refusal(scope["headers"]) if scope["type"] in ("http", "websocket") else None
        if reason is None:
            await self.app(scope, receive, send)
        else:
            log.info("request.not_of_ours", path=scope["path"][:200], reason=reason)
            await refuse(scope, send, 403, self.body(reason))


async def refuse(
    scope: Scope, send: Send, status: int, body: Mapping[str, Any], headers: Iterable[tuple[bytes, bytes]] = ()
) -> None:
    """Answer a request, or an upgrade, with an error as JSON."""
    content = json.dumps(body).encode()
    kind = "http.response" if scope["type"] == "http" else "websocket.http.response"
    sent = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(content)).encode()),
        *headers,
    ]
    await send({"type": f"{kind}.start", "status": status, "headers": sent})
    await send({"type": f"{kind}.body", "body": content, "more_body": False})
