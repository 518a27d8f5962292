"""What has happened in a town or to an agent, and the streams of it, as server-sent events with a cursor."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Sequence
from types import TracebackType

import trio
from quart import Response, request
from quart.wrappers.response import ResponseBody

from gastown.concurrency.signal import Signal
from gastown.hall.api.answers import ApiError
from gastown.hall.api.context import context, on_board
from gastown.hall.store import people, records
from gastown.hall.store.history import newest_facts
from gastown.hall.store.transaction import Transaction
from gastown.hall.user_api import shown, views
from gastown.hall.user_api.routes import Route

__all__ = ["ROUTES"]

_Event = shown.Happening | shown.AgentEventShown
_Read = Callable[[int], Awaitable[Sequence[_Event]]]

_AT_ONCE = 500
_MOST_BEFORE, _USUALLY_BEFORE = 10_000, 200
_QUIET_SECONDS = 15.0
"""How often a line is sent while nothing happens, so that a reader that has gone is found out."""


async def events(town: str) -> Response:
    """What happens from now on, or after the number `after` or in `Last-Event-ID`, as server-sent events.

    Each event's data is a Happening. Numbers may have gaps; a fact that is no longer kept is left out.
    """
    store = context().store
    after = _cursor()

    async def read(number: int) -> list[shown.Happening]:
        return [views.happening(fact) for fact in await store.facts(town, number, _AT_ONCE)]

    return _streamed(await store.last_fact(town) if after is None else after, read, store.stepped)


async def agent_events(town: str, agent: str) -> Response:
    """The events of an agent from now on, or after `after` or `Last-Event-ID`, as server-sent events.

    Each event's data is an AgentEventShown. The hall has them from the container, which sends what comes within a
    second together. `agent` is its id, its name, or `mayor`.
    """
    store = context().store
    after = _cursor()

    def find(board: Transaction) -> tuple[str, int]:
        agent_id = people.agent_named(board, agent)
        newest = records.newest_agent_events(board, agent_id, 1)
        return agent_id, newest[-1].number if newest else 0

    agent_id, last = await on_board(town, find)

    async def read(number: int) -> list[shown.AgentEventShown]:
        return [_of_agent(one) for one in await store.agent_events(town, agent_id, number, _AT_ONCE)]

    return _streamed(last if after is None else after, read, store.heard)


async def log(town: str) -> list[shown.Happening]:
    """What has happened last in the town, oldest first."""
    last = _last()
    return await on_board(town, lambda board: [views.happening(one) for one in newest_facts(board, last)])


async def agent_log(town: str, agent: str) -> list[shown.AgentEventShown]:
    """What the agent's last events were, as far as they are kept, oldest first."""
    last = _last()

    def read(board: Transaction) -> list[shown.AgentEventShown]:
        agent_id = people.agent_named(board, agent)
        return [_of_agent(one) for one in records.newest_agent_events(board, agent_id, last)]

    return await on_board(town, read)


def _cursor() -> int | None:
    text = request.headers.get("Last-Event-ID") or request.args.get("after") or ""
    if text and not (text.isascii() and text.isdigit() and len(text) < 19):
        raise ApiError(400, "after must be the number of an event")
    return int(text) if text else None


def _last() -> int:
    text = request.args.get("last") or str(_USUALLY_BEFORE)
    if not (text.isascii() and text.isdigit() and len(text) < 6 and int(text) <= _MOST_BEFORE):
        raise ApiError(400, f"last must be a number up to {_MOST_BEFORE}")
    return int(text)


def _of_agent(one: records.StoredAgentEvent) -> shown.AgentEventShown:
    return shown.AgentEventShown(number=one.number, at=one.at, agent=one.agent_id, event=one.event, data=one.data)


def _streamed(after: int, read: _Read, signal: Signal) -> Response:
    answer = Response(_Stream(after, read, signal), content_type="text/event-stream")
    answer.headers["Cache-Control"] = "no-store"
    answer.timeout = None  # P11: it would be cut after a minute
    return answer


class _Stream(ResponseBody, AsyncIterator[bytes]):
    """What happens, piece by piece, until the hall closes or the reader has gone. It waits, and never polls."""

    def __init__(self, after: int, read: _Read, signal: Signal) -> None:
        self._after = after
        self._read = read
        self._signal = signal
        self._closing = context().desk.closing
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
            return b": what happens\n\n"
        while not self._closing.is_set():
            seen = self._signal.count
            if found := await self._read(self._after):
                self._after = found[-1].number
                return b"".join(_told(one) for one in found)
            with trio.move_on_after(_QUIET_SECONDS) as quiet:
                await self._signal.wait(after=seen)
            if quiet.cancelled_caught:
                return b": quiet\n\n"
        raise StopAsyncIteration


def _told(event: _Event) -> bytes:
    return f"id: {event.number}\ndata: {event.model_dump_json(by_alias=True)}\n\n".encode()


_AFTER = {"after": "the number of the last event that is known; without it, what happens from now on"}
_LAST = {"last": f"how many, at most {_MOST_BEFORE}; {_USUALLY_BEFORE} where it is left out"}
_AGENT = "/agents/<agent>"

ROUTES = (
    Route(method="GET", path="/events", handler=events, answer=shown.Happening, is_stream=True, query=_AFTER),
    Route(method="GET", path="/log", handler=log, answer=shown.Happening, many=True, query=_LAST),
    Route(
        method="GET",
        path=f"{_AGENT}/events",
        handler=agent_events,
        answer=shown.AgentEventShown,
        is_stream=True,
        query=_AFTER,
    ),
    Route(
        method="GET", path=f"{_AGENT}/log", handler=agent_log, answer=shown.AgentEventShown, many=True, query=_LAST
    ),
)
