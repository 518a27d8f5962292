"""Reading our own turn out of the mayor's events."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

from gastown.contract.events import AgentEvent
from gastown.hall.cli.turn import TurnReader

TOLD = datetime(2030, 5, 1, 12, 0, tzinfo=UTC)
SESSION = "ses_1"
MILLISECONDS = int(TOLD.timestamp() * 1000)


class Events:
    """Reads events a second apart into `reader` and collects the text that it gives back."""

    def __init__(self, *, begun: bool = False) -> None:
        self.reader = TurnReader(SESSION, TOLD, begun=begun)
        self.said = ""
        self._ids = count(1)

    def take(self, event: str, session: str | None = SESSION, **data: Any) -> None:
        number = next(self._ids)
        if session is not None:
            data["sessionID"] = session
        moment = TOLD + timedelta(seconds=number)
        self.said += self.reader.take(AgentEvent(id=number, event=event, data=data, timestamp=moment))

    def asked(self, after_ms: int = 1) -> None:
        self.take("message.updated", info={"role": "user", "time": {"created": MILLISECONDS + after_ms}})

    def word(self, text: str, part: str = "p1", session: str = SESSION) -> None:
        self.take("message.part.delta", session, partID=part, field="text", delta=text)

    def closed(self, reason: str = "completed", session: str = SESSION) -> None:
        self.take("session.turn.close", session, reason=reason)


def test_a_turn_begins_with_our_message_and_ends_with_its_close() -> None:
    events = Events()
    events.asked()
    events.word("Good ")
    events.word("morning.")
    assert events.reader.turn.ended_at is None
    events.closed()
    turn = events.reader.turn
    assert (turn.text, turn.reason, turn.answered) == ("Good morning.", "completed", True)
    assert turn.prompted_at == TOLD + timedelta(seconds=1)
    assert turn.first_word_at == TOLD + timedelta(seconds=2)
    assert turn.ended_at == TOLD + timedelta(seconds=4)


def test_what_is_said_after_a_call_of_a_tool_begins_a_paragraph() -> None:
    events = Events()
    events.asked()
    events.word("I look.")
    events.take("message.part.updated", part={"type": "tool", "id": "p2"})
    for word in ("It is ", "there."):
        events.word(word, part="p3")
    assert events.said == events.reader.turn.text == "I look.\n\nIt is there."


def test_the_turn_that_was_running_before_is_not_ours() -> None:
    events = Events()
    events.word("old ")
    events.asked(after_ms=-5000)
    events.closed()
    assert (events.said, events.reader.turn.ended_at) == ("", None)


def test_a_turn_that_makes_way_for_our_message_is_not_its_end() -> None:
    events = Events()
    events.asked()
    events.closed("superseded")
    assert events.reader.turn.ended_at is None
    events.word("new")
    events.closed()
    assert events.reader.turn.answered


def test_the_turn_of_a_start_needs_no_message_to_begin() -> None:
    events = Events(begun=True)
    events.word("Hello")
    events.closed()
    assert (events.said, events.reader.turn.answered) == ("Hello", True)


def test_thoughts_are_no_words() -> None:
    events = Events(begun=True)
    events.take("message.part.updated", part={"id": "p0", "type": "reasoning"})
    events.word("hmm", part="p0")
    assert events.reader.turn.first_word_at is None
    events.word("Yes.")
    assert events.said == "Yes."


def test_other_sessions_are_not_the_mayor() -> None:
    events = Events(begun=True)
    events.word("I am a subagent", session="ses_2")
    events.closed(session="ses_2")
    events.take("session.error", None, error={"name": "PluginError"})
    assert (events.said, events.reader.turn.ended_at, events.reader.turn.error) == ("", None, None)


def test_a_turn_with_an_error_is_no_answer_and_says_the_first_error() -> None:
    events = Events(begun=True)
    events.take("session.error", error={"name": "APIError", "data": {"message": "no credit"}})
    events.take("session.error", error={"name": "UnknownError"})
    events.closed("error")
    turn = events.reader.turn
    assert (turn.error, turn.reason, turn.answered) == ("APIError: no credit", "error", False)


def test_events_of_an_unknown_shape_are_left_out() -> None:
    events = Events(begun=True)
    for data in ({}, {"info": 1}, {"part": []}, {"error": "x"}, {"delta": 1, "field": "text"}, {"field": "text"}):
        for name in ("message.updated", "message.part.updated", "message.part.delta", "session.error", "new.kind"):
            events.take(name, **data)
    assert (events.said, events.reader.turn.ended_at) == ("", None)


def test_a_turn_of_tools_alone_has_answered() -> None:
    events = Events(begun=True)
    events.take("message.part.updated", part={"id": "p1", "type": "tool", "tool": "gt_sling"})
    events.closed()
    assert (events.reader.turn.answered, events.reader.turn.said_nothing) == (True, False)


def test_a_turn_with_neither_word_nor_tool_has_not() -> None:
    events = Events(begun=True)
    events.closed()
    assert (events.reader.turn.answered, events.reader.turn.said_nothing) == (False, True)
