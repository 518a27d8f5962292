"""The boot on real parts: prewarm, cache hit, swaps, deaths."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest
import trio

from gastown.contract.agents import AgentState, AgentStatus, StartAgentRequest
from gastown.contract.secret import Secret
from gastown.contract.town import GitAuth
from gastown.hall.domain.town import town_config
from gastown.hall.hall import HallOptions, open_hall
from gastown.hall.store.database import TownChanges
from tests.kilo.town import KILO, RealTown, alive, descendants, eventually, real_town

pytestmark = pytest.mark.kilo

CANARY = "canary-7f3a9c51d2"

CONFIGURATIONS: dict[str, TownChanges] = {
    "plain": {},
    "organisation and models": {
        "organization_id": "org-1",
        "default_model": "anthropic/claude-opus-4.5",
        "small_model": "openai/gpt-5-mini",
    },
    "tokens, author and variables": {
        "kilocode_token": Secret(f"{CANARY}-gateway"),
        "git_auth": GitAuth(github_token=Secret(f"{CANARY}-github"), gitlab_token=Secret(f"{CANARY}-gitlab")),
        "github_cli_pat": Secret(f"{CANARY}-pat"),
        "git_author_name": "Ada",
        "git_author_email": "ada@example.org",
        "env_vars": {"SHIP": Secret(f"{CANARY}-variable"), "PATH": Secret("/never")},
    },
}


async def mayor_status(town: RealTown, state: AgentState = AgentState.RUNNING) -> AgentStatus:
    return await agent_status(town, str((await town.hall.town()).mayor_agent_id), state)


async def agent_status(town: RealTown, agent_id: str, state: AgentState) -> AgentStatus:
    async def reached() -> AgentStatus | None:
        status = await town.dispatch.status(agent_id)
        return status if status is not None and status.status is state else None

    return await eventually(reached)


@pytest.mark.parametrize("changes", CONFIGURATIONS.values(), ids=CONFIGURATIONS.keys())
async def test_a_mayor_start_finds_the_prewarmed_server_and_shows_no_secret(tmp_path, changes):
    async with open_hall(HallOptions(data_dir=tmp_path)) as hall:
        await hall.store.change_town("town", changes)
    # A town with a token of its own must not reach for the real gateway; a closed port is as good as none.
    given = {name: changes[name] for name in ("kilocode_token", "organization_id") if name in changes}
    async with real_town(tmp_path, given, KILO_API_URL="http://127.0.0.1:9") as town:
        health = await town.prewarmed()
        assert health.hydration.prewarm == "ready"
        assert health.servers == 1
        warm = town.servers()
        agent = await town.hall.start_mayor(town.dispatch, "Hello.")
        assert town.servers() == warm
        assert len(town.log("server.ready")) == 1
        assert town.log("server.unequal") == []
        everything = (tmp_path / "serve.log").read_text() + agent.model_dump_json() + health.model_dump_json()
        assert CANARY not in everything


async def test_message_model_swap_and_restart_keep_the_session(tmp_path):
    """Another small model is a restart; it has the time that a busy machine needs."""
    async with real_town(tmp_path, {"turn_seconds": 0.1}, GASTOWN_REFRESH_SECONDS="60") as town:
        agent = await town.hall.start_mayor(town.dispatch, "Hello.")
        await town.hall.tell_mayor(town.dispatch, agent.agent_id, "And again.")
        before = await mayor_status(town)

        answer = await town.dispatch.refresh_token(await town.hall.container_token(), "town")
        await patch_model(town, agent.agent_id, {"model": agent.model, "smallModel": "openai/gpt-5-mini"})
        await eventually(lambda: port_changed(town, before))
        refreshed = await mayor_status(town)
        await patch_model(town, agent.agent_id, {"model": "anthropic/claude-haiku-4.5"})
        swapped = await mayor_status(town)

        assert [result.agent_id for result in answer.results] == [agent.agent_id]
        assert {before.session_id, refreshed.session_id, swapped.session_id} == {agent.session_id}
        assert swapped.server_port == refreshed.server_port
        assert len(town.servers()) == 1
        await town.hall.tell_mayor(town.dispatch, agent.agent_id, "Still there?")
        await eventually(lambda: answered_by(town, agent.agent_id, "anthropic/claude-haiku-4.5"))


async def port_changed(town: RealTown, before: AgentStatus) -> bool:
    status = await town.dispatch.status(before.agent_id)
    return status is not None and status.server_port not in (None, before.server_port)


async def answered_by(town: RealTown, agent_id: str, model: str) -> bool:
    return any(
        (event.data.get("info") or {}).get("modelID") == model
        and (event.data["info"].get("time") or {}).get("completed")
        for event in await town.dispatch.events(agent_id)
        if event.event == "message.updated"
    )


async def patch_model(town: RealTown, agent_id: str, body: dict[str, Any]) -> None:
    answer = await town.dispatch._client.patch(f"/agents/{agent_id}/model", json=body)
    assert answer.json() == {"updated": True}


async def test_a_second_container_goes_on_with_the_mayors_conversation(tmp_path):
    async with real_town(tmp_path) as town:
        agent = await town.hall.start_mayor(town.dispatch, "Remember the word heron.")
        await town.hall.tell_mayor(town.dispatch, agent.agent_id, "Did you?")
    async with real_town(tmp_path) as town:
        resumed = await mayor_status(town)
        health = await town.dispatch.health()
        assert resumed.session_id == agent.session_id
        assert (health.hydration.claimed, health.hydration.resumed) == (1, 1)
        assert len(town.servers()) == 1


async def test_the_kill_of_a_server_is_noticed_with_its_signal(tmp_path):
    async with real_town(tmp_path) as town:
        await town.dispatch.start(reasoner(town), town_config(await town.hall.town(), town.hall.url))
        os.kill(town.server_of("reasoner"), signal.SIGKILL)
        failed = await agent_status(town, "reasoner", AgentState.FAILED)
        assert "was killed by SIGKILL" in str(failed.exit_reason)
        assert "stderr" in str(failed.exit_reason)
        assert (await town.dispatch.health()).agents == 0
        assert town.server_of("reasoner") == 0


async def test_a_mayor_whose_server_is_killed_in_mid_turn_goes_on_with_its_conversation(tmp_path):
    async with real_town(tmp_path, {"turn_seconds": 8}) as town:
        agent = await town.hall.start_mayor(town.dispatch, "Remember the word heron.")
        before = await mayor_status(town)
        assert before.condition is not None
        assert before.condition.type == "busy"
        os.kill(town.server_of(agent.agent_id), signal.SIGKILL)
        await eventually(lambda: returned(town))
        after = await mayor_status(town)
        assert (after.session_id, len(town.servers())) == (agent.session_id, 1)
        assert "was killed by SIGKILL" in town.log("agent.returns")[0]["reason"]
        kinds = [event.event for event in await town.dispatch.events(agent.agent_id)]
        assert "agent.turn_taken_up" in kinds
        await eventually(lambda: idle(town, agent.agent_id))


async def returned(town: RealTown) -> bool:
    changes = [(line["before"], line["after"]) for line in town.log("agent.state")]
    return changes[-2:] == [("running", "starting"), ("starting", "running")]


def reasoner(town: RealTown) -> StartAgentRequest:
    return StartAgentRequest.model_validate(
        {
            "agentId": "reasoner",
            "rigId": "rig-1",
            "townId": town.hall.town_id,
            "role": "triage",
            "name": "reasoner",
            "identity": "who reasons",
            "prompt": "Think.",
            "model": "anthropic/claude-haiku-4.5",
            "gitUrl": "",
            "branch": "",
            "defaultBranch": "",
        }
    )


async def idle(town: RealTown, agent_id: str) -> bool:
    status = await town.dispatch.status(agent_id)
    return status is not None and status.condition is not None and status.condition.type == "idle"


async def test_a_stop_leaves_no_process_of_the_agent(tmp_path):
    async with real_town(tmp_path) as town:
        agent = await town.hall.start_mayor(town.dispatch, "Hello.")
        servers = town.servers()
        answer = await town.dispatch._client.post(f"/agents/{agent.agent_id}/stop", timeout=30)
        assert answer.json() == {"stopped": True, "leftovers": []}
        assert alive(servers) == []


async def test_the_kill_of_the_control_process_leaves_no_server(tmp_path):
    with pytest.RaisesGroup(pytest.RaisesExc(Exception), flatten_subgroups=True, allow_unwrapped=True):
        async with real_town(tmp_path) as town:
            await town.hall.start_mayor(town.dispatch, "Hello.")
            below = descendants(town.container.pid)
            os.kill(town.container.pid, signal.SIGKILL)
            # Nobody but kilo's own watch of its parent ends it: the container's cleanup has not begun yet.
            with trio.CancelScope(shield=True):
                await eventually(lambda: gone(below), 20)
    assert alive(below) == []


async def gone(pids: list[int]) -> bool:
    return not alive(pids)


async def test_no_agent_waits_for_a_person_because_a_snapshot_of_its_files_is_slow(tmp_path):
    impatient = tmp_path / "bin" / "kilo"
    impatient.parent.mkdir()
    impatient.write_text(f'#!/bin/sh\nKILO_SNAPSHOT_TRACK_TIMEOUT_MS=1 exec {KILO.resolve()} "$@"\n')
    impatient.chmod(0o755)
    async with real_town(tmp_path, GASTOWN_KILO_BIN=str(impatient)) as town:
        agent = await town.hall.start_mayor(town.dispatch, "Hello.")

        async def told() -> list[str] | None:
            events = [event.event for event in await town.dispatch.events(agent.agent_id)]
            return events if {"session.turn.close", "question.asked"} & set(events) else None

        assert "question.asked" not in await eventually(told)
