"""Bringing a town up: a hall, a container against it, a first word from the mayor, and then until Ctrl-C."""

from __future__ import annotations

import json
import logging
import secrets
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import trio
from pydantic import ValidationError

from gastown.contract.secret import Secret
from gastown.contract.town import Health
from gastown.contract.worker import StartupPhaseEvent
from gastown.hall.app import LOGGER
from gastown.hall.cli.mayor import Told, Turn, follow, tell
from gastown.hall.cli.renewal import renew
from gastown.hall.cli.screen import Screen
from gastown.hall.cli.waterfall import Bar, Sightings, bars_from
from gastown.hall.control_client import Dispatch, DispatchError, open_dispatch
from gastown.hall.drivers.process import (
    SERVE,
    Container,
    ContainerOptions,
    base_environment,
    choose_port,
    container_environment,
    end_strays,
    run_container,
    write_private,
)
from gastown.hall.hall import Hall, HallOptions, open_hall
from gastown.hall.tokens import LIFETIME

__all__ = ["CONTROL_TOKEN", "DEFAULT_MESSAGE", "UpFailed", "UpOptions", "bring_up"]

CONTROL_TOKEN = "control.token"  # noqa: S105  a file name
"""The file in the town's data directory that holds the bearer of its control port while the town is up."""

DEFAULT_MESSAGE = "Good morning, Mayor! In one sentence: who are you, and what can you do for this town?"

_HEALTH_SECONDS = 60
_GATE_SECONDS = 60
_IDLE_SECONDS = 2
_ANSWER_SECONDS = 600
_POLL_SECONDS = 0.02
_GATE_POLL_SECONDS = 0.05  # every question costs milliseconds that a starting kilo needs
_TOKEN_FOR = LIFETIME - timedelta(minutes=30)
_HOST = "127.0.0.1"
_INTERRUPTED = 130


class UpFailed(Exception):
    """The town did not come up. One clear sentence."""


@dataclass(frozen=True, kw_only=True)
class UpOptions:
    """What a town is brought up with. `environment` is the caller's; `report` a file for the figures.

    `drain_seconds` is what the container has for its drain. With `exit_after_first_answer` the town goes down
    by itself, and the exit code says whether there was an answer.
    """

    hall: HallOptions
    environment: Mapping[str, str] = field(repr=False)
    message: str = DEFAULT_MESSAGE
    port: int = 8080
    drain_seconds: float = 30.0
    exit_after_first_answer: bool = False
    report: Path | None = None
    command: Sequence[str] = SERVE


class _Interrupts:
    """What Ctrl-C and SIGTERM do: the first ends the town in order, more of them hurry its container.

    `scope` holds what `up` itself does with the town, and nothing that the container still needs while it
    drains: the hall must hear its last words.
    """

    def __init__(self, screen: Screen) -> None:
        self.scope = trio.CancelScope()
        self.container: Container | None = None
        self._screen = screen
        self._count = 0

    async def heed(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            task_status.started()
            async for _ in signals:
                self._count += 1
                self._act()

    def _act(self) -> None:
        if self._count == 1:
            self._screen.line("stopping: the container drains (Ctrl-C again hurries it)")
            self.scope.cancel(reason="interrupted")
        elif self.container is not None:
            if self._count <= 3:
                self.container.terminate()
            else:
                self.container.kill()


async def bring_up(options: UpOptions, screen: Screen) -> int:
    """Bring the town up and keep it up until SIGINT or SIGTERM; the exit code.

    When it returns or raises, no process of the town is left. What can go wrong is raised, in groups too:
    DirectoryUnusable, StoreError, PortTaken, ContainerDied, DispatchError, MayorLost and UpFailed, each of
    which is fit to be shown.
    """
    interrupts = _Interrupts(screen)
    async with trio.open_nursery() as nursery:
        await nursery.start(interrupts.heed)
        try:
            code = await _town(options, screen, interrupts)
        finally:
            screen.end_line()
        screen.line("the town is down")
        nursery.cancel_scope.cancel(reason="the town is down")
    return code


@dataclass
class _Boot:
    """One boot: the hall and its container, and what was seen of them so far."""

    options: UpOptions
    screen: Screen
    hall: Hall
    dispatch: Dispatch
    began: float
    began_at: datetime
    seen: Sightings = field(default_factory=Sightings)

    def ms(self, moment: float) -> float:
        """Milliseconds since `up` began, of a moment on Trio's clock."""
        return (moment - self.began) * 1000

    def wall_ms(self, moment: datetime | None) -> float | None:
        """Milliseconds since `up` began, of a moment on the wall clock, which the container shares."""
        return None if moment is None else (moment - self.began_at).total_seconds() * 1000


async def _town(options: UpOptions, screen: Screen, interrupts: _Interrupts) -> int:
    if options.report is not None:
        await trio.Path(options.report).write_text("")  # a file that cannot be written is told of now
    began, began_at = trio.current_time(), options.hall.now()
    data = options.hall.data_dir
    async with open_hall(options.hall) as hall:
        await trio.to_thread.run_sync(end_strays, data / "homes")
        port = choose_port(_HOST, options.port)
        url = f"http://{_HOST}:{port}"
        token = Secret(options.environment.get("GASTOWN_CONTROL_TOKEN") or secrets.token_urlsafe(32))
        with _written(data / CONTROL_TOKEN, token):
            async with open_dispatch(url, token) as dispatch:
                boot = _Boot(options, screen, hall, dispatch, began, began_at)
                boot.seen.hall_ms = boot.ms(trio.current_time())
                _introduce(options, screen, hall, url)
                container_options = await _container_options(options, hall, port, token)
                boot.seen.spawned_ms = boot.ms(trio.current_time())
                async with run_container(container_options) as container:
                    interrupts.container = container
                    with interrupts.scope:
                        turn = await _first_turn(boot, url)
                        if options.exit_after_first_answer:
                            return 0 if turn.answered else 1
                        await _stay_up(boot)
    return _INTERRUPTED if options.exit_after_first_answer else 0


@contextmanager
def _written(path: Path, token: Secret) -> Iterator[None]:
    """The token of the control port in a file for its owner only, for the length of the block."""
    write_private(path, f"{token.reveal()}\n")
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _introduce(options: UpOptions, screen: Screen, hall: Hall, control_url: str) -> None:
    data = options.hall.data_dir
    own = options.environment.get("KILO_API_URL")
    gateway = (
        'the stand-in, no language model (no KILOCODE_TOKEN; the town gets the placeholder "stand-in")'
        if hall.stand_in
        else ("that of KILO_API_URL" if own else "Kilo's") + ", with the town's KILOCODE_TOKEN"
    )
    screen.line(f"town     {hall.town_id} in {data}")
    screen.line(f"hall     {hall.url}")
    screen.line(f"control  {control_url} (log: {data / 'serve.log'}, bearer: {data / CONTROL_TOKEN})")
    screen.line(f"gateway  {gateway}")


async def _container_options(options: UpOptions, hall: Hall, port: int, token: Secret) -> ContainerOptions:
    data = options.hall.data_dir
    homes = data / "homes"
    for folder in (homes, data / "rigs"):
        folder.mkdir(mode=0o700, exist_ok=True)
    base = {"GASTOWN_DRAIN_SECONDS": f"{options.drain_seconds:g}"} | base_environment(options.environment)
    base["GASTOWN_CONTROL_TOKEN"] = token.reveal()
    environment = container_environment(
        base,
        await hall.town(),
        await hall.container_token(),
        api_url=hall.url,
        stand_in=hall.stand_in,
        data_dir=data,
        port=port,
    )
    return ContainerOptions(
        environment=environment,
        log=data / "serve.log",
        homes=homes,
        drain_seconds=options.drain_seconds,
        command=options.command,
    )


async def _stay_up(boot: _Boot) -> NoReturn:
    """Keep the container's token fresh, until cancelled."""
    boot.screen.line("the town is up; Ctrl-C ends it")
    await renew(boot.hall.now, partial(_hand_token, boot), given=boot.began_at, every=_TOKEN_FOR)


async def _hand_token(boot: _Boot) -> bool:
    """Give the container its next token: one that has slept through the end of its own cannot ask for it."""
    try:
        await boot.dispatch.refresh_token(await boot.hall.container_token(), boot.hall.town_id)
    except DispatchError as error:
        logging.getLogger(LOGGER).warning("the container has no new token yet: %s", error)
        return False
    return True


async def _first_turn(boot: _Boot, control_url: str) -> Turn:
    """From a spawned container to the end of the mayor's first turn, and the report of it."""
    hall, screen, seen = boot.hall, boot.screen, boot.seen
    await _healthy(boot)
    seen.healthy_ms = boot.ms(trio.current_time())
    await _gate_open(boot)
    seen.gate_ms = boot.ms(trio.current_time())
    town = await hall.town()
    if town.mayor_agent_id is None:
        raise UpFailed(f"town {town.id} has no mayor")
    events_before = await hall.store.last_event_id(town.id)
    screen.line(f"\nyou:   {boot.options.message}")
    told = await tell(hall, boot.dispatch, town.mayor_agent_id, boot.options.message)
    _saw_told(boot, told)
    resumed = told.session_id is not None and told.session_id == town.mayor_session_id
    await hall.remember_session(told.session_id)
    screen.say("mayor: ")
    turn = await _answer(boot, town.mayor_agent_id, told)
    seen.prompted_ms = boot.wall_ms(turn.prompted_at) if told.by == "start" else boot.ms(told.sent_at)
    seen.first_word_ms = boot.wall_ms(turn.first_word_at)
    seen.answered_ms = boot.wall_ms(turn.ended_at)
    seen.answer_note = "" if turn.answered else (turn.error or turn.reason or "")
    health = await boot.dispatch.health()
    seen.timeline = health.hydration.timeline
    if told.by == "start":
        seen.startup = await _startup_phases(hall, town.mayor_agent_id, events_before)
    bars = bars_from(seen)
    screen.line()
    screen.waterfall(bars)
    _conclude(screen, turn, told, resumed=resumed)
    if boot.options.report is not None:
        report = _report(boot, bars, health, turn, told, control_url) | {"resumed": resumed}
        await trio.Path(boot.options.report).write_text(json.dumps(report, indent=2) + "\n", "utf-8")
    return turn


async def _healthy(boot: _Boot) -> None:
    """Wait for the first answer of `/health`. The container dying meanwhile is `run_container`'s to tell."""
    with trio.move_on_after(_HEALTH_SECONDS):
        while True:
            try:
                await boot.dispatch.health()
            except DispatchError as error:
                if error.status is not None:
                    raise
            else:
                return
            await trio.sleep(_POLL_SECONDS)
    raise UpFailed(f"the container did not answer /health within {_HEALTH_SECONDS} s")


async def _gate_open(boot: _Boot) -> None:
    """Wait until a start would not have to wait. Before hydration begins the gate is open too, so that a
    container which has not begun is waited for a moment."""
    began = trio.current_time()
    with trio.move_on_after(_GATE_SECONDS):
        while True:
            hydration = (await boot.dispatch.health()).hydration
            waited = trio.current_time() - began
            if hydration.gate == "open" and (hydration.state != "idle" or waited > _IDLE_SECONDS):
                if hydration.error is not None:
                    boot.screen.line(f"warning: hydration failed: {hydration.error}")
                return
            await trio.sleep(_GATE_POLL_SECONDS)
    raise UpFailed(f"the container's gate did not open within {_GATE_SECONDS} s")


def _saw_told(boot: _Boot, told: Told) -> None:
    if told.by == "start":
        boot.seen.requested_ms, boot.seen.start_name = boot.ms(told.sent_at), "mayor start"
        boot.seen.started_ms = boot.ms(told.accepted_at)
    elif told.sent_at - told.waited_from > _GATE_POLL_SECONDS:
        boot.seen.requested_ms, boot.seen.start_name = boot.ms(told.waited_from), "mayor resumes"
        boot.seen.started_ms = boot.ms(told.sent_at)


async def _answer(boot: _Boot, mayor_id: str, told: Told) -> Turn:
    screen = boot.screen

    def note(text: str) -> None:
        screen.line(f"({text})")

    seconds = _ANSWER_SECONDS if boot.options.exit_after_first_answer else float("inf")
    with trio.move_on_after(seconds):
        return await follow(boot.dispatch, mayor_id, told, screen.say, note)
    raise UpFailed(f"the mayor's first turn did not end within {_ANSWER_SECONDS} s")


async def _startup_phases(hall: Hall, mayor_id: str, after: int) -> list[StartupPhaseEvent]:
    phases: list[StartupPhaseEvent] = []
    for stored in await hall.store.events(hall.town_id, after):
        try:
            phase = StartupPhaseEvent.model_validate(stored.body)
        except ValidationError:
            continue  # another kind of event
        if phase.agent_id == mayor_id:
            phases.append(phase)
    return phases


def _conclude(screen: Screen, turn: Turn, told: Told, *, resumed: bool) -> None:
    screen.line(f"\nsession  {told.session_id or 'unknown'} ({'resumed' if resumed else 'new'})")
    if not turn.answered:
        screen.line(f"the first turn did not complete: {turn.error or turn.reason or 'no reason given'}")


def _report(
    boot: _Boot, bars: Sequence[Bar], health: Health, turn: Turn, told: Told, control_url: str
) -> dict[str, Any]:
    """The bars and figures as JSON; times are milliseconds, since `up` began where they name a moment."""
    seen = boot.seen
    moments = {
        "hall": seen.hall_ms,
        "spawned": seen.spawned_ms,
        "healthy": seen.healthy_ms,
        "gateOpen": seen.gate_ms,
        "mayorReady": boot.wall_ms(health.mayor_ready_at),
        "startRequested": seen.requested_ms,
        "started": seen.started_ms,
        "prompted": seen.prompted_ms,
        "firstWord": seen.first_word_ms,
        "answered": seen.answered_ms,
    }
    return {
        "town": boot.hall.town_id,
        "hallUrl": boot.hall.url,
        "controlUrl": control_url,
        "standIn": boot.hall.stand_in,
        "sessionId": told.session_id,
        "toldBy": told.by,
        "turn": {"reason": turn.reason, "error": turn.error, "text": turn.text},
        "momentsMs": {name: _rounded(value) for name, value in moments.items()},
        "bars": [
            {
                "name": bar.name.strip(),
                "startMs": _rounded(bar.start_ms),
                "endMs": _rounded(bar.end_ms),
                "note": bar.note,
            }
            for bar in bars
        ],
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)
