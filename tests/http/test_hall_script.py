"""The stand-in that plays a script, as an OpenAI-compatible client sees it, and how a hall is given one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
import pytest
import trio

from gastown.contract.secret import Secret
from gastown.hall.api.context import HallContext, StandIn
from gastown.hall.app import create_app
from gastown.hall.gateway_stub import stand_in_text
from gastown.hall.hall import HallOptions, open_hall
from gastown.hall.stand_in.script import Script, ScriptUnusable
from gastown.testing.network import open_network
from gastown.testing.script import answer, bash, call, fail, say, script, when, write

COMPLETIONS = "/api/openrouter/chat/completions"
TOKEN = {"Authorization": "Bearer stand-in"}
OPENING = "(A script plays here, no language model: “s”.)\n\n"
TWO_CALLS = script("s", when("go").then(say("Now.", cost=0.25), bash("echo 'ü'" + " " * 100), call("gt_prime")))


def asked(text: str = "go", *more: dict[str, Any], **changes: Any) -> dict[str, Any]:
    tool = {"type": "function", "function": {"name": "gt_done", "parameters": {}}}
    return {"model": "m/x", "messages": [{"role": "user", "content": text}, *more], "tools": [tool]} | changes


@dataclass
class Client:
    """Asks the hall's application in virtual time; `seconds` is how long the answers took."""

    http: httpx2.AsyncClient
    seconds: list[float] = field(default_factory=list[float])

    async def whole(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        began = trio.current_time()
        reply = await self.http.post(COMPLETIONS, json=body, headers=TOKEN, timeout=1000)
        self.seconds.append(trio.current_time() - began)
        return reply.status_code, reply.json()

    async def streamed(self, body: dict[str, Any]) -> Sequence[dict[str, Any]]:
        began = trio.current_time()
        reply = await self.http.post(COMPLETIONS, json=body | {"stream": True}, headers=TOKEN, timeout=1000)
        self.seconds.append(trio.current_time() - began)
        frames = reply.text.split("\n\n")
        assert frames[-2:] == ["data: [DONE]", ""]
        return [json.loads(frame.removeprefix("data: ")) for frame in frames[:-2]]


@asynccontextmanager
async def playing(played: Script, turn_seconds: float = 0.0) -> AsyncIterator[Client]:
    stand_in = StandIn(token=Secret("stand-in"), turn_seconds=turn_seconds, script=played)
    context = HallContext(store=None, now=lambda: datetime.now(UTC), stand_in=stand_in)  # type: ignore[arg-type]
    async with open_network() as network:
        network.serve(create_app(context), "hall")
        yield Client(network.client("http://hall"))


@pytest.mark.virtual_time
async def test_a_streamed_answer_brings_its_text_then_its_calls_in_pieces() -> None:
    """A client puts each call together by its index; the end says that it waits for results, and what it cost."""
    async with playing(TWO_CALLS) as client:
        *frames, end = await client.streamed(asked())
    deltas = [frame["choices"][0]["delta"] for frame in frames]
    assert "".join(delta.get("content", "") for delta in deltas) == OPENING + "Now."
    calls: dict[int, dict[str, str]] = {}
    for piece in [piece for delta in deltas for piece in delta.get("tool_calls", [])]:
        known = calls.setdefault(piece["index"], {"id": piece.get("id", ""), "name": "", "arguments": ""})
        known["name"] += piece["function"].get("name", "")
        known["arguments"] += piece["function"]["arguments"]
    assert [one["name"] for one in calls.values()] == ["bash", "gt_prime"]
    arguments = {"command": "echo 'ü'" + " " * 100, "description": "Runs what the script says"}
    assert [json.loads(one["arguments"]) for one in calls.values()] == [arguments, {}]
    assert len({one["id"] for one in calls.values()} - {""}) == 2
    assert deltas[0]["role"] == "assistant"
    assert end["choices"] == [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]
    assert end["usage"]["cost"] == 0.25
    assert end["usage"]["total_tokens"] == end["usage"]["prompt_tokens"] + end["usage"]["completion_tokens"]


@pytest.mark.virtual_time
async def test_an_answer_that_is_not_streamed_has_the_same_text_and_calls() -> None:
    async with playing(TWO_CALLS) as client:
        status, body = await client.whole(asked())
    [choice] = body["choices"]
    assert (status, choice["finish_reason"], choice["message"]["content"]) == (200, "tool_calls", OPENING + "Now.")
    assert [one["function"]["name"] for one in choice["message"]["tool_calls"]] == ["bash", "gt_prime"]
    assert body["usage"]["cost"] == 0.25


@pytest.mark.virtual_time
async def test_an_answer_takes_the_seconds_that_its_script_says() -> None:
    """Streamed or whole, an answer or an error; without any it takes as long as the stand-in does otherwise."""
    played = script(
        "s",
        when("slow").then(say("one two three", seconds=90)),
        when("fails").then(answer(say("", seconds=7), fail(503))),
        when("go").then(say("x")),
    )
    async with playing(played, turn_seconds=3) as client:
        await client.streamed(asked("slow"))
        await client.whole(asked("slow"))
        await client.whole(asked("fails"))
        await client.streamed(asked("go"))
    assert client.seconds == pytest.approx([90, 90, 7, 3])


@pytest.mark.virtual_time
async def test_an_answer_without_anything_is_an_empty_text() -> None:
    """A model that says nothing at all is one of the bad ones."""
    async with playing(script("s", when().then(say("x")).then())) as client:
        *frames, end = await client.streamed(asked("go", {"role": "assistant", "content": "x"}))
    assert [frame["choices"][0]["delta"] for frame in frames] == [{"role": "assistant", "content": ""}]
    assert end["choices"][0]["finish_reason"] == "stop"


@pytest.mark.virtual_time
async def test_an_error_is_answered_as_a_gateway_does_until_it_is_used_up() -> None:
    async with playing(script("s", when().then(answer(fail(429, "slow down", times=2), say("ok"))))) as client:
        answers = [await client.whole(asked()) for _ in range(3)]
        other = await client.whole(asked("another"))
    assert [status for status, _ in answers] == [429, 429, 200]
    assert answers[0][1] == {"error": {"message": "slow down", "code": 429}}
    assert other[0] == 429


@pytest.mark.virtual_time
async def test_what_no_turn_is_for_gets_the_one_sentence() -> None:
    async with playing(TWO_CALLS) as client:
        _, body = await client.whole(asked("hello"))
    assert body["choices"][0]["message"]["content"] == stand_in_text("hello")


async def test_a_hall_plays_the_script_that_it_was_given(tmp_path: Path) -> None:
    options = HallOptions(data_dir=tmp_path / "oak", script=write(TWO_CALLS, tmp_path / "s.json"))
    async with open_hall(options) as hall, httpx2.AsyncClient(base_url=hall.url, trust_env=False) as client:
        said = (await client.post(COMPLETIONS, json=asked(), headers=TOKEN)).json()
    assert said["choices"][0]["message"]["content"] == OPENING + "Now."


async def test_a_hall_is_not_opened_with_a_wrong_script_or_with_one_beside_a_real_token(tmp_path: Path) -> None:
    """Nothing is made for it, and a token is never spent without being asked for."""
    (tmp_path / "s.json").write_text('{"format": 1, "name": "s", "turns": [{}]}')
    right = write(TWO_CALLS, tmp_path / "right.json")
    for file, token, sentence in (
        (tmp_path / "s.json", None, r"s\.json cannot be played: turns\[0\]\.answers: field required"),
        (right, Secret("real"), "leave out either it or KILOCODE_TOKEN"),
    ):
        with pytest.raises(ScriptUnusable, match=sentence):
            async with open_hall(HallOptions(data_dir=tmp_path / "oak", script=file, kilocode_token=token)):
                pass
    assert not (tmp_path / "oak").exists()


@pytest.mark.parametrize("command", ["up", "hall"])
def test_a_command_with_a_wrong_script_ends_with_one_sentence_and_2(tmp_path: Path, command: str) -> None:
    """The sentence names the file and the place in it; nothing is made."""
    (tmp_path / "s.json").write_text('{"format": 1, "name": "s", "turns": [{"message": "(", "answers": [{}]}]}')
    done = subprocess.run(
        [sys.executable, "-m", "gastown", command, "--script", "s.json", "--dir", "town"],
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    sentence = "turns[0].message: not a regular expression: missing ), unterminated subpattern at position 0"
    said = f"gastown {command}: the script s.json cannot be played: {sentence}\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", said)
    assert not (tmp_path / "town").exists()
