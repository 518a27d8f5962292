"""The events of an agent as lines for people. They come from an agent: one of another shape says nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from gastown.hall.cli.commands.tables import plain

__all__ = ["AgentLog"]

_MOST = 2000
"""Characters of a line."""


class AgentLog:
    """Reads the events one after the other. A text is told when it is whole, a tool's call when it has ended; what
    is told twice, and words that the agent only thinks, are left out.
    """

    def __init__(self) -> None:
        self._people: set[str] = set()
        self._texts: dict[str, str] = {}
        self._told: set[str] = set()

    def lines(self, event: Mapping[str, Any]) -> Iterator[str]:
        """What an event of the user API adds, without control characters."""
        for says in self._says(str(event["event"]), event["data"]):
            line = plain(says)
            yield f"{event['at']}  " + (line if len(line) <= _MOST else line[: _MOST - 1] + "…")

    def _says(self, event: str, data: Mapping[str, Any]) -> Iterator[str]:
        if event == "message.updated":
            info = _inner(data, "info")
            if info.get("role") == "user":
                self._people.add(str(info.get("id")))
        elif event == "message.part.updated":
            yield from self._part(_inner(data, "part"))
        elif event == "session.turn.close":
            yield from self._whole_texts()
            yield f"the turn ended: {data.get('reason')}"
        elif event in _TELLERS:
            yield from self._whole_texts()
            says = _TELLERS[event](data)
            if says:
                yield says

    def _part(self, part: Mapping[str, Any]) -> Iterator[str]:
        name, kind = str(part.get("id")), part.get("type")
        if name in self._told:
            return
        if kind == "text" and part.get("text"):
            whose = "told" if str(part.get("messageID")) in self._people else "says"
            self._texts[name] = f"{whose}: {part['text']}"
            if whose == "told" or _inner(part, "time").get("end"):
                yield from self._whole_texts()
        elif kind == "tool":
            state = _inner(part, "state")
            if state.get("status") in ("completed", "error"):
                yield from self._whole_texts()
                self._told.add(name)
                yield _tool(str(part.get("tool")), state)

    def _whole_texts(self) -> Iterator[str]:
        """What was begun is whole once something else follows."""
        self._told |= self._texts.keys()
        yield from self._texts.values()
        self._texts.clear()


def _tool(name: str, state: Mapping[str, Any]) -> str:
    if state.get("status") == "error":
        return f"{name} failed: {state.get('error')}"
    about = state.get("title") or " ".join(f"{key}={value}" for key, value in _inner(state, "input").items())
    return f"{name}: {about}" if about else name


def _error(data: Mapping[str, Any]) -> str:
    error = _inner(data, "error")
    return f"error: {error.get('name')}: {_inner(error, 'data').get('message')}"


def _status(data: Mapping[str, Any]) -> str:
    status = _inner(data, "status")
    kind = status.get("type")
    return "" if kind in ("idle", "busy") else f"{kind}: {status.get('message')}"


def _usage(data: Mapping[str, Any]) -> str:
    cost = data.get("cost")
    price = f", ${cost:.4f}" if isinstance(cost, int | float) else ""
    return f"used {data.get('input')} tokens in and {data.get('output')} out{price}"


def _asked(data: Mapping[str, Any]) -> str:
    return f"asked for {data.get('permission') or data.get('kind')}: {data.get('reply')}"


_TELLERS = {
    "session.turn.open": lambda _: "a turn began",
    "session.error": _error,
    "session.status": _status,
    "agent.usage": _usage,
    "agent.ask_answered": _asked,
}


def _inner(outer: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    inner = outer.get(name)
    return inner if isinstance(inner, dict) else {}
