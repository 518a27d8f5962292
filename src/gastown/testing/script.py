"""Scripts for the stand-in of the language model, as Python: a town whose agents do what a test says.

    from gastown.testing.script import bash, call, say, script, when, write

    hello = script(
        "one polecat",
        when("on the branch (?P<branch>\\S+)", role="polecat")
        .then(say("I write the file."), bash("date > a && git add a && git commit -qm a && git push origin HEAD"))
        .then(call("gt_done", branch="{{branch}}"))
        .then(say("Done.")),
    )
    async with open_hall(HallOptions(data_dir=folder, script=write(hello, folder / "script.json"))) as hall: ...

`gastown up --script FILE` plays the same file. What each part means: docs/reference/script.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gastown.hall.stand_in.script import Answer, Call, Failure, Keep, Role, Script, Turn

__all__ = ["When", "answer", "bash", "call", "fail", "keep", "say", "script", "when", "write"]


def say(text: str, *, seconds: float | None = None, cost: float = 0.0) -> Answer:
    """An answer, or a part of one, that is text. `seconds` is how long it takes, `cost` is in USD."""
    return Answer(text=text, seconds=seconds, cost=cost)


def call(tool: str, keeps: Mapping[str, Keep] | None = None, /, **arguments: Any) -> Call:
    """A call of a tool. `keeps` gives names to parts of its result, for `{{name}}` in later answers."""
    return Call(tool=tool, arguments=arguments, keep=dict(keeps or {}))


def bash(command: str, keeps: Mapping[str, Keep] | None = None, /) -> Call:
    """A call of the shell, in the agent's worktree."""
    return call("bash", keeps, command=command, description="Runs what the script says")


def keep(path: str | None = None, *, pattern: str | None = None) -> Keep:
    """The part of a result at `path` in its JSON, or that matches `pattern`; without either all of it."""
    return Keep(path=path, pattern=pattern)


def fail(status: int, message: str = "the script says so", *, times: int | None = None) -> Answer:
    """The gateway fails in place of an answer: `times` times to the same request, None for always."""
    return Answer(error=Failure(status=status, message=message, times=times))


def answer(*parts: Answer | Call) -> Answer:
    """One answer of several parts: texts are joined, calls are made together, seconds and costs are added up."""
    said = [part for part in parts if isinstance(part, Answer)]
    seconds = [part.seconds for part in said if part.seconds is not None]
    calls = [one for part in parts for one in (part.calls if isinstance(part, Answer) else [part])]
    return Answer(
        text="\n\n".join(part.text for part in said if part.text),
        calls=tuple(calls),
        seconds=sum(seconds) if seconds else None,
        cost=sum(part.cost for part in said),
        error=next((part.error for part in said if part.error is not None), None),
    )


@dataclass(frozen=True)
class When:
    """A turn that is being written: each `then` is the next answer."""

    message: str | None
    role: Role | None = None
    times: int | None = None
    answers: tuple[Answer, ...] = ()

    def then(self, *parts: Answer | Call) -> When:
        """The turn with one more answer."""
        return replace(self, answers=(*self.answers, answer(*parts)))

    def turn(self) -> Turn:
        return Turn(role=self.role, message=self.message, times=self.times, answers=self.answers)


def when(message: str | None = None, *, role: Role | None = None, times: int | None = None) -> When:
    """A turn for messages in which `message`, a regular expression, is found; its named groups become values.

    `times` is how many messages of one conversation it answers at most. None is no condition.
    """
    return When(message, role, times)


def script(name: str, *turns: When) -> Script:
    """The script of these turns, of which the first that fits a message answers it.

    pydantic.ValidationError where a pattern is none, or nothing gives a `{{name}}` its value.
    """
    return Script(format=1, name=name, turns=tuple(turn.turn() for turn in turns))


def write(played: Script, path: Path) -> Path:
    """The script as a file, for `HallOptions(script=…)` and `gastown up --script`; returns `path`."""
    path.write_text(played.model_dump_json(indent=1, exclude_defaults=True), "utf-8")
    return path
