"""A request for a completion, read as a conversation: who speaks, what was said, which calls had which results."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from gastown.hall.prompts import ROLES, prompt_of
from gastown.hall.stand_in.script import Role

__all__ = ["Message", "messages_of", "role_of", "text_of", "tools_of"]

_ADDED_BY_KILO = re.compile(r"<environment_details>.*?</environment_details>", re.DOTALL)
_CONTEXT = re.compile(r'^--- GASTOWN CONTEXT ---$.*?"role":\s*"(\w+)"', re.DOTALL | re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Message:
    """One message. `calls` are the ids of an assistant's calls in order; `call` is the one whose result it is."""

    said_by: Literal["system", "user", "assistant", "tool"]
    text: str
    calls: tuple[str, ...] = ()
    call: str | None = None


def messages_of(body: Mapping[str, Any]) -> Iterator[Message]:
    """The messages that have a form that is known, oldest first."""
    for message in body["messages"]:
        if not isinstance(message, dict):
            continue
        text = text_of(message)
        match message.get("role"):
            case "system" | "developer":
                yield Message(said_by="system", text=text)
            case "user":
                yield Message(said_by="user", text=text)
            case "assistant":
                yield Message(said_by="assistant", text=text, calls=tuple(_calls_of(message)))
            case "tool":
                yield Message(said_by="tool", text=text, call=str(message.get("tool_call_id")))
            case _:
                pass


def text_of(message: Mapping[str, Any]) -> str:
    """The text of a message, whose content is a string or a list of parts, without what kilo adds to each."""
    content = message.get("content")
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict)]
        content = "\n".join(part for part in parts if isinstance(part, str))
    return _ADDED_BY_KILO.sub("", content) if isinstance(content, str) else ""


def tools_of(body: Mapping[str, Any]) -> frozenset[str]:
    """The names of the tools that the model may call. What kilo asks beside conversations (titles) has none."""
    tools = body.get("tools")
    functions = (
        [tool.get("function") for tool in tools if isinstance(tool, dict)] if isinstance(tools, list) else []
    )
    return frozenset(str(one.get("name")) for one in functions if isinstance(one, dict))


def role_of(body: Mapping[str, Any]) -> Role | None:
    """The role of the agent that asks, as far as its request shows it; None for one that is not of a town.

    The tools tell the mayor from the others. Those show theirs in what the town lets them know, or by the prompt
    that the town gives to the role; else it is just an agent of a rig.
    """
    tools = tools_of(body)
    if "gt_sling" in tools:
        return "mayor"
    if "gt_done" not in tools:
        return None
    told = "\n".join(message.text for message in messages_of(body) if message.said_by == "system")
    context = _CONTEXT.search(told)
    roles: tuple[Role, ...] = get_args(Role)
    for role in roles:
        if context is not None and context[1] == role:
            return role
        if role in ROLES and prompt_of(role).partition("\n")[0] in told:
            return role
    return "rig"


def _calls_of(message: Mapping[str, Any]) -> Iterator[str]:
    calls = message.get("tool_calls")
    for call in calls if isinstance(calls, list) else []:
        yield str(call.get("id")) if isinstance(call, dict) else ""
