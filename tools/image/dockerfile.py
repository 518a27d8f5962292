"""Reads a Dockerfile: the part of its language that ours is written in, and an error for the rest."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Dockerfile", "Instruction", "Stage", "expand", "read"]

KNOWN = {
    *("ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK", "LABEL", "RUN", "SHELL"),
    *("USER", "WORKDIR"),
}


class CannotRead(Exception):
    """An instruction that this reader does not know; the message names its line."""


@dataclass(frozen=True)
class Instruction:
    """One instruction with its continuation lines joined, and the line that it begins on."""

    line: int
    keyword: str
    text: str

    def words(self) -> list[str]:
        return shlex.split(self.text)

    def array(self) -> list[str]:
        """The words of an instruction in exec form."""
        value = json.loads(self.text)
        if not isinstance(value, list):
            raise CannotRead(f"line {self.line}: {self.keyword} is not in exec form")
        return [str(word) for word in value]

    def pairs(self) -> dict[str, str]:
        """The names and values of an ENV, a LABEL or an ARG; an ARG without a default has an empty one."""
        return {name: value for name, _, value in (word.partition("=") for word in self.words())}


@dataclass
class Stage:
    """What stands between one FROM and the next. `base` is an image or an earlier stage, not expanded."""

    base: str
    name: str | None
    instructions: list[Instruction] = field(default_factory=list)

    def all(self, keyword: str) -> list[Instruction]:
        return [one for one in self.instructions if one.keyword == keyword]

    def last(self, keyword: str) -> Instruction:
        return self.all(keyword)[-1]

    def environment(self) -> dict[str, str]:
        return {name: value for one in self.all("ENV") for name, value in one.pairs().items()}


@dataclass(frozen=True)
class Dockerfile:
    """`arguments` are those before the first FROM, with their defaults; the image is the last of `stages`."""

    arguments: Mapping[str, str]
    stages: list[Stage]

    @property
    def image(self) -> Stage:
        return self.stages[-1]


def read(path: Path) -> Dockerfile:
    """Raises `CannotRead` for what the reader does not know."""
    arguments: dict[str, str] = {}
    stages: list[Stage] = []
    for instruction in _instructions(path.read_text("utf-8")):
        if instruction.keyword not in KNOWN:
            raise CannotRead(f"line {instruction.line}: {instruction.keyword} is not known here")
        if instruction.keyword == "FROM":
            base, *rest = instruction.words()
            stages.append(Stage(base, rest[1] if rest else None))
        elif stages:
            stages[-1].instructions.append(instruction)
        else:
            arguments |= instruction.pairs()
    return Dockerfile(arguments, stages)


def _instructions(text: str) -> list[Instruction]:
    found: list[Instruction] = []
    begun, parts = 0, list[str]()
    for number, line in enumerate(text.splitlines(), start=1):
        if line.lstrip().startswith("#") or not (line.strip() or parts):
            continue
        begun = begun if parts else number
        parts.append(line.strip().removesuffix("\\").strip())
        if not line.rstrip().endswith("\\"):
            keyword, _, rest = " ".join(parts).partition(" ")
            found.append(Instruction(begun, keyword.upper(), rest.strip()))
            parts = []
    return found


def expand(text: str, values: Mapping[str, str]) -> str:
    """`text` with each `${NAME}` and `$NAME` replaced; one that has no value is empty, as Docker has it."""
    return re.sub(r"\$(?:\{(\w+)\}|(\w+))", lambda found: values.get(found[1] or found[2], ""), text)
