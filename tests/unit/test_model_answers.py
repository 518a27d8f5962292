"""What an answer of a model came to, read from any shape of it and however it is cut."""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gastown.broker.usage import AnswerReader, Meter
from gastown.contract.events import ModelCall, ModelCalls

USAGE = {
    "prompt_tokens": 120,
    "completion_tokens": 30,
    "total_tokens": 150,
    "prompt_tokens_details": {"cached_tokens": 100},
    "completion_tokens_details": {"reasoning_tokens": 7},
    "cost": 0.25,
}
CHUNKS = [
    {"model": "test/large", "choices": [{"delta": {"content": 'say "usage": {"cost": 99}'}}], "usage": None},
    {"model": "test/large", "choices": [{"delta": {"content": "é\u2028"}}]},
    {"model": "test/large", "choices": [], "usage": USAGE},
]
COUNTED = ("counted", 120, 30, 100, 7, 0.25)


def stream(*documents: Any, done: bool = True, end: str = "\n\n") -> bytes:
    frames = [f"data: {json.dumps(one, ensure_ascii=False)}{end}" for one in documents]
    return "".join([": hello" + end, *frames, *(["data: [DONE]" + end] if done else [])]).encode()


def read(*pieces: bytes, ended: bool = True, encoded: bool = False) -> ModelCall:
    reader = AnswerReader(encoded=encoded)
    for piece in pieces:
        reader.feed(piece)
    if ended:
        reader.end()
    return reader.call()


def figures(call: ModelCall) -> tuple[Any, ...]:
    return call.outcome, call.input, call.output, call.cached, call.reasoning, call.cost


@given(st.lists(st.integers(0, 400)), st.sampled_from(["\n\n", "\r\n\r\n", "\r\r", "\n"]))
def test_a_stream_may_be_cut_anywhere(cuts: list[int], end: str) -> None:
    """Also inside of a character, of a word of the protocol, and of a pair of line ends."""
    whole = stream(*CHUNKS, end=end)
    places = [0, *sorted(cuts), len(whole)]
    pieces = [whole[start:stop] for start, stop in pairwise(places)]
    assert figures(read(*pieces)) == COUNTED


@given(st.integers(1, 40))
def test_a_document_may_be_cut_anywhere(size: int) -> None:
    whole = b"\n " + json.dumps({"model": "m", "choices": [], "usage": USAGE}).encode()
    call = read(*(whole[start : start + size] for start in range(0, len(whole), size)))
    assert (figures(call), call.model) == (COUNTED, "m")


@given(st.lists(st.binary(max_size=200), max_size=20))
def test_garbage_is_no_fault_and_counts_nothing(pieces: list[bytes]) -> None:
    assert figures(read(*pieces))[1:] == (0, 0, 0, 0, None)


def test_usage_that_comes_with_each_chunk_is_the_sum_so_far_and_counts_once() -> None:
    def chunk(made: int) -> dict[str, Any]:
        return {"choices": [], "usage": {"prompt_tokens": 10, "completion_tokens": made, "cost": made / 100}}

    assert figures(read(stream(chunk(1), chunk(5), chunk(9)))) == ("counted", 10, 9, 0, 0, 0.09)


def test_usage_in_parts_is_put_together() -> None:
    """As the API of messages tells it: what was given at the beginning, what was made at the end."""
    given_usage = {"input_tokens": 5, "cache_read_input_tokens": 90, "cache_creation_input_tokens": 5}
    start = {"type": "message_start", "message": {"model": "m", "usage": {**given_usage, "output_tokens": 1}}}
    end = {"type": "message_delta", "delta": {}, "usage": {"output_tokens": 40, "cost": 1}}
    call = read(stream(start, end, {"type": "message_stop"}, done=False))
    assert (figures(call), call.model) == (("counted", 100, 40, 90, 0, 1), "m")


def test_the_api_of_responses_says_its_usage_inside_of_the_response() -> None:
    usage = {
        "input_tokens": 50,
        "input_tokens_details": {"cached_tokens": 20},
        "output_tokens": 8,
        "output_tokens_details": {"reasoning_tokens": 3},
    }
    events: Iterable[dict[str, Any]] = (
        {"type": "response.created", "response": {"model": "m", "usage": None}},
        {"type": "response.completed", "response": {"model": "m", "usage": usage}},
    )
    reader = AnswerReader()
    reader.feed(stream(*events, done=False))
    assert (reader.is_complete, figures(reader.call())) == (True, ("counted", 50, 8, 20, 3, None))


def test_an_event_of_several_lines_of_data_is_one() -> None:
    lines = json.dumps({"usage": USAGE}, indent=1).splitlines()
    assert figures(read("".join(f"data: {line}\n" for line in lines).encode() + b"\n")) == COUNTED


@pytest.mark.parametrize(
    "usage",
    [
        None,
        {},
        [],
        "x",
        7,
        {"cost": "0.5"},
        {"prompt_tokens": -1},
        {"cost": float("nan")},
        {"cost": True},
    ],
)
def test_an_answer_that_does_not_say_its_usage_is_missing_it(usage: Any) -> None:
    assert figures(read(stream({"usage": usage}))) == ("missing", 0, 0, 0, 0, None)


def test_a_cost_of_0_is_known_and_one_that_is_not_said_is_not() -> None:
    assert read(stream({"usage": {"prompt_tokens": 1, "cost": 0}})).cost == 0
    assert read(stream({"usage": {"prompt_tokens": 1}})).cost is None


def test_of_a_key_of_the_users_own_the_providers_price_counts() -> None:
    usage = {"cost": 0.01, "is_byok": True, "cost_details": {"upstream_inference_cost": 0.5}}
    assert read(stream({"usage": usage})).cost == 0.5
    assert read(stream({"usage": {**usage, "is_byok": False}})).cost == 0.01


def test_an_answer_that_was_cut_is_told_apart_from_one_without_usage() -> None:
    assert read(stream(CHUNKS[0], done=False), ended=False).outcome == "cut"
    assert read(stream(CHUNKS[0], done=False)).outcome == "missing"
    assert read(stream(*CHUNKS, done=False), ended=False).outcome == "counted"


@pytest.mark.parametrize(
    "body",
    [
        b'{"usage": ' + b"[" * 100_000,
        b'{"usage": {"cost": 1}',
        b'{"text": "' + b"x" * 2**20 + b'", "usage": {"cost": 1}}',
    ],
    ids=["deep", "not ended", "large"],
)
def test_a_document_that_cannot_be_read_is_unreadable(body: bytes) -> None:
    assert read(body).outcome == "unreadable"


def test_a_compressed_answer_is_unreadable() -> None:
    assert read(stream(*CHUNKS), encoded=True).outcome == "unreadable"


def test_a_line_without_end_takes_no_memory_and_the_next_one_counts() -> None:
    reader = AnswerReader()
    for _ in range(300):
        reader.feed(b"data: " + b"x" * 10_000)
        assert len(reader._rest) <= 2**20
    reader.feed(b"\n" + stream(CHUNKS[-1]))
    assert figures(reader.call()) == COUNTED


def test_a_call_is_told_once_and_as_soon_as_the_answer_has_said_that_it_ends() -> None:
    told: list[ModelCall] = []
    with Meter(AnswerReader(), told.append) as meter:
        meter.feed(stream(*CHUNKS, done=False))
        assert told == []
        meter.feed(b"data: [DONE]\n\n")
        assert [figures(one) for one in told] == [COUNTED]
        meter.end()
    assert len(told) == 1


def test_sums_have_what_is_known_and_say_how_much_is_not() -> None:
    total = ModelCalls()
    for usage in (USAGE, {"prompt_tokens": 5}, {**USAGE, "cost": 0}):
        total = total.plus(read(stream({"usage": usage})))
    assert total == ModelCalls(calls=3, unpriced=1, input=245, output=60, cached=200, reasoning=14, cost=0.25)
