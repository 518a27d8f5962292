"""The bodies of the user API. A key that is not named here is refused: it is a person's slip."""

from __future__ import annotations

from typing import Annotated, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictBool, StringConstraints
from pydantic.alias_generators import to_camel

from gastown.contract.agents import Role
from gastown.contract.git import Command
from gastown.contract.identifiers import Identifier

__all__ = [
    "Approval",
    "Changes",
    "Closing",
    "Empty",
    "NewRig",
    "Prompt",
    "Rejection",
    "RigSettings",
    "Settings",
    "Slung",
]

Line = Annotated[
    str, StringConstraints(strict=True, min_length=1, max_length=1000, pattern=r"^[^\x00-\x1f\x7f]+$")
]
Words = Annotated[str, StringConstraints(strict=True, min_length=1, max_length=200_000, pattern=r"\S")]
Model = Annotated[
    str, StringConstraints(strict=True, min_length=1, max_length=500, pattern=r"^[^\x00-\x1f\x7f]+$")
]
Priority = Literal["low", "medium", "high", "critical"]


Amount = Annotated[float, Field(ge=0, le=1_000_000, allow_inf_nan=False, strict=True)]


def a_zone(name: str) -> str:
    """ValueError for a time zone that this machine does not know."""
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, OSError, ValueError):
        raise ValueError("is no time zone, such as Europe/Berlin") from None
    return name


class Body(BaseModel):
    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True, hide_input_in_errors=True
    )


class Empty(Body):
    """Nothing is to be said."""


class Slung(Body):
    """A piece of work. It begins once each bead of `dependsOn` is closed."""

    rig: Identifier
    title: Line
    body: Words | None = None
    priority: Priority = "medium"
    depends_on: Annotated[tuple[Line, ...], Field(max_length=100)] = ()


class Changes(Body):
    """What a bead says from now on; keys that are left out stay as they are."""

    title: Line | None = None
    body: Words | None = None
    priority: Priority | None = None
    depends_on: Annotated[tuple[Line, ...], Field(max_length=100)] | None = None


class Approval(Body):
    """`head` is the commit that was looked at. With it, a branch that has gone on is not approved."""

    head: Annotated[str, StringConstraints(strict=True, pattern=r"^[0-9a-f]{40}([0-9a-f]{24})?$")] | None = None


class Rejection(Body):
    """`message` is told to the author."""

    message: Words


class Closing(Body):
    """`failed`: it was not done, and what waits for it goes on waiting."""

    failed: StrictBool = False


class Settings(Body):
    """A town's settings; keys that are left out stay. `slots`: null is as many as the machine has cores.

    From `budgetDay` of a day on, in USD, nothing begins until the next one, and from `budgetBead` on nothing for
    that bead; what runs goes on. null is no bound. `timeZone` is whose days they are, such as Europe/Berlin; null
    is the machine's.

    `model` is the language model's name for the gateway, null the usual one; `models` has those of roles with a
    model of their own: a role that is left out stays, and null takes its own away.
    """

    model: Model | None = None
    models: dict[Role, Model | None] | None = None
    slots: Annotated[int, Field(ge=1, le=1000, strict=True)] | None = None
    budget_day: Amount | None = None
    budget_bead: Amount | None = None
    time_zone: Annotated[Line, AfterValidator(a_zone)] | None = None


class RigSettings(Body):
    """How a repository's work is reviewed and merged; keys that are left out stay.

    `merge`: ask a person, or merge as soon as it may. `review`: whether a refinery reads the change first.
    `checks` are commands that the merge result must pass, each within `checkSeconds`. `slots` bounds the
    repository's agents; null is no bound of its own.
    """

    merge: Literal["ask", "auto"] | None = None
    review: Literal["none", "refinery"] | None = None
    checks: Annotated[tuple[Command, ...], Field(max_length=50)] | None = None
    check_seconds: Annotated[int, Field(ge=1, le=86_400, strict=True)] | None = None
    slots: Annotated[int, Field(ge=1, le=1000, strict=True)] | None = None


class NewRig(RigSettings):
    """A repository. `place` is the absolute path of a folder on the hall's machine, or an address.

    Without an `id` it is the last part of the place; without a `branch` it is the one that is checked out in a
    folder, and `main` of an address.
    """

    place: Line
    id: Identifier | None = None
    branch: Line | None = None


class Prompt(Body):
    """What to tell the mayor."""

    text: Words
