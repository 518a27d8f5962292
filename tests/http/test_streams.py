"""The outward event streams: backlog, live events, subscriptions, gaps, tickets, and their end."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
import trio

from gastown.agents.roster import EVENTS_KEPT_SECONDS
from gastown.asgi import hypercorn_seams
from gastown.control.auth.tickets import LIFETIME_SECONDS, MOST_TICKETS
from gastown.control.routes import streams
from gastown.testing.sockets import Closed, Socket, open_socket, refusal
from gastown.testing.town import FakeTown

pytestmark = pytest.mark.virtual_time


def socket(town: FakeTown, path: str, **options: Any) -> AbstractAsyncContextManager[Socket]:
    return open_socket(town.client, f"ws://town{path}", **options)


def say(town: FakeTown, agent_id: str, *names: str) -> None:
    for name in names:
        town.opened.town.services.events.append(agent_id, name, {"said": name})


def names(frames: list[dict[str, Any]]) -> list[str]:
    return [frame["event"] for frame in frames]


async def ticket_for(town: FakeTown, agent_id: str) -> str:
    answer = await town.client.post(f"/agents/{agent_id}/stream-ticket")
    assert answer.status_code == 200
    return answer.json()["ticket"]


@pytest.mark.parametrize("path", ["/agents/pole-1/stream", "/ws?agentId=pole-1"])
async def test_with_an_agent_its_kept_events_come_first_and_then_live_ones(town_on_fakes, path) -> None:
    async with town_on_fakes() as town:
        await town.start("pole-1")
        kept = await town.events("pole-1")
        async with socket(town, path) as stream:
            backlog = await stream.events(len(kept))
            live = await stream.rest(10)
        assert [{k: v for k, v in frame.items() if k != "agentId"} for frame in backlog] == kept
        assert {frame["agentId"] for frame in backlog + live} == {"pole-1"}
        assert [f["id"] for f in backlog + live] == [event["id"] for event in await town.events("pole-1")]
        assert "session.turn.close" in names(live)


async def test_an_agent_may_be_followed_before_it_exists(town_on_fakes) -> None:
    async with town_on_fakes() as town, socket(town, "/agents/pole-1/stream") as stream:
        assert await stream.rest(60) == []
        await town.start("pole-1")
        assert names(await stream.until("session.turn.close"))[0] == "session.updated"


async def test_a_client_goes_on_behind_the_id_that_it_names(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        say(town, "a", "one", "two", "three")
        async with socket(town, "/agents/a/stream?after=2") as stream:
            assert names(await stream.events(1)) == ["three"]


async def test_without_an_agent_the_live_events_of_all_come(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        say(town, "a", "before")
        async with socket(town, "/ws") as stream:
            await trio.testing.wait_all_tasks_blocked()
            say(town, "a", "one")
            say(town, "b", "two")
            assert [(f["agentId"], f["event"]) for f in await stream.events(2)] == [("a", "one"), ("b", "two")]


async def test_a_client_may_subscribe_to_several_agents(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        say(town, "b", "old b")
        say(town, "c", "old c")
        async with socket(town, "/ws?agentId=a") as stream:
            for name in ("b", "c", "b"):
                await stream.send({"type": "subscribe", "agentId": name})
            assert names(await stream.events(2)) == ["old b", "old c"]
            say(town, "c", "new c")
            say(town, "d", "new d")
            say(town, "a", "new a")
            assert names(await stream.rest(5)) == ["new c", "new a"]


async def test_a_subscription_beside_all_agents_brings_the_past_and_nothing_twice(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        say(town, "a", "old")
        async with socket(town, "/ws") as stream:
            await trio.testing.wait_all_tasks_blocked()
            say(town, "a", "live")
            await stream.send({"type": "subscribe", "agentId": "a"})
            await trio.testing.wait_all_tasks_blocked()
            say(town, "a", "later")
            assert names(await stream.rest(5)) == ["live", "old", "later"]


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("nonsense", "JSON"),
        ("", "JSON"),
        (b"", "JSON"),
        (b"\x00\xff", "JSON"),
        ("[1]", "object"),
        ("[" * 5000, "JSON"),
        ({"type": "dance"}, "type"),
        ({"type": "subscribe"}, "agentId"),
        ({"type": "subscribe", "agentId": 7}, "agentId"),
        ({"type": "subscribe", "agentId": "../x"}, "agentId"),
        ({"type": "subscribe", "agentId": "a", "after": "x"}, "after"),
        ({"type": "subscribe", "agentId": "a", "after": -1}, "after"),
    ],
)
async def test_a_bad_frame_gets_an_error_frame_and_the_stream_goes_on(town_on_fakes, message, said) -> None:
    async with town_on_fakes() as town, socket(town, "/agents/a/stream") as stream:
        await stream.send(message)
        (error,) = await stream.events(1)
        assert (error["event"], error["agentId"], said in error["data"]["message"]) == ("stream.error", None, True)
        say(town, "a", "goes on")
        assert names(await stream.events(1)) == ["goes on"]
        assert town.logged("websocket.crashed") == []


async def test_a_client_may_subscribe_to_only_so_many_agents(town_on_fakes) -> None:
    async with town_on_fakes() as town, socket(town, "/ws") as stream:
        for number in range(201):
            await stream.send({"type": "subscribe", "agentId": f"nobody-{number}"})
        (error,) = await stream.rest(5)
        assert "200 agents" in error["data"]["message"]


async def test_what_the_ring_has_lost_is_told_as_a_gap(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        say(town, "a", *(f"e{n}" for n in range(1, 2101)))
        async with socket(town, "/agents/a/stream?after=20") as stream:
            gap, *others = await stream.events(2001)
        assert (gap["agentId"], gap["event"], gap["id"]) == ("a", "stream.gap", 100)
        assert (gap["data"]["from"], gap["data"]["to"]) == (21, 100)
        assert "no longer kept" in gap["data"]["reason"]
        assert names(others) == [f"e{n}" for n in range(101, 2101)]


async def test_a_client_that_goes_leaves_nothing_behind(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        hub = town.opened.town.services.events.hub
        for path in ("/ws", "/agents/a/stream"):
            async with socket(town, path):
                await trio.testing.wait_all_tasks_blocked()
        await trio.sleep(1)
        assert (hub._rings, hub._all.readers, town.logged("websocket.crashed")) == ({}, 0, [])
        assert town.logged("request.crashed") == []


async def test_when_the_container_stops_streams_end_with_1001_and_no_new_one_begins(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        hub = town.opened.town.services.events.hub
        async with socket(town, "/agents/a/stream") as one, socket(town, "/ws") as two:
            await trio.testing.wait_all_tasks_blocked()
            say(town, "a", "last words")
            hub.close("The container stops")
            assert names(await one.events(1)) == ["last words"]
            assert await one.closed() == Closed(1001, "The container stops")
            assert await two.closed() == Closed(1001, "The container stops")
        assert (await refusal(town.client, "ws://town/ws")).status == 503


async def test_a_stream_that_crashes_closes_with_1011(town_on_fakes, monkeypatch) -> None:
    async with town_on_fakes() as town, socket(town, "/agents/a/stream") as stream:
        await trio.testing.wait_all_tasks_blocked()
        monkeypatch.setattr("gastown.control.routes.streams._frame", lambda _: 1 / 0)
        say(town, "a", "boom")
        assert (await stream.closed()).code == 1011
        assert len(town.logged("websocket.crashed")) == 1


async def test_each_event_is_written_out_once_for_all_clients(town_on_fakes, monkeypatch) -> None:
    written = []
    plain = streams._written
    async with (
        town_on_fakes() as town,
        socket(town, "/agents/a/stream") as one,
        socket(town, "/agents/a/stream") as two,
        socket(town, "/ws") as three,
    ):
        await trio.testing.wait_all_tasks_blocked()
        monkeypatch.setattr(streams, "_written", lambda *what: written.append(what) or plain(*what))
        say(town, "a", "once")
        assert [names(await s.events(1)) for s in (one, two, three)] == [["once"]] * 3
        assert len(written) == 1


async def test_a_large_backlog_is_written_in_several_bursts(town_on_fakes, monkeypatch) -> None:
    """A megabyte in one piece would lie in memory once more for every client that reads slowly."""
    sizes: list[int] = []
    plain = hypercorn_seams.burst_of

    def burst_of(send: Any) -> Any:
        burst = plain(send)

        async def measured(frames: list[bytes]) -> None:
            sizes.append(sum(map(len, frames)))
            await burst(frames)

        return measured

    monkeypatch.setattr(hypercorn_seams, "burst_of", burst_of)
    async with town_on_fakes() as town:
        for _ in range(20):
            town.opened.town.services.events.append("a", "large", {"said": "x" * 50_000})
        async with socket(town, "/agents/a/stream") as stream:
            assert len(await stream.events(20)) == 20
    assert sum(sizes) > 1_000_000
    assert max(sizes) < streams._BURST_BYTES + 60_000


async def test_without_hypercorns_seam_the_same_frames_come_one_by_one(town_on_fakes, monkeypatch) -> None:
    monkeypatch.setattr("gastown.asgi.hypercorn_seams.burst_of", lambda _: None)
    async with town_on_fakes() as town:
        town.opened.town.services.events.append("a", "short", {})
        town.opened.town.services.events.append("a", "long", {"text": "ä" * 1000})
        town.opened.town.services.events.append("a", "huge", {"text": "x" * 70_000})
        async with socket(town, "/agents/a/stream") as stream:
            frames = await stream.events(3)
        assert [len(f["data"].get("text", "")) for f in frames] == [0, 1000, 70_000]


async def test_a_ticket_opens_one_stream_once(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        say(town, "a", "hello")
        ticket = await ticket_for(town, "a")
        async with socket(town, f"/agents/a/stream?ticket={ticket}") as stream:
            assert names(await stream.events(1)) == ["hello"]
        again = await refusal(town.client, f"ws://town/agents/a/stream?ticket={ticket}")
        assert (again.status, again.body) == (403, {"error": "The stream ticket is unknown, used or expired"})


async def test_a_ticket_says_when_it_expires_and_does(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        answer = (await town.client.post("/agents/a/stream-ticket")).json()
        assert answer.keys() == {"ticket", "expiresAt"}
        assert answer["expiresAt"] == "2030-05-01T12:01:00.000Z"
        early = await ticket_for(town, "a")
        await trio.sleep(LIFETIME_SECONDS - 0.1)
        async with socket(town, f"/agents/a/stream?ticket={early}"):
            pass
        await trio.sleep(0.2)
        assert (await refusal(town.client, f"ws://town/agents/a/stream?ticket={answer['ticket']}")).status == 403


async def test_of_too_many_tickets_the_oldest_goes(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        tickets = [await ticket_for(town, "a") for _ in range(MOST_TICKETS + 1)]
        assert len(town.opened.town.tickets) == MOST_TICKETS
        assert (await refusal(town.client, f"ws://town/agents/a/stream?ticket={tickets[0]}")).status == 403
        async with socket(town, f"/agents/a/stream?ticket={tickets[1]}"):
            pass


@pytest.mark.parametrize("path", ["/agents/b/stream", "/ws?agentId=b", "/ws", "/agents/b/pty/pty_1/connect"])
async def test_a_ticket_opens_nothing_of_another_agent(town_on_fakes, path) -> None:
    async with town_on_fakes() as town:
        ticket = await ticket_for(town, "a")
        refused = await refusal(town.client, f"ws://town{path}", params={"ticket": ticket})
        assert refused.status == 403


@pytest.mark.parametrize(
    "path", ["/agents/a/stream", "/ws?agentId=a", "/ws", "/agents/a/stream?ticket=", "/agents/a/pty/pty_1/connect"]
)
async def test_where_tickets_are_required_no_socket_opens_without(town_on_fakes, path) -> None:
    async with town_on_fakes(gastown_require_tickets=True) as town:
        refused = await refusal(town.client, f"ws://town{path}")
        assert (refused.status, "ticket is required" in refused.body["error"]) == (401, True)


async def test_who_came_with_a_ticket_may_not_subscribe_to_others(town_on_fakes) -> None:
    async with town_on_fakes(gastown_require_tickets=True) as town:
        say(town, "b", "secret")
        async with socket(town, f"/agents/a/stream?ticket={await ticket_for(town, 'a')}") as stream:
            await stream.send({"type": "subscribe", "agentId": "b"})
            (error,) = await stream.rest(5)
            assert "for agent a" in error["data"]["message"]


async def test_a_refused_client_may_ask_on_for_something_else(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        for path in ("/ws?ticket=wrong", "/no/such/socket"):
            await refusal(town.client, f"ws://town{path}")
            assert (await town.client.get("/health")).status_code == 200


async def test_no_ticket_is_logged(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        tickets = [await ticket_for(town, "a") for _ in range(2)]
        async with socket(town, f"/agents/a/stream?ticket={tickets[0]}"):
            pass
        await refusal(town.client, f"ws://town/agents/b/stream?ticket={tickets[1]}")
        await town.client.get(f"/agents/a/events?ticket={tickets[1]}")
        assert town.logged("request.served")
        assert [ticket for ticket in tickets if ticket in town.log.getvalue()] == []


async def test_the_events_of_an_ended_agent_are_let_go_after_a_while(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        await town.start("pole-1")
        await town.client.post("/agents/pole-1/stop")
        await trio.sleep(EVENTS_KEPT_SECONDS - 1)
        kept = len(await town.events("pole-1"))
        await trio.sleep(2)
        assert (kept > 0, await town.events("pole-1")) == (True, [])


async def test_the_events_of_an_agent_that_was_started_again_stay(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        await town.start("mayor-1")
        await town.client.post("/agents/mayor-1/stop")
        await town.start("mayor-1")
        await trio.sleep(2 * EVENTS_KEPT_SECONDS)
        assert names(await town.events("mayor-1"))[0] == "session.updated"
