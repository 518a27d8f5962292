"""Leaving on real parts: conversations that go on in a fresh home, work that is on the remote."""

from __future__ import annotations

import shutil

import httpx2
import pytest

from gastown.contract.agents import AgentState
from gastown.contract.drain import DrainPhase, DrainReceipt, DrainState, FarewellStep, TurnEnd
from gastown.hall.hall import HallOptions, open_hall
from tests.git.server import GitServer, open_git_server
from tests.kilo.town import RealTown, alive, descendants, eventually, real_town

pytestmark = pytest.mark.kilo

RIG, POLECAT, BRANCH = "rig-1", "polecat-1", "work/toast"


async def mayor_of(town: RealTown) -> tuple[str, str]:
    """Rig and id of the town's mayor."""
    return f"mayor-{(await town.hall.town()).id}", str((await town.hall.town()).mayor_agent_id)


async def is_busy(town: RealTown, agent_id: str) -> bool:
    status = await town.dispatch.status(agent_id)
    return status is not None and status.condition is not None and status.condition.type == "busy"


async def texts(town: RealTown, agent_id: str, session_id: str) -> str:
    """All that was said in a session, as the agent's server has it."""
    status = await town.dispatch.status(agent_id)
    assert status is not None
    url = f"http://127.0.0.1:{status.server_port}/session/{session_id}/message"
    async with httpx2.AsyncClient(trust_env=False, auth=town.login_of(agent_id)) as client:
        return (await client.get(url)).raise_for_status().text


async def drain_begun(town: RealTown) -> DrainState | None:
    state = DrainState.model_validate_json((await town.dispatch._client.get("/drain")).text)
    return state if state.agents else None


async def test_a_snapshot_of_a_busy_turn_goes_on_in_a_fresh_home(tmp_path):
    async with real_town(tmp_path, {"turn_seconds": 60}, GASTOWN_DRAIN_SECONDS="8") as town:
        agent = await town.hall.start_mayor(town.dispatch, "Remember the word heron.")
        rig_id, agent_id = await mayor_of(town)
        await town.hall.tell_mayor(town.dispatch, agent_id, "And the word crane.")

        async def both_stored() -> bytes | None:
            assert await is_busy(town, agent_id)
            stored = await town.hall.store.snapshot("town", rig_id, agent_id)
            return stored if stored is not None and b"heron" in stored and b"crane" in stored else None

        snapshot = await eventually(both_stored)
    shutil.rmtree(tmp_path / "homes")
    async with open_hall(HallOptions(data_dir=tmp_path)) as hall:
        await hall.store.save_snapshot("town", rig_id, agent_id, snapshot)
    async with real_town(tmp_path, {"turn_seconds": 0.1}) as town:

        async def resumed() -> str | None:
            status = await town.dispatch.status(agent_id)
            running = status is not None and status.status is AgentState.RUNNING
            return status.session_id if running else None

        assert await eventually(resumed) == agent.session_id
        said = await texts(town, agent_id, agent.session_id)
        assert "heron" in said
        assert "crane" in said
        assert town.log("snapshot.restored")[-1]["outcome"] == "local"


async def test_a_drain_pushes_the_work_of_a_polecat_as_its_own(tmp_path):
    async with open_git_server(tmp_path / "remotes") as remote:
        remote.make("r", {"README": "Hello\n"})
        async with real_town(tmp_path / "town", {"turn_seconds": 60}, GASTOWN_DRAIN_SECONDS="20") as town:
            await start_polecat(town, remote)
            worktree = tmp_path / "town" / "rigs" / RIG / "worktrees" / "work__toast"
            (worktree / "README").write_text("Changed\n")
            (worktree / "new.txt").write_text("New\n")
            below = descendants(town.container.pid)
            town.container.stopping = True
            answer = await town.dispatch._client.post("/drain", json={"budgetSeconds": 20})
            assert answer.status_code == 202
            state = await eventually(lambda: drain_begun(town))
            assert (state.phase, state.agents[0].step) == (DrainPhase.WORKING, FarewellStep.WORKING)
            assert await town.container.wait() == 0
            assert alive(below) == []
            (receipt,) = (DrainReceipt.model_validate(line) for line in town.log("drain.receipt"))
            events = {event.event: event.body for event in await town.hall.store.events("town")}
            stored = await town.hall.store.snapshot("town", RIG, POLECAT)
            registry = await town.hall.store.registry("town")
        assert (receipt.turn, receipt.saved, receipt.pushed, receipt.lost) == (TurnEnd.INTERRUPTED, True, True, ())
        assert remote.tip("r", BRANCH) == receipt.commit
        told = remote.git("r", "log", "-1", "--format=%an <%ae> %s", BRANCH).strip()
        assert told == "Toast (gastown) <Toast@gastown.local> WIP: container eviction save"
        assert remote.read("r", BRANCH, "README") == "Changed\n"
        assert remote.read("r", BRANCH, "new.txt") == "New\n"
        assert stored.startswith(b"SQLite format 3")
        assert [entry["agentId"] for entry in registry] == [POLECAT]
        assert "container.eviction" in events
        assert events["agent.eviction_context"]["branch"] == BRANCH
        assert "agent.completed" not in events


async def test_sigterm_drains_like_a_request_and_ends_with_code_0(tmp_path):
    async with real_town(tmp_path, {"turn_seconds": 0.1}) as town:
        await town.hall.start_mayor(town.dispatch, "Hello.")
        rig_id, agent_id = await mayor_of(town)
        town.container.terminate()
        assert await town.container.wait() == 0
        (receipt,) = town.log("drain.receipt")
        assert (receipt["agent_id"], receipt["saved"], receipt["lost"]) == (agent_id, True, [])
        assert town.log("container.drained")[0]["flushed"] == {"registry": True, "reports": True, "events": True}
        assert await town.hall.store.snapshot("town", rig_id, agent_id)


async def start_polecat(town: RealTown, remote: GitServer) -> None:
    body = {
        "agentId": POLECAT,
        "rigId": RIG,
        "townId": "town",
        "role": "polecat",
        "name": "Toast",
        "identity": "Toast of town",
        "prompt": "Change the README.",
        "model": "kilo-auto/frontier",
        "gitUrl": remote.url("r"),
        "branch": BRANCH,
        "defaultBranch": "main",
        "envVars": {"KILOCODE_TOKEN": (await town.hall.town()).kilocode_token.reveal()},
    }
    answer = await town.dispatch._client.post("/agents/start", json=body, timeout=70)
    assert answer.status_code == 201, answer.text
