"""Websockets: the table of their routes, close codes, and what happens when a handler crashes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import IntEnum
from functools import wraps

import structlog
from quart import Blueprint, websocket

from gastown.contract.access import Scope
from gastown.contract.errors import ControlError

__all__ = ["CloseCode", "SocketRoute", "SocketRoutes", "close"]

log = structlog.get_logger()

Handler = Callable[..., Awaitable[None]]

_MOST_REASON_BYTES = 123
"""What a close frame has room for."""


class CloseCode(IntEnum):
    """Why the server ends a websocket."""

    ENDED = 1000
    GOING_AWAY = 1001
    TOO_MUCH = 1008
    GONE = 1011


@dataclass(frozen=True)
class SocketRoute:
    """The handler's docstring describes it. `scope` is what a bearer needs where there is no ticket."""

    path: str
    endpoint: str
    handler: Handler
    scope: Scope = Scope.ATTACH


class SocketRoutes:
    """The websockets of one blueprint."""

    def __init__(self, blueprint: Blueprint) -> None:
        self._blueprint = blueprint
        self.table: list[SocketRoute] = []

    def __call__(self, path: str) -> Callable[[Handler], Handler]:
        def add(handler: Handler) -> Handler:
            self.table.append(SocketRoute(path, f"{self._blueprint.name}.{handler.__name__}", handler))
            self._blueprint.add_websocket(path, handler.__name__, _guarded(handler))
            return handler

        return add


async def close(code: CloseCode, reason: str) -> None:
    """Close the present websocket, saying why."""
    await websocket.close(code, reason.encode()[:_MOST_REASON_BYTES].decode(errors="ignore"))


def _guarded(handler: Handler) -> Handler:
    """A crash is logged and closes with 1011: left to the framework it would be a 1000 (P10)."""

    @wraps(handler)
    async def guarded(**parameters: str) -> None:
        try:
            await handler(**parameters)
        except ControlError:
            raise  # the answer to an upgrade that was not accepted
        except Exception:  # the boundary of a connection
            log.exception("websocket.crashed", path=websocket.path[:200])
            await close(CloseCode.GONE, "Internal error; the log has the details")

    return guarded
