"""What the tools do to the hall's board, and what it refuses."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from gastown.hall.domain.policy import RigPolicy
from gastown.hall.domain.town import RigRecord
from gastown.hall.hall import Hall, HallOptions, open_hall
from gastown.hall.reconcile import facts
from gastown.hall.reconcile.actions import Merge
from gastown.hall.reconcile.state import Leaving
from gastown.hall.reconcile.step import outstanding
from gastown.hall.store import beads, policies, town_state
from gastown.hall.store.transaction import Transaction

M, R = "/api/mayor/oak/tools", "/api/towns/oak/rigs/r1"


@dataclass
class Board:
    hall: Hall
    client: httpx2.AsyncClient

    async def ask(self, method: str, path: str, body: Any = None, *, agent: str | None = None) -> Any:
        """The answer's data; raises the refusal as `Said`."""
        headers = {"X-Gastown-Agent-Id": agent} if agent else {}
        reply = await self.client.request(method, path, json=body, headers=headers)
        said = reply.json()
        if not said["success"]:
            raise Said(reply.status_code, said["error"])
        return said.get("data")

    async def sling(self, title: str = "Mend", **more: Any) -> tuple[str, str]:
        """A bead, and the agent that has it."""
        made = await self.ask("POST", f"{M}/sling", {"rig_id": "r1", "title": title, **more})
        return made["bead"]["bead_id"], made["agent"]["id"]

    async def convoy(self, *tasks: dict[str, Any], **more: Any) -> tuple[str, list[str]]:
        body = {"rig_id": "r1", "convoy_title": "All", "tasks": list(tasks), **more}
        made = await self.ask("POST", f"{M}/sling-batch", body)
        return made["convoy"]["id"], [one["bead"]["bead_id"] for one in made["beads"]]

    async def take(self, *given: facts.Fact) -> None:
        """Tell the town what has happened outside."""
        await self.hall.store.transaction("oak", lambda board: town_state.take(board, *given))

    async def outstanding(self, kind: type[Any]) -> list[Any]:
        return [one for one in outstanding(await self.hall.store.state("oak")) if isinstance(one, kind)]

    async def review_by_refinery(self) -> None:
        """Let the rig's work be read by a refinery, and merged without asking."""

        def change(board: Transaction) -> None:
            policies.change_rig_policy(board, "r1", RigPolicy(review="refinery", merge="auto"))
            town_state.take_rules(board)

        await self.hall.store.transaction("oak", change)

    async def bead(self, bead_id: str) -> Any:
        return await self.ask("GET", f"{R}/beads/{bead_id}")

    async def agents(self) -> dict[str, Any]:
        return {one["id"]: one for one in await self.ask("GET", f"{M}/rigs/r1/agents")}


class Said(Exception):
    """A refusal: status and sentence."""

    def __init__(self, status: int, error: str) -> None:
        super().__init__(f"{status} {error}")
        self.status = status


@pytest.fixture
async def board(tmp_path: Path) -> AsyncIterator[Board]:
    async with open_hall(HallOptions(data_dir=tmp_path, town_id="oak")) as hall:
        for rig_id in ("r1", "r2"):
            await hall.store.save_rig(
                "oak", RigRecord(rig_id=rig_id, git_url="https://x.test/r", default_branch="m")
            )
        token = {"Authorization": f"Bearer {(await hall.container_token()).reveal()}"}
        async with httpx2.AsyncClient(base_url=hall.url, headers=token, trust_env=False) as client:
            yield Board(hall, client)


async def test_the_tools_need_the_token_of_the_town(board: Board) -> None:
    for path in (f"{M}/rigs", f"{R}/agents/a/prime"):
        assert (await board.client.get(path, headers={"Authorization": "Bearer no"})).status_code == 401
        assert (await board.client.get(path.replace("oak", "elm"))).status_code == 403


async def test_every_task_has_an_author_of_its_own(board: Board) -> None:
    """It keeps its branch and its conversation until its work has landed."""
    first, second = await board.sling(), await board.sling()
    assert first[1] != second[1]
    known = await board.agents()
    assert [known[agent]["name"] for _, agent in (first, second)] == ["Ash", "Birch"]


async def test_what_is_done_is_still_there_in_the_next_hall(tmp_path: Path) -> None:
    async def opened(step: Any) -> Any:
        async with open_hall(HallOptions(data_dir=tmp_path, town_id="oak")) as hall:
            await hall.store.save_rig(
                "oak", RigRecord(rig_id="r1", git_url="https://x.test/r", default_branch="m")
            )
            token = {"Authorization": f"Bearer {(await hall.container_token()).reveal()}"}
            async with httpx2.AsyncClient(base_url=hall.url, headers=token, trust_env=False) as client:
                return await step(Board(hall, client))

    bead_id, agent = await opened(lambda board: board.sling("Mend", metadata={"a": [1]}, labels=["x"]))
    found = await opened(lambda board: board.bead(bead_id))
    assert (found["title"], found["metadata"], found["labels"], found["assignee_agent_id"]) == (
        "Mend", {"a": [1]}, ["x"], agent,
    )  # fmt: skip


async def reviewed(board: Board) -> tuple[str, str, str]:
    """A bead, its review, and the refinery that has begun to read it."""
    await board.review_by_refinery()
    bead_id, worker = await board.sling()
    review = (await board.ask("POST", f"{R}/agents/{worker}/done", {"branch": "b"}))["review_bead_id"]
    await board.take(facts.ContainerReady())
    return bead_id, review, (await board.bead(review))["assignee_agent_id"]


async def test_work_goes_to_review_and_back_to_its_author_and_is_merged(board: Board) -> None:
    convoy, (bead_id,) = await board.convoy({"title": "Mend"})
    await board.review_by_refinery()
    worker = (await board.bead(bead_id))["assignee_agent_id"]
    handed = await board.ask("POST", f"{R}/agents/{worker}/done", {"branch": "b"}, agent=worker)
    review = handed["review_bead_id"]
    assert ((await board.bead(bead_id))["status"], (await board.bead(review))["type"]) == (
        "in_review", "merge_request",
    )  # fmt: skip
    await board.take(facts.ContainerReady())
    refinery = (await board.bead(review))["assignee_agent_id"]
    assert (await board.agents())[refinery]["role"] == "refinery"

    asked = await board.ask(
        "POST", f"{R}/agents/{refinery}/request-changes", {"feedback": "again", "files": ["a"]}
    )
    assert asked["rework_bead_id"] == bead_id
    assert [(await board.bead(one))["status"] for one in (bead_id, review)] == ["in_progress", "closed"]
    known = await board.agents()
    assert (known[refinery]["status"], known[worker]["current_hook_bead_id"]) == ("idle", bead_id)

    again = (await board.ask("POST", f"{R}/agents/{worker}/done", {"branch": "b"}))["review_bead_id"]
    assert again != review
    assert (await board.agents())[refinery]["current_hook_bead_id"] == again
    await board.ask("POST", f"{R}/agents/{refinery}/done", {"branch": "b"})
    (merge,) = await board.outstanding(Merge)
    assert merge.branch == f"gt/ash/{bead_id}"
    await board.take(facts.Merged(merge_id=merge.merge_id, commit="c" * 40))
    assert [(await board.bead(one))["status"] for one in (bead_id, again)] == ["closed"] * 2
    assert (await board.ask("GET", f"{M}/convoys/{convoy}"))["status"] == "landed"
    assert await board.ask("GET", f"{M}/convoys") == []


async def test_work_that_is_handed_in_twice_has_one_review(board: Board) -> None:
    _, worker = await board.sling()
    once = await board.ask("POST", f"{R}/agents/{worker}/done", {"branch": "b"})
    assert await board.ask("POST", f"{R}/agents/{worker}/done", {"branch": "b"}) == once


@pytest.mark.parametrize(("method", "body"), [("DELETE", None), ("PATCH", {"status": "closed"})])
async def test_a_review_goes_with_its_work_and_not_before(board: Board, method: str, body: Any) -> None:
    bead_id, review, _ = await reviewed(board)
    with pytest.raises(Said, match=f"409 Bead {review} is the review of {bead_id}"):
        await board.ask(method, f"{M}/rigs/r1/beads/{review}", body)


async def test_work_that_was_begun_is_closed_by_no_agent(board: Board) -> None:
    """What is on its branch would be lost: gt_done takes it, also when there is nothing to merge."""
    bead_id, worker = await board.sling()
    await board.take(facts.ContainerReady())
    with pytest.raises(Said, match=r"409 .*hand it in with gt_done"):
        await board.ask("POST", f"{R}/beads/{bead_id}/close", {}, agent=worker)
    with pytest.raises(Said, match=r"409 .*hand it in with gt_done"):
        await board.ask("PATCH", f"{M}/rigs/r1/beads/{bead_id}", {"status": "closed"})


async def test_what_is_being_merged_is_not_deleted_or_failed(board: Board) -> None:
    bead_id, _, refinery = await reviewed(board)
    await board.ask("POST", f"{R}/agents/{refinery}/done", {"branch": "b"})
    with pytest.raises(Said, match=r"409 .*is being merged"):
        await board.ask("DELETE", f"{M}/rigs/r1/beads/{bead_id}")
    with pytest.raises(Said, match=r"409 .*is being merged"):
        await board.ask("PATCH", f"{M}/rigs/r1/beads/{bead_id}", {"status": "failed"})


async def test_beads_of_a_state_are_deleted_together(board: Board) -> None:
    """The call of the discontinued system's client, by its shapes."""
    gone, _ = await board.sling()
    kept, _ = await board.sling()
    await board.ask("PATCH", f"{M}/rigs/r1/beads/{gone}", {"status": "failed"})
    body = {"status": "failed", "type": "issue"}
    assert await board.ask("POST", f"{M}/rigs/r1/beads/delete-by-status", body) == {"deleted": 1}
    assert [one["bead_id"] for one in await board.ask("GET", f"{M}/rigs/r1/beads")] == [kept]


@pytest.mark.parametrize("named", ["bead-9", 7, ["x"], "$review"])
async def test_who_makes_a_bead_cannot_call_it_the_rework_of_a_review(board: Board, named: Any) -> None:
    _, review, _ = await reviewed(board)
    named = review if named == "$review" else named
    bead_id, worker = await board.sling(metadata={"review_bead_id": named})
    handed = await board.ask("POST", f"{R}/agents/{worker}/done", {"branch": "b"})
    assert handed["review_bead_id"] not in (named, review)
    assert (await board.bead(bead_id))["status"] == "in_review"


async def test_a_staged_convoy_waits_and_starts_once(board: Board) -> None:
    tasks = [{"title": "a"}, {"title": "b", "depends_on": [0]}]
    convoy, (first, second) = await board.convoy(*tasks, staged=True)
    assert (await board.bead(first))["assignee_agent_id"] is None
    assert (await board.bead(second))["depends_on"] == [first]
    started = await board.ask("POST", f"{M}/convoys/{convoy}/start")
    assert [one["bead"]["bead_id"] for one in started["beads"]] == [first, second]
    with pytest.raises(Said, match="409"):
        await board.ask("POST", f"{M}/convoys/{convoy}/start")


@pytest.mark.parametrize("way", ["deleted", "deleted with others", "removed"])
async def test_a_convoy_lands_when_its_last_unfinished_bead_is_taken_out(board: Board, way: str) -> None:
    convoy, (done, left) = await board.convoy({"title": "a"}, {"title": "b"}, parallel=True)
    await board.ask("POST", f"{R}/beads/{done}/close", {})
    assert (await board.ask("GET", f"{M}/convoys/{convoy}"))["status"] == "active"
    match way:
        case "deleted":
            await board.ask("DELETE", f"{M}/rigs/r1/beads/{left}")
        case "removed":
            await board.ask("POST", f"{M}/convoys/{convoy}/remove-bead", {"bead_id": left})
        case _:
            await board.ask("POST", f"{M}/rigs/r1/beads/bulk-delete", {"bead_ids": [left]})
    assert (await board.ask("GET", f"{M}/convoys/{convoy}"))["status"] == "landed"


async def test_a_convoy_without_beads_has_not_landed(board: Board) -> None:
    convoy, (only, other) = await board.convoy({"title": "a"}, {"title": "b"}, parallel=True)
    await board.ask("POST", f"{M}/convoys/{convoy}/remove-bead", {"bead_id": other})
    await board.ask("DELETE", f"{M}/rigs/r1/beads/{only}")
    assert [one["id"] for one in await board.ask("GET", f"{M}/convoys")] == [convoy]


async def test_a_convoy_that_was_closed_with_a_failure_in_it_stays_closed_until_a_bead_is_opened(
    board: Board,
) -> None:
    convoy, (failed, other) = await board.convoy({"title": "a"}, {"title": "b"}, parallel=True)
    await board.ask("PATCH", f"{M}/rigs/r1/beads/{failed}", {"status": "failed"})
    assert (await board.ask("POST", f"{M}/convoys/{convoy}/close"))["status"] == "landed"
    await board.ask("DELETE", f"{M}/rigs/r1/beads/{other}")
    assert (await board.ask("GET", f"{M}/convoys/{convoy}"))["status"] == "landed"
    await board.ask("PATCH", f"{M}/rigs/r1/beads/{failed}", {"status": "open"})
    assert (await board.ask("GET", f"{M}/convoys/{convoy}"))["status"] == "active"


async def test_mail_is_read_once_and_prime_does_not_read_it(board: Board) -> None:
    _, agent = await board.sling()
    letter = {"rig_id": "r1", "to_agent_id": agent, "subject": "s", "body": "b", "from_agent_id": "mayor-1"}
    await board.ask("POST", f"{M}/mail", letter, agent="mayor-1")
    primed = await board.ask("GET", f"{R}/agents/{agent}/prime")
    assert [one["from_agent_id"] for one in primed["undelivered_mail"]] == ["mayor-1"]
    assert [one["subject"] for one in await board.ask("GET", f"{R}/agents/{agent}/mail")] == ["s"]
    assert await board.ask("GET", f"{R}/agents/{agent}/mail") == []


async def test_nudges_wait_in_the_order_of_their_urgency_until_they_are_delivered(board: Board) -> None:
    _, agent = await board.sling()
    for mode in ("queue", "wait-idle", "immediate"):
        body = {"target_agent_id": agent, "message": mode, "mode": mode}
        await board.ask("POST", f"{R}/nudge", body, agent="mayor-1")
    waiting = await board.ask("GET", f"{R}/agents/{agent}/pending-nudges")
    assert [one["message"] for one in waiting] == ["immediate", "wait-idle", "queue"]
    assert {one["source"] for one in waiting} == {"mayor-1"}
    await board.ask("POST", f"{R}/agents/{agent}/nudge-delivered", {"nudge_id": waiting[0]["nudge_id"]})
    assert len(await board.ask("GET", f"{R}/agents/{agent}/pending-nudges")) == 2


async def test_the_steps_of_a_bead_are_gone_through_to_the_end(board: Board) -> None:
    steps = [{"title": "one", "instructions": "first"}, {"title": "two"}]
    bead_id, agent = await board.sling(metadata={"steps": steps, "step_summaries": 7})
    here = f"{R}/agents/{agent}/molecule"
    assert (await board.ask("GET", f"{here}/current"))["step"] == steps[0]
    assert (await board.ask("POST", f"{here}/advance", {"summary": "s"}))["completed"] is False
    assert (await board.ask("POST", f"{here}/advance", {"summary": "t"}))["completed"] is True
    assert (await board.bead(bead_id))["metadata"]["step_summaries"] == ["s", "t"]
    with pytest.raises(Said, match="404"):
        await board.ask("GET", f"{here}/current")


async def test_a_reset_ends_what_the_agent_does_and_its_bead_begins_again(board: Board) -> None:
    bead_id, agent = await board.sling()
    await board.take(facts.ContainerReady())
    assert (await board.bead(bead_id))["status"] == "in_progress"
    await board.ask("POST", f"{M}/rigs/r1/agents/{agent}/reset")
    found = await board.bead(bead_id)
    assert (found["status"], found["assignee_agent_id"]) == ("open", agent)
    assert [one.agent_id for one in await board.outstanding(Leaving)] == [agent]


async def test_an_escalation_waits_for_the_mayor(board: Board) -> None:
    _, agent = await board.sling()
    made = await board.ask("POST", f"{R}/escalations", {"title": "Help"}, agent=agent)
    assert (made["priority"], made["created_by"]) == ("medium", agent)
    seen = await board.ask("POST", f"{M}/escalations/{made['bead_id']}/acknowledge")
    assert seen["status"] == "in_progress"


async def test_a_deleted_bead_is_gone_from_everywhere(board: Board) -> None:
    bead_id, agent = await board.sling()
    await board.ask("DELETE", f"{M}/rigs/r1/beads/{bead_id}")
    assert (await board.agents())[agent]["current_hook_bead_id"] is None
    with pytest.raises(Said, match="404"):
        await board.bead(bead_id)


async def test_a_rig_cannot_delete_the_beads_of_another_one_or_free_its_agents(board: Board) -> None:
    bead_id, agent = await board.sling()
    gone = await board.ask("POST", f"{M}/rigs/r2/beads/bulk-delete", {"bead_ids": [bead_id]})
    assert gone == {"deleted": 0}
    assert (await board.agents())[agent]["current_hook_bead_id"] == bead_id


async def test_what_is_deep_but_not_too_deep_comes_back(board: Board) -> None:
    deep: Any = 1.5
    for _ in range(198):
        deep = [deep]
    bead_id, _ = await board.sling(metadata={"deep": deep})
    assert (await board.bead(bead_id))["metadata"] == {"deep": deep}


REFUSED = [
    ("POST", f"{M}/sling", {}, 400, "rig_id"),
    ("POST", f"{M}/sling", {"rig_id": "r1", "title": ""}, 400, "title"),
    ("POST", f"{M}/sling", {"rig_id": "r1", "title": "a\nb"}, 400, "title"),
    ("POST", f"{M}/sling", {"rig_id": "r9", "title": "t"}, 404, "There is no rig r9"),
    ("POST", f"{M}/sling", {"rig_id": "../r", "title": "t"}, 400, "rig_id"),
    ("POST", f"{M}/sling", [], 400, ""),
    ("POST", f"{M}/sling-batch", {"rig_id": "r1", "convoy_title": "c", "tasks": []}, 400, "tasks"),
    (
        "POST", f"{M}/sling-batch",
        {"rig_id": "r1", "convoy_title": "c", "tasks": [{"title": "a"}, {"title": "b"}]},
        400, "parallel: true",
    ),
    (
        "POST", f"{M}/sling-batch",
        {"rig_id": "r1", "convoy_title": "c", "tasks": [{"title": "a", "depends_on": [1]}]},
        400, "depends_on",
    ),
    (
        "POST", f"{M}/sling-batch",
        {
            "rig_id": "r1", "convoy_title": "c",
            "tasks": [{"title": "a", "depends_on": [1]}, {"title": "b", "depends_on": [0]}],
        },
        400, "wait for itself",
    ),
    ("GET", f"{M}/rigs/r9/beads", None, 404, "There is no rig r9"),
    ("GET", f"{M}/rigs/r1/beads?status=new", None, 400, "status must be one of"),
    ("GET", f"{M}/convoys/convoy-9", None, 404, "There is no convoy"),
    ("PATCH", f"{M}/rigs/r1/beads/bead-9", {"status": "closed"}, 404, "There is no bead bead-9 in rig r1"),
    ("PATCH", f"{M}/rigs/r1/beads/$bead", {"status": "new"}, 400, "status"),
    ("PATCH", f"{M}/rigs/r1/beads/$bead", {"depends_on": ["bead-9"]}, 404, "There is no bead bead-9"),
    ("PATCH", f"{M}/rigs/r1/beads/$bead", {"depends_on": ["$bead"]}, 400, "wait for itself"),
    ("PATCH", f"{M}/rigs/r2/beads/$bead", {"title": "t"}, 404, "in rig r2"),
    ("POST", f"{M}/rigs/r1/beads/$bead/reassign", {"agent_id": "nobody"}, 404, "There is no agent nobody"),
    ("POST", f"{M}/escalations/$bead/acknowledge", None, 404, "There is no escalation"),
    ("POST", f"{M}/ui-action", {"action": {"type": "format_disk"}}, 400, "action"),
    ("POST", f"{M}/ui-action", {"action": {"type": "navigate", "page": "x"}}, 400, "page"),
    ("POST", f"{R}/mail", {"to_agent_id": "nobody", "subject": "s", "body": "b"}, 404, "There is no agent nobody"),
    ("POST", f"{R}/nudge", {"target_agent_id": "$agent", "message": "m", "mode": "loud"}, 400, "mode"),
    ("POST", f"{R}/agents/idler/done", {"branch": "b"}, 409, "works on no bead"),
    ("POST", f"{R}/agents/$agent/request-changes", {"feedback": "f"}, 409, "reviews nothing"),
    ("POST", "/api/towns/oak/rigs/r2/agents/$agent/status", {"message": "m"}, 404, "in rig r2"),
    ("POST", f"{R}/agents/$agent/molecule/advance", {"summary": "s"}, 404, "has no steps"),
]  # fmt: skip


async def test_what_cannot_be_done_is_a_4xx_with_a_sentence_and_changes_nothing(board: Board) -> None:
    bead_id, agent = await board.sling()
    before = await board.ask("GET", f"{M}/rigs/r1/beads")
    for method, path, body, status, sentence in REFUSED:

        def filled(value: Any) -> Any:
            if isinstance(value, str):
                return value.replace("$bead", bead_id).replace("$agent", agent)
            if isinstance(value, dict):
                return {key: filled(inner) for key, inner in value.items()}
            return [filled(inner) for inner in value] if isinstance(value, list) else value

        with pytest.raises(Said) as refused:
            await board.ask(method, filled(path), filled(body))
        assert (refused.value.status, sentence in str(refused.value)) == (status, True), str(refused.value)
    assert await board.ask("GET", f"{M}/rigs/r1/beads") == before
    assert await board.ask("GET", f"{M}/convoys") == []


async def test_an_agent_may_not_speak_for_another_one(board: Board) -> None:
    bead_id, agent = await board.sling()
    _, other = await board.sling()
    for method, path, body in (
        ("GET", f"{R}/agents/{agent}/prime", None),
        ("POST", f"{R}/agents/{agent}/done", {"branch": "b"}),
        ("POST", f"{R}/beads/{bead_id}/close", {"agent_id": agent}),
        ("POST", f"{R}/mail", {"from_agent_id": agent, "to_agent_id": agent, "subject": "s", "body": "b"}),
    ):
        with pytest.raises(Said, match="403"):
            await board.ask(method, path, body, agent=other)


async def test_an_agent_that_was_started_by_hand_is_known_from_its_first_call(board: Board) -> None:
    assert await board.ask("GET", f"{R}/agents/reader/mail", agent="reader") == []
    assert "reader" in await board.agents()
    await board.ask("POST", f"{R}/agents/by-hand/status", {"message": "here"}, agent="by-hand")
    known = (await board.agents())["by-hand"]
    assert (known["status_message"], known["status"], known["role"]) == ("here", "idle", "unknown")


async def test_an_agent_that_was_started_by_hand_gets_work_by_name_only(board: Board) -> None:
    await board.ask("GET", f"{R}/agents/by-hand/prime", agent="by-hand")
    bead_id, taker = await board.sling()
    assert taker != "by-hand"
    await board.ask("POST", f"{M}/rigs/r1/beads/{bead_id}/reassign", {"agent_id": "by-hand"})
    assert (await board.agents())["by-hand"]["current_hook_bead_id"] == bead_id


async def test_work_of_an_older_gastown_is_taken_over_once(tmp_path: Path) -> None:
    """Its file knows the bead, and the reconciler does not: each opening finds the same author."""
    rig = RigRecord(rig_id="r1", git_url="https://x.test/r", default_branch="m")
    authors = []
    for number in range(3):
        async with open_hall(HallOptions(data_dir=tmp_path, town_id="oak", rigs=[rig])) as hall:
            if number == 0:
                await hall.store.transaction("oak", lambda board: beads.make_bead(board, "r1", "issue", "Mend"))
            else:
                (work,) = (await hall.store.state("oak")).work.values()
                authors.append((work.author, work.branch))
    assert authors[0] == authors[1]
