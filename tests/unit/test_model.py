"""An agent's states and the edges between them, and what its events make known of it."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import product
from typing import Any

import pytest

from gastown.agents.agent import ACTIVE, EDGES, Agent, IllegalTransition
from gastown.agents.launch.desired import Desired
from gastown.agents.session.event_log import EventLog
from gastown.contract.agents import AgentState, StartAgentRequest
from gastown.kilo.stream import KiloEvent
from gastown.testing.town import start_request

NOW = datetime(2030, 5, 1, 12, 0, tzinfo=UTC)
S = AgentState
ALLOWED = {
    (S.STARTING, S.RUNNING),
    (S.STARTING, S.STOPPING),
    (S.STARTING, S.FAILED),
    (S.RUNNING, S.STOPPING),
    (S.RUNNING, S.STARTING),
    (S.STOPPING, S.EXITED),
    (S.STOPPING, S.FAILED),
}


@pytest.fixture
def changes() -> list[str]:
    """One entry for each announced change."""
    return []


@pytest.fixture
async def agent(changes: list[str]) -> Agent:
    return Agent(
        Desired(StartAgentRequest.model_validate(start_request("pole-1")), given=10),
        workdir="/w",
        now=lambda: NOW,
        events=EventLog(lambda: NOW),
        on_change=lambda: changes.append("changed"),
    )


def said(agent: Agent, kind: str, *, session: str = "ses_1", **properties: Any) -> None:
    agent.take(KiloEvent(kind, session, {"sessionID": session, **properties}))


@pytest.mark.parametrize(("before", "after"), list(product(S, S)))
async def test_only_the_edges_of_the_table_can_be_taken(agent: Agent, before: S, after: S) -> None:
    agent.state = before
    if (before, after) in ALLOWED:
        agent.become(after)
        assert agent.state is after
    else:
        with pytest.raises(IllegalTransition, match=f"{before} to {after}"):
            agent.become(after)


def test_the_ends_are_final() -> None:
    assert {state for state in S if not EDGES[state]} == {S.EXITED, S.FAILED}


def test_starting_and_running_agents_are_active() -> None:
    assert set(ACTIVE) == {S.STARTING, S.RUNNING}


async def test_every_change_of_state_is_announced_and_kept_as_an_event(agent: Agent, changes: list[str]) -> None:
    agent.become(S.RUNNING)
    agent.become(S.STOPPING, "stopped")
    agent.become(S.EXITED)
    kept = agent._events.after(agent.id, 0)
    assert [(event.event, event.data) for event in kept] == [
        ("agent.status", {"status": "running", "reason": None}),
        ("agent.status", {"status": "stopping", "reason": "stopped"}),
        ("agent.status", {"status": "exited", "reason": None}),
    ]
    assert len(changes) == 3


async def test_the_reason_of_an_end_stays_when_the_next_state_brings_none(agent: Agent) -> None:
    agent.become(S.STOPPING, "stopped")
    agent.become(S.EXITED)
    assert agent.exit_reason == "stopped"


@pytest.mark.parametrize("state", [S.RUNNING, S.STOPPING, S.FAILED])
async def test_leaving_the_start_settles_it(agent: Agent, state: S) -> None:
    assert not agent.settled.is_set()
    agent.become(state)
    assert agent.settled.is_set()


async def test_a_message_is_counted_once_however_often_it_is_updated(agent: Agent) -> None:
    for message in ("m1", "m2", "m1", "m1", "m3"):
        said(agent, "message.updated", info={"id": message})
    assert agent.activity.message_count == 3


async def test_a_tool_is_active_from_its_call_to_its_end(agent: Agent) -> None:
    def tool(part: str, name: str, status: str) -> None:
        said(
            agent,
            "message.part.updated",
            part={"id": part, "type": "tool", "tool": name, "state": {"status": status}},
        )

    seen = []
    for part, name, status in (
        ("p1", "bash", "pending"),
        ("p2", "read", "running"),
        ("p3", "bash", "running"),
        ("p1", "bash", "completed"),
        ("p2", "read", "error"),
        ("p3", "bash", "completed"),
    ):
        tool(part, name, status)
        seen.append(agent.public().active_tools)
    assert seen == [("bash",), ("bash", "read"), ("bash", "read"), ("bash", "read"), ("bash",), ()]


async def test_an_event_is_activity_and_is_kept_as_kilo_said_it(agent: Agent) -> None:
    said(agent, "session.idle", extra=1)
    (event,) = agent._events.after(agent.id, 0)
    assert (event.event, event.data) == ("session.idle", {"sessionID": "ses_1", "extra": 1})
    assert (agent.activity.last_event_type, agent.activity.last_event_at) == ("session.idle", NOW)


async def test_another_sessions_turn_is_not_the_agents(agent: Agent) -> None:
    agent.session_id = "ses_1"
    said(agent, "session.turn.open", session="ses_of_a_subtask")
    assert not agent.turns.is_open


async def test_what_a_caller_sees_is_an_allow_list(agent: Agent) -> None:
    assert set(agent.public().model_dump(by_alias=True)) == {
        "agentId",
        "rigId",
        "townId",
        "role",
        "name",
        "status",
        "serverPort",
        "sessionId",
        "workdir",
        "startedAt",
        "lastActivityAt",
        "lastEventType",
        "lastEventAt",
        "activeTools",
        "messageCount",
        "exitReason",
        "model",
        "organizationId",
    }


def condition(agent: Agent) -> dict[str, Any]:
    found = agent.condition(stalled_after=300)
    assert found is not None
    return found.model_dump(by_alias=True, exclude_unset=True)


async def test_a_starting_agents_condition_names_its_phase(agent: Agent) -> None:
    agent.phases.enter("spawn")
    found = condition(agent)
    assert (found["type"], found["phase"]) == ("starting", "spawn")


async def test_a_running_agents_condition_is_what_kilo_says_of_it(agent: Agent) -> None:
    agent.session_id = "ses_1"
    agent.become(S.RUNNING)
    seen = [condition(agent)]
    for kind, properties in (
        ("session.turn.open", {}),
        ("session.status", {"status": {"type": "retry", "attempt": 2, "message": "busy", "next": 9}}),
        ("session.status", {"status": {"type": "busy"}}),
        ("session.turn.close", {"reason": "completed"}),
    ):
        said(agent, kind, **properties)
        seen.append(condition(agent))
    assert [found["type"] for found in seen] == ["idle", "busy", "retrying", "busy", "idle"]
    assert {k: v for k, v in seen[2].items() if k != "ageMs"} == {
        "type": "retrying",
        "reason": "busy",
        "attempt": 2,
        "next": 9,
    }
