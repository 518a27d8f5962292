"""Agents' events on their way to the worker: order, retries, refusals, arrays, what a full outbox gives up."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count, pairwise
from typing import Any

import pytest
import structlog
import trio

from gastown.contract.events import AgentEvent
from gastown.contract.secret import Secret
from gastown.testing.network import MemoryNetwork, open_network
from gastown.testing.town import TOWN
from gastown.testing.worker import FakeWorker, SlowWorker
from gastown.worker.client import WorkerClient
from gastown.worker.no_worker import NoWorker
from gastown.worker.outbox.pump import Outbox, open_outbox
from gastown.worker.tokens import Credentials, LiveCredentials

pytestmark = pytest.mark.virtual_time

ONE, BATCH, REFRESH = "POST /agent-events", "POST /batch", "POST /refresh-container-token"
NOW = datetime(2030, 5, 1, tzinfo=UTC)


@dataclass
class Desk:
    """An outbox, and the worker that it sends to."""

    outbox: Outbox
    worker: FakeWorker
    credentials: LiveCredentials
    ids: Any

    def put(self, *kinds: str, agent: str = "a", **data: Any) -> None:
        for kind in kinds:
            self.outbox.put("rig-1", agent, AgentEvent(id=next(self.ids), event=kind, data=data, timestamp=NOW))

    def put_numbers(self, numbers: range, agent: str = "a") -> None:
        for number in numbers:
            self.put("message.updated", agent=agent, number=number)

    def delta(self, text: str, part: str = "p1", agent: str = "a") -> None:
        self.put("message.part.delta", agent=agent, sessionID="s", partID=part, field="text", delta=text)

    def whole(self, text: str, part: str = "p1", agent: str = "a") -> None:
        self.put("message.part.updated", agent=agent, part={"id": part, "type": "text", "text": text})

    def arrived(self, agent: str = "a") -> list[str]:
        return [event["event_type"] for event in self.worker.agent_events(agent)]

    def numbers(self, agent: str = "a") -> list[int]:
        return [event["data"]["number"] for event in self.worker.agent_events(agent)]


@asynccontextmanager
async def open_desk(
    worker: Callable[[MemoryNetwork], FakeWorker] = FakeWorker, *, most: int = 50_000, most_bytes: int = 1 << 26
) -> AsyncIterator[Desk]:
    async with open_network() as network:
        fake = worker(network)
        credentials = LiveCredentials(Credentials(container_token=Secret("first")))
        client = WorkerClient(network.client(), fake.url, TOWN, credentials)
        async with open_outbox(client, most=most, most_bytes=most_bytes) as outbox:
            yield Desk(outbox, fake, credentials, count(1))


async def test_an_event_arrives_as_the_contract_says() -> None:
    async with open_desk() as desk:
        desk.put("message.updated", info={"id": "m", "text": "ü\ud800"})
        await desk.outbox.flushed()
        [call] = desk.worker.asked(ONE)
        assert call.path == f"/api/towns/{TOWN}/rigs/rig-1/agent-events"
        assert call.body == {
            "agent_id": "a",
            "event_type": "message.updated",
            "data": {"info": {"id": "m", "text": "ü\ud800"}},
        }
        assert call.headers["content-type"] == "application/json"
        assert (call.headers["x-gastown-rig-id"], call.headers["x-gastown-agent-id"]) == ("rig-1", "a")


async def test_the_token_is_that_of_the_moment_of_sending() -> None:
    async with open_desk() as desk:
        desk.worker.down()
        desk.put("message.updated")
        await trio.sleep(5)
        desk.credentials.replace_token(Secret("second"))
        desk.worker.up()
        await desk.outbox.flushed()
        assert [call.bearer for call in desk.worker.answered] == ["second"]


async def test_events_of_an_agent_arrive_in_their_order_while_agents_go_side_by_side() -> None:
    async with open_desk(lambda network: SlowWorker(network, 1.0)) as desk:
        for agent in "abcd":
            desk.put_numbers(range(5), agent)
        await desk.outbox.flushed()
        assert [desk.numbers(agent) for agent in "abcd"] == [[0, 1, 2, 3, 4]] * 4
        assert trio.current_time() == pytest.approx(5)


async def test_no_more_than_four_calls_are_under_way_and_their_connections_are_kept() -> None:
    async with open_desk(lambda network: SlowWorker(network, 1.0)) as desk:
        for agent in range(10):
            desk.put_numbers(range(3), f"a{agent}")
        await trio.sleep(0.5)
        assert len(desk.worker.calls) == 4
        await desk.outbox.flushed()
        assert desk.worker._network.connections("worker") == 4
        assert trio.current_time() == pytest.approx(8)


async def test_of_one_agent_two_calls_are_never_under_way() -> None:
    async with open_desk(lambda network: SlowWorker(network, 1.0)) as desk:
        for number in range(4):
            desk.put_numbers(range(number, number + 1))
            await trio.sleep(0.3)
        await desk.outbox.flushed()
        assert all(after.at - before.at >= 1 for before, after in pairwise(desk.worker.asked(ONE)))


@pytest.mark.parametrize("batches", [False, True])
async def test_2000_events_that_flow_while_the_worker_is_down_for_3_seconds_all_arrive_in_order(
    batches: bool,
) -> None:
    async with open_desk() as desk:
        desk.worker.batches = batches
        desk.put("agent.status", agent="a")
        await desk.outbox.flushed()
        desk.worker.down()
        for step in range(100):
            desk.put_numbers(range(step * 10, step * 10 + 10), "a")
            desk.put_numbers(range(step * 10, step * 10 + 10), "b")
            await trio.sleep(0.03)
        desk.worker.up()
        await desk.outbox.flushed()
        assert [e["data"]["number"] for e in desk.worker.agent_events("a")[1:]] == list(range(1000))
        assert desk.numbers("b") == list(range(1000))
        figures = desk.outbox.figures()
        assert (figures.sent, figures.lost, figures.merged, figures.depth, figures.bytes) == (2001, 0, 0, 0, 0)


@pytest.mark.parametrize("status", [500, 503, 408, 429, 401, 403])
async def test_an_event_waits_for_a_worker_that_cannot_take_it_now(status: int) -> None:
    async with open_desk() as desk:
        desk.worker.statuses[ONE] = status
        desk.put_numbers(range(3))
        await trio.sleep(60)
        assert desk.outbox.figures().age_seconds == 60
        assert desk.outbox.figures().retried > 5
        del desk.worker.statuses[ONE]
        await desk.outbox.flushed()
        assert desk.numbers() == [0, 1, 2]


async def test_while_the_worker_is_away_it_is_asked_more_and_more_rarely() -> None:
    async with open_desk() as desk:
        desk.worker.statuses[ONE] = 503
        desk.put_numbers(range(3))
        await trio.sleep(300)
        pauses = [after.at - before.at for before, after in pairwise(desk.worker.asked(ONE))]
        assert pauses[0] <= 0.2
        assert all(5 <= pause <= 10 for pause in pauses[8:])


async def test_many_agents_together_do_not_knock_more_often_than_four_callers() -> None:
    async with open_desk() as desk:
        desk.worker.statuses[ONE] = 503
        for agent in range(100):
            desk.put_numbers(range(1), f"a{agent}")
        await trio.sleep(600)
        before = len(desk.worker.calls)
        await trio.sleep(100)
        assert len(desk.worker.calls) - before <= 4 * 20


async def test_a_worker_that_never_answers_is_left_after_15_seconds() -> None:
    async with open_desk() as desk:
        desk.worker.delays[ONE] = float("inf")
        desk.put_numbers(range(3))
        await trio.sleep(10)
        desk.worker.delays.clear()
        await desk.outbox.flushed()
        assert desk.numbers() == [0, 1, 2]
        assert 15 <= trio.current_time() <= 16


async def test_an_answer_that_is_no_json_is_no_receipt() -> None:
    async with open_desk() as desk:
        desk.worker.garbage = {ONE}
        desk.put_numbers(range(3))
        await trio.sleep(60)
        assert desk.worker.agent_events() == []
        desk.worker.garbage = set()
        await desk.outbox.flushed()
        assert desk.numbers() == [0, 1, 2]


async def test_a_401_refreshes_the_token_once_for_all() -> None:
    async with open_desk() as desk:
        desk.worker.expired = {"first"}
        for agent in "abcdefgh":
            desk.put_numbers(range(3), agent)
        await desk.outbox.flushed()
        assert [desk.numbers(agent) for agent in "abcdefgh"] == [[0, 1, 2]] * 8
        assert desk.worker.fresh_tokens == ["fresh-1"]


@pytest.mark.parametrize("refresh_status", [401, 400, 404, 500])
async def test_an_hour_of_401_loses_nothing(refresh_status: int) -> None:
    async with open_desk() as desk:
        desk.worker.expired = {"first"}
        desk.worker.statuses[REFRESH] = refresh_status
        desk.put_numbers(range(20))
        await trio.sleep(3600)
        del desk.worker.statuses[REFRESH]
        await desk.outbox.flushed()
        assert desk.numbers() == list(range(20))
        assert desk.outbox.figures().lost == 0


@pytest.mark.parametrize("batches", [False, True])
async def test_an_event_that_the_worker_refuses_is_dropped_alone_and_counted(batches: bool) -> None:
    async with open_desk() as desk:
        desk.worker.batches = batches
        desk.worker.refuses = {"session.diff"}
        desk.put("one")
        await desk.outbox.flushed()
        desk.put("two", "session.diff", "three", "session.diff", "four")
        await desk.outbox.flushed()
        assert desk.arrived() == ["one", "two", "three", "four"]
        assert (desk.outbox.figures().refused, desk.outbox.figures().sent) == (2, 4)


async def test_thousands_of_refusals_are_not_thousands_of_lines_in_the_log() -> None:
    async with open_desk() as desk:
        desk.worker.refuses = {"session.diff"}
        with structlog.testing.capture_logs() as lines:
            for _ in range(3):
                desk.put(*["session.diff"] * 200)
                await trio.sleep(20)
        said = [line for line in lines if line["event"] == "outbox.refused"]
        assert [line["refused"] for line in said] == [1, 401]


async def test_a_large_event_has_more_time() -> None:
    async with open_desk() as desk:
        desk.worker.delays[ONE] = 20.0
        desk.put("message.updated", text="x" * 2_000_000)
        await desk.outbox.flushed()
        assert len(desk.worker.asked(ONE)) == 1


async def test_arrays_are_sent_only_to_a_worker_that_says_it_takes_them() -> None:
    async with open_desk() as desk:
        desk.put_numbers(range(3))
        await desk.outbox.flushed()
        desk.worker.batches = True
        desk.put_numbers(range(3, 1200))
        await desk.outbox.flushed()
        assert desk.numbers() == list(range(1200))
        assert [len(call.body) for call in desk.worker.asked(BATCH)] == [500, 500, 196]


async def test_a_worker_that_takes_arrays_no_more_gets_single_events_again() -> None:
    async with open_desk() as desk:
        desk.worker.batches = True
        desk.put_numbers(range(1))
        await desk.outbox.flushed()
        desk.worker.batches = False
        desk.worker.statuses[BATCH] = 404
        desk.put_numbers(range(1, 30))
        await desk.outbox.flushed()
        assert desk.numbers() == list(range(30))
        assert len(desk.worker.asked(BATCH)) == 1


async def test_an_array_is_no_larger_than_a_megabyte_unless_one_event_is() -> None:
    async with open_desk() as desk:
        desk.worker.batches = True
        desk.put("first")
        await desk.outbox.flushed()
        for size in (400_000, 400_000, 400_000, 400_000, 3_000_000, 400_000):
            desk.put("message.updated", text="x" * size)
        await desk.outbox.flushed()
        assert [len(call.body) for call in desk.worker.asked(BATCH)] == [3, 2]
        assert len(desk.worker.asked(ONE)) == 2
        assert desk.outbox.figures().sent == 7


async def test_flushed_does_not_wait_for_what_comes_later() -> None:
    async with open_desk(lambda network: SlowWorker(network, 1.0)) as desk, trio.open_nursery() as nursery:

        async def go_on() -> None:
            for number in range(100):
                desk.put_numbers(range(number, number + 1))
                await trio.sleep(0.5)

        nursery.start_soon(go_on)
        await trio.sleep(0.1)
        await desk.outbox.flushed()
        assert trio.current_time() == 1


async def test_without_a_worker_events_are_forgotten() -> None:
    async with open_outbox(NoWorker(), most=10, most_bytes=1000) as outbox:
        for number in range(100):
            outbox.put("r", "a", AgentEvent(id=number, event="x", data={}, timestamp=NOW))
        await outbox.flushed()
        assert outbox.figures().depth == 0


async def test_a_full_outbox_joins_the_deltas_of_a_text_and_loses_none() -> None:
    async with open_desk(most=100) as desk:
        desk.worker.down()
        desk.put("session.turn.open")
        for number in range(1000):
            desk.delta(f"{number} ", part=f"p{number // 500}")
        desk.put("session.turn.close")
        desk.worker.up()
        await desk.outbox.flushed()
        text = {"p0": "", "p1": ""}
        for event in desk.worker.agent_events()[1:-1]:
            text[event["data"]["partID"]] += event["data"]["delta"]
            assert (event["data"]["sessionID"], event["data"]["field"]) == ("s", "text")
        assert text["p0"] + text["p1"] == "".join(f"{number} " for number in range(1000))
        figures = desk.outbox.figures()
        assert (figures.lost, figures.sent + figures.merged) == (0, 1002)


async def test_a_full_outbox_keeps_of_a_part_what_was_last_said_of_all_of_it() -> None:
    async with open_desk(most=10) as desk:
        desk.worker.down()
        desk.whole("", part="other")
        desk.whole("")
        for _ in range(7):
            desk.delta("word ")
        desk.whole("word word")
        desk.delta("and more")
        desk.worker.up()
        await desk.outbox.flushed()
        seen = [e["data"].get("part", {}).get("text", e["data"].get("delta")) for e in desk.worker.agent_events()]
        assert seen == ["", "word word", "and more"]
        assert (desk.outbox.figures().merged, desk.outbox.figures().lost) == (8, 0)


async def test_nothing_is_merged_before_the_outbox_is_full() -> None:
    async with open_desk(most=100) as desk:
        desk.worker.down()
        for _ in range(100):
            desk.delta("x")
        desk.worker.up()
        await desk.outbox.flushed()
        assert len(desk.arrived()) == 100


async def test_a_full_outbox_drops_the_oldest_but_no_lifecycle_event_and_says_what_is_missing() -> None:
    async with open_desk(most=160) as desk:
        desk.worker.down()
        desk.put("agent.status", "session.turn.open", "session.error", "session.turn.close")
        desk.put_numbers(range(157))
        assert (desk.outbox.figures().dropped, desk.outbox.figures().depth) == (11, 150)
        desk.worker.up()
        await desk.outbox.flushed()
        first, *lifecycle = desk.worker.agent_events()[:5]
        assert first["event_type"] == "outbox.gave_up"
        assert (first["data"]["dropped"], first["data"]["firstId"], first["data"]["lastId"]) == (11, 5, 15)
        assert [event["event_type"] for event in lifecycle] == [
            "agent.status",
            "session.turn.open",
            "session.error",
            "session.turn.close",
        ]
        assert [event["data"]["number"] for event in desk.worker.agent_events()[5:]] == list(range(11, 157))


async def test_the_oldest_are_dropped_whose_ever_they_are() -> None:
    async with open_desk(most=160) as desk:
        desk.worker.down()
        desk.put_numbers(range(80), "quiet")
        desk.put_numbers(range(81), "loud")
        desk.worker.up()
        await desk.outbox.flushed()
        assert [e["data"].get("number") for e in desk.worker.agent_events("quiet")] == [None, *range(11, 80)]
        assert desk.numbers("loud") == list(range(81))


async def test_an_endless_absence_takes_no_more_memory_than_allowed() -> None:
    async with open_desk(most=1000, most_bytes=100_000) as desk:
        desk.worker.down()
        for number in range(20_000):
            desk.put("message.updated", agent=f"a{number % 5}", text="x" * 300)
        figures = desk.outbox.figures()
        assert figures.bytes <= 100_000
        assert figures.depth <= 1000
        assert figures.dropped + figures.depth == 20_000
        desk.worker.up()
        await desk.outbox.flushed()
        gaps = [e["data"]["dropped"] for e in desk.worker.agent_events() if e["event_type"] == "outbox.gave_up"]
        assert sum(gaps) == figures.dropped


async def test_a_gap_that_grows_while_it_is_told_is_told_again() -> None:
    async with open_desk(most=160) as desk:
        desk.worker.delays[ONE] = 5.0
        desk.put_numbers(range(200))
        await trio.sleep(0.1)
        desk.put_numbers(range(200, 400))
        await trio.sleep(7)  # the first event has gone, and the gap is being told of
        desk.put_numbers(range(400, 600))
        desk.worker.delays.clear()
        await desk.outbox.flushed()
        gaps = [e["data"]["dropped"] for e in desk.worker.agent_events() if e["event_type"] == "outbox.gave_up"]
        assert len(gaps) > 1
        assert sum(gaps) == desk.outbox.figures().dropped


async def test_deltas_of_two_fields_of_one_part_stay_two() -> None:
    """What a model thinks and what it says may be fields of the same part; a text of both would be neither."""
    async with open_desk(most=100) as desk:
        desk.worker.down()
        desk.put("session.turn.open")
        for number in range(1000):
            field = "text" if number < 500 else "reasoning"
            place = {"sessionID": "s", "messageID": "m", "partID": "p", "field": field}
            desk.put("message.part.delta", **place, delta=field[0])
        desk.worker.up()
        await desk.outbox.flushed()
        texts = {"text": "", "reasoning": ""}
        for event in desk.worker.agent_events()[1:]:
            texts[event["data"]["field"]] += event["data"]["delta"]
        assert texts == {"text": "t" * 500, "reasoning": "r" * 500}
