"""Starts that are the same start: joining, replacing, and the same answer for the same attempt id."""

from __future__ import annotations

from functools import partial
from typing import Any

import httpx2
import pytest
import trio

from gastown.agents.attempts import KEPT_SECONDS, MOST_KEPT, Attempts
from gastown.contract.errors import StartFailed
from gastown.testing.kilo import Script
from gastown.testing.launchers import FakeLauncher, NeverKilo
from gastown.testing.sockets import open_socket
from gastown.testing.town import Later

pytestmark = pytest.mark.virtual_time

FIRST, SECOND = {"X-Attempt-Id": "first"}, {"X-Attempt-Id": "second"}


async def answers(*starts: Later) -> list[httpx2.Response]:
    return [await start.result() for start in starts]


def statuses(found: list[httpx2.Response]) -> list[int]:
    return sorted(answer.status_code for answer in found)


async def test_of_five_different_starts_at_once_four_are_replaced_and_one_runs(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        found = await answers(*[town.start_soon("pole-1", prompt=f"P{number}") for number in range(5)])
        assert statuses(found) == [201, 409, 409, 409, 409]


async def test_a_replaced_start_names_the_attempt_that_replaced_it(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        first = town.start_soon("pole-1", headers=FIRST)
        await trio.sleep(0.5)
        await town.start("pole-1", prompt="Something else", headers=SECOND)
        answer = await first.result()
        assert (answer.status_code, answer.json()) == (
            409,
            {
                "error": "Agent pole-1: a newer start replaced this one",
                "action": "Nothing is lost: ask for the agent's status, which is that of the newer attempt",
                "attemptId": "second",
            },
        )


async def test_equal_starts_in_flight_are_one_attempt_and_get_one_answer(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        first = town.start_soon("pole-1")
        await trio.sleep(0.5)
        found = await answers(first, town.start_soon("pole-1"))
        assert statuses(found) == [201, 201]
        assert (found[0].text, town.kilo.order) == (found[1].text, ["pole-1"])


async def test_a_failure_is_the_answer_of_both_callers_of_equal_starts(town_on_fakes) -> None:
    async with town_on_fakes(kilo=partial(FakeLauncher, script=Script(status=402))) as town:
        found = await answers(town.start_soon("pole-1"), town.start_soon("pole-1"))
        assert statuses(found) == [500, 500]
        assert (found[0].text, found[0].json()["status"]) == (found[1].text, 402)


@pytest.mark.parametrize(
    "changes", [{"envVars": {"GIT_TOKEN": "another"}}, {"gitUrl": "https://t0ken@git.test/r.git"}]
)
async def test_a_start_that_differs_in_its_credentials_only_joins(town_on_fakes, changes: dict[str, Any]) -> None:
    async with town_on_fakes() as town:
        equal = {"envVars": {"GIT_TOKEN": "one"}, "gitUrl": "https://git.test/r.git"}
        found = await answers(town.start_soon("pole-1", **equal), town.start_soon("pole-1", **(equal | changes)))
        assert statuses(found) == [201, 201]


@pytest.mark.parametrize(
    "changes", [{"envVars": {"MODE": "fast"}}, {"prompt": "Another"}, {"model": "test/small"}]
)
async def test_a_start_that_differs_in_anything_else_replaces(town_on_fakes, changes: dict[str, Any]) -> None:
    async with town_on_fakes() as town:
        equal = {"envVars": {"MODE": "slow"}}
        found = await answers(town.start_soon("pole-1", **equal), town.start_soon("pole-1", **(equal | changes)))
        assert statuses(found) == [201, 409]


async def test_an_equal_start_after_the_first_has_been_answered_replaces(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        before, after = [(await town.start("pole-1")).json() for _ in range(2)]
        assert before["startedAt"] < after["startedAt"]


async def test_a_start_whose_first_caller_left_is_joined_by_the_second(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        first = town.start_soon("pole-1")
        await trio.sleep(0.5)
        first.leave()
        assert ((await town.start("pole-1")).status_code, town.kilo.order) == (201, ["pole-1"])


async def test_an_equal_start_does_not_join_an_agent_that_the_registry_brought(town_on_fakes) -> None:
    async with town_on_fakes(kilo=NeverKilo) as town:
        town.worker.registry = [town.entry("pole-1")]
        await town.hydrated()
        resumed = town.opened.town.roster.get("pole-1")
        town.start_soon("pole-1")
        await trio.testing.wait_all_tasks_blocked()
        assert town.opened.town.roster.get("pole-1") is not resumed


async def test_the_same_attempt_id_joins_in_flight_whatever_the_body_says(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        first = town.start_soon("pole-1", headers=FIRST)
        await trio.sleep(0.5)
        found = await answers(first, town.start_soon("pole-1", prompt="Another", headers=FIRST))
        assert (found[0].text, found[0].status_code, town.kilo.order) == (found[1].text, 201, ["pole-1"])


async def test_another_attempt_id_never_joins_an_equal_start(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        first = town.start_soon("pole-1", headers=FIRST)
        await trio.sleep(0.5)
        assert statuses(await answers(first, town.start_soon("pole-1", headers=SECOND))) == [201, 409]


async def test_the_same_attempt_id_gets_the_same_bytes_after_the_agent_has_gone_on(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        before = await town.start("pole-1", headers=FIRST)
        await trio.sleep(5)
        await town.client.post("/agents/pole-1/stop", json={})
        after = await town.start("pole-1", headers=FIRST)
        assert (after.status_code, after.text, town.kilo.order) == (201, before.text, ["pole-1"])


async def test_the_same_attempt_id_gets_the_failure_again_without_a_second_try(town_on_fakes) -> None:
    async with town_on_fakes(kilo=partial(FakeLauncher, script=Script(status=401))) as town:
        before, after = [await town.start("pole-1", headers=FIRST) for _ in range(2)]
        assert (after.status_code, after.text, town.kilo.order) == (500, before.text, ["pole-1"])


async def test_the_answer_is_kept_also_when_no_caller_was_left_to_hear_it(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        first = town.start_soon("pole-1", headers=FIRST)
        await trio.sleep(0.5)
        first.leave()
        await trio.sleep(10)
        await town.client.post("/agents/pole-1/stop", json={})
        assert (await town.start("pole-1", headers=FIRST)).json()["status"] == "running"
        assert town.kilo.order == ["pole-1"]


async def test_a_replaced_attempt_is_told_the_same_again_and_replaces_nothing(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        first = town.start_soon("pole-1", headers=FIRST)
        await trio.sleep(0.5)
        await town.start("pole-1", prompt="Another", headers=SECOND)
        again = await town.start("pole-1", headers=FIRST)
        assert (again.status_code, again.text) == (409, (await first.result()).text)
        assert (await town.status("pole-1"))["status"] == "running"


async def test_after_ten_minutes_the_attempt_id_of_an_ended_agent_starts_it_again(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        await town.start("pole-1", headers=FIRST)
        await town.client.post("/agents/pole-1/stop", json={})
        await trio.sleep(KEPT_SECONDS - 10)
        await town.start("pole-1", headers=FIRST)
        assert town.kilo.order == ["pole-1"]
        await trio.sleep(10)
        assert (await town.start("pole-1", headers=FIRST)).status_code == 201
        assert town.kilo.order == ["pole-1", "pole-1"]


async def test_a_running_agent_is_never_replaced_by_its_own_attempt_id(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        await town.start(headers=FIRST)
        await trio.sleep(KEPT_SECONDS * 2)
        assert (await town.start(headers=FIRST)).status_code == 201
        assert town.kilo.order == ["mayor-1"]


async def test_two_agents_may_have_the_same_attempt_id(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        found = [await town.start(agent, headers=FIRST) for agent in ("pole-1", "pole-2")]
        assert [answer.json()["agentId"] for answer in found] == ["pole-1", "pole-2"]


async def test_the_same_attempt_id_gets_the_same_504_of_a_gate_that_stays_closed(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        with town.opened.town.gate.hold():
            first = town.start_soon("pole-1", headers=FIRST)
            await trio.sleep(30)
            second = town.start_soon("pole-1", headers=FIRST)
            late = await first.result()
        again = await second.result()
        assert (late.status_code, late.json()["phase"], again.text) == (504, "gate", late.text)
        assert town.kilo.order == []


async def test_a_start_that_ran_into_its_deadline_is_told_the_same_again(town_on_fakes) -> None:
    async with town_on_fakes(kilo=NeverKilo, gastown_spawn_seconds=100.0) as town:
        before, after = [await town.start("pole-1", headers=FIRST) for _ in range(2)]
        assert (before.status_code, after.text, len(town.kilo.spawns)) == (504, before.text, 1)


async def test_who_joins_a_resume_that_goes_on_longer_is_not_told_that_it_was_ended(town_on_fakes) -> None:
    async with town_on_fakes(kilo=NeverKilo, gastown_spawn_slots=1, gastown_spawn_seconds=500.0) as town:
        town.worker.registry = [town.entry("pole-1") | {"attemptId": "first"}]
        town.opened.town.services.pool.slots.hold_resumes().__enter__()
        town.hydrate()
        await trio.testing.wait_all_tasks_blocked()
        answer = await town.start("pole-1", headers=FIRST)
        assert (answer.status_code, answer.json()["error"].endswith("and goes on")) == (504, True)


@pytest.mark.parametrize("given", ["", "../etc", "a b", "x" * 129, "é"])
async def test_an_attempt_id_that_is_no_identifier_is_refused(town_on_fakes, given: str) -> None:
    async with town_on_fakes() as town:
        answer = await town.start("pole-1", headers={"X-Attempt-Id": given.encode()})
        assert (answer.status_code, answer.json()["issues"][0]["path"]) == (400, ["X-Attempt-Id"])


async def test_the_attempt_is_named_in_everything_that_the_worker_is_told(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        await town.start(headers=FIRST)
        await town.opened.registry.flushed()
        await trio.sleep(40)
        await town.client.post("/agents/mayor-1/stop", json={})
        await town.opened.town.services.reports.flushed()
        worker = town.worker
        told = {
            "registry": [entry["attemptId"] for registry in worker.registries for entry in registry],
            **{name: [body["attemptId"] for body in worker.reports(f"POST /{name}")] for name in REPORTS},
            "events": [event["attemptId"] for event in worker.agent_events()],
        }
        assert {name: set(found) for name, found in told.items()} == {name: {"first"} for name in told}


REPORTS = ("heartbeat", "waiting", "completed")


async def test_the_attempt_is_named_in_kept_events_and_on_the_websocket(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        await town.start("pole-1", headers=FIRST)
        kept = await town.events("pole-1")
        async with open_socket(town.client, "ws://town/agents/pole-1/stream") as socket:
            frames = await socket.events(3)
        assert {event["attemptId"] for event in kept + frames} == {"first"}


async def test_an_agent_of_the_registry_goes_on_as_the_attempt_of_its_entry(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        town.worker.registry = [town.entry("pole-1") | {"attemptId": "kept"}, town.entry("pole-2")]
        await town.hydrated()
        roster = town.opened.town.roster
        assert (roster.get("pole-1").attempt, roster.get("pole-2").attempt != "") == ("kept", True)
        answer = await town.start("pole-1", headers={"X-Attempt-Id": "kept"})
        assert (answer.status_code, town.kilo.order.count("pole-1")) == (201, 1)


async def test_attempts_are_bounded_in_number() -> None:
    attempts = Attempts()
    for number in range(MOST_KEPT + 10):
        attempts.keep("pole-1", f"a{number}", StartFailed(f"F{number}", phase="spawn"))
    assert (len(attempts), attempts.recall("pole-1", "a9")) == (MOST_KEPT, None)


async def test_the_first_answer_of_an_attempt_is_the_one_that_counts() -> None:
    attempts = Attempts()
    for text in ("one", "two"):
        attempts.keep("pole-1", "a", StartFailed(text, phase="spawn"))
    assert str(attempts.recall("pole-1", "a")) == "one"


async def test_a_kept_failure_holds_nothing_of_its_attempt() -> None:
    attempts = Attempts()
    try:
        raise StartFailed("It broke", phase="spawn") from ValueError("the cause")
    except StartFailed as error:
        attempts.keep("pole-1", "a", error)
    kept = attempts.recall("pole-1", "a")
    assert isinstance(kept, Exception)
    assert (kept.__traceback__, kept.__cause__, kept.__context__) == (None, None, None)


async def test_the_answer_in_flight_is_of_one_agent(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        found = await answers(*[town.start_soon(agent) for agent in ("pole-1", "pole-2")])
        assert [answer.json()["agentId"] for answer in found] == ["pole-1", "pole-2"]
