"""From a started container to the end of the mayor's first turn."""

from __future__ import annotations

import json

import trio
from pydantic import ValidationError

from gastown.contract.worker import StartupPhaseEvent
from gastown.hall.cli.boot import Boot, UpFailed
from gastown.hall.cli.mayor import Told, Turn, follow, tell
from gastown.hall.cli.report import report_of
from gastown.hall.cli.screen import Screen
from gastown.hall.cli.waterfall import bars_from
from gastown.hall.control_client import ControlCallFailed
from gastown.hall.hall import Hall

__all__ = ["first_turn"]

_HEALTH_SECONDS = 60
_GATE_SECONDS = 60
_IDLE_SECONDS = 2
_ANSWER_SECONDS = 600
_POLL_SECONDS = 0.02
_GATE_POLL_SECONDS = 0.05  # each request costs milliseconds that a starting kilo needs


async def first_turn(boot: Boot, control_url: str) -> Turn:
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
    told = await tell(hall, boot.control, town.mayor_agent_id, boot.options.message)
    _saw_told(boot, told)
    resumed = told.session_id is not None and told.session_id == town.mayor_session_id
    await hall.remember_session(told.session_id)
    screen.say("mayor: ")
    turn = await _answer(boot, town.mayor_agent_id, told)
    seen.prompted_ms = boot.wall_ms(turn.prompted_at) if told.by == "start" else boot.ms(told.sent_at)
    seen.first_word_ms = boot.wall_ms(turn.first_word_at)
    seen.answered_ms = boot.wall_ms(turn.ended_at)
    seen.answer_note = "" if turn.answered else (turn.error or turn.reason or "")
    health = await boot.control.health()
    seen.timeline = health.hydration.timeline
    if told.by == "start":
        seen.startup = await _startup_phases(hall, town.mayor_agent_id, events_before)
    bars = bars_from(seen)
    screen.line()
    screen.waterfall(bars)
    _conclude(screen, turn, told, resumed=resumed)
    if boot.options.report is not None:
        report = report_of(boot, bars, health, turn, told, control_url) | {"resumed": resumed}
        await trio.Path(boot.options.report).write_text(json.dumps(report, indent=2) + "\n", "utf-8")
    return turn


async def _healthy(boot: Boot) -> None:
    """Wait for the first answer of `/health`. `run_container` reports a container that dies meanwhile."""
    with trio.move_on_after(_HEALTH_SECONDS):
        while True:
            try:
                await boot.control.health()
            except ControlCallFailed as error:
                if error.status is not None:
                    raise
            else:
                return
            await trio.sleep(_POLL_SECONDS)
    raise UpFailed(f"the container did not answer /health within {_HEALTH_SECONDS} s")


async def _gate_open(boot: Boot) -> None:
    """Wait until a start would not have to wait. The gate is open before hydration begins, too: a container that
    has not begun it is waited for up to two seconds."""
    began = trio.current_time()
    with trio.move_on_after(_GATE_SECONDS):
        while True:
            hydration = (await boot.control.health()).hydration
            waited = trio.current_time() - began
            if hydration.gate == "open" and (hydration.state != "idle" or waited > _IDLE_SECONDS):
                if hydration.error is not None:
                    boot.screen.line(f"warning: hydration failed: {hydration.error}")
                return
            await trio.sleep(_GATE_POLL_SECONDS)
    raise UpFailed(f"the container's gate did not open within {_GATE_SECONDS} s")


def _saw_told(boot: Boot, told: Told) -> None:
    if told.by == "start":
        boot.seen.requested_ms, boot.seen.start_name = boot.ms(told.sent_at), "mayor start"
        boot.seen.started_ms = boot.ms(told.accepted_at)
    elif told.sent_at - told.waited_from > _GATE_POLL_SECONDS:
        boot.seen.requested_ms, boot.seen.start_name = boot.ms(told.waited_from), "mayor resumes"
        boot.seen.started_ms = boot.ms(told.sent_at)


async def _answer(boot: Boot, mayor_id: str, told: Told) -> Turn:
    screen = boot.screen

    def note(text: str) -> None:
        screen.line(f"({text})")

    seconds = _ANSWER_SECONDS if boot.options.exit_after_first_answer else float("inf")
    with trio.move_on_after(seconds):
        return await follow(boot.control, mayor_id, told, screen.say, note)
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
