"""What agents are told about themselves: each tool that is named there, they have."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from unittest.mock import Mock

import pytest

from gastown.contract.agents import Role
from gastown.contract.tools import Tool, tools
from gastown.hall.api.context import HallContext
from gastown.hall.app import create_app
from gastown.hall.prompts import ROLES, prompt_of

HALL = Path(__file__).parents[2] / "src" / "gastown" / "hall"
NAME = re.compile(r"\bgt_[a-z_]*[a-z]\b")


def tools_of(role: str) -> set[str]:
    """The names of the tools that the plugin gives to an agent of that role."""
    kind = "mayor" if role == "mayor" else "rig"
    return {tool.name for tool in tools() if tool.role == kind}


def test_every_role_has_a_prompt_and_every_prompt_a_role() -> None:
    assert set(ROLES) == {*Role} == {path.stem for path in (HALL / "prompts").glob("*.md")}


@pytest.mark.parametrize("role", ROLES)
def test_a_prompt_names_only_tools_that_its_role_has(role: str) -> None:
    named = set(NAME.findall(prompt_of(role)))
    assert named - tools_of(role) == set()
    assert named != set()


@pytest.mark.parametrize(
    ("role", "needed"),
    [
        ("mayor", {"gt_sling", "gt_sling_batch"}),
        ("polecat", {"gt_done", "gt_escalate"}),
        ("refinery", {"gt_done", "gt_request_changes"}),
        ("triage", {"gt_triage_resolve", "gt_escalate"}),
    ],
)
def test_a_prompt_names_the_tools_without_which_its_role_comes_to_no_end(role: str, needed: set[str]) -> None:
    assert needed - set(NAME.findall(prompt_of(role))) == set()


@pytest.mark.parametrize("path", sorted(HALL.rglob("*.py")), ids=lambda path: str(path.relative_to(HALL)))
def test_what_the_hall_tells_agents_names_only_tools_that_there_are(path: Path) -> None:
    """In its answers, its nudges and the first message of a task, too."""
    known = {tool.name for tool in tools()}
    assert set(NAME.findall(path.read_text("utf-8"))) - known == set()


@pytest.mark.parametrize("tool", tools(), ids=lambda tool: f"{tool.role}-{tool.name}")
def test_the_hall_has_the_routes_of_every_tool(tool: Tool) -> None:
    app = create_app(HallContext(store=Mock(), now=lambda: datetime.now(UTC)))
    served = app.url_map.bind("hall.test")
    for call in tool.calls:
        assert served.test(re.sub(r"\{\$?\w+\}", "x", call.path), call.method)
