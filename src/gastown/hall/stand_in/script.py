"""The format of a script: what the stand-in says and calls, in answer to which message (reference/script.md)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Self

import trio
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

__all__ = [
    "PLACEHOLDER",
    "Answer",
    "Call",
    "Failure",
    "Keep",
    "Role",
    "Script",
    "ScriptUnusable",
    "Turn",
    "parse_script",
    "read_script",
]

PLACEHOLDER = re.compile(r"\{\{\s*(\w+)\s*\}\}")
"""A place in a text or an argument for a value that is known by then."""

Role = Literal["mayor", "polecat", "refinery", "triage", "rig"]
"""Whom a turn is for; `rig` is every agent that is not the mayor."""


class ScriptUnusable(Exception):
    """A script cannot be read, or is not one. One clear sentence, with the place in the file."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Keep(_Part):
    """What to keep of a call's result: the value at `path` in its JSON, the match of `pattern`, or all of it.

    `path` is keys and positions with points between them. A pattern with a group keeps its first group; with a
    path it is looked for in the value there.
    """

    path: str | None = Field(default=None, min_length=1)
    pattern: str | None = None

    @field_validator("pattern")
    @classmethod
    def _is_pattern(cls, text: str | None) -> str | None:
        return text if text is None else _checked(text)


class Call(_Part):
    """A call of a tool. `keep` gives names to parts of its result."""

    tool: str = Field(min_length=1)
    arguments: dict[str, Any] = {}
    keep: dict[str, Keep] = {}


class Failure(_Part):
    """What the gateway answers in a model's place: `times` times to the same request, None for always."""

    status: int = Field(ge=400, le=599)
    message: str = "the script says so"
    times: int | None = Field(default=None, ge=1)


class Answer(_Part):
    """One answer of the model: a text, calls of tools, both or neither.

    It takes `seconds`; None for as long as the stand-in takes otherwise. `cost` is what it costs, in USD.
    """

    text: str = ""
    calls: tuple[Call, ...] = ()
    seconds: float | None = Field(default=None, ge=0, le=86_400)
    cost: float = Field(default=0.0, ge=0)
    error: Failure | None = None

    @model_validator(mode="after")
    def _fails_or_answers(self) -> Self:
        if self.error is not None and self.error.times is None and (self.text or self.calls):
            raise ValueError("an error without times has neither a text nor calls: they would never be used")
        return self


class Turn(_Part):
    """What is answered to a message of the user, one answer after the other until the model has nothing to call.

    `message` is a regular expression that is looked for in the message; its named groups become values. None:
    every message. `times` is how many messages of one conversation it answers at most.
    """

    role: Role | None = None
    message: str | None = None
    times: int | None = Field(default=None, ge=1)
    answers: tuple[Answer, ...] = Field(min_length=1)

    @field_validator("message")
    @classmethod
    def _is_pattern(cls, text: str | None) -> str | None:
        return text if text is None else _checked(text)


class Script(_Part):
    """A whole script. The first turn that fits a message answers it."""

    format: Literal[1]
    name: str = Field(min_length=1, max_length=200)
    turns: tuple[Turn, ...]

    @model_validator(mode="after")
    def _knows_its_values(self) -> Self:
        known = {name for turn in self.turns for name in _given_by(turn)}
        for number, turn in enumerate(self.turns):
            for at, answer in enumerate(turn.answers):
                shown = [answer.text, *(call.arguments for call in answer.calls)]
                unknown = sorted({name for part in shown for name in _named_in(part)} - known)
                if unknown:
                    raise ValueError(
                        f"turns[{number}].answers[{at}]: nothing gives {{{{{unknown[0]}}}}} a value, "
                        "neither a group of a message's pattern nor a call's keep"
                    )
        return self


async def read_script(path: Path) -> Script:
    """The script in the file at `path`. Raises `ScriptUnusable`."""
    try:
        text = await trio.Path(path).read_text("utf-8")
    except OSError as error:
        raise ScriptUnusable(f"the script {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ScriptUnusable(f"the script {path} is not a text in UTF-8") from error
    return parse_script(text, str(path))


def parse_script(text: str, name: str) -> Script:
    """The script that `text` is; `name` is what a sentence about it calls the file. Raises `ScriptUnusable`."""
    try:
        return Script.model_validate(json.loads(text))
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise ScriptUnusable(f"the script {name} is not JSON: {error.msg} at {where}") from error
    except RecursionError as error:
        raise ScriptUnusable(f"the script {name} is nested too deeply") from error
    except ValidationError as error:
        raise ScriptUnusable(f"the script {name} cannot be played: {_first(error)}") from error


def _checked(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from error
    return text


def _given_by(turn: Turn) -> Iterator[str]:
    if turn.message is not None:
        yield from re.compile(turn.message).groupindex
    for answer in turn.answers:
        for call in answer.calls:
            yield from call.keep


def _named_in(part: Any) -> Iterator[str]:
    """The names of the placeholders in a text, or anywhere inside a JSON value."""
    if isinstance(part, str):
        yield from PLACEHOLDER.findall(part)
    elif isinstance(part, Mapping):
        for key, value in part.items():
            yield from _named_in(key)
            yield from _named_in(value)
    elif isinstance(part, list):
        for value in part:
            yield from _named_in(value)


def _first(error: ValidationError) -> str:
    """The first thing that is wrong, after the place where it is."""
    found = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in found["loc"]).lstrip(".")
    said = found["msg"].removeprefix("Value error, ")
    return f"{place}: {said[:1].lower()}{said[1:]}" if place else f"{said[:1].lower()}{said[1:]}"
