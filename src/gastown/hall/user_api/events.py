"""The stream of what happens in a town, as server-sent events. Their ids are the facts' numbers."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator
from types import TracebackType

import trio
from quart import Response, request
from quart.wrappers.response import ResponseBody

from gastown.hall.api.answers import ApiError
from gastown.hall.api.context import context
from gastown.hall.user_api import shown, views
from gastown.hall.user_api.routes import Route

__all__ = ["ROUTES"]

_AT_ONCE = 500
_QUIET_SECONDS = 15.0
"""How often a line is sent while nothing happens, so that a reader that has gone is found out."""


async def events(town: str) -> Response:
    """What happens from now on, or after the number `after` or in `Last-Event-ID`, as server-sent events.

    Each event's data is a Happening. Numbers may have gaps; a fact that is no longer kept is left out.
    """
    text = request.headers.get("Last-Event-ID") or request.args.get("after") or ""
    if text and not (text.isascii() and text.isdigit() and len(text) < 19):
        raise ApiError(400, "after must be the number of an event")
    after = int(text) if text else await context().store.last_fact(town)
    answer = Response(_Stream(town, after), content_type="text/event-stream")
    answer.headers["Cache-Control"] = "no-store"
    answer.timeout = None  # P11: it would be cut after a minute
    return answer


class _Stream(ResponseBody, AsyncIterator[bytes]):
    """What happens, piece by piece, until the hall closes or the reader has gone. It waits, and never polls."""

    def __init__(self, town: str, after: int) -> None:
        self._town = town
        self._after = after
        self._hall = context()
        self._is_open = False

    async def __aenter__(self) -> AsyncIterable[bytes]:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing is held: there is nothing to give back."""

    async def __anext__(self) -> bytes:
        if not self._is_open:
            self._is_open = True
            return b": what happens in the town\n\n"
        stepped = self._hall.store.stepped
        while not self._hall.desk.closing.is_set():
            seen = stepped.count
            if found := await self._hall.store.facts(self._town, self._after, _AT_ONCE):
                self._after = found[-1].number
                return b"".join(_event(views.happening(fact)) for fact in found)
            with trio.move_on_after(_QUIET_SECONDS) as quiet:
                await stepped.wait(after=seen)
            if quiet.cancelled_caught:
                return b": quiet\n\n"
        raise StopAsyncIteration


def _event(happening: shown.Happening) -> bytes:
    return f"id: {happening.number}\ndata: {happening.model_dump_json(by_alias=True)}\n\n".encode()


ROUTES = (
    Route(
        method="GET",
        path="/events",
        handler=events,
        answer=shown.Happening,
        is_stream=True,
        query={"after": "the number of the last event that is known; without it, what happens from now on"},
    ),
)
