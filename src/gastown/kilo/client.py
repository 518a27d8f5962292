"""The only way to a kilo server: whatever goes to one carries its password.

Nothing else in this room speaks HTTP (tests/unit/test_house.py), so nothing can forget it.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, TypeVar

import httpx2
from httpx2.websockets import AsyncWebSocketSession, WebSocketUpgradeError
from pydantic import TypeAdapter

from gastown.asgi.websocket_close import closing_over_pings
from gastown.contract.secret import Secret
from gastown.kilo.errors import KiloGarbled, KiloRefused, KiloUnreachable
from gastown.kilo.models import REFUSAL, parse, read

__all__ = ["MOST_BYTES", "Endpoint", "KiloClient", "http_client", "new_password"]

T = TypeVar("T")

_USER = "kilo"
MOST_BYTES = 32 * 1024 * 1024
"""More than a kilo server has to say at once. An agent works in it, and may mean harm."""


def http_client() -> httpx2.AsyncClient:
    """A client for all servers, without time-outs. It keeps no cookie: those of a host go to each of its ports, so
    one agent's server could have its own sent to all the others. And it asks for answers as they are: a small
    compressed one could become a very large one.
    """
    jar = CookieJar(DefaultCookiePolicy(allowed_domains=[]))
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=20)
    as_it_is = {"accept-encoding": "identity"}
    return httpx2.AsyncClient(trust_env=False, limits=limits, cookies=jar, headers=as_it_is, timeout=None)


def new_password() -> Secret:
    """A password for one server. The log's redaction knows its shape, also when the server is long gone."""
    return Secret(f"gts.{secrets.token_urlsafe(32)}")


@dataclass(frozen=True)
class Endpoint:
    """Where a server listens, and the password without which it answers nothing."""

    url: str
    password: Secret

    @property
    def port(self) -> int | None:
        return httpx2.URL(self.url).port


class KiloClient:
    """Requests, streams and websockets to one server. Deadlines are the caller's.

    Raises `KiloUnreachable` where there is no answer, `KiloRefused` for one with an error status, and
    `KiloGarbled` for one that cannot be read.
    """

    def __init__(self, http: httpx2.AsyncClient, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._http = http
        self._auth = httpx2.BasicAuth(_USER, endpoint.password.reveal())

    async def ask(
        self,
        kind: TypeAdapter[T],
        method: str,
        path: str,
        body: Any = None,
        query: Mapping[str, str] | None = None,
    ) -> T:
        """The answer, as a value of `kind`."""
        return read(kind, await self.call(method, path, body, query), method, path)

    async def call(self, method: str, path: str, body: Any = None, query: Mapping[str, str] | None = None) -> Any:
        """The answer's JSON, which may be any; None when it is empty."""
        try:
            async with self._http.stream(
                method, self._at(path), json=body, params=query, auth=self._auth, timeout=None
            ) as answer:
                content = await _content(method, path, answer)
        except httpx2.HTTPError as error:
            raise _unreachable(method, path, error) from error
        if answer.status_code >= 400:
            raise _refused(method, path, answer.status_code, content)
        return parse(content, method, path) if content else None

    @asynccontextmanager
    async def stream(self, path: str) -> AsyncIterator[AsyncIterator[bytes]]:
        """An answer that does not end, piece by piece. What breaks while it is read is `KiloUnreachable` too."""
        try:
            async with self._http.stream("GET", self._at(path), auth=self._auth, timeout=None) as answer:
                if answer.status_code >= 400:
                    raise _refused("GET", path, answer.status_code, await _content("GET", path, answer))
                yield answer.aiter_raw()
        except httpx2.HTTPError as error:
            raise _unreachable("GET", path, error) from error

    @asynccontextmanager
    async def websocket(
        self, path: str, query: Mapping[str, str], *, most_message_bytes: int
    ) -> AsyncIterator[AsyncWebSocketSession]:
        """What fails inside the block comes out as a group: catch it there."""
        try:
            opening = self._http.websocket(
                self._at(path).replace("http", "ws", 1),
                params=dict(query),
                auth=self._auth,
                max_message_size_bytes=most_message_bytes,
                # P20: whoever reads slowly would be cut. The server is on loopback, and watched.
                keepalive_ping_interval_seconds=None,
                timeout=None,
            )
            async with closing_over_pings(opening) as session:
                yield session
        except WebSocketUpgradeError as error:
            raise KiloRefused("GET", path, error.response.status_code, "Error", "no websocket") from None
        except httpx2.TransportError as error:
            raise _unreachable("GET", path, error) from error

    def _at(self, path: str) -> str:
        return self.endpoint.url + path


def _unreachable(method: str, path: str, error: Exception) -> KiloUnreachable:
    return KiloUnreachable(f"no answer to {method} {path}: {type(error).__name__}")


async def _content(method: str, path: str, answer: httpx2.Response) -> bytes:
    content = bytearray()
    async for chunk in answer.aiter_raw():
        content += chunk
        if len(content) > MOST_BYTES:
            raise KiloGarbled(method, path, f"more than {MOST_BYTES} bytes")
    return bytes(content)


def _refused(method: str, path: str, status: int, content: bytes) -> KiloRefused:
    """kilo's `{name, data: {message}}`, or what can be said without it."""
    try:
        refusal = read(REFUSAL, parse(content, method, path), method, path)
    except KiloGarbled:
        return KiloRefused(method, path, status, "Error", content[:200].decode(errors="replace"))
    return KiloRefused(method, path, status, refusal.name[:500], refusal.data.message[:500])
