"""From a started container to the end of the mayor's first turn."""

from __future__ import annotations

import json
from typing import Any

import trio
from pydantic import ValidationError

from gastown.contract.agents import AgentState, Condition
from gastown.contract.worker import StartupPhaseEvent
from gastown.hall.cli.boot import DEFAULT_MESSAGE, Boot, UpFailed
from gastown.hall.cli.mayor import Told, at_rest, follow, tell
from gastown.hall.cli.report import report_of
from gastown.hall.cli.turn import Turn
from gastown.hall.cli.waterfall import bars_from
from gastown.hall.control_client import ControlCallFailed
from gastown.hall.hall import Hall
from gastown.hall.store.lane import StoreBusy

__all__ = ["first_turn"]

_HEALTH_SECONDS = 60
_GATE_SECONDS = 60
_IDLE_SECONDS = 2
_ANSWER_SECONDS = 600
_HELD_UP_SECONDS = 75  # kilo gives up itself after 69, where the gateway answers with an error
_POLL_SECONDS = 0.02
_GATE_POLL_SECONDS = 0.05  # each request costs milliseconds that a starting kilo needs


async def first_turn(boot: Boot) -> Turn | None:
    """From a spawned container to the end of the mayor's first turn, and the report of it.

    None where the mayor is told nothing: a town that is resumed goes on where it was.
    """
    hall, screen, seen = boot.hall, boot.screen, boot.seen
    await _healthy(boot)
    seen.healthy_ms = boot.ms(trio.current_time())
    await _gate_open(boot)
    seen.gate_ms = boot.ms(trio.current_time())
    town = await hall.town()
    if town.mayor_agent_id is None:
        raise UpFailed(f"town {town.id} has no mayor")
    is_first = town.mayor_session_id is None
    message = boot.options.message
    if message is None and (is_first or boot.options.exit_after_first_answer):
        message = DEFAULT_MESSAGE
    if message is None:
        await _resumed(boot, town.mayor_agent_id)
        return None
    events_before = await hall.store.last_event_id(town.id)
    screen.line(f"\nyou:   {message}")
    told = await _tell(boot, town.mayor_agent_id, message)
    _saw_told(boot, told)
    resumed = told.session_id is not None and told.session_id == town.mayor_session_id
    await _remember(boot, told.session_id)
    screen.say("mayor: ")
    turn = await _answer(boot, town.mayor_agent_id, told)
    if is_first and not turn.answered:
        await _remember(boot, None)  # the next `up` greets again
    _saw_turn(boot, turn, told)
    if told.by == "start":
        seen.startup = await _startup_phases(hall, town.mayor_agent_id, events_before)
    report = await _drawn(boot, turn, told)
    _conclude(boot, turn, told, resumed=resumed)
    await _write(boot, report | {"resumed": resumed})
    return turn


async def _tell(boot: Boot, mayor_id: str, message: str) -> Told:
    try:
        return await tell(boot.hall, boot.control, mayor_id, message)
    except ControlCallFailed as error:
        status = error.body.get("status")  # of the gateway, where the start failed because of it
        if not isinstance(status, int):
            raise
        raise UpFailed(_blamed_on_gateway(boot, status, str(error))) from error


def _blamed_on_gateway(boot: Boot, status: int, problem: str) -> str:
    if status in (401, 403):
        return f"the gateway {boot.gateway} refuses KILOCODE_TOKEN (HTTP {status}): {problem}"
    return f"the gateway {boot.gateway} answered HTTP {status}: {problem}"


async def _resumed(boot: Boot, mayor_id: str) -> None:
    began = trio.current_time()
    status = await at_rest(boot.control, mayor_id)
    if trio.current_time() - began > _GATE_POLL_SECONDS:
        boot.seen.requested_ms, boot.seen.start_name = boot.ms(began), "mayor resumes"
        boot.seen.started_ms = boot.ms(trio.current_time())
    is_running = status is not None and status.status is AgentState.RUNNING
    report = await _drawn(boot, None, None)
    if status is not None and is_running:
        boot.screen.line(f"\nsession  {status.session_id} (resumed; --message TEXT speaks to the mayor)")
    else:
        boot.screen.line("\nsession  none at work (--message TEXT starts the mayor where she was)")
    session = status.session_id if status is not None else None
    await _write(boot, report | {"sessionId": session, "resumed": is_running})


async def _drawn(boot: Boot, turn: Turn | None, told: Told | None) -> dict[str, Any]:
    """Draw the waterfall; the report."""
    health = await boot.control.health()
    boot.seen.timeline = health.hydration.timeline
    bars = bars_from(boot.seen)
    boot.screen.line()
    boot.screen.waterfall(bars)
    return report_of(boot, bars, health, turn, told)


async def _write(boot: Boot, report: dict[str, Any]) -> None:
    if boot.options.report is not None:
        await trio.Path(boot.options.report).write_text(json.dumps(report, indent=2) + "\n", "utf-8")


async def _remember(boot: Boot, session_id: str | None) -> None:
    try:
        await boot.hall.remember_session(session_id)
    except StoreBusy as error:
        boot.screen.line(f"warning: {error}")


def _saw_turn(boot: Boot, turn: Turn, told: Told) -> None:
    seen = boot.seen
    seen.prompted_ms = boot.wall_ms(turn.prompted_at) if told.by == "start" else boot.ms(told.sent_at)
    seen.first_word_ms = boot.wall_ms(turn.first_word_at)
    seen.answered_ms = boot.wall_ms(turn.ended_at)
    seen.answer_note = "" if turn.answered else turn.problem


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
    """The turn. When the town is to exit after it, a turn that cannot come to its end raises UpFailed."""
    screen, is_bounded = boot.screen, boot.options.exit_after_first_answer
    held_up = ""
    scope = trio.CancelScope()

    def say(text: str) -> None:
        nonlocal held_up
        held_up = ""
        if is_bounded:
            scope.deadline = trio.current_time() + _ANSWER_SECONDS
        screen.say(text)

    def note(condition: Condition) -> None:
        nonlocal held_up
        text = f"the mayor's session is {condition.type}: {condition.reason or 'no reason given'}"
        if condition.type in ("retrying", "offline"):
            text += f" (the gateway is {boot.gateway})"
        screen.line(f"({text})")
        if is_bounded and condition.type != "stalled" and not held_up:
            scope.deadline = trio.current_time() + _HELD_UP_SECONDS
        held_up = held_up or text

    if is_bounded:
        scope.deadline = trio.current_time() + _ANSWER_SECONDS
    with scope:
        return await follow(boot.control, mayor_id, told, say, note)
    if held_up:
        raise UpFailed(f"no answer within {_HELD_UP_SECONDS} s: {held_up}")
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


def _conclude(boot: Boot, turn: Turn, told: Told, *, resumed: bool) -> None:
    screen = boot.screen
    screen.line(f"\nsession  {told.session_id or 'unknown'} ({'resumed' if resumed else 'new'})")
    if turn.answered:
        return
    problem = turn.problem
    if turn.said_nothing:
        problem = f"the gateway {boot.gateway} sent no words; is it a language model's?"
    elif turn.status_code is not None:
        problem = _blamed_on_gateway(boot, turn.status_code, problem)
    screen.line(f"the first turn did not complete: {problem}")
