"""What the routes of the hall work with, and the one way to get at it."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeVar, cast

import trio
from quart import current_app
from quart_trio import QuartTrio

from gastown.contract.git import Changes
from gastown.contract.secret import Secret
from gastown.hall.control_client import ControlClient
from gastown.hall.stand_in.failures import Failures
from gastown.hall.stand_in.script import Script
from gastown.hall.store.database import Store
from gastown.hall.store.transaction import Transaction

__all__ = ["Desk", "HallApp", "HallContext", "MayorPrompted", "StandIn", "context", "on_board"]

_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class StandIn:
    """How the gateway stand-in answers: over how many seconds an answer is stretched, to which token, and from
    which script.
    """

    turn_seconds: float = 0.0
    token: Secret
    script: Script | None = None
    failures: Failures = field(default_factory=Failures)


@dataclass(kw_only=True)
class Desk:
    """Where people reach a town. `token` is theirs, for as long as the hall is open.

    While a container runs, whoever runs it puts in its client, how its mayor is told something, what is done at
    once about a new repository, by its id, and how to see what a branch of one would bring. `end` asks for the end
    of the town. `closing` is set before the hall closes, so that no open stream holds it up.
    """

    token: Secret = field(default_factory=lambda: Secret(secrets.token_urlsafe(32)))
    container: ControlClient | None = None
    tell_mayor: Callable[[str], Awaitable[MayorPrompted]] | None = None
    rig_added: Callable[[str], None] | None = None
    changes: Callable[[str, str], Awaitable[Changes]] | None = None
    end: Callable[[], None] | None = None
    closing: trio.Event = field(default_factory=trio.Event)


@dataclass(frozen=True, kw_only=True)
class MayorPrompted:
    """How the mayor was told something: by a start or a message, and what of its events came before."""

    agent_id: str
    by: str
    session_id: str | None
    after: int
    told_at: datetime


@dataclass(frozen=True, kw_only=True)
class HallContext:
    """`url` is the hall's own address. `now` is the wall clock, aware; `stand_in` is None when the town uses the
    real gateway. `secrets` is what no log may show; what comes to the town later is added to it.
    """

    store: Store
    now: Callable[[], datetime]
    stand_in: StandIn | None = None
    url: str = ""
    desk: Desk = field(default_factory=Desk)
    secrets: list[Secret] = field(default_factory=list[Secret], repr=False)


class HallApp(QuartTrio):
    """The application, with a typed place for what its handlers need."""

    hall: HallContext


def context() -> HallContext:
    """The context of the application that serves this request."""
    return cast(HallApp, current_app).hall


async def on_board(town_id: str, work: Callable[[Transaction], _T]) -> _T:
    """Do `work` on the board of a town, as one transaction."""
    return await context().store.transaction(town_id, work)
