"""What holds of the outbox whatever happens: order, nothing lost within the bounds, and counters that add up."""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, datetime
from itertools import count
from typing import Any

import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from gastown.contract.events import AgentEvent
from gastown.contract.secret import Secret
from gastown.testing.network import open_network
from gastown.testing.town import TOWN
from gastown.testing.worker import FakeWorker
from gastown.worker.client import WorkerClient
from gastown.worker.outbox.pump import Outbox, OutboxMetrics, open_outbox
from gastown.worker.tokens import Credentials, LiveCredentials

NOW = datetime(2030, 5, 1, tzinfo=UTC)
ONE, BATCH = "POST /agent-events", "POST /batch"

LIFECYCLE = ("session.turn.close", "agent.status")

agents = st.sampled_from("abc")
events = st.one_of(
    st.tuples(st.just("message.part.delta"), st.sampled_from(["p1", "p2"])),
    st.tuples(st.just("message.part.updated"), st.sampled_from(["p1", "p2"])),
    st.tuples(st.sampled_from(["message.updated", "session.diff", *LIFECYCLE]), st.none()),
)
steps = st.one_of(
    st.tuples(st.just("put"), agents, events, st.integers(1, 20)),
    st.tuples(st.just("put"), agents, events, st.integers(1, 20)),
    st.tuples(st.just("sleep"), st.floats(0, 20)),
    st.tuples(st.just("down")),
    st.tuples(st.just("up")),
    st.tuples(st.just("status"), st.sampled_from([None, 429, 500, 503, 401])),
    st.tuples(st.just("delay"), st.sampled_from([0.0, 0.5, 30.0])),
    st.tuples(st.just("batches"), st.booleans()),
    st.tuples(st.just("expire")),
)
Put = dict[str, list[tuple[int, str, dict[str, Any]]]]


def data_of(kind: str, part: str | None, number: int, told: dict[str, str]) -> dict[str, Any]:
    """Parts tell the truth: what is told whole is what the deltas have said so far."""
    if kind == "message.part.delta":
        told[str(part)] += f"{number} "
        return {"sessionID": "s", "messageID": "m", "partID": part, "field": "text", "delta": f"{number} "}
    if kind == "message.part.updated":
        return {"sessionID": "s", "part": {"id": part, "type": "text", "text": told[str(part)]}}
    return {"number": number}


async def run(plan: list[Any], most: int) -> tuple[Put, FakeWorker, OutboxMetrics]:
    """Follow the plan, then let everything that waits leave."""
    numbers, put = count(1), defaultdict(list)
    told: defaultdict[str, defaultdict[str, str]] = defaultdict(lambda: defaultdict(str))
    async with open_network() as network:
        worker = FakeWorker(network)
        credentials = LiveCredentials(Credentials(container_token=Secret("t")))
        client = WorkerClient(network.client(), worker.url, TOWN, credentials)
        async with open_outbox(client, most=most, most_bytes=1 << 24) as outbox:
            for step in plan:
                match step:
                    case ("put", agent, (kind, part), times):
                        for number in (next(numbers) for _ in range(times)):
                            data = data_of(kind, part, number, told[agent])
                            put[agent].append((number, kind, data))
                            outbox.put("r", agent, AgentEvent(id=number, event=kind, data=data, timestamp=NOW))
                    case ("sleep", seconds):
                        await trio.sleep(seconds)
                    case ("expire",):
                        worker.expired.add(credentials.current.container_token.reveal())
                    case _:
                        disturb(worker, *step)
            worker.up()
            worker.statuses.clear()
            worker.delays.clear()
            await outbox.flushed()
            await empty(outbox)
            return put, worker, outbox.figures()


def disturb(worker: FakeWorker, what: str, value: Any = None) -> None:
    match what:
        case "down":
            worker.down()
        case "up":
            worker.up()
        case "status":
            worker.statuses = {ONE: value, BATCH: value} if value else {}
        case "delay":
            worker.delays = {ONE: value, BATCH: value}
        case "batches":
            worker.batches = value


async def empty(outbox: Outbox) -> None:
    assert (outbox.figures().depth, outbox.figures().bytes) == (0, 0)


def arrived(worker: FakeWorker, agent: str) -> list[dict[str, Any]]:
    """What came of an agent, without what came twice because an answer did not get through."""
    kept: list[dict[str, Any]] = []
    for event in worker.agent_events(agent):
        if event not in kept:
            kept.append(event)
    return kept


def texts(told: list[tuple[str, dict[str, Any]]]) -> dict[str, str]:
    """The text of each part, as a reader of the events knows it."""
    known: dict[str, str] = defaultdict(str)
    for kind, data in told:
        if kind == "message.part.delta":
            known[data["partID"]] += data["delta"]
        elif kind == "message.part.updated":
            known[data["part"]["id"]] = data["part"]["text"]
    return dict(known)


def in_virtual_time(plan: list[Any], most: int) -> tuple[Put, FakeWorker, OutboxMetrics]:
    return trio.run(run, plan, most, clock=trio.testing.MockClock(autojump_threshold=0))


@given(st.lists(steps, min_size=5, max_size=40))
@settings(max_examples=60, deadline=None)
def test_within_the_bounds_every_event_arrives_in_its_order_whatever_the_worker_does(plan: list[Any]) -> None:
    put, worker, figures = in_virtual_time(plan, most=10_000)
    for agent, sent in put.items():
        expected = [{"agent_id": agent, "event_type": kind, "data": data} for _, kind, data in sent]
        assert arrived(worker, agent) == [one for n, one in enumerate(expected) if one not in expected[:n]]
    assert (figures.sent, figures.merged, figures.lost) == (sum(map(len, put.values())), 0, 0)


away = st.lists(steps, min_size=15, max_size=60).map(lambda plan: [("down",), *plan])


@given(away, st.integers(16, 40))
@settings(max_examples=100, deadline=None)
def test_beyond_the_bounds_lost_lifecycle_events_are_told_texts_stay_true_and_the_counters_add_up(
    plan: list[Any], most: int
) -> None:
    put, worker, figures = in_virtual_time(plan, most)
    gaps = [e for e in worker.agent_events() if e["event_type"] == "outbox.gave_up"]
    assert sum(gap["data"]["dropped"] for gap in gaps) >= figures.dropped  # >=: a report may come twice
    assert figures.sent - len(gaps) + figures.merged + figures.dropped == sum(map(len, put.values()))
    for agent, sent in put.items():
        came = [e for e in arrived(worker, agent) if e["event_type"] != "outbox.gave_up"]
        told_of = [e["data"]["number"] for e in came if e["event_type"] in LIFECYCLE]
        lost = sum(gap["data"]["lifecycle"] for gap in gaps if gap["agent_id"] == agent)
        assert lost >= sum(kind in LIFECYCLE for _, kind, _ in sent) - len(told_of)
        plain = [e["data"]["number"] for e in came if "number" in e["data"]]
        assert plain == sorted(plain)
        if not figures.dropped:
            told = [(e["event_type"], e["data"]) for e in came]
            assert texts(told) == texts([(kind, data) for _, kind, data in sent])
