"""What an agent's messages used, from kilo's own words for it."""

from __future__ import annotations

from typing import Any

import pytest

from gastown.agents.session.usage import UsageMeter
from gastown.contract.events import ModelCall, Usage

TOKENS = {"input": 10, "output": 5, "reasoning": 2, "cache": {"read": 100, "write": 20}, "total": 137}


def message(number: int, **changes: Any) -> dict[str, Any]:
    """The `info` of a completed message, as kilo 7.7.7 writes it."""
    completed = {"created": 1, "completed": 2}
    known = {"id": f"msg_{number:02}", "role": "assistant", "modelID": "test/large", "time": completed}
    return known | {"tokens": TOKENS, "cost": 0.5} | changes


def test_cached_input_and_reasoning_count_and_a_message_is_told_in_the_words_of_the_wire() -> None:
    event = UsageMeter().take("ses_1", message(1))
    assert event is not None
    assert event.model_dump(by_alias=True) == {
        "input": 130,
        "output": 7,
        "cost": 0.5,
        "sessionId": "ses_1",
        "messageId": "msg_01",
        "model": "test/large",
    }


def test_a_message_counts_when_it_completes_and_once() -> None:
    meter = UsageMeter()
    told = [meter.take("ses_1", info) for info in (message(1, time={"created": 1}), message(1), message(1))]
    assert [event is not None for event in told] == [False, True, False]
    assert meter.total == Usage(input=130, output=7, cost=0.5)


def test_a_message_from_before_the_last_one_that_comes_again_is_not_counted() -> None:
    meter = UsageMeter()
    told = [meter.take("ses_1", message(number)) for number in (1, 2, 1)]
    assert [event is not None for event in told] == [True, True, False]


def test_the_messages_of_a_sub_agent_count_beside_those_of_the_agent() -> None:
    meter = UsageMeter()
    for session, number in (("ses_1", 5), ("ses_2", 3)):
        meter.take(session, message(number))
    assert meter.total == Usage(input=260, output=14, cost=1.0)


@pytest.mark.parametrize("cost", [0, None, "0.5", -1, float("nan"), float("inf"), 10**400, True])
def test_a_cost_that_is_not_known_is_null_and_makes_the_sum_null(cost: Any) -> None:
    meter = UsageMeter()
    event = meter.take("ses_1", message(1, cost=cost))
    assert event is not None
    assert event.cost is None
    meter.take("ses_1", message(2))
    assert meter.total == Usage(input=260, output=14, cost=None)


def test_a_message_without_tokens_costs_nothing() -> None:
    meter = UsageMeter()
    meter.take("ses_1", message(1, tokens={}, cost=0))
    assert meter.total == Usage(input=0, output=0, cost=0)


@pytest.mark.parametrize(
    "info",
    [None, [], "x", {}, message(1, role="user"), message(1, id=7), message(1, time=None), message(1, time=[])],
)
def test_what_is_no_completed_message_of_the_assistant_is_not_counted(info: Any) -> None:
    meter = UsageMeter()
    assert meter.take("ses_1", info) is None
    assert meter.total is None


@pytest.mark.parametrize(
    "tokens", [None, 7, [], {"input": "10", "output": -5, "cache": []}, {"input": float("nan")}]
)
def test_numbers_that_are_none_count_as_zero(tokens: Any) -> None:
    event = UsageMeter().take("ses_1", message(1, tokens=tokens))
    assert event is not None
    assert (event.input, event.output) == (0, 0)


def test_a_session_is_forgotten_only_after_many_others() -> None:
    meter = UsageMeter()
    for number in range(255):
        meter.take(f"ses_{number}", message(1))
    assert meter.take("ses_0", message(1)) is None


def call(given: int, outcome: str = "counted") -> ModelCall:
    """An answer as the broker has read it; a message of kilo's has 137 tokens."""
    known = {"call_id": "c", "model": None, "outcome": outcome, "input": given, "output": 0, "cached": 0}
    return ModelCall.model_validate({**known, "reasoning": 0, "cost": None})


@pytest.mark.parametrize(
    ("messages", "calls", "differs"),
    [
        (100, [13_700], False),
        (100, [10_400], False),
        (100, [10_200], False),
        (100, [8_000], True),
        (1, [5_100], False),
        (1, [6_000], True),
        (100, [], True),
        (100, [0, 0], True),
        (0, [90_000], False),
    ],
)
def test_the_gateways_figures_may_be_a_quarter_or_some_thousand_tokens_off(
    messages: int, calls: list[int], differs: bool
) -> None:
    """An agent that talks to a provider past the broker has none of the gateway's."""
    meter = UsageMeter()
    for number in range(messages):
        meter.take("ses_1", message(number, id=f"msg_{number:04}"))
    for given in calls:
        meter.take_call(call(given))
    assert [meter.compare(), meter.compare()] == [differs, False]
    assert meter.differs == differs


def test_figures_of_which_a_part_is_missing_are_not_compared() -> None:
    meter = UsageMeter()
    meter.take("ses_1", message(1))
    meter.take_call(call(90_000))
    meter.take_call(call(0, "cut"))
    assert not meter.compare()
