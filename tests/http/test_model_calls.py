"""Answers of models on their way through the broker, counted where an agent cannot forge them."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
import trio

from gastown.testing.asgi import Answer, Asked, Frames, answer, app_of
from gastown.testing.town import FakeTown

pytestmark = pytest.mark.virtual_time

CHAT = "/api/openrouter/chat/completions"
MODELS = "/api/openrouter/models"
USAGE = {"prompt_tokens": 9, "completion_tokens": 3, "cost": 0.5}


async def words(*, whole: bool = True) -> AsyncGenerator[str]:
    yield 'data: {"choices": [{"delta": {"content": "hello"}}]}\n\n'
    if not whole:
        await trio.sleep_forever()
    yield f"data: {json.dumps({'model': 'test/large', 'choices': [], 'usage': USAGE})}\n\n"
    yield "data: [DONE]\n\n"


class Gateway:
    """Answers each call with the next of `replies`."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.replies: list[Answer | Frames] = []

    async def handle(self, asked: Asked) -> Answer | Frames:
        self.asked.append(asked)
        return self.replies.pop(0)


@asynccontextmanager
async def with_gateway(town_on_fakes: Any) -> AsyncIterator[tuple[FakeTown, Gateway]]:
    """A town whose agent pole-1 has begun, and the gateway that the broker asks."""
    async with town_on_fakes(kilo_api_url="http://gateway") as town:
        gateway = Gateway()
        town.network.serve(app_of(gateway.handle), "gateway")
        await town.start("pole-1", envVars={"KILOCODE_TOKEN": "canary"})
        yield town, gateway


def client(town: FakeTown) -> httpx2.AsyncClient:
    """With what the agent's server was given."""
    env = town.kilo.server("pole-1").spec.env
    made = town.network.client(env["GASTOWN_API_URL"])
    made.headers["authorization"] = f"Bearer {env['KILOCODE_TOKEN']}"
    made.headers["accept-encoding"] = "gzip, br"
    return made


async def calls(town: FakeTown) -> list[dict[str, Any]]:
    return [event["data"] for event in await town.events("pole-1") if event["event"] == "agent.model_call"]


async def test_an_answer_that_streams_is_an_event_of_its_agent_and_counts_in_its_status(town_on_fakes) -> None:
    async with with_gateway(town_on_fakes) as (town, gateway):
        gateway.replies = [Frames(words()), answer({"model": "test/small", "usage": {**USAGE, "cost": 0}})]
        for _ in range(2):
            assert (await client(town).post(CHAT, json={})).status_code == 200
        first, second = await calls(town)
        assert first.pop("callId") != second.pop("callId")
        counted = {"outcome": "counted", "input": 9, "output": 3, "cached": 0, "reasoning": 0}
        assert first == {**counted, "model": "test/large", "cost": 0.5}
        assert second == {**counted, "model": "test/small", "cost": 0}
        assert (await town.status("pole-1"))["modelCalls"] == {
            "calls": 2, "unpriced": 0, "input": 18, "output": 6, "cached": 0, "reasoning": 0, "cost": 0.5,
        }  # fmt: skip
        assert [asked.headers["accept-encoding"] for asked in gateway.asked] == ["identity", "identity"]


async def test_its_event_says_which_attempt_it_was_and_goes_to_the_worker(town_on_fakes) -> None:
    async with with_gateway(town_on_fakes) as (town, gateway):
        gateway.replies = [Frames(words())]
        await client(town).post(CHAT, json={})
        attempt = town.opened.town.roster.find("pole-1").attempt
        [event] = [one for one in await town.events("pole-1") if one["event"] == "agent.model_call"]
        assert event["attemptId"] == attempt
        await town.opened.town.services.outbox.flushed()
        [told] = [one for one in town.worker.agent_events("pole-1") if one["event_type"] == "agent.model_call"]
        assert (told["agent_id"], told["attemptId"], told["data"]["cost"]) == ("pole-1", attempt, 0.5)


async def test_a_call_that_its_agent_leaves_is_cut_and_its_cost_is_not_known(town_on_fakes) -> None:
    async with with_gateway(town_on_fakes) as (town, gateway):
        gateway.replies = [Frames(words(whole=False))]
        async with client(town).stream("POST", CHAT, json={}) as response:
            await anext(response.aiter_raw())
        await trio.sleep(1)
        assert [(one["outcome"], one["cost"]) for one in await calls(town)] == [("cut", None)]
        assert (await town.status("pole-1"))["modelCalls"]["unpriced"] == 1


async def test_what_is_refused_or_is_no_answer_of_a_model_costs_nothing(town_on_fakes) -> None:
    async with with_gateway(town_on_fakes) as (town, gateway):
        gateway.replies = [answer({"error": {}, "usage": USAGE}, 429), answer({"usage": USAGE})]
        assert (await client(town).post(CHAT, json={})).status_code == 429
        assert (await client(town).get(MODELS)).status_code == 200
        assert await calls(town) == []
        assert "modelCalls" not in await town.status("pole-1")


async def test_metrics_count_the_tokens_and_the_cost_of_all_agents(town_on_fakes) -> None:
    async with with_gateway(town_on_fakes) as (town, gateway):
        gateway.replies = [Frames(words()), answer({"choices": []}), answer({"usage": USAGE})]
        for _ in range(3):
            await client(town).post(CHAT, json={})
        lines = (await town.client.get("/metrics")).text.splitlines()
    assert {line for line in lines if line.startswith("gastown_model_") and not line.endswith((" 0", " 0.0"))} == {
        'gastown_model_calls_total{outcome="counted"} 2.0',
        'gastown_model_calls_total{outcome="missing"} 1.0',
        'gastown_model_tokens_total{kind="input"} 18.0',
        'gastown_model_tokens_total{kind="output"} 6.0',
        "gastown_model_cost_usd_total 1.0",
        "gastown_model_calls_unpriced_total 1.0",
    }


async def test_a_server_that_counts_other_tokens_than_the_gateway_is_told_once(town_on_fakes) -> None:
    async with with_gateway(town_on_fakes) as (town, gateway):
        usage = {**USAGE, "prompt_tokens": 90_000}
        gateway.replies = [answer({"usage": usage}), answer({"usage": usage})]
        for _ in range(2):
            await client(town).post(CHAT, json={})
            await town.client.post("/agents/pole-1/message", json={"prompt": "And then?"})
            await trio.sleep(30)
        [said] = town.logged("agent.usage_differs")
        assert (said["agent_id"], said["gateway"]["input"], said["kilo"]["input"] < 100) == (
            "pole-1",
            90_000,
            True,
        )
        assert "gastown_agents_usage_differs 1" in (await town.client.get("/metrics")).text
