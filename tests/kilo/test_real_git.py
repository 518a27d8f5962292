"""A polecat on real parts: its clone, its worktree, and a push from inside of its real kilo server."""

from __future__ import annotations

import httpx2
import pytest

from gastown.contract.agents import StartAgentRequest
from gastown.contract.town import GitAuth, TownConfig
from gastown.hall.domain.town import town_config
from tests.git.server import open_git_server
from tests.kilo.town import RealTown, eventually, real_town

pytestmark = pytest.mark.kilo


async def polecat(town: RealTown, url: str, number: int = 1, **variables: str) -> StartAgentRequest:
    config = town_config(await town.hall.town(), town.hall.url)
    return StartAgentRequest(
        agent_id=f"polecat-{number}",
        rig_id="rig",
        town_id=town.hall.town_id,
        role="polecat",
        name="Nux",
        identity="Nux of rig",
        prompt="Do it.",
        model="anthropic/claude-sonnet-4.6",
        git_url=url,
        branch=f"work/{number}",
        default_branch="main",
        env_vars={"KILOCODE_TOKEN": config.kilocode_token or "", **variables},
    )


async def shell(login: tuple[str, bytes], port: int, session: str, command: str) -> str:
    """Run a command as the bash of the agent's session; what it printed."""
    async with httpx2.AsyncClient(
        base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False, auth=login
    ) as kilo:
        answer = await kilo.post(f"/session/{session}/shell", json={"agent": "code", "command": command})
        answer.raise_for_status()
        return str(answer.json())


async def is_idle(town: RealTown, agent_id: str) -> bool:
    status = await town.dispatch.status(agent_id)
    return status is not None and status.condition is not None and status.condition.type == "idle"


async def test_a_polecat_starts_in_its_worktree_and_pushes_from_there(tmp_path):
    async with open_git_server(tmp_path / "served") as server:
        server.make("r", {"a.txt": "one\n", "b/c.txt": "two\n"})
        server.tokens = {"token-of-the-rig"}
        async with real_town(tmp_path / "town", {"turn_seconds": 0.1}) as town:
            request = await polecat(town, server.url("r"), GIT_TOKEN="token-of-the-rig")
            agent = await town.dispatch.start(request, TownConfig(git_auth=GitAuth()))
            assert agent.server_port is not None
            await eventually(lambda: is_idle(town, agent.agent_id))
            command = "git commit --allow-empty -m work && git push origin HEAD 2>&1; pwd; ls"
            said = await shell(town.login_of(agent.agent_id), agent.server_port, str(agent.session_id), command)
            assert "new branch" in said
            assert str(agent.workdir) in said
            assert "a.txt" in said
            author = server.git("r", "log", "-1", "--format=%s by %an", "work/1").strip()
            assert author == "work by Nux (gastown)"
            assert "token-of-the-rig" not in (tmp_path / "town" / "serve.log").read_text()
