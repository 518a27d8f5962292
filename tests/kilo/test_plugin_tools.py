"""Every tool of the table, by the plugin that agents run, against the hall that answers it."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from gastown.contract.tools import Tool, tools
from gastown.hall.api.context import HallContext
from gastown.hall.app import create_app
from gastown.hall.domain.policy import RigPolicy
from gastown.hall.domain.town import RigRecord
from gastown.hall.hall import Hall, HallOptions, open_hall
from gastown.hall.reconcile.facts import ContainerReady
from gastown.hall.store import policies, town_state
from gastown.hall.store.transaction import Transaction
from tests.kilo.plugin import Plugin, PluginError, open_plugin

pytestmark = pytest.mark.kilo

# Contract section 5, word for word in its arguments: `?` optional, `[]` a list.
MAYOR = """
gt_sling rig_id title body? metadata? labels?[]
gt_sling_batch rig_id convoy_title tasks[] merge_mode? parallel? staged? metadata?
gt_list_rigs
gt_list_convoys
gt_list_beads rig_id status? type?
gt_list_agents rig_id
gt_convoy_status convoy_id
gt_convoy_start convoy_id
gt_convoy_close convoy_id
gt_convoy_add_bead convoy_id bead_id depends_on?[]
gt_convoy_remove_bead convoy_id bead_id
gt_convoy_update convoy_id merge_mode? feature_branch?
gt_mail_send rig_id to_agent_id subject body
gt_bead_update rig_id bead_id title? body? status? priority? labels?[] depends_on?[]
gt_bead_reassign rig_id bead_id agent_id
gt_bead_delete rig_id bead_id
gt_agent_reset rig_id agent_id
gt_escalation_acknowledge escalation_id
gt_ui_action action_json
gt_nudge rig_id target_agent_id message mode?
"""
RIG = """
gt_prime
gt_bead_status bead_id
gt_bead_close bead_id
gt_done branch pr_url? summary?
gt_request_changes feedback files?[]
gt_mail_send to_agent_id subject body
gt_mail_check
gt_escalate title body? priority? metadata?
gt_checkpoint data
gt_mol_current
gt_mol_advance summary
gt_status message
gt_triage_resolve triage_request_bead_id action resolution_notes
gt_nudge target_agent_id message mode?
"""

# What each tool is called with; `$name` is an id of the scene. The second is what its answer must hold.
CALLS: dict[tuple[str, str], tuple[dict[str, Any], str]] = {
    ("mayor", "gt_sling"): (
        {"rig_id": "r1", "title": "Mend", "body": "all", "metadata": {"a": 1}, "labels": ["x"]},
        '"title": "Mend"',
    ),
    ("mayor", "gt_sling_batch"): (
        {
            "rig_id": "r1",
            "convoy_title": "Two",
            "tasks": [{"title": "a"}, {"title": "b", "body": "c", "depends_on": [0]}],
            "merge_mode": "review-and-merge",
            "parallel": False,
            "staged": True,
            "metadata": {"a": 1},
        },
        '"merge_mode": "review-and-merge"',
    ),
    ("mayor", "gt_list_rigs"): ({}, '"git_url": "https://x.test/r.git"'),
    ("mayor", "gt_list_convoys"): ({}, "$convoy"),
    ("mayor", "gt_list_beads"): ({"rig_id": "r1", "status": "open", "type": "escalation"}, "$escalation"),
    ("mayor", "gt_list_agents"): ({"rig_id": "r1"}, "$worker"),
    ("mayor", "gt_convoy_status"): ({"convoy_id": "$convoy"}, '"staged": true'),
    ("mayor", "gt_convoy_start"): ({"convoy_id": "$convoy"}, '"staged": false'),
    ("mayor", "gt_convoy_close"): ({"convoy_id": "$convoy"}, '"status": "landed"'),
    ("mayor", "gt_convoy_add_bead"): (
        {"convoy_id": "$convoy", "bead_id": "$bead", "depends_on": ["$member"]},
        '"total_beads": 3',
    ),
    ("mayor", "gt_convoy_remove_bead"): ({"convoy_id": "$convoy", "bead_id": "$member"}, '"total_beads": 1'),
    ("mayor", "gt_convoy_update"): (
        {"convoy_id": "$convoy", "merge_mode": "review-and-merge", "feature_branch": "f"},
        '"feature_branch": "f"',
    ),
    ("mayor", "gt_mail_send"): (
        {"rig_id": "r1", "to_agent_id": "$worker", "subject": "s", "body": "b"},
        "The mail is sent.",
    ),
    ("mayor", "gt_bead_update"): (
        {
            "rig_id": "r1",
            "bead_id": "$bead",
            "title": "t",
            "body": "b",
            "status": "open",
            "priority": "high",
            "labels": ["l"],
            "depends_on": ["$member"],
        },
        '"priority": "high"',
    ),
    ("mayor", "gt_bead_reassign"): (
        {"rig_id": "r1", "bead_id": "$bead", "agent_id": "$idle"},
        '"assignee_agent_id": "$idle"',
    ),
    ("mayor", "gt_bead_delete"): ({"rig_id": "r1", "bead_id": "$bead"}, "Deleted."),
    ("mayor", "gt_agent_reset"): ({"rig_id": "r1", "agent_id": "$worker"}, '"id": "$worker"'),
    ("mayor", "gt_escalation_acknowledge"): ({"escalation_id": "$escalation"}, '"status": "in_progress"'),
    ("mayor", "gt_ui_action"): ({"action_json": '{"type":"navigate","page":"beads"}'}, "The dashboard is told."),
    ("mayor", "gt_nudge"): (
        {"rig_id": "r1", "target_agent_id": "$worker", "message": "m", "mode": "queue"},
        "nudge-",
    ),
    ("rig", "gt_prime"): ({}, "$bead"),
    ("rig", "gt_bead_status"): ({"bead_id": "$bead"}, '"title": "Paint"'),
    ("rig", "gt_bead_close"): ({"bead_id": "$bead"}, '"status": "closed"'),
    ("rig", "gt_done"): ({"branch": "b", "pr_url": "https://x.test/1", "summary": "s"}, '"review_bead_id"'),
    ("rig", "gt_request_changes"): ({"feedback": "f", "files": ["a.py"]}, '"rework_bead_id"'),
    ("rig", "gt_mail_send"): ({"to_agent_id": "$idle", "subject": "s", "body": "b"}, "The mail is sent."),
    ("rig", "gt_mail_check"): ({}, '"subject": "Hello"'),
    ("rig", "gt_escalate"): (
        {"title": "t", "body": "b", "priority": "critical", "metadata": {"a": 1}},
        '"priority": "critical"',
    ),
    ("rig", "gt_checkpoint"): ({"data": '{"at": 3}'}, "Kept."),
    ("rig", "gt_mol_current"): ({}, '"currentStep": 0'),
    ("rig", "gt_mol_advance"): ({"summary": "s"}, '"currentStep": 1'),
    ("rig", "gt_status"): ({"message": "painting"}, "Shown."),
    ("rig", "gt_triage_resolve"): (
        {"triage_request_bead_id": "$escalation", "action": "CLOSE_BEAD", "resolution_notes": "n"},
        '"action": "CLOSE_BEAD"',
    ),
    ("rig", "gt_nudge"): ({"target_agent_id": "$idle", "message": "m"}, "nudge-"),
}


@dataclass
class Scene:
    """A hall with a rig `r1`; `ids` are of what there is in it, `environment` what an agent is given."""

    hall: Hall
    token: str
    ids: dict[str, str] = field(default_factory=dict)

    def environment(self, role: str, agent_id: str) -> dict[str, str]:
        return {
            "GASTOWN_AGENT_ROLE": role,
            "GASTOWN_AGENT_ID": agent_id,
            "GASTOWN_RIG_ID": "r1",
            "GASTOWN_TOWN_ID": "oak",
            "GASTOWN_API_URL": self.hall.url,
            "GASTOWN_CONTAINER_TOKEN": self.token,
        }

    def filled(self, value: Any) -> Any:
        """`value` with the names of the scene replaced by their ids, at any depth."""
        return json.loads(re.sub(r"\$(\w+)", lambda found: self.ids[found[1]], json.dumps(value)))

    async def prepare(self, mayor: Plugin) -> None:
        """A worker with a bead in steps and mail, an idle agent, a staged convoy, an escalation."""
        steps = {"steps": [{"title": "one", "instructions": "first"}, {"title": "two"}]}
        slung = answered(await mayor.call("gt_sling", rig_id="r1", title="Paint", metadata=steps))
        async with open_plugin(**self.environment("polecat", "idler")) as idler:
            await idler.call("gt_status", message="I was started by hand")
        tasks = [{"title": "a"}, {"title": "b"}]
        batch = {"rig_id": "r1", "convoy_title": "Both", "tasks": tasks, "parallel": True, "staged": True}
        convoy = answered(await mayor.call("gt_sling_batch", **batch))
        self.ids = {
            "bead": slung["bead"]["bead_id"],
            "worker": slung["agent"]["id"],
            "idle": "idler",
            "convoy": convoy["convoy"]["id"],
            "member": convoy["beads"][0]["bead"]["bead_id"],
        }
        mail = {"rig_id": "r1", "to_agent_id": self.ids["worker"], "subject": "Hello", "body": "there"}
        await mayor.call("gt_mail_send", **mail)
        async with open_plugin(**self.environment("polecat", self.ids["worker"])) as worker:
            self.ids["escalation"] = answered(await worker.call("gt_escalate", title="Help"))["bead_id"]


def answered(text: str) -> Any:
    """The data in a tool's text."""
    return json.loads(text[text.index("{") :])


@asynccontextmanager
async def open_scene(folder: Path) -> AsyncIterator[Scene]:
    async with open_hall(HallOptions(data_dir=folder, town_id="oak")) as hall:
        rig = RigRecord(rig_id="r1", git_url="https://x.test/r.git", default_branch="main")
        await hall.store.save_rig("oak", rig)
        yield Scene(hall, (await hall.container_token()).reveal())


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    async with open_scene(tmp_path) as scene:
        yield scene


def arguments(tool: Tool) -> str:
    marks = (
        f"{name}{'?' if spec.get('optional') else ''}{'[]' if spec.get('type') == 'array' else ''}"
        for name, spec in tool.args.items()
    )
    return " ".join([tool.name, *marks])


def test_the_table_is_the_contracts_list() -> None:
    assert [arguments(tool) for tool in tools() if tool.role == "mayor"] == MAYOR.split("\n")[1:-1]
    assert [arguments(tool) for tool in tools() if tool.role == "rig"] == RIG.split("\n")[1:-1]


async def test_the_hall_has_a_route_for_every_call_of_the_table_and_no_other(scene: Scene) -> None:
    def bare(path: str) -> str:
        return re.sub(r"<[^>]+>|\{[^}]+\}", "*", path)

    app = create_app(HallContext(store=scene.hall.store, now=scene.hall.now))
    routes = {
        (method, bare(str(rule)))
        for rule in app.url_map.iter_rules()
        if rule.endpoint.partition(".")[0] in ("mayor_tools", "rig_tools")
        for method in rule.methods or ()
        if method not in ("HEAD", "OPTIONS")
    }
    of_the_older_client = {("POST", "/api/mayor/*/tools/rigs/*/beads/delete-by-status")}
    assert {
        (call.method, bare(call.path)) for tool in tools() for call in tool.calls
    } == routes - of_the_older_client


def begin_review(board: Transaction) -> None:
    """Let a refinery begin to read what is handed in."""
    policies.change_rig_policy(board, "r1", RigPolicy(review="refinery"))
    town_state.take_rules(board)
    town_state.take(board, ContainerReady())


@pytest.mark.parametrize("tool", tools(), ids=lambda tool: f"{tool.role}-{tool.name}")
async def test_a_tool_does_its_work_at_the_hall(scene: Scene, tool: Tool) -> None:
    """With every argument that it has: one that went to another place or name would be refused or be missing."""
    args, expected = CALLS[tool.role, tool.name]
    async with open_plugin(**scene.environment("mayor", "mayor-1")) as mayor:
        await scene.prepare(mayor)
        if tool.role == "mayor":
            text = await mayor.call(tool.name, **scene.filled(args))
        else:
            agent = scene.ids["worker"]
            if tool.name == "gt_request_changes":
                async with open_plugin(**scene.environment("polecat", agent)) as worker:
                    await worker.call("gt_done", branch="b")
                await scene.hall.store.transaction(scene.hall.town_id, begin_review)
                agents = await mayor.call("gt_list_agents", rig_id="r1")
                agent = next(a["id"] for a in json.loads(agents) if a["role"] == "refinery")
            async with open_plugin(**scene.environment("polecat", agent)) as worker:
                text = await worker.call(tool.name, **scene.filled(args))
    optional = {name for name, spec in tool.args.items() if spec.get("optional")}
    assert args.keys() >= tool.args.keys() - optional - {"mode"}
    assert scene.filled(expected) in text


async def test_many_beads_are_deleted_in_one_call(scene: Scene) -> None:
    async with open_plugin(**scene.environment("mayor", "mayor-1")) as mayor:
        await scene.prepare(mayor)
        text = await mayor.call(
            "gt_bead_delete", **scene.filled({"rig_id": "r1", "bead_id": ["$bead", "$member"]})
        )
    assert '"deleted": 2' in text


async def test_a_bead_without_steps_is_no_error_for_the_agent(scene: Scene) -> None:
    async with open_plugin(**scene.environment("polecat", "by-hand")) as worker:
        assert await worker.call("gt_mol_current") == "Your bead has no steps."


async def test_a_refusal_of_the_hall_is_a_sentence_for_the_model(scene: Scene) -> None:
    async with open_plugin(**scene.environment("mayor", "mayor-1")) as mayor:
        with pytest.raises(PluginError, match=r"^There is no rig r9$"):
            await mayor.call("gt_sling", rig_id="r9", title="t")
