"""The answer of a script to a request: a pure function, for which the request's messages say how far it is."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gastown.hall.stand_in.conversation import Message, messages_of, role_of, tools_of
from gastown.hall.stand_in.script import PLACEHOLDER, Answer, Failure, Keep, Role, Script, Turn

__all__ = ["LAST_WORDS", "TITLE", "Played", "PlayedCall", "play"]

TITLE = "A scripted conversation"
LAST_WORDS = "(The script has no more to say to this message.)"


@dataclass(frozen=True, kw_only=True)
class PlayedCall:
    """A call with all its values filled in."""

    tool: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Played:
    """What is answered. `seconds` None: as long as the stand-in takes otherwise; `cost` is in USD.

    With an `error` the request fails; once that has happened as often as it says, the rest is answered.
    """

    text: str
    calls: tuple[PlayedCall, ...] = ()
    seconds: float | None = None
    cost: float = 0.0
    error: Failure | None = None


def play(script: Script, body: Mapping[str, Any]) -> Played | None:
    """The answer to a request; None where no turn of the script fits the newest message of the user.

    The same request has the same answer, whichever process is asked. A request without tools belongs to no
    conversation of an agent, and is given a title.
    """
    if not tools_of(body):
        return Played(text=TITLE)
    scene = _Scene(script, role_of(body))
    for message in messages_of(body):
        scene.take(message)
    return scene.answer()


@dataclass
class _Scene:
    """A conversation, gone through from its beginning."""

    script: Script
    role: Role | None
    turn: Turn | None = None
    position: int = 0
    has_spoken: bool = False
    values: dict[str, Any] = field(default_factory=dict[str, Any])
    _answered: Counter[int] = field(default_factory=Counter[int])
    _kept: dict[str, Mapping[str, Keep]] = field(default_factory=dict[str, Mapping[str, Keep]])

    def take(self, message: Message) -> None:
        if message.said_by == "user":
            self._begin(message.text)
        elif message.said_by == "assistant":
            self.has_spoken = True
            answer = self._next()
            for call, call_id in zip(answer.calls if answer else (), message.calls, strict=False):
                self._kept[call_id] = call.keep
            self.position += 1
        elif message.said_by == "tool":
            for name, keep in self._kept.get(message.call or "", {}).items():
                value = _part_of(message.text, keep)
                if value is not None:
                    self.values[name] = value

    def answer(self) -> Played | None:
        if self.turn is None:
            return None
        answer = self._next()
        if answer is None:
            return Played(text=LAST_WORDS)
        opening = "" if self.has_spoken else f"(A script plays here, no language model: “{self.script.name}”.)\n\n"
        try:
            text = self._filled(answer.text)
            calls = tuple(
                PlayedCall(tool=call.tool, arguments=self._filled(call.arguments)) for call in answer.calls
            )
        except KeyError as missing:
            text, calls = (
                f"(The script cannot go on: {{{{{missing.args[0]}}}}} has no value in this conversation.)",
                (),
            )
        return Played(
            text=(opening + text).strip() if opening else text,
            calls=calls,
            seconds=answer.seconds,
            cost=answer.cost,
            error=answer.error,
        )

    def _begin(self, text: str) -> None:
        """The turn for a new message; the values of earlier ones stay."""
        self.turn, self.position = None, 0
        for number, turn in enumerate(self.script.turns):
            if turn.times is not None and self._answered[number] >= turn.times:
                continue
            found = self._fits(turn, text)
            if found is not None:
                self._answered[number] += 1
                self.turn = turn
                self.values |= found
                return

    def _fits(self, turn: Turn, text: str) -> Mapping[str, str] | None:
        """The values that the message brings when the turn is for it, else None."""
        if (
            turn.role is not None
            and turn.role != self.role
            and (turn.role != "rig" or self.role in (None, "mayor"))
        ):
            return None
        if turn.message is None:
            return {}
        found = re.search(turn.message, text)
        return (
            None
            if found is None
            else {name: value for name, value in found.groupdict().items() if value is not None}
        )

    def _next(self) -> Answer | None:
        answers = () if self.turn is None else self.turn.answers
        return answers[self.position] if self.position < len(answers) else None

    def _filled(self, part: Any) -> Any:
        """A text or JSON value with the values in it; KeyError for one that is not known.

        A text that is one placeholder and nothing else becomes the value itself, whatever its type.
        """
        if isinstance(part, str):
            alone = PLACEHOLDER.fullmatch(part)
            if alone is not None:
                return self.values[alone[1]]
            return PLACEHOLDER.sub(lambda found: _shown(self.values[found[1]]), part)
        if isinstance(part, Mapping):
            return {key: self._filled(value) for key, value in part.items()}
        return [self._filled(value) for value in part] if isinstance(part, list) else part


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _part_of(result: str, keep: Keep) -> Any:
    """The part of a tool's result that is to be kept; None where the result has none such."""
    value: Any = result.strip()
    if keep.path is not None:
        value = _at(_json_in(result), keep.path)
    if keep.pattern is None or value is None:
        return value
    found = re.search(keep.pattern, _shown(value))
    return None if found is None else found[1 if found.re.groups else 0]


def _json_in(result: str) -> Any:
    """The JSON of a result, which may have lines of text before it; None without any."""
    for start in re.finditer(r"^\s*[\[{]", result, re.MULTILINE):
        try:
            return json.JSONDecoder().raw_decode(result[start.end() - 1 :])[0]
        except (ValueError, RecursionError):
            continue
    return None


def _at(value: Any, path: str) -> Any:
    for step in path.split("."):
        if isinstance(value, dict):
            value = value.get(step)
        elif isinstance(value, list) and step.isdecimal() and int(step) < len(value):
            value = value[int(step)]
        else:
            return None
    return value
