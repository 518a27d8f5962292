"""The turns of a session as its events tell them (kilo-facts 2)."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from gastown.agents.session.event_log import Turns
from gastown.kilo.stream import KiloEvent

pytestmark = pytest.mark.virtual_time


def tell(turns: Turns, kind: str, **properties: Any) -> None:
    turns.take(KiloEvent(kind, "ses_1", properties))


async def is_idle(turns: Turns) -> bool:
    with trio.move_on_after(1) as patience:
        await turns.wait_idle()
    return not patience.cancelled_caught


def api_error(status: int) -> dict[str, Any]:
    return {"name": "APIError", "data": {"message": "no", "statusCode": status}}


async def test_a_session_that_was_never_asked_is_idle() -> None:
    assert await is_idle(Turns())


async def test_a_turn_is_open_from_its_opening_to_its_close() -> None:
    turns = Turns()
    seen = []
    for kind in ("session.turn.open", "message.part.delta", "session.turn.close"):
        tell(turns, kind)
        seen.append((turns.is_open, await is_idle(turns)))
    assert seen == [(True, False), (True, False), (False, True)]


async def test_session_idle_is_not_the_end_of_a_turn() -> None:
    turns = Turns()
    tell(turns, "session.turn.open")
    tell(turns, "session.idle")
    tell(turns, "session.status", status={"type": "idle"})
    assert (turns.is_open, await is_idle(turns)) == (True, False)


async def test_a_superseded_turn_is_followed_by_the_next_one() -> None:
    turns = Turns()
    tell(turns, "session.turn.open")
    tell(turns, "session.turn.close", reason="superseded")
    tell(turns, "session.turn.open")
    assert (turns.is_open, await is_idle(turns)) == (True, False)


async def test_the_first_word_is_heard() -> None:
    turns = Turns()
    turns.expect()
    tell(turns, "session.turn.open")
    assert (turns.opened.is_set(), turns.first_output.is_set()) == (True, False)
    tell(turns, "message.part.delta")
    assert (turns.first_output.is_set(), turns.error) == (True, None)


async def test_an_error_is_a_verdict_with_what_the_gateway_said() -> None:
    turns = Turns()
    turns.expect()
    tell(turns, "session.error", error=api_error(402))
    assert turns.first_output.is_set()
    assert (turns.error.name, turns.error.message, turns.error.status) == ("APIError", "no", 402)


async def test_the_first_error_is_the_one_that_counts() -> None:
    turns = Turns()
    tell(turns, "session.error", error=api_error(401))
    tell(turns, "session.error", error={"name": "UnknownError", "data": {"message": "with a stack"}})
    assert turns.error.status == 401


async def test_a_turn_that_closed_well_has_spoken_and_one_that_failed_leaves_it_to_its_error() -> None:
    spoken = []
    for reason in ("completed", "interrupted", "error"):
        turns = Turns()
        turns.expect()
        tell(turns, "session.turn.close", reason=reason)
        spoken.append(turns.first_output.is_set())
    assert spoken == [True, True, False]


@pytest.mark.parametrize(
    "status",
    [
        {"type": "retry", "attempt": 1, "message": "m", "next": 5},
        {"type": "offline", "requestID": "net_1", "message": "m"},
    ],
)
async def test_a_retry_and_an_offline_session_are_conditions(status: dict[str, Any]) -> None:
    turns = Turns()
    turns.expect()
    tell(turns, "session.status", status=status)
    assert turns.condition is not None
    assert (turns.condition.given(), turns.first_output.is_set()) == (status, True)


async def test_a_condition_ends_with_the_next_status() -> None:
    turns = Turns()
    tell(turns, "session.status", status={"type": "offline", "message": "m"})
    tell(turns, "session.status", status={"type": "busy"})
    assert turns.condition is None


async def test_expecting_a_prompt_forgets_the_error_before() -> None:
    turns = Turns()
    tell(turns, "session.turn.open")
    tell(turns, "session.error", error=api_error(401))
    tell(turns, "session.turn.close", reason="error")
    turns.expect()
    assert (turns.error, turns.opened.is_set(), turns.first_output.is_set()) == (None, False, False)


async def test_where_events_were_missed_the_answer_to_a_question_counts() -> None:
    turns = Turns()
    turns.expect()
    turns.resync(busy=True)
    assert (turns.is_open, turns.opened.is_set(), await is_idle(turns)) == (True, True, False)
    turns.resync(busy=False)
    assert (turns.is_open, await is_idle(turns)) == (False, True)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (api_error(500), ("APIError", "no", 500)),
        (
            {"name": "UnknownError", "data": {"message": "Model not found"}},
            ("UnknownError", "Model not found", None),
        ),
        ({"name": "APIError", "data": {}}, ("APIError", "no message", None)),
        ({}, ("UnknownError", "no message", None)),
        (None, ("UnknownError", "no message", None)),
    ],
)
async def test_any_error_event_can_be_read(error: Any, expected: tuple[str, str, int | None]) -> None:
    turns = Turns()
    tell(turns, "session.error", error=error)
    failed = turns.error
    assert (failed.name, failed.message, failed.status) == expected


async def test_an_endless_error_message_is_cut() -> None:
    turns = Turns()
    tell(turns, "session.error", error={"name": "E", "data": {"message": "x" * 10_000}})
    assert len(turns.error.message) == 500
