"""The stand-in of the LLM gateway, as an OpenAI-compatible client sees it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import trio

from gastown.contract.secret import Secret
from gastown.hall.domain.town import mayor_context
from gastown.hall.gateway_stub import stand_in_text
from gastown.hall.hall import HallOptions, open_hall

COMPLETIONS = "/api/openrouter/chat/completions"
TOKEN = {"Authorization": "Bearer stand-in"}
QUESTION = {"role": "user", "content": "Who are you?"}


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[httpx2.AsyncClient]:
    options = HallOptions(data_dir=tmp_path / "oak")
    async with open_hall(options) as hall, httpx2.AsyncClient(base_url=hall.url, trust_env=False) as client:
        yield client


def asked(**changes: Any) -> dict[str, Any]:
    return {"model": "anthropic/claude-sonnet-4.6", "messages": [QUESTION], "stream": True} | changes


async def frames(client: httpx2.AsyncClient, body: dict[str, Any]) -> list[str]:
    with trio.fail_after(20):
        answer = await client.post(COMPLETIONS, json=body, headers=TOKEN)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/event-stream")
    parts = answer.text.split("\n\n")
    assert parts.pop() == ""
    assert all(part.startswith("data: ") for part in parts)
    return [part.removeprefix("data: ") for part in parts]


async def test_a_streamed_answer_is_words_then_its_end_then_done(client: httpx2.AsyncClient) -> None:
    *chunks, done = await frames(client, asked())
    assert done == "[DONE]"
    first, *words, last = map(json.loads, chunks)
    assert {chunk["object"] for chunk in (first, *words, last)} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in (first, *words, last)}) == 1
    assert first["choices"][0]["delta"]["role"] == "assistant"
    assert last["choices"] == [{"index": 0, "delta": {}, "finish_reason": "stop"}]
    assert last["usage"]["total_tokens"] == last["usage"]["prompt_tokens"] + last["usage"]["completion_tokens"]
    assert all(chunk["choices"][0]["finish_reason"] is None for chunk in (first, *words))
    assert len(words) > 20


async def test_the_words_make_up_a_text_that_says_what_it_is(client: httpx2.AsyncClient) -> None:
    chunks = [json.loads(chunk) for chunk in (await frames(client, asked()))[:-1]]
    text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
    assert text == stand_in_text("Who are you?")
    assert "stand-in" in text
    assert "no language model" in text
    assert "“Who are you?”" in text


async def test_an_answer_that_is_not_streamed_is_one_object(client: httpx2.AsyncClient) -> None:
    answer = (await client.post(COMPLETIONS, json=asked(stream=False), headers=TOKEN)).json()
    assert answer["object"] == "chat.completion"
    assert answer["model"] == "anthropic/claude-sonnet-4.6"
    assert answer["choices"][0]["message"] == {"role": "assistant", "content": stand_in_text("Who are you?")}
    assert answer["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("messages", "quoted"),
    [
        ([QUESTION, {"role": "assistant", "content": "x"}, {"role": "user", "content": "And now?"}], "And now?"),
        (
            [{"role": "user", "content": [{"type": "text", "text": "One"}, {"type": "text", "text": "two"}]}],
            "One two",
        ),
        ([{"role": "user", "content": "Hi\n<environment_details>\ncwd: /x\n</environment_details>"}], "Hi"),
        ([{"role": "user", "content": "a\x1b[31m\x00b"}], "a [31m b"),
        ([], ""),
        ([1, None, {"role": "user"}], ""),
        ([{"role": "user", "content": [1, {"text": 2}, {}]}], ""),
    ],
)
async def test_the_last_words_of_the_user_are_quoted(
    client: httpx2.AsyncClient, messages: list[object], quoted: str
) -> None:
    body = asked(messages=messages, stream=False)
    answer = (await client.post(COMPLETIONS, json=body, headers=TOKEN)).json()
    assert f"You wrote: “{quoted}”." in answer["choices"][0]["message"]["content"]


def test_a_long_question_is_quoted_only_in_part() -> None:
    assert len(stand_in_text("word " * 100_000)) < 600


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer other"}, {"Authorization": "Bearer anonymous"}])
async def test_another_token_than_the_towns_is_401(client: httpx2.AsyncClient, headers: dict[str, str]) -> None:
    answer = await client.post(COMPLETIONS, json=asked(), headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, 401)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"messages": "x"}', b"[" * 50_000, b"\xff"])
async def test_a_body_of_the_wrong_shape_is_400(client: httpx2.AsyncClient, content: bytes) -> None:
    answer = await client.post(COMPLETIONS, content=content, headers=TOKEN)
    assert answer.status_code == 400
    assert answer.json()["error"]


async def test_the_models_are_listed_without_a_token(client: httpx2.AsyncClient) -> None:
    answer = (await client.get("/api/openrouter/models")).json()
    names = [model["id"] for model in answer["data"]]
    assert names == ["anthropic/claude-sonnet-4.6", "anthropic/claude-haiku-4.5"]


async def test_a_client_that_leaves_in_the_middle_does_not_keep_the_hall_up(tmp_path: Path) -> None:
    options = HallOptions(data_dir=tmp_path / "oak", turn_seconds=3600)
    with trio.fail_after(30):
        async with open_hall(options) as hall:
            host, port = hall.url.removeprefix("http://").split(":")
            body = json.dumps(asked()).encode()
            async with await trio.open_tcp_stream(host, int(port)) as stream:
                head = f"POST {COMPLETIONS} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer stand-in\r\n"
                await stream.send_all(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
                assert (await stream.receive_some(1000)).startswith(b"HTTP/1.1 200")


async def test_a_town_with_a_real_token_has_no_stand_in(tmp_path: Path) -> None:
    options = HallOptions(data_dir=tmp_path / "oak", kilocode_token=Secret("kilo-secret"))
    async with open_hall(options) as hall, httpx2.AsyncClient(base_url=hall.url, trust_env=False) as client:
        assert not hall.stand_in
        assert (await client.post(COMPLETIONS, json=asked(), headers=TOKEN)).status_code == 404


async def test_a_token_and_its_organisation_are_for_the_hall_that_they_were_given_to(tmp_path: Path) -> None:
    kept = []
    real, placeholder = Secret("kilo-secret"), Secret("stand-in")
    for token, organization in ((None, None), (real, "org"), (None, None), (placeholder, "")):
        options = HallOptions(data_dir=tmp_path / "oak", kilocode_token=token, organization_id=organization)
        async with open_hall(options) as hall:
            town = await hall.town()
            kept.append((hall.stand_in, town.kilocode_token, town.organization_id))
    assert kept == [
        (True, placeholder, None),
        (False, real, "org"),
        (True, placeholder, None),
        (True, placeholder, None),
    ]


async def test_a_token_that_replaces_another_one_is_live_at_once(tmp_path: Path) -> None:
    async with open_hall(HallOptions(data_dir=tmp_path / "oak", kilocode_token=Secret("one"))) as hall:
        await hall.store.change_town("town", {"kilocode_token": Secret("two")})
        assert mayor_context(await hall.town()).kilocode_token == Secret("two")
