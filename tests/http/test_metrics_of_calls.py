"""`/metrics`: requests to the worker, through the broker, conversations, events on their way."""

from __future__ import annotations

from functools import partial
from typing import Any

import httpx2
import pytest
import trio

from gastown.metrics.table import METRICS
from gastown.testing.asgi import Frames, answer, app_of
from gastown.testing.drainer import converse
from gastown.testing.scrape import Scrape, scrape
from gastown.testing.town import FakeTown

pytestmark = pytest.mark.virtual_time

CALLS = "worker_calls_total"
PASSED = "broker_requests_total"
PRIME = "/api/towns/oak/rigs/rig-1/agents/pole-1/prime"
MODELS = "/api/openrouter/models"


def as_agent(town: FakeTown, agent_id: str = "pole-1") -> httpx2.AsyncClient:
    """A client of the broker with what the agent's server was given."""
    env = town.kilo.server(agent_id).spec.env
    client = town.network.client(env["GASTOWN_API_URL"])
    client.headers["authorization"] = f"Bearer {env['KILOCODE_TOKEN']}"
    return client


def passed(seen: Scrape) -> dict[tuple[str, str], float]:
    """The broker's requests that are over, by destination and outcome."""
    return {
        (sample.labels["destination"], sample.labels["outcome"]): sample.value
        for sample in seen.families[f"gastown_{PASSED}"].samples
        if sample.value
    }


async def test_a_call_of_the_worker_is_counted_by_its_route_and_timed(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        town.worker.delays["GET /mayor-id"] = 4
        await town.hydrated()
        await town.start("pole-1")
        seen = await scrape(town)
        assert seen(CALLS, route="mayor-id", outcome="ok") == seen(CALLS, route="mayor-id") == 1
        assert seen(CALLS, route="db-snapshot", outcome="not_found") == 1
        assert seen("worker_call_duration_seconds_sum", route="mayor-id") == 4
        assert seen(CALLS, route="other") == 0


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (400, "refused"),
        (401, "unauthorized"),
        (403, "unauthorized"),
        (404, "not_found"),
        (429, "failed"),
        (503, "failed"),
    ],
)
async def test_what_the_worker_answers_is_the_outcome(town_on_fakes, status: int, outcome: str) -> None:
    async with town_on_fakes() as town:
        town.worker.statuses["GET /db-snapshot"] = status
        await town.start("pole-1")
        seen = await scrape(town)
        assert seen(CALLS, route="db-snapshot", outcome=outcome) == seen(CALLS, route="db-snapshot") > 0


async def test_a_worker_that_never_answers_is_cut_by_the_callers_deadline(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        town.worker.delays["GET /db-snapshot"] = float("inf")
        await town.start("pole-1")
        seen = await scrape(town)
        assert seen(CALLS, route="db-snapshot", outcome="cut") > 0
        assert seen("snapshot_operations_total", operation="restore", outcome="unavailable") > 0


async def test_while_the_worker_is_away_events_wait_and_grow_old_and_then_they_leave(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        await town.start("pole-1")
        await trio.sleep(10)
        before = await scrape(town)
        assert (before("outbox_waiting_events"), before("outbox_oldest_age_seconds")) == (0, 0)
        town.worker.down()
        town.opened.town.roster.get("pole-1").record("agent.tried", {})
        await trio.sleep(60)
        away = await scrape(town)
        assert away("outbox_waiting_events") == 1
        assert away("outbox_waiting_bytes") > 0
        assert away("outbox_oldest_age_seconds") == pytest.approx(60)
        assert away("outbox_retries_total") > 0
        assert away(CALLS, route="agent-events", outcome="no_answer") == away("outbox_retries_total")
        assert away("events_recorded_total") == before("events_recorded_total") + 1
        town.worker.up()
        await trio.sleep(20)
        after = await scrape(town)
        assert (after("outbox_waiting_events"), after("outbox_oldest_age_seconds")) == (0, 0)
        assert after("outbox_events_total", outcome="sent") == after("events_recorded_total")


async def test_events_that_are_refused_or_one_too_many_are_counted_apart(town_on_fakes) -> None:
    async with town_on_fakes(gastown_outbox_events=100) as town:
        await town.start("pole-1")
        await trio.sleep(10)
        agent = town.opened.town.roster.get("pole-1")
        town.worker.refuses = {"unwanted"}
        agent._keep("unwanted", {})
        await trio.sleep(1)
        assert (await scrape(town))("outbox_events_total", outcome="refused") == 1
        town.worker.down()
        for number in range(150):
            agent._keep("said", {"number": number})
        seen = await scrape(town)
        assert seen("outbox_events_total", outcome="dropped") + seen("outbox_waiting_events") == 150
        assert seen("outbox_events_total", outcome="dropped") > 50


async def test_reports_that_wait_and_those_that_are_lost_are_seen(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        await town.start("pole-1")
        town.worker.down()
        await town.client.post("/agents/pole-1/stop")
        assert (await scrape(town))("reports_waiting") == 1
        town.worker.statuses["POST /completed"] = 400
        town.worker.up()
        await trio.sleep(60)
        seen = await scrape(town)
        assert (seen("reports_waiting"), seen("reports_lost_total")) == (0, 1)


async def test_a_conversation_that_is_saved_and_restored_is_counted_timed_and_sized(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        await town.start("pole-1")
        converse(town, "pole-1")
        town.worker.delays["POST /db-snapshot"] = 3
        await town.client.post("/agents/pole-1/stop")
        seen = await scrape(town)
        size = len(town.worker.snapshots["rig-1", "pole-1"])
        assert seen("snapshot_operations_total", operation="save", outcome="saved") == 1
        assert seen("snapshot_operations_total", operation="restore", outcome="fresh") == 1
        assert seen("snapshot_duration_seconds_sum", operation="save") == pytest.approx(3)
        assert seen("snapshot_size_bytes_sum", operation="save") == size
        town.worker.snapshots["rig-1", "pole-2"] = town.worker.snapshots["rig-1", "pole-1"]
        await town.start("pole-2")
        seen = await scrape(town)
        assert seen("snapshot_operations_total", operation="restore", outcome="restored") == 1
        assert seen("snapshot_size_bytes_sum", operation="restore") == size


async def test_a_conversation_that_cannot_be_saved_is_a_failed_save(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        await town.start("pole-1")
        converse(town, "pole-1")
        town.worker.statuses["POST /db-snapshot"] = 400
        await town.client.post("/agents/pole-1/stop")
        seen = await scrape(town)
        assert seen("snapshot_operations_total", operation="save", outcome="failed") == 1
        assert seen("snapshot_size_bytes_count", operation="save") == 0


async def test_what_passes_the_broker_is_counted_by_where_it_goes_and_what_comes_back(town_on_fakes) -> None:
    async with town_on_fakes(kilo_api_url="http://gateway") as town:

        async def gateway(asked: Any) -> Any:
            return answer({}, 402 if asked.path == "/api/user" else 200)

        town.network.serve(app_of(gateway), "gateway")
        await town.start("pole-1")
        client = as_agent(town)
        for path in (MODELS, "/api/user", PRIME, "/broker/environment", "/api/openrouter/secrets"):
            await client.get(path)
        await town.network.client("http://broker").get(MODELS)
        await trio.sleep(5)  # a request is over when its body has been read, too
        assert passed(await scrape(town)) == {
            ("gateway", "2xx"): 1,
            ("gateway", "4xx"): 1,
            ("worker", "4xx"): 1,
            ("broker", "2xx"): 1,
            ("broker", "denied"): 2,
        }


async def test_a_streamed_answer_is_timed_to_its_first_byte_and_is_in_progress_until_its_last(
    town_on_fakes,
) -> None:
    async def words() -> Any:
        await trio.sleep(3)
        yield "one"
        await trio.sleep(100)
        yield "two"

    async def gateway(_: Any) -> Any:
        await trio.sleep(2)
        return Frames(words())

    async with town_on_fakes(kilo_api_url="http://gateway") as town:
        town.network.serve(app_of(gateway), "gateway")
        await town.start("pole-1")
        asked = town.later(partial(as_agent(town).get, MODELS))
        await trio.sleep(50)
        seen = await scrape(town)
        assert seen("broker_first_byte_seconds_sum", destination="gateway") == pytest.approx(5)
        assert seen("broker_requests_in_progress", destination="gateway") == 1
        assert passed(seen) == {}
        assert (await asked.result()).text == "onetwo"
        seen = await scrape(town)
        assert (seen("broker_requests_in_progress"), passed(seen)) == (0, {("gateway", "2xx"): 1})
        assert seen("broker_first_byte_seconds_count") == 1


@pytest.mark.parametrize("upstream", ["nobody", "breaks off", "is too big for"])
async def test_a_request_that_gets_no_whole_answer_is_counted_as_that(town_on_fakes, upstream: str) -> None:
    async def breaks_off() -> Any:
        yield "one"
        town.network.cut("gateway")
        await trio.sleep_forever()

    async def gateway(_: Any) -> Any:
        return Frames(breaks_off())

    async with town_on_fakes(kilo_api_url="http://gateway") as town:
        if upstream != "nobody":
            town.network.serve(app_of(gateway), "gateway")
        await town.start("pole-1")
        if upstream == "is too big for":
            answered = await as_agent(town).post(f"{PRIME[:-6]}/done", content=b"x" * (5 * 1024 * 1024))
            assert answered.status_code == 413
            await trio.sleep(5)  # a request is over when its body has been read, too
            assert passed(await scrape(town)) == {("worker", "denied"): 1}
            return
        with pytest.raises(httpx2.HTTPError):
            await as_agent(town).get(MODELS)
        assert passed(await scrape(town)) == {("gateway", "no_answer"): 1}


@pytest.mark.parametrize("who", ["the client", "the agent"])
async def test_a_request_whose_agent_leaves_is_cut(town_on_fakes, who: str) -> None:
    async def gateway(_: Any) -> Any:
        await trio.sleep_forever()

    async with town_on_fakes(kilo_api_url="http://gateway") as town:
        town.network.serve(app_of(gateway), "gateway")
        await town.start("pole-1")

        client = as_agent(town)

        async def ask() -> httpx2.Response | None:
            try:
                return await client.get(MODELS)
            except httpx2.HTTPError:
                return None

        asked = town.later(ask)
        await trio.sleep(5)
        if who == "the client":
            asked.leave()
        else:
            await town.client.post("/agents/pole-1/stop")
        await trio.sleep(5)
        seen = await scrape(town)
        assert (passed(seen), seen("broker_requests_in_progress")) == ({("gateway", "cut"): 1}, 0)


async def test_when_a_town_has_lived_every_metric_of_the_table_is_there_with_its_type_and_help(
    town_on_fakes,
) -> None:
    async def gateway(_: Any) -> Any:
        return answer({})

    async with town_on_fakes(kilo_api_url="http://gateway") as town:
        town.network.serve(app_of(gateway), "gateway")
        await town.hydrated()
        await town.start("pole-1")
        await as_agent(town).get(MODELS)
        converse(town, "pole-1")
        await town.client.post("/agents/pole-1/stop")
        seen = await scrape(town)
    assert set(seen.families) == set(METRICS)
    for name, metric in METRICS.items():
        family = seen.families[name]
        assert (family.type, family.documentation) == (metric.type, metric.help)
        assert family.samples, name
        for sample in family.samples:
            assert sample.name in metric.samples
            assert set(sample.labels) - {"le"} == set(metric.labels)
            assert all(sample.labels[label] in values for label, values in metric.labels.items() if values)
