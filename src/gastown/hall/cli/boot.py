"""One boot of a town: how it was asked for, and what has been observed of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from gastown.hall.cli.screen import Screen
from gastown.hall.cli.waterfall import Sightings
from gastown.hall.control_client import ControlClient
from gastown.hall.drivers.process import SERVE
from gastown.hall.hall import Hall, HallOptions

__all__ = ["DEFAULT_MESSAGE", "Boot", "UpFailed", "UpOptions", "own_gateway"]

DEFAULT_MESSAGE = "Good morning, Mayor! In one sentence: who are you, and what can you do for this town?"


def own_gateway(env: Mapping[str, str]) -> str | None:
    """The variable that names the gateway of the language model; None for Kilo's."""
    if env.get("GASTOWN_GATEWAY_URL"):
        return "GASTOWN_GATEWAY_URL"
    return "KILO_API_URL" if env.get("KILO_API_URL") else None


class UpFailed(Exception):
    """The town did not come up. One clear sentence."""


@dataclass(frozen=True, kw_only=True)
class UpOptions:
    """What a town is brought up with. `environment` is the caller's; `report` a file for the figures.

    `message` is what the mayor is told first. None is a greeting in a new town, and nothing in one that is
    resumed: each turn costs money.

    `drain_seconds` is what the container has for its drain. With `exit_after_first_answer` the town goes down
    by itself, and the exit code says whether there was an answer. `tell_when_up` is a pipe that is written to, and
    closed, once the town is up.
    """

    hall: HallOptions
    environment: Mapping[str, str] = field(repr=False)
    message: str | None = None
    port: int = 8080
    drain_seconds: float = 30.0
    exit_after_first_answer: bool = False
    report: Path | None = None
    tell_when_up: int | None = None
    command: Sequence[str] = SERVE


@dataclass
class Boot:
    """One boot: the hall and its container, and what has been observed of them so far."""

    options: UpOptions
    screen: Screen
    hall: Hall
    control: ControlClient
    began: float
    began_at: datetime
    control_url: str = ""
    seen: Sightings = field(default_factory=Sightings)

    @property
    def gateway(self) -> str:
        """Where the town's language model is asked, as a person knows it."""
        own = own_gateway(self.options.environment)
        where = "of Kilo (KILO_API_URL is not set)" if own is None else self.options.environment[own]
        return self.hall.url if self.hall.stand_in else where

    def ms(self, moment: float) -> float:
        """Milliseconds since `up` began, of a moment on Trio's clock."""
        return (moment - self.began) * 1000

    def wall_ms(self, moment: datetime | None) -> float | None:
        """Milliseconds since `up` began, of a moment on the wall clock, which the container shares."""
        return None if moment is None else (moment - self.began_at).total_seconds() * 1000
